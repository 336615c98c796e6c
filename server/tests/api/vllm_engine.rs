//! `vllm.grpc.engine.VllmEngine`, as sgl-model-gateway and llm-d call it.

use std::sync::Arc;

use axum::Router;
use quire_proto::engine::complete::MatchedStop;
use quire_proto::engine::generate_request::Input;
use quire_proto::engine::generate_response::Response as Part;
use quire_proto::engine::sampling_params::Constraint;
use quire_proto::engine::vllm_engine_client::VllmEngineClient;
use quire_proto::engine::{self as proto, Chunk, Complete};
use quire_server::grpc;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{END, TestServer, answer, bytes_as_tokens};

fn client(server: &TestServer) -> VllmEngineClient<Router> {
    VllmEngineClient::new(grpc::router(Arc::clone(&server.state)))
}

fn hello() -> TestServer {
    TestServer::scripted(|request| answer(request, "Hello!"))
}

fn request(text: &str, params: proto::SamplingParams) -> proto::GenerateRequest {
    let tokens =
        proto::TokenizedInput { original_text: text.into(), input_ids: bytes_as_tokens(text) };
    proto::GenerateRequest {
        input: Some(Input::Tokenized(tokens)),
        sampling_params: Some(params),
        ..proto::GenerateRequest::default()
    }
}

/// What the gateway sends where a client asks for nothing special.
fn usual() -> proto::SamplingParams {
    proto::SamplingParams {
        top_p: 1.0,
        repetition_penalty: 1.0,
        n: 1,
        ..proto::SamplingParams::default()
    }
}

async fn parts(
    server: &TestServer,
    request: proto::GenerateRequest,
) -> Result<(Vec<Chunk>, Vec<Complete>), Status> {
    let mut stream = client(server).generate(request).await?.into_inner();
    let (mut chunks, mut ends) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await? {
        match message.response.expect("one of both") {
            Part::Chunk(chunk) => chunks.push(chunk),
            Part::Complete(complete) => ends.push(complete),
        }
    }
    Ok((chunks, ends))
}

#[tokio::test]
async fn a_whole_answer_is_one_message() {
    let params = proto::SamplingParams { logprobs: Some(1), prompt_logprobs: Some(0), ..usual() };
    let (chunks, ends) = parts(&hello(), request("ab", params)).await.unwrap();
    assert!(chunks.is_empty());
    let [end] = ends.as_slice() else { panic!("{ends:?}") };
    let expected = [bytes_as_tokens("Hello!"), vec![END]].concat();
    assert_eq!((&end.output_ids, end.finish_reason.as_str()), (&expected, "stop"));
    assert_eq!((end.prompt_tokens, end.completion_tokens, end.cached_tokens), (2, 7, 2));
    let output = end.output_logprobs.as_ref().unwrap();
    assert_eq!(output.token_ids, expected);
    assert_eq!((output.token_logprobs[0], output.top_logprobs[0].token_ids.len()), (-0.5, 1));
    let input = end.input_logprobs.as_ref().unwrap();
    let values: Vec<Option<f32>> = input.token_logprobs.iter().map(|known| known.value).collect();
    assert_eq!((values, &input.token_ids), (vec![None, Some(-0.5)], &bytes_as_tokens("ab")));
}

#[tokio::test]
async fn chunks_are_the_whole_answer() {
    let params = proto::SamplingParams { n: 2, seed: Some(1), stop: vec!["o".into()], ..usual() };
    let request = proto::GenerateRequest { stream: true, ..request("ab", params) };
    let (chunks, ends) = parts(&hello(), request).await.unwrap();
    assert_eq!(ends.len(), 2);
    for end in &ends {
        let mine = chunks.iter().filter(|chunk| chunk.index == end.index);
        let ids: Vec<u32> = mine.flat_map(|chunk| chunk.token_ids.clone()).collect();
        assert!(end.output_ids.starts_with(&ids), "{ids:?} {:?}", end.output_ids);
        assert_eq!(end.output_ids, bytes_as_tokens("Hello"));
        assert_eq!(end.matched_stop, Some(MatchedStop::MatchedStopStr("o".into())));
    }
}

#[tokio::test]
async fn what_is_not_supported_is_named() {
    let server = hello();
    let with = |change: fn(&mut proto::SamplingParams)| {
        let mut params = usual();
        change(&mut params);
        request("ab", params)
    };
    let ids = |ids: &[u32]| {
        let tokens = proto::TokenizedInput { input_ids: ids.to_vec(), ..Default::default() };
        proto::GenerateRequest { input: Some(Input::Tokenized(tokens)), ..request("", usual()) }
    };
    let refused = Some(proto::Refused {});
    let cases = [
        (proto::GenerateRequest { input: None, ..request("", usual()) }, "input"),
        (proto::GenerateRequest { mm_inputs: refused, ..request("a", usual()) }, "mm_inputs"),
        (
            proto::GenerateRequest { kv_transfer_params: refused, ..request("a", usual()) },
            "kv_transfer_params",
        ),
        (
            proto::GenerateRequest { data_parallel_rank: Some(-1), ..request("a", usual()) },
            "data_parallel_rank",
        ),
        (
            proto::GenerateRequest { data_parallel_rank: Some(1), ..request("a", usual()) },
            "x-data-parallel-rank",
        ),
        (with(|p| p.constraint = Some(Constraint::StructuralTag("a".into()))), "structural_tag"),
        (with(|p| p.logprobs = Some(-1)), "logprobs"),
        (with(|p| p.logit_bias = [(-1, 1.0)].into()), "logit_bias"),
        (with(|p| p.stop_token_ids = vec![300]), "stop_token_ids"),
        (with(|p| p.temperature = Some(3.0)), "temperature"),
        (with(|p| p.truncate_prompt_tokens = Some(0)), "truncate_prompt_tokens"),
        (with(|p| p.n = 100), "n"),
        (ids(&[300]), "prompt"),
        (ids(&[]), "prompt"),
    ];
    for (request, field) in cases {
        let status = parts(&server, request).await.unwrap_err();
        let named = status.get_details_bad_request().map(|d| d.field_violations[0].field.clone());
        assert_eq!((status.code(), named.as_deref()), (Code::InvalidArgument, Some(field)));
    }
    let (_, ends) = parts(&server, with(|p| p.truncate_prompt_tokens = Some(1))).await.unwrap();
    assert_eq!(ends[0].prompt_tokens, 1);
}

#[tokio::test]
async fn the_gateway_learns_who_answers() {
    let server = hello();
    let mut client = client(&server);
    let health = client.health_check(proto::HealthCheckRequest {}).await.unwrap().into_inner();
    assert_eq!((health.healthy, health.message.as_str()), (true, "ready"));
    let model = client.get_model_info(proto::GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((model.served_model_name.as_str(), model.max_context_length), ("tiny", 200));
    assert_eq!((model.is_generation, model.eos_token_ids), (true, vec![END as i32]));
    let info = client.get_server_info(proto::GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.server_type.as_str(), info.data_parallel_size), ("vllm-grpc", 1));
    let loads = client.get_loads(proto::GetLoadsRequest::default()).await.unwrap().into_inner();
    assert_eq!((loads.loads.len(), loads.loads[0].max_running_requests), (1, 8));
    let none = proto::GetLoadsRequest { dp_rank: Some(5), ..proto::GetLoadsRequest::default() };
    assert!(client.get_loads(none).await.unwrap().into_inner().loads.is_empty());
}
