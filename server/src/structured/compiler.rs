//! Compiles grammars within limits, away from every thread that others wait for, and keeps the last ones.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use llguidance::{Matcher, ParserFactory};
use parking_lot::Mutex;
use quire_engine::Constraint;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::mask::{Compiled, first_line};
use super::{Kind, StructuredOutput, grammar, vocabulary};
use crate::error::{ApiError, shortened};
use crate::limits::ServerLimits;
use crate::text::{TextPipeline, guarded};

/// Of a thread that compiles: grammars nest.
const STACK_BYTES: usize = 256 << 20;

type Key = [u8; 32];

/// The grammars of one model.
pub(crate) struct GrammarCompiler {
    text: Arc<TextPipeline>,
    /// Made for the first grammar: it takes some tenths of a second.
    factory: OnceLock<Result<ParserFactory, String>>,
    /// The oldest first.
    kept: Mutex<VecDeque<(Key, Arc<Compiled>)>>,
    slots: OnceLock<Arc<Semaphore>>,
}

impl GrammarCompiler {
    pub(crate) fn new(text: Arc<TextPipeline>) -> Arc<Self> {
        Arc::new(Self {
            text,
            factory: OnceLock::new(),
            kept: Mutex::default(),
            slots: OnceLock::new(),
        })
    }

    /// The one way from what was asked to what the engine follows.
    pub(crate) async fn compile(
        self: &Arc<Self>,
        asked: &StructuredOutput,
        limits: &ServerLimits,
    ) -> Result<Constraint, ApiError> {
        asked.check(limits)?;
        let key = key_of(asked);
        let compiled = match self.find(&key) {
            Some(compiled) => compiled,
            None => self.compile_new(key, asked, limits).await?,
        };
        Ok(Constraint::new(move || compiled.begin()))
    }

    fn find(&self, key: &Key) -> Option<Arc<Compiled>> {
        let mut kept = self.kept.lock();
        let index = kept.iter().position(|(own, _)| own == key)?;
        let found = kept.remove(index)?;
        let compiled = Arc::clone(&found.1);
        kept.push_back(found);
        Some(compiled)
    }

    fn keep(&self, key: Key, compiled: &Arc<Compiled>, most: usize) {
        let mut kept = self.kept.lock();
        kept.retain(|(own, _)| *own != key);
        kept.push_back((key, Arc::clone(compiled)));
        while kept.len() > most {
            kept.pop_front();
        }
    }

    /// What takes longer than its time goes on alone, in a place that others then lack, until its limits end it.
    async fn compile_new(
        self: &Arc<Self>,
        key: Key,
        asked: &StructuredOutput,
        limits: &ServerLimits,
    ) -> Result<Arc<Compiled>, ApiError> {
        let timeout = limits.grammar_timeout;
        let work = async {
            let slots = self.slots.get_or_init(|| {
                Arc::new(Semaphore::new(limits.max_grammar_jobs.clamp(1, Semaphore::MAX_PERMITS)))
            });
            let slot = Arc::clone(slots).acquire_owned().await;
            let slot =
                slot.map_err(|_| ApiError::internal("grammars are not compiled any more"))?;
            // Another request may have wanted the same meanwhile.
            if let Some(compiled) = self.find(&key) {
                return Ok(compiled);
            }
            let compiled = self.spawn((key, asked.clone()), slot, limits.max_cached_grammars)?;
            compiled.await.map_err(|_| ApiError::internal("compiling the grammar failed"))?
        };
        tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            let field = asked.field;
            let seconds = timeout.as_secs_f32();
            let message = format!(
                "{field} was not compiled within {seconds} s (--grammar-timeout): make it simpler"
            );
            Err(ApiError::invalid(field, message))
        })
    }

    fn spawn(
        self: &Arc<Self>,
        (key, asked): (Key, StructuredOutput),
        slot: OwnedSemaphorePermit,
        max_kept: usize,
    ) -> Result<oneshot::Receiver<Result<Arc<Compiled>, ApiError>>, ApiError> {
        let (answer, compiled) = oneshot::channel();
        let own = Arc::clone(self);
        let work = move || {
            let made = guarded(|| own.compile_now(&asked));
            let made = made.unwrap_or_else(|panic| Err(format!("broke the compiler: {panic}")));
            if let Ok(compiled) = &made {
                own.keep(key, compiled, max_kept);
            }
            drop(slot);
            let _ = answer.send(made.map_err(|message| asked.invalid(&message)));
        };
        let thread = std::thread::Builder::new().name("quire-grammar".into());
        let spawned = thread.stack_size(STACK_BYTES).spawn(work);
        spawned.map_err(|_| ApiError::internal("no thread could be started for the grammar"))?;
        Ok(compiled)
    }

    fn compile_now(&self, asked: &StructuredOutput) -> Result<Arc<Compiled>, String> {
        let grammar = grammar::of(asked)?;
        let factory = self.factory.get_or_init(|| {
            vocabulary::factory(self.text.tokenizer()).map_err(|error| error.to_string())
        });
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let parser = factory.create_parser(grammar);
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(format!("cannot be used: {}", shortened(error.trim())));
        }
        // What has no answer at all is told at once.
        matcher.compute_mask_or_eos().map_err(|error| first_line(&error))?;
        Ok(Arc::new(Compiled::new(matcher)))
    }
}

fn key_of(asked: &StructuredOutput) -> Key {
    let kind = match asked.kind {
        Kind::JsonObject => 0,
        Kind::Json(_) => 1,
        Kind::Regex(_) => 2,
        Kind::Choice(_) => 3,
        Kind::Grammar(_) => 4,
        Kind::StructuralTag(_) => 5,
    };
    let mut hasher = Sha256::new();
    hasher.update([kind, u8::from(asked.is_compact)]);
    hasher.update(asked.text().as_bytes());
    hasher.finalize().into()
}
