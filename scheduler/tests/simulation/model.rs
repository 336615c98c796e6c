//! A model whose next token is a pure function of all tokens before it, and the random numbers of a
//! run.

use quire_scheduler::{CacheKind, FinishReason, NewSequence, SchedulerConfig, TokenId};

pub(crate) const NUM_TOKENS_IN_VOCABULARY: u64 = 40;
pub(crate) const EOS: TokenId = 0;
pub(crate) const STOP_TOKEN: TokenId = 1;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn within(&mut self, least: u32, most: u32) -> u32 {
        least + self.below(u64::from(most - least) + 1) as u32
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What attention at a position depends on: everything up to it.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Content(u64);

impl Content {
    /// Different salts must never share, so the salt is a part of the content.
    pub(crate) fn root(cache_salt: u64) -> Self {
        Self(mix(cache_salt ^ 0x5157_4952_4500))
    }

    pub(crate) fn then(self, token: TokenId) -> Self {
        Self(mix(self.0 ^ u64::from(token).wrapping_mul(0xd134_2543_de82_ef95)))
    }

    /// The sampler counts output tokens, so the counter is a part of the sample.
    pub(crate) fn sample(self, num_output_tokens: u32) -> TokenId {
        (mix(self.0 ^ u64::from(num_output_tokens) << 40) % NUM_TOKENS_IN_VOCABULARY) as TokenId
    }
}

/// All tokens of a sequence that runs alone, and why it ends.
pub(crate) fn isolated_run(
    new: &NewSequence,
    config: &SchedulerConfig,
) -> (Vec<TokenId>, FinishReason) {
    let mut tokens = new.prompt.clone();
    let mut content =
        tokens.iter().fold(Content::root(new.cache_salt), |content, &token| content.then(token));
    let kv_capacity = kv_capacity(config);
    for num_output_tokens in 0.. {
        let token = content.sample(num_output_tokens);
        content = content.then(token);
        tokens.push(token);
        let may_stop = num_output_tokens + 1 >= new.stop.min_tokens;
        if may_stop && token == EOS && !new.stop.ignore_eos {
            return (tokens, FinishReason::Stop);
        }
        if may_stop && new.stop.stop_token_ids.contains(&token) {
            return (tokens, FinishReason::StopToken(token));
        }
        let at_limit = num_output_tokens + 1 == new.stop.max_tokens
            || tokens.len() == config.max_model_len as usize
            || tokens.len() > kv_capacity;
        if at_limit {
            return (tokens, FinishReason::Length);
        }
    }
    unreachable!("each sequence has a limit")
}

/// The most tokens of a sequence that runs alone, found by laying out each length in blocks.
pub(crate) fn kv_capacity(config: &SchedulerConfig) -> usize {
    let threshold = match config.long_prefill_token_threshold {
        0 => u32::MAX,
        threshold => threshold,
    };
    let at_once = config.max_num_batched_tokens.min(threshold);
    let block_size = config.block_size;
    // Blocks between the first position that a step sees and its end, in the worst place for the step.
    let held = |kind: CacheKind, num_tokens: u32| {
        let reach = |span: u32| (u64::from(span) + u64::from(at_once) - 1).min(num_tokens.into());
        match kind {
            CacheKind::RecurrentState => 0,
            CacheKind::FullAttention => u64::from(num_tokens.div_ceil(block_size)),
            CacheKind::SlidingWindow { window: span } | CacheKind::Chunk { chunk: span } => {
                let whole = u64::from(num_tokens.div_ceil(block_size));
                whole.min((reach(span) - 1).div_ceil(block_size.into()) + 1)
            }
        }
    };
    let fits = |num_tokens: u32| {
        config.pools.iter().enumerate().all(|(pool, limits)| {
            let groups = config.cache_groups.iter().filter(|group| group.pool as usize == pool);
            let blocks: u64 = groups.map(|group| held(group.kind, num_tokens)).sum();
            blocks <= u64::from(limits.num_blocks)
        })
    };
    // Beyond the longest sequence nothing changes any more.
    (1..=config.max_model_len).take_while(|&num_tokens| fits(num_tokens)).count()
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
