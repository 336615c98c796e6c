//! The body of a completion request to prompt tokens and what the engine is asked.

use quire_engine::request::TokenId;

use super::Frame;
use super::validate::{CompletionRequest, Prompt};
use crate::app::unix_time;
use crate::error::ApiError;
use crate::generation::GenerationSpec;
use crate::routes::prepare::Incoming;

/// Parses, checks and tokenizes.
pub(super) fn convert(incoming: &Incoming) -> Result<(Frame, GenerationSpec), ApiError> {
    let (mut fields, model) = incoming.fields()?;
    model.engine.info().limits.check_generates()?;
    let id = incoming.answer_id("cmpl", &mut fields)?;
    let mut request = CompletionRequest::take(&mut fields, &model, &incoming.state.config.limits)?;
    fields.finish();

    let add_special = request.add_special_tokens;
    let tokens_of = |prompt| match prompt {
        Prompt::Text(text) => model.encode(&text, add_special),
        Prompt::Tokens(tokens) => tokens,
    };
    let mut prompts: Vec<Vec<TokenId>> =
        std::mem::take(&mut request.prompts).into_iter().map(tokens_of).collect();
    if let Some(truncation) = request.common.truncation {
        let max_model_len = model.engine.info().limits.max_model_len;
        let cut = |prompt| truncation.cut(prompt, max_model_len, request.max_tokens.max(1));
        prompts.iter_mut().for_each(cut);
    }
    let common = &request.common;
    let mut params = common.params.clone();
    params.max_tokens = Some(request.max_tokens.max(1));
    // Which answers are best is a matter of their log probabilities.
    params.logprobs = request.logprobs.or((request.best_of > common.n).then_some(0));
    // An echoed prompt shows its log probabilities beside the answer's.
    let echoed = request.logprobs.filter(|_| request.echo);
    params.prompt_logprobs = request.prompt_logprobs.max(echoed);
    let mut text = common.text.clone();
    text.every_token = common.stream && (common.return_token_ids || request.logprobs.is_some());
    let spec = GenerationSpec {
        prompts: prompts.clone(),
        n: request.best_of,
        params,
        structured_output: common.structured_output.clone(),
        text,
        output: None,
        priority: common.priority.or(incoming.routing.priority).unwrap_or(0),
        replica: incoming.routing.replica,
        cache_salt: common.cache_salt.clone(),
        arrival: incoming.arrival,
    };
    let model_name = model.name.clone();
    let has_metrics = incoming.state.config.per_request_metrics;
    Ok((Frame { id, created: unix_time(), model_name, model, prompts, request, has_metrics }, spec))
}
