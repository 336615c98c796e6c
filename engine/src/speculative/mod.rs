//! Speculative decoding: guesses of the next tokens, verified by the step that computes them.
//!
//! A proposer guesses, the scheduler gives the guesses (drafts) a place in the step, `verify_drafts` says which are right.
//! Drafts never change an answer, so who guesses, and how much, is a question of speed alone: `acceptance` learns how often
//! drafts are right, `step_cost` what rows cost, and `choice` takes the drafts that bring the most tokens a second.
//!
//! A new proposer is a file with a `Proposer`, and one line in `proposer_of`.

mod acceptance;
mod choice;
mod ngram;
mod step_cost;
mod suffix_automaton;

use std::collections::HashMap;

use quire_scheduler::{Scheduler, SchedulerOutput, SequenceId, TokenId, TokenList};

use crate::config::{Speculative, SpeculativeMethod};

use self::acceptance::{Acceptance, Counts};
use self::choice::Choice;
use self::step_cost::StepCost;

/// Guesses tokens.
pub trait Proposer: Send {
    /// One guess for each ask.
    fn propose(&mut self, asks: &[Ask], guesses: &mut Vec<Guess>);

    /// The sequence has ended.
    fn forget(&mut self, id: SequenceId);
}

/// A sequence whose next tokens are to be guessed.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub id: SequenceId,
    /// Prompt and output.
    pub tokens: &'a [TokenId],
    /// The most drafts that are of use.
    pub most: usize,
}

/// What a proposer makes of an ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guess {
    pub drafts: TokenList,
    /// How much speaks for the first draft: of guesses with the same evidence about the same share is right. Each draft
    /// has one more than the one before it, if that is right.
    pub evidence: u32,
}

/// The loop's side of speculation.
pub struct Speculation {
    proposer: Box<dyn Proposer>,
    settings: Speculative,
    sequences: HashMap<SequenceId, Sequence>,
    acceptance: Acceptance,
    cost: StepCost,
    choice: Choice,
    /// Rows of the step that was launched last, if it does nothing but decode.
    decoding_rows: Option<usize>,
    guesses: Vec<Guess>,
}

/// A running sequence.
#[derive(Default)]
struct Sequence {
    /// The whole guess for the next step, taken or not.
    guess: Guess,
    counts: Counts,
}

impl Speculation {
    pub fn new(settings: &Speculative) -> Self {
        Self {
            proposer: proposer_of(&settings.method),
            settings: settings.clone(),
            sequences: HashMap::new(),
            acceptance: Acceptance::default(),
            cost: StepCost::default(),
            choice: Choice::default(),
            decoding_rows: None,
            guesses: Vec::new(),
        }
    }

    /// Gives the scheduler drafts for the next step. No step is in flight.
    pub fn propose(&mut self, scheduler: &mut Scheduler) {
        let draftable: Vec<(SequenceId, u32)> = scheduler.draftable().collect();
        // Beside prompts there is work enough, and what a step costs says nothing of rows that decode.
        if draftable.is_empty()
            || self.settings.is_adaptive && !only_decodes(scheduler, draftable.len())
        {
            self.sequences.values_mut().for_each(|sequence| sequence.guess = Guess::default());
            return;
        }
        let ask = |&(id, room): &(SequenceId, u32)| Ask {
            id,
            tokens: scheduler.tokens(id).expect("a running sequence has tokens"),
            most: room.min(self.settings.num_tokens) as usize,
        };
        let asks: Vec<Ask> = draftable.iter().map(ask).collect();
        self.guesses.clear();
        self.proposer.propose(&asks, &mut self.guesses);
        if self.settings.is_adaptive {
            self.choice.clear();
            for (index, (&(id, _), guess)) in draftable.iter().zip(&self.guesses).enumerate() {
                let counts = &self.sequences.entry(id).or_default().counts;
                let chances = self.acceptance.chances(counts, guess);
                chances.for_each(|chance| self.choice.offer(index, chance));
            }
            self.choice.choose(draftable.len(), &self.cost);
        }
        for (index, (&(id, _), &guess)) in draftable.iter().zip(&self.guesses).enumerate() {
            let num_drafts = match self.settings.is_adaptive {
                true => self.choice.num_chosen(index),
                false => guess.drafts.len(),
            };
            self.sequences.entry(id).or_default().guess = guess;
            scheduler.propose(id, &guess.drafts[..num_drafts]);
        }
    }

    /// A step begins.
    pub fn launched(&mut self, output: &SchedulerOutput) {
        let mut sequences = output.sequences.iter();
        let decodes = sequences.all(|sequence| sequence.num_tokens == 1 + sequence.num_drafts);
        self.decoding_rows = decodes.then(|| output.num_tokens() as usize);
    }

    /// It took so long.
    pub fn finished_step(&mut self, seconds: f64) {
        if let Some(num_rows) = self.decoding_rows.take() {
            self.cost.record(num_rows, seconds);
        }
    }

    /// The step gave a sequence these tokens.
    pub fn learn(&mut self, id: SequenceId, tokens: &[TokenId]) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            let guess = std::mem::take(&mut sequence.guess);
            self.acceptance.learn(&mut sequence.counts, &guess, tokens);
        }
    }

    /// The sequence has ended.
    pub fn forget(&mut self, id: SequenceId) {
        self.sequences.remove(&id);
        self.proposer.forget(id);
    }
}

fn proposer_of(method: &SpeculativeMethod) -> Box<dyn Proposer> {
    match method {
        SpeculativeMethod::Ngram => Box::<ngram::Ngram>::default(),
    }
}

/// Whether the next step computes one token of each sequence and no prompt.
fn only_decodes(scheduler: &Scheduler, num_draftable: usize) -> bool {
    let stats = scheduler.stats();
    let is_full = stats.num_running == scheduler.max_num_seqs();
    num_draftable == stats.num_running as usize && (stats.num_waiting == 0 || is_full)
}
