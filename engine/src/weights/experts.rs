//! The weights of experts, which files have in one tensor a projection, or gate and up in one, or expert by expert.

use std::ops::Range;

use anyhow::{Context, bail, ensure};
use half::f16;
use quire_kernels::{
    Device, ExpertWeights, FileBytes, GroupedWeight, HeadWeights, LinearWeight, Tensor,
    WeightFormat, WeightPolicy, dequantize_row,
};

use super::cut::{Cut, CutBytes, whole};
use super::loader::{HostTensor, WeightLoader, ensure_shape, factors_beside, find};
use crate::models::spec::{ExpertLayout, LatentSpec, MoeSpec};

/// A projection of all experts as the file has it, and what this rank has of it.
struct Projection {
    num_experts: usize,
    out_features: usize,
    in_features: usize,
    layout: ExpertLayout,
    experts: Range<usize>,
    /// Outputs and inputs of each.
    rows: Vec<Range<usize>>,
    columns: Range<usize>,
}

impl WeightLoader<'_> {
    /// The first (gate and up, stacked) and the second projection of all experts.
    pub fn experts(
        &self,
        moe: &MoeSpec,
        hidden_size: usize,
    ) -> anyhow::Result<(ExpertWeights, ExpertWeights)> {
        // All experts lie on every rank, which has some channels of each.
        let (num_experts, shard) = (moe.router.num_experts, self.shard());
        let (size, own) = (moe.num_channels, shard.expert_channels(moe));
        let projection = |out_features, in_features, layout| {
            Projection::new(num_experts, (out_features, in_features), layout)
        };
        let gate_and_up = vec![own.clone(), size + own.start..size + own.end];
        let is_fused = ["ffn_gate_up_exps.weight", "ffn_gate_up_exps.blocks"];
        let gate_up = if is_fused.iter().any(|name| self.has(name)) {
            let fused = projection(2 * size, hidden_size, moe.layout);
            let fused = Projection { rows: gate_and_up, ..fused };
            self.projection(["ffn_gate_up_exps.weight", "ffn_gate_up"], &fused)?
        } else {
            let half = projection(size, hidden_size, ExpertLayout::Rows);
            let half = Projection { rows: vec![own.clone()], ..half };
            let gates = self.projection(["ffn_gate_exps.weight", "ffn_gate"], &half)?;
            let ups = self.projection(["ffn_up_exps.weight", "ffn_up"], &half)?;
            let pairs = gates.into_iter().zip(ups);
            pairs.map(|(gate, up)| self.one_order(vec![gate, up])).collect::<anyhow::Result<_>>()?
        };
        let down_layout = match moe.layout {
            ExpertLayout::Rows => ExpertLayout::Rows,
            ExpertLayout::Columns | ExpertLayout::InterleavedColumns => ExpertLayout::Columns,
        };
        let down = projection(hidden_size, size, down_layout);
        let down = Projection { columns: own, ..down };
        let down = self.projection(["ffn_down_exps.weight", "ffn_down"], &down)?;
        let (mut gate_up_bias, mut down_bias) = (None, None);
        if moe.expert_biases {
            gate_up_bias = Some(self.gate_up_bias(moe)?);
            let values = self.matrix("ffn_down_exps.bias", num_experts, hidden_size)?;
            // Added once to the sum of all ranks.
            if shard.rank == 0 {
                down_bias = Some(self.biases(&values, num_experts, hidden_size)?);
            }
        }
        Ok((ExpertWeights::new(gate_up, gate_up_bias)?, ExpertWeights::new(down, down_bias)?))
    }

    /// What makes a latent vector of a head's query, and a head's value of a latent vector. Files have the two apart, or
    /// as what makes keys and values (`attn_kv_b.weight`), where the first lies transposed.
    pub fn latent(
        &self,
        latent: &LatentSpec,
        num_heads: usize,
    ) -> anyhow::Result<(HeadWeights, HeadWeights)> {
        // A GPU has matrices of heads as BF16.
        let policy = match self.device() {
            Device::Cuda(_) => WeightPolicy::Float32,
            _ => self.policy(),
        };
        self.with_policy(policy).heads(latent, num_heads)
    }

    fn heads(
        &self,
        latent: &LatentSpec,
        num_heads: usize,
    ) -> anyhow::Result<(HeadWeights, HeadWeights)> {
        let &LatentSpec { rank, nope_dim, value_dim, .. } = latent;
        let name = "attn_kv_b.weight";
        let heads = num_heads * self.shard().num_ranks;
        let own = self.shard().range(heads);
        if !self.has(name) || self.source().is_none() {
            let of_heads = |out_features, in_features| {
                let shape = (out_features, in_features);
                let all = Projection::new(heads, shape, ExpertLayout::Rows);
                Projection { experts: own.clone(), ..all }
            };
            let keys =
                self.projection(["attn_k_b.weight", "attn_k_b"], &of_heads(rank, nope_dim))?;
            let values =
                self.projection(["attn_v_b.weight", "attn_v_b"], &of_heads(value_dim, rank))?;
            return Ok((HeadWeights::new(keys)?, HeadWeights::new(values)?));
        }
        let source = self.source().context("only files have weights")?;
        let (full_name, shape) = (self.full_name(name), (heads * (nope_dim + value_dim), rank));
        let floats;
        let (format, bytes): (_, FileBytes) = if let Some(weight) = source.quantized(&full_name)? {
            let found = (weight.out_features, weight.in_features);
            ensure_shape(source, &full_name, found, shape)?;
            floats = self.as_floats(&weight);
            (floats.0, (&floats.1).into())
        } else {
            let tensor = find(source, &full_name, shape.0, shape.1)?;
            (tensor.format, tensor.bytes)
        };
        ensure!(
            format.block_elements() == 1,
            "tensor \"{}\" is {format}, which cannot be transposed",
            source.name_in_file(&full_name)
        );
        let element = format.block_bytes();
        let row_bytes = rank * element;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in own {
            let first = head * (nope_dim + value_dim);
            let rows = |from: usize, count: usize| {
                let range = from * row_bytes..(from + count) * row_bytes;
                bytes.slice(range).expect("checked")
            };
            let key = columns_as_rows(&rows(first, nope_dim), element, rank, (0..rank).collect());
            keys.push(self.pack(name, format, (&key).into(), rank, nope_dim)?);
            let value = rows(first + nope_dim, value_dim);
            values.push(self.pack(name, format, value, value_dim, rank)?);
        }
        Ok((HeadWeights::new(keys)?, HeadWeights::new(values)?))
    }

    /// The numbers of a quantized weight as floats of 16 bits, or of 32 where all weights are.
    fn as_floats(&self, weight: &GroupedWeight) -> (WeightFormat, Vec<u8>) {
        let mut row = vec![0.0_f32; weight.in_features];
        let mut bytes = Vec::new();
        for feature in 0..weight.out_features {
            weight.dequantize_row(feature, &mut row);
            match self.policy() {
                WeightPolicy::Float32 => bytes.extend(row.iter().flat_map(|x| x.to_le_bytes())),
                WeightPolicy::Packed | WeightPolicy::PackedHalves => {
                    bytes.extend(row.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()));
                }
            }
        }
        match self.policy() {
            WeightPolicy::Float32 => (WeightFormat::F32, bytes),
            WeightPolicy::Packed | WeightPolicy::PackedHalves => (WeightFormat::F16, bytes),
        }
    }

    /// The gate and up of an expert, stacked.
    fn one_order(&self, gate_up: Vec<LinearWeight>) -> anyhow::Result<LinearWeight> {
        let both = LinearWeight::stack(gate_up);
        ensure!(
            both.has_one_order(),
            "\"{}\": gate and up of an expert that have act-orders of their own are not supported",
            self.full_name("ffn_gate_exps.weight")
        );
        Ok(both)
    }

    /// The weight of each expert: of the tensor of all of them, or of `<one>.<expert>.weight`.
    fn projection(
        &self,
        [all, one]: [&str; 2],
        projection: &Projection,
    ) -> anyhow::Result<Vec<LinearWeight>> {
        let (out_features, in_features) = projection.own_shape();
        let experts = projection.experts.clone();
        let Some(source) = self.source() else {
            let names = experts.map(|expert| format!("{one}.{expert}.weight"));
            return names
                .map(|name| self.absent_linear(&name, out_features, in_features))
                .collect();
        };
        let full_name = self.full_name(all);
        let is_split = || self.has(&format!("{one}.0.weight"));
        if source.has(&self.full_name(&all.replace(".weight", ".blocks"))) {
            return self.mxfp4_projection(all, projection);
        }
        let Some(tensor) = source.tensor(&full_name)? else {
            ensure!(is_split(), "the file has no tensor \"{}\"", source.name_in_file(&full_name));
            let names = experts.map(|expert| format!("{one}.{expert}.weight"));
            return names.map(|name| self.linear(&name, out_features, in_features)).collect();
        };
        let shown = source.name_in_file(&full_name);
        let len = projection.check(&tensor).with_context(|| format!("tensor \"{shown}\""))?;
        let factors = match tensor.format {
            WeightFormat::Nvfp4 => {
                Some(factors_beside(source, &full_name, projection.num_experts)?)
            }
            _ => None,
        };
        let expert = |index: usize| {
            let bytes = tensor.bytes.slice(index * len..(index + 1) * len).expect("checked");
            let cut = projection.cut();
            let own = match projection.order() {
                None => cut.bytes(tensor.format, bytes),
                Some(order) => {
                    let element = tensor.format.block_bytes();
                    let cols = projection.out_features;
                    let rows = &bytes[projection.columns.start * cols * element
                        ..projection.columns.end * cols * element];
                    Some(CutBytes::Own(columns_as_rows(rows, element, cols, order)))
                }
            };
            let packed = match own {
                None => Err(anyhow::anyhow!(cut.problem(tensor.format))),
                Some(own) => self
                    .pack(all, tensor.format, own.get(), out_features, in_features)
                    .map_err(anyhow::Error::from),
            };
            bytes.release();
            let weight = packed.with_context(|| format!("tensor \"{shown}\""))?;
            Ok(match &factors {
                Some(factors) => weight.with_factor(factors[index]),
                None => weight,
            })
        };
        experts.map(expert).collect()
    }

    /// Blocks `[num_experts, out_features, in_features / 32, 16]` and scales `[num_experts, out_features, in_features /
    /// 32]`, as gpt-oss has them: the low half of byte i is element 2i, the high half element 2i + 1.
    fn mxfp4_projection(
        &self,
        all: &str,
        projection: &Projection,
    ) -> anyhow::Result<Vec<LinearWeight>> {
        let &Projection { num_experts, out_features, in_features, .. } = projection;
        let source = self.source().context("only files have blocks")?;
        let bytes = |part: &str, block: &[usize]| {
            let name = self.full_name(&all.replace("weight", part));
            let shown = source.name_in_file(&name);
            let found = source.blocks(&name);
            let (shape, bytes) = found.with_context(|| format!("tensor \"{shown}\" is not U8"))?;
            let expected = [&[num_experts, out_features, in_features / 32][..], block].concat();
            ensure!(
                in_features % 32 == 0
                    && shape.iter().copied().eq(expected.iter().map(|&d| d as u64)),
                "tensor \"{shown}\" is {shape:?}, but the model's keys ask for {expected:?}"
            );
            Ok(bytes)
        };
        let (blocks, scales) = (bytes("blocks", &[16])?, bytes("scales", &[])?);
        let blocks_of_row = in_features / 32;
        let rows: Vec<usize> = match projection.layout {
            ExpertLayout::InterleavedColumns => projection.order().context("an order")?,
            ExpertLayout::Rows | ExpertLayout::Columns => {
                projection.rows.iter().cloned().flatten().collect()
            }
        };
        let columns = &projection.columns;
        ensure!(
            columns.start.is_multiple_of(32) && columns.end.is_multiple_of(32),
            "tensor \"{}\": {}",
            source.name_in_file(&self.full_name(all)),
            projection.cut().problem(WeightFormat::Mxfp4)
        );
        let (own_rows, own_columns) = projection.own_shape();
        let expert = |expert: usize| {
            let mut packed = Vec::with_capacity(own_rows * own_columns / 32 * 17);
            for row in &rows {
                for block in columns.start / 32..columns.end / 32 {
                    let at = (expert * out_features + row) * blocks_of_row + block;
                    packed.push(scales[at]);
                    let codes = blocks[16 * at..].first_chunk().expect("16 bytes");
                    packed.extend_from_slice(&halves_apart(codes));
                }
            }
            let done =
                expert * out_features * blocks_of_row..(expert + 1) * out_features * blocks_of_row;
            blocks.slice(16 * done.start..16 * done.end).expect("inside").release();
            self.pack(all, WeightFormat::Mxfp4, (&packed).into(), own_rows, own_columns)
                .with_context(|| format!("tensor \"{}\"", self.full_name(all)))
        };
        projection.experts.clone().map(expert).collect()
    }

    /// `[num_experts, 2 · intermediate_size]` of this rank, the gate first.
    fn gate_up_bias(&self, moe: &MoeSpec) -> anyhow::Result<Tensor> {
        let num_experts = moe.router.num_experts;
        let (size, own) = (moe.num_channels, self.shard().expert_channels(moe));
        let both = self.all_gate_up_biases(moe, size)?;
        let halves = both.chunks_exact(size);
        let own: Vec<f32> = halves.flat_map(|half| half[own.clone()].to_vec()).collect();
        self.biases(&own, num_experts, 2 * moe.intermediate_size)
    }

    /// Of each expert the gate's, then those of up, of `size` channels each.
    fn all_gate_up_biases(&self, moe: &MoeSpec, size: usize) -> anyhow::Result<Vec<f32>> {
        let num_experts = moe.router.num_experts;
        if self.has("ffn_gate_up_exps.bias") {
            let mut fused = self.matrix("ffn_gate_up_exps.bias", num_experts, 2 * size)?;
            if moe.layout == ExpertLayout::InterleavedColumns {
                for row in fused.chunks_exact_mut(2 * size) {
                    let (gate, up) = (row.iter().step_by(2), row.iter().skip(1).step_by(2));
                    let sorted: Vec<f32> = gate.chain(up).copied().collect();
                    row.copy_from_slice(&sorted);
                }
            }
            return Ok(fused);
        }
        let gate = self.matrix("ffn_gate_exps.bias", num_experts, size)?;
        let up = self.matrix("ffn_up_exps.bias", num_experts, size)?;
        let rows = gate.chunks_exact(size).zip(up.chunks_exact(size));
        Ok(rows.flat_map(|(gate, up)| [gate, up].concat()).collect())
    }

    /// `values` as `[rows, cols]` on the device.
    fn biases(&self, values: &[f32], rows: usize, cols: usize) -> anyhow::Result<Tensor> {
        Ok(self.device().tensor(self.device().activation_dtype(), values, rows, cols)?)
    }

    /// A matrix of numbers that are added, as float32; of shapes only, none.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> anyhow::Result<Vec<f32>> {
        let Some(source) = self.source() else {
            return Ok(self.absent_numbers(name, rows, cols));
        };
        let tensor = find(source, &self.full_name(name), rows, cols)?;
        let mut values = vec![0.0; rows * cols];
        dequantize_row(tensor.format, &tensor.bytes, &mut values);
        Ok(values)
    }
}

impl Projection {
    /// All of it; `shape`: outputs and inputs of an expert.
    fn new(num_experts: usize, shape: (usize, usize), layout: ExpertLayout) -> Self {
        let (out_features, in_features) = shape;
        Self {
            num_experts,
            out_features,
            in_features,
            layout,
            experts: 0..num_experts,
            rows: whole(out_features),
            columns: 0..in_features,
        }
    }

    /// What this rank has of an expert.
    fn cut(&self) -> Cut<'_> {
        let &Self { out_features, in_features, .. } = self;
        let columns = std::slice::from_ref(&self.columns);
        Cut { out_features, in_features, rows: &self.rows, columns }
    }

    /// Outputs and inputs of an expert on this rank.
    fn own_shape(&self) -> (usize, usize) {
        self.cut().shape()
    }

    /// That the tensor is as the model's keys say; gives the bytes of an expert.
    fn check(&self, tensor: &HostTensor) -> anyhow::Result<usize> {
        let is_transposed = self.layout != ExpertLayout::Rows;
        let (rows, cols) = match is_transposed {
            false => (self.out_features, self.in_features),
            true => (self.in_features, self.out_features),
        };
        let shape = [tensor.num_matrices, tensor.out_features, tensor.in_features];
        let expected = [self.num_experts, rows, cols];
        ensure!(shape == expected, "is {shape:?}, but the model's keys ask for {expected:?}");
        if is_transposed && tensor.format.block_elements() != 1 {
            bail!("is {}, which cannot be transposed", tensor.format);
        }
        let len = tensor.format.row_bytes(cols).and_then(|bytes| bytes.checked_mul(rows));
        let all = len.and_then(|bytes| bytes.checked_mul(self.num_experts));
        ensure!(all == Some(tensor.bytes.len()), "has {} bytes", tensor.bytes.len());
        Ok(tensor.bytes.len() / self.num_experts)
    }

    /// The column that each row of this rank is made of, where the file has columns.
    fn order(&self) -> Option<Vec<usize>> {
        let size = self.out_features / 2;
        let rows = self.rows.iter().cloned().flatten();
        match self.layout {
            ExpertLayout::Rows => None,
            ExpertLayout::Columns => Some(rows.collect()),
            ExpertLayout::InterleavedColumns => {
                Some(rows.map(|row| 2 * (row % size) + row / size).collect())
            }
        }
    }
}

/// Codes of elements 2i and 2i + 1 in byte i, as those of i and i + 16.
fn halves_apart(codes: &[u8; 16]) -> [u8; 16] {
    let code = |element: usize| codes[element / 2] >> (4 * (element % 2)) & 15;
    std::array::from_fn(|i| code(i) | code(i + 16) << 4)
}

/// Rows of the columns that `order` names; `bytes` has rows of `cols` elements.
fn columns_as_rows(bytes: &[u8], element: usize, cols: usize, order: Vec<usize>) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for column in order {
        for row in bytes.chunks_exact(cols * element) {
            out.extend_from_slice(&row[column * element..][..element]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows_in_their_order() {
        // Two inputs, four outputs of two bytes: gate, up, gate, up.
        let bytes: Vec<u8> = (0..16).collect();
        let projection = |layout| Projection::new(1, (4, 2), layout);
        let rows = |layout| {
            let order = projection(layout).order().expect("columns");
            let rows = columns_as_rows(&bytes, 2, 4, order);
            rows.chunks(2).map(|pair| pair[0] / 2).collect::<Vec<_>>()
        };
        assert_eq!(rows(ExpertLayout::Columns), [0, 4, 1, 5, 2, 6, 3, 7]);
        assert_eq!(rows(ExpertLayout::InterleavedColumns), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert!(projection(ExpertLayout::Rows).order().is_none());
        let second = vec![1..2, 3..4];
        let second = Projection { rows: second, ..projection(ExpertLayout::InterleavedColumns) };
        assert_eq!(second.order(), Some(vec![2, 3]), "the second channel of gate and of up");
    }

    #[test]
    fn codes_of_neighbours_move_to_their_halves() {
        // Element i has the code i % 16.
        let codes = std::array::from_fn(|i| ((2 * i) % 16 + 16 * ((2 * i + 1) % 16)) as u8);
        let apart = halves_apart(&codes);
        for (i, byte) in apart.into_iter().enumerate() {
            assert_eq!(
                [byte & 15, byte >> 4].map(usize::from),
                [i, i],
                "elements {i} and {}",
                i + 16
            );
        }
    }
}
