//! The program itself: signals, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/conformance/llama3.gguf");

/// `quire serve` of a tiny model; killed when it is dropped.
struct Server {
    child: Child,
    /// Open, or what it says later would end it.
    _out: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
        command.arg("serve").arg(MODEL).args(["--port", "0", "--threads", "1"]);
        command.args(["--device", "cpu", "--kv-cache-memory", "64M"]).args(flags);
        command.env_clear().env("HOME", "/tmp").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some((_, rest)) = line.split_once(" at http://") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        Self { child, _out: out, address }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The status line of the answer; empty when there is none.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        let _ = BufReader::new(stream).read_line(&mut line);
        line
    }

    fn is_ready(&self) -> bool {
        let line = self.ask("GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        line.contains(" 200 ")
    }

    /// Its exit code, and what it wrote to standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_hangup_ends_nothing() {
    let server = Server::start(&[]);
    for _ in 0..3 {
        server.signal("HUP");
        assert!(server.is_ready());
    }
    server.signal("TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("SIGHUP: there are no files to read again"), "{said}");
}

#[test]
fn a_step_that_takes_too_long_ends_the_process_with_a_code_of_its_own() {
    let limits = ["--engine-hang-timeout", "1ms", "--exit-on-hang", "2ms"];
    let server = Server::start(&[&limits[..], &["--max-num-batched-tokens", "2000"]].concat());
    assert!(server.is_ready());
    let body = format!(r#"{{"prompt": [{}], "max_tokens": 1}}"#, vec!["5"; 1500].join(","));
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    server.ask(&format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    let (code, said) = server.end();
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("the engine hangs") && said.contains("tokens=1500"), "{said}");
}

/// How `quire serve` of `model` ends that cannot begin, and what it says.
fn end_of(model: &std::path::Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
    command.arg("serve").arg(model).args(["--port", "0", "--device", "cpu"]).args(flags);
    let output = command.env_clear().env("HOME", "/tmp").output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A supervisor is told what another start would change: nothing where the model's files are at fault.
#[test]
fn a_start_that_fails_says_by_its_code_whose_fault_it_is() {
    let folder = std::env::temp_dir().join(format!("quire-exit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let bytes = std::fs::read(MODEL).unwrap();
    let named = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let spoilt = [
        ("magic", [b"XXXX", &bytes[4..]].concat(), "magic.gguf"),
        ("half", bytes[..bytes.len() / 2].to_vec(), "half.gguf"),
        ("empty", Vec::new(), "empty.gguf"),
        ("key", named("llama.block_count", "llama.block_xxxxx"), "block_count"),
        ("tensor", named("blk.0.attn_norm", "blk.0.attn_xxxx"), "attn_norm"),
        ("tokens", named("tokenizer.ggml.tokens", "tokenizer.ggml.xxxxxx"), "tokenizer"),
    ];
    for (name, bytes, says) in spoilt {
        let path = folder.join(format!("{name}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        let (code, said) = end_of(&path, &["--kv-cache-memory", "64M", "--threads", "1"]);
        assert_eq!(code, Some(65), "{name}: {said}");
        assert!(said.contains("error: ") && said.contains(says), "{name}: {said}");
    }
    let (code, said) = end_of(&folder.join("none.gguf"), &[]);
    assert_eq!(code, Some(66), "{said}");
    let (code, said) = end_of(MODEL.as_ref(), &["--kv-cache-memory", "1000T"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--kv-cache-memory"), "{said}");
    let (code, said) = end_of(MODEL.as_ref(), &["--no-such-flag"]);
    assert_eq!(code, Some(2), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}
