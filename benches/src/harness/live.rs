//! What is going on right now, counted without locks, and its line on the terminal.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::text::for_terminal;
use crate::report::progress;

/// How often the line is drawn anew.
const TICK: Duration = Duration::from_millis(250);
/// How often a log gets a line, where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Counts of a run so far.
#[derive(Debug, Default)]
pub struct Live {
    pub running: AtomicUsize,
    pub peak_running: AtomicUsize,
    pub completed: AtomicUsize,
    pub failed: AtomicUsize,
    tokens: AtomicUsize,
    /// Nothing new is to be sent.
    pub is_stopping: AtomicBool,
}

impl Live {
    pub fn token(&self) {
        self.tokens.fetch_add(1, Relaxed);
    }

    pub fn begin(&self) {
        let running = self.running.fetch_add(1, Relaxed) + 1;
        self.peak_running.fetch_max(running, Relaxed);
    }

    pub fn end(&self, is_answered: bool) {
        self.running.fetch_sub(1, Relaxed);
        let ended = if is_answered { &self.completed } else { &self.failed };
        ended.fetch_add(1, Relaxed);
    }

    pub fn stop(&self) {
        self.is_stopping.store(true, Relaxed);
    }

    pub fn stops(&self) -> bool {
        self.is_stopping.load(Relaxed)
    }
}

/// Draws the counts until it is dropped. Without a terminal it logs now and then; colours obey NO_COLOR.
pub struct Display {
    task: tokio::task::JoinHandle<()>,
    bar: ProgressBar,
}

impl Display {
    /// `total`: requests expected, where it is known.
    pub fn start(live: Arc<Live>, label: &str, total: Option<u64>) -> Self {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let shape = if total.is_some() { "{bar:24} {pos}/{len}" } else { "{spinner}" };
        let template = format!("{{prefix}} {shape} {{elapsed}} {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_prefix(for_terminal(label));
        let is_drawn = stderr().is_terminal();
        let drawn = bar.clone();
        let label = label.to_owned();
        let task = tokio::spawn(async move {
            let mut last = (Instant::now(), 0);
            let mut logged = Instant::now();
            loop {
                tokio::time::sleep(TICK).await;
                let tokens = live.tokens.load(Relaxed);
                let rate = (tokens - last.1) as f64 / last.0.elapsed().as_secs_f64();
                last = (Instant::now(), tokens);
                let (completed, failed) = (live.completed.load(Relaxed), live.failed.load(Relaxed));
                let running = live.running.load(Relaxed);
                let words = format!("{running} running, {rate:.0} chunks/s, {failed} failed");
                drawn.set_position((completed + failed) as u64);
                drawn.set_message(words.clone());
                if !is_drawn && logged.elapsed() >= LOG_EVERY {
                    logged = Instant::now();
                    progress(&format!("{}: {completed} done, {words}", for_terminal(&label)));
                }
            }
        });
        Self { task, bar }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
