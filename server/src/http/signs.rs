//! What answers tell routers in headers: the server's load where it is asked for (ORCA), and that the server leaves.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;

use crate::app::{self, Access, SharedState};

/// Asks for the load: `TEXT` or `JSON`.
const LOAD_FORMAT: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");
/// The load, as Open Request Cost Aggregation has it, with vLLM's two names.
const LOAD: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Adds the headers to the answer.
pub async fn sign(State(state): State<SharedState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // Probes are asked by those who know already, and keep their connections.
    let is_work = app::access_of(route) == Access::Key;
    let format = request.headers().get(LOAD_FORMAT).and_then(load_format);
    let mut response = next.run(request).await;
    if let Some(format) = format.filter(|_| is_work)
        && let Some(load) = load(&state, format)
    {
        response.headers_mut().insert(LOAD, load);
    }
    if is_work && state.is_leaving() {
        // The client's next request then goes where a router sends new connections.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[derive(Clone, Copy)]
enum LoadFormat {
    Text,
    Json,
}

fn load_format(value: &HeaderValue) -> Option<LoadFormat> {
    match value.to_str().ok()? {
        format if format.eq_ignore_ascii_case("text") => Some(LoadFormat::Text),
        format if format.eq_ignore_ascii_case("json") => Some(LoadFormat::Json),
        _ => None,
    }
}

/// Nothing before the model is loaded.
fn load(state: &SharedState, format: LoadFormat) -> Option<HeaderValue> {
    let engine = &state.model().ok()?.engine;
    let all = (0..engine.num_replicas()).map(|replica| engine.stats_of(replica));
    let (used, blocks) = all.fold((0.0, 0.0), |(used, blocks), stats| {
        (used + f64::from(stats.num_used_blocks), blocks + f64::from(stats.num_blocks))
    });
    let (usage, waiting) = (used / f64::max(blocks, 1.0), engine.num_waiting());
    let text = match format {
        LoadFormat::Text => format!(
            "TEXT named_metrics.kv_cache_usage_perc={usage}, named_metrics.num_requests_waiting={waiting}"
        ),
        LoadFormat::Json => {
            let load = json!({"kv_cache_usage_perc": usage, "num_requests_waiting": waiting});
            format!("JSON {}", json!({"named_metrics": load}))
        }
    };
    HeaderValue::try_from(text).ok()
}
