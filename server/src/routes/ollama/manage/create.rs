//! `POST /api/create`: a model from another one, or from a file that was sent, with settings of its own.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value};

use super::{checked, finish, library, progress, respond};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::http::body::ContentType;
use crate::http::fields::{Fields, NeutralOnly, OneOrMany};
use crate::routes::ollama::error::OllamaError;
use crate::routes::ollama::incoming::take_name;
use crate::routes::prepare::Incoming;
use crate::store::StoreName;
use crate::store::create::{From, create as create_in};
use crate::store::modelfile::{self, Modelfile};

/// What is made elsewhere, or not at all.
pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("adapters", &["{}"]),
    NeutralOnly("quantize", &["\"\""]),
    NeutralOnly("quantization", &["\"\""]),
    NeutralOnly("draft_quantize", &["\"\""]),
    NeutralOnly("draft_files", &["{}"]),
    NeutralOnly("remote_host", &["\"\""]),
    NeutralOnly("path", &["\"\""]),
];

pub(crate) async fn create(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let incoming = Incoming::read(&state, request, ContentType::Any).await?;
    let library = library(&state)?;
    let mut fields = Fields::parse(&incoming.body)?;
    let name: StoreName = checked("model", &take_name(&mut fields)?)?;
    let stream = fields.take_bool("stream")?.unwrap_or(true);
    let (from, settings) = take_settings(&mut fields)?;
    fields.finish();

    let (lines, progress) = progress();
    tokio::spawn(async move {
        let store = library.store();
        let wanted = name.clone();
        let work = tokio::task::spawn_blocking(move || {
            lines.status("reading the model");
            let made = create_in(&store, &wanted, &from, &settings);
            if made.is_ok() {
                lines.status("writing manifest");
            }
            (made, lines)
        });
        let Ok((made, lines)) = work.await else { return };
        finish(&state, &name.to_string(), made, &lines).await;
    });
    respond(progress, stream).await
}

/// From a Modelfile's text, or from the fields that say the same.
fn take_settings(fields: &mut Fields<'_>) -> Result<(From, Modelfile), ApiError> {
    fields.reject_unsupported(UNSUPPORTED)?;
    let invalid = |field: &'static str| {
        move |error: anyhow::Error| ApiError::invalid(field, format!("{error:#}"))
    };
    let mut settings = match fields.take_string("modelfile")? {
        Some(text) => Modelfile::parse(&text).map_err(invalid("modelfile"))?,
        None => Modelfile::default(),
    };
    let text = |given: Option<String>| given.filter(|text| !text.is_empty());
    if let Some(from) = text(fields.take_string("from")?) {
        settings.from = from;
    }
    if let Some(system) = text(fields.take_string("system")?) {
        settings.system = Some(system);
    }
    if let Some(template) = text(fields.take_string("template")?) {
        let named = modelfile::template_name(&template).map_err(invalid("template"))?;
        settings.template = Some(named);
    }
    let parameters: Map<String, Value> =
        fields.take("parameters", "an object")?.unwrap_or_default();
    for (name, value) in parameters {
        set(&mut settings.parameters, &name, &value).map_err(invalid("parameters"))?;
    }
    let licenses = fields.take("license", "a string or a list of strings")?;
    settings.licenses.extend(licenses.map_or_else(Vec::new, OneOrMany::into_vec));
    let messages: Option<Vec<Value>> = fields.take("messages", "a list of objects")?;
    settings.messages.extend(messages.unwrap_or_default());
    let from = take_from(fields, &settings)?;
    Ok((from, settings))
}

/// Of a parameter in JSON each value is as a Modelfile writes it.
fn set(parameters: &mut Map<String, Value>, name: &str, value: &Value) -> anyhow::Result<()> {
    let written = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| modelfile::set_parameter(parameters, name, &written(value))),
        value => modelfile::set_parameter(parameters, name, &written(value)),
    }
}

/// A model of the store by its name, or a file by its digest. A path of this machine is nothing that a request may name.
fn take_from(fields: &mut Fields<'_>, settings: &Modelfile) -> Result<From, ApiError> {
    let files: BTreeMap<String, String> =
        fields.take("files", "an object from names to digests")?.unwrap_or_default();
    let mut files = files.into_values();
    match (files.next(), files.next()) {
        (Some(digest), None) => Ok(From::Blob(checked("files", &digest)?)),
        (Some(_), Some(_)) => {
            Err(ApiError::invalid("files", "one GGUF file is taken, not several"))
        }
        (None, _) if settings.from.is_empty() => {
            Err(ApiError::invalid("from", "from or files is missing"))
        }
        (None, _) => {
            // `@sha256:…` is how older clients write a file that they sent.
            if let Some(digest) = settings.from.strip_prefix('@') {
                return Ok(From::Blob(checked("from", digest)?));
            }
            Ok(From::Name(checked("from", &settings.from)?))
        }
    }
}
