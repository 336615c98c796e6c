//! The tiny Llama of the conformance tests with its own tokenizer, in an engine of this process.

use std::path::Path;
use std::sync::Arc;

use quire_engine::config::{DeviceChoice, EngineOptions};
use quire_engine::{Engine, Machine, MemoryPlan, ModelFiles};
use quire_server::app::ServerConfig;
use quire_server::model::{SamplingDefaults, ServedModel};
use quire_server::text::{TemplateOptions, TextPipeline};

use super::TestServer;

/// A server of the model, with `change`d options.
pub(crate) fn serve_tiny(change: impl FnOnce(&mut EngineOptions)) -> TestServer {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let files = ModelFiles::open(&root.join("tests/data/conformance/llama3.gguf")).unwrap();
    let ModelFiles::Gguf(file) = &files else { panic!("a GGUF file") };
    let mut options = EngineOptions {
        device: DeviceChoice::Cpu,
        threads: Some(2),
        kv_cache_memory: Some(64 << 20),
        ..EngineOptions::default()
    };
    change(&mut options);
    let plan = MemoryPlan::new(&files, &options, &Machine::detect()).unwrap();
    let text = TextPipeline::from_gguf(file.metadata(), &TemplateOptions::default()).unwrap();
    let engine = Engine::load(&files, &plan, text.tokenizer().eos_token_ids(), &|_, _| ()).unwrap();
    let (handle, _) = engine.spawn().unwrap();
    let names = vec!["tiny".into()];
    let server =
        TestServer::loading(ServerConfig { served_model_names: names, ..ServerConfig::default() });
    server.state.set_model(ServedModel::new(handle, Arc::new(text), SamplingDefaults::default()));
    server
}
