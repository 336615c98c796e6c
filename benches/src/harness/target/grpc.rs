//! Quire's own gRPC: `quire.v1.Inference/GenerateStream`, all requests over one connection of HTTP/2.

use std::time::Duration;

use quire_proto::v1::generate_event::Event as Told;
use quire_proto::v1::generate_request::Prompt;
use quire_proto::v1::inference_client::InferenceClient;
use quire_proto::v1::{Chat, GenerateRequest, Message, SamplingParams};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::{Ask, Event, TargetOptions, Usage};
use crate::harness::failure::{Failure, FailureKind};

/// Largest message.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The connection, opened by the first request.
#[derive(Default)]
pub(super) struct Calls {
    client: OnceCell<InferenceClient<Channel>>,
}

/// One answer.
pub(super) struct Call {
    stream: Streaming<quire_proto::v1::GenerateEvent>,
    silence: Duration,
    prompt_tokens: usize,
}

impl Calls {
    pub(super) async fn start(
        &self,
        options: &TargetOptions,
        ask: Ask<'_>,
    ) -> Result<Call, Failure> {
        let silence = options.silence;
        let mut client = self.client.get_or_try_init(|| connect(options)).await?.clone();
        let mut request = Request::new(request(options, ask));
        if let Some(key) = &options.key {
            let value = format!("Bearer {key}").parse();
            let value =
                value.map_err(|_| Failure::new(FailureKind::Status, "--api-key is no header"))?;
            request.metadata_mut().insert("authorization", value);
        }
        let silent = |_| Failure::new(FailureKind::Silent, format!("no answer for {silence:?}"));
        let answer = timeout(silence, client.generate_stream(request)).await.map_err(silent)?;
        let stream = answer.map_err(|status| failed(&status))?.into_inner();
        Ok(Call { stream, silence, prompt_tokens: 0 })
    }
}

impl Call {
    /// The next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        let Ok(message) = timeout(self.silence, self.stream.message()).await else {
            let told = format!("no message for {} s", self.silence.as_secs_f64());
            return Err(Failure::new(FailureKind::Silent, told));
        };
        let Some(message) = message.map_err(|status| failed(&status))? else { return Ok(None) };
        let event = match message.event {
            Some(Told::Started(started)) => {
                self.prompt_tokens = started.num_prompt_tokens as usize;
                Event::default()
            }
            Some(Told::Delta(delta)) => {
                Event { text: Some(delta.text).filter(|text| !text.is_empty()), ..Event::default() }
            }
            Some(Told::Finished(finished)) => Event {
                usage: Some(Usage {
                    prompt_tokens: self.prompt_tokens,
                    output_tokens: finished.num_output_tokens as usize,
                }),
                is_end: true,
                ..Event::default()
            },
            None => Event::default(),
        };
        Ok(Some(event))
    }
}

async fn connect(options: &TargetOptions) -> Result<InferenceClient<Channel>, Failure> {
    let unreachable = |error: tonic::transport::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Failure::new(FailureKind::Unreachable, format!("{error}{}", cause.unwrap_or_default()))
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", options.url.authority()))
        .map_err(unreachable)?;
    let channel = timeout(options.silence, endpoint.tcp_nodelay(true).connect()).await;
    let channel =
        channel.map_err(|_| Failure::new(FailureKind::Unreachable, "no connection in time"))?;
    let client = InferenceClient::new(channel.map_err(unreachable)?);
    Ok(client
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

fn request(options: &TargetOptions, ask: Ask<'_>) -> GenerateRequest {
    let messages = ask
        .messages
        .iter()
        .map(|message| Message { role: message.role.to_owned(), content: message.content.clone() });
    let sampling = SamplingParams {
        max_tokens: Some(ask.max_tokens as u32),
        temperature: Some(options.temperature as f32),
        ignore_eos: Some(options.ignores_end),
        ..SamplingParams::default()
    };
    GenerateRequest {
        model: options.model.clone(),
        prompt: Some(Prompt::Chat(Chat { messages: messages.collect() })),
        sampling_params: Some(sampling),
        ..GenerateRequest::default()
    }
}

/// A status as the failure that HTTP would have told.
fn failed(status: &Status) -> Failure {
    let kind = match status.code() {
        Code::ResourceExhausted => FailureKind::TooManyRequests,
        // A transport that broke has its error as the source; a server that says so has none.
        Code::Unavailable if std::error::Error::source(status).is_some() => {
            FailureKind::Unreachable
        }
        Code::Unavailable => FailureKind::Unavailable,
        Code::Internal | Code::Unknown | Code::Cancelled => FailureKind::Cut,
        _ => FailureKind::Status,
    };
    Failure::new(kind, format!("{:?}: {}", status.code(), status.message()))
}
