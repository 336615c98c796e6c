//! How much there is to do: `/load` and `/is_sleeping` as vLLM has them, `/v1/loads` as SGLang has it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::app::{SharedState, unix_time};
use crate::error::ApiError;
use crate::http;
use crate::model::ServedModel;
use crate::text::strftime;

/// `GET /load`.
pub(crate) async fn load(State(state): State<SharedState>) -> Result<Response, ApiError> {
    let num_unfinished = state.models.loaded(None)?.engine.num_unfinished();
    Ok(http::json(StatusCode::OK, &json!({"server_load": num_unfinished})))
}

/// `GET /v1/loads`: an entry a replica, and their sum.
pub(crate) async fn loads(State(state): State<SharedState>) -> Result<Response, ApiError> {
    let model = state.models.loaded(None)?;
    let loads: Vec<Value> =
        (0..model.engine.num_replicas()).map(|replica| load_of(&model, replica)).collect();
    let sum = |field: &str| loads.iter().filter_map(|load| load[field].as_u64()).sum::<u64>();
    let usage: f64 = loads.iter().filter_map(|load| load["token_usage"].as_f64()).sum();
    let body = json!({
        "timestamp": strftime(unix_time() as i64, "%Y-%m-%dT%H:%M:%SZ"),
        "version": env!("CARGO_PKG_VERSION"),
        "dp_rank_count": loads.len(),
        "aggregate": {
            "total_running_reqs": sum("num_running_reqs"),
            "total_waiting_reqs": sum("num_waiting_reqs"),
            "total_reqs": sum("num_total_reqs"),
            "avg_token_usage": usage / loads.len().max(1) as f64,
        },
        "loads": loads,
    });
    Ok(http::json(StatusCode::OK, &body))
}

fn load_of(model: &ServedModel, replica: usize) -> Value {
    let info = model.engine.info();
    let stats = model.engine.stats_of(replica);
    let num_blocks = stats.num_blocks.max(1);
    let hits = stats.prefix_cache_hits as f64 / stats.prefix_cache_queries.max(1) as f64;
    json!({
        "dp_rank": replica,
        "num_running_reqs": stats.num_running,
        "num_waiting_reqs": stats.num_waiting,
        "num_total_reqs": stats.num_running + stats.num_waiting,
        "num_used_tokens": u64::from(stats.num_used_blocks) * u64::from(info.block_size),
        "max_total_num_tokens": u64::from(stats.num_blocks) * u64::from(info.block_size),
        "token_usage": f64::from(stats.num_used_blocks) / f64::from(num_blocks),
        "cache_hit_rate": hits,
        "utilization": f64::from(stats.num_running) / f64::from(info.max_num_seqs.max(1)),
        "max_running_requests": info.max_num_seqs,
    })
}

/// `GET /is_sleeping`: a server that runs is awake.
pub(crate) async fn is_sleeping() -> Response {
    http::json(StatusCode::OK, &json!({"is_sleeping": false}))
}

/// `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`.
pub(crate) async fn lora() -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "LoRA adapters are not supported")
}
