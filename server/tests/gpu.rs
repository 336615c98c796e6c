//! The unmodified binary with `--device cuda` on the emulator's libraries: answers, bad conditions, a GPU that fails.
#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A tiny model.
fn model(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join(format!("tests/data/conformance/{name}.gguf"))
}

/// `quire COMMAND MODEL` that finds the stand-in driver, with more of the environment.
fn quire(command: &str, flags: &[&str], environment: &[(&str, &str)]) -> Command {
    quire_with("llama3", command, flags, environment)
}

fn quire_with(name: &str, command: &str, flags: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quire"));
    child.arg(command).arg(model(name)).args(["--max-model-len", "128"]).args(flags);
    // Quire refuses variables of its own that it does not know.
    child.env_clear().env("LD_LIBRARY_PATH", quire_sim::library_folder()).env("HOME", "/tmp");
    child.envs(environment.iter().copied());
    child
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// A server that ends with this value.
struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    /// What it printed until it was ready.
    table: String,
    address: String,
}

impl Server {
    fn start(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let flags = [flags, &["--port", "0", "--max-num-seqs", "4"]].concat();
        Self::spawn(quire("serve", &flags, environment))
    }

    /// Waits until it is ready.
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut table = String::new();
        let address = loop {
            let before = table.len();
            assert!(out.read_line(&mut table).unwrap() > 0, "it ended: {table}");
            if let Some((_, rest)) = table[before..].split_once(" at http://") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        Self { child, out, table, address }
    }

    /// Status and body.
    fn request(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn complete(address: &str, prompt: &[u32], max_tokens: u32) -> (u16, String) {
        let body = json!({"model": "default", "prompt": prompt, "max_tokens": max_tokens,
            "temperature": 0, "ignore_eos": true});
        Self::request(address, "POST", "/v1/completions", &body.to_string())
    }

    /// Waits for its end; what it said meanwhile, and its exit code.
    fn end(mut self) -> Option<i32> {
        let start = Instant::now();
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_server_answers_from_a_gpu() {
    let server = Server::start(&["--device", "auto"], &[]);
    assert!(server.table.contains("GPU 0: Quire's emulator"), "{}", server.table);
    let (status, body) = Server::complete(&server.address, &[1, 7, 20], 3);
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 3, "{answer}");
    assert_eq!(Server::request(&server.address, "GET", "/readyz", "").0, 200);
}

/// Of an encoder, and of a decoder's last hidden state.
#[test]
fn embeddings_of_a_gpu_are_near_those_of_the_cpu() {
    for name in ["modernbert", "llama3"] {
        let texts: Vec<Vec<u32>> = [1, 40, 7]
            .map(|len| (0..len).map(|i| 4 + (i * 37 + len) % 500).collect())
            .into_iter()
            .collect();
        let body = json!({"model": "default", "input": texts}).to_string();
        let [gpu, cpu] = ["cuda", "cpu"].map(|device| {
            let flags = ["--port", "0", "--device", device, "--served-model-name", "default"];
            let server = Server::spawn(quire_with(name, "serve", &flags, &[]));
            let (status, body) = Server::request(&server.address, "POST", "/v1/embeddings", &body);
            assert_eq!(status, 200, "{name}: {body}");
            let answer: Value = serde_json::from_str(&body).unwrap();
            let number = |x: &Value| x.as_f64().unwrap();
            let row = |entry: &Value| -> Vec<f64> {
                entry["embedding"].as_array().unwrap().iter().map(number).collect()
            };
            answer["data"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
        });
        assert_eq!(gpu.len(), texts.len());
        for (gpu, cpu) in gpu.iter().zip(&cpu) {
            // Both have the length 1.
            let cosine: f64 = gpu.iter().zip(cpu).map(|(x, y)| x * y).sum();
            assert!(cosine > 0.9995 && cosine < 1.0005, "{name}: {cosine}");
            assert!(gpu != cpu, "{name}: BF16 rounds");
        }
    }
}

#[test]
fn ranks_and_replicas_have_gpus_of_their_own() {
    let flags = ["--tensor-parallel-size", "2", "--data-parallel-size", "2"];
    let server = Server::start(&flags, &[("EMULATOR_DEVICES", "4")]);
    assert!(server.table.contains("GPUs 0 to 3: Quire's emulator"), "{}", server.table);
    for prompt in [[1, 7, 20], [2, 7, 20]] {
        let (status, body) = Server::complete(&server.address, &prompt, 3);
        assert_eq!(status, 200, "{body}");
    }
    let (_, metrics) = Server::request(&server.address, "GET", "/metrics", "");
    for engine in [r#"engine="0""#, r#"engine="1""#] {
        let answered = metrics.lines().find(|line| {
            line.starts_with("vllm:request_success_total{")
                && line.contains(engine)
                && line.contains(r#"finished_reason="length""#)
        });
        assert!(answered.is_some_and(|line| line.ends_with(" 1")), "{engine} in\n{metrics}");
        let fixed =
            |line: &str| line.starts_with("vllm:cache_config_info{") && line.contains(engine);
        assert!(metrics.lines().any(fixed), "{engine} in\n{metrics}");
    }
    assert_eq!(Server::request(&server.address, "GET", "/readyz", "").0, 200);
}

#[test]
fn a_gpu_that_cannot_be_had_is_a_sentence_and_a_failure() {
    type Case = (&'static str, (&'static str, &'static str), &'static [&'static str]);
    let cases: [Case; 4] = [
        ("cuda", ("EMULATOR_DRIVER", "12040"), &["CUDA 12.4", "13.0 is needed"]),
        ("cuda", ("EMULATOR_DEVICES", "0"), &["sees no GPU", "--device cpu"]),
        ("cuda:5", ("EMULATOR_DEVICES", "2"), &["no GPU 5", "has 2"]),
        ("cuda", ("EMULATOR_MEMORY", "536900000"), &["is free on GPU 0", "--device cpu"]),
    ];
    for (device, variable, expected) in cases {
        let flags = ["--port", "0", "--device", device];
        assert_refused(quire("serve", &flags, &[variable]), expected);
    }
}

#[track_caller]
fn assert_refused(mut command: Command, expected: &[&str]) {
    let output = command.output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    assert!(!text.contains("serving"), "{text}");
}

/// A folder in which the loader finds files of the driver's names, and no driver.
#[test]
fn without_a_driver_the_cpu_is_taken_only_where_nobody_asked_for_a_gpu() {
    let folder = std::env::temp_dir().join(format!("quire-no-driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    let variable = [("LD_LIBRARY_PATH", folder.to_str().unwrap())];
    let expected = ["no CUDA driver was found", "install the NVIDIA driver", "--device cpu"];
    assert_refused(quire("serve", &["--port", "0", "--device", "cuda"], &variable), &expected);
    let server = Server::start(&["--device", "auto"], &variable);
    assert!(server.table.contains("CPU (no CUDA driver was found"), "{}", server.table);
    assert_eq!(Server::complete(&server.address, &[1, 7, 20], 3).0, 200);
    drop(server);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What a GPU cannot do is said before anything is loaded, with the flag to change.
#[test]
fn flags_that_a_gpu_cannot_follow_are_named() {
    for (flags, expected) in [
        (["--kv-cache-memory", "100G"], "--kv-cache-memory asks for 100.0 GiB"),
        (["--kv-cache-dtype", "f32"], "--kv-cache-dtype"),
        (["--weights", "float32"], "--weights float32"),
        (["--max-logprobs", "3000"], "--max-logprobs 3000"),
        (["--speculative", "skip:2-9"], "--speculative skip:2-9"),
    ] {
        let all = [&["--port", "0", "--device", "cuda"], &flags[..]].concat();
        assert_refused(quire("serve", &all, &[]), &[expected]);
    }
}

#[test]
fn auto_says_which_device_it_took_and_why() {
    for (variable, expected) in [
        (("EMULATOR_DEVICES", "1"), "GPU 0: Quire's emulator, compute capability 9.0"),
        (("EMULATOR_DEVICES", "0"), "CPU (the CUDA driver sees no GPU)"),
        (
            ("EMULATOR_DRIVER", "12040"),
            "CPU (the CUDA driver supports CUDA 12.4, but 13.0 is needed)",
        ),
    ] {
        let output = quire("plan", &["--device", "auto"], &[variable]).output().unwrap();
        let text = said(&output);
        assert!(output.status.success() && text.contains(expected), "{expected}: {text}");
    }
}

/// Two requests run when a logit of one of them is not a number.
#[test]
fn logits_that_are_not_numbers_fail_one_request() {
    let environment = [("EMULATOR_PLANT", "sample_rows:not a number 40")];
    let server = Server::start(&["--device", "cuda"], &environment);
    let ask = || {
        let address = server.address.clone();
        std::thread::spawn(move || Server::complete(&address, &[1, 7, 20], 60))
    };
    let answers = [ask(), ask()].map(|thread| thread.join().unwrap());
    let (failed, well): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 500);
    assert_eq!((failed.len(), well.len()), (1, 1), "{answers:?}");
    assert!(failed[0].1.contains("not a number"), "{failed:?}");
    let text = |body: &str| serde_json::from_str::<Value>(body).unwrap()["choices"][0].clone();
    let (status, alone) = Server::complete(&server.address, &[1, 7, 20], 60);
    assert_eq!(
        (status, text(&alone)),
        (200, text(&well[0].1)),
        "it goes on as if nothing had been"
    );
    assert_eq!(Server::request(&server.address, "GET", "/readyz", "").0, 200);
}

/// Two requests run when a kernel fails. A third, which is still being sent, keeps the process from ending at once.
#[test]
fn when_the_gpu_fails_every_client_is_told_and_the_process_ends() {
    let environment = [("EMULATOR_PLANT", "attention_:fault 40")];
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let flags = ["--device", "cuda", "--health-port", &port, "--shutdown-timeout", "20s"];
    let server = Server::start(&flags, &environment);
    let is_ready = || Server::request(&format!("127.0.0.1:{port}"), "GET", "/readyz", "").0;
    assert_eq!(is_ready(), 200);
    let mut third = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        server.address
    );
    third.write_all(head.as_bytes()).unwrap();
    let ask = |first: u32| {
        let address = server.address.clone();
        std::thread::spawn(move || Server::complete(&address, &[first, 7, 20], 100))
    };
    for answer in [ask(1), ask(2)].map(|thread| thread.join().unwrap()) {
        let (status, body) = answer;
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("the GPU failed"), "{body}");
    }
    assert_eq!(is_ready(), 503);
    drop(third);
    assert_eq!(server.end(), Some(71));
}
