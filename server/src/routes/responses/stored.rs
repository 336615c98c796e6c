//! `GET` and `DELETE /v1/responses/{id}`, `GET /v1/responses/{id}/input_items`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};

use super::store::Stored;
use crate::app::SharedState;
use crate::error::{ApiError, shortened};
use crate::http;
use crate::http::auth::KeyOwner;

pub(crate) async fn retrieve(
    State(state): State<SharedState>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if query(&uri, "stream").is_some_and(|value| value != "false") {
        return Err(ApiError::invalid("stream", "a stored response comes whole: leave out stream"));
    }
    let stored = find(&state, &id, &headers)?;
    let response: Value =
        serde_json::from_str(&stored.response).expect("it was written from a value");
    Ok(http::json(StatusCode::OK, &response))
}

pub(crate) async fn delete(
    State(state): State<SharedState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if !state.responses.remove(KeyOwner::of(&headers), &id) {
        return Err(not_found(&id));
    }
    Ok(http::json(StatusCode::OK, &json!({"id": id, "object": "response", "deleted": true})))
}

/// The items of the request, the newest first unless `order=asc`; `limit` of them behind the one that `after` names.
pub(crate) async fn input_items(
    State(state): State<SharedState>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut items = find(&state, &id, &headers)?.input();
    match query(&uri, "order") {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return Err(ApiError::invalid("order", "order must be asc or desc")),
    }
    if let Some(after) = query(&uri, "after") {
        let place = items.iter().position(|item| item["id"] == after);
        let place = place.ok_or_else(|| ApiError::invalid("after", "after names no item"))?;
        items.drain(..=place);
    }
    let limit = match query(&uri, "limit").map(str::parse::<usize>) {
        None => 20,
        Some(Ok(limit @ 1..=100)) => limit,
        Some(_) => return Err(ApiError::invalid("limit", "limit must be from 1 to 100")),
    };
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&Value>| item.map(|item| item["id"].clone());
    let (first, last) = (id_of(items.first()), id_of(items.last()));
    let body = json!({
        "object": "list", "data": items, "first_id": first, "last_id": last, "has_more": has_more,
    });
    Ok(http::json(StatusCode::OK, &body))
}

/// Whoever has another key learns no more than that it is not there.
fn find(state: &SharedState, id: &str, headers: &HeaderMap) -> Result<Arc<Stored>, ApiError> {
    state.responses.find(KeyOwner::of(headers), id).ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> ApiError {
    let message = format!("there is no response {:?}", shortened(id));
    ApiError::new(StatusCode::NOT_FOUND, message)
}

/// The value as it is written: no value that is known here needs escapes.
fn query<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}
