//! What each layer keeps of a sequence: in which cache group, and where in the blocks of a pool.
//!
//! Layers that see the same of the past are a group. Groups whose pages have the same shape share one pool of blocks:
//! short sequences need as many pages of a group with a window as of one without, long ones far fewer, and no fixed
//! division of the memory serves both. For that a block must be of the same bytes in every group, so layers with a
//! window are divided into groups of about as many layers as those without.

use quire_kernels::{DType, IndexLayer, KvLayer, StateShape};
use quire_scheduler::{CacheGroup, CacheKind, CachePool};

use crate::models::spec::{LayerSpec, Reach};
use crate::models::{DecoderSpec, EncoderSpec};

/// Element type of the keys of indexers beside pages of `dtype`: what is chosen by eight bits would be other positions.
pub fn index_dtype(dtype: DType) -> DType {
    if dtype == DType::F8E4M3 { DType::BF16 } else { dtype }
}

/// Groups, pools, and each layer's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    pub groups: Vec<CacheGroup>,
    pub pools: Vec<PoolLayout>,
    /// For each layer.
    pub places: Vec<Place>,
    /// Of the keys of each layer's indexer; of those without one it means nothing.
    pub index_places: Vec<Place>,
}

/// What one block of a pool holds: a page, or a state, of so many layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLayout {
    pub num_layers: usize,
    pub content: BlockContent,
}

/// What a block holds of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockContent {
    /// Keys and values of as many tokens as a block has.
    Pages {
        num_kv_heads: usize,
        head_dim: usize,
        /// Values are the channels of keys from this one on: keys alone are kept.
        values_from: Option<usize>,
    },
    /// The keys of an indexer, of as many tokens as a block has.
    IndexKeys {
        head_dim: usize,
    },
    States(StateShape),
}

impl PoolLayout {
    fn holds_states(&self) -> bool {
        matches!(self.content, BlockContent::States(_))
    }
}

/// Blocks of states for each sequence that may run: what it reads and writes, and snapshots that others find.
const STATES_PER_SEQUENCE: u32 = 4;
/// Of the memory, states take one part in so many at most.
const STATE_SHARE: u64 = 2;

/// Where a layer's pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index in `CacheLayout::groups`.
    pub group: usize,
    /// Index in `CacheLayout::pools`.
    pub pool: usize,
    /// Which of a block's pages or states.
    pub page: usize,
}

/// What a table of block ids costs beside padding: a part of the memory.
const COST_OF_A_GROUP: f64 = 0.02;

/// Layers of one shape that see the same of the past.
struct Class {
    kind: CacheKind,
    /// Behind the last layer come their indexers, in the same order.
    layers: Vec<usize>,
}

impl CacheLayout {
    /// `on_gpu`: a GPU keeps latent vectors once.
    pub fn new(spec: &DecoderSpec, on_gpu: bool) -> Self {
        let mut contents: Vec<(BlockContent, Vec<Class>)> = Vec::new();
        for (index, content, kind) in kept(spec, on_gpu) {
            let at = contents.iter().position(|(other, _)| *other == content);
            let at = at.unwrap_or_else(|| {
                contents.push((content, Vec::new()));
                contents.len() - 1
            });
            let classes = &mut contents[at].1;
            match classes.iter_mut().find(|class| class.kind == kind) {
                Some(class) => class.layers.push(index),
                None => classes.push(Class { kind, layers: vec![index] }),
            }
        }
        let nowhere = Place { group: 0, pool: 0, page: 0 };
        let mut layout = Self {
            groups: Vec::new(),
            pools: Vec::new(),
            places: vec![nowhere; 2 * spec.num_layers()],
            index_places: Vec::new(),
        };
        for (content, classes) in contents {
            let num_layers = layers_per_block(&classes);
            let pool = layout.pools.len();
            layout.pools.push(PoolLayout { num_layers, content });
            for class in classes {
                for layers in class.layers.chunks(num_layers) {
                    let group = layout.groups.len();
                    layout.groups.push(CacheGroup { kind: class.kind, pool: pool as u32 });
                    for (page, &layer) in layers.iter().enumerate() {
                        layout.places[layer] = Place { group, pool, page };
                    }
                }
            }
        }
        layout.index_places = layout.places.split_off(spec.num_layers());
        for (index, layer) in spec.layers.iter().enumerate() {
            if let Some(source) = layer.kv_of {
                layout.places[index] = layout.places[source];
            }
        }
        layout
    }

    /// An encoder keeps nothing: keys and values live for a step, and all layers write theirs to the same pages.
    pub fn of_encoder(spec: &EncoderSpec) -> Self {
        let (num_kv_heads, head_dim) = (spec.attention.num_kv_heads, spec.attention.head_dim);
        let content = BlockContent::Pages { num_kv_heads, head_dim, values_from: None };
        Self {
            groups: vec![CacheGroup { kind: CacheKind::FullAttention, pool: 0 }],
            pools: vec![PoolLayout { num_layers: 1, content }],
            places: vec![Place { group: 0, pool: 0, page: 0 }; spec.num_layers()],
            index_places: Vec::new(),
        }
    }

    /// Bytes of a block of each pool.
    pub fn bytes_per_block(&self, dtype: DType, block_size: u32) -> Vec<u64> {
        let bytes = |pool: &PoolLayout| {
            let of_layer = match pool.content {
                BlockContent::Pages { num_kv_heads, head_dim, values_from } => {
                    let size = block_size as usize;
                    let both = KvLayer::bytes_per_block(dtype, size, num_kv_heads, head_dim);
                    if values_from.is_some() { both / 2 } else { both }
                }
                BlockContent::IndexKeys { head_dim } => {
                    IndexLayer::bytes_per_block(index_dtype(dtype), block_size as usize, head_dim)
                }
                BlockContent::States(shape) => shape.num_bytes(),
            };
            (pool.num_layers * of_layer) as u64
        };
        self.pools.iter().map(bytes).collect()
    }

    /// Blocks of each pool that one sequence of `num_tokens` holds, computed `num_at_once` in a step.
    pub fn blocks_held(&self, num_tokens: u32, num_at_once: u32, block_size: u32) -> Vec<u64> {
        let mut held = vec![0; self.pools.len()];
        for group in &self.groups {
            let blocks = match group.kind {
                CacheKind::RecurrentState => 1,
                kind => kind.num_blocks_held((0, num_tokens), num_at_once, block_size),
            };
            held[group.pool as usize] += u64::from(blocks);
        }
        held
    }

    /// Blocks of each pool for `bytes` in all. States take what `max_num_seqs` sequences can use, half of all at most. With
    /// pages of several shapes one half of the rest is divided as short sequences need it, the other as sequences of
    /// `max_tokens` do.
    pub fn num_blocks(
        &self,
        bytes: u64,
        bytes_per_block: &[u64],
        (max_tokens, num_at_once, block_size): (u32, u32, u32),
        max_num_seqs: u32,
    ) -> Vec<u32> {
        let short = self.blocks_held(block_size, num_at_once, block_size);
        let long = self.blocks_held(max_tokens, num_at_once, block_size);
        let num_states = |pool: usize| {
            (bytes / STATE_SHARE / bytes_per_block[pool]).min(Self::useful_states(max_num_seqs))
        };
        let is_state = |&pool: &usize| self.pools[pool].holds_states();
        let (states, pages): (Vec<usize>, Vec<usize>) = (0..self.pools.len()).partition(is_state);
        let of_states = states.iter().map(|&pool| num_states(pool) * bytes_per_block[pool]);
        let rest = bytes - of_states.sum::<u64>();
        let total = |blocks: &[u64]| -> u64 {
            pages.iter().map(|&pool| blocks[pool] * bytes_per_block[pool]).sum()
        };
        let (of_short, of_long) = (total(&short), total(&long));
        let num_blocks = |pool: usize| {
            let half = |blocks: u64, total: u64| {
                u128::from(blocks) * u128::from(rest / 2) / u128::from(total)
            };
            match &pages[..] {
                _ if is_state(&pool) => num_states(pool).into(),
                [_] => u128::from(rest / bytes_per_block[pool]),
                _ => half(short[pool], of_short) + half(long[pool], of_long),
            }
        };
        // Block ids and slots are 32 bits wide.
        (0..self.pools.len()).map(|pool| num_blocks(pool).min(1 << 24) as u32).collect()
    }

    /// Pools of so many blocks, of which ended requests leave a part resident.
    pub fn pools(
        num_blocks: &[u32],
        bytes_per_block: &[u64],
        resident_bytes: u64,
    ) -> Vec<CachePool> {
        let bytes = |(&blocks, &bytes): (&u32, &u64)| u64::from(blocks) * bytes;
        let total: u64 = num_blocks.iter().zip(bytes_per_block).map(bytes).sum();
        let resident = |num_blocks: u32| {
            let blocks =
                u128::from(num_blocks) * u128::from(resident_bytes) / u128::from(total.max(1));
            blocks.min(num_blocks.into()) as u32
        };
        let pool =
            |&num_blocks| CachePool { num_blocks, num_resident_blocks: resident(num_blocks) };
        num_blocks.iter().map(pool).collect()
    }

    /// Bytes of a state of all layers that have one; 0 when none has.
    pub fn state_bytes(&self, bytes_per_block: &[u64]) -> u64 {
        let pools = self.pools.iter().zip(bytes_per_block);
        pools.filter(|(pool, _)| pool.holds_states()).map(|(_, bytes)| bytes).sum()
    }

    /// States that so many sequences can use.
    pub fn useful_states(max_num_seqs: u32) -> u64 {
        u64::from(max_num_seqs) * u64::from(STATES_PER_SEQUENCE)
    }

    /// Blocks of all pools of pages.
    pub fn num_pages(&self, pools: &[CachePool]) -> u32 {
        let pools = self.pools.iter().zip(pools);
        pools.filter(|(pool, _)| !pool.holds_states()).map(|(_, pool)| pool.num_blocks).sum()
    }

    /// `None`: no layer has a state.
    pub fn num_states(&self, pools: &[CachePool]) -> Option<u32> {
        let mut pools = self.pools.iter().zip(pools);
        pools.find(|(pool, _)| pool.holds_states()).map(|(_, pool)| pool.num_blocks)
    }

    /// The group of the layers with states.
    pub fn recurrent_group(&self) -> Option<usize> {
        self.groups.iter().position(|group| group.kind == CacheKind::RecurrentState)
    }

    /// No layer has a window, chunks or a state.
    pub fn keeps_everything(&self) -> bool {
        self.groups.iter().all(|group| group.kind == CacheKind::FullAttention)
    }

    /// "3 layers keep everything, 15 the last 512 tokens".
    pub fn summary(&self) -> String {
        let mut kinds: Vec<(CacheKind, usize)> = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            // Layers that read what another keeps are not counted.
            if self.places[..index].contains(place) {
                continue;
            }
            let kind = self.groups[place.group].kind;
            match kinds.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((kind, 1)),
            }
        }
        let parts = kinds.iter().enumerate().map(|(index, (kind, count))| {
            let verb = if index == 0 { "layers keep " } else { "" };
            let what = match kind {
                CacheKind::FullAttention => "everything".to_owned(),
                CacheKind::SlidingWindow { window } => format!("the last {window} tokens"),
                CacheKind::Chunk { chunk } => format!("the last chunk of {chunk} tokens"),
                CacheKind::RecurrentState => "a state".to_owned(),
            };
            format!("{count} {verb}{what}")
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// What is kept, as the layers in `Class` are counted: of each layer, and of its indexer.
fn kept(
    spec: &DecoderSpec,
    on_gpu: bool,
) -> impl Iterator<Item = (usize, BlockContent, CacheKind)> {
    let layers = spec.layers.iter().enumerate();
    let own = layers.clone().filter(|(_, layer)| layer.kv_of.is_none());
    let own =
        own.map(move |(index, layer)| (index, content_of(spec, layer, on_gpu), kind_of(layer)));
    let indexers = layers.filter(|(_, layer)| layer.reach == Reach::Chosen);
    let head_dim = spec.indexer.map_or(0, |indexer| indexer.heads.head_dim);
    let indexers = indexers.map(move |(index, layer)| {
        (spec.num_layers() + index, BlockContent::IndexKeys { head_dim }, kind_of(layer))
    });
    own.chain(indexers)
}

fn content_of(spec: &DecoderSpec, layer: &LayerSpec, on_gpu: bool) -> BlockContent {
    match spec.gated_delta.filter(|_| layer.is_recurrent) {
        Some(recurrent) => BlockContent::States(recurrent.state_shape()),
        None => BlockContent::Pages {
            num_kv_heads: layer.attention.num_kv_heads,
            head_dim: layer.attention.head_dim,
            values_from: spec.latent.filter(|_| on_gpu).map(|latent| latent.rope_dim),
        },
    }
}

fn kind_of(layer: &LayerSpec) -> CacheKind {
    if layer.is_recurrent {
        return CacheKind::RecurrentState;
    }
    match (layer.window, layer.chunk) {
        (Some(window), _) => CacheKind::SlidingWindow { window },
        (None, Some(chunk)) => CacheKind::Chunk { chunk },
        (None, None) => CacheKind::FullAttention,
    }
}

/// How many layers' pages make a block, so that padding and the number of groups cost least.
fn layers_per_block(classes: &[Class]) -> usize {
    let cost = |num_layers: usize| {
        let groups = classes.iter().map(|class| class.layers.len().div_ceil(num_layers));
        let num_groups = groups.sum::<usize>() as f64;
        num_groups * num_layers as f64 * (1.0 + COST_OF_A_GROUP * num_groups)
    };
    let most = classes.iter().map(|class| class.layers.len()).max().unwrap_or(1);
    (1..=most).min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_of_about_equal_size() {
        let of = |sizes: &[usize]| {
            let class = |&size: &usize| Class {
                kind: CacheKind::FullAttention,
                layers: (0..size).collect(),
            };
            layers_per_block(&sizes.iter().map(class).collect::<Vec<_>>())
        };
        // Llama 3.1 8B, Gemma 3 270M, 1B, 4B and 27B, gpt-oss 20B, Llama 4 Scout.
        let models = [&[32][..], &[15, 3], &[22, 4], &[29, 5], &[52, 10], &[12, 12], &[36, 12]];
        assert_eq!(models.map(of), [32, 3, 4, 5, 13, 12, 12]);
    }
}
