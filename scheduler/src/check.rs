//! The invariants of the crate, executed.

use crate::block_pool::BlockPool;
use crate::groups::Group;
use crate::scheduler::{MAX_STEPS_IN_FLIGHT, Scheduler};
use crate::sequence::{Sequence, Slot};
use crate::state::StateTable;

impl Scheduler {
    /// Every invariant listed in the crate documentation; the error says which one is broken. For
    /// tests: it takes time in proportion to all blocks and sequences.
    pub fn check(&self) -> Result<(), String> {
        for &slot in &self.running {
            let sequence = &self.sequences[slot];
            self.check_running(slot)
                .map_err(|message| format!("sequence {}: {message}", sequence.id.0))?;
        }
        for (index, pool) in self.pools.iter().enumerate() {
            self.check_pool(index, pool).map_err(|message| format!("pool {index}: {message}"))?;
        }
        for slot in self.tenants.iter() {
            let sequence = &self.sequences[slot];
            check_waiting(sequence)
                .map_err(|message| format!("sequence {}: {message}", sequence.id.0))?;
        }
        self.check_lists()
    }

    fn check_pool(&self, index: usize, pool: &BlockPool) -> Result<(), String> {
        let mut num_holders = vec![0; pool.num_blocks() as usize];
        let mut num_reserved = 0;
        let of_pool = |group: &Group| group.pool == index;
        for sequence in self.running.iter().map(|&slot| &self.sequences[slot]) {
            let tables = self.groups.paged.iter().zip(&sequence.block_tables);
            for (group, table) in tables.filter(|(group, _)| of_pool(group)) {
                num_reserved += table.num_reserved();
                for (_, block) in table.held() {
                    let num_holders = &mut num_holders[block.0 as usize];
                    num_reserved += u32::from(group.drops() && *num_holders > 0);
                    *num_holders += 1;
                }
            }
            let states = self.groups.recurrent.iter().zip(&sequence.states);
            for (_, state) in states.filter(|(group, _)| of_pool(group)) {
                state.held().for_each(|block| num_holders[block.0 as usize] += 1);
            }
        }
        pool.check(&num_holders, num_reserved)
    }

    fn check_lists(&self) -> Result<(), String> {
        let in_order = |pair: &[Slot]| self.place_of(pair[0]) < self.place_of(pair[1]);
        ensure(self.running.windows(2).all(in_order), "the running are not in order")?;
        ensure(
            self.sequences.len() == self.running.len() + self.tenants.num_waiting() as usize,
            "a sequence neither runs nor waits, or both",
        )?;
        let (_, num_running) = self.tenants.check()?;
        ensure(num_running as usize == self.running.len(), "a tenant's rows are miscounted")?;
        let mut row_is_taken = vec![false; self.config.max_num_seqs as usize];
        let held = self.running.iter().filter_map(|&slot| self.sequences[slot].row);
        for row in held.chain(self.free_rows.iter().copied()) {
            let taken = &mut row_is_taken[row.0 as usize];
            ensure(!*taken, "a row has two owners")?;
            *taken = true;
        }
        ensure(row_is_taken.iter().all(|&taken| taken), "a row is lost")?;
        let all = self.running.iter().copied().chain(self.tenants.iter());
        let num_suspects = all.filter(|&slot| self.sequences[slot].suspect).count();
        ensure(num_suspects == self.num_suspects as usize, "suspects are miscounted")?;
        ensure(self.in_flight.len() <= MAX_STEPS_IN_FLIGHT, "too many steps in flight")
    }

    fn check_running(&self, slot: Slot) -> Result<(), String> {
        let sequence = &self.sequences[slot];
        ensure(sequence.row.is_some(), "runs without a row")?;
        let (mut num_in_flight, mut num_pending) = (0, 0);
        for entry in self.in_flight.iter().flat_map(|step| &step.entries) {
            if entry.slot == slot && entry.epoch == self.sequences.epoch(slot) {
                num_in_flight += entry.num_tokens;
                num_pending += u32::from(entry.samples) + entry.num_drafts;
            }
        }
        ensure(
            sequence.num_scheduled_tokens == sequence.num_computed_tokens + num_in_flight,
            "scheduled is not computed and in flight",
        )?;
        ensure(sequence.num_pending_tokens == num_pending, "pending tokens are miscounted")?;
        ensure(
            sequence.num_scheduled_tokens <= sequence.num_total_tokens(),
            "more is scheduled than is known",
        )?;
        ensure(
            sequence.num_total_tokens() <= sequence.max_num_tokens
                && sequence.max_num_tokens <= self.config.max_model_len,
            "grows past its limit",
        )?;
        self.check_blocks(sequence)
    }

    fn check_blocks(&self, sequence: &Sequence) -> Result<(), String> {
        let block_size = self.config.block_size;
        for (group, table) in self.groups.paged.iter().zip(&sequence.block_tables) {
            let num_scheduled = sequence.num_scheduled_tokens;
            ensure(
                table.num_blocks() >= num_scheduled.div_ceil(block_size),
                "the block table does not cover what is scheduled",
            )?;
            let end = sequence.num_total_tokens().max(sequence.most_scheduled_tokens);
            ensure(
                table.num_blocks() <= end.div_ceil(block_size),
                "the block table holds more than is needed",
            )?;
            let range = (0, end);
            let at_once = self.config.max_num_tokens_at_once();
            ensure(
                table.num_held() <= table.num_entitled()
                    && table.num_entitled()
                        <= group.kind.num_blocks_held(range, at_once, block_size),
                "the block table is promised more than its group sees",
            )?;
            let num_dropped = table.num_blocks() - table.num_held();
            ensure(
                num_dropped <= group.kind.first_visible(sequence.num_certain_tokens()) / block_size,
                "a block that is still seen was given back",
            )?;
            let num_known = num_scheduled.min(sequence.num_tokens());
            for (index, block) in table.held() {
                let Some(hash) = self.pools[group.pool].hash(block) else { continue };
                ensure(
                    (index + 1) * block_size <= num_known,
                    "a block is published before it is full",
                )?;
                let name = sequence.block_hashes[index as usize].in_group(group.number as usize);
                ensure(name == hash, "a block is published under another name")?;
            }
        }
        self.check_states(sequence)
    }

    fn check_states(&self, sequence: &Sequence) -> Result<(), String> {
        for (group, state) in self.groups.recurrent.iter().zip(&sequence.states) {
            let pool = &self.pools[group.pool];
            ensure(
                state.source().is_some() == (sequence.num_scheduled_tokens > 0),
                "the state does not sum up what is scheduled",
            )?;
            let Some(target) = state.target() else {
                return Err("runs without a state to write".to_owned());
            };
            ensure(pool.hash(target).is_none(), "a state that will be written is published")?;
            ensure(pool.num_holders(target) == 1, "a state that will be written is shared")?;
        }
        Ok(())
    }
}

fn check_waiting(sequence: &Sequence) -> Result<(), String> {
    ensure(
        sequence.row.is_none()
            && sequence.states.iter().all(StateTable::is_empty)
            && sequence.block_tables.iter().all(|table| table.num_blocks() == 0),
        "holds something while it waits",
    )?;
    ensure(
        sequence.num_scheduled_tokens == 0
            && sequence.num_computed_tokens == 0
            && sequence.num_pending_tokens == 0,
        "counts tokens while it waits",
    )?;
    ensure(sequence.num_tokens() < sequence.max_num_tokens, "waits at its limit")
}

fn ensure(holds: bool, message: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message.to_owned()) }
}
