//! Weights that files have in another order of rows, or with other strides, than the ops read.

use std::ops::Range;

use anyhow::{bail, ensure};
use quire_kernels::{DType, LinearWeight, Tensor, dequantize_row};

use super::cut::{Cut, total, whole};
use super::loader::{WeightLoader, find, read_vector};

impl WeightLoader<'_> {
    /// The rows `order` of a matrix that the file has as `[out_features, in_features]`, one after the other.
    pub fn linear_of_rows(
        &self,
        name: &str,
        (out_features, in_features): (usize, usize),
        order: impl Iterator<Item = Range<usize>>,
    ) -> anyhow::Result<LinearWeight> {
        let rows: Vec<Range<usize>> = order.collect();
        if self.source().is_none() {
            return self.absent_linear(name, total(&rows), in_features);
        }
        let columns = whole(in_features);
        self.cut(name, Cut { out_features, in_features, rows: &rows, columns: &columns })
    }

    /// The columns `order` of a matrix that the file has as `[out_features, in_features]`, one after the other.
    pub fn linear_of_columns(
        &self,
        name: &str,
        (out_features, in_features): (usize, usize),
        order: &[Range<usize>],
    ) -> anyhow::Result<LinearWeight> {
        if self.source().is_none() {
            return self.absent_linear(name, out_features, total(order));
        }
        let rows = whole(out_features);
        self.cut(name, Cut { out_features, in_features, rows: &rows, columns: order })
    }

    /// The taps of a convolution of each channel alone, which files have channel by channel, as `[taps, channels]`: those of
    /// the channels `order`, of `channels`.
    pub fn taps(
        &self,
        name: &str,
        (channels, taps): (usize, usize),
        order: &[Range<usize>],
    ) -> anyhow::Result<Tensor> {
        let own = total(order);
        let Some(source) = self.source() else {
            return self.absent_tensor(name, DType::F32, (taps, own), |value| value);
        };
        let full_name = self.full_name(name);
        let shown = source.name_in_file(&full_name);
        let Some(tensor) = source.tensor(&full_name)? else {
            bail!("the file has no tensor \"{shown}\"")
        };
        let shape = [tensor.num_matrices, tensor.out_features, tensor.in_features];
        ensure!(
            shape == [1, channels, taps] || shape == [channels, 1, taps],
            "tensor \"{shown}\" is {shape:?}, but the model's keys ask for [{channels}, {taps}]"
        );
        let bytes = tensor.format.row_bytes(channels * taps);
        ensure!(
            tensor.format.block_elements() == 1 && bytes == Some(tensor.bytes.len()),
            "tensor \"{shown}\" is {}, which a convolution cannot have",
            tensor.format
        );
        let mut by_channel = vec![0.0; channels * taps];
        dequantize_row(tensor.format, &tensor.bytes, &mut by_channel);
        let of_tap = |tap| order.iter().cloned().flatten().map(move |c| c * taps + tap);
        let by_tap: Vec<f32> = (0..taps).flat_map(of_tap).map(|at| by_channel[at]).collect();
        Ok(self.device().tensor(DType::F32, &by_tap, taps, own)?)
    }

    /// The weight of a norm, as `[1, len]` float32, from its distance to 1 where files have that.
    pub fn norm(&self, name: &str, len: usize, is_zero_centred: bool) -> anyhow::Result<Tensor> {
        match is_zero_centred {
            true => self.changed_vector(name, len, |weight| weight + 1.0),
            false => self.vector(name, len),
        }
    }

    /// A matrix as float32, row after row; zeros where there are shapes only.
    pub fn table(&self, name: &str, rows: usize, cols: usize) -> anyhow::Result<Vec<f32>> {
        let mut values = vec![0.0; rows * cols];
        let Some(source) = self.source() else { return Ok(values) };
        let tensor = find(source, &self.full_name(name), rows, cols)?;
        let row_bytes = tensor.bytes.len() / rows.max(1);
        for (row, values) in values.chunks_mut(cols).enumerate() {
            let bytes = &tensor.bytes[row * row_bytes..(row + 1) * row_bytes];
            dequantize_row(tensor.format, bytes, values);
        }
        Ok(values)
    }

    /// A vector as float32, for the host; zeros where there are shapes only.
    pub fn host_vector(&self, name: &str, len: usize) -> anyhow::Result<Vec<f32>> {
        match self.source() {
            Some(source) => read_vector(source, &self.full_name(name), len),
            None => Ok(vec![0.0; len]),
        }
    }

    /// A vector as `[1, len]` float32 of what `change` makes of the file's numbers.
    pub fn changed_vector(
        &self,
        name: &str,
        len: usize,
        change: impl Fn(f32) -> f32,
    ) -> anyhow::Result<Tensor> {
        let Some(source) = self.source() else {
            return self.absent_tensor(name, DType::F32, (1, len), change);
        };
        let values = read_vector(source, &self.full_name(name), len)?;
        let values: Vec<f32> = values.into_iter().map(change).collect();
        Ok(self.device().tensor(DType::F32, &values, 1, len)?)
    }

    /// As `changed_vector`, of the numbers `order` of `len`.
    pub fn vector_of(
        &self,
        name: &str,
        len: usize,
        order: &[Range<usize>],
        change: impl Fn(f32) -> f32,
    ) -> anyhow::Result<Tensor> {
        let own = total(order);
        let Some(source) = self.source() else {
            return self.absent_tensor(name, DType::F32, (1, own), change);
        };
        let values = read_vector(source, &self.full_name(name), len)?;
        let values: Vec<f32> =
            order.iter().cloned().flatten().map(|at| change(values[at])).collect();
        Ok(self.device().tensor(DType::F32, &values, 1, own)?)
    }
}
