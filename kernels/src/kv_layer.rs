//! One layer's pages of keys and values: what `rope_write_kv` writes and `attention` reads.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::cuda::Pointer;
use crate::device::{Device, DeviceError};
use crate::float8::{f32_to_float8, float8_to_f32};
use crate::tensor::{DType, Tensor};

/// Keys `[num_blocks][num_kv_heads][head_dim][block_size]` and values `[num_blocks][num_kv_heads][block_size][head_dim]`,
/// of F32, F16, BF16 or F8E4M3 (as in vLLM without scales). Scores add up channels and the output adds up positions: so both read vectors as they lie. On
/// CUDA keys lie as values do: a tile of them goes into matrix instructions as it is.
#[derive(Debug)]
pub struct KvLayer {
    keys: Tensor,
    values: Tensor,
    /// The values are the channels of the keys from this one on: `values` is empty.
    values_from: Option<usize>,
    num_blocks: usize,
    block_size: usize,
    num_kv_heads: usize,
    head_dim: usize,
    /// A bit a slot, all 0 between calls: finds a slot that a call would write twice.
    claimed: Vec<u64>,
}

impl KvLayer {
    /// Zeroed pages. `dtype` is F32, F16, BF16 or F8E4M3; `head_dim` is even; no size is 0, and slots fit u32.
    pub fn new(
        device: &Device,
        dtype: DType,
        num_blocks: usize,
        block_size: usize,
        num_kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self, DeviceError> {
        let is_float = !matches!(dtype, DType::U8 | DType::U32);
        assert!(is_float, "pages of {dtype:?}");
        assert!(num_blocks.min(block_size).min(num_kv_heads).min(head_dim) > 0, "an empty page");
        assert!(head_dim.is_multiple_of(2), "head_dim {head_dim} is odd");
        let num_slots = num_blocks.saturating_mul(block_size);
        assert!(num_slots < u32::MAX as usize, "{num_slots} slots do not fit u32");
        let cols = num_kv_heads * block_size * head_dim;
        Ok(Self {
            keys: device.allocate(dtype, num_blocks, cols)?,
            values: device.allocate(dtype, num_blocks, cols)?,
            values_from: None,
            num_blocks,
            block_size,
            num_kv_heads,
            head_dim,
            claimed: vec![0; num_slots.div_ceil(64)],
        })
    }

    /// As `new`, of one KV head whose values are the channels of its keys from `values_from` on. A GPU keeps them once.
    pub fn latent(
        device: &Device,
        dtype: DType,
        num_blocks: usize,
        block_size: usize,
        head_dim: usize,
        values_from: usize,
    ) -> Result<Self, DeviceError> {
        assert!(values_from < head_dim, "no values in {head_dim} channels");
        if !matches!(device, Device::Cuda(_)) {
            return Self::new(device, dtype, num_blocks, block_size, 1, head_dim);
        }
        let keys = device.allocate(dtype, num_blocks, block_size * head_dim)?;
        let values = device.allocate(dtype, 0, block_size * head_dim)?;
        let claimed = vec![0; (num_blocks * block_size).div_ceil(64)];
        let values_from = Some(values_from);
        Ok(Self {
            keys,
            values,
            values_from,
            num_blocks,
            block_size,
            num_kv_heads: 1,
            head_dim,
            claimed,
        })
    }

    /// Bytes of keys and values that one block takes in one layer.
    pub const fn bytes_per_block(
        dtype: DType,
        block_size: usize,
        num_kv_heads: usize,
        head_dim: usize,
    ) -> usize {
        2 * block_size * num_kv_heads * head_dim * dtype.size()
    }

    pub fn dtype(&self) -> DType {
        self.keys.dtype()
    }

    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes of keys and values together.
    pub fn num_bytes(&self) -> usize {
        self.keys.num_bytes() + self.values.num_bytes()
    }

    /// The key and the value in slot `slot` (block · block_size + offset) of KV head `kv_head`, widened to F32.
    pub fn read_slot(&self, slot: u32, kv_head: usize) -> (Vec<f32>, Vec<f32>) {
        let (block, offset) = (slot as usize / self.block_size, slot as usize % self.block_size);
        assert!(block < self.num_blocks && kv_head < self.num_kv_heads);
        let size = self.dtype().size();
        assert!(self.values_from.is_none(), "the values are in the keys");
        let (key, value) = self.first_elements(block, kv_head, offset);
        let elements = |tensor: &Tensor, start: usize, stride: usize| {
            let len = ((self.head_dim - 1) * stride + 1) * size;
            let bytes = tensor.read_range(start * size..start * size + len);
            let elements = bytes.chunks(size).step_by(stride);
            elements.map(|element| widen(element, tensor.dtype())).collect()
        };
        let key_stride = if self.keys.is_on_cuda() { 1 } else { self.block_size };
        (elements(&self.keys, key, key_stride), elements(&self.values, value, 1))
    }

    /// The values are the channels of the keys from this one on.
    pub(crate) fn values_from(&self) -> Option<usize> {
        self.values_from
    }

    /// Where the keys begin in the memory of a GPU: `[num_blocks][num_kv_heads][block_size][head_dim]` there.
    pub(crate) fn key_pointer(&self) -> Pointer {
        self.keys.view().pointer()
    }

    /// Where the values begin in the memory of a GPU, laid out as the keys are there; null where keys are kept alone.
    pub(crate) fn value_pointer(&self) -> Pointer {
        match self.values_from {
            Some(_) => Pointer::NULL,
            None => self.values.view().pointer(),
        }
    }

    /// These pages, which are the host's, on a GPU, as `cuda_dtype` says: for cases. With `values_from` only keys are kept.
    pub(crate) fn copied_to(&self, device: &Device, values_from: Option<usize>) -> Self {
        let (blocks, size, heads) = (self.num_blocks, self.block_size, self.num_kv_heads);
        let (dtype, head_dim) = (cuda_dtype(self.dtype()), self.head_dim);
        let copy = match values_from {
            Some(first) => Self::latent(device, dtype, blocks, size, head_dim, first),
            None => Self::new(device, dtype, blocks, size, heads, head_dim),
        };
        let mut copy = copy.expect("a case fits the device");
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for block in 0..blocks {
            for head in 0..heads {
                for offset in 0..size {
                    let (key, value) = self.read_slot((block * size + offset) as u32, head);
                    keys.extend(key);
                    values.extend(value);
                }
            }
        }
        copy.keys.write_f32(&keys);
        if values_from.is_none() {
            copy.values.write_f32(&values);
        }
        copy
    }

    /// Copies whole blocks, in order.
    pub(crate) fn copy_blocks(&mut self, copies: &[(u32, u32)]) {
        let kept = [&mut self.keys, &mut self.values];
        for tensor in kept.into_iter().filter(|tensor| tensor.rows() > 0) {
            let size = tensor.cols() * tensor.dtype().size();
            for &(source, destination) in copies {
                let start = source as usize * size;
                tensor.copy_within(start..start + size, destination as usize * size);
            }
        }
    }

    /// Copies single slots of all heads, in order.
    pub(crate) fn copy_slots(&mut self, copies: &[(u32, u32)]) {
        let (size, head_dim) = (self.dtype().size(), self.head_dim);
        let place = |slot: u32| (slot as usize / self.block_size, slot as usize % self.block_size);
        let key_stride = if self.keys.is_on_cuda() { 1 } else { self.block_size };
        for &(source, destination) in copies {
            for head in 0..self.num_kv_heads {
                let ((block, offset), (to_block, to_offset)) = (place(source), place(destination));
                let (key, value) = self.first_elements(block, head, offset);
                let (to_key, to_value) = self.first_elements(to_block, head, to_offset);
                copy_elements(&mut self.keys, (key, to_key), (head_dim, key_stride), size);
                if self.values.rows() > 0 {
                    copy_elements(&mut self.values, (value, to_value), (head_dim, 1), size);
                }
            }
        }
    }

    /// Asserts that `slots` (u32::MAX skips) lie inside and that none occurs twice.
    pub(crate) fn check_slots(&mut self, slots: &[u32]) {
        let num_slots = (self.num_blocks * self.block_size) as u32;
        let live = || slots.iter().copied().filter(|&slot| slot != u32::MAX);
        assert!(live().all(|slot| slot < num_slots), "a slot beyond {num_slots}");
        let mut is_distinct = true;
        for slot in live() {
            let (word, bit) = (&mut self.claimed[slot as usize / 64], 1_u64 << (slot % 64));
            is_distinct &= *word & bit == 0;
            *word |= bit;
        }
        live().for_each(|slot| self.claimed[slot as usize / 64] = 0);
        assert!(is_distinct, "a slot is written twice");
    }

    /// Raw access for workers that write disjoint slots.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        let (keys, values) =
            (self.keys.bytes_mut().as_mut_ptr(), self.values.bytes_mut().as_mut_ptr());
        KvWriter { keys, values, layer: self }
    }

    /// Where the key and the value of KV head `kv_head` at (`block`, `offset`) start. The channels of the key are
    /// `block_size` elements apart; the values of later offsets follow, `head_dim` elements each.
    pub(crate) fn pointers(&self, block: usize, kv_head: usize, offset: usize) -> [*const u8; 2] {
        assert!(block < self.num_blocks && kv_head < self.num_kv_heads && offset < self.block_size);
        let (key, value) = self.first_elements(block, kv_head, offset);
        let size = self.dtype().size();
        let at = |tensor: &Tensor, start: usize| tensor.bytes()[start * size..].as_ptr();
        [at(&self.keys, key), at(&self.values, value)]
    }

    /// The index of channel 0 of a key and of a value.
    fn first_elements(&self, block: usize, kv_head: usize, offset: usize) -> (usize, usize) {
        let page = (block * self.num_kv_heads + kv_head) * self.block_size * self.head_dim;
        let value = page + offset * self.head_dim;
        (if self.keys.is_on_cuda() { value } else { page + offset }, value)
    }
}

/// Copies `len` elements of so many bytes, `stride` apart, from one element on to another.
fn copy_elements(
    tensor: &mut Tensor,
    (from, to): (usize, usize),
    (len, stride): (usize, usize),
    size: usize,
) {
    let (num_runs, run) = if stride == 1 { (1, len * size) } else { (len, size) };
    for index in 0..num_runs {
        let (from, to) = ((from + index * stride) * size, (to + index * stride) * size);
        tensor.copy_within(from..from + run, to);
    }
}

/// Writes rows of a layer through a shared reference.
pub(crate) struct KvWriter<'a> {
    keys: *mut u8,
    values: *mut u8,
    layer: &'a KvLayer,
}

// SAFETY: the pointers borrow the layer exclusively; `write` demands disjoint slots.
unsafe impl Sync for KvWriter<'_> {}

impl KvWriter<'_> {
    /// Rounds `key` and `value` (`head_dim` numbers each) to nearest even and stores them.
    ///
    /// # Safety
    /// `FMA` only where the caller is compiled for AVX2, FMA and F16C or more. No other thread may write or read this slot of this head at the same time.
    #[inline(always)]
    pub(crate) unsafe fn write<const FMA: bool>(
        &self,
        slot: u32,
        kv_head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let layer = self.layer;
        let (block, offset) = (slot as usize / layer.block_size, slot as usize % layer.block_size);
        assert!(block < layer.num_blocks && kv_head < layer.num_kv_heads);
        assert!(key.len() == layer.head_dim && value.len() == layer.head_dim);
        let (key_start, value_start) = layer.first_elements(block, kv_head, offset);
        // SAFETY: both lie inside their tensors (asserted above) and are this caller's alone.
        unsafe {
            match layer.dtype() {
                DType::F32 => {
                    let keys = self.keys.cast::<f32>().add(key_start);
                    scatter(keys, layer.block_size, key.iter().copied());
                    row_mut(self.values, value_start, value.len()).copy_from_slice(value);
                }
                DType::F8E4M3 => {
                    let code = |&x: &f32| f32_to_float8(x);
                    scatter(self.keys.add(key_start), layer.block_size, key.iter().map(code));
                    scatter(self.values.add(value_start), 1, value.iter().map(code));
                }
                dtype => {
                    let mut rounded = [0_u16; ROUNDED_AT_ONCE];
                    for (index, key) in key.chunks(ROUNDED_AT_ONCE).enumerate() {
                        let rounded = &mut rounded[..key.len()];
                        round::<FMA>(dtype, rounded, key);
                        let start = key_start + index * ROUNDED_AT_ONCE * layer.block_size;
                        let keys = self.keys.cast::<u16>().add(start);
                        scatter(keys, layer.block_size, rounded.iter().copied());
                    }
                    round::<FMA>(dtype, row_mut(self.values, value_start, value.len()), value);
                }
            }
        }
    }
}

/// Channels of a key that are rounded before they are scattered.
const ROUNDED_AT_ONCE: usize = 128;

/// # Safety
/// `base[i · stride]` must be live and this caller's alone for each i below the number of elements.
#[inline(always)]
unsafe fn scatter<T>(base: *mut T, stride: usize, elements: impl Iterator<Item = T>) {
    for (index, element) in elements.enumerate() {
        // SAFETY: the caller's promise.
        unsafe { base.add(index * stride).write(element) };
    }
}

/// To F16 or BF16, nearest even; a NaN stays one.
///
/// # Safety
/// `FMA` only where the caller is compiled for AVX2, FMA and F16C or more.
#[inline(always)]
unsafe fn round<const FMA: bool>(dtype: DType, out: &mut [u16], x: &[f32]) {
    match dtype {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        DType::F16 if FMA => unsafe { round_to_f16_by_vectors(out, x) },
        DType::F16 => out.reinterpret_cast_mut::<f16>().convert_from_f32_slice(x),
        _ => round_to_bf16(out, x),
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn round_to_f16_by_vectors(out: &mut [u16], x: &[f32]) {
    use std::arch::x86_64::{
        _MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps,
    };
    let (outs, out_rest) = out.as_chunks_mut::<8>();
    let (vectors, rest) = x.as_chunks::<8>();
    for (out, vector) in outs.iter_mut().zip(vectors) {
        // SAFETY: eight numbers each.
        unsafe {
            let halves =
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(vector.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
        }
    }
    out_rest.reinterpret_cast_mut::<f16>().convert_from_f32_slice(rest);
}

#[inline(always)]
fn round_to_bf16(out: &mut [u16], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
        *out = if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded };
    }
}

/// # Safety
/// `base[start..start + len]` must be live, aligned numbers of type `T` that nobody else uses.
unsafe fn row_mut<'a, T>(base: *mut u8, start: usize, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(base.cast::<T>().add(start), len) }
}

/// One element.
fn widen(bytes: &[u8], dtype: DType) -> f32 {
    let half = || u16::from_le_bytes([bytes[0], bytes[1]]);
    match dtype {
        DType::F16 => f16::from_bits(half()).to_f32(),
        DType::BF16 => bf16::from_bits(half()).to_f32(),
        DType::F8E4M3 => float8_to_f32(bytes[0]),
        _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
    }
}

/// What a case whose pages are of `dtype` has them of on a GPU.
pub(crate) fn cuda_dtype(dtype: DType) -> DType {
    if dtype == DType::F8E4M3 { dtype } else { DType::BF16 }
}

/// `x` rounded to `dtype` and widened again: what a page gives back.
pub(crate) fn rounded(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
        DType::F8E4M3 => float8_to_f32(f32_to_float8(x)),
        _ => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::SimdLevel;
    use crate::cpu::math::per_simd_level;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    per_simd_level! {
        fn round_at(dtype: DType, out: &mut [u16], x: &[f32]) = round_at_body
    }

    #[inline(always)]
    fn round_at_body<const FMA: bool>(dtype: DType, out: &mut [u16], x: &[f32]) {
        // SAFETY: compiled for the level that `FMA` stands for.
        unsafe { round::<FMA>(dtype, out, x) };
    }

    #[test]
    fn halves_are_rounded_to_nearest_even_on_every_machine() {
        let interesting =
            [0, 1, 0x7FFF, 0x8000, 0x8001, 0x1_7FFF, 0x1_8000, 0x7F7F_8000, 0x7F80_0001];
        let signs = |bits: u32| [bits, bits | 1 << 31, bits + 0x3F80_0000];
        // Around the middles between neighbours of F16 as well, from below its normal numbers to beyond its largest.
        let middles = (0..2100_u32).map(|i| 0x3300_0000 + i * 0xA_1000 + i % 3);
        let bits = interesting.into_iter().flat_map(signs).chain(middles);
        let x: Vec<f32> = bits.map(f32::from_bits).collect();
        for simd in SimdLevel::available() {
            let mut out = vec![0; x.len()];
            round_at(simd, DType::BF16, &mut out, &x);
            assert!(out.iter().zip(&x).all(|(&out, &x)| out == bf16::from_f32(x).to_bits()));
            round_at(simd, DType::F16, &mut out, &x);
            let is_right = |(&out, &x): (&u16, &f32)| {
                let expected = f16::from_f32_const(x);
                if x.is_nan() { f16::from_bits(out).is_nan() } else { out == expected.to_bits() }
            };
            assert!(out.iter().zip(&x).all(is_right));
        }
    }

    #[test]
    fn slots_must_be_inside_and_distinct() {
        let mut layer = KvLayer::new(&Device::cpu(1), DType::BF16, 3, 8, 2, 16).unwrap();
        layer.check_slots(&[23, u32::MAX, 0, u32::MAX]);
        for slots in [&[24][..], &[5, 6, 5]] {
            assert!(catch_unwind(AssertUnwindSafe(|| layer.check_slots(slots))).is_err());
        }
        layer.check_slots(&[5, 6, 23]);
        assert_eq!(layer.num_bytes(), 3 * KvLayer::bytes_per_block(DType::BF16, 8, 2, 16));
    }
}
