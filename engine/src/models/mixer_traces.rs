//! Traces of layers that mix positions otherwise than by heads of keys and values: latent vectors, indexers, Gated DeltaNet.

use expect_test::expect;
use quire_kernels::{GatedDeltaSpec, IndexSpec, RopeStyle};

use super::spec::{
    AttentionDims, DecoderSpec, IndexerSpec, LatentSpec, LayerSpec, ProjectionRows, Reach,
    RecurrentSpec,
};
use super::traces::{check, rope, spec};

fn latent() -> LatentSpec {
    LatentSpec {
        query_rank: Some(12),
        rank: 16,
        rope_dim: 4,
        nope_dim: 6,
        value_dim: 8,
        norm_eps: 1e-6,
    }
}

#[test]
fn deepseek2_keeps_latent_vectors() {
    let attention = AttentionDims { num_heads: 2, num_kv_heads: 1, head_dim: 20 };
    let layers = vec![LayerSpec { attention, ..spec().layers[0] }];
    let ropes = vec![rope(4, RopeStyle::Interleaved)];
    let latent = Some(latent());
    check(
        DecoderSpec { architecture: "deepseek2", layers, ropes, latent, ..spec() },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 32
            rms_norm 3x12
            linear 3x12 -> 20
            copy_heads 3 rows, 1 heads of 4
            rms_norm 3x16
            copy_heads 3 rows, 1 heads of 4
            rms_norm 3x16
            copy_heads 3 rows, 2 heads of 4
            head_linear 3x6 -> 16, 2 heads
            rope_write_kv 3 rows, 2+1 heads of 20, Interleaved 4, F16
            attention 3 rows of 2 sequences, 2/1 heads of 20, F16
            gather_rows 2 of 8x32
            gather_rows 2 of 8x40
            head_linear 2x16 -> 8, 2 heads
            linear 2x16 -> 32
            add_rms_norm 2x32
            linear 2x32 -> 96
            gated_mul 2x48 Silu
            linear 2x48 -> 32
            add_rms_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}

#[test]
fn deepseek32_attends_to_chosen_positions() {
    let heads = IndexSpec { num_heads: 3, head_dim: 10, top_k: 5 };
    let attention = AttentionDims { num_heads: 2, num_kv_heads: 1, head_dim: 20 };
    let own = LayerSpec { attention, reach: Reach::Chosen, ..spec().layers[0] };
    let as_before = LayerSpec { reach: Reach::AsBefore, ..own };
    check(
        DecoderSpec {
            architecture: "deepseek32",
            layers: vec![own, as_before],
            ropes: vec![rope(4, RopeStyle::Interleaved), rope(4, RopeStyle::Neox)],
            latent: Some(latent()),
            indexer: Some(IndexerSpec { heads, rope: 1 }),
            ..spec()
        },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 32
            rms_norm 3x12
            linear 3x12 -> 20
            copy_heads 3 rows, 1 heads of 4
            rms_norm 3x16
            copy_heads 3 rows, 1 heads of 4
            rms_norm 3x16
            linear 3x12 -> 30
            linear 3x32 -> 13
            index_keys 3x10, Neox 4, F16
            rope_queries 3 rows, 3 heads of 10, Neox 4
            choose_positions 5 for 3 rows of 2 sequences, 3 heads of 10, F16
            copy_heads 3 rows, 2 heads of 4
            head_linear 3x6 -> 16, 2 heads
            rope_write_kv 3 rows, 2+1 heads of 20, Interleaved 4, F16
            attention 3 rows of 2 sequences, 2/1 heads of 20, F16, to 5
            head_linear 3x16 -> 8, 2 heads
            linear 3x16 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 96
            gated_mul 3x48 Silu
            linear 3x48 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 32
            rms_norm 3x12
            linear 3x12 -> 20
            copy_heads 3 rows, 1 heads of 4
            rms_norm 3x16
            copy_heads 3 rows, 1 heads of 4
            rms_norm 3x16
            copy_heads 3 rows, 2 heads of 4
            head_linear 3x6 -> 16, 2 heads
            rope_write_kv 3 rows, 2+1 heads of 20, Interleaved 4, F16
            attention 3 rows of 2 sequences, 2/1 heads of 20, F16, to 5
            gather_rows 2 of 8x32
            gather_rows 2 of 8x40
            head_linear 2x16 -> 8, 2 heads
            linear 2x16 -> 32
            add_rms_norm 2x32
            linear 2x32 -> 96
            gated_mul 2x48 Silu
            linear 2x48 -> 32
            add_rms_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}

#[test]
fn qwen35_has_gated_delta_net_and_gated_attention() {
    let heads = GatedDeltaSpec {
        num_key_heads: 2,
        num_value_heads: 4,
        key_dim: 8,
        value_dim: 8,
        is_tiled: true,
    };
    let recurrent =
        RecurrentSpec { heads, taps: 4, has_log_rates: false, rows: ProjectionRows::Apart };
    let layer = spec().layers[0];
    check(
        DecoderSpec {
            layers: vec![LayerSpec { is_recurrent: true, ..layer }, layer],
            ropes: vec![rope(4, RopeStyle::Neox)],
            gated_delta: Some(recurrent),
            qk_norm: true,
            attention_gate: true,
            architecture: "qwen35",
            ..spec()
        },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 104
            causal_conv 3x64 of 2 sequences, 4 taps
            gated_delta 3 rows of 2 sequences, 4/2 heads of 8x8
            linear 3x32 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 96
            gated_mul 3x48 Silu
            linear 3x48 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 96
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 4, head norm, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            sigmoid_gate 3x32
            gather_rows 2 of 8x32
            gather_rows 2 of 8x32
            linear 2x32 -> 32
            add_rms_norm 2x32
            linear 2x32 -> 96
            gated_mul 2x48 Silu
            linear 2x48 -> 32
            add_rms_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}
