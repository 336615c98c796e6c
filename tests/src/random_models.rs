//! Small models of random weights in the layout of checkpoints, for what no committed model shows.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Random;

/// The vocabulary of all.
pub const VOCAB_SIZE: u32 = 64;
/// Channels of all.
pub const HIDDEN: usize = 64;

/// A tensor as it lies in a file.
pub struct Stored {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub fn stored(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Stored {
    Stored { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

pub fn float32(name: &str, shape: &[usize], values: &[f32]) -> Stored {
    stored(name, "F32", shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// Uniform in `0.0..1.0`.
pub fn unit(random: &mut Random) -> f32 {
    random.below(1 << 20) as f32 / (1 << 20) as f32
}

/// A model's config.json, and its tensors.
pub struct RandomModel {
    pub name: &'static str,
    pub config: Value,
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl RandomModel {
    fn new(name: &'static str, class: &str) -> Self {
        let config = json!({
            "model_type": name, "architectures": [class], "hidden_size": HIDDEN,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "num_experts_per_tok": 2, "moe_intermediate_size": 64, "intermediate_size": 96,
            "vocab_size": VOCAB_SIZE, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "tie_word_embeddings": true, "norm_topk_prob": true,
        });
        let mut model = Self { name, config, tensors: Vec::new() };
        model.tensor("embed_tokens.weight", &[VOCAB_SIZE as usize, HIDDEN]);
        model.tensor("norm.weight", &[HIDDEN]);
        for layer in 0..2 {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                model.tensor(&format!("layers.{layer}.{norm}.weight"), &[HIDDEN]);
            }
        }
        model
    }

    fn keys(&mut self, keys: Value) {
        let Value::Object(keys) = keys else { panic!("keys are an object") };
        self.config.as_object_mut().expect("a configuration is one").extend(keys);
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) {
        self.tensors.push((format!("model.{name}"), shape.to_vec()));
    }

    /// Gate, up and down of one block, whose names begin with `prefix`.
    fn mlp(&mut self, prefix: &str, size: usize) {
        self.tensor(&format!("{prefix}.gate_proj.weight"), &[size, HIDDEN]);
        self.tensor(&format!("{prefix}.up_proj.weight"), &[size, HIDDEN]);
        self.tensor(&format!("{prefix}.down_proj.weight"), &[HIDDEN, size]);
    }

    fn experts(&mut self, layer: usize) {
        self.tensor(&format!("layers.{layer}.mlp.gate.weight"), &[4, HIDDEN]);
        (0..4).for_each(|e| self.mlp(&format!("layers.{layer}.mlp.experts.{e}"), 64));
    }
}

/// A layer of Gated DeltaNet, and one of attention; both with experts.
pub fn qwen3_next() -> RandomModel {
    let mut model = RandomModel::new("qwen3_next", "Qwen3NextForCausalLM");
    model.keys(json!({
        "layer_types": ["linear_attention", "full_attention"], "head_dim": 32,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25,
        "num_experts": 4, "shared_expert_intermediate_size": 64, "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }));
    for layer in 0..2 {
        model.experts(layer);
        model.mlp(&format!("layers.{layer}.mlp.shared_expert"), 64);
        model.tensor(&format!("layers.{layer}.mlp.shared_expert_gate.weight"), &[1, HIDDEN]);
    }
    for (name, shape) in [
        ("in_proj_qkvz.weight", &[192, HIDDEN][..]),
        ("in_proj_ba.weight", &[8, HIDDEN]),
        ("conv1d.weight", &[128, 1, 4]),
        ("A_log", &[4]),
        ("dt_bias", &[4]),
        ("norm.weight", &[16]),
        ("out_proj.weight", &[HIDDEN, 64]),
    ] {
        model.tensor(&format!("layers.0.linear_attn.{name}"), shape);
    }
    for (name, shape) in [
        ("q_proj.weight", &[128, HIDDEN][..]),
        ("k_proj.weight", &[64, HIDDEN]),
        ("v_proj.weight", &[64, HIDDEN]),
        ("q_norm.weight", &[32]),
        ("k_norm.weight", &[32]),
        ("o_proj.weight", &[HIDDEN, 64]),
    ] {
        model.tensor(&format!("layers.1.self_attn.{name}"), shape);
    }
    model
}

/// Latent attention; a dense layer, and one with experts.
pub fn deepseek_v3() -> RandomModel {
    let mut model = RandomModel::new("deepseek_v3", "DeepseekV3ForCausalLM");
    model.keys(json!({
        "q_lora_rank": 64, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
        "v_head_dim": 32, "first_k_dense_replace": 1, "n_routed_experts": 4, "n_shared_experts": 1,
        "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.5, "scoring_func": "sigmoid",
        "rope_interleave": true,
    }));
    for layer in 0..2 {
        for (name, shape) in [
            ("q_a_proj.weight", &[64, HIDDEN][..]),
            ("q_a_layernorm.weight", &[64]),
            ("q_b_proj.weight", &[64, 64]),
            ("kv_a_proj_with_mqa.weight", &[48, HIDDEN]),
            ("kv_a_layernorm.weight", &[32]),
            ("kv_b_proj.weight", &[96, 32]),
            ("o_proj.weight", &[HIDDEN, 64]),
        ] {
            model.tensor(&format!("layers.{layer}.self_attn.{name}"), shape);
        }
    }
    model.mlp("layers.0.mlp", 96);
    model.experts(1);
    model.tensor("layers.1.mlp.gate.e_score_correction_bias", &[4]);
    model.mlp("layers.1.mlp.shared_experts", 64);
    model
}

/// Random numbers of a tensor of that name.
pub fn numbers(random: &mut Random, name: &str, shape: &[usize]) -> Vec<f32> {
    let is_norm = name.ends_with("norm.weight");
    let spread = match shape {
        [_] => 0.2,
        _ if name.contains("embed_tokens") => 1.0,
        _ => 1.7 / (shape[shape.len() - 1] as f32).sqrt(),
    };
    let centre = if is_norm { 1.0 } else { 0.0 };
    let count = shape.iter().product();
    (0..count).map(|_| centre + spread * (2.0 * unit(random) - 1.0)).collect()
}

/// Writes config.json and model.safetensors.
pub fn write_directory(folder: &Path, config: &Value, tensors: &[Stored]) {
    fs::create_dir_all(folder).expect("the folder can be made");
    fs::write(folder.join("config.json"), config.to_string()).expect("writable");
    let (mut header, mut data) = (Map::new(), Vec::new());
    for Stored { name, dtype, shape, bytes } in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), &data].concat();
    fs::write(folder.join("model.safetensors"), bytes).expect("writable");
}
