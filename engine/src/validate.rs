//! The one admission validator: every front-end's requests pass it before they reach the engine thread.

use crate::pooling::{PoolingParams, ScoreActivation};
use crate::request::{Request, SamplingParams, TokenId};

/// A request the engine cannot take, with the field to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidRequest {
    /// The field's name in the OpenAI and vLLM vocabulary.
    pub param: &'static str,
    pub message: String,
    /// The prompt does not fit the context: front-ends answer with a code of its own.
    pub is_context_length: bool,
}

/// What requests are checked against; fixed when the engine starts.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// Width of the logits: every token id must lie below it.
    pub vocab_size: u32,
    pub max_model_len: u32,
    /// `--max-logprobs`.
    pub max_logprobs: u32,
    /// Entries in each of the token lists of a request (`--max-token-list`).
    pub max_token_list: usize,
    /// What the model can do.
    pub tasks: Tasks,
}

/// What a model can be asked for.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// It writes text.
    pub generates: bool,
    /// Channels of its embeddings.
    pub hidden_size: u32,
    /// Tokens of the longest text that an embedding can be made of.
    pub max_embedded_len: u32,
    /// Why it gives no embeddings; `None`: it does.
    pub no_embeddings: Option<String>,
    /// It is a reranker: texts come in pairs, and each has one logit, of which this makes a score.
    pub scores: Option<ScoreActivation>,
}

impl RequestLimits {
    /// Checks everything that a request can get wrong, in the order of its fields.
    pub fn check(&self, request: &Request) -> Result<(), InvalidRequest> {
        if let Some(pooling) = request.pooling {
            self.check_embedding(&request.prompt, pooling)?;
            return check_salt(request.cache_salt.as_deref());
        }
        self.check_generates()?;
        let params = &request.params;
        self.check_prompt(&request.prompt, params)?;
        Self::check_numbers(params)?;
        self.check_token_lists(params)?;
        self.check_logprobs("logprobs", params.logprobs)?;
        self.check_logprobs("prompt_logprobs", params.prompt_logprobs)?;
        check_salt(request.cache_salt.as_deref())
    }

    /// Whether the model writes text at all: for front-ends that would do work before they ask.
    pub fn check_generates(&self) -> Result<(), InvalidRequest> {
        if self.tasks.generates {
            return Ok(());
        }
        let message = match self.tasks.scores {
            None => "this model makes embeddings and writes no text: use /v1/embeddings",
            Some(_) => "this model is a reranker and writes no text: use /v1/rerank or /v1/score",
        };
        Err(invalid("model", message.into()))
    }

    /// Whether the model makes embeddings.
    pub fn check_embeds(&self) -> Result<(), InvalidRequest> {
        match &self.tasks.no_embeddings {
            Some(why) => Err(invalid("model", format!("this model makes no embeddings: {why}"))),
            None => Ok(()),
        }
    }

    fn check_embedding(
        &self,
        prompt: &[TokenId],
        pooling: PoolingParams,
    ) -> Result<(), InvalidRequest> {
        match (pooling.second_text, self.tasks.scores) {
            (None, _) => self.check_embeds()?,
            (Some(start), Some(_)) if (start as usize) < prompt.len() => {}
            (Some(_), _) => {
                return Err(invalid("input", "this model takes no pair of texts like this".into()));
            }
        }
        if prompt.is_empty() {
            return Err(invalid("input", "an input has no tokens".into()));
        }
        let (limit, len) = (self.tasks.max_embedded_len as usize, prompt.len());
        if len > limit {
            let message = format!(
                "this model's maximum context length is {limit} tokens, but an input has {len}; shorten it, or \
                 let it be cut with truncate_prompt_tokens"
            );
            return Err(InvalidRequest { param: "input", message, is_context_length: true });
        }
        let most = self.tasks.hidden_size;
        match pooling.dimensions {
            Some(dimensions) if !(1..=most).contains(&dimensions) => {
                let message = format!("dimensions must be from 1 to {most}, not {dimensions}");
                Err(invalid("dimensions", message))
            }
            _ => self.check_ids("input", prompt),
        }
    }

    fn check_prompt(
        &self,
        prompt: &[TokenId],
        params: &SamplingParams,
    ) -> Result<(), InvalidRequest> {
        if prompt.is_empty() {
            return Err(invalid("prompt", "the prompt has no tokens".into()));
        }
        let (limit, len) = (self.max_model_len as usize, prompt.len());
        let asked = params.max_tokens.unwrap_or(1) as usize;
        if len + 1 > limit || len.saturating_add(asked) > limit {
            let message = format!(
                "this model's maximum context length is {limit} tokens, but the request needs {}: \
                 {len} in the prompt and {asked} to generate; shorten one of them",
                len.saturating_add(asked),
            );
            return Err(InvalidRequest { param: "prompt", message, is_context_length: true });
        }
        self.check_ids("prompt", prompt)
    }

    fn check_numbers(params: &SamplingParams) -> Result<(), InvalidRequest> {
        let range = |param, value: f32, low: f32, high: f32| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(invalid(param, format!("{param} must be between {low} and {high}, not {value}")))
        };
        range("temperature", params.temperature, 0.0, 2.0)?;
        range("top_p", params.top_p, f32::MIN_POSITIVE, 1.0).map_err(|_| {
            invalid("top_p", format!("top_p must be in (0, 1], not {}", params.top_p))
        })?;
        range("min_p", params.min_p, 0.0, 1.0)?;
        range("presence_penalty", params.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", params.frequency_penalty, -2.0, 2.0)?;
        let repetition = params.repetition_penalty;
        if !(repetition.is_finite() && repetition > 0.0) {
            let message = format!("repetition_penalty must be above 0, not {repetition}");
            return Err(invalid("repetition_penalty", message));
        }
        match params.max_tokens {
            Some(0) => Err(invalid("max_tokens", "max_tokens must be at least 1".into())),
            Some(max) if params.min_tokens > max => {
                let message = format!("min_tokens {} is above max_tokens {max}", params.min_tokens);
                Err(invalid("min_tokens", message))
            }
            _ => Ok(()),
        }
    }

    fn check_token_lists(&self, params: &SamplingParams) -> Result<(), InvalidRequest> {
        self.check_list("stop_token_ids", &params.stop_token_ids)?;
        self.check_list("bad_words", &params.banned_token_ids)?;
        if let Some(allowed) = &params.allowed_token_ids {
            if allowed.is_empty() {
                return Err(invalid("allowed_token_ids", "allowed_token_ids is empty".into()));
            }
            self.check_list("allowed_token_ids", allowed)?;
        }
        let biased: Vec<TokenId> = params.logit_bias.iter().map(|&(token, _)| token).collect();
        self.check_list("logit_bias", &biased)?;
        match params.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            Some((token, bias)) => {
                Err(invalid("logit_bias", format!("logit_bias of token {token} is {bias}")))
            }
            None => Ok(()),
        }
    }

    fn check_list(&self, param: &'static str, ids: &[TokenId]) -> Result<(), InvalidRequest> {
        if ids.len() > self.max_token_list {
            let message = format!(
                "{param} has {} entries, the limit is {} (--max-token-list)",
                ids.len(),
                self.max_token_list
            );
            return Err(invalid(param, message));
        }
        self.check_ids(param, ids)
    }

    fn check_ids(&self, param: &'static str, ids: &[TokenId]) -> Result<(), InvalidRequest> {
        match ids.iter().find(|&&id| id >= self.vocab_size) {
            Some(id) => Err(invalid(
                param,
                format!(
                    "token id {id} in {param} is not below the vocabulary size {}",
                    self.vocab_size
                ),
            )),
            None => Ok(()),
        }
    }

    fn check_logprobs(
        &self,
        param: &'static str,
        asked: Option<u32>,
    ) -> Result<(), InvalidRequest> {
        match asked {
            Some(count) if count > self.max_logprobs => {
                let limit = self.max_logprobs;
                Err(invalid(
                    param,
                    format!("{param} is {count}, the limit is {limit} (--max-logprobs)"),
                ))
            }
            _ => Ok(()),
        }
    }
}

fn check_salt(salt: Option<&str>) -> Result<(), InvalidRequest> {
    match salt {
        Some(salt) if salt.is_empty() || salt.len() > 128 => {
            Err(invalid("cache_salt", format!("cache_salt has {} bytes, not 1 to 128", salt.len())))
        }
        _ => Ok(()),
    }
}

fn invalid(param: &'static str, message: String) -> InvalidRequest {
    InvalidRequest { param, message, is_context_length: false }
}
