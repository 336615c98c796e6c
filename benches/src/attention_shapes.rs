//! `attention` at the shapes of real models: decode of many sequences, prefill of one.

use std::rc::Rc;

use quire_kernels::cases::{Work, random_f32};
use quire_kernels::cpu::limits::Arithmetic;
use quire_kernels::{
    AttentionBatch, AttentionSpec, DType, Device, KvLayer, RopeWriteKv, View, ViewMut, attention,
    rope_write_kv,
};

use crate::linear_shapes::{MODELS, ModelShape};
use crate::timing::Timed;

const BLOCK_SIZE: usize = 16;

/// Sequences, positions of each, queries of each.
const BATCHES: [(usize, usize, usize); 6] =
    [(1, 256, 1), (32, 256, 1), (1, 4096, 1), (32, 1024, 1), (1, 512, 512), (1, 2048, 512)];

/// Every batch at every model's shape.
pub fn cases(device: &Rc<Device>) -> Vec<Timed> {
    let shapes = MODELS.iter().flat_map(|model| BATCHES.map(|batch| (model, batch)));
    shapes.map(|(model, batch)| case(device, model, batch)).collect()
}

fn case(
    device: &Rc<Device>,
    model: &ModelShape,
    (num_seqs, context, queries): (usize, usize, usize),
) -> Timed {
    let &ModelShape { num_heads, num_kv_heads, head_dim, .. } = model;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let spec = AttentionSpec {
        num_q_heads: num_heads,
        num_kv_heads,
        head_dim,
        scale,
        causal: true,
        window: None,
        chunk: None,
        softcap: None,
    };
    let kv = filled_cache(device, &spec, num_seqs * context.div_ceil(BLOCK_SIZE));
    let blocks_per_seq = context.div_ceil(BLOCK_SIZE);
    let query_start_loc: Vec<u32> = (0..=num_seqs).map(|s| (s * queries) as u32).collect();
    let context_lens = vec![context as u32; num_seqs];
    // Neighbouring blocks of a sequence lie apart, as after a while of serving.
    let block_tables: Vec<u32> = (0..num_seqs * blocks_per_seq)
        .map(|entry| (entry / blocks_per_seq + entry % blocks_per_seq * num_seqs) as u32)
        .collect();
    let rows: Vec<u32> = (0..num_seqs as u32).collect();
    let (num_rows, q_size) = (num_seqs * queries, num_heads * head_dim);
    let q = random_f32(3, num_rows * q_size);
    let mut out = vec![0.0; num_rows * q_size];
    let device = Rc::clone(device);
    let visible = num_seqs * (context - queries + 1..=context).sum::<usize>();
    let kv_bytes = num_seqs * context * 2 * num_kv_heads * head_dim * DType::F16.size();
    Timed {
        op: "attention".into(),
        name: format!("{} {num_seqs} x ({queries} of {context}) F16", model.name),
        work: Work {
            bytes: (kv_bytes + 2 * 4 * num_rows * q_size) as u64,
            operations: (4 * visible * q_size) as u64,
        },
        arithmetic: Arithmetic::Float32,
        run: Box::new(move || {
            let batch = AttentionBatch {
                query_start_loc: (&query_start_loc).into(),
                context_lens: (&context_lens).into(),
                block_tables: (&block_tables).into(),
                rows: (&rows).into(),
                max_blocks_per_seq: blocks_per_seq,
                replayed_with: None,
                branches: None,
            };
            let q = View::from_f32(&q, num_rows, q_size);
            attention(
                &device,
                ViewMut::from_f32(&mut out, num_rows, q_size),
                q,
                &kv,
                &batch,
                &spec,
                None,
            );
        }),
    }
}

/// Pages full of random keys and values.
fn filled_cache(device: &Device, spec: &AttentionSpec, num_blocks: usize) -> KvLayer {
    let (kv_heads, head_dim) = (spec.num_kv_heads, spec.head_dim);
    let num_slots = num_blocks * BLOCK_SIZE;
    let mut kv = KvLayer::new(device, DType::F16, num_blocks, BLOCK_SIZE, kv_heads, head_dim)
        .expect("a cache of some megabytes");
    let slots: Vec<u32> = (0..num_slots as u32).collect();
    let args = RopeWriteKv {
        head_dim,
        num_q_heads: 0,
        num_kv_heads: kv_heads,
        positions: (&slots).into(),
        slot_mapping: (&slots).into(),
        rope: None,
        norm: None,
    };
    let mut values = random_f32(4, num_slots * 2 * kv_heads * head_dim);
    let rows = ViewMut::from_f32(&mut values, num_slots, 2 * kv_heads * head_dim);
    rope_write_kv(device, rows, &mut kv, &args);
    kv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_batch_runs() {
        let device = Rc::new(Device::cpu(2));
        let mut case = case(&device, &MODELS[0], (3, 40, 2));
        (case.run)();
        // Queries 39 and 40 of 40 positions, 9 heads of 64, four operations a pair and channel.
        assert_eq!(case.work.operations, 4 * 3 * (39 + 40) * 9 * 64);
    }
}
