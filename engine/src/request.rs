//! What a front-end asks of the engine: a prompt of token ids and how to continue it.

use std::time::{Duration, Instant};

use crate::constraint::Constraint;
use crate::pooling::PoolingParams;
use crate::validate::InvalidRequest;

pub use quire_scheduler::{DraftStats, Tenant, TokenId};

/// One prompt to continue once. A front-end that wants `n` answers submits `n` requests; they share the prompt's
/// blocks through the prefix cache.
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Vec<TokenId>,
    pub params: SamplingParams,
    /// The prompt's embedding is wanted and nothing is generated: `params` are the default ones.
    pub pooling: Option<PoolingParams>,
    /// For whom it is, which says whose turn it is.
    pub tenant: Tenant,
    /// Lower runs earlier among those of the tenant, under the priority policy.
    pub priority: i32,
    /// Prompts share cached blocks only with prompts of the same salt.
    pub cache_salt: Option<String>,
    /// When the front-end received it: the zero of time to first token and of the whole latency.
    pub arrival: Instant,
}

impl Request {
    /// `prompt` with `params`, arriving now.
    pub fn new(prompt: Vec<TokenId>, params: SamplingParams) -> Self {
        Self {
            prompt,
            params,
            pooling: None,
            tenant: Tenant::default(),
            priority: 0,
            cache_salt: None,
            arrival: Instant::now(),
        }
    }

    /// The embedding of `prompt`, arriving now.
    pub fn embedding(prompt: Vec<TokenId>, pooling: PoolingParams) -> Self {
        Self { pooling: Some(pooling), ..Self::new(prompt, SamplingParams::default()) }
    }
}

/// How tokens are chosen and when the answer ends. Names and meanings are vLLM's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Tokens to generate at most; `None`: as many as the context holds.
    pub max_tokens: Option<u32>,
    /// No end token is sampled before this many tokens.
    pub min_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// `None`: the engine draws one.
    pub seed: Option<u64>,
    /// These end the answer beside the model's own end tokens.
    pub stop_token_ids: Vec<TokenId>,
    pub ignore_eos: bool,
    /// Added to the logits before sampling.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Only these may be sampled.
    pub allowed_token_ids: Option<Vec<TokenId>>,
    /// These are never sampled.
    pub banned_token_ids: Vec<TokenId>,
    /// Log probabilities of each sampled token and of this many likeliest.
    pub logprobs: Option<u32>,
    /// The same for each prompt token after the first.
    pub prompt_logprobs: Option<u32>,
    /// What the answer must follow. It ends where this says so: `min_tokens` and `ignore_eos` count only as long as another
    /// token may come.
    pub constraint: Option<Constraint>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            max_tokens: None,
            min_tokens: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            banned_token_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            constraint: None,
        }
    }
}

impl SamplingParams {
    /// The likeliest token at each step.
    pub fn greedy(max_tokens: u32) -> Self {
        Self { max_tokens: Some(max_tokens), temperature: 0.0, ..Self::default() }
    }
}

/// Log probability of a token under the model's raw logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub logprob: f32,
    /// 1 for the likeliest token.
    pub rank: u32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(TokenId, f32)>,
}

/// What a `TokenStream` yields: `Started` once, then tokens (each step's after what became of its drafts, if it had any) or an
/// embedding, then `Finished` once, then nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    Started(Started),
    Drafts(DraftCount),
    Token(TokenOutput),
    /// As `PoolingParams` want it.
    Embedding(Vec<f32>),
    Finished(Finished),
}

/// The prompt is computed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Started {
    /// Prompt tokens whose KV came from the prefix cache.
    pub num_cached_tokens: u32,
    /// From the request's arrival to its first step.
    pub queue: Duration,
    /// One entry a prompt token, the first `None`; empty when not asked for.
    pub prompt_logprobs: Vec<Option<TokenLogprobs>>,
}

/// Guesses of the next tokens that one step verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftCount {
    pub num_tokens: u32,
    /// The first ones of these.
    pub num_right: u32,
}

/// One generated token. An end token is part of the stream: front-ends that hide it look at `Finished`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenOutput {
    pub token: TokenId,
    pub logprobs: Option<TokenLogprobs>,
}

/// Why and how the answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub reason: FinishReason,
    pub num_prompt_tokens: u32,
    pub num_output_tokens: u32,
    pub num_cached_tokens: u32,
}

/// Why the answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's own end token, which is the last token of the stream.
    EndToken,
    /// A token of `stop_token_ids`, which is the last token of the stream.
    StopToken(TokenId),
    /// `max_tokens` or the context is used up.
    Length,
    /// The embedding is there.
    Embedded,
    /// The engine ended it: shutting down.
    Aborted,
    /// The constraint lets no token come; the text says why.
    DeadEnd(String),
    /// The engine has stopped, and the text says why; another one may answer the request.
    Stopped(String),
    /// This request failed (as with non-finite logits); the text says how. No other request is touched.
    Error(String),
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error("the queue is full: {limit} requests wait already (--max-num-queued-reqs)")]
    QueueFull { limit: u32 },
    #[error("the server is shutting down")]
    Draining,
    #[error("the engine has stopped")]
    Stopped,
}
