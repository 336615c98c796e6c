//! The limits of a scheduler, checked once.

/// All counts are at least 1 unless said otherwise.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Tokens in a block.
    pub block_size: u32,
    pub num_blocks: u32,
    /// Blocks that are touched before unused prefixes give way to new content. Running sequences take
    /// what they need beyond it, and prefixes that come back raise it. May be 0, or as many as there are.
    pub num_resident_blocks: u32,
    /// Rows: sequences that run at the same time.
    pub max_num_seqs: u32,
    /// The budget of one step; at least `max_num_seqs`, so that each running sequence gets a token.
    pub max_num_batched_tokens: u32,
    /// Prompt and output together; at least 2.
    pub max_model_len: u32,
    pub max_num_queued_seqs: u32,
    /// The most tokens of one sequence in a step; 0 means no cap.
    pub long_prefill_token_threshold: u32,
    pub policy: Policy,
    pub enable_prefix_caching: bool,
    /// What the layers keep for each sequence; today exactly one [`CacheKind::FullAttention`].
    pub cache_groups: Vec<CacheGroup>,
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
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum CacheKind {
    FullAttention,
    SlidingWindow { window: u32 },
    RecurrentState,
}

impl SchedulerConfig {
    /// Says which field is wrong and why.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let counts = [
            ("block_size", self.block_size, 1),
            ("num_blocks", self.num_blocks, 1),
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
        // The free list needs one more number than there are blocks.
        if self.num_blocks == u32::MAX {
            return Err(format!("num_blocks is {}, but must be less", self.num_blocks));
        }
        match self.cache_groups.as_slice() {
            [CacheGroup { kind: CacheKind::FullAttention }] => Ok(()),
            [CacheGroup { kind }] => Err(format!("cache group {kind:?} is not supported")),
            groups => Err(format!(
                "cache_groups must be one FullAttention group, but is {:?}",
                groups.iter().map(|group| group.kind).collect::<Vec<_>>()
            )),
        }
    }

    /// Tokens whose keys and values the pool can hold at once.
    pub(crate) fn kv_capacity(&self) -> u64 {
        u64::from(self.num_blocks) * u64::from(self.block_size)
    }
}
