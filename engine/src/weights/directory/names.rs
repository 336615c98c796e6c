//! What the tensors of a Hugging Face checkpoint are to the loader, which uses the names of GGUF.

/// The parts of a layer: the loader's name, and the checkpoint's in Llama-style models.
const LAYER_PARTS: [(&str, &str); 14] = [
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
];

const EMBEDDING: &str = "embed_tokens.weight";
const FINAL_NORM: &str = "norm.weight";

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
        Self { model, head }
    }

    pub(super) fn meaning(&self, name: &str) -> Meaning {
        let in_model = name.strip_prefix(self.model);
        if name.strip_prefix(self.head) == Some("weight") {
            return Meaning::Model { name: "output.weight".to_owned() };
        }
        match in_model {
            Some(EMBEDDING) => return Meaning::Model { name: "token_embd.weight".to_owned() },
            Some(FINAL_NORM) => return Meaning::Model { name: "output_norm.weight".to_owned() },
            _ => {}
        }
        if name.ends_with("rotary_emb.inv_freq") {
            return Meaning::Nothing;
        }
        if let Some(layer) = in_model.and_then(layer_part) {
            return layer;
        }
        let is_other = name.split('.').take(2).any(|part| OTHER_PARTS.contains(&part));
        if is_other { Meaning::OtherPart } else { Meaning::Unknown }
    }

    /// How this checkpoint would name what the loader calls `name`.
    pub(super) fn name_in_file(&self, name: &str) -> String {
        let Self { model, head } = self;
        match name {
            "token_embd.weight" => return format!("{model}{EMBEDDING}"),
            "output_norm.weight" => return format!("{model}{FINAL_NORM}"),
            "output.weight" => return format!("{head}weight"),
            _ => {}
        }
        let in_layer = || {
            let (index, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let (_, theirs) = LAYER_PARTS.iter().find(|(ours, _)| *ours == rest)?;
            Some(format!("{model}layers.{index}.{theirs}"))
        };
        in_layer().unwrap_or_else(|| name.to_owned())
    }
}

/// `layers.3.self_attn.q_proj.weight` as `blk.3.attn_q.weight`.
fn layer_part(name: &str) -> Option<Meaning> {
    let (number, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let index: usize = number.parse().ok().filter(|index: &usize| index.to_string() == number)?;
    let (ours, _) = LAYER_PARTS.iter().find(|(_, theirs)| *theirs == rest)?;
    Some(Meaning::Layer { index, name: format!("blk.{index}.{ours}") })
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
            names.extend(
                ["token_embd.weight", "output_norm.weight", "output.weight"].map(str::to_owned),
            );
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
    fn what_is_not_text_is_told_from_what_is_not_known() {
        let prefixes = Prefixes { model: "model.", head: "lm_head." };
        let meaning = |name: &str| prefixes.meaning(name);
        assert_eq!(meaning("model.visual.blocks.0.attn.qkv.weight"), Meaning::OtherPart);
        assert_eq!(meaning("vision_tower.layers.0.fc1.weight"), Meaning::OtherPart);
        assert_eq!(meaning("mtp.layers.0.self_attn.q_proj.weight"), Meaning::OtherPart);
        assert_eq!(meaning("model.layers.0.self_attn.rotary_emb.inv_freq"), Meaning::Nothing);
        for name in [
            "model.layers.0.self_attn.sinks",
            "model.layers.0.mlp.experts.0.gate_proj.weight",
            "model.layers.0.self_attn.q_proj.weight_scale",
            "model.layers.00.self_attn.q_proj.weight",
            "model.layers.x.self_attn.q_proj.weight",
            "transformer.wte.weight",
        ] {
            assert_eq!(meaning(name), Meaning::Unknown, "{name}");
        }
    }
}
