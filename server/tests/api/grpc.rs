//! gRPC over the scripted engine: the answers of HTTP, its errors, its keys, and what only gRPC has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use prost::Message;
use quire_engine::request::{StreamEvent, SubmitError};
use quire_proto::v1::generate_event::Event;
use quire_proto::v1::generate_request::Prompt;
use quire_proto::v1::inference_client::InferenceClient;
use quire_proto::v1::{self, finished::Reason};
use quire_server::app::{Access, ServerConfig};
use quire_server::grpc::{self, METHODS};
use quire_server::http::auth::ApiKey;
use quire_server::serve::{Listeners, serve};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use tower::ServiceExt;
use vllm_proto::control_client::ControlClient;
use vllm_proto::inference_client::InferenceClient as VllmClient;

use crate::support::{
    END, TestServer, answer, bytes_as_tokens, config, engine_info, served_model, started, token,
};

fn router(server: &TestServer) -> Router {
    grpc::router(Arc::clone(&server.state))
}

fn client(server: &TestServer) -> InferenceClient<Router> {
    InferenceClient::new(router(server))
}

/// Answers "Hello wörld".
fn hello() -> TestServer {
    TestServer::scripted(|request| answer(request, "Hello wörld"))
}

fn greedy(prompt: &str) -> v1::GenerateRequest {
    v1::GenerateRequest {
        prompt: Some(Prompt::Text(prompt.into())),
        sampling_params: Some(v1::SamplingParams {
            temperature: Some(0.0),
            ..v1::SamplingParams::default()
        }),
        ..v1::GenerateRequest::default()
    }
}

async fn events(
    mut stream: Streaming<v1::GenerateEvent>,
) -> Result<Vec<v1::GenerateEvent>, Status> {
    let mut events = Vec::new();
    while let Some(event) = stream.message().await? {
        events.push(event);
    }
    Ok(events)
}

#[tokio::test]
async fn a_stream_is_the_whole_answer_and_the_answer_of_http() {
    let server = hello();
    let body = json!({"prompt": "say", "max_tokens": 50});
    let over_http = server.post("/v1/completions", &body).await.json();
    let over_http = over_http["choices"][0]["text"].as_str().unwrap().to_owned();
    let mut request = greedy("say");
    let params = request.sampling_params.as_mut().unwrap();
    (params.logprobs, params.prompt_logprobs) = (Some(2), Some(1));
    let whole = client(&server).generate(request.clone()).await.unwrap().into_inner();
    let stream = client(&server).generate_stream(request).await.unwrap().into_inner();
    let events = events(stream).await.unwrap();

    let [first, middle @ .., last] = events.as_slice() else { panic!("{events:?}") };
    let Some(Event::Started(started)) = &first.event else { panic!("{first:?}") };
    assert_eq!((started.num_prompt_tokens, started.num_cached_tokens), (3, 2));
    assert_eq!(started.prompt_logprobs.len(), 2, "of the first token nothing is known");
    assert_eq!(whole.prompt_logprobs, started.prompt_logprobs);
    let Some(Event::Finished(finished)) = &last.event else { panic!("{last:?}") };
    assert_eq!((finished.reason(), finished.num_output_tokens), (Reason::Stop, 13));
    let deltas = middle.iter().map(|message| match &message.event {
        Some(Event::Delta(delta)) => delta.clone(),
        other => panic!("{other:?}"),
    });
    let mut joined = v1::Answer { finished: Some(finished.clone()), ..v1::Answer::default() };
    for delta in deltas {
        assert_eq!(delta.logprobs.len(), delta.token_ids.len());
        joined.text += &delta.text;
        joined.token_ids.extend(delta.token_ids);
        joined.logprobs.extend(delta.logprobs);
    }
    assert_eq!(joined.text, over_http);
    assert_eq!(joined.token_ids, [bytes_as_tokens("Hello wörld"), vec![END]].concat());
    assert_eq!(joined.logprobs[0].top.len(), 2);
    assert_eq!(whole.answers, [joined]);
}

#[tokio::test]
async fn a_chat_is_written_with_the_template() {
    let server = hello();
    let message =
        |role: &str, content: &str| v1::Message { role: role.into(), content: content.into() };
    let chat = v1::Chat { messages: vec![message("user", "hi")] };
    let prompt = Some(v1::tokenize_request::Prompt::Chat(chat.clone()));
    let request = v1::TokenizeRequest { prompt, ..v1::TokenizeRequest::default() };
    let ids = client(&server).tokenize(request).await.unwrap().into_inner().ids;
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(json!(ids), server.post("/tokenize", &body).await.json()["tokens"]);
    let request = v1::GenerateRequest { prompt: Some(Prompt::Chat(chat)), ..greedy("") };
    let whole = client(&server).generate(request).await.unwrap().into_inner();
    assert_eq!(whole.num_prompt_tokens as usize, ids.len());

    let chat = v1::Chat { messages: vec![message("wizard", "hi")] };
    let request = v1::GenerateRequest { prompt: Some(Prompt::Chat(chat)), ..greedy("") };
    let status = client(&server).generate(request).await.unwrap_err();
    assert_eq!((status.code(), field(&status)), (Code::InvalidArgument, "messages".into()));
}

/// The field that a status blames.
fn field(status: &Status) -> String {
    let details = status.get_details_bad_request();
    details.map_or(String::new(), |details| details.field_violations[0].field.clone())
}

#[tokio::test]
async fn a_bad_field_is_named() {
    let server = hello();
    let params = |change: fn(&mut v1::SamplingParams)| {
        let mut request = greedy("a");
        change(request.sampling_params.as_mut().unwrap());
        request
    };
    let cases = [
        (v1::GenerateRequest { prompt: None, ..greedy("") }, "prompt"),
        (v1::GenerateRequest { n: 9, ..greedy("a") }, "n"),
        (v1::GenerateRequest { n: 2, ..greedy("a") }, "n"),
        (v1::GenerateRequest { request_id: "a/b".into(), ..greedy("a") }, "request_id"),
        (v1::GenerateRequest { cache_salt: "a@b".into(), ..greedy("a") }, "cache_salt"),
        (greedy(&"long ".repeat(100)), "prompt"),
        (params(|params| params.temperature = Some(f32::NAN)), "temperature"),
        (params(|params| params.temperature = Some(-1.0)), "temperature"),
        (params(|params| params.top_p = Some(0.0)), "top_p"),
        (params(|params| params.max_tokens = Some(0)), "max_tokens"),
        (params(|params| params.stop = vec![String::new()]), "stop"),
        (params(|params| params.stop_token_ids = vec![300]), "stop_token_ids"),
        (params(|params| params.logit_bias = [(1, f32::NAN)].into()), "logit_bias"),
        (params(|params| params.logprobs = Some(6)), "logprobs"),
        (params(|params| params.bad_words = vec!["two words".into()]), "bad_words"),
    ];
    for (request, name) in cases {
        let status = client(&server).generate(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, name));
    }
    let request = v1::GenerateRequest { model: "other".into(), ..greedy("a") };
    let status = client(&server).generate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.get_details_error_info().unwrap().reason, "model_not_found");
    // It answers as before.
    let whole = client(&server).generate(greedy("a")).await.unwrap().into_inner();
    assert_eq!(whole.answers[0].text, "Hello wörld");
}

#[tokio::test]
async fn what_passes_by_itself_says_when_to_come_again() {
    let server = TestServer::loading(config());
    let status = client(&server).generate(greedy("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());

    let mut info = engine_info();
    info.max_num_queued = 1;
    // A name of its own: the process's tests share the metrics.
    let config = ServerConfig { served_model_names: vec!["grpc".into()], ..config() };
    let (server, _queue) = TestServer::with_queue(config, info);
    let _waiting = client(&server).generate_stream(greedy("a")).await.unwrap();
    let status = client(&server).generate(greedy("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(status.message().starts_with(&SubmitError::QueueFull { limit: 1 }.to_string()));
}

#[tokio::test]
async fn every_method_asks_for_the_key_but_the_probes() {
    let config = ServerConfig { api_keys: vec![ApiKey::new("secret")], ..config() };
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    let call = async |path: String, key: Option<&str>| {
        let mut request = Request::post(path).header("content-type", "application/grpc");
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        // An empty message in its frame.
        let request = request.body(Body::from(vec![0; 5])).unwrap();
        let response = router(&server).oneshot(request).await.unwrap();
        Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
    };
    for method in METHODS {
        let path = format!("/{}/{}", method.service, method.name);
        let is_open = method.access == Access::Open;
        assert_eq!(is_open, path.contains(".health."), "{path}");
        for (key, is_known) in [(None, false), (Some("wrong"), false), (Some("secret"), true)] {
            let code = call(path.clone(), key).await;
            assert_eq!(code == Code::Unauthenticated, !is_open && !is_known, "{path} {key:?}");
        }
    }
    for path in ["/quire.v1.Inference/Nothing", "/x/y", "/metrics", "/vllm.Control/Sleep"] {
        assert_eq!(call(path.into(), None).await, Code::Unauthenticated, "{path}");
        assert_eq!(call(path.into(), Some("secret")).await, Code::Unimplemented, "{path}");
    }
}

#[test]
fn the_table_has_every_method_of_the_contract() {
    let files = prost_types::FileDescriptorSet::decode(quire_proto::DESCRIPTORS).unwrap();
    let described: BTreeSet<String> = files
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
        .flat_map(|(package, service)| {
            let name = |method: &prost_types::MethodDescriptorProto| {
                format!("{package}.{}/{}", service.name(), method.name())
            };
            service.method.iter().map(name).collect::<Vec<String>>()
        })
        .collect();
    let is_ours = |service: &str| service.starts_with("quire.") || service.contains(".engine.");
    let of_quire = METHODS.iter().filter(|method| is_ours(method.service));
    let listed: BTreeSet<String> =
        of_quire.map(|method| format!("{}/{}", method.service, method.name)).collect();
    assert_eq!(listed, described);
}

#[tokio::test]
async fn dropping_the_stream_cancels() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let mut stream = client(&server).generate_stream(greedy("a")).await.unwrap().into_inner();
    let submission = queue.recv().unwrap();
    assert!(submission.events.send(started()) && submission.events.send(token(65)));
    assert!(matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Started(_))));
    assert!(!submission.events.is_closed());
    drop(stream);
    assert!(submission.events.is_closed());
}

#[tokio::test]
async fn abort_ends_exactly_the_request_it_names() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let router = router(&server);
    let mut client = InferenceClient::new(router.clone());
    let named = |id: &str| v1::GenerateRequest { request_id: id.into(), ..greedy("a") };
    let stream = client.generate_stream(named("job-1")).await.unwrap().into_inner();
    let other = client.generate_stream(named("job-12")).await.unwrap().into_inner();
    let (first, second) = (queue.recv().unwrap(), queue.recv().unwrap());
    for submission in [&first, &second] {
        assert!(submission.events.send(started()) && submission.events.send(token(65)));
    }
    let status = client.generate(named("job-1")).await.unwrap_err();
    assert_eq!((status.code(), field(&status)), (Code::AlreadyExists, "request_id".into()));

    let ids = |ids: &[&str]| v1::AbortRequest {
        request_ids: ids.iter().map(|&id| id.to_owned()).collect(),
    };
    assert_eq!(
        client.abort(ids(&["job", "", "job-1*"])).await.unwrap().into_inner().num_aborted,
        0
    );
    assert_eq!(client.abort(ids(&["job-1"])).await.unwrap().into_inner().num_aborted, 1);
    let ended = events(stream).await.unwrap();
    let Some(Event::Finished(finished)) = &ended.last().unwrap().event else { panic!("{ended:?}") };
    assert_eq!(finished.reason(), Reason::Abort);
    assert!(first.events.is_closed() && !second.events.is_closed());
    // vLLM's contract ends the same requests.
    let mut control = ControlClient::new(router);
    let abort = vllm_proto::AbortRequest { request_ids: vec!["job-12".into()] };
    control.abort(abort).await.unwrap();
    let ended = events(other).await.unwrap();
    assert!(matches!(&ended.last().unwrap().event, Some(Event::Finished(_))), "{ended:?}");
    assert!(second.events.is_closed());
}

#[tokio::test]
async fn health_follows_the_server() {
    let server = TestServer::loading(config());
    let mut health = HealthClient::new(router(&server));
    let asked = |service: &str| HealthCheckRequest { service: service.into() };
    let mut watch = health.watch(asked("")).await.unwrap().into_inner();
    let seen = async |watch: &mut Streaming<tonic_health::pb::HealthCheckResponse>| {
        watch.message().await.unwrap().unwrap().status()
    };
    assert_eq!(seen(&mut watch).await, ServingStatus::NotServing);
    let mut status = async |service: &str| {
        health.check(asked(service)).await.map(|response| response.into_inner().status())
    };
    assert_eq!(status("liveness").await.unwrap(), ServingStatus::Serving);
    assert_eq!(status("readiness").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(status("nothing").await.unwrap_err().code(), Code::NotFound);

    let (handle, queue) = quire_engine::EngineHandle::new(engine_info());
    server.state.set_model(served_model(handle));
    assert_eq!(seen(&mut watch).await, ServingStatus::Serving);
    for service in ["", "quire.v1.Inference", "vllm.Inference", "vllm.Control", "readiness"] {
        assert_eq!(status(service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    server.state.drain();
    assert_eq!(status("").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(status("liveness").await.unwrap(), ServingStatus::Serving);
    drop(queue);
    assert_eq!(status("liveness").await.unwrap(), ServingStatus::NotServing);
}

#[tokio::test]
async fn routers_made_for_vllm_get_what_they_ask() {
    let server = hello();
    let mut control = ControlClient::new(router(&server));
    let info = control.get_server_info(vllm_proto::GetServerInfoRequest {}).await.unwrap();
    let info = info.into_inner();
    assert_eq!((info.api_version.as_str(), info.max_model_len), ("vllm", 200));
    assert_eq!((info.kv_block_size, info.total_kv_blocks), (16, 100));
    let model = control.get_model_info(vllm_proto::GetModelInfoRequest {}).await.unwrap();
    let model = model.into_inner();
    assert_eq!(model.served_model_name, "tiny");
    assert_eq!(model.served_model_aliases, ["alias"]);
    assert!(model.supports_token_ids_input);

    let mut client = VllmClient::new(router(&server));
    let request = vllm_proto::GenerateRequest {
        prompt: Some(vllm_proto::generate_request::Prompt::TokenIds(vllm_proto::TokenIds {
            ids: vec![1, 2, 3],
        })),
        temperature: Some(0.0),
        response: Some(vllm_proto::ResponseOptions {
            output_token_ids: true,
            output_logprobs: true,
            ..vllm_proto::ResponseOptions::default()
        }),
        stopping: Some(vllm_proto::StoppingCriteria {
            max_new_tokens: 50,
            ..vllm_proto::StoppingCriteria::default()
        }),
        ..vllm_proto::GenerateRequest::default()
    };
    let whole = client.generate(request.clone()).await.unwrap().into_inner();
    let mut stream = client.generate_stream(request.clone()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let prompt = first.prompt_info.clone().unwrap();
    assert_eq!(prompt.num_prompt_tokens, 3);
    let (mut ids, mut text) = (Vec::new(), String::new());
    let mut finish = None;
    let mut next = Some(first);
    while let Some(message) = next {
        let outputs = message.outputs.unwrap();
        ids.extend(outputs.token_ids);
        text += &outputs.text;
        finish = outputs.finish_info;
        next = stream.message().await.unwrap();
        assert!(next.as_ref().is_none_or(|message| message.prompt_info.is_none()));
    }
    let outputs = whole.outputs.unwrap();
    assert_eq!((&outputs.token_ids, &outputs.text), (&ids, &text));
    assert_eq!((text.as_str(), outputs.logprobs.len()), ("Hello wörld", ids.len()));
    assert_eq!(
        (whole.prompt_info.as_ref(), outputs.finish_info.as_ref()),
        (Some(&prompt), finish.as_ref())
    );
    let finish = finish.unwrap();
    assert_eq!(finish.num_output_tokens as usize, ids.len());
    assert_eq!(finish.stop_reason, Some(vllm_proto::finish_info::StopReason::EosTokenId(END)));

    let lora = vllm_proto::GenerateRequest { lora_name: "x".into(), ..request };
    let status = client.generate(lora).await.unwrap_err();
    assert_eq!((status.code(), field(&status)), (Code::InvalidArgument, "lora_name".into()));
}

#[tokio::test]
async fn over_a_socket_a_call_outlives_the_signal_to_stop() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = Listeners { http: bind().await, grpc: Some(bind().await), grpc_tls: None };
    let address = listeners.grpc.as_ref().unwrap().local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let state = Arc::clone(&server.state);
    let done = tokio::spawn(serve(listeners, state, async { drop(stopped.await) }));
    let mut client = InferenceClient::connect(format!("http://{address}")).await.unwrap();
    let stream = client.generate_stream(greedy("a")).await.unwrap().into_inner();
    let submission = queue.recv().unwrap();
    assert!(submission.events.send(started()));
    stop.send(()).unwrap();
    while !server.state.is_draining() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = client.generate(greedy("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let engine = thread::spawn(move || {
        for event in answer(&submission.request, "Hello").into_iter().skip(1) {
            assert!(submission.events.send(event), "the client is there");
        }
    });
    let ended = events(stream).await.unwrap();
    assert!(matches!(&ended.last().unwrap().event, Some(Event::Finished(_))), "{ended:?}");
    engine.join().unwrap();
    drop(client);
    done.await.unwrap().unwrap();
}

#[tokio::test]
async fn vectors_come_in_the_order_of_the_inputs() {
    let server = TestServer::scripted(|request| {
        let vector = vec![request.prompt.len() as f32, 1.0, 2.0, 3.0];
        vec![
            started(),
            StreamEvent::Embedding(vector),
            StreamEvent::Finished(quire_engine::request::Finished {
                reason: quire_engine::request::FinishReason::Embedded,
                num_prompt_tokens: request.prompt.len() as u32,
                num_output_tokens: 0,
                num_cached_tokens: 0,
            }),
        ]
    });
    let text =
        |text: &str| v1::EmbedInput { input: Some(v1::embed_input::Input::Text(text.into())) };
    let inputs = vec![text("abc"), text("a"), text("ab")];
    let request = v1::EmbedRequest { inputs, ..v1::EmbedRequest::default() };
    let response = client(&server).embed(request).await.unwrap().into_inner();
    let firsts: Vec<f32> = response.embeddings.iter().map(|vector| vector.values[0]).collect();
    assert_eq!((firsts, response.num_prompt_tokens), (vec![3.0, 1.0, 2.0], 6));
    let status = client(&server).embed(v1::EmbedRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), field(&status)), (Code::InvalidArgument, "inputs".into()));
    let models = client(&server).models(v1::ModelsRequest {}).await.unwrap().into_inner().models;
    let names: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
    assert_eq!(names, ["tiny", "alias"]);
}

#[tokio::test]
async fn nobody_aborts_the_call_of_another_key() {
    let keys = ["mine", "yours"].map(ApiKey::new).to_vec();
    let config = ServerConfig { api_keys: keys, ..config() };
    let (server, queue) = TestServer::with_queue(config, engine_info());
    let with_key = |key: &str| {
        let value = format!("Bearer {key}").parse().unwrap();
        InferenceClient::with_interceptor(router(&server), move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", Clone::clone(&value));
            Ok(request)
        })
    };
    let (mut mine, mut yours) = (with_key("mine"), with_key("yours"));
    let job = || v1::GenerateRequest { request_id: "job".into(), ..greedy("a") };
    let _first = mine.generate_stream(job()).await.unwrap();
    // The id of somebody else is free.
    let _second = yours.generate_stream(job()).await.unwrap();
    let (first, second) = (queue.recv().unwrap(), queue.recv().unwrap());
    let abort = || v1::AbortRequest { request_ids: vec!["job".into()] };
    assert_eq!(yours.abort(abort()).await.unwrap().into_inner().num_aborted, 1);
    assert_eq!(yours.abort(abort()).await.unwrap().into_inner().num_aborted, 0);
    assert!(!first.events.is_closed());
    drop((first, second));
}
