//! The limits of a scheduler, checked once.

/// All counts are at least 1 unless said otherwise.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Tokens in a block.
    pub block_size: u32,
    /// Where the blocks of the groups come from.
    pub pools: Vec<CachePool>,
    /// Rows: sequences that run at the same time.
    pub max_num_seqs: u32,
    /// The budget of one step; at least `max_num_seqs`, so that each running sequence gets a token.
    pub max_num_batched_tokens: u32,
    /// Prompt and output together; at least 2.
    pub max_model_len: u32,
    /// What a step takes beside its tokens, in the time of a prompt's token; may be 0.
    pub step_overhead_tokens: u32,
    pub max_num_queued_seqs: u32,
    /// The most tokens of one sequence in a step; 0 means no cap.
    pub long_prefill_token_threshold: u32,
    /// A prompt may be computed in several steps. Without (encoders, which see what follows) a sequence starts when the
    /// budget has room for all of its tokens; that is then at least `max_model_len` - 1, and there is no threshold.
    pub enable_chunked_prefill: bool,
    pub policy: Policy,
    pub enable_prefix_caching: bool,
    /// What the layers keep for each sequence; at least one.
    pub cache_groups: Vec<CacheGroup>,
}

/// Blocks of equal bytes.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct CachePool {
    pub num_blocks: u32,
    /// Blocks that are touched before unused prefixes give way to new content. Running sequences take
    /// what they need beyond it, and prefixes that come back raise it. May be 0, or as many as there are.
    pub num_resident_blocks: u32,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Policy {
    FirstCome,
    /// Lower number first, then arrival.
    Priority,
}

/// Layers that keep the same thing for a sequence share a block table.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct CacheGroup {
    pub kind: CacheKind,
    /// Index in [`SchedulerConfig::pools`]. States and pages do not share one.
    pub pool: u32,
}

/// Which of the past a layer needs. Layers that read another layer's pages are in that layer's group.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum CacheKind {
    /// Every position: keys and values, or the latents of both.
    FullAttention,
    /// A query sees itself and the `window - 1` positions before it.
    SlidingWindow { window: u32 },
    /// A query sees those of its own chunk: `position / chunk` is the same.
    Chunk { chunk: u32 },
    /// A block is a whole state, which sums up all tokens before a position.
    RecurrentState,
}

impl CacheKind {
    /// The first position whose page the query at `position` reads.
    pub(crate) fn first_visible(self, position: u32) -> u32 {
        match self {
            Self::FullAttention | Self::RecurrentState => 0,
            Self::SlidingWindow { window } => (position + 1).saturating_sub(window),
            Self::Chunk { chunk } => position / chunk * chunk,
        }
    }

    /// Positions that `num_queries` queries in a row see together at most; `None`: all.
    fn max_span(self, num_queries: u32) -> Option<u32> {
        match self {
            Self::FullAttention | Self::RecurrentState => None,
            Self::SlidingWindow { window: span } | Self::Chunk { chunk: span } => {
                Some((span - 1).saturating_add(num_queries))
            }
        }
    }

    /// Blocks that a sequence holds at a time, at most, while the positions from `start` to `end` are
    /// computed, `num_at_once` (at least 1) in a step.
    pub fn num_blocks_held(
        self,
        (start, end): (u32, u32),
        num_at_once: u32,
        block_size: u32,
    ) -> u32 {
        let all = end.div_ceil(block_size) - self.first_visible(start) / block_size;
        let most = self.max_span(num_at_once).map(|span| (span - 1).div_ceil(block_size) + 1);
        all.min(most.unwrap_or(u32::MAX))
    }

    fn is_state(self) -> bool {
        self == Self::RecurrentState
    }
}

impl SchedulerConfig {
    /// Says which field is wrong and why.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let counts = [
            ("block_size", self.block_size, 1),
            ("max_num_seqs", self.max_num_seqs, 1),
            ("max_num_batched_tokens", self.max_num_batched_tokens, 1),
            ("max_model_len", self.max_model_len, 2),
            ("max_num_queued_seqs", self.max_num_queued_seqs, 1),
        ];
        for (field, value, least) in counts {
            if value < least {
                return Err(format!("{field} is {value}, but must be at least {least}"));
            }
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(format!(
                "max_num_batched_tokens is {}, but must be at least max_num_seqs ({}): each \
                 running sequence gets a token in each step",
                self.max_num_batched_tokens, self.max_num_seqs
            ));
        }
        if !self.enable_chunked_prefill
            && (self.max_num_batched_tokens < self.max_model_len - 1
                || self.long_prefill_token_threshold > 0)
        {
            return Err(format!(
                "max_num_batched_tokens is {} and long_prefill_token_threshold {}, but prompts of \
                 {} tokens (max_model_len) must fit a step: enable_chunked_prefill is off",
                self.max_num_batched_tokens,
                self.long_prefill_token_threshold,
                self.max_model_len - 1
            ));
        }
        self.validate_groups()
    }

    fn validate_groups(&self) -> Result<(), String> {
        if self.cache_groups.is_empty() {
            return Err("cache_groups is empty: a model keeps something for a sequence".to_owned());
        }
        for (index, pool) in self.pools.iter().enumerate() {
            // The free list needs one more number than there are blocks.
            if pool.num_blocks == 0 || pool.num_blocks == u32::MAX {
                return Err(format!(
                    "num_blocks of pool {index} is {}, but must be at least 1 and less than 2^32 - 1",
                    pool.num_blocks
                ));
            }
            let mut groups = self.cache_groups.iter().filter(|group| group.pool as usize == index);
            let num_states = groups.clone().filter(|group| group.kind.is_state()).count();
            if num_states > 0 && groups.any(|group| !group.kind.is_state()) {
                return Err(format!("pool {index} is of pages and of states"));
            }
            // A sequence reads one state and writes the next.
            if (pool.num_blocks as usize) < 2 * num_states {
                return Err(format!(
                    "num_blocks of pool {index} is {}, but must be at least two for each group of states",
                    pool.num_blocks
                ));
            }
        }
        for CacheGroup { kind, pool } in &self.cache_groups {
            if *pool as usize >= self.pools.len() {
                return Err(format!("cache group {kind:?} is of pool {pool}, which is not there"));
            }
            if matches!(
                kind,
                CacheKind::SlidingWindow { window: 0 } | CacheKind::Chunk { chunk: 0 }
            ) {
                return Err(format!("cache group {kind:?} sees nothing"));
            }
        }
        Ok(())
    }

    /// The most tokens of one sequence in a step.
    pub(crate) fn max_num_tokens_at_once(&self) -> u32 {
        match self.long_prefill_token_threshold {
            0 => self.max_num_batched_tokens,
            threshold => threshold.min(self.max_num_batched_tokens),
        }
    }

    pub(crate) fn kv_capacity(&self) -> u64 {
        let at_once = self.max_num_tokens_at_once();
        kv_capacity(&self.cache_groups, &self.pools, at_once, self.block_size)
    }
}

/// Tokens of one sequence of which the pools can hold what it needs, computed `num_at_once` in a step.
pub fn kv_capacity(
    groups: &[CacheGroup],
    pools: &[CachePool],
    num_at_once: u32,
    block_size: u32,
) -> u64 {
    let fits = |num_tokens: u32| {
        (0..).zip(pools).all(|(index, pool)| {
            let pages = groups.iter().filter(|group| group.pool == index && !group.kind.is_state());
            let held = pages.map(|group| {
                u64::from(group.kind.num_blocks_held((0, num_tokens), num_at_once, block_size))
            });
            held.sum::<u64>() <= pool.num_blocks.into()
        })
    };
    // The largest that fits, by halves: what is held grows with the tokens.
    let (mut most, mut too_many) = (0, u64::from(u32::MAX));
    while most + 1 < too_many {
        let middle = most.midpoint(too_many);
        if fits(middle as u32) { most = middle } else { too_many = middle }
    }
    most
}
