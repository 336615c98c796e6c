//! The ops of one step of each architecture, without weights: what a change of the decoder or a spec does shows here.

use expect_test::{Expect, expect};
use quire_kernels::{DType, Device, RopeStyle};

use super::Decoder;
use super::spec::{AttentionDims, DecoderSpec, RopeSpec};
use crate::kv_cache::KvCache;
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

fn spec() -> DecoderSpec {
    DecoderSpec {
        architecture: "llama",
        num_layers: 1,
        hidden_size: 32,
        intermediate_size: 48,
        vocab_size: 100,
        context_length: 64,
        attention: AttentionDims { num_heads: 4, num_kv_heads: 2, head_dim: 8 },
        norm_eps: 1e-5,
        rope: RopeSpec {
            theta: 10_000.0,
            rotary_dim: 8,
            style: RopeStyle::Interleaved,
            linear_factor: 1.0,
            has_frequency_factors: false,
        },
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: true,
    }
}

/// Two sequences: two tokens of a prompt and one of a decode.
fn check(spec: DecoderSpec, expected: Expect) {
    let (device, log) = Device::trace();
    let model = Decoder::load(spec.clone(), &WeightLoader::shape_only(&device), 64)
        .expect("shapes need no file");
    let mut workspace = Workspace::new(&device, &spec, 8, 4).expect("shapes need no memory");
    let mut kv_cache =
        KvCache::new(&device, &spec, DType::F16, 4, 16).expect("shapes need no memory");
    let step = StepInput {
        token_ids: &[1, 2, 3],
        positions: &[0, 1, 17],
        slot_mapping: &[0, 1, 33],
        query_start_loc: &[0, 2, 3],
        context_lens: &[2, 18],
        rows: &[0, 1],
        block_tables: &[0, 0, 1, 2],
        max_blocks_per_seq: 2,
    };
    model.forward(&device, &mut workspace, &mut kv_cache, &step);
    model.logits(&device, &mut workspace, &[1, 2]);
    expected.assert_eq(&log.lines().join("\n"));
}

#[test]
fn llama() {
    check(
        spec(),
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Interleaved 8, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            linear 3x32 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 96
            silu_mul 3x48
            linear 3x48 -> 32
            add_rms_norm 3x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}

#[test]
fn qwen2_adds_biases() {
    check(
        DecoderSpec { qkv_bias: true, architecture: "qwen2", ..spec() },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64 bias
            rope_write_kv 3 rows, 4+2 heads of 8, Interleaved 8, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            linear 3x32 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 96
            silu_mul 3x48
            linear 3x48 -> 32
            add_rms_norm 3x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}

#[test]
fn qwen3_normalises_heads() {
    let rope = RopeSpec { style: RopeStyle::Neox, ..spec().rope };
    check(
        DecoderSpec { qk_norm: true, architecture: "qwen3", rope, ..spec() },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, head norm, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            linear 3x32 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 96
            silu_mul 3x48
            linear 3x48 -> 32
            add_rms_norm 3x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}
