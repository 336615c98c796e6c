//! Tools and reasoning in `POST /v1/chat/completions`.

use axum::http::StatusCode;
use expect_test::expect;
use quire_engine::Request;
use quire_engine::request::{FinishReason, StreamEvent};
use serde_json::{Value, json};

use crate::support::{
    FIRST_CONTROL, Reply, TestServer, answer, answer_tokens, bytes_as_tokens, text_of,
};

const PATH: &str = "/v1/chat/completions";

/// Prints all that templates of models with tools print, and names the markers of their calls.
pub(crate) const TEMPLATE: &str = "{% if tools %}T{{ tools | tojson }};{% endif %}\
    {% for m in messages %}{{ m.role }}:{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}\
    {{ m.content }}{% for call in m.tool_calls %}<tool_call>{{ call.function.name }}{{ call.function.arguments | tojson }}\
    {{ call.id }}{% endfor %}{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %};{% endfor %}\
    {% if enable_thinking %}thinks {{ reasoning_effort }};{% endif %}assistant:";

const CALL: u32 = FIRST_CONTROL;
const END_CALL: u32 = FIRST_CONTROL + 1;
const OTHER: u32 = FIRST_CONTROL + 2;

pub(crate) fn server(script: fn(&Request) -> Vec<StreamEvent>) -> TestServer {
    TestServer::scripted_with(TEMPLATE, &["<tool_call>", "</tool_call>", "<|other|>"], script)
}

/// Thoughts, content, two calls whose markers are control tokens, and one that nobody should see.
pub(crate) fn two_calls(request: &Request) -> Vec<StreamEvent> {
    let text = bytes_as_tokens;
    let tokens = [
        text("<think>\nHm. STOP\n</think>\n\nI look"),
        vec![OTHER],
        text(" up.\n"),
        vec![CALL],
        text("\n{\"name\": \"weather\", \"arguments\": {\"city\": \"STOP é\"}}\n"),
        vec![END_CALL],
        text("\n"),
        vec![CALL],
        text("{\"name\": \"now\"}"),
        vec![END_CALL],
    ];
    answer_tokens(request, &tokens.concat(), FinishReason::EndToken)
}

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "description": "How it is outside",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

async fn chat(server: &TestServer, fields: Value) -> Reply {
    let mut body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tools": tools(), "seed": 1,
    });
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.post(PATH, &body).await
}

/// With fixed ids of calls.
fn stable(mut value: Value) -> Value {
    if let Some(calls) = value.get_mut("tool_calls").and_then(Value::as_array_mut) {
        for call in calls {
            if let Some(id) = call.get_mut("id") {
                let text = id.as_str().unwrap();
                assert!(text.starts_with("call_") && text.len() == 29, "{text}");
                *id = json!("ID");
            }
        }
    }
    value
}

#[tokio::test]
async fn a_whole_answer_with_calls() {
    let reply = chat(&server(two_calls), json!({})).await.json();
    let choice = &reply["choices"][0];
    expect![[r#"
        {
          "role": "assistant",
          "content": "I look up.",
          "refusal": null,
          "annotations": null,
          "audio": null,
          "function_call": null,
          "tool_calls": [
            {
              "id": "ID",
              "type": "function",
              "function": {
                "name": "weather",
                "arguments": "{\"city\": \"STOP é\"}"
              }
            },
            {
              "id": "ID",
              "type": "function",
              "function": {
                "name": "now",
                "arguments": "{}"
              }
            }
          ],
          "reasoning": "Hm. STOP",
          "reasoning_content": "Hm. STOP"
        }
    "#]]
    .assert_eq(&format!("{:#}\n", stable(choice["message"].clone())));
    assert_eq!(choice["finish_reason"], "tool_calls");
    // The tokens between the two markers, which are text here.
    let reasoning = &reply["usage"]["completion_tokens_details"]["reasoning_tokens"];
    assert_eq!(reasoning.as_u64(), Some("\nHm. STOP\n</think".len() as u64));
}

#[tokio::test]
async fn a_stream_with_calls() {
    let body = json!({"stream": true});
    let chunks = chat(&server(two_calls), body).await.chunks();
    let mut choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
    let deltas = choices.clone().map(|choice| stable(choice["delta"].clone()));
    let is_call = |delta: &Value| delta["tool_calls"].is_array() || delta == &json!({});
    let lines: Vec<String> = deltas.filter(is_call).map(|delta| delta.to_string()).collect();
    expect![[r#"
        {"tool_calls":[{"index":0,"id":"ID","type":"function","function":{"name":"weather","arguments":""}}]}
        {"tool_calls":[{"index":0,"function":{"arguments":"{\"city\": \"STOP é\"}"}}]}
        {"tool_calls":[{"index":1,"id":"ID","type":"function","function":{"name":"now","arguments":""}}]}
        {"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]}
        {}"#]]
    .assert_eq(&lines.join("\n"));
    let last = choices.next_back().unwrap();
    assert_eq!(last["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn the_stream_says_what_the_whole_answer_says() {
    let server = server(two_calls);
    let cases = [
        (json!({}), "tool_calls", 2),
        // Neither thoughts nor arguments are content, in which alone stop strings are looked for.
        (json!({"stop": "STOP"}), "tool_calls", 2),
        (json!({"stop": "ook"}), "stop", 0),
        (json!({"stop": "up.\nno"}), "tool_calls", 2),
        (json!({"include_reasoning": false}), "tool_calls", 2),
        (json!({"parallel_tool_calls": false}), "tool_calls", 1),
        (json!({"tool_choice": "none"}), "stop", 0),
        (json!({"max_tokens": 20}), "length", 0),
        (json!({"max_tokens": 70}), "length", 0),
        (json!({"max_tokens": 110}), "length", 1),
        (
            json!({"skip_special_tokens": false, "logprobs": true, "return_token_ids": true}),
            "tool_calls",
            2,
        ),
        (json!({"n": 2}), "tool_calls", 2),
        (json!({"tools": null}), "stop", 0),
    ];
    for (mut fields, finish, num_calls) in cases {
        let whole = chat(&server, fields.clone()).await.json();
        fields["stream"] = json!(true);
        let joined = join(&chat(&server, fields.clone()).await.chunks());
        let choices = whole["choices"].as_array().unwrap();
        assert_eq!(joined.len(), choices.len(), "{fields}");
        for (joined, choice) in joined.iter().zip(choices) {
            let message = stable(choice["message"].clone());
            let text = |name: &str| message[name].as_str().unwrap_or("").to_owned();
            let expected = json!({
                "content": text("content"), "reasoning": text("reasoning"), "reasoning_content": text("reasoning"),
                "calls": message["tool_calls"], "finish": choice["finish_reason"], "stop": choice["stop_reason"],
                "token_ids": choice["token_ids"].as_array().cloned().unwrap_or_default(),
                "logprobs": choice["logprobs"]["content"].as_array().cloned().unwrap_or_default(),
            });
            assert_eq!(joined, &expected, "{fields}");
            assert_eq!(choice["finish_reason"], finish, "{fields}");
            assert_eq!(message["tool_calls"].as_array().unwrap().len(), num_calls, "{fields}");
        }
    }
}

/// The choices that a stream's chunks come to.
fn join(chunks: &[Value]) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::new();
    for chunk in chunks {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        let empty = json!({
            "content": "", "reasoning": "", "reasoning_content": "", "calls": [], "finish": null, "stop": null,
            "token_ids": [], "logprobs": [],
        });
        joined.resize(joined.len().max(index + 1), empty);
        let answer = &mut joined[index];
        assert!(answer["finish"].is_null(), "chunk after the end: {chunk}");
        let delta = stable(choice["delta"].clone());
        for name in ["content", "reasoning", "reasoning_content"] {
            let text = delta[name].as_str().unwrap_or("");
            answer[name] = json!(answer[name].as_str().unwrap().to_owned() + text);
        }
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            let calls = answer["calls"].as_array_mut().unwrap();
            let index = piece["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                calls.push(json!({"id": piece["id"], "type": piece["type"], "function": piece["function"]}));
                continue;
            }
            let arguments = &mut calls[index]["function"]["arguments"];
            let more = piece["function"]["arguments"].as_str().unwrap();
            *arguments = json!(arguments.as_str().unwrap().to_owned() + more);
        }
        let lists =
            [("token_ids", &choice["token_ids"]), ("logprobs", &choice["logprobs"]["content"])];
        for (name, from) in lists {
            let entries = from.as_array().cloned().unwrap_or_default();
            answer[name].as_array_mut().unwrap().extend(entries);
        }
        if choice["finish_reason"].is_string() {
            answer["finish"] = choice["finish_reason"].clone();
            answer["stop"] = choice["stop_reason"].clone();
        }
    }
    joined
}

/// The prompt that `fields` come to.
async fn prompt(fields: Value) -> String {
    let server = server(|request| answer(request, &text_of(&request.prompt)));
    let mut fields = fields;
    fields["max_tokens"] = json!(null);
    fields["tool_choice"] = fields.get("tool_choice").cloned().unwrap_or(json!("auto"));
    fields["return_token_ids"] = json!(true);
    let reply = chat(&server, fields).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let ids = reply.json()["prompt_token_ids"].clone();
    let ids: Vec<u32> = serde_json::from_value(ids).unwrap();
    let texts = ids.iter().map(|&id| match id {
        CALL => "<tool_call>".to_owned(),
        id => text_of(&[id]),
    });
    texts.collect()
}

#[tokio::test]
async fn templates_are_given_tools_and_earlier_turns() {
    let function = json!({"name": "f", "arguments": "{\"a\": 1}"});
    let messages = json!([
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "reasoning": "r", "reasoning_content": "r",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]);
    let small = json!([{"type": "function", "function": {"name": "f"}}]);
    let with = |fields: Value| {
        let mut all = json!({"messages": messages, "tools": small});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        prompt(all)
    };
    let turns = "user:q;assistant:<think>r</think><tool_call>f{\"a\": 1}c1;tool:3(c1);";
    let list = "T[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}];";
    assert_eq!(with(json!({})).await, format!("{list}{turns}assistant:"));
    assert_eq!(with(json!({"tool_choice": "none"})).await, format!("{turns}assistant:"));
    for thinks in [
        json!({"reasoning_effort": "high"}),
        json!({"think": "high"}),
        json!({"think": true, "chat_template_kwargs": {"reasoning_effort": "high"}}),
        json!({"enable_thinking": true, "chat_template_kwargs": {"reasoning_effort": "high"}}),
        json!({"chat_template_kwargs": {"reasoning_effort": "high", "enable_thinking": true}}),
    ] {
        assert_eq!(with(thinks).await, format!("{list}{turns}thinks high;assistant:"));
    }
    for silent in [json!({"think": false}), json!({"reasoning_effort": "none"})] {
        assert_eq!(with(silent).await, format!("{list}{turns}assistant:"));
    }
}

#[tokio::test]
async fn what_is_wrong_with_tools_is_said() {
    let server = server(two_calls);
    let tool = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let call = |function: Value| {
        let calls = json!([{"id": "c", "type": "function", "function": function}]);
        json!({"messages": [{"role": "assistant", "content": null, "tool_calls": calls}]})
    };
    let demanded = |parameters: Value| {
        let function = json!({"name": "f", "parameters": parameters});
        json!({"tools": [{"type": "function", "function": function}], "tool_choice": "required"})
    };
    let many: Vec<Value> = (0..600).map(|_| tools()[1].clone()).collect();
    let cases = [
        (json!({"tools": []}), "tools"),
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [1]}), "tools"),
        (json!({"tools": [{"type": "web_search"}]}), "tools"),
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (tool(json!({"name": ""})), "tools"),
        (tool(json!({"name": "a b"})), "tools"),
        (tool(json!({"name": "a".repeat(200)})), "tools"),
        (tool(json!({"name": "f", "parameters": [1]})), "tools"),
        (json!({"tools": many}), "tools"),
        (json!({"tool_choice": "never"}), "tool_choice"),
        (json!({"tool_choice": 5}), "tool_choice"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}),
            "tool_choice",
        ),
        (json!({"tools": null, "tool_choice": "required"}), "tool_choice"),
        (json!({"parallel_tool_calls": "yes"}), "parallel_tool_calls"),
        (demanded(json!({"type": "nonsense"})), "tools"),
        (json!({"think": "a lot"}), "think"),
        (json!({"think": 5}), "think"),
        (json!({"enable_thinking": 1}), "enable_thinking"),
        (json!({"include_reasoning": 1}), "include_reasoning"),
        (call(json!({"arguments": "{}"})), "messages"),
        (call(json!({"name": "f", "arguments": "[]"})), "messages"),
        (call(json!({"name": "f", "arguments": "{"})), "messages"),
        (call(json!({"name": "f", "arguments": 7})), "messages"),
    ];
    for (fields, param) in cases {
        let reply = chat(&server, fields.clone()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{fields}: {}", reply.body);
        assert_eq!(reply.json()["error"]["param"], param, "{fields}: {}", reply.body);
    }
}

/// What a model writes that a grammar holds: the arguments of a named tool, or a list of calls.
fn held(request: &Request) -> Vec<StreamEvent> {
    assert!(request.params.constraint.is_some());
    let prompt = text_of(&request.prompt);
    let text = match prompt.ends_with("{\"name\": \"weather\", \"arguments\": ") {
        true => r#"{"city": "é"}"#,
        false => {
            r#"[{"name": "now", "arguments": {}}, {"name": "weather", "arguments": {"city": "x"}}]"#
        }
    };
    answer(request, text)
}

#[tokio::test]
async fn calls_can_be_demanded() {
    let server = server(held);
    let named = json!({"type": "function", "function": {"name": "weather"}});
    let weather = ("weather", r#"{"city": "é"}"#);
    let both = [("now", "{}"), ("weather", r#"{"city": "x"}"#)];
    let cases = [
        (json!({"tool_choice": named}), "stop", vec![weather]),
        (json!({"tool_choice": named, "reasoning_effort": "high"}), "stop", vec![weather]),
        (json!({"tool_choice": "required"}), "tool_calls", both.to_vec()),
        (
            json!({"tool_choice": "required", "parallel_tool_calls": false}),
            "tool_calls",
            both[..1].to_vec(),
        ),
        (json!({"tool_choice": named, "max_tokens": 9}), "length", vec![]),
    ];
    for (mut fields, finish, expected) in cases {
        let whole = chat(&server, fields.clone()).await;
        assert_eq!(whole.status, StatusCode::OK, "{}", whole.body);
        let choice = &whole.json()["choices"][0];
        assert_eq!(choice["finish_reason"], finish, "{fields}");
        fields["stream"] = json!(true);
        let joined = join(&chat(&server, fields.clone()).await.chunks());
        assert_eq!(joined[0]["finish"], finish, "{fields}");
        for calls in [&choice["message"]["tool_calls"], &joined[0]["calls"]] {
            let calls = calls.as_array().unwrap().iter().map(|call| {
                let function = &call["function"];
                (function["name"].as_str().unwrap(), function["arguments"].as_str().unwrap())
            });
            assert_eq!(calls.collect::<Vec<_>>(), expected, "{fields}");
        }
        // What was cut off is content.
        let content = choice["message"]["content"].as_str().unwrap_or("");
        assert_eq!(content.is_empty(), !expected.is_empty(), "{fields}: {content}");
    }
}

/// A grammar holds from the first token on, so the prompt ends the thoughts that the template begins.
#[tokio::test]
async fn held_answers_begin_without_thoughts() {
    const THINKS: &str = "{% for m in messages %}{{ m.content }}</think>{% endfor %}A:<think>";
    let script = |request: &Request| answer(request, "{\"a\": 1}");
    let server = TestServer::scripted_with(THINKS, &[], script);
    let fields = json!({
        "tools": null, "response_format": {"type": "json_object"}, "return_token_ids": true,
    });
    let reply = chat(&server, fields).await.json();
    let ids: Vec<u32> = serde_json::from_value(reply["prompt_token_ids"].clone()).unwrap();
    assert_eq!(text_of(&ids), "Hi</think>A:<think></think>\n\n");
    assert_eq!(reply["choices"][0]["message"]["content"], "{\"a\": 1}");
    let free = chat(&server, json!({"tools": null})).await.json();
    assert_eq!(free["choices"][0]["message"]["reasoning"], "{\"a\": 1}");
}

#[tokio::test]
async fn some_of_the_tools_may_be_allowed() {
    let allowed =
        json!({"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]});
    let choice = json!({"type": "allowed_tools", "allowed_tools": allowed});
    let shown = prompt(json!({"tool_choice": choice})).await;
    assert_eq!(
        shown,
        "T[{\"type\": \"function\", \"function\": {\"name\": \"now\"}}];user:Hi;assistant:"
    );
}
