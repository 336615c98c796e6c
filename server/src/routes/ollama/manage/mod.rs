//! Routes that change which models there are: `/api/pull`, `/api/create`, `/api/copy`, `/api/delete`, `/api/blobs/:digest`.
//!
//! They need a key of their own (`Access::Manage`). Every name and digest passes the grammar of the store first.

mod blobs;
mod create;
mod pull;

pub(crate) use blobs::{has_blob, put_blob};
pub(crate) use create::{UNSUPPORTED as CREATE_UNSUPPORTED, create};
pub(crate) use pull::pull;

use std::str::FromStr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::OllamaError;
use super::incoming::{not_found, take_name};
use super::lines::lines_response;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::http;
use crate::http::body::ContentType;
use crate::http::fields::Fields;
use crate::pull::Library;
use crate::registry::{Entry, Origin};
use crate::routes::prepare::Incoming;
use crate::store::{NameError, StoreName};

/// Where models are kept, or the refusal where the server keeps none.
fn library(state: &SharedState) -> Result<Arc<Library>, ApiError> {
    let message = "this server keeps no models of its own";
    state.config.library.clone().ok_or_else(|| ApiError::new(StatusCode::NOT_IMPLEMENTED, message))
}

/// A name or a digest that was sent, checked.
fn checked<T: FromStr<Err = NameError>>(field: &'static str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error: NameError| ApiError::invalid(field, error.to_string()))
}

/// Work on the disk, away from the async threads. What goes wrong there the client may know.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| ApiError::internal("the work on the store failed"))?;
    done.map_err(|error| ApiError::bad_request(format!("{error:#}")))
}

/// `POST /api/copy`.
pub(crate) async fn copy(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let incoming = Incoming::read(&state, request, ContentType::Any).await?;
    let library = library(&state)?;
    let mut fields = Fields::parse(&incoming.body)?;
    let mut take = |field: &'static str| -> Result<StoreName, ApiError> {
        let text = fields.take_string(field)?;
        checked(
            field,
            &text.ok_or_else(|| ApiError::invalid(field, format!("{field} is missing")))?,
        )
    };
    let (source, destination) = (take("source")?, take("destination")?);
    let store = library.store();
    if on_disk({
        let (store, source) = (store.clone(), source.clone());
        move || store.find(&source)
    })
    .await?
    .is_none()
    {
        return Err(not_found(&source.to_string()).into());
    }
    let name = destination.clone();
    let origin = on_disk(move || {
        store.copy(&source, &name)?;
        let stored = store.find(&name)?;
        stored.map(|stored| store.origin(&stored)).transpose()
    });
    if let Some(origin) = origin.await? {
        serve_as(&state, &destination.to_string(), origin).await?;
    }
    Ok(StatusCode::OK.into_response())
}

/// `DELETE /api/delete`. A model that is loaded goes once its running answers are finished.
pub(crate) async fn delete(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let incoming = Incoming::read(&state, request, ContentType::Any).await?;
    let library = library(&state)?;
    let mut fields = Fields::parse(&incoming.body)?;
    let text = take_name(&mut fields)?;
    let name: StoreName = checked("model", &text)?;
    let store = library.store();
    let (own, wanted) = (store.clone(), name.clone());
    if on_disk(move || own.find(&wanted)).await?.is_none() {
        return Err(not_found(&text).into());
    }
    if let Ok(entry) = state.models.find(Some(&name.to_string())) {
        if entry.is_loaded() && !state.models.unload(&entry).await {
            let message = format!("{name} is in use and stays; stop what uses it and try again");
            return Err(ApiError::new(StatusCode::CONFLICT, message).into());
        }
        state.models.remove(&entry).await;
    }
    on_disk(move || store.remove(&name)).await?;
    Ok(StatusCode::OK.into_response())
}

/// From now on requests for `name` are answered by what lies at `origin`; one of that name before it goes.
async fn serve_as(state: &SharedState, name: &str, origin: Origin) -> Result<(), ApiError> {
    if let Ok(entry) = state.models.find(Some(name)) {
        if entry.is_pinned() {
            let message = format!("{name} is the model that is always loaded: it is not replaced");
            return Err(ApiError::new(StatusCode::CONFLICT, message));
        }
        state.models.remove(&entry).await;
    }
    let entry = Entry::on_demand(vec![name.to_owned()], origin);
    state.models.add(entry).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// Lines of progress: sent as they come, or the last one alone.
struct Lines(mpsc::UnboundedSender<Result<Value, ApiError>>);

impl Lines {
    /// `false`: nobody listens any more.
    fn say(&self, line: Value) -> bool {
        self.0.send(Ok(line)).is_ok()
    }

    fn status(&self, text: &str) -> bool {
        self.say(json!({"status": text}))
    }

    fn fail(&self, error: ApiError) {
        let _ = self.0.send(Err(error));
    }
}

/// Says how a long work ended that made a model: served from now on as `name`, or what went wrong.
async fn finish(state: &SharedState, name: &str, made: anyhow::Result<Origin>, lines: &Lines) {
    let served = match made {
        Ok(origin) => serve_as(state, name, origin).await,
        Err(error) => Err(ApiError::bad_request(format!("{error:#}"))),
    };
    match served {
        Ok(()) => drop(lines.status("success")),
        Err(error) => lines.fail(error),
    }
}

/// Lines on their way to a client.
type Progress = mpsc::UnboundedReceiver<Result<Value, ApiError>>;

fn progress() -> (Lines, Progress) {
    // The sender says a line for each megabyte at most.
    let (sender, receiver) = mpsc::unbounded_channel();
    (Lines(sender), receiver)
}

/// The answer of a long work: its lines, or its end.
async fn respond(mut progress: Progress, stream: bool) -> Result<Response, OllamaError> {
    if !stream {
        let mut last = json!({"status": "success"});
        while let Some(line) = progress.recv().await {
            last = line?;
        }
        return Ok(http::json(StatusCode::OK, &last));
    }
    // An error before the first line has a status of its own.
    let first = match progress.recv().await {
        Some(line) => line?,
        None => json!({"status": "success"}),
    };
    let rest = stream::unfold(progress, async |mut progress| {
        let line = match progress.recv().await? {
            Ok(line) => line,
            Err(error) => OllamaError(error).body(),
        };
        Some((Ok::<_, std::convert::Infallible>(bytes_of(&line)), progress))
    });
    let first = stream::iter([Ok(bytes_of(&first))]);
    Ok(lines_response(Body::from_stream(futures_util::StreamExt::chain(first, rest))))
}

fn bytes_of(line: &Value) -> Bytes {
    Bytes::from(format!("{line}\n"))
}
