//! The committed EAGLE-3 head, as it is and changed into others. The drafts of the others in its golden.json were computed in
//! NumPy from the formulas.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quire_engine::EngineOptions;
use quire_engine::config::Speculative;
use quire_engine::weights::safetensors::SafetensorsFile;
use serde_json::{Map, Value, json};

use crate::safetensors::Safetensors;
use crate::{repository, speculative_at};

/// The head of the tiny llama3, with golden drafts.
pub fn committed_head() -> PathBuf {
    repository("tests/data/conformance/eagle3_llama3")
}

/// Always as many drafts as `num_tokens`.
pub fn with_head(path: &Path, num_tokens: u32, options: EngineOptions) -> EngineOptions {
    let method = speculative_at("eagle", path);
    let speculative =
        Some(Speculative { num_tokens, is_adaptive: false, ..Speculative::new(method) });
    EngineOptions { speculative, ..options }
}

/// Trees of at most `num_tokens` drafts, always.
pub fn with_trees(
    path: &Path,
    (topk, num_tokens): (u32, u32),
    options: EngineOptions,
) -> EngineOptions {
    let mut options = with_head(path, num_tokens, options);
    options.speculative.iter_mut().for_each(|own| own.eagle_topk = topk);
    options
}

/// Prompts, the tokens after them, and the drafts under `key`.
pub fn golden(key: &str) -> Vec<(Vec<u32>, u32, Vec<u32>)> {
    let path = committed_head().join("golden.json");
    let text = std::fs::read_to_string(path).expect("committed");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let prompts = Safetensors::open(&repository("tests/data/conformance/llama3.safetensors"));
    let number = |value: &Value| value.as_u64().expect("a token") as u32;
    let entry = |(index, entry): (usize, &Value)| {
        let drafts = entry[key].as_array().expect("drafts").iter().map(number).collect();
        (prompts.ids(&format!("p{index}.input_ids")), number(&entry["first_token"]), drafts)
    };
    golden["prompts"].as_array().expect("prompts").iter().enumerate().map(entry).collect()
}

/// A head in memory.
pub struct Head {
    pub config: Map<String, Value>,
    tensors: BTreeMap<String, (String, Vec<u64>, Vec<u8>)>,
}

impl Head {
    pub fn committed() -> Self {
        let folder = committed_head();
        let config = std::fs::read_to_string(folder.join("config.json")).expect("committed");
        let file =
            SafetensorsFile::open(&folder.join("model.safetensors")).expect("a committed file");
        let tensors = file.tensors().iter().map(|info| {
            let bytes = file.tensor_bytes(info).to_vec();
            (info.name.clone(), (info.dtype.clone(), info.shape.clone(), bytes))
        });
        Self {
            config: serde_json::from_str(&config).expect("a JSON object"),
            tensors: tensors.collect(),
        }
    }

    /// Its draft tokens are only these, in turns.
    #[must_use]
    pub fn guessing(mut self, tokens: &[i64]) -> Self {
        let (_, shape, bytes) = self.tensors.get_mut("d2t").expect("it has a map");
        let offsets = (0..shape[0] as i64).zip(tokens.iter().cycle()).map(|(id, to)| to - id);
        *bytes = offsets.flat_map(i64::to_le_bytes).collect();
        self
    }

    /// An EAGLE-1 head of parts of the same weights: an embedding and a state go in, and the model's own head reads what
    /// comes out.
    #[must_use]
    pub fn as_eagle1(mut self) -> Self {
        for name in ["d2t", "t2d", "lm_head.weight", "norm.weight"] {
            self.tensors.remove(name);
        }
        for name in ["hidden_norm", "input_layernorm"] {
            self.tensors.remove(&format!("midlayer.{name}.weight"));
        }
        self.keep_columns("fc.weight", 128);
        for name in ["q", "k", "v"] {
            self.keep_columns(&format!("midlayer.self_attn.{name}_proj.weight"), 64);
        }
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors
            .map(|(name, tensor)| (name.replace("midlayer.", "layers.0."), tensor))
            .collect();
        self.config.remove("draft_vocab_size");
        self.config.remove("eagle_config");
        self
    }

    /// A DFlash drafter of two layers of parts of the same weights, with blocks of 6 tokens.
    #[must_use]
    pub fn as_dflash(mut self) -> Self {
        for name in ["d2t", "t2d", "lm_head.weight"] {
            self.tensors.remove(name);
        }
        for name in ["q", "k", "v"] {
            self.keep_columns(&format!("midlayer.self_attn.{name}_proj.weight"), 64);
        }
        let tensors = std::mem::take(&mut self.tensors);
        let state_norm = tensors["midlayer.hidden_norm.weight"].clone();
        let (dtype, _, bytes) = tensors["midlayer.input_layernorm.weight"].clone();
        let head_norm = (dtype, vec![16], bytes[..32].to_vec());
        for layer in ["layers.0.", "layers.1."] {
            for (name, tensor) in &tensors {
                if let Some(part) =
                    name.strip_prefix("midlayer.").filter(|p| *p != "hidden_norm.weight")
                {
                    self.tensors.insert(format!("{layer}{part}"), tensor.clone());
                }
            }
            for name in ["q", "k"] {
                self.tensors
                    .insert(format!("{layer}self_attn.{name}_norm.weight"), head_norm.clone());
            }
        }
        self.tensors.insert("layers.1.input_layernorm.weight".into(), state_norm.clone());
        self.tensors.insert("hidden_norm.weight".into(), state_norm);
        for name in ["fc.weight", "norm.weight"] {
            self.tensors.insert(name.into(), tensors[name].clone());
        }
        self.config.remove("draft_vocab_size");
        self.config.remove("eagle_config");
        self.config.insert("num_hidden_layers".into(), 2.into());
        self.config.insert("block_size".into(), 6.into());
        let own = json!({"mask_token_id": 7, "target_layer_ids": [0, 1, 2]});
        self.config.insert("dflash_config".into(), own);
        self
    }

    /// The first columns of a matrix of 16-bit numbers.
    pub fn keep_columns(&mut self, name: &str, columns: usize) {
        let (_, shape, bytes) = self.tensors.get_mut(name).expect("it has the matrix");
        let rows = bytes.chunks(2 * shape[1] as usize);
        *bytes = rows.flat_map(|row| row[..2 * columns].to_vec()).collect();
        shape[1] = columns as u64;
    }

    /// Writes it as a directory for the time of `use_it`.
    pub fn written<T>(&self, name: &str, use_it: impl FnOnce(&Path) -> T) -> T {
        let folder = std::env::temp_dir().join(format!("quire-head-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for a test");
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, (dtype, shape, bytes)) in &self.tensors {
            let range = [data.len(), data.len() + bytes.len()];
            header.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": range}),
            );
            data.extend_from_slice(bytes);
        }
        let header = Value::from(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&data);
        std::fs::write(folder.join("model.safetensors"), file).expect("room for a small file");
        let config = Value::from(self.config.clone()).to_string();
        std::fs::write(folder.join("config.json"), config).expect("room for a small file");
        let result = use_it(&folder);
        std::fs::remove_dir_all(&folder).expect("it was just written");
        result
    }
}
