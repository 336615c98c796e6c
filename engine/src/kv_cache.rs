//! The paged KV cache: pools of blocks, each block with the pages of some layers (see `cache_layout.rs`).

use quire_kernels::{DType, Device, DeviceError, KvLayer};

use crate::cache_layout::{CacheLayout, Place, PoolLayout};
use crate::models::DecoderSpec;

/// Pages of every layer. A block id means the same page in each layer of a group.
pub struct KvCache {
    /// For each pool, the pages of its blocks, one `KvLayer` for each of a block's layers.
    pools: Vec<Vec<KvLayer>>,
    /// For each layer.
    places: Vec<Place>,
}

impl KvCache {
    /// `num_blocks` of each pool of `layout`.
    pub fn new(
        device: &Device,
        layout: &CacheLayout,
        dtype: DType,
        num_blocks: &[usize],
        block_size: usize,
    ) -> Result<Self, DeviceError> {
        let pool = |(pool, &num_blocks): (&PoolLayout, &usize)| {
            let (kv_heads, head_dim) = (pool.num_kv_heads, pool.head_dim);
            let pages = |_| KvLayer::new(device, dtype, num_blocks, block_size, kv_heads, head_dim);
            (0..pool.num_layers).map(pages).collect()
        };
        let pools = layout.pools.iter().zip(num_blocks).map(pool);
        Ok(Self { pools: pools.collect::<Result<_, _>>()?, places: layout.places.clone() })
    }

    /// Bytes of one token in all layers, while all keep it.
    pub fn bytes_per_token(spec: &DecoderSpec, dtype: DType) -> u64 {
        let kv_size: usize = spec.layers.iter().map(|layer| layer.attention.kv_size()).sum();
        (2 * kv_size * dtype.size()) as u64
    }

    /// The cache group of a layer, whose block table finds its pages.
    pub fn group(&self, layer: usize) -> usize {
        self.places[layer].group
    }

    pub fn layer_mut(&mut self, layer: usize) -> &mut KvLayer {
        let place = self.places[layer];
        &mut self.pools[place.pool][place.page]
    }
}
