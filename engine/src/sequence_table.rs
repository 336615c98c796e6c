//! One stable row for each running sequence: its tokens, its block tables and how it is sampled.

use std::sync::Arc;

use quire_kernels::{BansBefore, TableChange};
use quire_scheduler::{NewBlock, Row, TokenId};

use crate::constraint::Guide;
use crate::pooling::PoolingParams;
use crate::request::SamplingParams;

/// What the sampler needs of a request, prepared once when it is admitted.
#[derive(Debug)]
pub struct RowSampling {
    pub params: SamplingParams,
    /// The sequence is not sampled from, but pooled.
    pub pooling: Option<PoolingParams>,
    pub seed: u64,
    /// `params.banned_token_ids`, then every token that may end the answer.
    banned: Vec<TokenId>,
    num_always_banned: usize,
    /// Before this many output tokens all of `banned` are.
    bans_before: u32,
    /// Bitmask over the vocabulary.
    allowed: Option<Vec<u32>>,
    /// Where a constrained answer stands.
    guide: Option<Guide>,
}

impl RowSampling {
    /// `end_tokens`: the ids that must not be sampled before `params.min_tokens`.
    pub fn new(params: SamplingParams, seed: u64, end_tokens: &[TokenId], vocab_size: u32) -> Self {
        let mut banned = params.banned_token_ids.clone();
        let num_always_banned = banned.len();
        let guide = params.constraint.clone().map(Guide::new);
        let never_ends = params.ignore_eos && guide.is_some();
        let bans_before = if never_ends { u32::MAX } else { params.min_tokens };
        if bans_before > 0 {
            banned.extend_from_slice(end_tokens);
            banned.extend_from_slice(&params.stop_token_ids);
        }
        let allowed = params.allowed_token_ids.as_ref().map(|ids| {
            let mut mask = vec![0_u32; vocab_size.div_ceil(32) as usize];
            ids.iter().for_each(|id| mask[(id / 32) as usize] |= 1 << (id % 32));
            mask
        });
        Self { params, pooling: None, seed, banned, num_always_banned, bans_before, allowed, guide }
    }

    /// Of a sequence that is pooled.
    pub fn pooled(pooling: PoolingParams) -> Self {
        let params = SamplingParams { max_tokens: Some(1), ..SamplingParams::default() };
        Self { pooling: Some(pooling), ..Self::new(params, 0, &[], 0) }
    }

    /// The same without log probabilities, for drafts of the row by a model of so many tokens.
    #[must_use]
    pub fn for_drafts(&self, vocab_size: u32) -> Self {
        let params = SamplingParams {
            logprobs: None,
            prompt_logprobs: None,
            // What a draft model guesses against the grammar is cut before the step.
            constraint: None,
            ..self.params.clone()
        };
        let mut own = Self { params, ..self.with_guide(None) };
        own.params.logit_bias.retain(|&(token, _)| token < vocab_size);
        let is_known = |token: &TokenId| *token < vocab_size;
        let always = own.banned[..own.num_always_banned].iter();
        own.num_always_banned = always.filter(|token| is_known(token)).count();
        own.banned.retain(is_known);
        if let Some(mask) = &mut own.allowed {
            mask.resize(vocab_size.div_ceil(32) as usize, 0);
            if let Some(last) = mask.last_mut().filter(|_| !vocab_size.is_multiple_of(32)) {
                *last &= (1 << (vocab_size % 32)) - 1;
            }
        }
        own
    }

    /// The same for another rank that samples, which goes through the grammar by itself.
    #[must_use]
    pub fn for_rank(self: &Arc<Self>) -> Arc<Self> {
        match &self.guide {
            None => Arc::clone(self),
            Some(guide) => Arc::new(self.with_guide(Some(guide.for_rank()))),
        }
    }

    fn with_guide(&self, guide: Option<Guide>) -> Self {
        Self {
            params: self.params.clone(),
            pooling: self.pooling,
            seed: self.seed,
            banned: self.banned.clone(),
            num_always_banned: self.num_always_banned,
            bans_before: self.bans_before,
            allowed: self.allowed.clone(),
            guide,
        }
    }

    /// Tokens that must not follow `num_output_tokens` tokens.
    pub fn banned(&self, num_output_tokens: u32) -> &[TokenId] {
        let before_minimum = num_output_tokens < self.bans_before;
        if before_minimum { &self.banned } else { &self.banned[..self.num_always_banned] }
    }

    /// Which of what is banned at first is not banned later.
    pub fn bans(&self) -> BansBefore {
        BansBefore { position: self.bans_before, num_always: self.num_always_banned as u32 }
    }

    pub fn allowed(&self) -> Option<&[u32]> {
        self.allowed.as_deref()
    }

    /// Of an answer that must follow something.
    pub fn guide(&self) -> Option<&Guide> {
        self.guide.as_ref()
    }

    /// Takes from a mask what must not follow `num_output_tokens` tokens; end tokens only if something else is left.
    pub fn narrow(&self, mask: &mut [u32], num_output_tokens: usize) -> Result<(), String> {
        if let Some(allowed) = &self.allowed {
            mask.iter_mut().zip(allowed).for_each(|(word, allowed)| *word &= allowed);
        }
        let banned = self.banned(u32::try_from(num_output_tokens).unwrap_or(u32::MAX));
        let (always, ends) = banned.split_at(self.num_always_banned);
        clear(mask, always);
        if mask.iter().all(|&word| word == 0) {
            let message = "the grammar allows no token here that bad_words and allowed_token_ids do not forbid";
            return Err(message.into());
        }
        let end_bits: Vec<u32> = ends.iter().map(|&token| mask[token as usize / 32]).collect();
        clear(mask, ends);
        if mask.iter().all(|&word| word == 0) {
            let words = ends.iter().zip(end_bits);
            words.for_each(|(&token, word)| mask[token as usize / 32] = word);
        }
        Ok(())
    }
}

fn clear(mask: &mut [u32], tokens: &[TokenId]) {
    tokens.iter().for_each(|&token| mask[token as usize / 32] &= !(1 << (token % 32)));
}

/// A sequence that takes a row: new, or resumed after a preemption.
#[derive(Clone, Debug)]
pub struct RowInit {
    pub row: Row,
    /// Prompt and the output so far.
    pub tokens: Vec<TokenId>,
    pub num_prompt_tokens: u32,
    pub sampling: Arc<RowSampling>,
}

/// A row in use.
pub struct TableRow {
    /// Every token known to the device: sampled ones are appended here before the host hears of them.
    pub tokens: Vec<TokenId>,
    pub num_prompt_tokens: usize,
    pub sampling: Arc<RowSampling>,
    /// Counts the owners of all rows.
    pub admission: u64,
}

impl TableRow {
    /// What was sampled takes the place of the drafts, which are the last tokens.
    pub fn take(&mut self, num_drafts: u32, sampled: &[TokenId]) {
        self.tokens.truncate(self.tokens.len() - num_drafts as usize);
        self.tokens.extend_from_slice(sampled);
    }
}

/// All rows. Nothing of a row's former owner survives `admit`.
pub struct SequenceTable {
    rows: Vec<Option<TableRow>>,
    /// For each cache group `[max_num_seqs, max_blocks_per_seq]`. Entries behind a window are old.
    block_tables: Vec<Vec<u32>>,
    max_blocks_per_seq: usize,
    max_model_len: usize,
    num_admissions: u64,
    /// For each cache group what was entered since `clear_changes`, where a device has tables of its own.
    changes: Option<Vec<Vec<TableChange>>>,
}

impl SequenceTable {
    pub fn new(max_num_seqs: u32, max_model_len: u32, block_size: u32, num_groups: usize) -> Self {
        let max_blocks_per_seq = max_model_len.div_ceil(block_size) as usize;
        Self {
            rows: (0..max_num_seqs).map(|_| None).collect(),
            block_tables: vec![vec![0; max_num_seqs as usize * max_blocks_per_seq]; num_groups],
            max_blocks_per_seq,
            max_model_len: max_model_len as usize,
            num_admissions: 0,
            changes: None,
        }
    }

    /// The same table, which also remembers what is entered.
    #[must_use]
    pub fn with_changes(self) -> Self {
        let changes = self.block_tables.iter().map(|_| Vec::new()).collect();
        Self { changes: Some(changes), ..self }
    }

    /// For each cache group the entries that are new; nothing without `with_changes`.
    pub fn changes(&self) -> &[Vec<TableChange>] {
        self.changes.as_deref().unwrap_or_default()
    }

    pub fn clear_changes(&mut self) {
        self.changes.iter_mut().flatten().for_each(Vec::clear);
    }

    /// Gives the row to a sequence, whose tokens will not be moved until it leaves.
    pub fn admit(&mut self, init: RowInit) {
        let RowInit { row, mut tokens, num_prompt_tokens, sampling } = init;
        let num_prompt_tokens = num_prompt_tokens as usize;
        let max_tokens = sampling.params.max_tokens.map_or(self.max_model_len, |max| max as usize);
        let most = num_prompt_tokens.saturating_add(max_tokens).min(self.max_model_len) + 1;
        tokens.reserve_exact(most.saturating_sub(tokens.len()));
        self.num_admissions += 1;
        let admission = self.num_admissions;
        let owner = TableRow { tokens, num_prompt_tokens, sampling, admission };
        self.rows[row.0 as usize] = Some(owner);
    }

    pub fn release(&mut self, row: Row) {
        self.rows[row.0 as usize] = None;
    }

    /// Enters blocks into the row's block tables.
    pub fn enter_blocks(&mut self, row: Row, blocks: &[NewBlock]) {
        let first = row.0 as usize * self.max_blocks_per_seq;
        for new in blocks {
            let index = new.index as usize;
            assert!(index < self.max_blocks_per_seq, "a row has more blocks than fit");
            let (group, index) = (new.group as usize, first + index);
            self.block_tables[group][index] = new.block.0;
            if let Some(changes) = &mut self.changes {
                changes[group].push(TableChange { index: index as u32, block: new.block.0 });
            }
        }
    }

    pub fn row(&self, row: Row) -> &TableRow {
        self.rows[row.0 as usize].as_ref().expect("the scheduler schedules admitted rows")
    }

    pub fn row_mut(&mut self, row: Row) -> &mut TableRow {
        self.rows[row.0 as usize].as_mut().expect("the scheduler schedules admitted rows")
    }

    /// The row, while it belongs to that owner.
    pub fn row_if_of(&self, row: Row, admission: u64) -> Option<&TableRow> {
        self.rows[row.0 as usize].as_ref().filter(|row| row.admission == admission)
    }

    /// So, to be changed.
    pub fn row_of(&mut self, row: Row, admission: u64) -> Option<&mut TableRow> {
        self.rows[row.0 as usize].as_mut().filter(|row| row.admission == admission)
    }

    /// Whether the row still belongs to that owner.
    pub fn is_owned(&self, row: Row, admission: u64) -> bool {
        self.rows[row.0 as usize].as_ref().is_some_and(|row| row.admission == admission)
    }

    /// Block ids of the row in a cache group, in the order of positions.
    pub fn blocks(&self, row: Row, group: usize) -> &[u32] {
        let first = row.0 as usize * self.max_blocks_per_seq;
        &self.block_tables[group][first..first + self.max_blocks_per_seq]
    }

    /// For each cache group `[max_num_seqs, max_blocks_per_seq]`.
    pub fn block_tables(&self) -> &[Vec<u32>] {
        &self.block_tables
    }

    pub fn max_blocks_per_seq(&self) -> usize {
        self.max_blocks_per_seq
    }
}
