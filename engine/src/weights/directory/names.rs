//! What the tensors of a Hugging Face checkpoint are to the loader, which uses the names of GGUF.

/// The parts of a layer: the loader's name, and the checkpoint's. Families have names of their own for the same part;
/// messages use the first.
const LAYER_PARTS: &[(&str, &str)] = &[
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("attn_qkv.weight", "self_attn.qkv_proj.weight"),
    ("attn_qkv.bias", "self_attn.qkv_proj.bias"),
    ("ffn_up.weight", "mlp.gate_up_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
    ("attn_q_a.weight", "self_attn.q_a_proj.weight"),
    ("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    ("attn_q_b.weight", "self_attn.q_b_proj.weight"),
    ("attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    ("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    ("attn_kv_b.weight", "self_attn.kv_b_proj.weight"),
    ("indexer.attn_q_b.weight", "self_attn.indexer.wq_b.weight"),
    ("indexer.attn_k.weight", "self_attn.indexer.wk.weight"),
    ("indexer.k_norm.weight", "self_attn.indexer.k_norm.weight"),
    ("indexer.k_norm.bias", "self_attn.indexer.k_norm.bias"),
    ("indexer.proj.weight", "self_attn.indexer.weights_proj.weight"),
    ("attn_sinks.weight", "self_attn.sinks"),
    ("ffn_gate.weight", "feed_forward.gate_proj.weight"),
    ("ffn_up.weight", "feed_forward.up_proj.weight"),
    ("ffn_down.weight", "feed_forward.down_proj.weight"),
    // Norms after blocks, and around them.
    ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
    ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
    ("post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"),
    ("post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"),
    ("pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"),
    ("layer_output_scale.weight", "layer_scalar"),
    // Per-layer embeddings.
    ("inp_gate.weight", "per_layer_input_gate.weight"),
    ("proj.weight", "per_layer_projection.weight"),
    ("post_norm.weight", "post_per_layer_input_norm.weight"),
    // Routers.
    ("ffn_gate_inp.weight", "mlp.gate.weight"),
    ("ffn_gate_inp.weight", "block_sparse_moe.gate.weight"),
    ("ffn_gate_inp.weight", "mlp.router.weight"),
    ("ffn_gate_inp.weight", "feed_forward.router.weight"),
    ("ffn_gate_inp.weight", "router.proj.weight"),
    ("ffn_gate_inp.bias", "mlp.router.bias"),
    ("ffn_gate_inp.scale", "router.scale"),
    ("ffn_down_exps.scale", "router.per_expert_scale"),
    ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    // Experts of every row.
    ("ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"),
    ("ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"),
    ("ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"),
    ("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"),
    ("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight"),
    ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"),
    ("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight"),
    ("ffn_gate_shexp.weight", "feed_forward.shared_expert.gate_proj.weight"),
    ("ffn_up_shexp.weight", "feed_forward.shared_expert.up_proj.weight"),
    ("ffn_down_shexp.weight", "feed_forward.shared_expert.down_proj.weight"),
    // All experts in one tensor.
    ("ffn_gate_up_exps.weight", "mlp.experts.gate_up_proj"),
    ("ffn_gate_up_exps.bias", "mlp.experts.gate_up_proj_bias"),
    ("ffn_gate_up_exps.blocks", "mlp.experts.gate_up_proj_blocks"),
    ("ffn_gate_up_exps.scales", "mlp.experts.gate_up_proj_scales"),
    ("ffn_gate_up_exps.weight", "feed_forward.experts.gate_up_proj"),
    ("ffn_gate_up_exps.weight", "experts.gate_up_proj"),
    ("ffn_down_exps.weight", "mlp.experts.down_proj"),
    ("ffn_down_exps.bias", "mlp.experts.down_proj_bias"),
    ("ffn_down_exps.blocks", "mlp.experts.down_proj_blocks"),
    ("ffn_down_exps.scales", "mlp.experts.down_proj_scales"),
    ("ffn_down_exps.weight", "feed_forward.experts.down_proj"),
    ("ffn_down_exps.weight", "experts.down_proj"),
    ("attn_qkv.weight", "linear_attn.in_proj_qkv.weight"),
    ("attn_gate.weight", "linear_attn.in_proj_z.weight"),
    ("ssm_beta.weight", "linear_attn.in_proj_b.weight"),
    ("ssm_alpha.weight", "linear_attn.in_proj_a.weight"),
    ("ssm_in.weight", "linear_attn.in_proj_qkvz.weight"),
    ("ssm_ba.weight", "linear_attn.in_proj_ba.weight"),
    ("ssm_conv1d.weight", "linear_attn.conv1d.weight"),
    ("ssm_a", "linear_attn.A_log"),
    ("ssm_dt.bias", "linear_attn.dt_bias"),
    ("ssm_norm.weight", "linear_attn.norm.weight"),
    ("ssm_out.weight", "linear_attn.out_proj.weight"),
];

/// What the names of one expert's tensors begin with, before its number.
const EXPERT_PREFIXES: [&str; 2] = ["mlp.experts.", "block_sparse_moe.experts."];

/// The parts of one expert: the loader's name before and after the number, and the checkpoint's.
const EXPERT_PARTS: [(&str, &str); 6] = [
    ("ffn_gate", "gate_proj.weight"),
    ("ffn_up", "up_proj.weight"),
    ("ffn_down", "down_proj.weight"),
    ("ffn_gate", "w1.weight"),
    ("ffn_up", "w3.weight"),
    ("ffn_down", "w2.weight"),
];

/// In models whose blocks are normalised after, too, this norm is what its name says.
const POST_NORM: (&str, &str) = ("post_attention_norm.weight", "post_attention_layernorm.weight");

const EMBEDDING: &str = "embed_tokens.weight";

/// The parts of the text model outside its layers, after its prefix: the loader's name, and the checkpoint's.
const MODEL_PARTS: [(&str, &str); 5] = [
    ("token_embd.weight", EMBEDDING),
    ("output_norm.weight", "norm.weight"),
    ("per_layer_token_embd.weight", "embed_tokens_per_layer.weight"),
    ("per_layer_model_proj.weight", "per_layer_model_projection.weight"),
    ("per_layer_proj_norm.weight", "per_layer_projection_norm.weight"),
];

/// Before the names of the text model: alone, and inside models that see or hear. The longest comes first.
const PREFIXES: [(&str, &str); 5] = [
    ("model.language_model.", "lm_head."),
    ("language_model.model.", "language_model.lm_head."),
    ("language_model.", "lm_head."),
    ("model.", "lm_head."),
    ("", "lm_head."),
];

/// First or second parts of names that belong to what is not text, or to drafts.
const OTHER_PARTS: [&str; 14] = [
    "visual",
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "vision_projection",
    "vision_embed_tokens",
    "vision_language_adapter",
    "patch_merger",
    "multi_modal_projector",
    "mm_projector",
    "audio_tower",
    "embed_vision",
    "embed_audio",
    "mtp",
];

/// How one checkpoint begins the names of its text model and of its head.
pub(super) struct Prefixes {
    model: &'static str,
    head: &'static str,
    /// Blocks are normalised before and after.
    has_post_norms: bool,
}

/// What a tensor is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A weight of layer `index`, with the loader's name.
    Layer {
        index: usize,
        name: String,
    },
    /// A weight of the text model outside its layers, with the loader's name.
    Model {
        name: String,
    },
    /// A weight for images, sound or drafts.
    OtherPart,
    /// A table that is computed anew.
    Nothing,
    Unknown,
}

impl Prefixes {
    /// The prefixes under which the checkpoint has its embedding table.
    pub(super) fn find(has_tensor: impl Fn(&str) -> bool) -> Self {
        let found = PREFIXES.iter().find(|(model, _)| has_tensor(&format!("{model}{EMBEDDING}")));
        let &(model, head) = found.unwrap_or(&("model.", "lm_head."));
        let post_norm = format!("{model}layers.0.pre_feedforward_layernorm.weight");
        Self { model, head, has_post_norms: has_tensor(&post_norm) }
    }

    pub(super) fn meaning(&self, name: &str) -> Meaning {
        let in_model = name.strip_prefix(self.model);
        if name.strip_prefix(self.head) == Some("weight") {
            return Meaning::Model { name: "output.weight".to_owned() };
        }
        let of_model = MODEL_PARTS.iter().find(|(_, theirs)| in_model == Some(theirs));
        if let Some((ours, _)) = of_model {
            return Meaning::Model { name: (*ours).to_owned() };
        }
        if name.ends_with("rotary_emb.inv_freq") {
            return Meaning::Nothing;
        }
        let layer_part = |name| layer_part(name, self.has_post_norms);
        if let Some(layer) = in_model.and_then(layer_part) {
            return layer;
        }
        let is_other = name.split('.').take(2).any(|part| OTHER_PARTS.contains(&part));
        if is_other { Meaning::OtherPart } else { Meaning::Unknown }
    }

    /// How this checkpoint would name what the loader calls `name`.
    pub(super) fn name_in_file(&self, name: &str) -> String {
        let Self { model, head, .. } = self;
        if name == "output.weight" {
            return format!("{head}weight");
        }
        if let Some((_, theirs)) = MODEL_PARTS.iter().find(|(ours, _)| *ours == name) {
            return format!("{model}{theirs}");
        }
        let in_layer = || {
            let (index, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let post_norm = self.has_post_norms.then_some(&POST_NORM);
            let mut parts = post_norm.into_iter().chain(LAYER_PARTS);
            let found = parts.find(|(ours, _)| *ours == rest);
            let theirs = found.map(|(_, theirs)| (*theirs).to_owned());
            Some(format!("{model}layers.{index}.{}", theirs.or_else(|| expert_in_file(rest))?))
        };
        in_layer().unwrap_or_else(|| name.to_owned())
    }
}

/// `layers.3.self_attn.q_proj.weight` as `blk.3.attn_q.weight`.
pub(super) fn layer_part(name: &str, has_post_norms: bool) -> Option<Meaning> {
    let (number, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let index = plain_number(number)?;
    let post_norm = has_post_norms.then_some(&POST_NORM);
    let mut parts = post_norm.into_iter().chain(LAYER_PARTS);
    let found = parts.find(|(_, theirs)| *theirs == rest).map(|(ours, _)| (*ours).to_owned());
    let ours = found.or_else(|| expert_part(rest))?;
    Some(Meaning::Layer { index, name: format!("blk.{index}.{ours}") })
}

/// `mlp.experts.3.up_proj.weight` as `ffn_up.3.weight`.
fn expert_part(name: &str) -> Option<String> {
    let rest = EXPERT_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let (number, part) = rest.split_once('.')?;
    let (ours, _) = EXPERT_PARTS.iter().find(|(_, theirs)| *theirs == part)?;
    Some(format!("{ours}.{}.weight", plain_number(number)?))
}

/// The reverse, as most families name it.
fn expert_in_file(name: &str) -> Option<String> {
    let (part, number) = name.strip_suffix(".weight")?.split_once('.')?;
    let (_, theirs) = EXPERT_PARTS.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("{}{}.{theirs}", EXPERT_PREFIXES[0], plain_number(number)?))
}

pub(super) fn plain_number(digits: &str) -> Option<usize> {
    digits.parse().ok().filter(|number: &usize| number.to_string() == digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_there_and_back() {
        for (model, head) in PREFIXES {
            let prefixes = Prefixes::find(|name| name == format!("{model}embed_tokens.weight"));
            assert_eq!((prefixes.model, prefixes.head), (model, head));
            let mut names: Vec<String> =
                LAYER_PARTS.iter().map(|(part, _)| format!("blk.12.{part}")).collect();
            names.push("blk.3.ffn_up.17.weight".to_owned());
            names.extend(MODEL_PARTS.map(|(ours, _)| ours.to_owned()));
            names.push("output.weight".to_owned());
            for name in names {
                let found = match prefixes.meaning(&prefixes.name_in_file(&name)) {
                    Meaning::Layer { name, .. } | Meaning::Model { name } => name,
                    other => panic!("{name}: {other:?}"),
                };
                assert_eq!(found, name);
            }
        }
    }

    #[test]
    fn families_have_names_of_their_own() {
        let meaning = |has_post_norms, name: &str| {
            let prefixes = Prefixes { model: "model.", head: "lm_head.", has_post_norms };
            match prefixes.meaning(&format!("model.layers.2.{name}")) {
                Meaning::Layer { index: 2, name } => name,
                other => panic!("{name}: {other:?}"),
            }
        };
        for (name, expected) in [
            ("block_sparse_moe.experts.7.w3.weight", "blk.2.ffn_up.7.weight"),
            ("mlp.experts.0.down_proj.weight", "blk.2.ffn_down.0.weight"),
            ("feed_forward.experts.gate_up_proj", "blk.2.ffn_gate_up_exps.weight"),
            ("post_attention_layernorm.weight", "blk.2.ffn_norm.weight"),
        ] {
            assert_eq!(meaning(false, name), expected);
        }
        let post_norm = meaning(true, "post_attention_layernorm.weight");
        assert_eq!(post_norm, "blk.2.post_attention_norm.weight");
        assert_eq!(meaning(true, "pre_feedforward_layernorm.weight"), "blk.2.ffn_norm.weight");
    }

    #[test]
    fn what_is_not_text_is_told_from_what_is_not_known() {
        let prefixes = Prefixes { model: "model.", head: "lm_head.", has_post_norms: false };
        let meaning = |name: &str| prefixes.meaning(name);
        assert_eq!(meaning("model.visual.blocks.0.attn.qkv.weight"), Meaning::OtherPart);
        assert_eq!(meaning("vision_tower.layers.0.fc1.weight"), Meaning::OtherPart);
        assert_eq!(meaning("mtp.layers.0.self_attn.q_proj.weight"), Meaning::OtherPart);
        assert_eq!(meaning("model.layers.0.self_attn.rotary_emb.inv_freq"), Meaning::Nothing);
        for name in [
            "model.layers.0.mlp.experts.0.gate_proj.scales",
            "model.layers.0.mlp.experts.00.gate_proj.weight",
            "model.layers.0.self_attn.q_proj.weight_scale",
            "model.layers.00.self_attn.q_proj.weight",
            "model.layers.x.self_attn.q_proj.weight",
            "transformer.wte.weight",
        ] {
            assert_eq!(meaning(name), Meaning::Unknown, "{name}");
        }
    }
}
