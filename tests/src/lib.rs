//! What the tests across crates share: models, engines to ask, and readers of golden files.

pub mod distance;
pub mod families;
pub mod gguf_keys;
pub mod grammars;
pub mod heads;
pub mod layers;
pub mod random_models;
pub mod requests;
pub mod safetensors;
pub mod windows;

use std::path::{Path, PathBuf};
use std::time::Duration;

use quire_engine::config::{DeviceChoice, SpeculativeMethod};
use quire_engine::machine::Machine;
use quire_engine::request::{Finished, Started, StreamEvent, TokenOutput};
use quire_engine::{
    Engine, EngineHandle, EngineOptions, MemoryPlan, ModelFiles, Request, SamplingParams,
    TokenStream,
};

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").join(path)
}

/// The default model's file, which `make model` gets.
pub fn default_model() -> PathBuf {
    let path = repository("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run `make model`", path.display());
    path
}

/// One of the committed tiny models.
pub fn tiny_model(family: &str) -> PathBuf {
    repository(&format!("tests/data/conformance/{family}.gguf"))
}

/// Options for tests: two threads, a small cache.
pub fn options() -> EngineOptions {
    EngineOptions {
        // On every machine: other tests are for GPUs.
        device: DeviceChoice::Cpu,
        threads: Some(2),
        kv_cache_memory: Some(64 << 20),
        max_logprobs: 512,
        ..EngineOptions::default()
    }
}

/// An engine that ends on `end_tokens`; it stops when the handle is dropped.
pub fn start(path: &Path, options: &EngineOptions, end_tokens: &[u32]) -> EngineHandle {
    let files = ModelFiles::open(path).expect("the model file is readable");
    start_files(&files, options, end_tokens)
}

/// As `start`, of files already open.
pub fn start_files(
    files: &ModelFiles,
    options: &EngineOptions,
    end_tokens: &[u32],
) -> EngineHandle {
    let plan = MemoryPlan::new(files, options, &Machine::detect()).expect("the model fits");
    let engine = Engine::load(files, &plan, end_tokens, &|_, _| ()).expect("the model loads");
    engine.spawn().expect("the engine starts").0
}

/// As `--speculative` has it.
pub fn speculative(method: &str) -> SpeculativeMethod {
    method.parse().expect("a proposer")
}

/// `speculative` of a name and a path.
pub fn speculative_at(name: &str, path: &Path) -> SpeculativeMethod {
    speculative(&format!("{name}:{}", path.display()))
}

/// Everything a stream said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub started: Started,
    pub tokens: Vec<TokenOutput>,
    pub finished: Finished,
}

impl Answer {
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|output| output.token).collect()
    }
}

/// Waits for the end of a stream, whose events must come in the promised order.
pub fn collect(mut stream: TokenStream) -> Answer {
    let Some(StreamEvent::Started(mut started)) = stream.blocking_next() else {
        panic!("a stream begins with Started");
    };
    // Answers are compared, and how long one waited is no part of it.
    started.queue = Duration::ZERO;
    let mut tokens = Vec::new();
    loop {
        match stream.blocking_next() {
            Some(StreamEvent::Token(output)) => tokens.push(output),
            // Answers are compared with those that were not guessed.
            Some(StreamEvent::Drafts(_)) => {}
            Some(StreamEvent::Finished(finished)) => {
                assert_eq!(stream.blocking_next(), None, "nothing follows Finished");
                return Answer { started, tokens, finished };
            }
            event => panic!("{event:?} in the middle of a stream"),
        }
    }
}

/// Asks and waits.
pub fn ask(handle: &EngineHandle, prompt: &[u32], params: SamplingParams) -> Answer {
    let request = Request::new(prompt.to_vec(), params);
    collect(handle.generate(request).expect("the request is valid"))
}

/// Repeatable integers for test inputs (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Uniform in `0..bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % u64::from(bound)) as u32
    }
}
