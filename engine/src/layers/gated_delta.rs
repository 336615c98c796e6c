//! Gated DeltaNet (Yang et al. 2024): a block that keeps a state of fixed size in place of keys and values.

use std::ops::Range;

use quire_kernels::{
    Device, GatedDelta, GatedDeltaSpec, LinearWeight, RecurrentLayer, Tensor, causal_conv,
    gated_delta, linear,
};

use super::{BlockNorm, OutputProjection};
use crate::models::spec::{DecoderSpec, ProjectionRows, RecurrentSpec};
use crate::step_input::StepInput;
use crate::weights::{Shard, WeightLoader};
use crate::workspace::Workspace;

/// Weights of one layer's block.
pub struct GatedDeltaNet {
    spec: RecurrentSpec,
    /// q, k, v, z, b and a, stacked.
    projections: LinearWeight,
    /// `[taps, q | k | v]`.
    convolution: Tensor,
    rates: Tensor,
    dt_bias: Tensor,
    norm: Tensor,
    norm_eps: f32,
    pub output: OutputProjection,
}

impl GatedDeltaNet {
    pub fn load(
        spec: &DecoderSpec,
        recurrent: &RecurrentSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let (heads, hidden) = (&recurrent.heads, spec.hidden_size);
        let own = OwnHeads::new(heads, loader.shard());
        let (file, by_head) = (own.file, own.values(1));
        let has_log = recurrent.has_log_rates;
        let rate = |rate: f32| if has_log { -rate.exp() } else { rate };
        let of_heads = |name, change: &dyn Fn(f32) -> f32| {
            loader.vector_of(name, file.num_value_heads, &by_head, change)
        };
        let output = if loader.shard().is_whole() {
            loader.linear("ssm_out.weight", hidden, heads.value_size())?
        } else {
            let columns = own.values(heads.value_dim);
            loader.linear_of_columns("ssm_out.weight", (hidden, file.value_size()), &columns)?
        };
        let channels = (file.qkv_size(), recurrent.taps);
        Ok(Self {
            spec: *recurrent,
            projections: projections(recurrent, &own, hidden, loader)?,
            convolution: loader.taps("ssm_conv1d.weight", channels, &own.qkv())?,
            rates: of_heads("ssm_a", &rate)?,
            dt_bias: of_heads("ssm_dt.bias", &|bias| bias)?,
            norm: loader.vector("ssm_norm.weight", heads.value_dim)?,
            norm_eps: spec.norm_eps,
            output: OutputProjection { weight: output, bias: None },
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.projections, &mut self.output.weight]
    }

    /// The rows of the step after `norm` → `ws.attention_out`, moving the states of this step's sequences.
    pub fn attend(
        &self,
        device: &Device,
        ws: &mut Workspace,
        norm: BlockNorm,
        states: &mut RecurrentLayer,
        step: &StepInput,
    ) {
        let (n, spec) = (step.num_tokens(), self.spec.heads);
        let (qkv, all) = (spec.qkv_size(), self.spec.projected_size());
        let Workspace { hidden, residual, block_out, qkv: projected, .. } = ws;
        let input = norm.input(device, (hidden, residual), block_out, n);
        let projected = projected.first_rows_mut(n).columns(0..all);
        linear(device, projected, input, &self.projections, None);
        let projected = ws.qkv.first_rows(n);
        let convolved = ws.convolved.as_mut().expect("models with Gated DeltaNet have the buffer");
        let (out, x) = (convolved.first_rows_mut(n), projected.columns(0..qkv));
        causal_conv(device, out, x, &self.convolution, states, &step.states);
        let z = projected.columns(qkv..qkv + spec.value_size());
        let ba = projected.columns(qkv + spec.value_size()..all);
        let args = GatedDelta {
            spec,
            rates: &self.rates,
            dt_bias: &self.dt_bias,
            norm: &self.norm,
            eps: self.norm_eps,
        };
        let out = ws.attention_out.first_rows_mut(n).columns(0..spec.value_size());
        let qkv = convolved.first_rows_mut(n);
        gated_delta(device, out, qkv, (z, ba), &args, states, &step.states);
    }
}

/// Which of a file's heads a rank has: key heads in a row, and the value heads that share them.
struct OwnHeads {
    file: GatedDeltaSpec,
    keys: Range<usize>,
    values: Vec<Range<usize>>,
}

impl OwnHeads {
    /// `heads` are those of a rank.
    fn new(heads: &GatedDeltaSpec, shard: Shard) -> Self {
        let &GatedDeltaSpec { num_key_heads, num_value_heads, .. } = heads;
        let file = GatedDeltaSpec {
            num_key_heads: num_key_heads * shard.num_ranks,
            num_value_heads: num_value_heads * shard.num_ranks,
            ..*heads
        };
        let keys = shard.range(file.num_key_heads);
        let sharing = num_value_heads / num_key_heads;
        let values = match heads.is_tiled && !shard.is_whole() {
            true => (0..sharing)
                .map(|turn| turn * file.num_key_heads + keys.start)
                .map(|first| first..first + num_key_heads)
                .collect(),
            false => vec![shard.range(file.num_value_heads)],
        };
        Self { file, keys, values }
    }

    /// Where their values lie, which have `width` numbers each.
    fn values(&self, width: usize) -> Vec<Range<usize>> {
        self.values.iter().map(|heads| heads.start * width..heads.end * width).collect()
    }

    /// Where their q, k and v lie.
    fn qkv(&self) -> Vec<Range<usize>> {
        let GatedDeltaSpec { num_key_heads, key_dim, value_dim, .. } = self.file;
        let of_keys =
            |first: usize| (first + self.keys.start) * key_dim..(first + self.keys.end) * key_dim;
        let before = 2 * num_key_heads * key_dim;
        let values = self.values(value_dim).into_iter();
        let values = values.map(|range| before + range.start..before + range.end);
        [of_keys(0), of_keys(num_key_heads)].into_iter().chain(values).collect()
    }

    /// Of a tensor that has a group of `size` rows for each key head, rows `part` of each.
    fn rows_of_groups(
        &self,
        size: usize,
        part: Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        self.keys.clone().map(move |head| head * size + part.start..head * size + part.end)
    }
}

/// q, k, v, z, b and a of a rank, in that order.
fn projections(
    recurrent: &RecurrentSpec,
    own: &OwnHeads,
    hidden: usize,
    loader: &WeightLoader,
) -> anyhow::Result<LinearWeight> {
    let file = &own.file;
    let load = |name, total: usize, rows: Vec<Range<usize>>| match loader.shard().is_whole() {
        true => loader.linear(name, total, hidden),
        false => loader.linear_of_rows(name, (total, hidden), rows.into_iter()),
    };
    let mut parts = match recurrent.rows {
        ProjectionRows::Apart | ProjectionRows::GroupedGates => vec![
            load("attn_qkv.weight", file.qkv_size(), own.qkv())?,
            load("attn_gate.weight", file.value_size(), own.values(file.value_dim))?,
        ],
        ProjectionRows::Grouped => vec![grouped_qkvz(own, hidden, loader)?],
    };
    match recurrent.rows {
        ProjectionRows::Apart => {
            for name in ["ssm_beta.weight", "ssm_alpha.weight"] {
                parts.push(load(name, file.num_value_heads, own.values(1))?);
            }
        }
        ProjectionRows::GroupedGates | ProjectionRows::Grouped => {
            let shared = file.num_value_heads / file.num_key_heads;
            let rows = [0, shared].into_iter();
            let rows = rows.flat_map(|first| own.rows_of_groups(2 * shared, first..first + shared));
            let shape = (2 * file.num_value_heads, hidden);
            parts.push(loader.linear_of_rows("ssm_ba.weight", shape, rows)?);
        }
    }
    Ok(LinearWeight::stack(parts))
}

/// q, k, v and z of a tensor that has a group of rows for each key head: its q, its k, and v and z of its value heads.
fn grouped_qkvz(
    own: &OwnHeads,
    hidden: usize,
    loader: &WeightLoader,
) -> anyhow::Result<LinearWeight> {
    let file = &own.file;
    let key_dim = file.key_dim;
    let values = file.num_value_heads / file.num_key_heads * file.value_dim;
    let group = 2 * key_dim + 2 * values;
    let parts =
        [0..key_dim, key_dim..2 * key_dim, 2 * key_dim..group - values, group - values..group];
    let rows = parts.into_iter().flat_map(|part| own.rows_of_groups(group, part));
    let size = file.qkv_size() + file.value_size();
    loader.linear_of_rows("ssm_in.weight", (size, hidden), rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "lists of one run")]

    use super::*;

    #[test]
    fn ranks_have_the_value_heads_of_their_key_heads() {
        let heads = |is_tiled| GatedDeltaSpec {
            num_key_heads: 2,
            num_value_heads: 4,
            key_dim: 8,
            value_dim: 16,
            is_tiled,
        };
        let own = |rank, is_tiled| {
            OwnHeads::new(&heads(is_tiled), Shard { rank, num_ranks: 2, ..Shard::WHOLE })
        };
        assert_eq!(own(1, false).values(1), [4..8]);
        assert_eq!(own(0, true).values(1), [0..2, 4..6]);
        assert_eq!(own(1, true).values(16), [32..64, 96..128]);
        // q and k of four heads, then v.
        assert_eq!(own(1, true).qkv(), [16..32, 48..64, 64 + 32..64 + 64, 64 + 96..64 + 128]);
        assert_eq!(OwnHeads::new(&heads(true), Shard::WHOLE).qkv(), [0..16, 16..32, 32..96]);
    }
}
