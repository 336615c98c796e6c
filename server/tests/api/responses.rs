//! `/v1/responses`: what a request comes to, items and events of the answer, and responses that are kept.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use quire_engine::request::{FinishReason, Finished, StreamEvent};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, answer, config, json_request, started, text_of};
use crate::tools::{server, two_calls};

const PATH: &str = "/v1/responses";

/// Says the prompt again, without what would be read as thoughts.
fn echo(request: &quire_engine::Request) -> Vec<StreamEvent> {
    answer(request, &text_of(&request.prompt).replace("<think>", "(").replace("</think>", ")"))
}

fn tools() -> Value {
    json!([
        {"type": "function", "name": "weather", "description": "How it is outside", "strict": true,
         "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
        {"type": "function", "name": "now"},
    ])
}

fn body(more: Value) -> Value {
    let mut body = json!({"model": "tiny", "input": "Hi", "seed": 1});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn ask(server: &TestServer, more: Value) -> Value {
    let reply = server.post(PATH, &body(more)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    reply.json()
}

/// What the server made of the input: the text of the prompt.
async fn prompt_of(more: Value) -> String {
    let response = ask(&server(echo), more).await;
    response["output"][0]["content"][0]["text"].as_str().unwrap().to_owned()
}

/// The events of a stream, whose names are their types and whose numbers follow each other.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let event = |(number, block): (usize, &str)| {
        let (name, data) = block.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        assert_eq!(data["sequence_number"], number);
        data
    };
    reply.body.split_terminator("\n\n").enumerate().map(event).collect()
}

/// With fixed ids and times.
fn stable(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.rsplit_once('_') {
            Some((kind, id)) if id.len() == 32 => format!("{kind}_ID").into(),
            // Ids of calls have a form of their own.
            _ if text.starts_with("call_") => "call_ID".into(),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(stable).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match name.as_str() {
                "created_at" => (name.clone(), json!(0)),
                _ => (name.clone(), stable(value)),
            };
            Value::Object(fields.iter().map(field).collect())
        }
        _ => value.clone(),
    }
}

#[tokio::test]
async fn a_whole_response() {
    let server = TestServer::scripted(|request| answer(request, "Hello."));
    let more = json!({
        "instructions": "Be brief.", "max_output_tokens": 20, "metadata": {"a": "b"}, "temperature": 0.5, "user": "me",
    });
    let part = json!({"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []});
    let expected = json!({
        "id": "resp_ID", "object": "response", "created_at": 0, "status": "completed", "background": false,
        "error": null, "incomplete_details": null, "model": "tiny", "service_tier": "default", "store": false,
        "output": [{"id": "msg_ID", "type": "message", "role": "assistant", "content": [part], "status": "completed"}],
        "temperature": 0.5, "top_p": 1.0, "top_logprobs": 0, "max_output_tokens": 20, "max_tool_calls": null,
        "parallel_tool_calls": true, "tools": [], "tool_choice": "auto", "instructions": "Be brief.",
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": {"effort": null, "summary": null},
        "previous_response_id": null, "safety_identifier": null, "prompt_cache_key": null, "user": "me",
        "metadata": {"a": "b"}, "truncation": "disabled",
        "usage": {"input_tokens": 40, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 47},
    });
    assert_eq!(stable(&ask(&server, more).await), expected);
}

#[tokio::test]
async fn thoughts_content_and_calls_are_items() {
    let response = ask(&server(two_calls), json!({"tools": tools()})).await;
    let call = |name: &str, arguments: &str| {
        json!({"id": "fc_ID", "type": "function_call", "call_id": "call_ID", "name": name,
            "arguments": arguments, "status": "completed"})
    };
    let thoughts = json!({"type": "reasoning_text", "text": "Hm. STOP"});
    let text =
        json!({"type": "output_text", "text": "I look up.", "annotations": [], "logprobs": []});
    let expected = json!([
        {"id": "rs_ID", "type": "reasoning", "summary": [], "content": [thoughts],
            "encrypted_content": null, "status": "completed"},
        {"id": "msg_ID", "type": "message", "role": "assistant", "content": [text], "status": "completed"},
        call("weather", "{\"city\": \"STOP é\"}"),
        call("now", "{}"),
    ]);
    assert_eq!(stable(&response["output"]), expected);
    assert_eq!(response["tools"], tools());
    assert!(response["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 5);
}

#[tokio::test]
async fn a_stream_tells_of_each_item() {
    let reply =
        server(two_calls).post(PATH, &body(json!({"tools": tools(), "stream": true}))).await;
    assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
    // The event, the item's place, and what kind it is or what is in it.
    let line = |event: &Value| {
        let kind = ["item", "part"].iter().find_map(|name| event[*name]["type"].as_str());
        let what = kind.or(event["text"].as_str()).or(event["arguments"].as_str()).unwrap_or("");
        let name = event["type"].as_str().unwrap().trim_start_matches("response.");
        format!("{name} {} {what}", event["output_index"])
    };
    let mut lines: Vec<String> = events(&reply).iter().map(line).collect();
    // Of many pieces one is as another.
    lines.dedup();
    let expected = [
        "created null ",
        "in_progress null ",
        "output_item.added 0 reasoning",
        "content_part.added 0 reasoning_text",
        "reasoning_text.delta 0 ",
        "reasoning_text.done 0 Hm. STOP",
        "content_part.done 0 reasoning_text",
        "output_item.done 0 reasoning",
        "output_item.added 1 message",
        "content_part.added 1 output_text",
        "output_text.delta 1 ",
        "output_text.done 1 I look up.",
        "content_part.done 1 output_text",
        "output_item.done 1 message",
        "output_item.added 2 function_call",
        "function_call_arguments.delta 2 ",
        "function_call_arguments.done 2 {\"city\": \"STOP é\"}",
        "output_item.done 2 function_call",
        "output_item.added 3 function_call",
        "function_call_arguments.delta 3 ",
        "function_call_arguments.done 3 {}",
        "output_item.done 3 function_call",
        "completed null ",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn the_stream_says_what_the_whole_answer_says() {
    let server = server(two_calls);
    for (more, status) in [
        (json!({}), "completed"),
        (json!({"tools": tools()}), "completed"),
        (json!({"tools": tools(), "max_output_tokens": 20}), "incomplete"),
        (json!({"tools": tools(), "max_output_tokens": 1}), "incomplete"),
        (json!({"tools": tools(), "max_output_tokens": 110}), "incomplete"),
        (json!({"tools": tools(), "parallel_tool_calls": false}), "completed"),
        (json!({"stop": "ook"}), "completed"),
    ] {
        let whole = stable(&ask(&server, more.clone()).await);
        assert_eq!(whole["status"], status, "{more}");
        let is_cut = status == "incomplete";
        let details = if is_cut { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        assert_eq!(whole["incomplete_details"], details);
        let mut streamed = more.clone();
        streamed["stream"] = true.into();
        let all = events(&server.post(PATH, &body(streamed)).await);
        let last = stable(all.last().unwrap());
        assert_eq!(last["type"], format!("response.{status}"));
        assert_eq!(last["response"], whole, "{more}");
        // What was told piece by piece is what is there in the end.
        for (index, item) in whole["output"].as_array().unwrap().iter().enumerate() {
            let of_item = |event: &&Value| event["output_index"] == index;
            let deltas = all.iter().filter(of_item).filter_map(|event| event["delta"].as_str());
            let text = item["content"][0]["text"].as_str().or(item["arguments"].as_str());
            assert_eq!(Some(deltas.collect::<String>().as_str()), text, "{item}");
            let done =
                all.iter().filter(of_item).find(|e| e["type"] == "response.output_item.done");
            assert_eq!(stable(&done.unwrap()["item"]), *item);
        }
    }
}

#[tokio::test]
async fn items_become_the_chat_that_they_tell() {
    let input = json!([
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "How is it?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "noon"},
    ]);
    let prompt = prompt_of(
        json!({"input": input, "instructions": "Be brief.", "reasoning": {"effort": "low"}}),
    )
    .await;
    let expected = "system:Be brief.\n\nBe kind.;user:How is it?;assistant:(hm)now{}c1;tool:noon(c1);thinks low;assistant:";
    assert_eq!(prompt, expected);
    let with_tools = prompt_of(json!({"tools": tools(), "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}})).await;
    assert!(with_tools.contains("\"now\"") && !with_tools.contains("\"weather\""), "{with_tools}");
    let silent = prompt_of(json!({"tools": tools(), "tool_choice": "none"})).await;
    assert_eq!(silent, "user:Hi;assistant:");
}

#[tokio::test]
async fn a_response_follows_one_that_is_stored() {
    let server = server(echo);
    let first =
        ask(&server, json!({"store": true, "instructions": "Be brief.", "metadata": {"k": "v"}}))
            .await;
    assert_eq!((&first["store"], &first["metadata"]), (&json!(true), &json!({"k": "v"})));
    let id = first["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{PATH}/{id}")).await.json(), first);

    let second =
        ask(&server, json!({"input": "And?", "previous_response_id": id, "store": true})).await;
    assert_eq!(second["previous_response_id"], id);
    let text = second["output"][0]["content"][0]["text"].as_str().unwrap();
    // Instructions are of one response alone.
    assert_eq!(text, "user:Hi;assistant:system:Be brief.;user:Hi;assistant:;user:And?;assistant:");

    let items =
        server.get(&format!("{PATH}/{}/input_items", second["id"].as_str().unwrap())).await.json();
    assert_eq!(items["data"].as_array().unwrap().len(), 1);
    assert_eq!(items["data"][0]["content"][0]["text"], "And?");
    assert_eq!(items["first_id"], items["data"][0]["id"]);

    let third = ask(&server, json!({"input": "So?", "previous_response_id": second["id"]})).await;
    assert_eq!(third["store"], false);
    assert_eq!(
        server.get(&format!("{PATH}/{}", third["id"].as_str().unwrap())).await.status,
        StatusCode::NOT_FOUND
    );

    let request = || Request::delete(format!("{PATH}/{id}")).body(Body::empty()).unwrap();
    assert_eq!(server.send(request()).await.json()["deleted"], true);
    assert_eq!(server.send(request()).await.status, StatusCode::NOT_FOUND);
    let gone = server.post(PATH, &body(json!({"previous_response_id": id}))).await;
    assert_eq!(gone.status, StatusCode::BAD_REQUEST);
    assert_eq!(gone.json()["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn input_items_come_in_pages() {
    let server = server(echo);
    let texts = ["a", "b", "c"].map(|text| json!({"role": "user", "content": text}));
    let id = ask(&server, json!({"input": texts, "store": true})).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let page =
        async |query: &str| server.get(&format!("{PATH}/{id}/input_items?{query}")).await.json();
    let shown = |page: &Value| {
        page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["content"].as_str().unwrap())
            .collect::<String>()
    };
    assert_eq!(shown(&page("").await), "cba");
    let first = page("order=asc&limit=2").await;
    assert_eq!((shown(&first).as_str(), &first["has_more"]), ("ab", &json!(true)));
    let rest =
        page(&format!("order=asc&limit=2&after={}", first["last_id"].as_str().unwrap())).await;
    assert_eq!((shown(&rest).as_str(), &rest["has_more"]), ("c", &json!(false)));
    for wrong in ["limit=0", "limit=x", "order=up", "after=nobody"] {
        let error = page(wrong).await;
        assert_eq!(error["error"]["param"], wrong.split('=').next().unwrap());
    }
}

#[tokio::test]
async fn another_key_sees_nothing_of_what_is_stored() {
    let mut config = config();
    config.api_keys = ["mine", "theirs"].map(quire_server::http::auth::ApiKey::new).to_vec();
    let (server, queue) = TestServer::with_queue(config, crate::support::engine_info());
    std::thread::spawn(move || {
        while let Ok(submission) = queue.recv() {
            for event in answer(&submission.request, "Well.") {
                submission.events.send(event);
            }
        }
    });
    let send = async |key: &str, method: Method, path: &str, body: Value| {
        let request = json_request(method, path).header("authorization", format!("Bearer {key}"));
        server.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let stored = send("mine", Method::POST, PATH, body(json!({"store": true}))).await.json();
    let path = format!("{PATH}/{}", stored["id"].as_str().unwrap());
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::GET, format!("{path}/input_items")),
        (Method::DELETE, path.clone()),
    ] {
        assert_eq!(send("theirs", method, &path, json!({})).await.status, StatusCode::NOT_FOUND);
    }
    let follow = body(json!({"previous_response_id": stored["id"]}));
    assert_eq!(
        send("theirs", Method::POST, PATH, follow.clone()).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(send("mine", Method::POST, PATH, follow).await.status, StatusCode::OK);
    assert_eq!(send("mine", Method::GET, &path, json!({})).await.json(), stored);
}

#[tokio::test]
async fn what_is_too_large_to_store_is_answered_and_says_so() {
    let mut config = config();
    config.limits.response_store_bytes = 600;
    let (server, queue) = TestServer::with_queue(config, crate::support::engine_info());
    std::thread::spawn(move || {
        while let Ok(submission) = queue.recv() {
            for event in answer(&submission.request, "Well.") {
                submission.events.send(event);
            }
        }
    });
    assert_eq!(ask(&server, json!({"store": true})).await["store"], false);
}

#[tokio::test]
async fn long_conversations_are_refused_or_lose_their_beginning() {
    let server = TestServer::scripted(|request| answer(request, "Well."));
    let mut input = vec![json!({"role": "system", "content": "Be brief."})];
    input.extend(
        (0..7).map(|i| json!({"role": "user", "content": format!("{i}{}", "a".repeat(30))})),
    );
    let refused = server.post(PATH, &body(json!({"input": input, "max_output_tokens": 10}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("input"), &json!("context_length_exceeded"))
    );
    let cut = json!({"input": input, "max_output_tokens": 10, "truncation": "auto"});
    let reply = server.post(PATH, &body(cut.clone())).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    assert_eq!(
        (reply.header("x-quire-truncated"), &reply.json()["truncation"]),
        ("3", &json!("auto"))
    );
    let counted = server.post("/v1/responses/input_tokens", &body(cut)).await.json();
    assert_eq!(
        counted,
        json!({"object": "response.input_tokens", "input_tokens": reply.json()["usage"]["input_tokens"]})
    );
    let alone = json!({"input": "a".repeat(300), "truncation": "auto"});
    assert_eq!(server.post(PATH, &body(alone)).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_failure_is_told_in_a_stream_and_outside() {
    let server = TestServer::scripted(|_| {
        let reason = FinishReason::Error("not a number".into());
        let finished =
            Finished { reason, num_prompt_tokens: 1, num_output_tokens: 0, num_cached_tokens: 0 };
        vec![started(), StreamEvent::Finished(finished)]
    });
    let whole = server.post(PATH, &body(json!({"store": true}))).await;
    assert_eq!(whole.status, StatusCode::INTERNAL_SERVER_ERROR);
    let all = events(&server.post(PATH, &body(json!({"stream": true, "store": true}))).await);
    let names: Vec<&str> = all.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names, ["response.created", "response.in_progress", "response.failed"]);
    let response = &all[2]["response"];
    assert_eq!(
        (&response["status"], &response["error"]["message"]),
        (&json!("failed"), &json!("not a number"))
    );
    let path = format!("{PATH}/{}", response["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_schema_holds_the_text() {
    let format =
        json!({"type": "json_schema", "name": "n", "schema": {"type": "integer"}, "strict": true});
    let (server, queue) = TestServer::with_queue(config(), crate::support::engine_info());
    std::thread::spawn(move || {
        while let Ok(submission) = queue.recv() {
            assert!(submission.request.params.constraint.is_some());
            for event in answer(&submission.request, "7") {
                submission.events.send(event);
            }
        }
    });
    let response = ask(&server, json!({"text": {"format": format}})).await;
    assert_eq!(response["output"][0]["content"][0]["text"], "7");
    assert_eq!(response["text"], json!({"format": format, "verbosity": "medium"}));
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    let server = server(echo);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    for (more, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": 7}), "input"),
        (json!({"input": [7]}), "input"),
        (json!({"input": [{"type": 7}]}), "input"),
        (json!({"input": [{"type": "item_reference", "id": "msg_1"}]}), "input"),
        (json!({"input": [{"role": "robot", "content": "x"}]}), "input"),
        (json!({"input": user(Value::Null)}), "input"),
        (
            json!({"input": user(json!([{"type": "input_image", "image_url": "http://x/y.png"}]))}),
            "input",
        ),
        (json!({"input": user(json!([{"type": "input_text"}]))}), "input"),
        (json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}), "input"),
        (
            json!({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[]"}]}),
            "input",
        ),
        (json!({"input": [{"type": "function_call_output", "call_id": "c"}]}), "input"),
        (json!({"instructions": ["x"]}), "instructions"),
        (json!({"tools": [{"type": "web_search"}]}), "tools"),
        (json!({"tools": [{"type": "function", "name": ""}]}), "tools"),
        (json!({"tools": tools(), "tool_choice": {"type": "mcp"}}), "tool_choice"),
        (
            json!({"tools": tools(), "tool_choice": {"type": "function", "name": "fly"}}),
            "tool_choice",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"text": {"format": {"type": "xml"}}}), "text"),
        (json!({"text": {"format": {"type": "json_schema", "name": "n"}}}), "text"),
        (json!({"text": {"verbosity": "low"}}), "text"),
        (json!({"reasoning": {"effort": "huge"}}), "reasoning"),
        (json!({"include": ["message.output_text.logprobs"]}), "include"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"max_output_tokens": 100000}), "input"),
        (json!({"include_reasoning": false}), "include_reasoning"),
        (json!({"previous_input_messages": [{}]}), "previous_input_messages"),
        (json!({"kv_transfer_params": {}}), "kv_transfer_params"),
        (json!({"watermarking": true}), "watermarking"),
        (json!({"vllm_xargs": {"a": 1}}), "vllm_xargs"),
        (json!({"metadata": {"a": 1}}), "metadata"),
        (json!({"metadata": {"a": "x".repeat(513)}}), "metadata"),
        (json!({"truncation": "some"}), "truncation"),
        (json!({"background": true}), "background"),
        (json!({"conversation": "c"}), "conversation"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"model": "other"}), "model"),
        (json!({"store": "yes"}), "store"),
        (json!({"previous_response_id": "resp_0"}), "previous_response_id"),
    ] {
        let reply = server.post(PATH, &body(more.clone())).await;
        assert!(reply.status.is_client_error(), "{more}: {}", reply.body);
        assert_eq!(reply.json()["error"]["param"], param, "{more}: {}", reply.body);
    }
    for path in ["/v1/responses/resp_0", "/v1/responses/resp_0/input_items"] {
        assert_eq!(server.get(path).await.status, StatusCode::NOT_FOUND);
    }
}
