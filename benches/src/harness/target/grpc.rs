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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::stream::{Iter, iter};
    use quire_proto::v1::inference_server::{Inference, InferenceServer};
    use quire_proto::v1::{
        AbortRequest, AbortResponse, Delta, EmbedRequest, EmbedResponse, Finished, GenerateEvent,
        GenerateResponse, ModelsRequest, ModelsResponse, Started, TokenizeRequest,
        TokenizeResponse,
    };
    use tonic::Response;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;

    use super::*;
    use crate::harness::live::Live;
    use crate::harness::target::{Api, Target};
    use crate::http::BaseUrl;

    /// Says as many words as it may; of a model "busy" nothing.
    struct Words;

    type Events = std::vec::IntoIter<Result<GenerateEvent, Status>>;

    #[tonic::async_trait]
    impl Inference for Words {
        type GenerateStreamStream = Iter<Events>;

        async fn generate_stream(
            &self,
            request: Request<GenerateRequest>,
        ) -> Result<Response<Iter<Events>>, Status> {
            let request = request.into_inner();
            if request.model == "busy" {
                return Err(Status::resource_exhausted("the queue is full"));
            }
            let num = request.sampling_params.and_then(|params| params.max_tokens).unwrap_or(0);
            let started = Told::Started(Started { num_prompt_tokens: 7, ..Started::default() });
            let delta = || Told::Delta(Delta { text: "word".to_owned(), ..Delta::default() });
            let finished =
                Told::Finished(Finished { num_output_tokens: num, ..Finished::default() });
            let events = [started].into_iter().chain((0..num).map(|_| delta())).chain([finished]);
            let events: Vec<_> =
                events.map(|event| Ok(GenerateEvent { event: Some(event), index: 0 })).collect();
            Ok(Response::new(iter(events)))
        }

        async fn generate(
            &self,
            _: Request<GenerateRequest>,
        ) -> Result<Response<GenerateResponse>, Status> {
            Err(Status::aborted("not asked"))
        }

        async fn embed(&self, _: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
            Err(Status::aborted("not asked"))
        }

        async fn tokenize(
            &self,
            _: Request<TokenizeRequest>,
        ) -> Result<Response<TokenizeResponse>, Status> {
            Err(Status::aborted("not asked"))
        }

        async fn models(
            &self,
            _: Request<ModelsRequest>,
        ) -> Result<Response<ModelsResponse>, Status> {
            Err(Status::aborted("not asked"))
        }

        async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
            Err(Status::aborted("not asked"))
        }
    }

    fn target(address: &str, model: &str) -> Target {
        Target::new(TargetOptions {
            name: "a".to_owned(),
            api: Api::Grpc,
            url: BaseUrl::parse(&format!("http://{address}")).expect("a URL"),
            model: model.to_owned(),
            key: Some("k".to_owned()),
            temperature: 0.0,
            ignores_end: true,
            silence: Duration::from_secs(20),
            whole: Duration::from_secs(20),
        })
    }

    #[tokio::test]
    async fn events_become_an_answer_and_statuses_failures() {
        let incoming =
            TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = incoming.local_addr().expect("it is bound").to_string();
        tokio::spawn(
            Server::builder()
                .add_service(InferenceServer::new(Words))
                .serve_with_incoming(incoming),
        );
        let ask = Ask { messages: &[], max_tokens: 4, keeps_text: true };
        let answer = target(&address, "default").ask(ask, Instant::now(), &Live::default()).await;
        let answer = answer.expect("four words");
        assert_eq!((answer.prompt_tokens, answer.output_tokens, answer.gaps.len()), (7, 4, 3));
        assert_eq!(answer.text, "wordwordwordword");
        let busy = target(&address, "busy").ask(ask, Instant::now(), &Live::default()).await;
        assert_eq!(busy.expect_err("full").kind, FailureKind::TooManyRequests);
        let gone =
            target("127.0.0.1:9", "default").ask(ask, Instant::now(), &Live::default()).await;
        assert_eq!(gone.expect_err("nobody is there").kind, FailureKind::Unreachable);
    }
}
