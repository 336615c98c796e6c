//! `POST /v1/embeddings`.

mod types;
mod validate;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use quire_engine::PoolingParams;

use types::{Embeddings, Item, Numbers};
use validate::{EmbeddingRequest, Encoding};
pub(crate) use validate::{TEXT_UNSUPPORTED, TextFields, UNSUPPORTED};

use crate::app::{SharedState, unix_time};
use crate::error::ApiError;
use crate::generation::embed::{EmbedJob, EmbedOptions};
use crate::http;
use crate::openapi::doc::{Answer, schema_of};
use crate::routes::prepare::{Incoming, prepare};

/// For the document of the API.
pub(crate) const ANSWER: Answer = Answer::Json(schema_of::<Embeddings<'static>>);

pub(crate) async fn embeddings(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let Prepared { id, job, encoding } = prepare(&state, request, convert).await?;
    let (vectors, num_tokens) = job.run(&state).await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| Item {
        object: "embedding",
        index,
        embedding: match encoding {
            Encoding::Float => Numbers::Floats(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Numbers::Base64(BASE64_STANDARD.encode(bytes))
            }
        },
    });
    let answer = Embeddings {
        id: &id,
        object: "list",
        created: unix_time(),
        model: job.model_name(),
        data: data.collect(),
        usage: types::Usage { prompt_tokens: num_tokens, total_tokens: num_tokens },
    };
    Ok(http::json(StatusCode::OK, &answer))
}

/// A checked request with its token ids.
struct Prepared {
    id: String,
    job: EmbedJob,
    encoding: Encoding,
}

/// Parses, tokenizes and checks.
fn convert(incoming: &Incoming) -> Result<Prepared, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    let limits = &model.engine.info().limits;
    limits.check_embeds()?;
    let id = incoming.answer_id("embd", &mut fields)?;
    let request = EmbeddingRequest::take(&mut fields, &incoming.state.config.limits)?;
    fields.finish();
    let options = EmbedOptions {
        pooling: PoolingParams {
            dimensions: request.dimensions,
            normalize: request.normalize,
            second_text: None,
        },
        max_tokens: request.common.max_tokens(limits.tasks.max_embedded_len),
        ..request.common.options(incoming.arrival)
    };
    let job = EmbedJob::new(&model, request.inputs, options)?;
    Ok(Prepared { id, job, encoding: request.encoding })
}
