//! The body of a chat request to prompt tokens and what the engine is asked.

use super::Frame;
use super::validate::ChatRequest;
use crate::app::unix_time;
use crate::error::ApiError;
use crate::generation::GenerationSpec;
use crate::routes::prepare::Incoming;
use crate::structured::{Kind, StructuredOutput};

/// Parses, checks, renders and tokenizes.
pub(super) fn convert(incoming: &Incoming) -> Result<(Frame, GenerationSpec), ApiError> {
    let (mut fields, model) = incoming.fields()?;
    model.engine.info().limits.check_generates()?;
    let id = incoming.answer_id("chatcmpl", &mut fields)?;
    let request = ChatRequest::take(&mut fields, &model, &incoming.state.config.limits)?;
    fields.finish();

    let common = &request.common;
    let demanded = request.tools.answer_schema();
    let demanded = demanded.map(|schema| StructuredOutput::new("tools", Kind::Json(schema)));
    let structured_output = demanded.or_else(|| common.structured_output.clone());
    let is_held = structured_output.is_some();
    let (mut prompt, output) = model.prepare_chat(&request.chat, request.tools.clone(), is_held)?;
    if let Some(truncation) = common.truncation {
        let max_model_len = model.engine.info().limits.max_model_len;
        truncation.cut(&mut prompt, max_model_len, request.max_tokens.unwrap_or(1));
    }
    let mut params = common.params.clone();
    params.max_tokens = request.max_tokens;
    params.logprobs = request.logprobs;
    params.prompt_logprobs = request.prompt_logprobs;
    let mut text = common.text.clone();
    text.every_token = common.stream && (common.return_token_ids || request.logprobs.is_some());
    let spec = GenerationSpec {
        n: common.n,
        params,
        structured_output,
        text,
        output: Some(output),
        priority: common.priority.or(incoming.routing.priority).unwrap_or(0),
        replica: incoming.routing.replica,
        cache_salt: common.cache_salt.clone(),
        arrival: incoming.arrival,
        prompts: vec![prompt.clone()],
    };
    let model_name = model.name.clone();
    let has_metrics = incoming.state.config.per_request_metrics;
    Ok((Frame { id, created: unix_time(), model_name, model, prompt, request, has_metrics }, spec))
}
