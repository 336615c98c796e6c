//! `POST /tokenize`: a prompt or a conversation to token ids.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::messages;
use super::prepare::{Incoming, prepare};
use super::tools::take_tools;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::http;
use crate::http::fields::NeutralOnly;

pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("chat_template", &[]),
    NeutralOnly("media_io_kwargs", &["{}"]),
    NeutralOnly("mm_processor_kwargs", &["{}"]),
];

pub(crate) async fn tokenize(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    Ok(http::json(StatusCode::OK, &prepare(&state, request, answer).await?))
}

fn answer(incoming: &Incoming) -> Result<Value, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    fields.reject_unsupported(UNSUPPORTED)?;
    let with_texts = fields.take_bool("return_token_strs")?.unwrap_or(false);
    let tokens = if let Some(prompt) = fields.take_string("prompt")? {
        let add_special = fields.take_bool("add_special_tokens")?.unwrap_or(true);
        model.encode(&prompt, add_special)
    } else {
        let limits = &incoming.state.config.limits;
        let mut chat = messages::take_chat(&mut fields, limits)?;
        take_tools(&mut fields, &mut chat, limits)?;
        model.encode_chat(&chat)?
    };
    fields.finish();
    let texts = with_texts
        .then(|| tokens.iter().map(|&token| model.token_text(token)).collect::<Vec<&str>>());
    Ok(json!({
        "count": tokens.len(),
        "max_model_len": model.engine.info().limits.max_model_len,
        "tokens": tokens,
        "token_strs": texts,
    }))
}
