//! Turns named tensors of a file into weights on a device, checking every shape.

use std::ops::Range;

use anyhow::{Context, bail, ensure};
use quire_kernels::{
    ActivationPrecision, DType, Device, FileBytes, GroupedWeight, LinearError, LinearWeight,
    Tensor, WeightFormat, WeightPolicy, dequantize_row,
};

use super::dummy::Absent;
use super::floats::{encode_floats, is_float};
use super::shard::Shard;
use crate::activations::LinearKind;
use crate::config::{Activations, Dtype};

/// A tensor as its file has it.
pub struct HostTensor<'a> {
    pub format: WeightFormat,
    /// 1, or of a tensor of three dimensions how many matrices lie end to end.
    pub num_matrices: usize,
    pub out_features: usize,
    /// Elements of a row, contiguous.
    pub in_features: usize,
    pub bytes: FileBytes<'a>,
}

/// A checkpoint: tensors by name.
pub trait WeightSource: Sync {
    /// `None`: no such tensor. An error: it is there but cannot be used.
    fn tensor(&self, name: &str) -> anyhow::Result<Option<HostTensor<'_>>>;

    /// Whether there is a tensor of that name, which counts as used only when it is read.
    fn has(&self, name: &str) -> bool {
        !matches!(self.tensor(name), Ok(None))
    }

    /// Says that nothing needs the tensor of that name.
    fn leave_out(&self, _name: &str) {}

    /// Shape and bytes of a tensor of blocks or their scales (U8), of files that have the parts of a format in tensors of
    /// their own.
    fn blocks(&self, _name: &str) -> Option<(&[u64], FileBytes<'_>)> {
        None
    }

    /// A weight whose numbers and scales are tensors of their own. `None`: no such weight. An error: it cannot be used.
    fn quantized(&self, _name: &str) -> anyhow::Result<Option<GroupedWeight<'_>>> {
        Ok(None)
    }

    /// What is to be added to the numbers of that vector, which the checkpoint leaves out.
    fn offset(&self, _name: &str) -> f32 {
        0.0
    }

    /// How the file itself calls the tensor, for messages.
    fn name_in_file(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// Loads weights by the names of one scope ("blk.3.") onto one device.
pub struct WeightLoader<'a> {
    source: Option<&'a dyn WeightSource>,
    /// What there is instead of a source.
    absent: Absent<'a>,
    device: &'a Device,
    policy: WeightPolicy,
    activations: Activations,
    dtype: Dtype,
    shard: Shard,
    scope: String,
    on_progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl<'a> WeightLoader<'a> {
    pub fn new(
        source: &'a dyn WeightSource,
        device: &'a Device,
        policy: WeightPolicy,
        on_progress: &'a (dyn Fn(usize, usize) + Sync),
    ) -> Self {
        Self { source: Some(source), ..Self::without_source(device, policy, on_progress) }
    }

    /// Weights are multiplied with rows of the precision that their names have there.
    pub fn with_activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    /// Weights of floats are kept in that type.
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// What is loaded is one rank's part; the sizes that it is asked for are those of the rank.
    pub fn with_shard(self, shard: Shard) -> Self {
        Self { shard, ..self }
    }

    /// What there is instead of a checkpoint.
    pub fn with_absent(self, absent: Absent<'a>) -> Self {
        Self { absent, source: None, ..self }
    }

    /// Weights that have shapes only, for `Device::Trace`.
    pub fn shape_only(device: &'a Device) -> Self {
        Self::without_source(device, WeightPolicy::Packed, &|_, _| ())
    }

    fn without_source(
        device: &'a Device,
        policy: WeightPolicy,
        on_progress: &'a (dyn Fn(usize, usize) + Sync),
    ) -> Self {
        let (activations, dtype) = (Activations::INT8, Dtype::Auto);
        let (absent, shard, scope) = (Absent::Shapes, Shard::WHOLE, String::new());
        Self { source: None, absent, device, policy, activations, dtype, shard, scope, on_progress }
    }

    pub fn shard(&self) -> Shard {
        self.shard
    }

    pub fn is_shape_only(&self) -> bool {
        self.source.is_none() && !matches!(self.absent, Absent::Dummy(_))
    }

    pub(super) fn absent(&self) -> Absent<'a> {
        self.absent
    }

    pub(super) fn policy(&self) -> WeightPolicy {
        self.policy
    }

    /// The precision of the rows that a weight of that name is multiplied with.
    pub(super) fn activations_of(&self, name: &str) -> ActivationPrecision {
        self.activations.of_tensor(name)
    }

    /// The same loader with `prefix` before every name.
    pub fn scope(&self, prefix: String) -> WeightLoader<'a> {
        WeightLoader { scope: prefix, ..*self }
    }

    /// The same loader with another way to keep weights.
    pub(super) fn with_policy(&self, policy: WeightPolicy) -> WeightLoader<'a> {
        WeightLoader { policy, scope: self.scope.clone(), ..*self }
    }

    /// The file, unless there are shapes only.
    pub(super) fn source(&self) -> Option<&'a dyn WeightSource> {
        self.source
    }

    pub(super) fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.scope)
    }

    /// Whether the file has a tensor of that name; of shapes only, none has another name than the first tried.
    pub fn has(&self, name: &str) -> bool {
        let name = self.full_name(name);
        self.source.is_none_or(|source| source.has(&name))
    }

    /// Says that a tensor is not needed, should there be one.
    pub fn leave_out(&self, name: &str) {
        if let Some(source) = self.source {
            source.leave_out(&self.full_name(name));
        }
    }

    /// Says that `done` of `total` layers are loaded.
    pub fn progress(&self, done: usize, total: usize) {
        (self.on_progress)(done, total);
    }

    /// A matrix `[out_features, in_features]`.
    pub fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
    ) -> anyhow::Result<LinearWeight> {
        let Some(source) = self.source else {
            return self.absent_linear(name, out_features, in_features);
        };
        if let Some(part) = self.linear_part(name, out_features, in_features)? {
            return Ok(part);
        }
        let full_name = self.full_name(name);
        if let Some(weight) = source.quantized(&full_name)? {
            let shape = (weight.out_features, weight.in_features);
            ensure_shape(source, &full_name, shape, (out_features, in_features))?;
            return self
                .pack_groups(name, &weight)
                .with_context(|| format!("weight \"{}\"", source.name_in_file(&full_name)));
        }
        let tensor = find(source, &full_name, out_features, in_features)?;
        self.pack(name, tensor.format, tensor.bytes, out_features, in_features)
            .with_context(|| format!("tensor \"{}\"", source.name_in_file(&full_name)))
            .and_then(|weight| match tensor.format {
                WeightFormat::Nvfp4 => {
                    Ok(weight.with_factor(factors_beside(source, &full_name, 1)?[0]))
                }
                _ => Ok(weight),
            })
    }

    /// A matrix of those numbers, multiplied with rows of the precision that `name` has.
    pub(super) fn pack_groups(
        &self,
        name: &str,
        weight: &GroupedWeight,
    ) -> Result<LinearWeight, LinearError> {
        LinearWeight::from_groups(self.device, weight, self.policy)
            .map(|weight| weight.with_activations(self.activations.of_tensor(name)))
    }

    /// Floats are multiplied as BF16 in layers whose activations may be rounded to 8 bits, unless F16 was asked for.
    fn policy_of(&self, name: &str) -> WeightPolicy {
        let is_exact = LinearKind::of_tensor(name).is_none()
            || self.activations.of_tensor(name) == ActivationPrecision::Int16
            || self.dtype.format() == Some(WeightFormat::F16)
            // A recurrent state would sum up what is rounded.
            || (name.starts_with("attn_") && self.has("ssm_conv1d.weight"));
        match self.policy {
            WeightPolicy::PackedHalves if is_exact => WeightPolicy::Packed,
            policy => policy,
        }
    }

    /// A matrix of those bytes, multiplied with rows of the precision that `name` has.
    pub(super) fn pack(
        &self,
        name: &str,
        format: WeightFormat,
        bytes: FileBytes,
        out_features: usize,
        in_features: usize,
    ) -> Result<LinearWeight, LinearError> {
        let policy = self.policy_of(name);
        let converted;
        let wanted = self.dtype.format().filter(|_| policy != WeightPolicy::Float32);
        let (format, bytes) = match wanted.filter(|&wanted| wanted != format) {
            Some(wanted) if is_float(format) => {
                let values = out_features.saturating_mul(in_features);
                converted = encode_floats(wanted, format, &bytes, values);
                (wanted, FileBytes::from(&converted))
            }
            _ => (format, bytes),
        };
        LinearWeight::from_gguf(self.device, format, bytes, out_features, in_features, policy)
            .map(|weight| weight.with_activations(self.activations.of_tensor(name)))
    }

    /// Columns of a quantized matrix of rows of so many weights, which may begin and end inside of blocks.
    pub(super) fn pack_columns(
        &self,
        name: &str,
        format: WeightFormat,
        bytes: FileBytes,
        out_features: usize,
        (row_len, columns): (usize, Range<usize>),
    ) -> Result<LinearWeight, LinearError> {
        let (columns, policy) = ((row_len, &columns), self.policy_of(name));
        LinearWeight::from_columns(self.device, format, bytes, out_features, columns, policy)
            .map(|weight| weight.with_activations(self.activations.of_tensor(name)))
    }

    /// Several matrices of the same `in_features`, stacked along `out_features`: one op computes all. A file may have
    /// them in one tensor, `fused`, or one by one.
    pub fn stacked(
        &self,
        fused: &str,
        parts: &[(&str, usize)],
        in_features: usize,
    ) -> anyhow::Result<LinearWeight> {
        let total: usize = parts.iter().map(|&(_, out_features)| out_features).sum();
        if self.shard.is_whole() && self.has_shape(fused, total, in_features)? {
            return self.linear(fused, total, in_features);
        }
        if !self.shard.is_whole()
            && let Some(part) = self.fused_part(fused, &lengths(parts), in_features)?
        {
            return Ok(part);
        }
        let load =
            |&(name, out_features): &(&str, usize)| self.linear(name, out_features, in_features);
        Ok(LinearWeight::stack(parts.iter().map(load).collect::<anyhow::Result<_>>()?))
    }

    /// A vector as `[1, len]` float32.
    pub fn vector(&self, name: &str, len: usize) -> anyhow::Result<Tensor> {
        self.row(DType::F32, &[(name, len)])
    }

    /// A vector as `[1, len]` in the device's type for activations.
    pub fn bias(&self, name: &str, len: usize) -> anyhow::Result<Tensor> {
        self.row(self.device.activation_dtype(), &[(name, len)])
    }

    /// Vectors end to end, as `[1, sum of lengths]`.
    fn row(&self, dtype: DType, parts: &[(&str, usize)]) -> anyhow::Result<Tensor> {
        let total = parts.iter().map(|&(_, len)| len).sum();
        let Some(source) = self.source else {
            return self.absent_tensor(parts[0].0, dtype, (1, total), |value| value);
        };
        let mut values = Vec::with_capacity(total);
        for &(name, len) in parts {
            values.extend(self.vector_part(source, name, len)?);
        }
        Ok(self.device.tensor(dtype, &values, 1, total)?)
    }

    /// Where the weights go.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// A tensor of one number.
    pub fn scalar(&self, name: &str) -> anyhow::Result<f32> {
        let Some(source) = self.source else { return Ok(1.0) };
        Ok(read_vector(source, &format!("{}{name}", self.scope), 1)?[0])
    }

    /// The weight of a norm without one, as `[1, len]` float32.
    pub fn ones(&self, len: usize) -> anyhow::Result<Tensor> {
        Ok(self.device.tensor(DType::F32, &vec![1.0; len], 1, len)?)
    }

    /// Several biases end to end, as `[1, sum of lengths]`. A file may have them in one tensor, `fused`.
    pub fn stacked_bias(&self, fused: &str, parts: &[(&str, usize)]) -> anyhow::Result<Tensor> {
        let dtype = self.device.activation_dtype();
        let total: usize = parts.iter().map(|&(_, len)| len).sum();
        match (self.source, self.has_shape(fused, 1, total * self.shard.num_ranks)?) {
            (Some(source), true) => {
                let values = self.fused_vector_part(source, fused, &lengths(parts))?;
                Ok(self.device.tensor(dtype, &values, 1, total)?)
            }
            _ => self.row(dtype, parts),
        }
    }

    /// Whether the file has a tensor of that name and shape.
    fn has_shape(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
    ) -> anyhow::Result<bool> {
        let Some(source) = self.source else { return Ok(false) };
        let name = format!("{}{name}", self.scope);
        let shape = match source.quantized(&name)? {
            Some(weight) => Some((weight.out_features, weight.in_features)),
            None => source.tensor(&name)?.map(|tensor| (tensor.out_features, tensor.in_features)),
        };
        Ok(shape == Some((out_features, in_features)))
    }
}

fn lengths(parts: &[(&str, usize)]) -> Vec<usize> {
    parts.iter().map(|&(_, len)| len).collect()
}

/// A vector of `len` numbers.
pub fn read_vector(source: &dyn WeightSource, name: &str, len: usize) -> anyhow::Result<Vec<f32>> {
    let tensor = find(source, name, 1, len)?;
    let mut values = vec![0.0_f32; len];
    dequantize_row(tensor.format, &tensor.bytes, &mut values);
    let offset = source.offset(name);
    values.iter_mut().for_each(|value| *value += offset);
    Ok(values)
}

/// The numbers that multiply a whole NVFP4 tensor, or each of `count` experts: a tensor of its own, `….scale` beside
/// `….weight`, or 1.
pub(super) fn factors_beside(
    source: &dyn WeightSource,
    name: &str,
    count: usize,
) -> anyhow::Result<Vec<f32>> {
    let name = format!("{}.scale", name.strip_suffix(".weight").unwrap_or(name));
    if source.tensor(&name)?.is_none() {
        return Ok(vec![1.0; count]);
    }
    let factors = read_vector(source, &name, count)?;
    let bad = factors.iter().find(|factor| !factor.is_finite());
    ensure!(bad.is_none(), "tensor \"{name}\" has {}", bad.copied().unwrap_or_default());
    Ok(factors)
}

/// Fails when `shape` is not what the model's keys say, with both.
pub(super) fn ensure_shape(
    source: &dyn WeightSource,
    name: &str,
    shape: (usize, usize),
    expected: (usize, usize),
) -> anyhow::Result<()> {
    ensure!(
        shape == expected,
        "tensor \"{}\" is [{}, {}], but the model's keys ask for [{}, {}]",
        source.name_in_file(name),
        shape.0,
        shape.1,
        expected.0,
        expected.1
    );
    Ok(())
}

/// The tensor, whose shape must be as the model's keys say.
pub(super) fn find<'a>(
    source: &'a dyn WeightSource,
    name: &str,
    out_features: usize,
    in_features: usize,
) -> anyhow::Result<HostTensor<'a>> {
    let shown = || source.name_in_file(name);
    let Some(tensor) = source.tensor(name)? else {
        bail!("the file has no tensor \"{}\"", shown())
    };
    ensure!(
        tensor.num_matrices == 1,
        "tensor \"{}\" is [{}, {}, {}], but the model's keys ask for [{out_features}, {in_features}]",
        shown(),
        tensor.num_matrices,
        tensor.out_features,
        tensor.in_features
    );
    let shape = (tensor.out_features, tensor.in_features);
    ensure_shape(source, name, shape, (out_features, in_features))?;
    let row_bytes = tensor.format.row_bytes(in_features);
    let expected = row_bytes.and_then(|bytes| bytes.checked_mul(out_features));
    ensure!(
        expected == Some(tensor.bytes.len()),
        "tensor \"{}\" has {} bytes",
        shown(),
        tensor.bytes.len()
    );
    Ok(tensor)
}
