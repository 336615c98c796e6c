//! Structured output over HTTP: an engine that draws any of the tokens that the constraint allows.

mod bombs;
mod schemas;
mod tags;

use std::sync::Arc;

use quire_engine::request::{FinishReason, StreamEvent};
use quire_proto::v1;
use quire_proto::v1::inference_client::InferenceClient;
use quire_proto::v1::sampling_params::StructuredOutput;
use quire_server::grpc;
use serde_json::{Value, json};

use tonic::Code;
use tonic_types::StatusExt;
use vllm_proto::decoding_parameters::StructuredOutput as VllmOutput;
use vllm_proto::inference_client::InferenceClient as VllmClient;

use crate::support::{END, TestServer, answer_tokens, config, engine_info};

const CHAT: &str = "/v1/chat/completions";

/// What an engine does that knows nothing but the constraint: the seed draws.
fn obedient(request: &quire_engine::Request) -> Vec<StreamEvent> {
    let constraint = request.params.constraint.as_ref().expect("the request is constrained");
    let mut mask = constraint.begin();
    let mut random = request.params.seed.unwrap_or(1).wrapping_mul(2) + 1;
    let mut tokens = Vec::new();
    loop {
        let mut bits = [0_u32; 10];
        mask.fill(&mut bits).unwrap();
        let allowed: Vec<u32> =
            (0..300).filter(|token| bits[*token as usize / 32] >> (token % 32) & 1 == 1).collect();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // The end where it may be, or a long answer may have none.
        let is_last = tokens.len() > 20 && allowed.contains(&END);
        let token = if is_last { END } else { allowed[(random >> 33) as usize % allowed.len()] };
        if token == END {
            return answer_tokens(request, &tokens, FinishReason::EndToken);
        }
        mask.advance(token).unwrap();
        tokens.push(token);
    }
}

/// The contents of the answers.
async fn answers(server: &TestServer, fields: Value) -> Vec<String> {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let reply = server.post(CHAT, &body).await.json();
    let choices = reply["choices"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
    choices.iter().map(text).collect()
}

#[tokio::test]
async fn an_answer_is_one_of_the_choices() {
    let server = TestServer::scripted(obedient);
    let choices = ["red", "green", "gréen \"1\"\n", "re"];
    let mut seen = Vec::new();
    for seed in 0..12 {
        for name in ["guided_choice", "structured_outputs"] {
            let value =
                if name == "guided_choice" { json!(choices) } else { json!({"choice": choices}) };
            let got = answers(&server, json!({name: value, "seed": seed, "n": 2})).await;
            assert!(got.iter().all(|text| choices.contains(&text.as_str())), "{got:?}");
            seen.extend(got);
        }
    }
    assert!(choices.iter().all(|choice| seen.iter().any(|text| text == choice)), "{seen:?}");
}

#[tokio::test]
async fn json_and_patterns_are_kept_to() {
    let server = TestServer::scripted(obedient);
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"], "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": true}});
    for seed in 0..5 {
        for fields in [
            json!({"response_format": format}),
            json!({"guided_json": schema}),
            json!({"structured_outputs": {"json": schema.to_string()}}),
        ] {
            let mut fields = fields;
            fields["seed"] = json!(seed);
            let got = answers(&server, fields).await.remove(0);
            let person: Value = serde_json::from_str(&got).unwrap_or_else(|e| panic!("{e}: {got}"));
            assert!(person["name"].is_string() && person["age"].as_u64().unwrap() < 100, "{got}");
        }
        let regex = json!({"structured_outputs": {"regex": "[0-9]{3}-(a|b)+x"}, "seed": seed});
        let got = answers(&server, regex).await.remove(0);
        let (digits, rest) = got.split_once('-').unwrap();
        assert!(digits.len() == 3 && rest.ends_with('x'), "{got}");
        let lark = "start: \"<\" INNER \">\"\nINNER: /[xyz]{1,3}/\n";
        let got = answers(&server, json!({"guided_grammar": lark, "seed": seed})).await.remove(0);
        assert!(got.starts_with('<') && got.ends_with('>') && got.len() < 6, "{got}");
    }
    let got = answers(&server, json!({"response_format": {"type": "json_object"}})).await;
    assert!(serde_json::from_str::<Value>(&got[0]).unwrap().is_object(), "{got:?}");
    let compact = json!({"json": schema, "disable_any_whitespace": true});
    let got = answers(&server, json!({"structured_outputs": compact})).await.remove(0);
    assert!(
        !got.contains("\", ") && !got.contains('\n') && got.starts_with("{\"name\":\""),
        "{got}"
    );
}

#[tokio::test]
async fn grammars_are_limited() {
    let mut config = config();
    config.limits.max_grammar_bytes = 40;
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    let body = json!({"prompt": "a", "structured_outputs": {"regex": "a".repeat(41)}});
    let reply = server.post("/v1/completions", &body).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["param"]),
        (400, &json!("structured_outputs"))
    );
    assert!(reply.body.contains("--max-grammar-bytes"), "{}", reply.body);
    let two =
        json!({"prompt": "a", "guided_regex": "a", "response_format": {"type": "json_object"}});
    let reply = server.post("/v1/completions", &two).await;
    assert!(reply.status.as_u16() == 400 && reply.body.contains("only one of"), "{}", reply.body);
}

const SCHEMA: &str = r#"{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false}"#;

const TAG: &str = r#"{"format": {"type": "tag", "begin": "<", "content": {"type": "regex", "pattern": "a+"}, "end": ">"}}"#;

/// Whether an answer is as asked.
type Check = fn(&str) -> bool;

/// JSON of the schema.
fn is_of_schema(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|answer| answer["a"].is_boolean())
}

#[tokio::test]
async fn grpc_takes_every_kind() {
    let server = TestServer::scripted(obedient);
    let mut client = InferenceClient::new(grpc::router(Arc::clone(&server.state)));
    let request = |asked| v1::GenerateRequest {
        prompt: Some(v1::generate_request::Prompt::Text("x".into())),
        sampling_params: Some(v1::SamplingParams {
            seed: Some(5),
            structured_output: Some(asked),
            ..v1::SamplingParams::default()
        }),
        ..v1::GenerateRequest::default()
    };
    let choices = v1::Choices { choices: vec!["yes".into(), "no".into()] };
    let cases: [(StructuredOutput, Check); 6] = [
        (StructuredOutput::StructuralTag(TAG.into()), |text| {
            text.starts_with("<a") && text.ends_with("a>")
        }),
        (StructuredOutput::JsonSchema(SCHEMA.into()), is_of_schema),
        (StructuredOutput::JsonObject(true), |text| text.starts_with('{') && text.ends_with('}')),
        (StructuredOutput::Regex("a{3}b".into()), |text| text == "aaab"),
        (StructuredOutput::Choice(choices), |text| text == "yes" || text == "no"),
        (StructuredOutput::Grammar("root ::= \"<\" [0-9]{2} \">\"".into()), |text| {
            text.len() == 4 && text[1..3].parse::<u8>().is_ok()
        }),
    ];
    for (asked, is_right) in cases {
        let what = format!("{asked:?}");
        let answer = client.generate(request(asked)).await.unwrap().into_inner();
        assert!(is_right(&answer.answers[0].text), "{what}: {answer:?}");
    }
    for (asked, field) in [
        (StructuredOutput::JsonSchema("{".into()), "json_schema"),
        (StructuredOutput::Regex("(".into()), "regex"),
        (StructuredOutput::Choice(v1::Choices::default()), "choice"),
        (StructuredOutput::Grammar("root ::= a".into()), "grammar"),
        (StructuredOutput::StructuralTag("{}".into()), "structural_tag"),
    ] {
        let status = client.generate(request(asked)).await.unwrap_err();
        let details = status.get_details_bad_request().unwrap();
        assert_eq!(
            (status.code(), details.field_violations[0].field.as_str()),
            (Code::InvalidArgument, field)
        );
    }
}

#[tokio::test]
async fn routers_made_for_vllm_may_ask_for_every_kind() {
    let server = TestServer::scripted(obedient);
    let mut client = VllmClient::new(grpc::router(Arc::clone(&server.state)));
    let request = |asked| vllm_proto::GenerateRequest {
        prompt: Some(vllm_proto::generate_request::Prompt::Text("x".into())),
        stopping: Some(vllm_proto::StoppingCriteria {
            max_new_tokens: 100,
            ..vllm_proto::StoppingCriteria::default()
        }),
        decoding: Some(vllm_proto::DecodingParameters {
            structured_output: Some(asked),
            ..vllm_proto::DecodingParameters::default()
        }),
        ..vllm_proto::GenerateRequest::default()
    };
    let choices = vllm_proto::decoding_parameters::StringChoices { choices: vec!["yes".into()] };
    let cases: [(VllmOutput, Check); 5] = [
        (VllmOutput::StructuralTag(TAG.into()), |text| {
            text.starts_with("<a") && text.ends_with("a>")
        }),
        (VllmOutput::Json(SCHEMA.into()), is_of_schema),
        (VllmOutput::Regex("a{3}b".into()), |text| text == "aaab"),
        (VllmOutput::Choice(choices), |text| text == "yes"),
        (VllmOutput::Grammar("start: \"lark\"".into()), |text| text == "lark"),
    ];
    for (asked, is_right) in cases {
        let what = format!("{asked:?}");
        let answer = client.generate(request(asked)).await.unwrap().into_inner();
        assert!(is_right(&answer.outputs.unwrap().text), "{what}");
    }
    for (asked, field) in [
        (VllmOutput::Json("[".into()), "decoding.structured_output"),
        (VllmOutput::StructuralTag("{}".into()), "decoding.structured_output"),
    ] {
        let status = client.generate(request(asked)).await.unwrap_err();
        let details = status.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, field);
    }
}
