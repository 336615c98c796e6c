//! The recurrent states of one sequence in one group: which one the next step reads, and which it writes.
//!
//! A state is overwritten in place until it stands at a block boundary that deserves a snapshot. Then it stays as
//! it is, under the name of its prefix, and the next tokens go to another block: a snapshot costs no copy.

use crate::block::BlockId;
use crate::block_hash::BlockHash;
use crate::output::StateSegment;

#[derive(Default, Debug)]
pub(crate) struct StateTable {
    /// Sums up all scheduled tokens; `None`: there are none.
    source: Option<BlockId>,
    /// What the next step writes: the source, or a block of the sequence's own.
    target: Option<BlockId>,
    /// Read or written by the last step, not by later ones. They are given back when the next step is made: in the
    /// same step another row would write what this one reads.
    leaving: Vec<BlockId>,
    /// The states after each draft of the step in flight.
    drafts: Vec<BlockId>,
    /// A snapshot and the tokens it sums up, not all of which were known when it was scheduled.
    unnamed: Option<(u32, BlockId)>,
    /// The last snapshot within the output, which the next one replaces.
    in_output: Option<(BlockHash, BlockId)>,
}

impl StateTable {
    /// Begins with nothing or a snapshot, whose share is the table's now, and writes to `target`.
    pub(crate) fn begin(&mut self, source: Option<BlockId>, target: BlockId) {
        *self = Self { source, target: Some(target), ..Self::default() };
    }

    /// Schedules the tokens of a step, from `start` to `end`. With `snapshot`, a boundary in `start + 1 ..= end` and a
    /// fresh block, the state at the boundary stays.
    pub(crate) fn schedule(
        &mut self,
        group: u32,
        (start, end): (u32, u32),
        snapshot: Option<(u32, BlockId)>,
        segments: &mut Vec<StateSegment>,
    ) {
        let target = self.target.expect("a running sequence has a state to write");
        let source = self.source;
        self.leaving.extend(source.filter(|&source| source != target));
        let middle = snapshot.map_or(end, |(boundary, _)| boundary);
        segments.push(StateSegment { group, from: source, to: target, num_tokens: middle - start });
        self.source = Some(target);
        let Some((boundary, fresh)) = snapshot else { return };
        self.unnamed = Some((boundary, target));
        self.target = Some(fresh);
        if boundary < end {
            let (from, num_tokens) = (Some(target), end - boundary);
            segments.push(StateSegment { group, from, to: fresh, num_tokens });
            self.leaving.push(target);
            self.source = Some(fresh);
        }
    }

    /// Schedules one draft after what was scheduled, its state to be kept in `block` until it is settled.
    pub(crate) fn schedule_draft(
        &mut self,
        group: u32,
        block: BlockId,
        segments: &mut Vec<StateSegment>,
    ) {
        let from = self.drafts.last().copied().or(self.source);
        segments.push(StateSegment { group, from, to: block, num_tokens: 1 });
        self.drafts.push(block);
    }

    /// The first `num_accepted` drafts were right: the sequence goes on after them.
    pub(crate) fn settle_drafts(&mut self, num_accepted: usize) {
        let last_right = num_accepted.checked_sub(1).map(|index| self.drafts[index]);
        self.leaving.extend(self.drafts.drain(..).filter(|&block| Some(block) != last_right));
        if last_right.is_some() {
            let replaced = self.source.filter(|_| self.source != self.target);
            self.leaving.extend(self.target.into_iter().chain(replaced));
            (self.source, self.target) = (last_right, last_right);
        }
    }

    /// The snapshot that waits for its name, once all its tokens are known.
    pub(crate) fn take_unnamed(&mut self, num_known_tokens: u32) -> Option<(u32, BlockId)> {
        let known = self.unnamed.filter(|&(num_tokens, _)| num_tokens <= num_known_tokens)?;
        self.unnamed = None;
        Some(known)
    }

    /// Notes the last snapshot within the output; returns the one before it.
    pub(crate) fn replace_in_output(
        &mut self,
        hash: BlockHash,
        block: BlockId,
    ) -> Option<(BlockHash, BlockId)> {
        self.in_output.replace((hash, block))
    }

    /// A block that no step to come reads or writes.
    pub(crate) fn pop_leaving(&mut self) -> Option<BlockId> {
        let block = self.leaving.pop()?;
        self.unnamed.take_if(|(_, unnamed)| *unnamed == block);
        Some(block)
    }

    /// Any block; the table is empty when there is none.
    pub(crate) fn pop(&mut self) -> Option<BlockId> {
        (self.unnamed, self.in_output) = (None, None);
        if let Some(target) = self.target.take() {
            self.source.take_if(|source| *source == target);
            return Some(target);
        }
        self.source.take().or_else(|| self.leaving.pop()).or_else(|| self.drafts.pop())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held().next().is_none()
    }

    pub(crate) fn source(&self) -> Option<BlockId> {
        self.source
    }

    pub(crate) fn target(&self) -> Option<BlockId> {
        self.target
    }

    /// Each block once.
    pub(crate) fn held(&self) -> impl Iterator<Item = BlockId> + '_ {
        let source = self.source.filter(|_| self.source != self.target);
        let others = self.leaving.iter().chain(&self.drafts).copied();
        self.target.into_iter().chain(source).chain(others)
    }
}
