//! Signs of life while a model loads: a stream that waits for its model begins with comments.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::response::Response;
use futures_util::{StreamExt, stream};

use super::prepare::Incoming;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::sse::{self, Form};

/// A load that is shorter changes nothing: what goes wrong by then is an error with its status.
const GRACE: Duration = Duration::from_secs(1);
/// Between comments, at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// Answers by `answer`. Where a stream is asked for and its model is not loaded, comments are sent until it is.
pub(crate) async fn respond<F>(
    state: SharedState,
    incoming: Incoming,
    form: &'static Form,
    answer: fn(SharedState, Incoming) -> F,
) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    let keep_alive = state.config.sse_keep_alive_interval;
    let Some(interval) = keep_alive.filter(|_| !state.models.is_single()) else {
        return answer(state, incoming).await;
    };
    let incoming = incoming.look_at_head().await?;
    let (name, streams) = incoming.head();
    let entry = state.models.find(name)?;
    if !streams || entry.is_loaded() {
        return answer(state, incoming).await;
    }
    let comment = Bytes::from(format!(": loading {}\n\n", entry.name()));
    drop(entry);
    let mut work = Box::pin(answer(Arc::clone(&state), incoming));
    if let Ok(early) = tokio::time::timeout(interval.min(GRACE), &mut work).await {
        return early;
    }
    let waiting = Waiting { work, comment, interval: interval.min(INTERVAL), form };
    let frames = stream::unfold(Phase::Begins(waiting), Phase::next);
    Ok(sse::response_of(Body::from_stream(frames.map(Ok::<_, Infallible>))))
}

/// An answer that is not there yet.
struct Waiting<F> {
    work: Pin<Box<F>>,
    comment: Bytes,
    interval: Duration,
    form: &'static Form,
}

enum Phase<F> {
    /// Nothing was sent yet.
    Begins(Waiting<F>),
    Waits(Waiting<F>),
    Answers(BodyDataStream),
    Over,
}

impl<F: Future<Output = Result<Response, ApiError>>> Phase<F> {
    /// What is sent next; `None` at the end.
    async fn next(self) -> Option<(Bytes, Self)> {
        let mut answer = match self {
            Self::Begins(waiting) => return Some((waiting.comment.clone(), Self::Waits(waiting))),
            Self::Waits(mut waiting) => {
                match tokio::time::timeout(waiting.interval, &mut waiting.work).await {
                    Err(_) => return Some((waiting.comment.clone(), Self::Waits(waiting))),
                    Ok(Err(error)) => return Some((waiting.form.failure(&error), Self::Over)),
                    Ok(Ok(response)) => response.into_body().into_data_stream(),
                }
            }
            Self::Answers(answer) => answer,
            Self::Over => return None,
        };
        let frame = answer.next().await?.ok()?;
        Some((frame, Self::Answers(answer)))
    }
}
