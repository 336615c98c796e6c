//! Optional RMS norm of each q, k and v head, rotary embedding, and the write of K and V into their pages, in one pass.
//!
//! Rotation (Su et al. 2021): with angle a = position · inverse_frequency\[i\], each pair (x, y) of channels becomes
//! (x·cos a − y·sin a, y·cos a + x·sin a). Channels from `rotary_dim` on pass through.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

pub(crate) use cpu::rotate_head;

use crate::cuda::Pointer;
use crate::device::{Device, DeviceError};
use crate::indices::Indices;
use crate::kv_layer::KvLayer;
use crate::tensor::{DType, Tensor, ViewMut};

/// Which channels form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// i and i + rotary_dim/2 (half split: Llama of Hugging Face, Qwen, Gemma).
    Neox,
    /// 2i and 2i + 1 (GPT-J, multi-head latent attention).
    Interleaved,
}

/// Cosines and sines of every position, each `[num_positions, rotary_dim / 2]` F32.
#[derive(Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    pub style: RopeStyle,
    pub rotary_dim: usize,
}

impl RopeTable {
    /// Angles in f64, results rounded to F32. `attention_factor` multiplies both (YaRN, LongRoPE; else 1).
    /// `rotary_dim` is twice the number of frequencies. `None` when memory is short.
    pub fn new(
        inverse_frequencies: &[f32],
        attention_factor: f32,
        num_positions: usize,
        style: RopeStyle,
    ) -> Option<Self> {
        let half = inverse_frequencies.len();
        let mut cos = Tensor::host(DType::F32, num_positions, half)?;
        let mut sin = Tensor::host(DType::F32, num_positions, half)?;
        let rows = cos.f32_mut().chunks_mut(half.max(1)).zip(sin.f32_mut().chunks_mut(half.max(1)));
        for (position, (cos, sin)) in rows.enumerate() {
            for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(inverse_frequencies) {
                let (s, c) = (position as f64 * f64::from(frequency)).sin_cos();
                *cos = (c * f64::from(attention_factor)) as f32;
                *sin = (s * f64::from(attention_factor)) as f32;
            }
        }
        Some(Self { cos, sin, style, rotary_dim: 2 * half })
    }

    /// The same table in the memory of `device`.
    pub fn copied_to(&self, device: &Device) -> Result<Self, DeviceError> {
        let copy =
            |table: &Tensor| device.tensor(DType::F32, table.f32(), table.rows(), table.cols());
        let (cos, sin) = (copy(&self.cos)?, copy(&self.sin)?);
        Ok(Self { cos, sin, style: self.style, rotary_dim: self.rotary_dim })
    }

    /// A shape without memory, for `Device::Trace`.
    pub fn shape_only(rotary_dim: usize, num_positions: usize, style: RopeStyle) -> Self {
        let empty = || Tensor::shape_only(DType::F32, num_positions, rotary_dim / 2);
        Self { cos: empty(), sin: empty(), style, rotary_dim }
    }

    pub fn num_positions(&self) -> usize {
        self.cos.rows()
    }

    /// Where cosines and sines begin in the memory of a GPU.
    pub(crate) fn pointers(&self) -> [Pointer; 2] {
        [self.cos.view().pointer(), self.sin.view().pointer()]
    }
}

/// RMS norm over `head_dim` before the rotation; `q`, `k`, `v`: weights `[1, head_dim]` F32.
#[derive(Clone, Copy)]
pub struct HeadNorm<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: Option<&'a Tensor>,
    pub eps: f32,
}

/// What to do with each row; no `rope` means no rotation (NoPE layers).
#[derive(Clone, Copy)]
pub struct RopeWriteKv<'a> {
    pub head_dim: usize,
    pub num_q_heads: usize,
    pub num_kv_heads: usize,
    /// Position of each row; below `rope.num_positions()`.
    pub positions: Indices<'a>,
    /// block · block_size + offset of each row, each at most once; u32::MAX writes nothing.
    pub slot_mapping: Indices<'a>,
    pub rope: Option<&'a RopeTable>,
    pub norm: Option<HeadNorm<'a>>,
}

/// `qkv`: `[rows, (num_q_heads + 2·num_kv_heads) · head_dim]` activations. q is normalised and rotated in place; k (also
/// normalised and rotated in place) and v (normalised in place) go to `cache`, rounded to its type.
pub fn rope_write_kv(device: &Device, qkv: ViewMut, cache: &mut KvLayer, args: &RopeWriteKv) {
    check(device, &qkv, args);
    let pages = (cache.head_dim(), cache.num_kv_heads());
    assert_eq!(pages, (args.head_dim, args.num_kv_heads), "cache");
    match device {
        Device::Cpu(cpu) => {
            cache.check_slots(args.slot_mapping.host());
            cpu::rope_write_kv(cpu, &qkv, Some(cache), args);
        }
        Device::Cuda(cuda) => cuda::rope_write_kv(cuda, &qkv, Some(cache), args),
        Device::Trace(log) => log.push(trace_line(&qkv, Some(cache), args)),
    }
}

/// The same for queries alone, of layers that read what others wrote. `q`: `[rows, num_q_heads · head_dim]` activations;
/// `args` has no KV heads, and its slots and norm of k are not looked at.
pub fn rope_queries(device: &Device, q: ViewMut, args: &RopeWriteKv) {
    assert_eq!(args.num_kv_heads, 0, "queries alone");
    check(device, &q, args);
    match device {
        Device::Cpu(cpu) => cpu::rope_write_kv(cpu, &q, None, args),
        Device::Cuda(cuda) => cuda::rope_write_kv(cuda, &q, None, args),
        Device::Trace(log) => log.push(trace_line(&q, None, args)),
    }
}

fn check(device: &Device, qkv: &ViewMut, args: &RopeWriteKv) {
    let &RopeWriteKv { head_dim, num_q_heads, num_kv_heads, positions, slot_mapping, .. } = args;
    assert_eq!(qkv.cols(), (num_q_heads + 2 * num_kv_heads) * head_dim, "qkv");
    assert_eq!(qkv.dtype(), device.activation_dtype(), "qkv");
    assert_eq!((positions.len(), slot_mapping.len()), (qkv.rows(), qkv.rows()), "rows");
    if let Some(rope) = args.rope {
        assert!(rope.rotary_dim <= head_dim, "rotary_dim {} of {head_dim}", rope.rotary_dim);
        let end = rope.num_positions();
        assert!(
            positions.iter().all(|&position| (position as usize) < end),
            "beyond the rope table"
        );
    }
    let weights = args.norm.iter().flat_map(|norm| [Some(norm.q), Some(norm.k), norm.v]);
    for weight in weights.flatten() {
        assert_eq!((weight.rows(), weight.cols()), (1, head_dim), "norm weight");
        assert_eq!(weight.dtype(), DType::F32, "norm weight");
    }
}

fn trace_line(qkv: &ViewMut, cache: Option<&KvLayer>, args: &RopeWriteKv) -> String {
    let rope = args.rope.map_or_else(
        || "no rope".to_owned(),
        |rope| format!("{:?} {}", rope.style, rope.rotary_dim),
    );
    let (rows, head_dim, num_q_heads) = (qkv.rows(), args.head_dim, args.num_q_heads);
    let norm = match args.norm {
        None => "",
        Some(HeadNorm { v: None, .. }) => ", head norm",
        Some(HeadNorm { v: Some(_), .. }) => ", head and value norm",
    };
    match cache {
        None => {
            format!("rope_queries {rows} rows, {num_q_heads} heads of {head_dim}, {rope}{norm}")
        }
        Some(cache) => format!(
            "rope_write_kv {rows} rows, {num_q_heads}+{} heads of {head_dim}, {rope}{norm}, {:?}",
            args.num_kv_heads,
            cache.dtype(),
        ),
    }
}
