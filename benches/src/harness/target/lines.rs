//! Lines of a body as they come, each within limits of size and silence.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::connection::broken;
use crate::harness::failure::{Failure, FailureKind};

/// Longest line: a model may say much at once, but not this.
const MAX_LINE_BYTES: usize = 4 << 20;
/// How long a server may take to end a body whose last event has come.
const END_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Lines {
    body: Incoming,
    silence: Duration,
    bytes: Vec<u8>,
    /// Where the next line begins in `bytes`.
    start: usize,
    /// Up to where `bytes` were searched for the end of that line.
    searched: usize,
    has_ended: bool,
}

impl Lines {
    pub(super) fn new(body: Incoming, silence: Duration) -> Self {
        Self { body, silence, bytes: Vec::new(), start: 0, searched: 0, has_ended: false }
    }

    /// The next line without its end; `None` at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(len) = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n') {
                let end = self.searched + len;
                let line = text(&self.bytes[self.start..end])?;
                self.start = end + 1;
                self.searched = self.start;
                return Ok(Some(line));
            }
            self.bytes.drain(..self.start);
            self.start = 0;
            self.searched = self.bytes.len();
            if self.bytes.len() > MAX_LINE_BYTES {
                let told = format!("a line of more than {MAX_LINE_BYTES} bytes");
                return Err(Failure::new(FailureKind::Garbage, told));
            }
            if !self.fill().await? {
                let rest = std::mem::take(&mut self.bytes);
                self.searched = 0;
                return if rest.is_empty() { Ok(None) } else { text(&rest).map(Some) };
            }
        }
    }

    /// Whether the body went on.
    async fn fill(&mut self) -> Result<bool, Failure> {
        let Ok(frame) = timeout(self.silence, self.body.frame()).await else {
            let told = format!("no byte for {} s", self.silence.as_secs_f64());
            return Err(Failure::new(FailureKind::Silent, told));
        };
        match frame {
            Some(Ok(frame)) => {
                self.bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                Ok(true)
            }
            Some(Err(error)) => Err(broken(&error)),
            None => {
                self.has_ended = true;
                Ok(false)
            }
        }
    }

    /// Whether the body ended soon, so that its connection can be used again.
    pub(super) async fn read_to_end(mut self) -> bool {
        let all = async { while let Ok(true) = self.fill().await {} };
        timeout(END_PATIENCE, all).await.is_ok() && self.has_ended
    }
}

fn text(line: &[u8]) -> Result<String, Failure> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).map_err(|error| {
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Failure::new(FailureKind::Garbage, format!("not UTF-8: {shown}"))
    })
}
