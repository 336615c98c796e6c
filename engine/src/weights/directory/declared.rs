//! Which tensors a directory would have, as its config.json says: for models without weights.

use super::{ConfigSection, ModelConfig};

/// Types that have biases of q, k and v without a word about it.
const QKV_BIAS: [&str; 2] = ["qwen2", "qwen2_moe"];

/// Types whose experts have biases.
const EXPERT_BIAS: [&str; 1] = ["gpt_oss"];

/// Types whose routers have a number for each expert that is added for the choice alone.
const CHOICE_BIAS: [&str; 5] =
    ["glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "deepseek_v3", "deepseek_v32"];

/// Whether there would be a tensor under the loader's `name`.
pub(super) fn has(config: &ModelConfig, name: &str) -> bool {
    let text = config.text();
    let model_type = text.string("model_type").ok().flatten().unwrap_or_default();
    let is_set = |key: &str| text.bool(key).ok().flatten().unwrap_or(false);
    let count = |key: &str| text.optional_dimension(key).ok().flatten().unwrap_or(0);
    let (layer, part) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => (layer.parse().unwrap_or(0), part),
        None => (0, name),
    };
    match part {
        "attn_q.bias" => is_set("attention_bias") || QKV_BIAS.contains(&model_type),
        "attn_output.bias" => is_set("attention_bias") && model_type != "glm4_moe",
        "attn_v.weight" => !(is_set("attention_k_eq_v") && is_far(&text, layer)),
        "output.weight" => !model_type.starts_with("gemma"),
        "ffn_gate_inp.weight" => has_router(&text, layer),
        "ffn_up_shexp.weight" => {
            count("n_shared_experts") + count("shared_expert_intermediate_size") > 0
                || model_type.starts_with("llama4")
        }
        "ffn_gate_inp_shexp.weight" => count("shared_expert_intermediate_size") > 0,
        "ffn_gate_inp.bias" | "ffn_down_exps.bias" => EXPERT_BIAS.contains(&model_type),
        "exp_probs_b.bias" => CHOICE_BIAS.contains(&model_type),
        _ => false,
    }
}

/// Whether layer `index` attends to everything, where others have a window.
fn is_far(text: &ConfigSection, index: usize) -> bool {
    let types = text.strings("layer_types").ok().flatten().unwrap_or_default();
    types.get(index) == Some(&"full_attention")
}

/// Layers before the first router are dense; with a step, so are those between; and those that are named.
fn has_router(text: &ConfigSection, index: usize) -> bool {
    let count = |key: &str| text.optional_dimension(key).ok().flatten();
    let first = count("first_k_dense_replace").unwrap_or(0);
    let step = count("interleave_moe_layer_step").or(count("decoder_sparse_step")).unwrap_or(1);
    let dense = text.numbers("mlp_only_layers").ok().flatten().unwrap_or_default();
    index >= first && (index + 1).is_multiple_of(step) && !dense.contains(&(index as f32))
}
