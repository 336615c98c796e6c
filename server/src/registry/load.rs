//! From a model's files to a running engine with its text.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use quire_engine::{Engine, EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles};

use super::Origin;
use crate::kv_events::{KvEventsConfig, KvPublisher};
use crate::model::{SamplingDefaults, ServedModel};
use crate::text::{OutputFormats, TemplateOptions, TextFiles, TextPipeline, UnknownFormat};

/// The formats of answers that flags ask for; `auto` is what a model's template says.
#[derive(Clone, Debug)]
pub struct ParserNames {
    pub tool_calls: String,
    pub reasoning: String,
}

impl Default for ParserNames {
    fn default() -> Self {
        Self { tool_calls: "auto".into(), reasoning: "auto".into() }
    }
}

impl ParserNames {
    /// What is asked for, and for the rest what the model's template says.
    fn apply(&self, of_template: OutputFormats) -> Result<OutputFormats, UnknownFormat> {
        of_template.with_tools(&self.tool_calls)?.with_reasoning(&self.reasoning)
    }
}

/// How models are planned and loaded, the same for all.
#[derive(Clone)]
pub struct Loader {
    pub engine: EngineOptions,
    pub template: TemplateOptions,
    pub parsers: ParserNames,
    pub machine: Machine,
    /// Bytes for all loaded models together.
    pub memory: u64,
    /// Where to tell what enters and leaves the prefix cache.
    pub kv_events: Option<KvEventsConfig>,
}

impl Loader {
    /// The plan of a model in an equal share of the memory; of one that needs more, in all of it. So what a model gets does
    /// not depend on which others happen to be loaded.
    pub fn plan(&self, files: &ModelFiles, name: &str, num_shares: u64) -> Result<MemoryPlan> {
        let options = EngineOptions { served_model_name: name.to_owned(), ..self.engine.clone() };
        let within = |memory: u64| {
            let machine = Machine { available_memory: memory, ..self.machine.clone() };
            MemoryPlan::new(files, &options, &machine)
        };
        within(self.memory / num_shares.max(1)).or_else(|_| within(self.memory))
    }

    /// Loads the weights and starts the engine, with what the Modelfile says.
    pub fn load(
        &self,
        files: &ModelFiles,
        plan: &MemoryPlan,
        origin: &Origin,
    ) -> Result<(ServedModel, Vec<JoinHandle<()>>)> {
        let name = origin.settings.template.as_deref();
        let kv_events = self.kv_events.as_ref();
        let template = (&self.template, name);
        let (mut model, threads) = load_with(files, plan, template, &self.parsers, kv_events)?;
        model.settings = Arc::clone(&origin.settings);
        Ok((model, threads))
    }
}

/// Loads the weights and starts the engine, or all of several.
pub fn load(
    files: &ModelFiles,
    plan: &MemoryPlan,
    template: &TemplateOptions,
    parsers: &ParserNames,
) -> Result<(ServedModel, Vec<JoinHandle<()>>)> {
    load_with(files, plan, (template, None), parsers, None)
}

/// The text of a model that writes conversations by another of its templates, or as ChatML.
fn with_template(
    text: TextPipeline,
    name: &str,
    options: &TemplateOptions,
) -> Result<TextPipeline> {
    let source = match name {
        "default" => return Ok(text),
        "chatml" => None,
        name => {
            let template = text.template(name);
            Some(template.with_context(|| format!("the model has no chat template '{name}'"))?)
        }
    };
    let source = source.map(|template| template.source().to_owned());
    Ok(TextPipeline::new(Arc::clone(text.tokenizer()), source.as_deref(), options)?)
}

/// As `load`, with the chat template of that name.
fn load_with(
    files: &ModelFiles,
    plan: &MemoryPlan,
    (template, template_name): (&TemplateOptions, Option<&str>),
    parsers: &ParserNames,
    kv_events: Option<&KvEventsConfig>,
) -> Result<(ServedModel, Vec<JoinHandle<()>>)> {
    let (text, defaults) = match files {
        ModelFiles::Gguf(file) => {
            let defaults = SamplingDefaults::from_gguf(file.metadata());
            (TextPipeline::from_gguf(file.metadata(), template)?, defaults)
        }
        ModelFiles::Dummy(_) if !files.path().join("tokenizer.json").is_file() => {
            tracing::warn!("the model has no tokenizer.json: its tokens are bytes");
            let text = TextPipeline::placeholder(plan.spec.vocab_size(), template)?;
            (text, SamplingDefaults::default())
        }
        ModelFiles::Directory(_) | ModelFiles::Dummy(_) => {
            let files = TextFiles::read(files.path())?;
            let defaults = SamplingDefaults::from_generation_config(&files.generation);
            (TextPipeline::from_directory(&files, template)?, defaults)
        }
    };
    let text = match template_name {
        Some(name) => with_template(text, name, template)?,
        None => text,
    };
    if text.uses_fallback_template() && plan.writes_text && template_name.is_none() {
        tracing::warn!("the model has no chat template: chats are written as ChatML");
    }
    let on_progress = |done: usize, total: usize| {
        tracing::debug!("loaded {done} of {total} layers");
    };
    let (mut handles, mut threads, mut publishers) = (Vec::new(), Vec::new(), Vec::new());
    for replica in 0..plan.config.data_parallel_size {
        let end_tokens = text.tokenizer().eos_token_ids();
        let mut engine = Engine::load_replica(files, plan, replica, end_tokens, &on_progress)?;
        if let Some(config) = kv_events {
            let publisher = KvPublisher::start(config, replica as u32)?;
            engine.tell_cache_events(Box::new(publisher.sink()));
            publishers.push(publisher);
        }
        let (handle, thread) = engine.spawn()?;
        handles.push(handle);
        threads.push(thread);
    }
    let handle = EngineHandle::of_replicas(&handles);
    let mut model = ServedModel::new(handle, Arc::new(text), defaults);
    model.source = files.path().into();
    model.kv_publishers = publishers;
    model.output_formats = parsers.apply(model.output_formats)?;
    if plan.writes_text {
        tracing::info!("{}", model.output_formats);
    }
    Ok((model, threads))
}
