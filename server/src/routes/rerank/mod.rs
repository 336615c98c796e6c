//! `POST /v1/rerank`, as Jina, Cohere and vLLM have it: which documents are nearest to a query.

mod validate;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use validate::RerankRequest;
pub(crate) use validate::UNSUPPORTED;

use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::score::{ScoreJob, Side};
use crate::http;
use crate::routes::prepare::{Incoming, prepare};

pub(crate) async fn rerank(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let prepared = prepare(&state, request, convert).await?;
    let (scores, num_tokens) = prepared.job.run(&state).await?;
    let mut ranked: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
    // Of documents that are as near the earlier one comes first.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(prepared.top_n);
    let result_of = |(index, score)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if let Some(documents) = &prepared.documents {
            result["document"] = json!({"text": documents[index]});
        }
        result
    };
    let results: Vec<Value> = ranked.into_iter().map(result_of).collect();
    let body = json!({
        "id": prepared.id,
        "object": "list",
        "model": prepared.job.model_name(),
        "results": results,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    });
    Ok(http::json(StatusCode::OK, &body))
}

/// A checked request with its token ids.
struct Prepared {
    id: String,
    job: ScoreJob,
    top_n: usize,
    /// Where they are to be sent back.
    documents: Option<Vec<String>>,
}

/// Parses, tokenizes and checks.
fn convert(incoming: &Incoming) -> Result<Prepared, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    let limits = &model.engine.info().limits;
    let id = incoming.answer_id("rerank", &mut fields)?;
    let request = RerankRequest::take(&mut fields, &incoming.state.config.limits)?;
    fields.finish();
    let max_tokens = request.common.max_tokens(limits.tasks.max_embedded_len);
    let of_document = [max_tokens, request.max_tokens_per_doc].into_iter().flatten().min();
    let documents = request.return_documents.then(|| request.documents.clone());
    let sides = [
        Side { field: "query", texts: vec![request.query], max_tokens },
        Side { field: "documents", texts: request.documents, max_tokens: of_document },
    ];
    let job =
        ScoreJob::new(&model, sides, request.common.options(incoming.arrival), request.is_raw)?;
    Ok(Prepared { id, job, top_n: request.top_n, documents })
}
