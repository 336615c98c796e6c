//! Prompts that are cut to what was asked for, or to what fits: `truncate_prompt_tokens`, and the header that tells.

use quire_engine::request::TokenId;

use crate::error::{ApiError, shortened};
use crate::http::fields::Fields;

/// How many messages, texts, or tokens of a raw prompt were left out or cut because that was asked for.
pub(crate) const TRUNCATED: &str = "x-quire-truncated";

/// How a prompt is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    /// Tokens to keep; `None`: as many as leave room for the answer.
    tokens: Option<u32>,
    /// The start stays, not the end.
    keeps_start: bool,
}

impl Truncation {
    pub(crate) fn take(fields: &mut Fields<'_>) -> Result<Option<Self>, ApiError> {
        let name = "truncate_prompt_tokens";
        let tokens = match fields.take_integer(name, -1, i64::from(u32::MAX))? {
            Some(0) => {
                return Err(ApiError::invalid(name, format!("{name} must be -1 or at least 1")));
            }
            given => given.map(|tokens| u32::try_from(tokens).ok()),
        };
        let keeps_start = match fields.take_string("truncation_side")?.as_deref() {
            None | Some("left") => false,
            Some("right") => true,
            Some(other) => {
                let message =
                    format!("truncation_side must be left or right, not {:?}", shortened(other));
                return Err(ApiError::invalid("truncation_side", message));
            }
        };
        Ok(tokens.map(|tokens| Self { tokens, keeps_start }))
    }

    /// The end of a prompt, so many tokens of it; -1: as many as fit.
    pub(crate) fn keeping_end(tokens: i32) -> Result<Self, ApiError> {
        if tokens == 0 || tokens < -1 {
            let name = "truncate_prompt_tokens";
            return Err(ApiError::invalid(name, format!("{name} must be -1 or at least 1")));
        }
        Ok(Self { tokens: u32::try_from(tokens).ok(), keeps_start: false })
    }

    /// Cuts `prompt`. `max_model_len` has to hold `max_tokens` of the answer too.
    pub(crate) fn cut(self, prompt: &mut Vec<TokenId>, max_model_len: u32, max_tokens: u32) {
        let room = max_model_len.saturating_sub(max_tokens).max(1);
        let kept = self.tokens.unwrap_or(room) as usize;
        if self.keeps_start {
            prompt.truncate(kept);
        } else {
            prompt.drain(..prompt.len().saturating_sub(kept));
        }
    }
}
