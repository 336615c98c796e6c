//! Bytes and operations of one step of a model: what its speed is a share of.

use std::collections::HashMap;

use quire_engine::{MemoryPlan, ModelFiles};
use quire_kernels::cases::Work;
use quire_kernels::cpu::limits::Arithmetic;

use crate::linear_shapes::arithmetic_of;

/// What a step of one model costs at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelWork {
    /// Of all linear layers but the experts, as in the file.
    layer_bytes: u64,
    layer_weights: u64,
    experts: Experts,
    /// Of the head, which may be the embedding table.
    head_bytes: u64,
    head_weights: u64,
    kv_bytes_per_token: u64,
    /// Operations of one query at one position, over all layers.
    attention_operations: u64,
    /// Of most of the weights.
    pub arithmetic: Arithmetic,
}

/// All experts of all layers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Experts {
    bytes: u64,
    weights: u64,
    /// Experts that a row is given, as a share of all.
    share: f64,
}

impl Experts {
    /// Bytes that `num_rows` rows read if each expert is as likely as any other.
    fn bytes_read(&self, num_rows: u64) -> u64 {
        let unread = (1.0 - self.share).powf(num_rows as f64);
        (self.bytes as f64 * (1.0 - unread)) as u64
    }

    /// Weights that one row is multiplied by.
    fn weights_of_a_row(&self) -> u64 {
        (self.weights as f64 * self.share) as u64
    }
}

impl ModelWork {
    pub fn new(files: &ModelFiles, plan: &MemoryPlan) -> Self {
        let spec = plan.spec.decoder().expect("benches run models that write text");
        let head = if spec.tied_embeddings { "token_embd.weight" } else { "output.weight" };
        let tensors = files.tensors();
        let matrices = || tensors.iter().filter(|tensor| tensor.is_matrix);
        let sum = |wanted: &dyn Fn(&str) -> bool| {
            let tensors = matrices().filter(|tensor| wanted(tensor.name));
            tensors.fold((0, 0), |(bytes, weights), tensor| {
                (bytes + tensor.num_bytes, weights + tensor.num_elements)
            })
        };
        let is_expert = |name: &str| name.contains("_exps.");
        let (layer_bytes, layer_weights) =
            sum(&|name| name.starts_with("blk.") && !is_expert(name));
        let (bytes, weights) = sum(&is_expert);
        let router = spec.moe.map(|moe| moe.router);
        let share =
            router.map_or(0.0, |router| router.num_chosen as f64 / router.num_experts as f64);
        let (head_bytes, head_weights) = sum(&|name| name == head);
        let mut weights_by_format = HashMap::new();
        for tensor in matrices() {
            if let Some(format) = tensor.format {
                *weights_by_format.entry(format).or_insert(0) += tensor.num_elements;
            }
        }
        let commonest = weights_by_format.into_iter().max_by_key(|&(_, weights)| weights);
        Self {
            layer_bytes,
            layer_weights,
            experts: Experts { bytes, weights, share },
            head_bytes,
            head_weights,
            kv_bytes_per_token: plan.kv_bytes_per_token,
            attention_operations: spec
                .layers
                .iter()
                .map(|layer| 4 * layer.attention.q_size() as u64)
                .sum(),
            arithmetic: commonest.map_or(Arithmetic::Float32, |(format, _)| arithmetic_of(format)),
        }
    }

    /// One token each of `batch` sequences of `context` positions.
    pub fn decode_step(&self, batch: u64, context: u64) -> Work {
        let positions = batch * context;
        Work {
            bytes: self.weight_bytes(batch) + positions * self.kv_bytes_per_token,
            operations: 2 * batch * (self.weights_of_a_row() + self.head_weights)
                + positions * self.attention_operations,
        }
    }

    /// A whole prompt; logits of its last token only.
    pub fn prefill(&self, num_tokens: u64) -> Work {
        let pairs = num_tokens * (num_tokens + 1) / 2;
        Work {
            bytes: self.weight_bytes(num_tokens) + num_tokens * self.kv_bytes_per_token,
            operations: 2 * (num_tokens * self.weights_of_a_row() + self.head_weights)
                + pairs * self.attention_operations,
        }
    }

    fn weight_bytes(&self, num_rows: u64) -> u64 {
        self.layer_bytes + self.experts.bytes_read(num_rows) + self.head_bytes
    }

    fn weights_of_a_row(&self) -> u64 {
        self.layer_weights + self.experts.weights_of_a_row()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: ModelWork = ModelWork {
        layer_bytes: 100,
        layer_weights: 200,
        experts: Experts { bytes: 0, weights: 0, share: 0.0 },
        head_bytes: 10,
        head_weights: 20,
        kv_bytes_per_token: 3,
        attention_operations: 7,
        arithmetic: Arithmetic::Int8,
    };

    #[test]
    fn a_batch_reads_the_weights_once() {
        let work = WORK.decode_step(4, 5);
        assert_eq!((work.bytes, work.operations), (110 + 4 * 5 * 3, 2 * 4 * 220 + 4 * 5 * 7));
    }

    #[test]
    fn a_row_needs_its_experts_and_many_rows_read_all() {
        let experts = Experts { bytes: 800, weights: 1600, share: 0.25 };
        let work = ModelWork { experts, ..WORK };
        let one = work.decode_step(1, 0);
        assert_eq!((one.bytes, one.operations), (110 + 200, 2 * (220 + 400)));
        assert_eq!(work.decode_step(2, 0).bytes, 110 + 350);
        assert_eq!(work.decode_step(1000, 0).bytes, 110 + 800);
        assert_eq!(work.prefill(3).operations, 2 * (3 * 600 + 20) + 6 * 7);
    }

    #[test]
    fn a_prompt_needs_the_head_once_and_half_of_all_pairs() {
        let work = WORK.prefill(3);
        assert_eq!((work.bytes, work.operations), (110 + 9, 2 * (3 * 200 + 20) + 6 * 7));
    }
}
