//! Which of several replicas gets a request: the one with least left to do until it is answered, which is what of its prompt
//! is not in the replica's prefix cache, and whom the replica serves already.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use quire_scheduler::TokenId;

/// Replicas, at most: a prefix keeps a bit for each.
pub const MAX_REPLICAS: usize = 64;

/// An unfinished request of a replica counts as so many tokens of a prompt: about what one brings, so that one prefix of a
/// page does not gather everybody on one replica.
const REQUEST_COST: u64 = 256;

/// Blocks of a prompt that are looked at: beyond these it is known well enough.
const MAX_BLOCKS: usize = 1024;

/// Remembers where prefixes went. It may be wrong, as replicas forget too: then a prompt is computed again.
pub struct Router {
    block_size: usize,
    /// Prefixes in each of the two maps.
    capacity: usize,
    hasher: RandomState,
    /// By the hash of a prefix of whole blocks: a bit for each replica that had it.
    recent: HashMap<u64, u64>,
    /// What was recent before; forgotten when `recent` is full.
    older: HashMap<u64, u64>,
    /// Requests that each replica got.
    num_routed: Vec<u64>,
    hashes: Vec<u64>,
}

impl Router {
    /// Of replicas with so many blocks of so many tokens each.
    pub fn new(num_replicas: usize, block_size: u32, num_blocks: u32) -> Self {
        assert!((1..=MAX_REPLICAS).contains(&num_replicas), "{num_replicas} replicas");
        Self {
            block_size: block_size.max(1) as usize,
            capacity: (num_blocks as usize).saturating_mul(num_replicas).max(MAX_BLOCKS),
            hasher: RandomState::new(),
            recent: HashMap::new(),
            older: HashMap::new(),
            num_routed: vec![0; num_replicas],
            hashes: Vec::new(),
        }
    }

    /// The replica for a prompt, which shares prefixes with prompts of the same salt alone. `unfinished`: requests that each
    /// replica has; `None`: it takes none. `None`: no replica takes one.
    pub fn choose(
        &mut self,
        prompt: &[TokenId],
        salt: &impl Hash,
        unfinished: &[Option<u32>],
    ) -> Option<usize> {
        assert_eq!(unfinished.len(), self.num_routed.len(), "replicas");
        self.hash(prompt, salt);
        let cached = self.num_cached_blocks();
        let cost = |replica: usize, unfinished: u32| {
            let cached = (cached[replica] * self.block_size) as u64;
            prompt.len() as u64 - cached + REQUEST_COST * u64::from(unfinished)
        };
        let open = unfinished.iter().enumerate().filter_map(|(replica, unfinished)| {
            unfinished.map(|unfinished| (cost(replica, unfinished), replica))
        });
        let chosen =
            open.min_by_key(|&(cost, replica)| (cost, self.num_routed[replica], replica))?.1;
        self.num_routed[chosen] += 1;
        self.remember(chosen);
        Some(chosen)
    }

    /// Of each prefix of whole blocks that a cache could serve: the last token is always computed.
    fn hash(&mut self, prompt: &[TokenId], salt: &impl Hash) {
        self.hashes.clear();
        let cacheable = &prompt[..prompt.len().saturating_sub(1)];
        let mut parent = self.hasher.hash_one(salt);
        for block in cacheable.chunks_exact(self.block_size).take(MAX_BLOCKS) {
            parent = self.hasher.hash_one((parent, block));
            self.hashes.push(parent);
        }
    }

    /// For each replica.
    fn num_cached_blocks(&self) -> Vec<usize> {
        let mut cached = vec![0; self.num_routed.len()];
        let mut holders = u64::MAX;
        for (index, hash) in self.hashes.iter().enumerate() {
            holders &= self.holders(*hash);
            if holders == 0 {
                break;
            }
            for (replica, cached) in cached.iter_mut().enumerate() {
                if holders >> replica & 1 == 1 {
                    *cached = index + 1;
                }
            }
        }
        cached
    }

    fn holders(&self, hash: u64) -> u64 {
        let of = |map: &HashMap<u64, u64>| map.get(&hash).copied().unwrap_or(0);
        of(&self.recent) | of(&self.older)
    }

    fn remember(&mut self, replica: usize) {
        for index in 0..self.hashes.len() {
            let hash = self.hashes[index];
            if self.recent.len() >= self.capacity && !self.recent.contains_key(&hash) {
                self.older = std::mem::take(&mut self.recent);
            }
            let holders = self.holders(hash) | 1 << replica;
            self.recent.insert(hash, holders);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prompt(seed: u32, len: u32) -> Vec<TokenId> {
        (0..len).map(|index| seed * 1000 + index).collect()
    }

    fn idle(num_replicas: usize) -> Vec<Option<u32>> {
        vec![Some(0); num_replicas]
    }

    #[test]
    fn prompts_that_share_nothing_go_round() {
        let mut router = Router::new(3, 16, 100);
        let found: Vec<_> =
            (0..6).map(|seed| router.choose(&prompt(seed, 40), &"", &idle(3))).collect();
        assert_eq!(found, [0, 1, 2, 0, 1, 2].map(Some));
    }

    #[test]
    fn a_prompt_goes_where_its_beginning_is() {
        let mut router = Router::new(3, 16, 100);
        let long = prompt(7, 100);
        let first = router.choose(&long, &"", &idle(3));
        router.choose(&prompt(8, 100), &"", &idle(3));
        let mut longer = long.clone();
        longer.extend(prompt(9, 50));
        assert_eq!(router.choose(&longer, &"", &idle(3)), first);
        assert_eq!(router.choose(&long[..20], &"", &idle(3)), first);
        assert_ne!(router.choose(&long, &"another salt", &idle(3)), first, "nothing is shared");
        assert_ne!(router.choose(&long[..16], &"", &idle(3)), first, "no block would be found");
    }

    #[test]
    fn a_full_replica_gives_way_when_the_rest_is_cheaper() {
        let mut router = Router::new(2, 16, 100);
        let long = prompt(7, 1000);
        assert_eq!(router.choose(&long, &"", &idle(2)), Some(0));
        assert_eq!(router.choose(&long, &"", &[Some(3), Some(0)]), Some(0), "992 tokens are there");
        assert_eq!(router.choose(&long, &"", &[Some(4), Some(0)]), Some(1));
        assert_eq!(router.choose(&long, &"", &[Some(1), Some(0)]), Some(1), "now both have it");
        assert_eq!(router.choose(&long, &"", &[Some(9), None]), Some(0), "the other takes nothing");
        assert_eq!(router.choose(&long, &"", &[None, None]), None);
    }

    #[test]
    fn what_was_asked_for_long_ago_is_forgotten() {
        let mut router = Router::new(2, 1, 1);
        router.choose(&prompt(0, 100), &"", &idle(2));
        for seed in 1..40 {
            router.choose(&prompt(seed, 100), &"", &idle(2));
        }
        assert!(router.recent.len() + router.older.len() <= 2 * router.capacity);
        router.hash(&prompt(0, 100), &"");
        assert_eq!(router.num_cached_blocks(), [0, 0]);
    }

    proptest! {
        #[test]
        fn loads_stay_close_and_no_choice_costs_more_than_another(
            seeds in proptest::collection::vec((0_u32..6, 1_u32..600), 1..120),
            num_replicas in 1_usize..6,
            down in proptest::option::of(0_usize..6),
        ) {
            let mut router = Router::new(num_replicas, 16, 64);
            let mut unfinished = vec![Some(0_u32); num_replicas];
            if let Some(down) = down.filter(|&down| down < num_replicas && num_replicas > 1) {
                unfinished[down] = None;
            }
            for (seed, len) in seeds {
                let prompt = prompt(seed, len);
                let chosen = router.choose(&prompt, &"", &unfinished).expect("one takes it");
                let own = unfinished[chosen].expect("it takes requests");
                let least = unfinished.iter().flatten().min().expect("there is one");
                // A cached prompt is worth so many requests of others at most.
                let worth = len.div_ceil(REQUEST_COST as u32);
                prop_assert!(own <= least + worth, "{own} above {least}, {len} tokens");
                unfinished[chosen] = Some(own + 1);
            }
        }
    }
}
