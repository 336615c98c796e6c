//! Speculative decoding: guesses of the next tokens, verified by the step that computes them.
//!
//! A proposer guesses, the scheduler gives the guesses (drafts) a place in the step, `verify_drafts` says which are right.
//! Drafts never change an answer, so who guesses, and how much, is a question of speed alone: `acceptance` learns how often
//! drafts are right, `step_cost` what rows cost, `choice` takes the drafts that bring the most tokens a second, and `budget`
//! bounds what they lose where all that was wrong.
//!
//! A new proposer is a file with a `Proposer` and its `Kind`, and one line in `KINDS`.

mod acceptance;
mod budget;
mod choice;
pub mod draft_model;
pub mod eagle;
mod method;
mod ngram;
mod step_cost;
mod suffix_automaton;
mod vocabulary;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use quire_scheduler::{DraftTree, Scheduler, SchedulerOutput, SequenceId, TokenId};

use crate::config::{MAX_DRAFTS, Speculative};
use crate::live::Live;
use crate::plan::MemoryPlan;
use crate::sequence_table::RowSampling;
use crate::step_runner::StepRunner;
use crate::weights::ModelFiles;

use self::acceptance::{Acceptance, Counts};
use self::choice::{Choice, Passed};
pub use self::method::{Kind, Making, SpeculativeMethod};
use self::step_cost::StepCost;

/// Every kind of proposer.
const KINDS: &[Kind] = &[ngram::NGRAM, draft_model::DRAFT, eagle::EAGLE, draft_model::SKIP];

/// Guesses tokens.
pub trait Proposer: Send {
    /// One guess for each ask. `target` runs the model's steps, and none is in flight.
    fn propose(&mut self, target: &mut StepRunner, asks: &[Ask], guesses: &mut Vec<Guess>);

    /// How long it takes to guess so many tokens of each of so many sequences. `None`: next to nothing, so that the best
    /// are chosen of what was guessed; else it is chosen how many to guess, by how often they were right before.
    fn seconds(&self, _num_sequences: usize, _num_drafts: usize) -> Option<f64> {
        None
    }

    /// `Guess::evidence` of all its guesses, where they take time: it is wanted before they are made.
    fn evidence(&self) -> u32 {
        MODEL_EVIDENCE
    }

    /// The sequence has ended.
    fn forget(&mut self, id: SequenceId);
}

/// What speaks for the first guess of a model, before it is known how good it is: about three in five are right.
const MODEL_EVIDENCE: u32 = 4;

/// A sequence whose next tokens are to be guessed.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub id: SequenceId,
    /// Prompt and output.
    pub tokens: &'a [TokenId],
    /// The most drafts that are of use.
    pub most: usize,
    pub sampling: &'a Arc<RowSampling>,
    pub num_prompt_tokens: u32,
    /// Prefixes are shared within a salt alone.
    pub cache_salt: u64,
}

/// What a proposer makes of an ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guess {
    pub drafts: DraftTree,
    /// How much speaks for the first draft: of guesses with the same evidence about the same share is right. Each draft
    /// of a chain has one more than the one before it, if that is right.
    pub evidence: u32,
}

impl Guess {
    /// Takes away the drafts that the answer's grammar forbids, and those after them; of a tree also all but its likeliest way,
    /// since masks follow one another.
    fn cut(&mut self, ask: &Ask) {
        let Some(guide) = ask.sampling.guide() else { return };
        if !self.drafts.is_empty() {
            let output = &ask.tokens[ask.num_prompt_tokens as usize..];
            let chain = self.drafts.likeliest_way();
            self.drafts = chain.first(guide.num_allowed(output, &chain));
        }
    }
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
    /// The last step for which drafts were chosen, as far as it is known.
    passing: Option<Passed>,
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
    pub fn new(settings: &Speculative, proposer: Box<dyn Proposer>) -> Self {
        Self {
            proposer,
            settings: settings.clone(),
            sequences: HashMap::new(),
            acceptance: Acceptance::new(settings.eagle_topk > 1),
            cost: StepCost::default(),
            choice: Choice::default(),
            decoding_rows: None,
            passing: None,
            guesses: Vec::new(),
        }
    }

    /// Gives the scheduler drafts for the next step. No step is in flight.
    pub fn propose(
        &mut self,
        scheduler: &mut Scheduler,
        target: &mut StepRunner,
        live: &HashMap<SequenceId, Live>,
    ) {
        self.settle();
        let start = Instant::now();
        let draftable: Vec<(SequenceId, u32)> = scheduler.draftable().collect();
        let is_adaptive = self.settings.is_adaptive;
        // Beside prompts there is work enough, and what a step costs says nothing of rows that decode.
        if draftable.is_empty() || is_adaptive && !only_decodes(scheduler, draftable.len()) {
            self.sequences.values_mut().for_each(|sequence| sequence.guess = Guess::default());
            return;
        }
        for &(id, _) in &draftable {
            self.sequences.entry(id).or_default();
        }
        let ask = |&(id, room): &(SequenceId, u32)| Ask {
            id,
            tokens: scheduler.tokens(id).expect("a running sequence has tokens"),
            most: room.min(self.settings.num_tokens) as usize,
            sampling: &live[&id].sampling,
            num_prompt_tokens: live[&id].num_prompt_tokens,
            cache_salt: live[&id].cache_salt,
        };
        let mut asks: Vec<Ask> = draftable.iter().map(ask).collect();
        self.guesses.clear();
        let takes_time = self.proposer.seconds(asks.len(), 1).is_some();
        if is_adaptive && takes_time {
            let evidence = self.proposer.evidence();
            self.choose(asks.iter().map(|ask| (ask.id, evidence, ask.most)));
            let chosen = asks.iter_mut().enumerate();
            chosen.for_each(|(index, ask)| ask.most = self.choice.num_chosen(index));
        }
        self.proposer.propose(target, &asks, &mut self.guesses);
        asks.iter().zip(&mut self.guesses).for_each(|(ask, guess)| guess.cut(ask));
        if is_adaptive && !takes_time {
            let guesses = std::mem::take(&mut self.guesses);
            let offers = draftable.iter().zip(&guesses);
            self.choose(offers.map(|(&(id, _), guess)| (id, guess.evidence, guess.drafts.len())));
            self.guesses = guesses;
        }
        for (index, (&(id, _), &guess)) in draftable.iter().zip(&self.guesses).enumerate() {
            let num_chosen =
                if is_adaptive { self.choice.num_chosen(index) } else { MAX_DRAFTS as usize };
            let num_drafts = guess.drafts.len().min(num_chosen);
            scheduler.propose_tree(id, guess.drafts.first(num_drafts));
            self.sequences.entry(id).or_default().guess = guess;
        }
        if is_adaptive {
            let num_sequences = draftable.len();
            let deepest = (0..num_sequences).map(|index| self.choice.num_chosen(index)).max();
            let expected = self.proposer.seconds(num_sequences, deepest.unwrap_or(0));
            self.passing = Some(Passed {
                num_sequences,
                num_tokens: 0,
                step: 0.0,
                making: start.elapsed().as_secs_f64(),
                expected_making: expected.unwrap_or(0.0),
            });
        }
    }

    /// Counts what the last step's drafts came to, if it has ended well.
    fn settle(&mut self) {
        if let Some(passed) = self.passing.take().filter(|passed| passed.step > 0.0) {
            self.choice.account(&self.cost, &passed);
        }
    }

    /// Chooses among the drafts of each sequence: the evidence for the first, and their number.
    fn choose(&mut self, offers: impl ExactSizeIterator<Item = (SequenceId, u32, usize)>) {
        let num_sequences = offers.len();
        self.choice.clear();
        for (index, (id, evidence, num_drafts)) in offers.enumerate() {
            let counts = &self.sequences[&id].counts;
            let chances = self.acceptance.chances(counts, evidence, num_drafts);
            let positions = chances.enumerate();
            positions.for_each(|(before, chance)| self.choice.offer(index, before + 1, chance));
        }
        let proposer = &self.proposer;
        let drafting = |position| proposer.seconds(num_sequences, position).unwrap_or(0.0);
        self.choice.choose(num_sequences, &self.cost, &drafting);
    }

    /// A step begins.
    pub fn launched(&mut self, output: &SchedulerOutput) {
        let mut sequences = output.sequences.iter();
        let decodes = sequences.all(|sequence| sequence.num_tokens == 1 + sequence.num_drafts);
        self.decoding_rows = decodes.then(|| output.num_tokens() as usize);
    }

    /// It took so long.
    pub fn finished_step(&mut self, seconds: f64) {
        let Some(num_rows) = self.decoding_rows.take() else {
            self.passing = None;
            return;
        };
        self.cost.record(num_rows, seconds);
        if let Some(passing) = &mut self.passing {
            passing.step = self.cost.undisturbed(num_rows, seconds);
        }
    }

    /// The step gave a sequence these tokens.
    pub fn learn(&mut self, id: SequenceId, tokens: &[TokenId]) {
        self.passing.iter_mut().for_each(|passing| passing.num_tokens += tokens.len());
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

/// The proposer of a method. `draft`: the plan of the draft model, where the method has one.
pub fn proposer_of(
    settings: &Speculative,
    target: &ModelFiles,
    draft: Option<&MemoryPlan>,
) -> anyhow::Result<Box<dyn Proposer>> {
    (settings.method.kind().load)(Making { settings, target, draft })
}

/// Whether the next step computes one token of each sequence and no prompt.
fn only_decodes(scheduler: &Scheduler, num_draftable: usize) -> bool {
    let stats = scheduler.stats();
    let is_full = stats.num_running == scheduler.max_num_seqs();
    num_draftable == stats.num_running as usize && (stats.num_waiting == 0 || is_full)
}
