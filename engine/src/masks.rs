//! The masks of a step's constrained rows, made by a thread of their own while the step computes.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use quire_scheduler::{SchedulerOutput, TokenId, TokenList};

use crate::sequence_table::{RowSampling, SequenceTable, TableRow};

/// Of the thread: what grammars of clients recurse into is not ours.
const STACK_BYTES: usize = 64 << 20;

const NONE: u32 = u32::MAX;

/// Masks of one step, and who makes them.
pub struct StepMasks {
    /// Words of a mask.
    words: usize,
    blank: Vec<u32>,
    /// By sequence of the step its first mask, or `NONE`.
    first_rows: Vec<u32>,
    /// Away while masks are made.
    job: Option<Box<Job>>,
    is_running: bool,
    /// Started by the first constrained request.
    thread: Option<MaskThread>,
}

#[derive(Default)]
struct Job {
    entries: Vec<Entry>,
    /// `[rows, words]`
    bits: Vec<u32>,
}

struct Entry {
    sampling: Arc<RowSampling>,
    num_before: usize,
    /// Output tokens after the first `num_before`.
    tail: Vec<TokenId>,
    drafts: TokenList,
}

impl StepMasks {
    /// `vocab_size`: the width of the logits.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            words: vocab_size.div_ceil(32),
            blank: vec![0; vocab_size.div_ceil(32)],
            first_rows: Vec::new(),
            job: Some(Box::default()),
            is_running: false,
            thread: None,
        }
    }

    /// Begins to make the masks of the sequences that get tokens in this step. Their rows end with their drafts.
    pub fn begin(&mut self, output: &SchedulerOutput, table: &SequenceTable) {
        let sampled = output.sequences.iter().enumerate().filter(|(_, each)| each.samples);
        self.begin_rows(
            sampled.map(|(index, each)| (index, table.row(each.row), each.num_drafts as usize)),
        );
    }

    /// As `begin`, of rows that each have an index and end with so many drafts.
    pub fn begin_rows<'a>(&mut self, rows: impl Iterator<Item = (usize, &'a TableRow, usize)>) {
        self.first_rows.clear();
        // A step that failed may have left masks in the making.
        self.wait();
        let job = self.job.as_mut().expect("waited for");
        job.entries.clear();
        let mut num_rows = 0;
        for (index, row, num_drafts) in rows {
            let Some(guide) = row.sampling.guide() else { continue };
            let known = row.tokens.len() - num_drafts;
            let output = &row.tokens[row.num_prompt_tokens..known];
            let num_before = guide.num_tokens().min(output.len());
            self.first_rows.resize(index, NONE);
            self.first_rows.push(num_rows);
            num_rows += 1 + num_drafts as u32;
            job.entries.push(Entry {
                sampling: Arc::clone(&row.sampling),
                num_before,
                tail: output[num_before..].to_vec(),
                drafts: row.tokens[known..].iter().copied().collect(),
            });
        }
        if num_rows == 0 {
            return;
        }
        job.bits.resize(num_rows as usize * self.words, 0);
        let thread = self.thread.get_or_insert_with(|| MaskThread::spawn(self.words));
        thread.send(self.job.take().expect("waited for"));
        self.is_running = true;
    }

    /// Waits for what `begin` has begun.
    pub fn wait(&mut self) {
        if self.is_running {
            let thread = self.thread.as_ref().expect("it runs");
            self.job = Some(thread.done.recv().expect("the thread answers every job"));
            self.is_running = false;
        }
    }

    /// A mask without tokens.
    pub fn blank(&self) -> &[u32] {
        &self.blank
    }

    /// After `wait`: the mask after the first `num_drafts` drafts of a sequence of the step. `None`: it has no constraint.
    pub fn mask(&self, sequence: u32, num_drafts: u32) -> Option<&[u32]> {
        let first = *self.first_rows.get(sequence as usize).filter(|&&row| row != NONE)?;
        let start = (first + num_drafts) as usize * self.words;
        Some(&self.job.as_ref().expect("waited for").bits[start..start + self.words])
    }
}

struct MaskThread {
    jobs: Option<Sender<Box<Job>>>,
    done: Receiver<Box<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl MaskThread {
    fn spawn(words: usize) -> Self {
        let (jobs, inbox) = bounded::<Box<Job>>(1);
        let (outbox, done) = bounded(1);
        let serve = move || {
            for mut job in inbox {
                job.run(words);
                if outbox.send(job).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("quire-masks".into())
            .stack_size(STACK_BYTES)
            .spawn(serve)
            .expect("the operating system can start a thread");
        Self { jobs: Some(jobs), done, thread: Some(thread) }
    }

    fn send(&self, job: Box<Job>) {
        let jobs = self.jobs.as_ref().expect("taken only when dropped");
        jobs.send(job).expect("the thread lives as long as its jobs");
    }
}

impl Drop for MaskThread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Job {
    fn run(&mut self, words: usize) {
        let mut rest = &mut self.bits[..];
        for entry in &self.entries {
            let (own, others) = rest.split_at_mut((1 + entry.drafts.len()) * words);
            let guide = entry.sampling.guide().expect("only constrained rows have entries");
            guide.masks(&entry.sampling, (entry.num_before, &entry.tail), &entry.drafts, own);
            rest = others;
        }
    }
}
