//! Small files, a small model directory, and folders to write in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quire_engine::weights::safetensors::{SafetensorsError, SafetensorsFile};
use quire_engine::{Engine, EngineOptions, Machine, MemoryPlan, ModelFiles};
use serde_json::{Value, json};

pub(crate) fn open(bytes: Vec<u8>) -> Result<SafetensorsFile, SafetensorsError> {
    SafetensorsFile::from_bytes(Path::new("small.safetensors"), bytes)
}

/// A file with this header and `num_data_bytes` of data.
pub(crate) fn with_header(header: &str, num_data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..num_data_bytes).map(|byte| byte as u8));
    bytes
}

/// A file of BF16 tensors of zeros with these shapes.
pub(crate) fn file_of(tensors: &BTreeMap<String, Vec<u64>>) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>() * 2;
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), end as usize)
}

/// A one-layer llama that a test may spoil.
pub(crate) struct Model {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Vec<u64>>,
    folder: PathBuf,
}

impl Model {
    pub(crate) fn new(name: &str) -> Self {
        let tensors = [
            ("model.embed_tokens.weight", vec![50, 32]),
            ("model.norm.weight", vec![32]),
            ("model.layers.0.input_layernorm.weight", vec![32]),
            ("model.layers.0.self_attn.q_proj.weight", vec![32, 32]),
            ("model.layers.0.self_attn.k_proj.weight", vec![16, 32]),
            ("model.layers.0.self_attn.v_proj.weight", vec![16, 32]),
            ("model.layers.0.self_attn.o_proj.weight", vec![32, 32]),
            ("model.layers.0.post_attention_layernorm.weight", vec![32]),
            ("model.layers.0.mlp.gate_proj.weight", vec![64, 32]),
            ("model.layers.0.mlp.up_proj.weight", vec![64, 32]),
            ("model.layers.0.mlp.down_proj.weight", vec![32, 64]),
        ];
        let folder =
            std::env::temp_dir().join(format!("quire-directory-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self {
            config: json!({
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "num_hidden_layers": 1,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 50,
                "max_position_embeddings": 128,
                "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0,
                "tie_word_embeddings": true,
            }),
            tensors: tensors.map(|(name, shape)| (name.to_owned(), shape)).into(),
            folder,
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.config[key] = value;
        self
    }

    pub(crate) fn tensor(&mut self, name: &str, shape: &[u64]) -> &mut Self {
        self.tensors.insert(name.to_owned(), shape.to_vec());
        self
    }

    /// Puts `prefix` before every tensor's name, in place of `model.`.
    pub(crate) fn prefix(&mut self, prefix: &str) -> &mut Self {
        let renamed = |name: &String| name.replacen("model.", prefix, 1);
        self.tensors =
            self.tensors.iter().map(|(name, shape)| (renamed(name), shape.clone())).collect();
        self
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.folder.join(name), bytes).unwrap();
    }

    /// Writes config.json and one file with all tensors.
    pub(crate) fn write_all(&self) {
        self.write("config.json", self.config.to_string());
        self.write("model.safetensors", file_of(&self.tensors));
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn open(&self) -> Result<(ModelFiles, MemoryPlan), String> {
        let machine = Machine { available_memory: 1 << 30, num_cores: 1, ..Machine::detect() };
        let files = ModelFiles::open(&self.folder).map_err(|error| self.without_path(&error))?;
        let plan = MemoryPlan::new(&files, &EngineOptions::on_cpu(), &machine)
            .map_err(|error| self.without_path(&error))?;
        Ok((files, plan))
    }

    /// Opens, plans and loads what lies in the folder; the error without the folder's path.
    pub(crate) fn load(&self) -> Result<(), String> {
        let (files, plan) = self.open()?;
        let loaded = Engine::load(&files, &plan, &[], &|_, _| ());
        loaded.map(drop).map_err(|error| self.without_path(&error))
    }

    fn without_path(&self, error: &anyhow::Error) -> String {
        let folder = self.folder.display().to_string();
        format!("{error:#}").replace(&format!("{folder}/"), "").replace(&folder, "DIR")
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
