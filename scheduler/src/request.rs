//! What comes in: a sequence to generate, when it stops, and why it may be turned away.

use std::fmt;
use std::sync::Arc;

use crate::tenants::{MAX_TENANTS, Tenant};

pub type TokenId = u32;

/// The caller's name of a sequence, unique among the unfinished ones.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct SequenceId(pub u64);

#[derive(Clone, Debug)]
pub struct NewSequence {
    pub id: SequenceId,
    pub prompt: Vec<TokenId>,
    pub stop: StopRule,
    pub tenant: Tenant,
    /// Lower runs first among those of the tenant; read by [`Policy::Priority`](crate::Policy::Priority) only.
    pub priority: i32,
    /// Sequences share cached prefixes only within one salt.
    ///
    /// A caller that serves strangers mixes a random number of the process into it, so that no one
    /// can compute colliding prefixes in advance.
    pub cache_salt: u64,
    /// Reads no cached prefix (each position's logits are wanted), but leaves its own blocks in the
    /// cache.
    pub skip_prefix_cache: bool,
}

/// When a sequence ends by itself.
#[derive(Clone, Debug)]
pub struct StopRule {
    /// At least 1.
    pub max_tokens: u32,
    /// Before this many output tokens neither eos nor a stop token ends the sequence.
    pub min_tokens: u32,
    pub eos_token_ids: Arc<[TokenId]>,
    pub stop_token_ids: Arc<[TokenId]>,
    pub ignore_eos: bool,
}

impl StopRule {
    /// Whether `token`, the last of `num_output_tokens`, ends the sequence: eos first, then stop
    /// tokens.
    pub(crate) fn matches(&self, token: TokenId, num_output_tokens: u32) -> Option<FinishReason> {
        if num_output_tokens < self.min_tokens {
            None
        } else if !self.ignore_eos && self.eos_token_ids.contains(&token) {
            Some(FinishReason::Stop)
        } else if self.stop_token_ids.contains(&token) {
            Some(FinishReason::StopToken(token))
        } else {
            None
        }
    }
}

#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum FinishReason {
    /// An end-of-sequence token.
    Stop,
    /// One of `stop_token_ids`.
    StopToken(TokenId),
    /// `max_tokens`, `max_model_len`, or a KV cache that holds no more.
    Length,
    /// Cancelled by the caller. The scheduler sends no event for it:
    /// [`cancel`](crate::Scheduler::cancel) says so.
    Aborted,
    /// Non-finite logits, or two failing steps.
    Error,
}

/// Why [`Scheduler::add`](crate::Scheduler::add) took nothing.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Rejected {
    QueueFull { limit: u32 },
    EmptyPrompt,
    ZeroMaxTokens,
    PromptTooLong { num_tokens: usize, limit: u32 },
    ExceedsKvCache { num_tokens: usize, limit: u64 },
    DuplicateId { id: SequenceId },
    TenantOutOfRange { index: u32 },
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull { limit } => {
                write!(f, "{limit} sequences wait already, the limit of max_num_queued_seqs")
            }
            Self::EmptyPrompt => write!(f, "the prompt has no tokens"),
            Self::ZeroMaxTokens => write!(f, "max_tokens must be at least 1"),
            Self::PromptTooLong { num_tokens, limit } => write!(
                f,
                "the prompt has {num_tokens} tokens, but max_model_len leaves room for {limit} \
                 before one token of output"
            ),
            Self::ExceedsKvCache { num_tokens, limit } => write!(
                f,
                "the prompt has {num_tokens} tokens, but the KV cache holds {limit} \
                 (num_blocks times block_size)"
            ),
            Self::DuplicateId { id } => write!(f, "sequence {} is unfinished already", id.0),
            Self::TenantOutOfRange { index } => {
                write!(f, "tenant {index} is not below {MAX_TENANTS}, the limit of tenants")
            }
        }
    }
}

impl std::error::Error for Rejected {}
