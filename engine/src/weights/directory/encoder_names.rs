//! What the tensors of an encoder's checkpoint are to the loader, which uses the names of GGUF.

use super::names::{Meaning, plain_number};

/// One family's names: in front of all, outside layers, in front of a layer's number, and in a layer.
pub(super) struct EncoderNames {
    prefixes: &'static [&'static str],
    outside: &'static [(&'static str, &'static str)],
    layers: &'static str,
    parts: &'static [(&'static str, &'static str)],
    /// Of a classifier's head; empty where it is left out.
    head: &'static [HeadPart],
    /// The prefix that this checkpoint has.
    prefix: &'static str,
}

/// The loader's name without its ending, the checkpoint's, and whether the prefix stands before it.
type HeadPart = (&'static str, &'static str, bool);

const BERT_HEAD: [HeadPart; 2] =
    [("cls", "pooler.dense", true), ("cls.output", "classifier", false)];
const ROBERTA_HEAD: [HeadPart; 2] =
    [("cls", "classifier.dense", false), ("cls.output", "classifier.out_proj", false)];
const MODERN_BERT_HEAD: [HeadPart; 3] = [
    ("cls", "head.dense", false),
    ("cls.norm", "head.norm", false),
    ("cls.output", "classifier", false),
];

/// Of BERT, RoBERTa and XLM-RoBERTa: the loader's name without its ending, and the checkpoint's.
const BERT: EncoderNames = EncoderNames {
    prefixes: &["bert.", "roberta.", ""],
    outside: &[
        ("token_embd", "embeddings.word_embeddings"),
        ("position_embd", "embeddings.position_embeddings"),
        ("token_types", "embeddings.token_type_embeddings"),
        ("token_embd_norm", "embeddings.LayerNorm"),
    ],
    layers: "encoder.layer.",
    parts: &[
        ("attn_q", "attention.self.query"),
        ("attn_k", "attention.self.key"),
        ("attn_v", "attention.self.value"),
        ("attn_output", "attention.output.dense"),
        ("attn_output_norm", "attention.output.LayerNorm"),
        ("ffn_up", "intermediate.dense"),
        ("ffn_down", "output.dense"),
        ("layer_output_norm", "output.LayerNorm"),
    ],
    head: &[],
    prefix: "",
};

const MODERN_BERT: EncoderNames = EncoderNames {
    prefixes: &["model.", ""],
    outside: &[
        ("token_embd", "embeddings.tok_embeddings"),
        ("token_embd_norm", "embeddings.norm"),
        ("output_norm", "final_norm"),
    ],
    layers: "layers.",
    parts: &[
        ("attn_norm", "attn_norm"),
        ("attn_qkv", "attn.Wqkv"),
        ("attn_output", "attn.Wo"),
        ("ffn_norm", "mlp_norm"),
        ("ffn_up", "mlp.Wi"),
        ("ffn_down", "mlp.Wo"),
    ],
    head: &[],
    prefix: "",
};

const NOMIC_BERT: EncoderNames = EncoderNames {
    prefixes: &["bert.", "model.", ""],
    outside: &[
        ("token_embd", "embeddings.word_embeddings"),
        ("token_types", "embeddings.token_type_embeddings"),
        ("token_embd_norm", "emb_ln"),
    ],
    layers: "encoder.layers.",
    parts: &[
        ("attn_qkv", "attn.Wqkv"),
        ("attn_output", "attn.out_proj"),
        ("attn_output_norm", "norm1"),
        ("ffn_up", "mlp.fc11"),
        ("ffn_gate", "mlp.fc12"),
        ("ffn_down", "mlp.fc2"),
        ("layer_output_norm", "norm2"),
    ],
    head: &[],
    prefix: "",
};

/// What begins the names of heads for other tasks than embeddings.
const HEADS: [&str; 8] = [
    "pooler.",
    "classifier.",
    "cls.",
    "lm_head.",
    "head.",
    "decoder.",
    "qa_outputs.",
    "pre_classifier.",
];

impl EncoderNames {
    /// Of that `model_type`; `None`: it is no encoder's. `is_classifier`: its head is asked for, too.
    pub(super) fn find(
        model_type: &str,
        is_classifier: bool,
        has_tensor: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let names = match model_type {
            "bert" | "roberta" | "xlm-roberta" | "camembert" => BERT,
            "modernbert" => MODERN_BERT,
            "nomic_bert" => NOMIC_BERT,
            _ => return None,
        };
        let (_, embedding) = names.outside[0];
        let has = |prefix: &&&str| has_tensor(&format!("{prefix}{embedding}.weight"));
        let prefix = names.prefixes.iter().find(has).copied().unwrap_or_default();
        let head: &[HeadPart] = match model_type {
            _ if !is_classifier => &[],
            "bert" => &BERT_HEAD,
            "modernbert" => &MODERN_BERT_HEAD,
            "roberta" | "xlm-roberta" | "camembert" => &ROBERTA_HEAD,
            _ => &[],
        };
        Some(Self { head, prefix, ..names })
    }

    pub(super) fn meaning(&self, name: &str) -> Meaning {
        let inside = name.strip_prefix(self.prefix).unwrap_or(name);
        if inside.ends_with("position_ids") || inside.ends_with("inv_freq") {
            return Meaning::Nothing;
        }
        if let Some((stem, kind)) = inside.rsplit_once('.')
            && let Some((ours, ..)) = self.head.iter().find(|(_, theirs, _)| *theirs == stem)
        {
            return Meaning::Model { name: format!("{ours}.{kind}") };
        }
        if HEADS.iter().any(|head| name.starts_with(head) || inside.starts_with(head)) {
            return Meaning::OtherPart;
        }
        let Some((stem, kind)) = inside.rsplit_once('.') else { return Meaning::Unknown };
        // Checkpoints converted from TensorFlow have the older words.
        let kind = match kind {
            "weight" | "gamma" => "weight",
            "bias" | "beta" => "bias",
            _ => return Meaning::Unknown,
        };
        let ours = |names: &[(&'static str, &str)], stem: &str| {
            names.iter().find(|(_, theirs)| *theirs == stem).map(|(ours, _)| *ours)
        };
        if let Some(ours) = ours(self.outside, stem) {
            return Meaning::Model { name: format!("{ours}.{kind}") };
        }
        let in_layer = || {
            let (number, part) = stem.strip_prefix(self.layers)?.split_once('.')?;
            let (index, part) = (plain_number(number)?, ours(self.parts, part)?);
            Some(Meaning::Layer { index, name: format!("blk.{index}.{part}.{kind}") })
        };
        in_layer().unwrap_or(Meaning::Unknown)
    }

    /// How this checkpoint would name what the loader calls `name`.
    pub(super) fn name_in_file(&self, name: &str) -> String {
        let theirs = |names: &[(&str, &'static str)], stem: &str| {
            names.iter().find(|(ours, _)| *ours == stem).map(|(_, theirs)| *theirs)
        };
        let found = || {
            let (stem, kind) = name.rsplit_once('.')?;
            if let Some(theirs) = theirs(self.outside, stem) {
                return Some(format!("{}{theirs}.{kind}", self.prefix));
            }
            if let Some((_, theirs, has_prefix)) = self.head.iter().find(|part| part.0 == stem) {
                let prefix = if *has_prefix { self.prefix } else { "" };
                return Some(format!("{prefix}{theirs}.{kind}"));
            }
            let (index, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            let part = theirs(self.parts, part)?;
            Some(format!("{}{}{index}.{part}.{kind}", self.prefix, self.layers))
        };
        found().unwrap_or_else(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_there_and_back() {
        for (model_type, embedding) in [
            ("bert", "embeddings.word_embeddings.weight"),
            ("xlm-roberta", "roberta.embeddings.word_embeddings.weight"),
            ("modernbert", "model.embeddings.tok_embeddings.weight"),
            ("nomic_bert", "embeddings.word_embeddings.weight"),
        ] {
            let names =
                EncoderNames::find(model_type, false, |name| name == embedding).expect("known");
            assert_eq!(names.name_in_file("token_embd.weight"), embedding);
            let outside = names.outside.iter().map(|(ours, _)| format!("{ours}.weight"));
            let parts = names.parts.iter().map(|(ours, _)| format!("blk.12.{ours}.bias"));
            for name in outside.chain(parts) {
                let found = match names.meaning(&names.name_in_file(&name)) {
                    Meaning::Layer { name, .. } | Meaning::Model { name } => name,
                    other => panic!("{name}: {other:?}"),
                };
                assert_eq!(found, name);
            }
            for (name, meaning) in [
                ("pooler.dense.weight", Meaning::OtherPart),
                ("classifier.out_proj.bias", Meaning::OtherPart),
                ("embeddings.position_ids", Meaning::Nothing),
                ("encoder.layer.0.attention.self.query.scale", Meaning::Unknown),
                ("encoder.layer.0.attention.self.distance_embedding.weight", Meaning::Unknown),
            ] {
                assert_eq!(names.meaning(name), meaning, "{name}");
            }
        }
        assert!(EncoderNames::find("llama", false, |_| true).is_none());
    }

    #[test]
    fn a_classifier_has_names_for_its_head() {
        for (model_type, prefix, head) in [
            ("bert", "bert.", ["bert.pooler.dense", "classifier"]),
            ("xlm-roberta", "roberta.", ["classifier.dense", "classifier.out_proj"]),
            ("modernbert", "model.", ["head.dense", "classifier"]),
        ] {
            let has = |name: &str| name.starts_with(prefix);
            let names = EncoderNames::find(model_type, true, has).expect("known");
            for (ours, theirs) in ["cls", "cls.output"].into_iter().zip(head) {
                let (ours, theirs) = (format!("{ours}.bias"), format!("{theirs}.bias"));
                assert_eq!(names.name_in_file(&ours), theirs);
                assert_eq!(names.meaning(&theirs), Meaning::Model { name: ours });
            }
        }
    }
}
