//! `quire ps`: the models that a running server has in memory.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use quire_engine::plan::human_bytes;
use serde_json::Value;
use ureq::Agent;
use ureq::http::header;

use crate::args::{Environment, PsArgs};

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// Asks the server and prints a line a model.
pub(crate) fn run(args: &PsArgs, environment: &Environment) -> Result<()> {
    let url = format!("{}/api/ps", args.url.trim_end_matches('/'));
    let config = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
    let mut request = config.build().new_agent().get(&url);
    if let Some(key) = args.api_key.as_ref().or(environment.api_keys.first()) {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    let mut response = request.call().with_context(|| {
        format!("{} cannot be reached; is a server running there? --url names another", args.url)
    })?;
    match response.status().as_u16() {
        200 => {}
        401 => bail!("{} wants a key: --api-key or QUIRE_API_KEY", args.url),
        status => bail!("{} answers {status}", args.url),
    }
    let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?;
    let answer: Value = serde_json::from_slice(&body).context("the answer is no list of models")?;
    let models = answer["models"].as_array().context("the answer is no list of models")?;
    if models.is_empty() {
        println!("no model is loaded");
        return Ok(());
    }
    let text = |model: &Value, field: &str| model[field].as_str().unwrap_or("").to_owned();
    let width = models.iter().map(|model| text(model, "name").len()).max().unwrap_or(0).max(4);
    println!("{:width$}  {:>10}  {:>8}  UNTIL", "NAME", "SIZE", "CONTEXT");
    for model in models {
        let size = human_bytes(model["size"].as_u64().unwrap_or(0));
        let context = model["context_length"].as_u64().unwrap_or(0);
        let (name, until) = (text(model, "name"), text(model, "expires_at"));
        // What stays is said to go in the 24th century.
        let until = if until.as_str() > "2200" { "for ever" } else { &until };
        println!("{name:width$}  {size:>10}  {context:>8}  {until}");
    }
    Ok(())
}
