//! The ops of one step of each architecture, without weights: what a change of the decoder or a spec does shows here.

use expect_test::{Expect, expect};
use quire_kernels::{
    Activation, DType, Device, NO_STATE, RopeStyle, RouterScores, RouterSpec, StateBatch,
    StateSegment,
};

use super::Decoder;
use super::rope::{RopeScaling, RopeSpec};
use super::spec::{
    AttentionDims, DecoderSpec, ExpertLayout, FfnSpec, LayerSpec, MoeSpec, PlainDecoder,
    QueryScale, SharedExpertSpec,
};
use crate::cache_layout::CacheLayout;
use crate::kv_cache::KvCache;
use crate::step_input::{GroupInputs, StepInput};
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

pub(super) fn spec() -> DecoderSpec {
    let attention = AttentionDims { num_heads: 4, num_kv_heads: 2, head_dim: 8 };
    DecoderSpec::plain(PlainDecoder {
        architecture: "llama",
        hidden_size: 32,
        vocab_size: 100,
        context_length: 64,
        head_dim: 8,
        layers: vec![LayerSpec::plain(attention, 48)],
        rope: rope(8, RopeStyle::Interleaved),
        norm_eps: 1e-5,
        tied_embeddings: true,
    })
}

pub(super) fn rope(rotary_dim: usize, style: RopeStyle) -> RopeSpec {
    let scaling = RopeScaling::None;
    RopeSpec { theta: 10_000.0, rotary_dim, style, scaling, attention_factor: 1.0 }
}

/// Two sequences: two tokens of a prompt and one of a decode.
pub(super) fn check(spec: DecoderSpec, expected: Expect) {
    let (device, log) = Device::trace();
    let model = Decoder::load(spec.clone(), &WeightLoader::shape_only(&device), 64)
        .expect("shapes need no file");
    let mut workspace = Workspace::of_decoder(&device, &spec, 8, 4).expect("shapes need no memory");
    let layout = CacheLayout::new(&spec, false);
    let (num_blocks, num_groups) = (vec![4; layout.pools.len()], layout.groups.len());
    let mut kv_cache =
        KvCache::new(&device, &layout, DType::F16, &num_blocks, 16).expect("shapes need no memory");
    let segment = |first_row, num_rows, from, to| StateSegment { first_row, num_rows, from, to };
    let segments = [segment(0, 2, NO_STATE, 0), segment(2, 1, 1, 1)];
    let step = StepInput {
        token_ids: (&[1, 2, 3]).into(),
        positions: (&[0, 1, 17]).into(),
        slot_mapping: (&[0, 1, 33]).into(),
        query_start_loc: (&[0, 2, 3]).into(),
        context_lens: (&[2, 18]).into(),
        rows: (&[0, 1]).into(),
        output_rows: (&[1, 2]).into(),
        block_tables: (&[0, 0, 1, 2]).into(),
        max_blocks_per_seq: 2,
        replayed_with: None,
        branches: None,
        groups: GroupInputs {
            slot_mappings: &vec![vec![0, 1, 33]; num_groups],
            block_tables: &vec![vec![0, 0, 1, 2]; num_groups],
            arrays: None,
        },
        states: StateBatch::new(&segments, &[0, 1, 2]),
    };
    model.forward(&device, &mut workspace, &mut kv_cache, &step);
    model.logits(&device, &mut workspace, (&[0, 1]).into());
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

#[test]
fn qwen3_normalises_heads() {
    let ropes = vec![rope(8, RopeStyle::Neox)];
    check(
        DecoderSpec { qk_norm: true, architecture: "qwen3", ropes, ..spec() },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, head norm, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
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

#[test]
fn gemma2_normalises_around_blocks_and_caps_logits() {
    let layer = spec().layers[0];
    check(
        DecoderSpec {
            architecture: "gemma2",
            layers: vec![LayerSpec { window: Some(16), ..layer }, layer],
            post_norms: true,
            activation: Activation::GeluTanh,
            attention_softcap: Some(50.0),
            logits_softcap: Some(30.0),
            ropes: vec![rope(8, RopeStyle::Neox)],
            ..spec()
        },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, window 16, softcap 50, F16
            linear 3x32 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 96
            gated_mul 3x48 GeluTanh
            linear 3x48 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, softcap 50, F16
            gather_rows 2 of 8x32
            gather_rows 2 of 8x32
            linear 2x32 -> 32
            sandwich_norm 2x32
            linear 2x32 -> 96
            gated_mul 2x48 GeluTanh
            linear 2x48 -> 32
            sandwich_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100
            softcap 2x100, 30"#]],
    );
}

#[test]
fn gemma3_has_a_rotation_for_each_kind_of_layer() {
    let layer = spec().layers[0];
    check(
        DecoderSpec {
            architecture: "gemma3",
            layers: vec![LayerSpec { window: Some(16), rope: Some(1), ..layer }, layer],
            qk_norm: true,
            post_norms: true,
            activation: Activation::GeluTanh,
            ropes: vec![rope(8, RopeStyle::Neox), rope(8, RopeStyle::Neox)],
            ..spec()
        },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, head norm, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, window 16, F16
            linear 3x32 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 96
            gated_mul 3x48 GeluTanh
            linear 3x48 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, head norm, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            gather_rows 2 of 8x32
            gather_rows 2 of 8x32
            linear 2x32 -> 32
            sandwich_norm 2x32
            linear 2x32 -> 96
            gated_mul 2x48 GeluTanh
            linear 2x48 -> 32
            sandwich_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}

#[test]
fn phi3_rotates_a_part_of_each_head() {
    let layer = LayerSpec { window: Some(16), ..spec().layers[0] };
    let ropes = vec![rope(6, RopeStyle::Neox)];
    check(
        DecoderSpec { architecture: "phi3", layers: vec![layer], ropes, ..spec() },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 6, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, window 16, F16
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

#[test]
fn smollm3_has_layers_without_positions() {
    let layer = spec().layers[0];
    let layers = vec![layer, LayerSpec { rope: None, ..layer }];
    check(
        DecoderSpec { architecture: "smollm3", layers, ..spec() },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Interleaved 8, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            linear 3x32 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 96
            gated_mul 3x48 Silu
            linear 3x48 -> 32
            add_rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, no rope, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
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

#[test]
fn mistral3_scales_queries() {
    let query_scale =
        Some(QueryScale { beta: 0.1, original_context_length: 16, offset: 0, without_rope: false });
    check(
        DecoderSpec {
            architecture: "mistral3",
            query_scale,
            attention_output_bias: true,
            ..spec()
        },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Interleaved 8, F16
            scale_by_position 3x32
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            gather_rows 2 of 8x32
            gather_rows 2 of 8x32
            linear 2x32 -> 32 bias
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
fn gemma4_has_wider_heads_where_it_sees_all() {
    let near = LayerSpec { window: Some(16), rope: Some(1), ..spec().layers[0] };
    let attention = AttentionDims { num_heads: 4, num_kv_heads: 1, head_dim: 16 };
    let far = LayerSpec { attention, shares_key_weight: true, ..spec().layers[0] };
    check(
        DecoderSpec {
            architecture: "gemma4",
            layers: vec![near, far],
            ropes: vec![rope(16, RopeStyle::Neox), rope(8, RopeStyle::Neox)],
            qk_norm: true,
            value_norm: true,
            post_norms: true,
            layer_scales: true,
            activation: Activation::GeluTanh,
            logits_softcap: Some(30.0),
            ..spec()
        },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, head and value norm, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, window 16, F16
            linear 3x32 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 96
            gated_mul 3x48 GeluTanh
            linear 3x48 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 96
            rope_write_kv 3 rows, 4+1 heads of 16, Neox 16, head and value norm, F16
            attention 3 rows of 2 sequences, 4/1 heads of 16, F16
            gather_rows 2 of 8x32
            gather_rows 2 of 8x64
            linear 2x64 -> 32
            sandwich_norm 2x32
            linear 2x32 -> 96
            gated_mul 2x48 GeluTanh
            linear 2x48 -> 32
            sandwich_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100
            softcap 2x100, 30"#]],
    );
}

#[test]
fn gemma4_may_share_keys_and_have_embeddings_for_each_layer() {
    let own = LayerSpec { window: Some(16), ..spec().layers[0] };
    let shared = LayerSpec { kv_of: Some(0), ..own };
    check(
        DecoderSpec {
            architecture: "gemma4",
            layers: vec![own, shared],
            ropes: vec![rope(8, RopeStyle::Neox)],
            qk_norm: true,
            value_norm: true,
            post_norms: true,
            layer_scales: true,
            per_layer_inputs: Some(6),
            activation: Activation::GeluTanh,
            ..spec()
        },
        expect![[r#"
            embedding 3x32
            embedding 3x12
            copy_heads 3 rows, 1 heads of 32
            linear 3x32 -> 12
            sandwich_norm 6x6, scale 0.70710677
            copy_heads 3 rows, 1 heads of 12
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Neox 8, head and value norm, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, window 16, F16
            linear 3x32 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 96
            gated_mul 3x48 GeluTanh
            linear 3x48 -> 32
            sandwich_norm 3x32
            copy_heads 3 rows, 1 heads of 32
            linear 3x32 -> 6
            copy_heads 3 rows, 1 heads of 6
            gated_mul 3x6 GeluTanh
            linear 3x6 -> 32
            sandwich_norm 3x32
            linear 3x32 -> 32
            rope_queries 3 rows, 4 heads of 8, Neox 8, head and value norm
            attention 3 rows of 2 sequences, 4/2 heads of 8, window 16, F16
            gather_rows 2 of 8x32
            gather_rows 2 of 8x32
            linear 2x32 -> 32
            sandwich_norm 2x32
            linear 2x32 -> 96
            gated_mul 2x48 GeluTanh
            linear 2x48 -> 32
            sandwich_norm 2x32
            copy_heads 2 rows, 1 heads of 32
            linear 2x32 -> 6
            gather_rows 2 of 8x6
            gated_mul 2x6 GeluTanh
            linear 2x6 -> 32
            sandwich_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}

#[test]
fn qwen2moe_has_experts_and_one_for_every_row() {
    let router = RouterSpec {
        num_experts: 8,
        num_chosen: 2,
        scores: RouterScores::Softmax,
        groups: None,
        normalises: false,
        scale: 1.0,
    };
    let moe = MoeSpec {
        router,
        intermediate_size: 16,
        num_channels: 16,
        block_channels: 1,
        shared: Some(SharedExpertSpec { intermediate_size: 24, is_gated: true }),
        router_bias: false,
        choice_bias: false,
        expert_scales: false,
        weighs_input: false,
        expert_biases: false,
        layout: ExpertLayout::Rows,
    };
    let layers = vec![LayerSpec { ffn: FfnSpec::Experts, ..spec().layers[0] }];
    check(
        DecoderSpec { architecture: "qwen2moe", layers, moe: Some(moe), ..spec() },
        expect![[r#"
            embedding 3x32
            rms_norm 3x32
            linear 3x32 -> 64
            rope_write_kv 3 rows, 4+2 heads of 8, Interleaved 8, F16
            attention 3 rows of 2 sequences, 4/2 heads of 8, F16
            gather_rows 2 of 8x32
            gather_rows 2 of 8x32
            linear 2x32 -> 32
            add_rms_norm 2x32
            linear 2x32 -> 48
            gated_mul 2x24 Silu
            linear 2x24 -> 32
            linear 2x32 -> 8
            route_experts 2 rows to 2 of 8, Softmax
            expert_linear 4 of 2x32 -> 32, 8 experts
            gated_mul 4x16 Silu
            expert_linear 4 of 4x16 -> 32, 8 experts
            linear 2x32 -> 1
            combine_experts 2x32 of 4, gated shared
            add_rms_norm 2x32
            gather_rows 2 of 8x32
            linear 2x32 -> 100"#]],
    );
}
