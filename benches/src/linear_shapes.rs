//! `linear` at the shapes of real models.

use std::rc::Rc;

use quire_kernels::cases::{Work, random_f32};
use quire_kernels::cpu::limits::Arithmetic;
use quire_kernels::linear::cases::random_weight_bytes;
use quire_kernels::{
    ActivationPrecision, Device, LinearWeight, View, ViewMut, WeightFormat, WeightPolicy, linear,
};

use crate::timing::Timed;

/// Dimensions of a model whose layers are timed.
pub struct ModelShape {
    pub name: &'static str,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
}

pub const MODELS: [ModelShape; 2] = [
    ModelShape {
        name: "SmolLM2-135M",
        hidden_size: 576,
        intermediate_size: 1536,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        vocab_size: 49152,
    },
    ModelShape {
        name: "Qwen2.5-1.5B",
        hidden_size: 1536,
        intermediate_size: 8960,
        num_heads: 12,
        num_kv_heads: 2,
        head_dim: 128,
        vocab_size: 151_936,
    },
];

/// Weights and what they are multiplied with.
const FORMATS: [(WeightFormat, ActivationPrecision); 7] = [
    (WeightFormat::Q4_1, ActivationPrecision::Int8),
    (WeightFormat::Q4_1, ActivationPrecision::Int16),
    (WeightFormat::Q8_0, ActivationPrecision::Int8),
    (WeightFormat::Q8_0, ActivationPrecision::Int16),
    (WeightFormat::Q4K, ActivationPrecision::Int8),
    (WeightFormat::Q6K, ActivationPrecision::Int8),
    (WeightFormat::F16, ActivationPrecision::Int8),
];

const NUM_ROWS: [usize; 6] = [1, 4, 8, 32, 128, 512];
/// The head computes logits of sampled rows only.
const MAX_HEAD_ROWS: usize = 32;

/// Copies of a weight take turns, this many bytes in all, so that it comes from memory as in a whole model.
const ROTATION_BYTES: usize = 200 << 20;
/// Random weights are made of this many features, repeated: numbers are slow to draw.
const DISTINCT_FEATURES: usize = 512;

/// One weight, timed at every number of rows.
pub struct LinearGroup {
    name: String,
    format: WeightFormat,
    activations: ActivationPrecision,
    out_features: usize,
    in_features: usize,
    max_rows: usize,
}

/// All layers of all models in all formats whose blocks fit.
pub fn groups() -> Vec<LinearGroup> {
    let mut groups = Vec::new();
    for model in &MODELS {
        let (hidden, intermediate) = (model.hidden_size, model.intermediate_size);
        let q_size = model.num_heads * model.head_dim;
        let qkv_size = q_size + 2 * model.num_kv_heads * model.head_dim;
        let layers = [
            ("qkv", qkv_size, hidden, usize::MAX),
            ("o", hidden, q_size, usize::MAX),
            ("gate+up", 2 * intermediate, hidden, usize::MAX),
            ("down", hidden, intermediate, usize::MAX),
            ("head", model.vocab_size, hidden, MAX_HEAD_ROWS),
        ];
        for (layer, out_features, in_features, max_rows) in layers {
            for (format, activations) in FORMATS {
                if format.row_bytes(in_features).is_some() {
                    let precision = match activations {
                        ActivationPrecision::Int16 => " int16",
                        _ => "",
                    };
                    let name = format!("{} {layer} {format}{precision}", model.name);
                    groups.push(LinearGroup {
                        name,
                        format,
                        activations,
                        out_features,
                        in_features,
                        max_rows,
                    });
                }
            }
        }
    }
    groups
}

impl LinearGroup {
    /// Makes the weights: the group's memory is held until the cases are dropped.
    pub fn cases(&self, device: &Rc<Device>) -> Vec<Timed> {
        let &Self { format, activations, out_features, in_features, .. } = self;
        let num_distinct = out_features.min(DISTINCT_FEATURES);
        let distinct = random_weight_bytes(format, num_distinct, in_features, 7);
        let num_bytes = format.row_bytes(in_features).expect("whole blocks") * out_features;
        let bytes: Vec<u8> = distinct.iter().copied().cycle().take(num_bytes).collect();
        let load = || {
            let policy = match activations {
                ActivationPrecision::Int16 => WeightPolicy::Packed,
                _ => WeightPolicy::PackedHalves,
            };
            LinearWeight::from_gguf(device, format, &bytes, out_features, in_features, policy)
                .expect("a valid weight that fits into memory")
                .with_activations(activations)
        };
        let weights: Rc<Vec<LinearWeight>> =
            Rc::new((0..ROTATION_BYTES.div_ceil(num_bytes)).map(|_| load()).collect());
        self.num_rows()
            .map(|rows| self.case(rows, Rc::clone(device), Rc::clone(&weights), num_bytes))
            .collect()
    }

    /// What `cases` will be called.
    pub fn case_names(&self) -> Vec<String> {
        self.num_rows().map(|rows| self.case_name(rows)).collect()
    }

    fn num_rows(&self) -> impl Iterator<Item = usize> {
        NUM_ROWS.into_iter().filter(|&rows| rows <= self.max_rows)
    }

    fn case_name(&self, rows: usize) -> String {
        format!("{} {rows}x{} -> {}", self.name, self.in_features, self.out_features)
    }

    fn case(
        &self,
        rows: usize,
        device: Rc<Device>,
        weights: Rc<Vec<LinearWeight>>,
        weight_bytes: usize,
    ) -> Timed {
        let (out_features, in_features) = (self.out_features, self.in_features);
        let x = random_f32(8, rows * in_features);
        let mut out = vec![0.0; rows * out_features];
        let mut turn = 0;
        Timed {
            op: "linear".into(),
            name: self.case_name(rows),
            work: Work {
                bytes: (weight_bytes + 4 * rows * (in_features + out_features)) as u64,
                operations: 2 * (rows * in_features * out_features) as u64,
            },
            arithmetic: arithmetic_of(self.format),
            run: Box::new(move || {
                let x = View::from_f32(&x, rows, in_features);
                let out = ViewMut::from_f32(&mut out, rows, out_features);
                linear(&device, out, x, &weights[turn % weights.len()], None);
                turn += 1;
            }),
        }
    }
}

/// The fastest arithmetic that weights of this format allow.
pub fn arithmetic_of(format: WeightFormat) -> Arithmetic {
    match format {
        WeightFormat::F32 | WeightFormat::F16 => Arithmetic::Float32,
        WeightFormat::BF16 => Arithmetic::Bfloat16,
        _ => Arithmetic::Int8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_runs_at_every_number_of_rows() {
        let device = Rc::new(Device::cpu(1));
        let group = LinearGroup {
            name: "tiny".into(),
            format: WeightFormat::Q8_0,
            activations: ActivationPrecision::Int8,
            out_features: 640,
            in_features: 32,
            max_rows: 8,
        };
        let mut cases = group.cases(&device);
        for case in &mut cases {
            (case.run)();
        }
        assert!(cases.iter().map(|case| &case.name).eq(&group.case_names()));
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["tiny 1x32 -> 640", "tiny 4x32 -> 640", "tiny 8x32 -> 640"]);
        assert_eq!(cases[1].work.operations, 2 * 4 * 32 * 640);
    }

    #[test]
    fn formats_are_timed_where_their_blocks_fit() {
        let names: Vec<String> = groups().into_iter().map(|group| group.name).collect();
        assert!(names.contains(&"Qwen2.5-1.5B head Q4_K".to_owned()));
        assert!(!names.contains(&"SmolLM2-135M qkv Q4_K".to_owned()), "576 is no multiple of 256");
    }
}
