//! From a request's body to what the engine is asked: parsing, templates and tokenization.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::HeaderMap;

use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::GenerationSpec;
use crate::http::auth::KeyOwner;
use crate::http::body::{self, BodyShare, ContentType};
use crate::http::fields::Fields;
use crate::http::observe::{ClientRequestId, is_safe_id};
use crate::model::ServedModel;

/// A request whose body has been read.
pub(crate) struct Incoming {
    pub(crate) state: SharedState,
    pub(crate) body: String,
    pub(crate) arrival: Instant,
    pub(crate) caller: KeyOwner,
    pub(crate) routing: RoutingHeaders,
    /// From the header `X-Request-Id`.
    client_id: Option<String>,
    /// The model that was asked for; `None`: the one that is always loaded.
    pub(crate) model: Option<Arc<ServedModel>>,
    /// How long the request waited for it.
    pub(crate) load_time: Duration,
    head: Option<Head>,
    /// Held until the body is parsed.
    share: Arc<BodyShare>,
}

/// The fields that are looked at before the model is there.
#[derive(Clone, Default)]
struct Head {
    model: Option<String>,
    stream: bool,
}

/// What proxies ask for in headers, so that bodies stay the client's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoutingHeaders {
    /// `X-Vllm-Priority`, where the body has no `priority`.
    pub(crate) priority: Option<i32>,
    /// `X-Data-Parallel-Rank`.
    pub(crate) replica: Option<u32>,
}

impl RoutingHeaders {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self {
            priority: number(headers, "x-vllm-priority")?,
            replica: number(headers, DATA_PARALLEL_RANK)?,
        })
    }
}

/// The header, and the metadata of gRPC, that names a replica.
pub(crate) const DATA_PARALLEL_RANK: &str = "x-data-parallel-rank";

fn number<T: FromStr>(headers: &HeaderMap, name: &'static str) -> Result<Option<T>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let message = || ApiError::invalid(name, format!("the header {name} must be a whole number"));
    number.map(Some).ok_or_else(message)
}

/// What a body came to: the answer's id, its model, and what the engine is asked.
pub(crate) struct Converted {
    pub(crate) id: String,
    pub(crate) model: Arc<ServedModel>,
    pub(crate) spec: GenerationSpec,
}

/// Reads the body, waits for the model that it asks for, and runs `work` on it.
pub(crate) async fn prepare<T: Send + 'static>(
    state: &SharedState,
    request: Request,
    work: fn(&Incoming) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    Incoming::read(state, request, ContentType::Json).await?.convert(state, work).await
}

impl Incoming {
    /// Reads the body.
    pub(crate) async fn read(
        state: &SharedState,
        request: Request,
        content_type: ContentType,
    ) -> Result<Self, ApiError> {
        let arrival = Instant::now();
        let caller = KeyOwner::of(request.headers());
        let client_id = request.extensions().get::<ClientRequestId>().map(|id| id.0.clone());
        let routing = RoutingHeaders::of(request.headers())?;
        let limits = &state.config.limits;
        let (body, share) =
            body::read_json(request, content_type, limits, &state.bodies_memory).await?;
        let share = Arc::new(share);
        let (state, load_time) = (Arc::clone(state), Duration::ZERO);
        let (model, head) = (None, None);
        Ok(Self { state, body, arrival, caller, routing, client_id, model, load_time, head, share })
    }

    /// The same request with another body.
    pub(crate) fn with_body(&self, body: String) -> Self {
        Self {
            state: Arc::clone(&self.state),
            body,
            arrival: self.arrival,
            caller: self.caller,
            routing: self.routing,
            client_id: self.client_id.clone(),
            model: self.model.clone(),
            load_time: self.load_time,
            head: None,
            share: Arc::clone(&self.share),
        }
    }

    /// Waits for the model that the body asks for, and runs `work` on it.
    pub(crate) async fn convert<T: Send + 'static>(
        mut self,
        state: &SharedState,
        work: fn(&Self) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if !state.models.is_single() {
            self = self.wait_for_model().await?;
        }
        state.prepare(self.body.len(), move || work(&self)).await
    }

    /// Reads what `head` tells.
    pub(crate) async fn look_at_head(self) -> Result<Self, ApiError> {
        let (state, num_bytes) = (Arc::clone(&self.state), self.body.len());
        let read = move || {
            let mut fields = Fields::parse(&self.body)?;
            let model = fields.take_string("model")?;
            // What is no switch is for the route to refuse.
            let stream = fields.take_bool("stream").ok().flatten().unwrap_or(false);
            Ok(Self { head: Some(Head { model, stream }), ..self })
        };
        state.prepare(num_bytes, read).await
    }

    /// The model's name in the body, and whether a stream is asked for.
    pub(crate) fn head(&self) -> (Option<&str>, bool) {
        self.head.as_ref().map_or((None, false), |head| (head.model.as_deref(), head.stream))
    }

    async fn wait_for_model(mut self) -> Result<Self, ApiError> {
        if self.head.is_none() {
            self = self.look_at_head().await?;
        }
        let began = Instant::now();
        self.model = Some(self.state.models.get(self.head().0).await?);
        self.load_time = began.elapsed();
        Ok(self)
    }

    /// The body's fields and the model that the field `model` asks for.
    pub(crate) fn fields(&self) -> Result<(Fields<'_>, Arc<ServedModel>), ApiError> {
        let mut fields = Fields::parse(&self.body)?;
        let name = fields.take_string("model")?;
        let model = match &self.model {
            Some(model) => Arc::clone(model),
            None => self.state.models.loaded(name.as_deref())?,
        };
        Ok((fields, model))
    }

    /// The id of the answer: `prefix` and the request's own id.
    pub(crate) fn answer_id(
        &self,
        prefix: &str,
        fields: &mut Fields<'_>,
    ) -> Result<String, ApiError> {
        Ok(format!("{prefix}-{}", self.request_id(fields)?))
    }

    /// The id in the body, the client's header, or a fresh one.
    pub(crate) fn request_id(&self, fields: &mut Fields<'_>) -> Result<String, ApiError> {
        let given = fields.take_string("request_id")?;
        if given.as_deref().is_some_and(|id| !is_safe_id(id)) {
            let message = "request_id must be 1 to 128 letters, digits, or any of -_.:";
            return Err(ApiError::invalid("request_id", message));
        }
        let fresh = || uuid::Uuid::new_v4().simple().to_string();
        Ok(given.or_else(|| self.client_id.clone()).unwrap_or_else(fresh))
    }
}
