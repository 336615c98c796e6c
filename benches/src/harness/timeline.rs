//! A run cut into equal pieces of time: what the server did in each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::runner::Record;
use crate::statistics::percentile;

/// Most pieces.
const MAX_PIECES: usize = 240;
/// Shortest piece, seconds.
const MIN_SECONDS: f64 = 0.1;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Of a piece.
    pub seconds: f64,
    pub pieces: Vec<Piece>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// Chunks with content that came, a second.
    pub chunks_per_second: f64,
    /// Requests under way, on average.
    pub running: f64,
    pub failed: usize,
    /// Median and largest TTFT of the requests meant to be sent in it, milliseconds; `None` of none.
    pub ttft: Option<(f64, f64)>,
}

impl Timeline {
    pub fn of(records: &[Record], seconds: f64) -> Self {
        let piece_seconds =
            (seconds / MAX_PIECES as f64).max(MIN_SECONDS.min(seconds.max(1e-3) / 4.0));
        let num_pieces = ((seconds / piece_seconds).ceil() as usize).clamp(1, MAX_PIECES + 1);
        let start = records.iter().map(|record| record.intended).min().unwrap_or_default();
        let piece_of = |time: Duration| {
            let index = time.saturating_sub(start).as_secs_f64() / piece_seconds;
            (index as usize).min(num_pieces - 1)
        };
        let mut pieces = vec![Piece::default(); num_pieces];
        let mut ttfts = vec![Vec::new(); num_pieces];
        for record in records {
            let (from, to) = (
                record.sent.saturating_sub(start).as_secs_f64(),
                record.ended.saturating_sub(start).as_secs_f64(),
            );
            for index in piece_of(record.sent)..=piece_of(record.ended) {
                let (begin, end) =
                    (index as f64 * piece_seconds, (index + 1) as f64 * piece_seconds);
                pieces[index].running += (to.min(end) - from.max(begin)).max(0.0) / piece_seconds;
            }
            match &record.result {
                Ok(answer) => {
                    let mut time = record.sent + answer.first;
                    pieces[piece_of(time)].chunks_per_second += 1.0 / piece_seconds;
                    for &gap in &answer.gaps {
                        time += Duration::from_micros(u64::from(gap));
                        pieces[piece_of(time)].chunks_per_second += 1.0 / piece_seconds;
                    }
                    let ttft = (record.sent + answer.first).saturating_sub(record.intended);
                    ttfts[piece_of(record.intended)].push(ttft.as_secs_f64() * 1e3);
                }
                Err(_) => pieces[piece_of(record.ended)].failed += 1,
            }
        }
        for (piece, ttfts) in pieces.iter_mut().zip(&ttfts) {
            let has_any = !ttfts.is_empty();
            piece.ttft = has_any.then(|| (percentile(ttfts, 50.0), percentile(ttfts, 100.0)));
        }
        Self { seconds: piece_seconds, pieces }
    }
}
