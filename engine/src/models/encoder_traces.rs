//! The ops of one step of each kind of encoder, without weights: what a change of the forward pass does shows here.

use expect_test::{Expect, expect};
use quire_kernels::{Activation, DType, Device, RopeStyle, StateBatch};

use super::encoder_spec::{EncoderLayerSpec, EncoderSpec, NormPlace, PositionTable};
use super::rope::{RopeScaling, RopeSpec};
use super::spec::AttentionDims;
use super::{Encoder, ModelSpec};
use crate::kv_cache::KvCache;
use crate::step_input::{GroupInputs, StepInput};
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// BERT with one layer.
fn bert() -> EncoderSpec {
    EncoderSpec {
        architecture: "bert",
        hidden_size: 32,
        vocab_size: 100,
        context_length: 64,
        layers: vec![EncoderLayerSpec { window: None, rope: None }],
        attention: AttentionDims { num_heads: 4, num_kv_heads: 4, head_dim: 8 },
        ropes: Vec::new(),
        positions: Some(PositionTable { num_rows: 66, first_row: 2 }),
        num_token_types: 2,
        intermediate_size: 48,
        activation: Activation::Gelu,
        is_gated: false,
        norms: NormPlace::After,
        norm_eps: 1e-12,
        norm_bias: true,
        attention_bias: true,
        ffn_bias: true,
        rank_head: None,
    }
}

fn rope() -> RopeSpec {
    let (style, scaling) = (RopeStyle::Neox, RopeScaling::None);
    RopeSpec { theta: 10_000.0, rotary_dim: 8, style, scaling, attention_factor: 1.0 }
}

/// Two texts, of two tokens and of one.
fn check(spec: EncoderSpec, expected: Expect) {
    let (device, log) = Device::trace();
    let model = Encoder::load(spec.clone(), &WeightLoader::shape_only(&device), 64)
        .expect("shapes need no file");
    let spec = ModelSpec::Encoder(spec);
    let mut workspace = Workspace::new(&device, &spec, 8, 4).expect("shapes need no memory");
    let layout = spec.cache_layout(None, false);
    let mut kv_cache =
        KvCache::new(&device, &layout, DType::F32, &[4], 16).expect("shapes need no memory");
    let step = StepInput {
        token_ids: (&[1, 2, 3]).into(),
        positions: (&[0, 1, 0]).into(),
        slot_mapping: (&[0, 1, 16]).into(),
        query_start_loc: (&[0, 2, 3]).into(),
        context_lens: (&[2, 1]).into(),
        rows: (&[0, 1]).into(),
        output_rows: (&[1, 2]).into(),
        block_tables: (&[0, 0, 1, 0]).into(),
        max_blocks_per_seq: 2,
        groups: GroupInputs::default(),
        states: StateBatch::new(&[], &[]),
        replayed_with: None,
        branches: None,
    };
    model.forward(&device, &mut workspace, &mut kv_cache, &step);
    expected.assert_eq(&(log.lines().join("\n") + "\n"));
}

#[test]
fn norms_behind_blocks() {
    check(
        bert(),
        expect![[r#"
        embedding 3x32
        add_rows 3x32 of 64
        layer_norm 3x32
        linear 3x32 -> 96 bias
        rope_write_kv 3 rows, 4+4 heads of 8, no rope, F32
        attention 3 rows of 2 sequences, 4/4 heads of 8, both directions, F32
        linear 3x32 -> 32 bias
        post_layer_norm 3x32
        linear 3x32 -> 48 bias
        activate 3x48 Gelu
        linear 3x48 -> 32 bias
        post_layer_norm 3x32
    "#]],
    );
}

#[test]
fn norms_before_blocks_windows_and_gates() {
    let spec = EncoderSpec {
        layers: vec![
            EncoderLayerSpec { window: None, rope: Some(0) },
            EncoderLayerSpec { window: Some(32), rope: Some(0) },
        ],
        ropes: vec![rope()],
        positions: None,
        num_token_types: 0,
        is_gated: true,
        norms: NormPlace::Before,
        norm_bias: false,
        attention_bias: false,
        ffn_bias: false,
        ..bert()
    };
    check(
        spec,
        expect![[r#"
        embedding 3x32
        layer_norm 3x32
        linear 3x32 -> 96
        rope_write_kv 3 rows, 4+4 heads of 8, Neox 8, F32
        attention 3 rows of 2 sequences, 4/4 heads of 8, both directions, F32
        linear 3x32 -> 32
        add_layer_norm 3x32
        linear 3x32 -> 96
        gated_mul 3x48 Gelu
        linear 3x48 -> 32
        add_layer_norm 3x32
        linear 3x32 -> 96
        rope_write_kv 3 rows, 4+4 heads of 8, Neox 8, F32
        attention 3 rows of 2 sequences, 4/4 heads of 8, both directions, window 32, F32
        linear 3x32 -> 32
        add_layer_norm 3x32
        linear 3x32 -> 96
        gated_mul 3x48 Gelu
        linear 3x48 -> 32
        add_layer_norm 3x32
    "#]],
    );
}

#[test]
fn one_kind_of_token_without_learned_positions() {
    let spec = EncoderSpec {
        layers: vec![EncoderLayerSpec { window: None, rope: Some(0) }],
        ropes: vec![rope()],
        positions: None,
        activation: Activation::Silu,
        is_gated: true,
        attention_bias: false,
        ffn_bias: false,
        ..bert()
    };
    check(
        spec,
        expect![[r#"
        embedding 3x32
        add_rows 3x32 of 1
        layer_norm 3x32
        linear 3x32 -> 96
        rope_write_kv 3 rows, 4+4 heads of 8, Neox 8, F32
        attention 3 rows of 2 sequences, 4/4 heads of 8, both directions, F32
        linear 3x32 -> 32
        post_layer_norm 3x32
        linear 3x32 -> 96
        gated_mul 3x48 Silu
        linear 3x48 -> 32
        post_layer_norm 3x32
    "#]],
    );
}
