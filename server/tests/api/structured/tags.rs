//! Structural tags: an engine that writes what it is told, as far as the constraint allows it.

use quire_engine::request::{FinishReason, StreamEvent};
use serde_json::{Value, json};

use crate::support::{END, TestServer, answer_tokens};

/// Repeats the prompt but for its first token. Where the constraint forbids that, or the end behind it, there is a `#`.
fn repeating(request: &quire_engine::Request) -> Vec<StreamEvent> {
    let mut mask = request.params.constraint.as_ref().expect("constrained").begin();
    let mut tokens = Vec::new();
    for &token in request.prompt[1..].iter().chain([&END]) {
        let mut bits = [0_u32; 10];
        mask.fill(&mut bits).unwrap();
        if bits[token as usize / 32] >> (token % 32) & 1 == 0 {
            tokens.push(u32::from(b'#'));
            break;
        }
        if token != END {
            mask.advance(token).unwrap();
            tokens.push(token);
        }
    }
    answer_tokens(request, &tokens, FinishReason::EndToken)
}

async fn reply(server: &TestServer, fields: Value, text: &str) -> Value {
    let mut body = json!({"prompt": format!("\u{1}{text}"), "max_tokens": 90});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.post("/v1/completions", &body).await.json()
}

/// Each text, and whether it may be an answer.
async fn check(server: &TestServer, format: &Value, cases: &[(&str, bool)]) {
    for (text, is_right) in cases {
        let fields = json!({"response_format": {"type": "structural_tag", "format": format}});
        let answer = reply(server, fields, text).await;
        let got = answer["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(got == *text, *is_right, "{format}: {text:?} gave {got:?}");
    }
}

fn number_tag(name: &str, end: &str) -> Value {
    let schema = json!({"type": "integer", "minimum": 0, "maximum": 99});
    let content = json!({"type": "json_schema", "json_schema": schema});
    json!({"type": "tag", "begin": format!("<{name}>"), "content": content, "end": end})
}

#[tokio::test]
async fn text_is_free_until_a_trigger_and_again_behind_its_tag() {
    let server = TestServer::scripted(repeating);
    let cases = [
        ("", true),
        ("No call, 1 < 2.", true),
        ("Hm. <f=a>{\"x\": true}</f> And <f=b>{\"y\":false}</f>", true),
        ("<f=a>{\"x\":false}</f>\nürgend<", true),
        ("<f=a>{\"x\": 1}</f>", false),
        ("<f=b>{\"x\": true}</f>", false),
        ("<f=c>{\"x\": true}</f>", false),
        ("so <f=a>{\"x\": true}", false),
        ("so <f=", false),
    ];
    let schema = |name: &str| json!({"type": "object", "properties": {name: {"type": "boolean"}}, "required": [name], "additionalProperties": false});
    let old = json!({"type": "structural_tag", "triggers": ["<f="], "structures": [
        {"begin": "<f=a>", "schema": schema("x"), "end": "</f>"},
        {"begin": "<f=b>", "schema": schema("y"), "end": "</f>"},
    ]});
    for (text, is_right) in cases {
        for fields in [
            json!({"response_format": old}),
            json!({"structured_outputs": {"structural_tag": old.to_string()}}),
        ] {
            let answer = reply(&server, fields, text).await;
            let got = answer["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
            assert_eq!(got == text, is_right, "{text:?} gave {got:?}");
        }
    }
}

#[tokio::test]
async fn triggered_tags_may_be_demanded_or_the_only_ones() {
    let server = TestServer::scripted(repeating);
    let with = |more: Value| {
        let mut format = json!({"type": "triggered_tags", "triggers": ["<n>", "<m>"], "tags": [number_tag("n", "."), number_tag("m", ";")]});
        format.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format
    };
    let once = [("a<n>7.", true), ("a<n>7.b", false), ("a", true), ("a<m>70;", true)];
    check(&server, &with(json!({"stop_after_first": true})), &once).await;
    let some = [("<m>7;b<n>8.", true), ("a<n>7.", false), ("", false), ("<n>7;", false)];
    check(&server, &with(json!({"at_least_one": true})), &some).await;
    let both = [("<m>7;", true), ("<m>7;b", false)];
    check(&server, &with(json!({"at_least_one": true, "stop_after_first": true})), &both).await;
    let excludes = [("a<n>7.", true), ("bad <n>7.", false), ("<n>7. bad", false), ("ba", true)];
    check(&server, &with(json!({"excludes": ["bad"]})), &excludes).await;
    // The end of a tag around them ends them.
    let around =
        json!({"type": "tag", "begin": "[", "content": with(json!({})), "end": ["]", "}}"]});
    let inside = [
        ("[x <n>7. y]", true),
        ("[x}}", true),
        ("[]", true),
        ("[<m>7;<n>1.}}", true),
        ("[x", false),
        ("[<n>7]", false),
        ("[x]y", false),
    ];
    check(&server, &around, &inside).await;
}

#[tokio::test]
async fn formats_are_parts_of_formats() {
    let server = TestServer::scripted(repeating);
    let constant = |value: &str| json!({"type": "const_string", "value": value});
    let thought = json!({"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"});
    let answer = json!({"type": "or", "elements": [constant("yes"), {"type": "regex", "pattern": "n[o/]{1,3}"}]});
    let whole =
        json!({"type": "sequence", "elements": [{"type": "optional", "content": thought}, answer]});
    let cases = [
        ("<think>1 < 2, </thin</think>yes", true),
        ("no/", true),
        ("<think></think>nooo", true),
        ("<think>yes", false),
        ("maybe", false),
        ("<think></think>", false),
    ];
    check(&server, &whole, &cases).await;
    let list =
        json!({"type": "tags_with_separator", "tags": [number_tag("n", "")], "separator": ", "});
    check(&server, &list, &[("", true), ("<n>1, <n>22", true), ("<n>1 <n>2", false)]).await;
    let repeated = json!({"type": "repeat", "min": 2, "max": 3, "content": constant("ab")});
    check(
        &server,
        &repeated,
        &[("ab", false), ("abab", true), ("ababab", true), ("abababab", false)],
    )
    .await;
    let plus = json!({"type": "plus", "content": constant("x")});
    check(&server, &plus, &[("", false), ("xxx", true)]).await;
    let star = json!({"type": "tag", "begin": "(", "content": {"type": "star", "content": constant("x")}, "end": ")"});
    check(&server, &star, &[("()", true), ("(xx)", true), ("(y)", false)]).await;
    // What ends a regular expression in Lark does not end one here.
    let slashes = json!({"type": "regex", "pattern": "a/\nr9: \"x\""});
    check(&server, &slashes, &[("a/\nr9: \"x\"", true), ("a", false)]).await;
    let free = json!({"type": "any_text", "excludes": ["no", "never"]});
    check(&server, &free, &[("", true), ("yes\n", true), ("a no", false), ("n", true)]).await;
}

#[tokio::test]
async fn what_is_not_supported_is_named() {
    let server = TestServer::scripted(repeating);
    let any = json!({"type": "any_text"});
    let tag = |begin: &str, end: Value| json!({"type": "tag", "begin": begin, "content": any, "end": end});
    let triggered = |triggers: Value, begin: &str| json!({"type": "triggered_tags", "triggers": triggers, "tags": [tag(begin, json!("]"))]});
    let mut deep = any.clone();
    for _ in 0..60 {
        deep = json!({"type": "optional", "content": deep});
    }
    let cases = [
        (json!({"type": "token", "token": 5}), "token"),
        (json!({"type": "dispatch"}), "dispatch"),
        (json!({"type": "any_text", "max_tokens": 5}), "max_tokens"),
        (json!({"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}), "style"),
        (json!({"type": "json_schema", "json_schema": 5}), "json_schema"),
        (json!({"type": "sequence", "elements": [any, any]}), "without limit"),
        (json!({"type": "sequence", "elements": []}), "elements"),
        (json!({"type": "regex", "pattern": "("}), "response_format"),
        (tag("<", json!(5)), "end"),
        (tag("<", json!(["", "a"])), "empty end"),
        (triggered(json!(["<"]), "[a"), "no trigger begins"),
        (triggered(json!(["[", "[a"]), "[a"), "within another"),
        (triggered(json!([""]), "[a"), "empty"),
        (triggered(json!([]), "[a"), "trigger"),
        (triggered(json!(["[", "<"]), "[a"), "begins no tag"),
        (deep, "inside each other"),
        (json!(["any_text"]), "no object"),
        (json!({"type": "repeat", "min": 3, "max": 2, "content": any}), "range"),
    ];
    for (format, expected) in cases {
        let fields = json!({"response_format": {"type": "structural_tag", "format": format}});
        let answer = reply(&server, fields, "x").await;
        let error = &answer["error"];
        assert_eq!(error["param"], "response_format", "{format}: {answer}");
        let message = error["message"].as_str().unwrap();
        assert!(error["code"] == 400 && message.contains(expected), "{format}: {message}");
    }
    for tag in [json!({}), json!({"triggers": ["a"]}), json!({"structures": [], "triggers": []})] {
        let fields = json!({"structured_outputs": {"structural_tag": tag}});
        let answer = reply(&server, fields, "x").await;
        assert_eq!(answer["error"]["param"], "structured_outputs", "{tag}: {answer}");
    }
}
