//! `POST /api/generate`.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use quire_engine::request::TokenId;
use serde_json::{Value, json};

use super::chat::{Common, fitting_prompt, take_think, too_long, window};
use super::durations::Clock;
use super::error::OllamaError;
use super::incoming::{does_not_support, prepare, refuse_images};
use super::lines::{Job, Shape};
use super::options::Options;
use crate::app::{SharedState, unix_time};
use crate::error::ApiError;
use crate::http::fields::Fields;
use crate::model::ServedModel;
use crate::routes::messages;
use crate::routes::prepare::Incoming;
use crate::routes::truncation::TRUNCATED;
use crate::text::{ChatInput, ToolRequest};

pub(crate) async fn generate(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let prepared = prepare(&state, request, is_empty, convert).await?;
    prepared.answer(&state, ("response", json!(""))).await
}

/// Without a prompt the model is only to be loaded.
fn is_empty(fields: &mut Fields<'_>) -> bool {
    let mut is_absent = |name| fields.take_raw(name).is_none_or(|raw| raw.get() == r#""""#);
    is_absent("prompt") && is_absent("suffix")
}

/// The fields that say what the prompt is made of.
struct PromptFields {
    prompt: String,
    suffix: String,
    system: Option<String>,
    context: Vec<TokenId>,
    raw: bool,
}

impl PromptFields {
    fn take(fields: &mut Fields<'_>, name: &str) -> Result<Self, ApiError> {
        refuse_images(name, fields.take::<Value>("images", "a list")?.as_ref())?;
        let text = |given: Option<String>| given.filter(|text| !text.is_empty());
        let template = text(fields.take_string("template")?);
        let all = Self {
            prompt: fields.take_string("prompt")?.unwrap_or_default(),
            suffix: fields.take_string("suffix")?.unwrap_or_default(),
            system: text(fields.take_string("system")?),
            context: fields.take_ids("context")?.unwrap_or_default(),
            raw: fields.take_bool("raw")?.unwrap_or(false),
        };
        let is_dressed = template.is_some() || all.system.is_some() || !all.context.is_empty();
        if all.raw && is_dressed {
            let message = "raw mode does not support template, system, or context";
            return Err(ApiError::bad_request(message));
        }
        if template.is_some() {
            let message = "template is not taken from requests: the model's own chat template is used; raw: true \
                           sends a prompt as it is";
            return Err(ApiError::invalid("template", message));
        }
        Ok(all)
    }
}

/// Parses, checks, renders and tokenizes.
fn convert(incoming: &Incoming, name: &str) -> Result<Job, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    model.engine.info().limits.check_generates().map_err(|_| does_not_support(name, "generate"))?;
    let limits = &incoming.state.config.limits;
    let options = Options::read(&model, fields.take("options", "an object")?.unwrap_or_default())?;
    let given = PromptFields::take(&mut fields, name)?;
    let common = Common::take(&mut fields)?;
    let mut output = None;

    let is_raw = given.raw;
    let (prompt, headers) = if !given.suffix.is_empty() {
        let infill = model.infill(&given.prompt, &given.suffix);
        let prompt = infill.ok_or_else(|| does_not_support(name, "insert"))?;
        within(prompt, &model, &options, false)?
    } else if given.raw {
        within(model.encode(&given.prompt, true), &model, &options, common.truncate)?
    } else {
        let mut messages = Vec::new();
        if let Some(system) = given.system.as_ref().or(model.settings.system.as_ref()) {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.extend(model.settings.messages.iter().cloned());
        messages.push(json!({"role": "user", "content": given.prompt}));
        let mut chat = ChatInput {
            messages: messages::checked(messages, limits)?,
            add_generation_prompt: true,
            unix_seconds: unix_time() as i64,
            ..ChatInput::default()
        };
        take_think(&mut fields, &mut chat, name, &model)?;
        let tools = ToolRequest::default();
        let ((mut prompt, parsed), headers) =
            fitting_prompt(&model, chat, &tools, &options, &common)?;
        output = Some(parsed);
        if !given.context.is_empty() {
            prompt.splice(..0, given.context);
        }
        let (prompt, _) = within(prompt, &model, &options, false)?;
        (prompt, headers)
    };
    let context = (!is_raw).then(|| prompt.clone());
    fields.finish();
    let mut spec = common.spec(&model, options, prompt, incoming, limits)?;
    spec.output = output;
    Ok(Job {
        spec,
        stream: common.stream,
        shape: Shape::Generate { context },
        name: name.to_owned(),
        model,
        clock: Clock::new(incoming.arrival, incoming.load_time),
        logprobs: common.logprobs,
        num_calls: 0,
        headers,
    })
}

/// The prompt if it fits; with `truncate` its end, which the headers tell.
fn within(
    mut prompt: Vec<TokenId>,
    model: &ServedModel,
    options: &Options,
    truncate: bool,
) -> Result<(Vec<TokenId>, HeaderMap), ApiError> {
    let mut headers = HeaderMap::new();
    let window = window(model, options);
    if prompt.len() >= window {
        if !truncate {
            return Err(too_long(prompt.len(), window, options));
        }
        let num_left_out = prompt.len() - window + 1;
        prompt.drain(..num_left_out);
        headers.insert(TRUNCATED, HeaderValue::from(num_left_out));
    }
    Ok((prompt, headers))
}
