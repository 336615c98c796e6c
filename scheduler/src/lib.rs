//! What runs next, and in which blocks: pure, deterministic, integers only.
//!
//! Reading order: [`request`] (what comes in), [`output`] (what goes out), [`config`], then
//! [`scheduler`] and the ideas it is made of: `admit`, `turn`, `preempt`, `update`; below them `sequence`,
//! [`tenants`] (whose turn it is), `queue`, `groups` (what a sequence holds in each cache group), `cached_prefix`, `block`, `state`,
//! `block_pool`, `prefix_cache`, `forgotten`, `block_hash`; last `check`, which executes the list below.
//!
//! There is no prefill and no decode phase. Each step gives each running sequence the tokens it
//! lacks, under one budget: `known tokens + sampled but unknown tokens - num_scheduled_tokens`.
//! Scheduled and computed tokens are counted apart, so that step n+1 is scheduled before the tokens
//! of step n are known.
//!
//! Invariants, all executed by [`Scheduler::check`]:
//!
//! 1. A block is free exactly when no table holds it; its reference count is the number of tables that
//!    do. No more blocks are promised than are free.
//! 2. The free list holds each free block once, blocks without a cached prefix before those with
//!    one.
//! 3. A hash names one block of a group and that block names the hash; only full blocks of known,
//!    scheduled tokens have one.
//! 4. A block table covers what is scheduled, and no more than the known and pending tokens and wrong
//!    drafts need;
//!    behind a window it holds nothing. The state that a sequence writes is its own and has no name.
//! 5. `num_scheduled_tokens - num_computed_tokens` is what the steps in flight compute; one pending
//!    token for each of them that samples, and for each draft that they verify.
//! 6. A row belongs to one running sequence or is free; the running are ordered by (rank of the tenant,
//!    priority, arrival). A tenant's rows and waiting sequences are counted right.
//! 7. A waiting sequence holds neither row nor blocks.
//! 8. No sequence grows past its output limit, the model length or the pool, pending tokens
//!    included.
//!
//! # Why
//!
//! - The device runs steps in order, and within a step each layer writes the keys and values of all
//!   rows before it reads any. So blocks are published to the prefix cache when they are scheduled,
//!   and freed while in flight.
//! - All blocks of a prompt are taken, or promised, at admission: a half computed prompt never waits
//!   for memory it competes for. A group with a window is promised no more than window and step see.
//! - A block behind a window is given back before the next step is made, not in the step that reads it
//!   last: there another row would write it before it is read. So are states that were replaced, and
//!   so snapshots are published after their step is made.
//! - A snapshot of a state costs a block, but no copy: the sequence goes on in another. It is taken at
//!   the last block boundary of a step if a block is free; of an answer the last one is kept. Without
//!   one, less of the prefix is found.
//! - Drafts are computed like tokens and counted out again where they are wrong. Pages are written
//!   again; a state cannot be, so the one after each draft has a block of its own until the step's
//!   result is known. To compute the right drafts again would run every layer a second time, to save
//!   blocks for the time of a step. No draft preempts, or takes another sequence's token.
//! - A cached prefix that nobody uses costs memory, which a process that has once touched it keeps. So
//!   beyond `num_resident_blocks` the oldest prefix gives way before another block is touched; a
//!   prefix that comes back after it gave way proves that more is worth it, and the limit rises.
//! - Preemption drops everything but the tokens. A result that was in flight is dropped by its
//!   epoch, and sampled again: the sampler is a pure function of seed and position.

mod admit;
mod block;
mod block_hash;
mod block_map;
mod block_pool;
mod cache_events;
mod cached_prefix;
mod check;
pub mod config;
pub mod draft_tree;
mod forgotten;
mod groups;
pub mod output;
mod preempt;
mod prefix_cache;
mod queue;
pub mod request;
pub mod scheduler;
mod sequence;
mod state;
pub mod tenants;
mod turn;
mod update;

pub use block::BlockId;
pub use block_map::BlockCell;
pub use cache_events::CacheEvent;
pub use config::{CacheGroup, CacheKind, CachePool, Policy, SchedulerConfig, kv_capacity};
pub use draft_tree::DraftTree;
pub use output::{
    Admitted, BlockCopy, DraftStats, MAX_TOKENS_PER_STEP, NewBlock, Row, SampledSequence,
    ScheduledSequence, SchedulerOutput, SchedulerStats, SequenceEvent, StateSegment, StepId,
    StepOutput, TokenList,
};
pub use request::{FinishReason, NewSequence, Rejected, SequenceId, StopRule, TokenId};
pub use scheduler::{MAX_STEPS_IN_FLIGHT, Scheduler};
pub use tenants::Tenant;
