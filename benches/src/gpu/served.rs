//! The server on the GPU as users start it: a process of its own, until it answers its first request.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::Output;
use crate::http::{BaseUrl, post};
use crate::report::{Table, three_digits};

/// How long a start or an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Start {
    model: String,
    load_format: &'static str,
    /// From starting the process until it takes requests, and until its first token.
    ready_seconds: f64,
    first_token_seconds: f64,
}

/// A server that ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `quire` with dummy weights of each configuration.
pub fn run(
    output: &Output,
    quire: &Path,
    configs: &[(&str, &str)],
    ordinal: usize,
) -> anyhow::Result<()> {
    let mut starts = Vec::new();
    for &(model, config) in configs {
        let folder = output.folder.join("models").join(model);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("config.json"), config)?;
        for load_format in ["dummy", "dummy:Q4_K"] {
            starts.push(start(quire, &folder, (model, load_format), ordinal)?);
        }
    }
    let columns = ["model", "--load-format", "ready after s", "first token after s"];
    let mut table = Table::new(&columns).with_text_columns(2);
    for start in &starts {
        table.row([
            start.model.clone(),
            start.load_format.into(),
            three_digits(start.ready_seconds),
            three_digits(start.first_token_seconds),
        ]);
    }
    output.write("serve", &table.to_string(), &starts)
}

fn start(
    quire: &Path,
    folder: &Path,
    (model, load_format): (&str, &'static str),
    ordinal: usize,
) -> anyhow::Result<Start> {
    let begin = Instant::now();
    let mut command = Command::new(quire);
    command.arg("serve").arg(folder).args(["--load-format", load_format, "--port", "0"]);
    command.args(["--device", &format!("cuda:{ordinal}"), "--max-model-len", "4096"]);
    let child = command.stdout(Stdio::piped()).spawn();
    let mut server = Server(child.with_context(|| quire.display().to_string())?);
    let mut out = BufReader::new(server.0.stdout.take().context("its output is piped")?);
    let mut said = String::new();
    let url = loop {
        let before = said.len();
        ensure!(out.read_line(&mut said)? > 0, "quire serve ended: {said}");
        let line = &said[before..];
        if let Some((_, rest)) = line.split_once(" at http://") {
            let host = rest.split_whitespace().next().unwrap_or_default();
            break BaseUrl::parse(&format!("http://{host}"))?;
        }
    };
    let ready_seconds = begin.elapsed().as_secs_f64();
    let prompt: Vec<u32> = (1..30).collect();
    let body = json!({"model": "default", "prompt": prompt, "max_tokens": 1, "temperature": 0});
    let mut text = String::new();
    post(&url, "/v1/completions", body.to_string().as_bytes(), PATIENCE)?
        .read_to_string(&mut text)?;
    let answer: Value = serde_json::from_str(&text)?;
    ensure!(answer["choices"][0]["finish_reason"] == "length", "{model}: {text}");
    let first_token_seconds = begin.elapsed().as_secs_f64();
    Ok(Start { model: model.to_owned(), load_format, ready_seconds, first_token_seconds })
}
