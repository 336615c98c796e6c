//! `quire run`: a chat in the terminal, over the routes that `serve` has, without a socket.

use std::io::{IsTerminal, Read, Write};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use futures_util::StreamExt;
use quire_engine::{Machine, MemoryPlan};
use quire_server::app::{self, AppState, ServerConfig};
use quire_server::metrics::Metrics;
use quire_server::registry::load;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::model;
use crate::args::{CommonOptions, RunArgs};

/// The longest prompt on standard input, in bytes.
const MAX_PROMPT: u64 = 1 << 20;
const MAX_ERROR: usize = 1 << 20;

/// Chats on a terminal; elsewhere answers standard input once.
pub(crate) fn run(args: &RunArgs, options: &CommonOptions) -> Result<()> {
    let named = (args.model.as_deref(), args.engine.load_format());
    let (origin, files) = model::open_named(named, options)?;
    let path = &origin.path;
    let mut engine_options = args.engine.resolve();
    engine_options.served_model_name = model::served_name(path);
    // One person types one message at a time.
    engine_options.max_num_seqs.get_or_insert(1);
    let plan = MemoryPlan::new(&files, &engine_options, &Machine::detect())?;
    ensure!(
        plan.writes_text,
        "{} makes embeddings and writes no text: `quire serve` it",
        path.display()
    );
    let (model, _engine) = load(&files, &plan, &args.template.resolve(), &args.template.parsers())?;
    let name = engine_options.served_model_name;
    let config = ServerConfig { served_model_names: vec![name], ..ServerConfig::default() };
    let state = AppState::new(config, Metrics::install());
    state.set_model(model);

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut chat = Chat::new(app::router(Arc::clone(&state), false), args);
    if std::io::stdin().is_terminal() {
        converse(&mut chat, &runtime)
    } else {
        answer_input(&mut chat, &runtime)
    }
}

fn converse(chat: &mut Chat, runtime: &Runtime) -> Result<()> {
    let mut editor = DefaultEditor::new()?;
    println!("ctrl-C stops an answer, ctrl-D or /bye ends");
    loop {
        let line = match editor.readline(">>> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match line.trim() {
            "" => continue,
            "/bye" => return Ok(()),
            text => chat.say(text),
        }
        let _ = editor.add_history_entry(&line);
        if let Err(error) = runtime.block_on(chat.answer()) {
            chat.take_back();
            eprintln!("error: {error:#}");
        }
    }
}

fn answer_input(chat: &mut Chat, runtime: &Runtime) -> Result<()> {
    let mut text = String::new();
    let input = std::io::stdin().lock();
    input.take(MAX_PROMPT + 1).read_to_string(&mut text).context("standard input")?;
    ensure!(text.len() as u64 <= MAX_PROMPT, "standard input is longer than {MAX_PROMPT} bytes");
    ensure!(!text.trim().is_empty(), "standard input is empty");
    chat.say(text.trim());
    match runtime.block_on(chat.answer())? {
        Ending::Whole => Ok(()),
        Ending::Stopped => bail!("stopped"),
    }
}

/// The conversation so far, and how to go on.
struct Chat {
    router: Router,
    messages: Vec<Value>,
    sampling: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    /// By ctrl-C.
    Stopped,
}

impl Chat {
    fn new(router: Router, args: &RunArgs) -> Self {
        let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
        let sampling = json!({
            "temperature": args.temperature,
            "top_p": args.top_p,
            "max_tokens": args.max_tokens,
            "seed": args.seed,
        });
        Self { router, messages: system.collect(), sampling }
    }

    fn say(&mut self, text: &str) {
        self.messages.push(json!({"role": "user", "content": text}));
    }

    /// Forgets the last message, to which no answer came.
    fn take_back(&mut self) {
        self.messages.pop();
    }

    /// Prints the answer as it comes and adds it to the conversation, stopped ones too.
    async fn answer(&mut self) -> Result<Ending> {
        let response = self.router.clone().oneshot(self.request()?).await?;
        let is_ok = response.status().is_success();
        let body = response.into_body();
        if !is_ok {
            let error: Value = serde_json::from_slice(&to_bytes(body, MAX_ERROR).await?)?;
            return Err(error_of(&error));
        }
        let mut events = Events::default();
        let mut answer = String::new();
        let mut chunks = body.into_data_stream();
        let ending = loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                _ = tokio::signal::ctrl_c() => break Ending::Stopped,
            };
            let Some(chunk) = chunk else { break Ending::Whole };
            for text in events.push(&chunk?)? {
                print!("{text}");
                answer.push_str(&text);
            }
            std::io::stdout().flush()?;
        };
        println!();
        self.messages.push(json!({"role": "assistant", "content": answer}));
        Ok(ending)
    }

    fn request(&self) -> Result<Request<Body>> {
        let mut body = json!({"model": "default", "messages": self.messages, "stream": true});
        let fields = body.as_object_mut().context("the body is an object")?;
        for (name, value) in self.sampling.as_object().into_iter().flatten() {
            if !value.is_null() {
                fields.insert(name.clone(), value.clone());
            }
        }
        let request = Request::post("/v1/chat/completions")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(serde_json::to_vec(&body)?))?;
        Ok(request)
    }
}

/// Server-sent events, cut wherever the chunks are.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// The pieces of text that `chunk` completes.
    fn push(&mut self, chunk: &[u8]) -> Result<Vec<String>> {
        self.rest.extend_from_slice(chunk);
        let mut texts = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            if data.starts_with(b"[DONE]") {
                continue;
            }
            let event: Value = serde_json::from_slice(data)?;
            if event.get("error").is_some() {
                return Err(error_of(&event));
            }
            texts.extend(event["choices"][0]["delta"]["content"].as_str().map(str::to_owned));
        }
        Ok(texts)
    }
}

fn error_of(body: &Value) -> anyhow::Error {
    let message = body["error"]["message"].as_str();
    anyhow!("{}", message.unwrap_or("the model gave no answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
                      : keep-alive\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"Grü\"}}]}\n\n\
                      data: {\"choices\":[{\"delta\":{\"content\":\"ße\"}}]}\n\n\
                      data: {\"choices\":[]}\n\ndata: [DONE]\n\n";
        for size in 1..=stream.len() {
            let mut events = Events::default();
            let texts: Vec<String> = stream
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| events.push(chunk).unwrap())
                .collect();
            assert_eq!(texts.concat(), "Grüße", "chunks of {size}");
        }
    }

    #[test]
    fn an_error_in_the_stream_is_told() {
        let line = b"data: {\"error\":{\"message\":\"no more blocks\"}}\n";
        assert_eq!(Events::default().push(line).unwrap_err().to_string(), "no more blocks");
    }
}
