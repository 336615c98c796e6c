//! Activations: how exactly each kind of linear layer rounds the rows it is given.

use std::fmt;
use std::str::FromStr;

use quire_kernels::ActivationPrecision;

/// The linear layers of a decoder by what they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearKind {
    Query,
    Key,
    Value,
    AttentionOutput,
    GateUp,
    Down,
    /// The logits; with tied embeddings the embedding table.
    Head,
}

impl LinearKind {
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::GateUp,
        Self::Down,
        Self::Head,
    ];

    /// As `--activations` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q",
            Self::Key => "k",
            Self::Value => "v",
            Self::AttentionOutput => "attn_output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Head => "head",
        }
    }

    /// Of a tensor by its name inside its layer; `None`: a tensor that this table does not know.
    pub fn of_tensor(name: &str) -> Option<Self> {
        // Of one expert: "ffn_up.3.weight".
        match name.strip_suffix(".weight")?.split('.').next()? {
            // One tensor for q, k and v: q has the most features.
            "attn_q" | "attn_qkv" => Some(Self::Query),
            "attn_k" => Some(Self::Key),
            "attn_v" => Some(Self::Value),
            "attn_output" => Some(Self::AttentionOutput),
            "ffn_gate" | "ffn_up" | "ffn_gate_shexp" | "ffn_up_shexp" | "ffn_gate_exps"
            | "ffn_up_exps" | "ffn_gate_up_exps" => Some(Self::GateUp),
            "ffn_down" | "ffn_down_shexp" | "ffn_down_exps" => Some(Self::Down),
            "output" | "token_embd" => Some(Self::Head),
            _ => None,
        }
    }
}

/// How exactly activations are rounded before they meet packed weights: `--activations`. The kinds of layers that get 16
/// bits; all others get 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activations {
    /// A bit for each kind.
    int16: u8,
}

impl Activations {
    /// 8 bits everywhere, the fastest: costs about what 4-bit weights cost in fidelity once more.
    pub const INT8: Self = Self { int16: 0 };
    /// 16 bits where they buy the most fidelity for their time.
    pub const MIXED: Self =
        Self::int16_for(&[LinearKind::Query, LinearKind::Key, LinearKind::Value]);
    /// 16 bits everywhere: as good as float32, at half the speed for many rows.
    pub const INT16: Self = Self::int16_for(&LinearKind::ALL);

    /// The values of the flag that have a name.
    const NAMED: [(&str, Self); 3] =
        [("int8", Self::INT8), ("mixed", Self::MIXED), ("int16", Self::INT16)];

    /// 16 bits for these kinds.
    pub const fn int16_for(kinds: &[LinearKind]) -> Self {
        let (mut int16, mut index) = (0, 0);
        while index < kinds.len() {
            int16 |= 1 << kinds[index] as u8;
            index += 1;
        }
        Self { int16 }
    }

    /// For the weight of that name inside its layer; one that the table of kinds does not know gets 16 only if all do.
    pub fn of_tensor(self, name: &str) -> ActivationPrecision {
        let is_wide = match LinearKind::of_tensor(name) {
            Some(kind) => self.has(kind),
            None => self == Self::INT16,
        };
        if is_wide { ActivationPrecision::Int16 } else { ActivationPrecision::Int8 }
    }

    fn has(self, kind: LinearKind) -> bool {
        self.int16 & 1 << kind as u8 != 0
    }
}

impl FromStr for Activations {
    type Err = String;

    /// `int8`, `mixed`, `int16`, or the kinds that get 16 bits, as `v,head`; `qkv` is `q,k,v`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, named)) = Self::NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*named);
        }
        let kind = |name: &str| {
            LinearKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let kinds = LinearKind::ALL.map(LinearKind::name).join(",");
                format!("write int8, mixed, int16, or the layers that get int16, of {kinds} (qkv: q,k,v)")
            })
        };
        let names =
            text.split(',').flat_map(|name| if name == "qkv" { "q,k,v" } else { name }.split(','));
        let kinds = names.map(kind).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::int16_for(&kinds))
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> =
            LinearKind::ALL.into_iter().filter(|&k| self.has(k)).map(LinearKind::name).collect();
        match Self::NAMED.iter().find(|(_, named)| named == self) {
            Some(&("mixed", _)) => write!(f, "mixed (int16 for {})", kinds.join(", ")),
            Some((name, _)) => f.write_str(name),
            None => write!(f, "int8 (int16 for {})", kinds.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_names_a_mixture_or_its_layers() {
        let parse = |text: &str| text.parse::<Activations>();
        assert_eq!(parse("int8"), Ok(Activations::INT8));
        assert_eq!(parse("mixed"), Ok(Activations::MIXED));
        assert_eq!(parse("qkv"), Ok(Activations::MIXED));
        assert_eq!(parse("q,k,v,attn_output,gate_up,down,head"), Ok(Activations::INT16));
        let mixture = parse("head,down").unwrap();
        assert_eq!(mixture, Activations::int16_for(&[LinearKind::Down, LinearKind::Head]));
        assert_eq!(mixture.to_string(), "int8 (int16 for down, head)");
        for text in ["", "int4", "qkv,", "qkv, head", "INT8"] {
            assert!(parse(text).unwrap_err().contains("gate_up"), "{text:?}");
        }
    }

    #[test]
    fn a_tensor_gets_the_bits_of_its_kind() {
        use ActivationPrecision::{Int8, Int16};
        let value = Activations::int16_for(&[LinearKind::Value]);
        for (name, precision) in [
            ("attn_v.weight", Int16),
            ("attn_k.weight", Int8),
            ("attn_qkv.weight", Int8),
            ("attn_output.weight", Int8),
            ("ffn_up.weight", Int8),
            ("token_embd.weight", Int8),
            ("of_a_later_model.weight", Int8),
        ] {
            assert_eq!(value.of_tensor(name), precision, "{name}");
            assert_eq!(Activations::INT8.of_tensor(name), Int8, "{name}");
            assert_eq!(Activations::INT16.of_tensor(name), Int16, "{name}");
        }
    }
}
