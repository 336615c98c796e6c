//! `POST /api/show`: what is known of a model, without loading it.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error::OllamaError;
use super::incoming::{not_found, take_name};
use super::models::{details, read_card, tagged};
use super::timestamp;
use crate::app::SharedState;
use crate::http;
use crate::http::body::ContentType;
use crate::http::fields::Fields;
use crate::registry::{Card, Entry, ModelSettings};
use crate::routes::prepare::Incoming;

pub(crate) async fn show(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let incoming = Incoming::read(&state, request, ContentType::Any).await?;
    let mut fields = Fields::parse(&incoming.body)?;
    let name = take_name(&mut fields)?;
    let verbose = fields.take_bool("verbose")?.unwrap_or(false);
    let entry = state.models.find(Some(&name)).map_err(|_| not_found(&name))?;
    let card = read_card(&entry).await?;
    Ok(http::json(StatusCode::OK, &answer(&entry, &card, verbose)))
}

fn answer(entry: &Entry, card: &Card, verbose: bool) -> Value {
    let settings = &entry.origin().settings;
    let template = template_of(card);
    let mut info = card.info.clone();
    info.insert("general.parameter_count".into(), card.num_parameters.into());
    let tensors = card
        .tensors
        .iter()
        .map(|(name, kind, count)| json!({"name": name, "type": kind, "shape": [count]}));
    let mut answer = json!({
        "modelfile": modelfile(entry, &template, settings),
        "parameters": parameters(&settings.parameters),
        "template": template,
        "details": details(card),
        "model_info": info,
        "capabilities": card.capabilities(),
        "modified_at": timestamp(card.modified),
    });
    if verbose {
        answer["tensors"] = tensors.collect();
    }
    if let Some(system) = &settings.system {
        answer["system"] = system.as_str().into();
    }
    if !settings.messages.is_empty() {
        answer["messages"] = settings.messages.clone().into();
    }
    let license = settings.licenses.join("\n");
    if let Some(text) = Some(license).filter(|text| !text.is_empty()).or(card.license.clone()) {
        answer["license"] = text.into();
    }
    answer
}

/// The model's own template, in Jinja. Clients look for `.Suffix` to know whether the model fills in the middle.
fn template_of(card: &Card) -> String {
    let mut template = card.template.clone().unwrap_or_default();
    if card.can_insert {
        template.push_str("{#- .Suffix -#}");
    }
    template
}

/// A line a value, texts in quotes.
fn parameters(parameters: &Map<String, Value>) -> String {
    let lines: Vec<String> =
        pairs(parameters).map(|(name, value)| format!("{name:30} {value}")).collect();
    lines.join("\n")
}

/// Each value of each parameter.
fn pairs(parameters: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    parameters.iter().flat_map(|(name, value)| {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        values.iter().map(move |value| (name.as_str(), value))
    })
}

/// From which `create` makes the same.
fn modelfile(entry: &Entry, template: &str, settings: &ModelSettings) -> String {
    let quoted = |text: &str| format!("\"\"\"{text}\"\"\"");
    let mut lines = vec![format!("FROM {}", tagged(entry.name()))];
    if !template.is_empty() {
        lines.push(format!(
            "# The chat template is the model's own, in Jinja:\n# {}",
            template.replace('\n', "\n# ")
        ));
    }
    lines.extend(
        pairs(&settings.parameters).map(|(name, value)| format!("PARAMETER {name} {value}")),
    );
    if let Some(system) = &settings.system {
        lines.push(format!("SYSTEM {}", quoted(system)));
    }
    for message in &settings.messages {
        let (role, content) = (&message["role"], &message["content"]);
        let role = role.as_str().unwrap_or_default();
        lines.push(format!("MESSAGE {role} {}", quoted(content.as_str().unwrap_or_default())));
    }
    lines.extend(settings.licenses.iter().map(|text| format!("LICENSE {}", quoted(text))));
    lines.join("\n") + "\n"
}
