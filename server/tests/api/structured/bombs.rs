//! Schemas, patterns and grammars made to break a server. After each it is healthy, and a canary sings the same song.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quire_proto::v1::sampling_params::StructuredOutput;
use quire_proto::v1::{self, inference_client::InferenceClient};
use quire_server::grpc;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::{TestServer, serve_tiny};

/// Longer than any of them may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

fn nested(depth: usize, around: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(json!({"type": "integer"}), |inner, _| around(inner))
}

fn schemas() -> Vec<(&'static str, Value)> {
    let doubling = |combine: &str| {
        let mut defs = json!({"d0": {"type": "string"}});
        for level in 1..40 {
            let below = json!({"$ref": format!("#/$defs/d{}", level - 1)});
            defs[format!("d{level}")] = json!({combine: [below, below]});
        }
        json!({"$ref": "#/$defs/d39", "$defs": defs})
    };
    let product: Vec<Value> = (0..24)
        .map(|i| json!({"anyOf": [{"properties": {format!("a{i}"): {"type": "string"}}}, {"properties": {format!("b{i}"): {"type": "null"}}}]}))
        .collect();
    let chain: Value = (0..3000)
        .map(|i| (format!("c{i}"), json!({"$ref": format!("#/$defs/c{}", (i + 1) % 3000)})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    vec![
        ("nested arrays", nested(50, |inner| json!({"type": "array", "items": inner}))),
        (
            "nested objects",
            nested(50, |inner| json!({"type": "object", "properties": {"a": inner}})),
        ),
        (
            "nested alternatives",
            nested(
                30,
                |inner| json!({"anyOf": [inner.clone(), {"type": "array", "items": {"type": "null"}}]}),
            ),
        ),
        (
            "many texts",
            json!({"enum": (0..12_000).map(|i| format!("text {i}")).collect::<Vec<_>>()}),
        ),
        (
            "many properties",
            json!({"type": "object", "properties": (0..5000).map(|i| (format!("p{i}"), json!({"type": "integer"}))).collect::<serde_json::Map<_, _>>()}),
        ),
        ("itself", json!({"$ref": "#"})),
        ("itself and more", json!({"allOf": [{"$ref": "#"}, {"type": "object"}]})),
        ("a circle", json!({"$ref": "#/$defs/c0", "$defs": chain})),
        ("doubled alternatives", doubling("anyOf")),
        ("doubled intersections", doubling("allOf")),
        ("a product", json!({"allOf": product})),
        (
            "many items",
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000}),
        ),
        ("a long text", json!({"type": "string", "minLength": 1_000_000_000})),
        (
            "a text of any length",
            json!({"type": "string", "minLength": 3, "maxLength": 2_000_000_000}),
        ),
        ("a fine number", json!({"type": "number", "multipleOf": 1e-30, "minimum": 1e300})),
        ("a pattern", json!({"type": "string", "pattern": "^((a+)+)+b(.{1000}){1000}$"})),
        (
            "patterns of names",
            json!({"type": "object", "patternProperties": {"^(a|aa)+$": {"type": "string"}, "(.*x){20}": {"type": "null"}}}),
        ),
        ("nothing", json!({"type": "integer", "minimum": 5, "maximum": 4})),
        ("somewhere else", json!({"$ref": "http://127.0.0.1:1/schema.json"})),
        ("a file", json!({"$ref": "file:///etc/passwd"})),
        (
            "our own options",
            json!({"type": "object", "x-guidance": {"whitespace_pattern": "(", "lenient": true}}),
        ),
    ]
}

fn others() -> Vec<(&'static str, Value)> {
    let rules: Vec<String> = (0..40).map(|i| format!("a{i}: a{} a{}", i + 1, i + 1)).collect();
    let doubling = rules.join("\n");
    let regexes = [
        "(a{1000}){1000}",
        "((a+)+)+b",
        "(a|aa|aaa)*b{5000}",
        "(.{1,500}){1,500}",
        "(?:a?){5000}a{5000}",
        "(.*a.{20})|(.*b.{20})",
        "[^a]{0,65535}",
        "(?=a)b",
        r"(a)\1",
        r"\p{Greek}{1000}\w{1000}",
    ];
    let gbnf = "root ::= root root | \"a\" | ";
    let many: Vec<String> = (0..12_000).map(|i| format!("choice {i}")).collect();
    let mut bombs: Vec<(&str, Value)> =
        regexes.iter().map(|regex| (*regex, json!({"regex": regex}))).collect();
    bombs.extend([
        (
            "nested brackets",
            json!({"regex": format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000))}),
        ),
        (
            "nested lists",
            json!({"grammar": format!("start: {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000))}),
        ),
        ("brackets in texts", json!({"grammar": format!("start: {}", "\"(\" ".repeat(3000))})),
        ("doubled rules", json!({"grammar": format!("start: a0\n{doubling}\na40: \"x\"\n")})),
        ("ambiguous", json!({"grammar": "start: start start | \"a\" | \"\"\n"})),
        ("ambiguous GBNF", json!({"grammar": gbnf})),
        (
            "long ambiguous words",
            json!({"grammar": "start: (A | B)*\nA: /(.*a){12}/\nB: /(.|\\n)*b.{30}/\n"}),
        ),
        ("counted rules", json!({"grammar": "start: a{1000000}\na: b{1000000}\nb: \"x\"\n"})),
        ("a rule of itself", json!({"grammar": "start: a\na: b\nb: a\n"})),
        ("a terminal of itself", json!({"grammar": "start: A\nA: B A\nB: A \"x\"\n"})),
        ("a schema inside", json!({"grammar": "start: @a | %json {\"$ref\": \"#\"}\n"})),
        ("special tokens", json!({"grammar": "start: <|im_start|> <[0-511]> <[99999999]>\n"})),
        (
            "an import",
            json!({"grammar": "%import common.WORD\n%import /etc/passwd\nstart: WORD\n"}),
        ),
        ("nested tags", nested_tags()),
        ("many triggers", many_triggers()),
        ("many choices", json!({"choice": many})),
        ("NUL and more", json!({"choice": ["\u{0}\u{7f}\u{1f}\u{fffd}", "\u{10ffff}"]})),
    ]);
    bombs
}

fn nested_tags() -> Value {
    let around = |content| json!({"type": "tag", "begin": "(", "content": content, "end": ")"});
    json!({"structural_tag": {"format": nested(50, around)}})
}

fn many_triggers() -> Value {
    let triggers: Vec<String> = (0..500).map(|i| format!("<{i:03}")).collect();
    let tag = |begin: &String| json!({"begin": begin, "schema": {"type": "object"}, "end": ">"});
    let structures: Vec<Value> = triggers.iter().map(tag).collect();
    json!({"structural_tag": {"triggers": triggers, "structures": structures}})
}

async fn post(server: &TestServer, fields: Value) -> (u16, String) {
    let mut body = json!({"prompt": "x", "max_tokens": 24, "seed": 3});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let reply = server.post("/v1/completions", &body).await;
    let text = match reply.status.as_u16() {
        200 => reply.json()["choices"].to_string(),
        _ => reply.body,
    };
    (reply.status.as_u16(), text)
}

async fn post_to_grpc(server: &TestServer, bomb: &Value) -> Code {
    let (kind, value) = bomb.as_object().unwrap().iter().next().unwrap();
    let text = || value.as_str().unwrap_or_default().to_owned();
    let asked = match kind.as_str() {
        "json" => StructuredOutput::JsonSchema(value.to_string()),
        "regex" => StructuredOutput::Regex(text()),
        "grammar" => StructuredOutput::Grammar(text()),
        "structural_tag" => StructuredOutput::StructuralTag(value.to_string()),
        _ => {
            let choices = serde_json::from_value(value.clone()).unwrap();
            StructuredOutput::Choice(v1::Choices { choices })
        }
    };
    let params = v1::SamplingParams {
        max_tokens: Some(24),
        seed: Some(3),
        structured_output: Some(asked),
        ..v1::SamplingParams::default()
    };
    let request = v1::GenerateRequest {
        prompt: Some(v1::generate_request::Prompt::Text("x".into())),
        sampling_params: Some(params),
        ..v1::GenerateRequest::default()
    };
    let mut client = InferenceClient::new(grpc::router(Arc::clone(&server.state)));
    client.generate(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// What a plain and a constrained request get.
async fn canary(server: &TestServer) -> [(u16, String); 2] {
    let constrained =
        json!({"structured_outputs": {"regex": "[a-z ]+"}, "logprobs": 2, "max_tokens": 12});
    [post(server, json!({"logprobs": 2})).await, post(server, constrained).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bomb_harms_the_server() {
    let server = serve_tiny(|_| ());
    let song = canary(&server).await;
    assert!(song.iter().all(|(status, _)| *status == 200), "{song:?}");
    let schemas = schemas().into_iter().map(|(name, schema)| (name, json!({"json": schema})));
    for (name, bomb) in schemas.chain(others()) {
        let start = Instant::now();
        let (status, text) = post(&server, json!({"structured_outputs": bomb.clone()})).await;
        assert!(status == 200 || status == 400, "{name}: {status} {text}");
        if status == 400 {
            assert!(text.contains("\"param\":\"structured_outputs\""), "{name}: {text}");
        }
        let status = post_to_grpc(&server, &bomb).await;
        assert!(matches!(status, Code::Ok | Code::InvalidArgument), "{name} over gRPC: {status}");
        let took = start.elapsed();
        assert!(took < PATIENCE, "{name}: {took:?}");
        if took > Duration::from_millis(500) || std::env::var_os("QUIRE_TEST_VERBOSE").is_some() {
            eprintln!("{name}: {status} in {took:?} {}", &text[..text.len().min(200)]);
        }
        assert_eq!(server.get("/health").await.status.as_u16(), 200, "{name}");
        assert_eq!(canary(&server).await, song, "{name}");
    }
}
