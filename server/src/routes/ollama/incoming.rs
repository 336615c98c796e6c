//! The common beginning of `/api/chat` and `/api/generate`: which model, how long it stays, whether there is anything to answer.

use std::time::{Duration, Instant};

use axum::extract::Request;
use serde_json::Value;

use super::durations::Clock;
use super::error::OllamaError;
use crate::app::SharedState;
use crate::error::{ApiError, shortened};
use crate::http::body::ContentType;
use crate::http::fields::Fields;
use crate::registry::KeepAlive;
use crate::routes::prepare::Incoming;

/// What a request came to.
pub(super) enum Prepared<T> {
    Work(T),
    /// There is nothing to answer: the model was only to be loaded, or to go.
    Nothing {
        name: String,
        clock: Clock,
        done_reason: &'static str,
    },
}

/// The fields that are looked at before the model is there.
struct Head {
    name: String,
    keep_alive: Option<KeepAlive>,
    is_empty: bool,
}

/// Reads the body, waits for the model, and runs `work`. `is_empty`: whether the fields ask for no answer.
pub(super) async fn prepare<T: Send + 'static>(
    state: &SharedState,
    request: Request,
    is_empty: fn(&mut Fields<'_>) -> bool,
    work: fn(&Incoming, &str) -> Result<T, ApiError>,
) -> Result<Prepared<T>, OllamaError> {
    let incoming = Incoming::read(state, request, ContentType::Any).await?;
    let read = move || {
        let mut fields = Fields::parse(&incoming.body)?;
        let name = take_name(&mut fields)?;
        let keep_alive = take_keep_alive(&mut fields)?;
        let is_empty = is_empty(&mut fields);
        Ok((incoming, Head { name, keep_alive, is_empty }))
    };
    let (mut incoming, head) = state.prepare(0, read).await?;
    let entry = state.models.find(Some(&head.name)).map_err(|_| not_found(&head.name))?;
    let began = Instant::now();
    if head.is_empty && head.keep_alive == Some(KeepAlive::For(Duration::ZERO)) {
        let is_gone = state.models.unload(&entry).await;
        let done_reason = if is_gone { "unload" } else { "load" };
        let clock = Clock::new(incoming.arrival, Duration::ZERO);
        return Ok(Prepared::Nothing { name: head.name, clock, done_reason });
    }
    incoming.model = Some(state.models.get_entry(&entry).await?);
    incoming.load_time = began.elapsed();
    entry.set_keep_alive(head.keep_alive);
    if head.is_empty {
        let clock = Clock::new(incoming.arrival, incoming.load_time);
        return Ok(Prepared::Nothing { name: head.name, clock, done_reason: "load" });
    }
    let num_bytes = incoming.body.len();
    let name = head.name;
    Ok(Prepared::Work(state.prepare(num_bytes, move || work(&incoming, &name)).await?))
}

/// The model's name; older clients write `name`.
pub(super) fn take_name(fields: &mut Fields<'_>) -> Result<String, ApiError> {
    let (model, name) = (fields.take_string("model")?, fields.take_string("name")?);
    let named = model.filter(|name| !name.is_empty()).or(name).filter(|name| !name.is_empty());
    named.ok_or_else(|| ApiError::invalid("model", "model is required"))
}

/// Seconds as a number, or a duration as Go writes it; below 0: for ever.
pub(super) fn take_keep_alive(fields: &mut Fields<'_>) -> Result<Option<KeepAlive>, ApiError> {
    let Some(given) = fields.take::<Value>("keep_alive", "a number or a string")? else {
        return Ok(None);
    };
    let parsed = match &given {
        Value::Number(number) => KeepAlive::from_seconds(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => text.parse(),
        _ => Err(crate::registry::NotATime),
    };
    parsed
        .map(Some)
        .map_err(|error| ApiError::invalid("keep_alive", format!("keep_alive is {error}")))
}

pub(super) fn not_found(name: &str) -> ApiError {
    let mut error = ApiError::model_not_found(name);
    error.message = format!("model \"{}\" not found, try pulling it first", shortened(name));
    error
}

/// The request has what the model cannot do.
pub(super) fn does_not_support(name: &str, what: &str) -> ApiError {
    ApiError::bad_request(format!("\"{}\" does not support {what}", shortened(name)))
}

/// Pictures are refused, where there are any.
pub(super) fn refuse_images(name: &str, images: Option<&Value>) -> Result<(), ApiError> {
    match images {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(images)) if images.is_empty() => Ok(()),
        Some(_) => Err(does_not_support(name, "images: only text is read")),
    }
}
