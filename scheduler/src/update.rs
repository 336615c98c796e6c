//! What a finished step means: tokens accepted, sequences ended.

use crate::output::{SampledSequence, SequenceEvent, StepOutput, TokenList};
use crate::request::{FinishReason, TokenId};
use crate::scheduler::{EntryInFlight, Scheduler};
use crate::sequence::Sequence;
use crate::tenants::OUTPUT_COST;

impl Scheduler {
    /// Takes the result of the oldest step in flight; one event for each sequence that got tokens
    /// or ended.
    ///
    /// Results of sequences that ended or were preempted since are dropped. Panics on a result that
    /// is not of the oldest step, or that has not one entry for each scheduled sequence: a mistake
    /// of the caller.
    pub fn update(&mut self, output: &StepOutput) -> Vec<SequenceEvent> {
        let mut events = Vec::with_capacity(output.sequences.len());
        self.update_into(output, &mut events);
        events
    }

    /// [`update`](Self::update) that appends to a buffer.
    pub fn update_into(&mut self, output: &StepOutput, events: &mut Vec<SequenceEvent>) {
        // A step that abort_in_flight has forgotten.
        if self.in_flight.front().is_none_or(|oldest| output.step < oldest.step) {
            return;
        }
        let mut step = self.in_flight.pop_front().expect("a step is in flight");
        assert_eq!(output.step, step.step, "results come in the order of the steps");
        assert_eq!(output.sequences.len(), step.entries.len(), "one result for each sequence");
        for (index, (entry, sampled)) in step.entries.drain(..).zip(&output.sequences).enumerate() {
            events.extend(self.update_sequence(entry, sampled, index as u32));
        }
        self.spare_entries.push(step.entries);
    }

    fn update_sequence(
        &mut self,
        entry: EntryInFlight,
        sampled: &SampledSequence,
        index: u32,
    ) -> Option<SequenceEvent> {
        let EntryInFlight { slot, epoch, num_tokens, num_drafts, samples } = entry;
        if self.sequences.epoch(slot) != epoch {
            if sampled.failed {
                // Its blocks are no longer known, but they may have a name.
                self.clear_cache();
            }
            return None;
        }
        let sequence = &mut self.sequences[slot];
        sequence.num_computed_tokens += num_tokens;
        let (id, tenant) = (sequence.id, sequence.tenant);
        let index_in_step = Some(index);
        if sampled.failed {
            self.forget_blocks(slot);
            self.retire(slot);
            let (new_tokens, finish) = (TokenList::EMPTY, Some(FinishReason::Error));
            return Some(SequenceEvent {
                id,
                index_in_step,
                new_tokens,
                finish,
                num_drafts: 0,
                num_right_drafts: 0,
            });
        }
        if !samples {
            return None;
        }
        let num_sampled = sampled.tokens.len() as u32;
        assert!(
            (1..=1 + num_drafts).contains(&num_sampled),
            "a step that samples returns the right drafts and a token"
        );
        let num_right_drafts = num_sampled - 1;
        let num_wrong = num_drafts - num_right_drafts;
        sequence.num_scheduled_tokens -= num_wrong;
        sequence.num_computed_tokens -= num_wrong;
        sequence.num_drafts_in_flight = 0;
        self.num_suspects -= u32::from(sequence.suspect);
        sequence.suspect = false;
        sequence.num_pending_tokens -= 1 + num_drafts;
        let (new_tokens, finish) = sequence.accept(&sampled.tokens);
        self.tenants.charge(tenant, new_tokens.len() as u32, OUTPUT_COST);
        if num_drafts > 0 {
            self.draft_stats.count(num_drafts, num_right_drafts);
            self.settle_drafts(slot, num_right_drafts);
        }
        self.publish_blocks(slot);
        self.publish_states(slot);
        if finish.is_some() {
            self.retire(slot);
        }
        Some(SequenceEvent { id, index_in_step, new_tokens, finish, num_drafts, num_right_drafts })
    }
}

impl Sequence {
    /// Appends tokens up to the one that ends the sequence: eos, then stop tokens, then limits.
    fn accept(&mut self, tokens: &[TokenId]) -> (TokenList, Option<FinishReason>) {
        let mut accepted = TokenList::EMPTY;
        for &token in tokens {
            self.tokens.push(token);
            accepted.push(token);
            let num_output_tokens = self.num_tokens() - self.num_prompt_tokens;
            let at_limit = self.num_tokens() >= self.max_num_tokens;
            let finish = self
                .stop
                .matches(token, num_output_tokens)
                .or(at_limit.then_some(FinishReason::Length));
            if finish.is_some() {
                return (accepted, finish);
            }
        }
        (accepted, None)
    }
}
