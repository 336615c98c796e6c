//! The paged KV cache: one `KvLayer` a layer, all of the same number of blocks.

use quire_kernels::{DType, Device, DeviceError, KvLayer};

use crate::models::DecoderSpec;

/// Pages of every layer; a block id means the same page in each.
pub struct KvCache {
    layers: Vec<KvLayer>,
}

impl KvCache {
    pub fn new(
        device: &Device,
        spec: &DecoderSpec,
        dtype: DType,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<Self, DeviceError> {
        let (kv_heads, head_dim) = (spec.attention.num_kv_heads, spec.attention.head_dim);
        let layers = (0..spec.num_layers)
            .map(|_| KvLayer::new(device, dtype, num_blocks, block_size, kv_heads, head_dim))
            .collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }

    /// Bytes of one token in all layers.
    pub fn bytes_per_token(spec: &DecoderSpec, dtype: DType) -> u64 {
        (2 * spec.num_layers * spec.attention.kv_size() * dtype.size()) as u64
    }

    pub fn layer_mut(&mut self, index: usize) -> &mut KvLayer {
        &mut self.layers[index]
    }
}
