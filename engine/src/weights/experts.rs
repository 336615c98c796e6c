//! The weights of experts, which files have in one tensor a projection, or gate and up in one, or expert by expert.

use anyhow::{Context, bail, ensure};
use quire_kernels::{ExpertWeights, FileBytes, LinearWeight, Tensor, WeightFormat, dequantize_row};

use super::loader::{HostTensor, WeightLoader, factors_beside, find};
use crate::models::spec::{ExpertLayout, LatentSpec, MoeSpec};

/// A projection of all experts.
struct Projection {
    num_experts: usize,
    out_features: usize,
    in_features: usize,
    layout: ExpertLayout,
}

impl WeightLoader<'_> {
    /// The first (gate and up, stacked) and the second projection of all experts.
    pub fn experts(
        &self,
        moe: &MoeSpec,
        hidden_size: usize,
    ) -> anyhow::Result<(ExpertWeights, ExpertWeights)> {
        let (num_experts, size) = (moe.router.num_experts, moe.intermediate_size);
        let projection = |out_features, in_features, layout| Projection {
            num_experts,
            out_features,
            in_features,
            layout,
        };
        let is_fused = ["ffn_gate_up_exps.weight", "ffn_gate_up_exps.blocks"];
        let gate_up = if is_fused.iter().any(|name| self.has(name)) {
            let fused = projection(2 * size, hidden_size, moe.layout);
            self.projection(["ffn_gate_up_exps.weight", "ffn_gate_up"], &fused)?
        } else {
            let half = projection(size, hidden_size, ExpertLayout::Rows);
            let gates = self.projection(["ffn_gate_exps.weight", "ffn_gate"], &half)?;
            let ups = self.projection(["ffn_up_exps.weight", "ffn_up"], &half)?;
            let pairs = gates.into_iter().zip(ups);
            pairs.map(|(gate, up)| LinearWeight::stack(vec![gate, up])).collect()
        };
        let down_layout = match moe.layout {
            ExpertLayout::Rows => ExpertLayout::Rows,
            ExpertLayout::Columns | ExpertLayout::InterleavedColumns => ExpertLayout::Columns,
        };
        let down = projection(hidden_size, size, down_layout);
        let down = self.projection(["ffn_down_exps.weight", "ffn_down"], &down)?;
        let (mut gate_up_bias, mut down_bias) = (None, None);
        if moe.expert_biases {
            gate_up_bias = Some(self.gate_up_bias(moe)?);
            let values = self.matrix("ffn_down_exps.bias", num_experts, hidden_size)?;
            down_bias = Some(self.biases(&values, num_experts, hidden_size)?);
        }
        Ok((ExpertWeights::new(gate_up, gate_up_bias)?, ExpertWeights::new(down, down_bias)?))
    }

    /// What makes a latent vector of a head's query, and a head's value of a latent vector. Files have the two apart, or
    /// as what makes keys and values (`attn_kv_b.weight`), where the first lies transposed.
    pub fn latent(
        &self,
        latent: &LatentSpec,
        num_heads: usize,
    ) -> anyhow::Result<(ExpertWeights, ExpertWeights)> {
        let &LatentSpec { rank, nope_dim, value_dim, .. } = latent;
        let (name, heads) = ("attn_kv_b.weight", num_heads);
        if !self.has(name) || self.source().is_none() {
            let layout = ExpertLayout::Rows;
            let of_heads = |out_features, in_features| Projection {
                num_experts: heads,
                out_features,
                in_features,
                layout,
            };
            let keys =
                self.projection(["attn_k_b.weight", "attn_k_b"], &of_heads(rank, nope_dim))?;
            let values =
                self.projection(["attn_v_b.weight", "attn_v_b"], &of_heads(value_dim, rank))?;
            return Ok((ExpertWeights::new(keys, None)?, ExpertWeights::new(values, None)?));
        }
        let source = self.source().context("only files have weights")?;
        let tensor = find(source, &self.full_name(name), heads * (nope_dim + value_dim), rank)?;
        ensure!(
            tensor.format.block_elements() == 1,
            "tensor \"{}\" is {}, which cannot be transposed",
            source.name_in_file(&self.full_name(name)),
            tensor.format
        );
        let element = tensor.format.block_bytes();
        let row_bytes = rank * element;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..heads {
            let first = head * (nope_dim + value_dim);
            let rows = |from: usize, count: usize| {
                let bytes = from * row_bytes..(from + count) * row_bytes;
                tensor.bytes.slice(bytes).expect("checked")
            };
            let key = columns_as_rows(&rows(first, nope_dim), element, rank, (0..rank).collect());
            keys.push(self.pack(name, tensor.format, (&key).into(), rank, nope_dim)?);
            let value = rows(first + nope_dim, value_dim);
            values.push(self.pack(name, tensor.format, value, value_dim, rank)?);
        }
        Ok((ExpertWeights::new(keys, None)?, ExpertWeights::new(values, None)?))
    }

    /// The weight of each expert: of the tensor of all of them, or of `<one>.<expert>.weight`.
    fn projection(
        &self,
        [all, one]: [&str; 2],
        projection: &Projection,
    ) -> anyhow::Result<Vec<LinearWeight>> {
        let &Projection { num_experts, out_features, in_features, .. } = projection;
        let Some(source) = self.source() else {
            let names = (0..num_experts).map(|expert| format!("{one}.{expert}.weight"));
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
            let names = (0..num_experts).map(|expert| format!("{one}.{expert}.weight"));
            let load = |name: String| {
                let weight = self.linear(&name, out_features, in_features)?;
                ensure!(
                    !weight.has_order(),
                    "\"{}\": experts with act-order are not supported",
                    source.name_in_file(&self.full_name(&name))
                );
                Ok(weight)
            };
            return names.map(load).collect();
        };
        let shown = source.name_in_file(&full_name);
        let len = projection.check(&tensor).with_context(|| format!("tensor \"{shown}\""))?;
        let factors = match tensor.format {
            WeightFormat::Nvfp4 => Some(factors_beside(source, &full_name, num_experts)?),
            _ => None,
        };
        let expert = |index: usize| {
            let bytes = tensor.bytes.slice(index * len..(index + 1) * len).expect("checked");
            let rows;
            let bytes: FileBytes = match projection.order() {
                None => bytes,
                Some(order) => {
                    let element = tensor.format.block_bytes();
                    rows = columns_as_rows(&bytes, element, out_features, order);
                    bytes.release();
                    (&rows).into()
                }
            };
            let weight = self.pack(all, tensor.format, bytes, out_features, in_features);
            let weight = weight.with_context(|| format!("tensor \"{shown}\""))?;
            Ok(match &factors {
                Some(factors) => weight.with_factor(factors[index]),
                None => weight,
            })
        };
        (0..num_experts).map(expert).collect()
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
        let rows = match projection.layout {
            ExpertLayout::InterleavedColumns => projection.order().context("an order")?,
            ExpertLayout::Rows | ExpertLayout::Columns => (0..out_features).collect(),
        };
        let expert = |expert: usize| {
            let mut packed = Vec::with_capacity(out_features * blocks_of_row * 17);
            for row in &rows {
                for block in 0..blocks_of_row {
                    let at = (expert * out_features + row) * blocks_of_row + block;
                    packed.push(scales[at]);
                    let codes = blocks[16 * at..].first_chunk().expect("16 bytes");
                    packed.extend_from_slice(&halves_apart(codes));
                }
            }
            let done =
                expert * out_features * blocks_of_row..(expert + 1) * out_features * blocks_of_row;
            blocks.slice(16 * done.start..16 * done.end).expect("inside").release();
            self.pack(all, WeightFormat::Mxfp4, (&packed).into(), out_features, in_features)
                .with_context(|| format!("tensor \"{}\"", self.full_name(all)))
        };
        (0..num_experts).map(expert).collect()
    }

    /// `[num_experts, 2 · intermediate_size]`, the gate first.
    fn gate_up_bias(&self, moe: &MoeSpec) -> anyhow::Result<Tensor> {
        let (num_experts, size) = (moe.router.num_experts, moe.intermediate_size);
        if self.has("ffn_gate_up_exps.bias") {
            let mut fused = self.matrix("ffn_gate_up_exps.bias", num_experts, 2 * size)?;
            if moe.layout == ExpertLayout::InterleavedColumns {
                for row in fused.chunks_exact_mut(2 * size) {
                    let (gate, up) = (row.iter().step_by(2), row.iter().skip(1).step_by(2));
                    let sorted: Vec<f32> = gate.chain(up).copied().collect();
                    row.copy_from_slice(&sorted);
                }
            }
            return self.biases(&fused, num_experts, 2 * size);
        }
        let gate = self.matrix("ffn_gate_exps.bias", num_experts, size)?;
        let up = self.matrix("ffn_up_exps.bias", num_experts, size)?;
        let rows = gate.chunks_exact(size).zip(up.chunks_exact(size));
        let values: Vec<f32> = rows.flat_map(|(gate, up)| [gate, up].concat()).collect();
        self.biases(&values, num_experts, 2 * size)
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

    /// The column that each row is made of, where the file has columns.
    fn order(&self) -> Option<Vec<usize>> {
        let size = self.out_features / 2;
        match self.layout {
            ExpertLayout::Rows => None,
            ExpertLayout::Columns => Some((0..self.out_features).collect()),
            ExpertLayout::InterleavedColumns => {
                Some((0..size).map(|i| 2 * i).chain((0..size).map(|i| 2 * i + 1)).collect())
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
        let projection =
            |layout| Projection { num_experts: 1, out_features: 4, in_features: 2, layout };
        let rows = |layout| {
            let order = projection(layout).order().expect("columns");
            let rows = columns_as_rows(&bytes, 2, 4, order);
            rows.chunks(2).map(|pair| pair[0] / 2).collect::<Vec<_>>()
        };
        assert_eq!(rows(ExpertLayout::Columns), [0, 4, 1, 5, 2, 6, 3, 7]);
        assert_eq!(rows(ExpertLayout::InterleavedColumns), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert!(projection(ExpertLayout::Rows).order().is_none());
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
