//! The paged KV cache: pools of blocks, each block with the pages or states of some layers (see `cache_layout.rs`).

use quire_kernels::{DType, Device, DeviceError, IndexLayer, KvLayer, RecurrentLayer};

use crate::cache_layout::{BlockContent, CacheLayout, Place, PoolLayout, index_dtype};
use crate::models::DecoderSpec;
use crate::models::spec::Reach;

/// Pages of every layer. A block id means the same page in each layer of a group.
pub struct KvCache {
    pools: Vec<Pool>,
    /// For each layer.
    places: Vec<Place>,
    /// Of each layer's indexer.
    index_places: Vec<Place>,
}

/// What the blocks of a pool hold, for each of a block's layers.
enum Pool {
    Pages(Vec<KvLayer>),
    IndexKeys(Vec<IndexLayer>),
    States(Vec<RecurrentLayer>),
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
            let layers = 0..pool.num_layers;
            match pool.content {
                BlockContent::Pages { num_kv_heads, head_dim, values_from } => {
                    let pages = |_| {
                        let (heads, blocks) = (num_kv_heads, num_blocks);
                        match values_from {
                            Some(first) => {
                                KvLayer::latent(device, dtype, blocks, block_size, head_dim, first)
                            }
                            None => {
                                KvLayer::new(device, dtype, blocks, block_size, heads, head_dim)
                            }
                        }
                    };
                    layers.map(pages).collect::<Result<_, _>>().map(Pool::Pages)
                }
                BlockContent::IndexKeys { head_dim } => {
                    let dtype = index_dtype(dtype);
                    let keys = |_| IndexLayer::new(device, dtype, num_blocks, block_size, head_dim);
                    layers.map(keys).collect::<Result<_, _>>().map(Pool::IndexKeys)
                }
                BlockContent::States(shape) => {
                    let states = |_| RecurrentLayer::new(device, num_blocks, &shape);
                    layers.map(states).collect::<Result<_, _>>().map(Pool::States)
                }
            }
        };
        let pools = layout.pools.iter().zip(num_blocks).map(pool);
        Ok(Self {
            pools: pools.collect::<Result<_, _>>()?,
            places: layout.places.clone(),
            index_places: layout.index_places.clone(),
        })
    }

    /// Gives the pages of one layer more blocks, behind those of its pool. Before anything is written.
    pub fn add_blocks(
        &mut self,
        device: &Device,
        layer: usize,
        num_blocks: usize,
    ) -> Result<(), DeviceError> {
        let pages = self.layer_mut(layer);
        let (dtype, num_blocks) = (pages.dtype(), pages.num_blocks() + num_blocks);
        let (size, heads, head_dim) = (pages.block_size(), pages.num_kv_heads(), pages.head_dim());
        let new = |num_blocks| KvLayer::new(device, dtype, num_blocks, size, heads, head_dim);
        // The old pages go first: there is no memory for both.
        *pages = new(1)?;
        *pages = new(num_blocks)?;
        Ok(())
    }

    /// Bytes of one token in all layers with attention, while all keep it. A GPU keeps latent vectors once.
    pub fn bytes_per_token(spec: &DecoderSpec, dtype: DType, on_gpu: bool) -> u64 {
        let layers =
            spec.layers.iter().filter(|layer| !layer.is_recurrent && layer.kv_of.is_none());
        let kv_size: usize = layers.map(|layer| layer.attention.kv_size()).sum();
        let copies = if on_gpu && spec.latent.is_some() { 1 } else { 2 };
        let indexers = spec.layers.iter().filter(|layer| layer.reach == Reach::Chosen).count();
        let key_size = spec.indexer.map_or(0, |indexer| indexer.heads.head_dim);
        let keys = indexers * key_size * index_dtype(dtype).size();
        (copies * kv_size * dtype.size() + keys) as u64
    }

    /// The cache group of a layer, whose block table finds its pages.
    pub fn group(&self, layer: usize) -> usize {
        self.places[layer].group
    }

    pub fn layer_mut(&mut self, layer: usize) -> &mut KvLayer {
        let place = self.places[layer];
        match &mut self.pools[place.pool] {
            Pool::Pages(pages) => &mut pages[place.page],
            _ => panic!("layer {layer} has no pages"),
        }
    }

    pub fn states_mut(&mut self, layer: usize) -> &mut RecurrentLayer {
        let place = self.places[layer];
        match &mut self.pools[place.pool] {
            Pool::States(states) => &mut states[place.page],
            _ => panic!("layer {layer} has no states"),
        }
    }

    /// The keys of a layer's indexer, and their cache group.
    pub fn index_mut(&mut self, layer: usize) -> (&mut IndexLayer, usize) {
        let place = self.index_places[layer];
        match &mut self.pools[place.pool] {
            Pool::IndexKeys(keys) => (&mut keys[place.page], place.group),
            _ => panic!("layer {layer} has no indexer"),
        }
    }
}
