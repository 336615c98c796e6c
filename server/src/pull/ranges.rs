//! Much of one file at once: ranges are asked for side by side and taken in order, so that a file never has holes.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context, Result};

use super::agents::Span;
use super::download::{Interrupted, Open};

/// Bytes of a range. What arrived of all but the first waits in memory.
const RANGE_BYTES: u64 = 16 << 20;
const CHUNK_BYTES: u64 = 1 << 20;

/// Whoever is asked answers with something else than the range.
#[derive(Debug, thiserror::Error)]
#[error("ranges are not served")]
pub(super) struct NoRanges;

/// Whether so many bytes are faster in ranges.
pub(super) fn is_worth_it(num_bytes: u64) -> bool {
    num_bytes >= 2 * RANGE_BYTES
}

/// A range under way: its chunks in order, or what broke.
struct UnderWay {
    chunks: Receiver<Result<Vec<u8>>>,
    len: u64,
}

/// Gives the bytes of `span` to `take` in order, `max_streams` ranges at once. What came before something broke was given.
pub(super) fn fetch(
    open: Open<'_>,
    span: Range<u64>,
    max_streams: usize,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let mut under_way: VecDeque<UnderWay> = VecDeque::new();
        let mut next = span.start;
        loop {
            while under_way.len() < max_streams && next < span.end {
                let (start, len) = (next, RANGE_BYTES.min(span.end - next));
                let (sender, chunks) = mpsc::channel();
                let worker = thread::Builder::new().name("quire-pull".into());
                worker.spawn_scoped(scope, move || {
                    if let Err(error) = read(open, start, len, &sender) {
                        // Nobody listens any more: another range broke first.
                        let _ = sender.send(Err(error));
                    }
                })?;
                under_way.push_back(UnderWay { chunks, len });
                next += len;
            }
            let Some(first) = under_way.pop_front() else { return Ok(()) };
            first.drain(take)?;
        }
    })
}

impl UnderWay {
    fn drain(self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut missing = self.len;
        while missing > 0 {
            let chunk = self.chunks.recv().context("reading a range failed")??;
            take(&chunk)?;
            missing -= chunk.len() as u64;
        }
        Ok(())
    }
}

/// Sends `len` bytes, until nobody takes them.
fn read(open: Open<'_>, start: u64, len: u64, chunks: &Sender<Result<Vec<u8>>>) -> Result<()> {
    let mut download = open(Span { start, len: Some(len) })?;
    if download.start != start {
        return Err(NoRanges.into());
    }
    let mut missing = len;
    while missing > 0 {
        let mut chunk = Vec::new();
        let mut body = (&mut download.body).take(CHUNK_BYTES.min(missing));
        let outcome = body.read_to_end(&mut chunk);
        let count = chunk.len() as u64;
        // What came before the connection broke counts too.
        if count > 0 && chunks.send(Ok(chunk)).is_err() {
            return Ok(());
        }
        outcome.map_err(Interrupted)?;
        if count == 0 {
            return Err(Interrupted(io::ErrorKind::UnexpectedEof.into()).into());
        }
        missing -= count;
    }
    Ok(())
}
