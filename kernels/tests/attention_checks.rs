//! What `attention` and its neighbours refuse, and what they leave in a trace.

use std::panic::{AssertUnwindSafe, catch_unwind};

use expect_test::expect;
use quire_kernels::{
    Activation, AttentionBatch, AttentionSpec, DType, Device, HeadNorm, KvLayer, RopeStyle,
    RopeTable, RopeWriteKv, Tensor, attention, copy_blocks, gated_mul, gather_rows, rope_write_kv,
};

const SPEC: AttentionSpec = AttentionSpec {
    num_q_heads: 4,
    num_kv_heads: 2,
    head_dim: 16,
    scale: 0.25,
    causal: true,
    window: None,
    chunk: None,
    softcap: None,
};

/// Whether one query at position 19 runs with these blocks (of 8 positions; the cache has 5).
fn is_accepted(block_table: &[u32], context_len: u32, window: Option<u32>) -> bool {
    let device = Device::cpu(1);
    let kv = KvLayer::new(&device, DType::F16, 5, 8, 2, 16).expect("a small cache");
    let q = Tensor::from_f32(&[1.0; 64], 1, 64);
    let mut out = Tensor::from_f32(&[f32::NAN; 64], 1, 64);
    let context_lens = [context_len];
    let batch = AttentionBatch {
        query_start_loc: (&[0, 1]).into(),
        context_lens: (&context_lens).into(),
        block_tables: block_table.into(),
        rows: (&[0]).into(),
        max_blocks_per_seq: block_table.len(),
        replayed_with: None,
        branches: None,
    };
    let spec = AttentionSpec { window, ..SPEC };
    catch_unwind(AssertUnwindSafe(|| {
        attention(&device, out.view_mut(), q.view(), &kv, &batch, &spec, None);
    }))
    .is_ok()
}

#[test]
fn a_block_that_would_be_read_must_exist() {
    assert!(is_accepted(&[4, 0, 2, u32::MAX], 20, None));
    assert!(!is_accepted(&[4, 0, 5], 20, None), "beyond the cache");
    assert!(!is_accepted(&[u32::MAX, 0, 2], 20, None), "freed");
    assert!(is_accepted(&[u32::MAX, 0, 2], 20, Some(12)), "freed before the window");
    assert!(!is_accepted(&[u32::MAX, 0, 2], 20, Some(13)), "freed inside the window");
    assert!(!is_accepted(&[4, 0], 20, None), "a context longer than the table");
    assert!(!is_accepted(&[4, 0], 0, None), "more queries than positions");
}

#[test]
fn a_trace_names_shapes_and_settings() {
    let (device, log) = Device::trace();
    let tensor = |rows, cols| Tensor::shape_only(DType::F32, rows, cols);
    let mut kv = KvLayer::new(&device, DType::BF16, 1 << 16, 16, 2, 16).unwrap();
    let (mut qkv, mut out, norm) = (tensor(3, 128), tensor(3, 64), tensor(1, 16));
    let rope = RopeTable::shape_only(16, 100, RopeStyle::Neox);
    let mut args = RopeWriteKv {
        head_dim: 16,
        num_q_heads: 4,
        num_kv_heads: 2,
        positions: (&[7, 8, 9]).into(),
        slot_mapping: (&[u32::MAX; 3]).into(),
        rope: Some(&rope),
        norm: Some(HeadNorm { q: &norm, k: &norm, v: None, eps: 1e-6 }),
    };
    rope_write_kv(&device, qkv.view_mut(), &mut kv, &args);
    (args.rope, args.norm) = (None, None);
    rope_write_kv(&device, qkv.view_mut(), &mut kv, &args);
    let batch = AttentionBatch {
        query_start_loc: (&[0, 2, 3]).into(),
        context_lens: (&[9, 30]).into(),
        block_tables: (&[3, 0, 7, 65535]).into(),
        rows: (&[1, 0]).into(),
        max_blocks_per_seq: 2,
        replayed_with: None,
        branches: None,
    };
    let q = qkv.view().columns(0..64);
    attention(&device, out.view_mut(), q, &kv, &batch, &SPEC, None);
    let spec = AttentionSpec { window: Some(8), softcap: Some(50.0), ..SPEC };
    attention(&device, out.view_mut(), q, &kv, &batch, &spec, None);
    gated_mul(&device, out.view_mut(), qkv.view(), Activation::Silu);
    gather_rows(&device, out.first_rows_mut(2), qkv.view().columns(0..64), (&[2, 0]).into());
    copy_blocks(&device, &mut kv, &[(0, 9)]);
    expect![[r"
        rope_write_kv 3 rows, 4+2 heads of 16, Neox 16, head norm, BF16
        rope_write_kv 3 rows, 4+2 heads of 16, no rope, BF16
        attention 3 rows of 2 sequences, 4/2 heads of 16, BF16
        attention 3 rows of 2 sequences, 4/2 heads of 16, window 8, softcap 50, BF16
        gated_mul 3x64 Silu
        gather_rows 2 of 3x64
        copy_blocks 1"]]
    .assert_eq(&log.lines().join("\n"));
}
