//! Giving things back: preemption, cancelling, the end of a sequence, and a step that failed.

use crate::draft_tree::DraftTree;
use crate::output::{Row, SequenceEvent, TokenList};
use crate::request::{FinishReason, SequenceId};
use crate::scheduler::Scheduler;
use crate::sequence::Slot;

impl Scheduler {
    /// Ends a sequence in any state, also while a step with it is in flight; false when there is
    /// none.
    ///
    /// Its row and blocks are free at once: steps run in order, so whoever gets them writes later.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let Some(slot) = self.sequences.find(id) else { return false };
        self.retire(slot);
        true
    }

    /// A step failed and the runner was rebuilt: nothing that was computed is left.
    ///
    /// All running sequences are preempted, to be recomputed from their tokens, and the steps in
    /// flight are forgotten: a later [`update`](Self::update) with one of them does nothing. Those
    /// in a step in flight become suspects, each of which runs alone until it has sampled. A
    /// suspect that is here a second time ends with [`FinishReason::Error`].
    pub fn abort_in_flight(&mut self) -> Vec<SequenceEvent> {
        let mut events = Vec::new();
        let mut blamed: Vec<Slot> = Vec::new();
        while let Some(mut step) = self.in_flight.pop_front() {
            for entry in step.entries.drain(..) {
                if self.sequences.epoch(entry.slot) == entry.epoch && !blamed.contains(&entry.slot)
                {
                    blamed.push(entry.slot);
                }
            }
            self.spare_entries.push(step.entries);
        }
        for slot in blamed {
            let sequence = &mut self.sequences[slot];
            if sequence.suspect {
                events.push(SequenceEvent {
                    id: sequence.id,
                    index_in_step: None,
                    new_tokens: TokenList::EMPTY,
                    finish: Some(FinishReason::Error),
                    num_drafts: 0,
                    num_right_drafts: 0,
                });
                self.retire(slot);
            } else {
                sequence.suspect = true;
                self.num_suspects += 1;
            }
        }
        while let Some(&slot) = self.running.last() {
            self.preempt(slot);
        }
        self.clear_cache();
        events
    }

    /// Takes everything but the tokens from a running sequence, and puts it back to its place among
    /// the waiting.
    pub(crate) fn preempt(&mut self, slot: Slot) {
        self.release(slot);
        self.sequences.start_epoch(slot);
        let sequence = &mut self.sequences[slot];
        sequence.num_computed_tokens = 0;
        sequence.num_scheduled_tokens = 0;
        sequence.num_pending_tokens = 0;
        sequence.num_drafts_in_flight = 0;
        sequence.most_scheduled_tokens = 0;
        sequence.drafts = DraftTree::EMPTY;
        sequence.num_published_blocks = 0;
        sequence.num_preemptions += 1;
        self.num_preemptions += 1;
        let (tenant, key) = (sequence.tenant, sequence.key);
        self.tenants.insert(tenant, key, slot);
    }

    /// The end of a sequence, waiting or running.
    pub(crate) fn retire(&mut self, slot: Slot) {
        let sequence = &self.sequences[slot];
        self.num_suspects -= u32::from(sequence.suspect);
        if sequence.row.is_some() {
            self.release(slot);
        } else {
            self.tenants.remove(sequence.tenant, sequence.key);
        }
        self.sequences.remove(slot);
    }

    /// Row and blocks of a running sequence, which leaves the running ones.
    fn release(&mut self, slot: Slot) {
        let place = self.place_of(slot);
        let index = self.running.partition_point(|&other| self.place_of(other) < place);
        assert_eq!(self.running.remove(index), slot, "the running are in order");
        self.tenants.row_freed(self.sequences[slot].tenant);
        self.release_blocks(slot);
        let row: Row = self.sequences[slot].row.take().expect("a running sequence has a row");
        self.free_rows.push(row);
        self.freed_rows.push(row);
    }
}
