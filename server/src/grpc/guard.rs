//! Around every gRPC call: its key, its id, the access log, the metrics, and a net under panics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use tonic::{Code, Status};

use super::{Method, bodies};
use crate::app::{Access, SharedState};
use crate::error::ApiError;
use crate::http::auth::KeyOwner;
use crate::http::observe::{REQUEST_ID, client_id};
use crate::metrics;
use crate::tenants::caller::Caller;

/// Who calls, nobody in particular where everybody may, and whose key the call came with.
fn caller_of(
    state: &SharedState,
    is_open: bool,
    headers: &HeaderMap,
) -> Result<(Option<Caller>, KeyOwner), ApiError> {
    if is_open {
        return Ok((None, KeyOwner::default()));
    }
    let identity = state.tenants.identify(&state.config, headers);
    let identity = identity.ok_or_else(ApiError::unauthorized)?;
    Ok((Some(Caller::new(&identity, headers)?), KeyOwner(identity.key)))
}

pub(super) async fn guard(
    State(state): State<SharedState>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = Method::at(request.uri().path());
    let id = client_id(request.headers());
    let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let is_open = method.is_some_and(|method| method.access == Access::Open);
    let mut response = match caller_of(&state, is_open, request.headers()) {
        Ok((caller, holder)) => {
            request.extensions_mut().insert(holder);
            if method.is_some_and(Method::is_counted) {
                request = bodies::counted(&state, request);
            }
            let answered = async { AssertUnwindSafe(next.run(request)).catch_unwind().await };
            let answered = match caller {
                Some(caller) => caller.scope(answered).await,
                None => answered.await,
            };
            answered.unwrap_or_else(|_| Status::internal("the request handler failed").into_http())
        }
        Err(error) => Status::from(error).into_http(),
    };
    // A call that fails later, in its stream, is counted as begun well: the engine's metrics count how answers end.
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    let (service, name) = method.map_or(("other", "other"), |method| (method.service, method.name));
    metrics::record_grpc(service, name, code, began.elapsed());
    let ms = began.elapsed().as_secs_f64() * 1e3;
    if is_open {
        tracing::debug!(target: "quire::access", service, name, ?code, ms, id, "gRPC call");
    } else {
        tracing::info!(target: "quire::access", service, name, ?code, ms, id, "gRPC call");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
