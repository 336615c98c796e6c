//! What enters and leaves the prefix cache, noted for those who send requests to where their prefix is.

use crate::block_hash::BlockHash;
use crate::groups::Groups;
use crate::request::TokenId;
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;

/// A change of the prefix cache. Hashes are names that only this process can make.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum CacheEvent {
    /// A full block of `tokens` can be found; it follows the block `parent`, or begins a prompt.
    Stored {
        hash: u64,
        parent: Option<u64>,
        tokens: Vec<TokenId>,
    },
    Removed {
        hash: u64,
    },
    /// Nothing can be found any more.
    Cleared,
}

/// Notes of one cache group: the first that keeps all positions, or else the first of pages.
pub(crate) struct CacheWatch {
    /// Other sequences' blocks are their own.
    salt: u64,
    /// Index among the groups of pages.
    group: usize,
    /// The group's number, which is part of its blocks' names.
    number: usize,
    pub(crate) pool: usize,
    events: Vec<CacheEvent>,
}

impl CacheWatch {
    fn new(groups: &Groups, salt: u64) -> Option<Self> {
        let keeps_all = groups.paged.iter().position(|group| !group.drops());
        let index = keeps_all.unwrap_or(0);
        let group = groups.paged.get(index)?;
        let (number, pool) = (group.number as usize, group.pool);
        Some(Self { salt, group: index, number, pool, events: Vec::new() })
    }

    /// Notes names that blocks have lost since the last call.
    pub(crate) fn removed(&mut self, names: &mut Vec<BlockHash>) {
        self.events.extend(names.drain(..).map(|name| CacheEvent::Removed { hash: name.short() }));
    }

    /// Notes that the block `index` of `sequence` has got its name in the group of pages `group`.
    pub(crate) fn stored(
        &mut self,
        group: usize,
        sequence: &Sequence,
        index: u32,
        block_size: u32,
    ) {
        if group != self.group || sequence.cache_salt != self.salt {
            return;
        }
        let name = |index: u32| sequence.block_hashes[index as usize].in_group(self.number).short();
        let first = (index * block_size) as usize;
        self.events.push(CacheEvent::Stored {
            hash: name(index),
            parent: index.checked_sub(1).map(name),
            tokens: sequence.tokens[first..first + block_size as usize].to_vec(),
        });
    }
}

impl Scheduler {
    /// From now on changes of the prefix cache are noted, but for what sequences of another salt store.
    pub fn watch_cache(&mut self, cache_salt: u64) {
        self.cache_watch = CacheWatch::new(&self.groups, cache_salt);
        if let Some(watch) = &self.cache_watch {
            self.pools[watch.pool].note_lost_names();
        }
    }

    /// The changes since the last call, in their order.
    pub fn take_cache_events(&mut self) -> Vec<CacheEvent> {
        let Some(watch) = &mut self.cache_watch else { return Vec::new() };
        watch.removed(self.pools[watch.pool].lost_names());
        std::mem::take(&mut watch.events)
    }

    pub(crate) fn clear_cache(&mut self) {
        self.pools.iter_mut().for_each(crate::block_pool::BlockPool::clear_cache);
        if let Some(watch) = &mut self.cache_watch {
            watch.removed(self.pools[watch.pool].lost_names());
            watch.events.push(CacheEvent::Cleared);
        }
    }
}
