//! HTTP/1.1 connections to one server, kept open between requests as vLLM's benchmark keeps them.

use std::sync::Mutex;
use std::time::Duration;

use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::dial::Dialer;
use crate::harness::failure::{Failure, FailureKind};

/// Most of an error's body that is kept.
const MAX_ERROR_BYTES: usize = 2000;

type Sender = SendRequest<Full<Bytes>>;

pub(super) struct Connections {
    dialer: Dialer,
    /// The last given back is taken first: the others may be closed by then.
    idle: Mutex<Vec<Sender>>,
}

/// An answer with status 200 whose body is still to be read.
pub(super) struct Opened {
    pub body: Incoming,
    pub sender: Sender,
}

impl Connections {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn give_back(&self, sender: Sender) {
        if !sender.is_closed() {
            self.idle.lock().expect("nobody panics with it").push(sender);
        }
    }

    /// Posts JSON. `silence`: the longest wait for a connection, and for the head of the answer.
    pub(super) async fn post(
        &self,
        path: &str,
        key: Option<&str>,
        body: Bytes,
        silence: Duration,
    ) -> Result<Opened, Failure> {
        let silent = |_| Failure::new(FailureKind::Silent, format!("no answer for {silence:?}"));
        let mut is_kept = true;
        loop {
            let mut sender = if let Some(sender) = self.ready().await {
                sender
            } else {
                is_kept = false;
                timeout(silence, self.connect()).await.map_err(silent)??
            };
            let request = self.request(path, key, body.clone())?;
            match timeout(silence, sender.send_request(request)).await.map_err(silent)? {
                Ok(answer) if answer.status() == 200 => {
                    return Ok(Opened { body: answer.into_body(), sender });
                }
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let body = Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect();
                    let body = timeout(silence, body).await.map_err(silent)?;
                    if body.is_ok() {
                        self.give_back(sender);
                    }
                    let body = body.map(Collected::to_bytes).unwrap_or_default();
                    return Err(Failure::status(status, &String::from_utf8_lossy(&body)));
                }
                // A server may close a kept connection at any time: that is no failure of the request.
                Err(error) if is_kept && (error.is_canceled() || error.is_incomplete_message()) => {
                }
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    async fn ready(&self) -> Option<Sender> {
        loop {
            let mut sender = self.idle.lock().expect("nobody panics with it").pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let stream = self.dialer.dial().await?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // What goes wrong on the connection is told to the request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn request(
        &self,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let url = self.dialer.url();
        let mut request = Request::post(format!("{}{path}", url.prefix()))
            .header(HOST, url.authority())
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(body));
        request.map_err(|error| Failure::new(FailureKind::Unreachable, error.to_string()))
    }
}

/// What hyper says of a connection that failed under a request.
pub(super) fn broken(error: &hyper::Error) -> Failure {
    let kind = if error.is_parse() { FailureKind::Garbage } else { FailureKind::Cut };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Failure::new(kind, format!("{error}{}", cause.unwrap_or_default()))
}
