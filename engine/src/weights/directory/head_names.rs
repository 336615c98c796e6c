//! What the tensors of an EAGLE head or a DFlash drafter are to the loader, which uses the names of GGUF.

use super::names::{Meaning, Prefixes, layer_part};

/// How one checkpoint begins its names: some releases have "model." in front of all.
pub(super) struct HeadNames {
    prefix: &'static str,
    layer: &'static str,
}

const PREFIXES: [&str; 2] = ["", "model."];

/// What the one layer of EAGLE-3 is called, and the first of other heads.
const FIRST_LAYERS: [&str; 2] = ["midlayer.", "layers.0."];

/// The loader's name, and the checkpoint's after its prefix.
const PARTS: [(&str, &str); 7] = [
    ("hidden_norm.weight", "hidden_norm.weight"),
    ("fc.weight", "fc.weight"),
    ("fc.bias", "fc.bias"),
    ("d2t", "d2t"),
    ("token_embd.weight", "embed_tokens.weight"),
    ("output_norm.weight", "norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// The norm of the states that EAGLE-3 is given: in the layer, but no part of other models' layers.
const STATE_NORM: (&str, &str) = ("blk.0.hidden_norm.weight", "hidden_norm.weight");

impl HeadNames {
    /// `None`: the checkpoint is no head.
    pub(super) fn find(has_tensor: impl Fn(&str) -> bool) -> Option<Self> {
        let all = PREFIXES.iter().flat_map(|prefix| FIRST_LAYERS.map(|layer| (*prefix, layer)));
        let mut found = all.filter(|(prefix, layer)| {
            has_tensor(&format!("{prefix}fc.weight"))
                && has_tensor(&format!("{prefix}{layer}self_attn.q_proj.weight"))
        });
        found.next().map(|(prefix, layer)| Self { prefix, layer })
    }

    pub(super) fn meaning(&self, name: &str) -> Meaning {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        if let Some((ours, _)) = PARTS.iter().find(|(_, theirs)| *theirs == name) {
            return Meaning::Model { name: (*ours).to_owned() };
        }
        // It says of each token of the model whether d2t leads to it.
        if name == "t2d" {
            return Meaning::Nothing;
        }
        let plain = match name.strip_prefix(self.layer) {
            Some(part) if part == STATE_NORM.1 => {
                return Meaning::Layer { index: 0, name: STATE_NORM.0.to_owned() };
            }
            Some(part) => format!("{}{part}", FIRST_LAYERS[1]),
            None => name.to_owned(),
        };
        layer_part(&plain, false).unwrap_or(Meaning::Unknown)
    }

    pub(super) fn name_in_file(&self, name: &str) -> String {
        let Self { prefix, layer } = self;
        if let Some((_, theirs)) = PARTS.iter().find(|(ours, _)| *ours == name) {
            return format!("{prefix}{theirs}");
        }
        if name == STATE_NORM.0 {
            return format!("{prefix}{layer}{}", STATE_NORM.1);
        }
        let plain = Prefixes::find(|name| name == "embed_tokens.weight").name_in_file(name);
        match plain.strip_prefix(FIRST_LAYERS[1]) {
            Some(part) => format!("{prefix}{layer}{part}"),
            None => format!("{prefix}{plain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_there_and_back() {
        for (prefix, layer) in [("", "midlayer."), ("model.", "layers.0."), ("", "layers.0.")] {
            let needed = ["fc.weight".to_owned(), format!("{layer}self_attn.q_proj.weight")];
            let needed = needed.map(|name| format!("{prefix}{name}"));
            let names = HeadNames::find(|name| needed.iter().any(|needed| needed == name));
            let names = names.expect("a head");
            for name in ["fc.weight", "d2t", "output.weight", STATE_NORM.0, "blk.0.ffn_up.weight"] {
                let found = match names.meaning(&names.name_in_file(name)) {
                    Meaning::Layer { name, .. } | Meaning::Model { name } => name,
                    other => panic!("{name}: {other:?}"),
                };
                assert_eq!(found, name);
            }
            assert_eq!(names.meaning("t2d"), Meaning::Nothing);
            assert_eq!(names.meaning("fc_norm.weight"), Meaning::Unknown);
        }
        assert!(HeadNames::find(|name| name == "model.layers.0.self_attn.q_proj.weight").is_none());
    }
}
