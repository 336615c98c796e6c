//! Quire's own gRPC: `quire.v1.Inference/GenerateStream`, all requests over one connection of HTTP/2.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use quire_proto::v1::generate_event::Event as Told;
use quire_proto::v1::generate_request::Prompt;
use quire_proto::v1::inference_client::InferenceClient;
use quire_proto::v1::{Chat, GenerateRequest, Message, SamplingParams};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tower::service_fn;

use super::dial::Dialer;
use super::{Ask, Event, TargetOptions, Usage};
use crate::harness::failure::{Failure, FailureKind};

/// Largest message.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The connection, opened by the first request.
pub(super) struct Calls {
    dialer: Dialer,
    client: OnceCell<InferenceClient<Channel>>,
}

/// One answer.
pub(super) struct Call {
    stream: Streaming<quire_proto::v1::GenerateEvent>,
    silence: Duration,
    prompt_tokens: usize,
}

impl Calls {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, client: OnceCell::new() }
    }

    pub(super) async fn start(
        &self,
        options: &TargetOptions,
        ask: Ask<'_>,
    ) -> Result<Call, Failure> {
        let silence = options.silence;
        let mut client = self.client.get_or_try_init(|| self.connect(silence)).await?.clone();
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

    async fn connect(&self, patience: Duration) -> Result<InferenceClient<Channel>, Failure> {
        let unreachable = |error: tonic::transport::Error| {
            Failure::new(FailureKind::Unreachable, with_causes(&error))
        };
        let url = self.dialer.url();
        let scheme = if url.is_tls() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", url.authority()))
            .map_err(unreachable)?;
        let dialer = self.dialer.clone();
        let connector = service_fn(move |_| {
            let dialer = dialer.clone();
            async move { dialer.dial().await.map(TokioIo::new) }
        });
        let channel = timeout(patience, endpoint.connect_with_connector(connector)).await;
        let channel =
            channel.map_err(|_| Failure::new(FailureKind::Unreachable, "no connection in time"))?;
        let client = InferenceClient::new(channel.map_err(unreachable)?);
        Ok(client
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
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

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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
    use std::net::SocketAddr;
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
    use crate::harness::target::dial::HTTP2;
    use crate::harness::target::dial::tests::front;
    use crate::harness::target::{Answer, Api, Target, Trust};
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

    fn target(url: &str, trust: Trust, model: &str) -> Target {
        Target::new(TargetOptions {
            name: "a".to_owned(),
            api: Api::Grpc,
            url: BaseUrl::parse(url).expect("a URL"),
            trust,
            model: model.to_owned(),
            key: Some("k".to_owned()),
            temperature: 0.0,
            ignores_end: true,
            extra: None,
            silence: Duration::from_secs(20),
            whole: Duration::from_secs(20),
        })
    }

    fn serve_words() -> SocketAddr {
        let incoming =
            TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = incoming.local_addr().expect("it is bound");
        tokio::spawn(
            Server::builder()
                .add_service(InferenceServer::new(Words))
                .serve_with_incoming(incoming),
        );
        address
    }

    const ASK: Ask<'static> = Ask { messages: &[], max_tokens: 4, keeps_text: true };

    async fn ask(target: Target) -> Result<Answer, Failure> {
        target.ask(ASK, Instant::now(), &Live::default()).await
    }

    #[tokio::test]
    async fn events_become_an_answer_and_statuses_failures() {
        let url = format!("http://{}", serve_words());
        let answer = ask(target(&url, Trust::well_known(), "default")).await.expect("four words");
        assert_eq!((answer.prompt_tokens, answer.output_tokens, answer.gaps.len()), (7, 4, 3));
        assert_eq!(answer.text, "wordwordwordword");
        let busy = ask(target(&url, Trust::well_known(), "busy")).await.expect_err("full");
        assert_eq!(busy.kind, FailureKind::TooManyRequests);
        let gone = target("http://127.0.0.1:9", Trust::well_known(), "default");
        assert_eq!(ask(gone).await.expect_err("nobody").kind, FailureKind::Unreachable);
    }

    #[tokio::test]
    async fn https_is_grpc_over_tls() {
        let (port, ca) = front(serve_words(), HTTP2).await;
        let url = format!("https://localhost:{port}");
        let trust = Trust::of_file(&ca).expect("a certificate");
        let answer = ask(target(&url, trust, "default")).await.expect("four words");
        assert_eq!(answer.output_tokens, 4);
        let unknown = ask(target(&url, Trust::well_known(), "default")).await;
        let unknown = unknown.expect_err("nobody vouches for it");
        assert_eq!(unknown.kind, FailureKind::Unreachable);
        assert!(unknown.message.contains("TLS: "), "{unknown}");
        std::fs::remove_file(ca).expect("it is there");
    }
}
