//! Why a request counts as failed. Failed requests are in no latency, miss every objective, and are told by kind.

use serde::{Deserialize, Serialize};

/// Most of a server's words that is kept, in characters.
const MAX_MESSAGE_CHARS: usize = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection.
    Unreachable,
    /// Status 429.
    TooManyRequests,
    /// Status 503.
    Unavailable,
    /// Any other status.
    Status,
    /// The connection ended before the answer did.
    Cut,
    /// No byte for the longest silence allowed.
    Silent,
    /// What came is no answer of this API.
    Garbage,
    /// The server told of an error within the stream.
    ServerError,
    /// More than was asked for, or longer than a request may take.
    Endless,
    /// A whole answer without a word.
    Empty,
    /// The usage contradicts the stream.
    WrongUsage,
    /// Another number of tokens than was demanded.
    WrongLength,
}

impl FailureKind {
    pub fn words(self) -> &'static str {
        match self {
            Self::Unreachable => "no connection",
            Self::TooManyRequests => "429 too many requests",
            Self::Unavailable => "503 unavailable",
            Self::Status => "another status",
            Self::Cut => "stream cut off",
            Self::Silent => "server silent",
            Self::Garbage => "garbage",
            Self::ServerError => "error in the stream",
            Self::Endless => "endless stream",
            Self::Empty => "empty answer",
            Self::WrongUsage => "wrong usage",
            Self::WrongLength => "wrong length",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// As it came: escape it before it is shown.
    pub message: String,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
        Self { kind, message }
    }

    /// A status other than 200, with the beginning of its body.
    pub fn status(status: u16, body: &str) -> Self {
        let kind = match status {
            429 => FailureKind::TooManyRequests,
            503 => FailureKind::Unavailable,
            _ => FailureKind::Status,
        };
        Self::new(kind, format!("status {status}: {body}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.words(), self.message)
    }
}

impl std::error::Error for Failure {}
