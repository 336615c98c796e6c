//! What is guessed right after a prompt: for tests that hold proposers to golden drafts. Nothing here is on the way of a
//! request.

use std::sync::Arc;

use anyhow::Context;
pub use quire_scheduler::DraftTree;
use quire_scheduler::{
    NewSequence, Scheduler, SchedulerOutput, SequenceId, StopRule, Tenant, TokenId, TokenList,
};

use crate::EngineOptions;
use crate::engine::scheduler_config;
use crate::load::load_ranks;
use crate::machine::Machine;
use crate::model_runner::{StepJob, StepResult};
use crate::plan::MemoryPlan;
use crate::request::SamplingParams;
use crate::sequence_table::{RowInit, RowSampling};
use crate::speculative::{Ask, Proposer, proposer_of};
use crate::step_runner::StepRunner;
use crate::weights::ModelFiles;

/// A model with its proposer, without a loop. Prompts share the prefix cache.
pub struct DraftTrial {
    scheduler: Scheduler,
    runner: StepRunner,
    proposer: Box<dyn Proposer>,
    sampling: Arc<RowSampling>,
    num_asked: u64,
}

impl DraftTrial {
    /// `options` name a proposer; texts go on greedily, with `allowed` tokens alone where there are any.
    pub fn new(
        files: &ModelFiles,
        options: &EngineOptions,
        allowed: Option<Vec<TokenId>>,
    ) -> anyhow::Result<Self> {
        let plan = MemoryPlan::new(files, options, &Machine::detect())?;
        let settings = plan.config.speculative.as_ref().context("nothing is to be guessed")?;
        let proposer = proposer_of(settings, files, plan.draft.as_deref())?;
        let runner = StepRunner::new(load_ranks(files, &plan, 0, &|_, _| ())?, false);
        let params = SamplingParams { allowed_token_ids: allowed, ..SamplingParams::greedy(64) };
        let sampling = RowSampling::new(params, 0, &[], plan.spec.vocab_size() as u32);
        Ok(Self {
            scheduler: Scheduler::new(scheduler_config(&plan.config))
                .map_err(anyhow::Error::msg)?,
            runner,
            proposer,
            sampling: Arc::new(sampling),
            num_asked: 0,
        })
    }

    /// The likeliest token after `prompt`, and at most `most` drafts of those that follow it.
    pub fn ask(&mut self, prompt: &[TokenId], most: usize) -> anyhow::Result<(TokenId, DraftTree)> {
        let (text, drafts) = self.go_on(prompt, &|_| most, 1)?.remove(0);
        Ok((text[prompt.len()], drafts))
    }

    /// Goes on from `prompt` by so many steps, each with at most `most` drafts of its number: before each of them the text,
    /// and what is guessed of what follows it.
    pub fn go_on(
        &mut self,
        prompt: &[TokenId],
        most: &dyn Fn(usize) -> usize,
        num_steps: usize,
    ) -> anyhow::Result<Vec<(Vec<TokenId>, DraftTree)>> {
        let id = SequenceId(self.num_asked);
        self.num_asked += 1;
        self.scheduler.add(sequence(id, prompt)).map_err(anyhow::Error::msg)?;
        while self.step(prompt)?.is_empty() {}
        let mut guesses = Vec::new();
        for index in 0..num_steps {
            let tokens = self.scheduler.tokens(id).context("the sequence has ended")?.to_vec();
            let ask = Ask {
                id,
                tokens: &tokens,
                most: most(index),
                sampling: &self.sampling,
                num_prompt_tokens: prompt.len() as u32,
                cache_salt: 0,
            };
            let mut guessed = Vec::new();
            self.proposer.propose(&mut self.runner, &[ask], &mut guessed);
            let drafts = guessed[0].drafts;
            guesses.push((tokens, drafts));
            if index + 1 < num_steps {
                self.scheduler.propose_tree(id, drafts);
                self.step(prompt)?;
            }
        }
        self.proposer.forget(id);
        self.scheduler.cancel(id);
        Ok(guesses)
    }

    /// One step, and the tokens of its one sequence.
    fn step(&mut self, prompt: &[TokenId]) -> anyhow::Result<TokenList> {
        let output = self.scheduler.schedule().context("nothing is left to compute")?;
        let rows = self.rows(&output, prompt.len() as u32);
        self.runner.launch(StepJob { output, rows }, Box::<StepResult>::default());
        let result = self.runner.wait().result.map_err(anyhow::Error::msg)?;
        let events = self.scheduler.update(&result.output);
        Ok(events.iter().map(|event| event.new_tokens).next().unwrap_or_default())
    }

    fn rows(&self, output: &SchedulerOutput, num_prompt_tokens: u32) -> Vec<RowInit> {
        let tokens = |id| self.scheduler.tokens(id).expect("a scheduled sequence has tokens");
        let row = |admitted: &quire_scheduler::Admitted| RowInit {
            row: admitted.row,
            tokens: tokens(admitted.id).to_vec(),
            num_prompt_tokens,
            sampling: Arc::clone(&self.sampling),
        };
        output.admitted.iter().map(row).collect()
    }
}

fn sequence(id: SequenceId, prompt: &[TokenId]) -> NewSequence {
    let nobody = Arc::from([]);
    NewSequence {
        id,
        prompt: prompt.to_vec(),
        stop: StopRule {
            max_tokens: 64,
            min_tokens: 0,
            eos_token_ids: Arc::clone(&nobody),
            stop_token_ids: nobody,
            ignore_eos: true,
        },
        tenant: Tenant::default(),
        priority: 0,
        cache_salt: 0,
        skip_prefix_cache: false,
    }
}
