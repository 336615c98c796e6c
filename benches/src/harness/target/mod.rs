//! A server under load: how to ask it in its API, and what it answered when.

mod connection;
pub(crate) mod dial;
mod grpc;
mod lines;
mod ollama;
mod openai;

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use self::connection::Connections;
use self::dial::Dialer;
pub use self::dial::Trust;
use self::grpc::Calls;
use self::lines::Lines;
use super::failure::{Failure, FailureKind};
use super::live::Live;
use crate::http::BaseUrl;

/// Most text of an answer that is kept.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// OpenAI's /v1/chat/completions
    Chat,
    /// OpenAI's /v1/completions
    Completions,
    /// Ollama's /api/chat
    Ollama,
    /// Quire's gRPC
    Grpc,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    pub role: &'static str,
    pub content: String,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub messages: &'a [Message],
    pub max_tokens: usize,
    /// The answer's text is wanted: the next turn repeats it.
    pub keeps_text: bool,
}

/// What the requests of a run share.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    pub name: String,
    pub api: Api,
    pub url: BaseUrl,
    /// Who may vouch for it, where it is https.
    pub trust: Trust,
    pub model: String,
    /// For `Authorization: Bearer`.
    pub key: Option<String>,
    pub temperature: f64,
    /// Answers go on to `max_tokens`, and another length is a failure.
    pub ignores_end: bool,
    /// More fields of each body, and others in place of its own.
    pub extra: Option<Map<String, Value>>,
    /// Longest time without a byte.
    pub silence: Duration,
    /// Longest time of a whole request.
    pub whole: Duration,
}

impl TargetOptions {
    fn with_extra(&self, mut body: Value) -> Value {
        if let (Value::Object(fields), Some(extra)) = (&mut body, &self.extra) {
            fields.extend(extra.clone());
        }
        body
    }
}

/// A server, with connections to it that are used again.
pub struct Target {
    pub options: TargetOptions,
    connections: Connections,
    calls: Calls,
}

/// Tokens as the server counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub output_tokens: usize,
}

/// What a line of a stream says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Not empty.
    pub text: Option<String>,
    pub usage: Option<Usage>,
    pub is_end: bool,
}

/// An answer and its times, counted from `sent`. Definitions are those of vLLM's benchmark: `calculate_metrics` in its
/// `benchmarks/serve.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// From sending to the first chunk with content.
    pub first: Duration,
    /// Gaps between chunks with content, microseconds.
    pub gaps: Vec<u32>,
    /// From sending to the last chunk with content.
    pub last: Duration,
    /// 0 where the server has no usage.
    pub prompt_tokens: usize,
    pub output_tokens: usize,
    /// The server told no usage: each chunk counts as a token.
    pub is_counted_by_chunks: bool,
    /// Its beginning, or all of it where the next turn needs it.
    pub text: String,
}

impl Answer {
    /// Seconds a token after the first, (E2E − TTFT) / (tokens − 1); `None` for a single token.
    pub fn time_per_output_token(&self) -> Option<f64> {
        let later_tokens = self.output_tokens.checked_sub(1).filter(|&tokens| tokens > 0)?;
        Some(self.last.saturating_sub(self.first).as_secs_f64() / later_tokens as f64)
    }
}

impl Target {
    pub fn new(options: TargetOptions) -> Self {
        let dialer = |protocol| Dialer::new(options.url.clone(), &options.trust, protocol);
        let connections = Connections::new(dialer(dial::HTTP1));
        let calls = Calls::new(dialer(dial::HTTP2));
        Self { options, connections, calls }
    }

    /// Sends a request and reads its answer to the end. Times count from `sent`, so opening a connection is part of them.
    pub async fn ask(&self, ask: Ask<'_>, sent: Instant, live: &Live) -> Result<Answer, Failure> {
        let whole = self.options.whole;
        let answer =
            tokio::time::timeout(whole.saturating_sub(sent.elapsed()), self.read(ask, sent, live));
        let told = || format!("no end after {} s", whole.as_secs_f64());
        answer.await.unwrap_or_else(|_| Err(Failure::new(FailureKind::Endless, told())))
    }

    async fn read(&self, ask: Ask<'_>, sent: Instant, live: &Live) -> Result<Answer, Failure> {
        let mut reading = Reading::new(ask, sent);
        let (path, body) = match self.options.api {
            Api::Chat => ("/v1/chat/completions", openai::chat(&self.options, ask)),
            Api::Completions => ("/v1/completions", openai::completion(&self.options, ask)),
            Api::Ollama => ("/api/chat", ollama::chat(&self.options, ask)),
            Api::Grpc => {
                let mut call = self.calls.start(&self.options, ask).await?;
                while !reading.take(call.next().await?.ok_or_else(cut)?, live)? {}
                return reading.finish(self.options.ignores_end);
            }
        };
        let event = if self.options.api == Api::Ollama { ollama::event } else { openai::event };
        let body = self.options.with_extra(body);
        let silence = self.options.silence;
        let key = self.options.key.as_deref();
        let opened =
            self.connections.post(path, key, Bytes::from(body.to_string()), silence).await?;
        let mut lines = Lines::new(opened.body, silence);
        while !reading.take(event(&lines.next().await?.ok_or_else(cut)?)?, live)? {}
        let answer = reading.finish(self.options.ignores_end)?;
        if lines.read_to_end().await {
            self.connections.give_back(opened.sender);
        }
        Ok(answer)
    }
}

fn cut() -> Failure {
    Failure::new(FailureKind::Cut, "the stream ended before its end mark")
}

/// An answer on its way.
struct Reading<'a> {
    ask: Ask<'a>,
    sent: Instant,
    first: Option<Duration>,
    last: Duration,
    gaps: Vec<u32>,
    usage: Option<Usage>,
    text: String,
}

impl<'a> Reading<'a> {
    fn new(ask: Ask<'a>, sent: Instant) -> Self {
        let gaps = Vec::with_capacity(ask.max_tokens.min(4096));
        Self {
            ask,
            sent,
            first: None,
            last: Duration::ZERO,
            gaps,
            usage: None,
            text: String::new(),
        }
    }

    /// Whether the answer ended.
    fn take(&mut self, event: Event, live: &Live) -> Result<bool, Failure> {
        let now = self.sent.elapsed();
        if let Some(text) = &event.text {
            match self.first {
                None => self.first = Some(now),
                Some(_) => self.gaps.push(now.saturating_sub(self.last).as_micros() as u32),
            }
            self.last = now;
            live.token();
            let wanted = if self.ask.keeps_text { MAX_KEPT_BYTES } else { 200 };
            if self.text.len() < wanted {
                self.text.push_str(text);
            }
            // A chunk holds a token or more; a few may only finish a character.
            let limit = 2 * self.ask.max_tokens + 64;
            if self.gaps.len() > limit {
                return Err(Failure::new(
                    FailureKind::Endless,
                    format!("more than {limit} chunks"),
                ));
            }
        }
        self.usage = event.usage.or(self.usage);
        Ok(event.is_end)
    }

    fn finish(self, demands_length: bool) -> Result<Answer, Failure> {
        let Some(first) = self.first else {
            return Err(Failure::new(FailureKind::Empty, "no chunk has content"));
        };
        let chunks = self.gaps.len() + 1;
        let output_tokens = self.usage.map_or(chunks, |usage| usage.output_tokens);
        let max_tokens = self.ask.max_tokens;
        // One chunk more than tokens is the end of a character.
        if output_tokens + 1 < chunks || output_tokens > max_tokens {
            let told = format!(
                "{output_tokens} tokens told, {chunks} chunks came, {max_tokens} were allowed"
            );
            return Err(Failure::new(FailureKind::WrongUsage, told));
        }
        if demands_length && self.usage.is_some() && output_tokens != max_tokens {
            let told = format!("{output_tokens} tokens instead of {max_tokens}");
            return Err(Failure::new(FailureKind::WrongLength, told));
        }
        Ok(Answer {
            first,
            gaps: self.gaps,
            last: self.last,
            prompt_tokens: self.usage.map_or(0, |usage| usage.prompt_tokens),
            output_tokens,
            is_counted_by_chunks: self.usage.is_none(),
            text: self.text,
        })
    }
}

/// A line that is no event of the API.
fn garbage(line: &str, error: &serde_json::Error) -> Failure {
    Failure::new(FailureKind::Garbage, format!("{error}: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(events: Vec<Event>, demands_length: bool) -> Result<Answer, FailureKind> {
        let ask = Ask { messages: &[], max_tokens: 3, keeps_text: false };
        let mut reading = Reading::new(ask, Instant::now());
        for event in events {
            reading.take(event, &Live::default()).map_err(|failure| failure.kind)?;
        }
        reading.finish(demands_length).map_err(|failure| failure.kind)
    }

    fn text() -> Event {
        Event { text: Some("a".to_owned()), ..Event::default() }
    }

    fn usage(output_tokens: usize) -> Event {
        Event { usage: Some(Usage { prompt_tokens: 7, output_tokens }), ..Event::default() }
    }

    #[test]
    fn the_usage_must_fit_the_stream() {
        let whole = finish(vec![text(), text(), text(), usage(3)], true).expect("a whole answer");
        assert_eq!((whole.output_tokens, whole.prompt_tokens, whole.gaps.len()), (3, 7, 2));
        let counted = finish(vec![text(), text()], true).expect("no usage");
        assert!(counted.is_counted_by_chunks && counted.output_tokens == 2);
        let wrong = [
            (vec![usage(3)], FailureKind::Empty),
            (vec![text(), text(), text(), usage(1)], FailureKind::WrongUsage),
            (vec![text(), usage(4)], FailureKind::WrongUsage),
            (vec![text(), usage(2)], FailureKind::WrongLength),
            ((0..100).map(|_| text()).collect(), FailureKind::Endless),
        ];
        for (events, kind) in wrong {
            assert_eq!(finish(events, true), Err(kind));
        }
        assert!(finish(vec![text(), usage(2)], false).is_ok());
    }

    #[test]
    fn a_token_alone_has_no_time_per_token() {
        let answer = finish(vec![text(), usage(1)], false).expect("one token");
        assert_eq!(answer.time_per_output_token(), None);
        let last = answer.first + Duration::from_millis(40);
        let longer = Answer { last, output_tokens: 5, ..answer };
        assert!((longer.time_per_output_token().expect("five tokens") - 0.01).abs() < 1e-9);
    }
}
