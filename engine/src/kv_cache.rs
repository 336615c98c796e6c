//! The paged KV cache: one `KvLayer` a layer, all of the same number of blocks. Layers with a window keep whole
//! sequences too; their attention looks at the window only.

use quire_kernels::{DType, Device, DeviceError, KvLayer};

use crate::models::DecoderSpec;
use crate::models::spec::LayerSpec;

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
        let layer = |layer: &LayerSpec| {
            let (kv_heads, head_dim) = (layer.attention.num_kv_heads, layer.attention.head_dim);
            KvLayer::new(device, dtype, num_blocks, block_size, kv_heads, head_dim)
        };
        Ok(Self { layers: spec.layers.iter().map(layer).collect::<Result<_, _>>()? })
    }

    /// Bytes of one token in all layers.
    pub fn bytes_per_token(spec: &DecoderSpec, dtype: DType) -> u64 {
        let kv_size: usize = spec.layers.iter().map(|layer| layer.attention.kv_size()).sum();
        (2 * kv_size * dtype.size()) as u64
    }

    pub fn layer_mut(&mut self, index: usize) -> &mut KvLayer {
        &mut self.layers[index]
    }
}
