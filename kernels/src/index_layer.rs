//! Pages of the keys by which an indexer finds positions: one short vector a position.

use half::{bf16, f16};

use crate::cuda::Pointer;
use crate::device::{Device, DeviceError};
use crate::tensor::{DType, Tensor};

/// `[num_blocks · block_size, head_dim]` of F32, F16 or BF16: the vectors of a block lie end to end.
#[derive(Debug)]
pub struct IndexLayer {
    keys: Tensor,
    block_size: usize,
}

impl IndexLayer {
    /// Zeroed pages. `dtype` is F32, F16 or BF16; no size is 0, and slots fit u32.
    pub fn new(
        device: &Device,
        dtype: DType,
        num_blocks: usize,
        block_size: usize,
        head_dim: usize,
    ) -> Result<Self, DeviceError> {
        assert!(matches!(dtype, DType::F32 | DType::F16 | DType::BF16), "pages of {dtype:?}");
        assert!(num_blocks.min(block_size).min(head_dim) > 0, "an empty page");
        let num_slots = num_blocks.saturating_mul(block_size);
        assert!(num_slots < u32::MAX as usize, "{num_slots} slots do not fit u32");
        Ok(Self { keys: device.allocate(dtype, num_slots, head_dim)?, block_size })
    }

    /// Bytes that one block takes in one layer.
    pub const fn bytes_per_block(dtype: DType, block_size: usize, head_dim: usize) -> usize {
        block_size * head_dim * dtype.size()
    }

    pub fn dtype(&self) -> DType {
        self.keys.dtype()
    }

    pub fn num_blocks(&self) -> usize {
        self.keys.rows() / self.block_size
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub fn head_dim(&self) -> usize {
        self.keys.cols()
    }

    /// Where the keys begin in the memory of a GPU.
    pub(crate) fn pointer(&self) -> Pointer {
        self.keys.view().pointer()
    }

    /// These pages, which are the host's, as BF16 on a GPU: for cases.
    pub(crate) fn copied_to(&self, device: &Device) -> Self {
        let keys =
            device.tensor(DType::BF16, &self.keys.read_f32(), self.keys.rows(), self.head_dim());
        Self { keys: keys.expect("a case fits the device"), block_size: self.block_size }
    }

    /// The bytes of `count` keys from slot `slot` (block · block_size + offset) on.
    pub(crate) fn bytes(&self, slot: usize, count: usize) -> &[u8] {
        let row = self.head_dim() * self.dtype().size();
        &self.keys.bytes()[slot * row..(slot + count) * row]
    }

    /// Rounds `key` to nearest even and stores it.
    pub(crate) fn write(&mut self, slot: u32, key: &[f32]) {
        let (dtype, row) = (self.dtype(), self.head_dim() * self.dtype().size());
        assert_eq!(key.len(), self.head_dim(), "key");
        let bytes = &mut self.keys.bytes_mut()[slot as usize * row..][..row];
        let elements = bytes.chunks_exact_mut(dtype.size()).zip(key);
        elements.for_each(|(bytes, &x)| match dtype {
            DType::F16 => bytes.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
            DType::BF16 => bytes.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
            _ => bytes.copy_from_slice(&x.to_le_bytes()),
        });
    }

    /// The key in slot `slot`, widened to F32.
    pub fn read_slot(&self, slot: u32) -> Vec<f32> {
        let dtype = self.dtype();
        let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let widen = |bytes: &[u8]| match dtype {
            DType::F16 => f16::from_bits(half(bytes)).to_f32(),
            DType::BF16 => bf16::from_bits(half(bytes)).to_f32(),
            _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        };
        let row = self.head_dim() * dtype.size();
        let key = self.keys.read_range(slot as usize * row..(slot as usize + 1) * row);
        key.chunks_exact(dtype.size()).map(widen).collect()
    }
}
