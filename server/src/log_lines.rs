//! Lines of the log on their way to standard error. A thread of its own writes them: a reader that has stalled, or a disk that is full,
//! costs lines and stops nobody.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use crate::metrics;

/// Lines that wait to be written; further ones are dropped.
const MAX_WAITING: usize = 4096;

/// How long [`flush`] waits.
const PATIENCE: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();

enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// Writes a line with each call of `write`, and never waits. Before [`start`] it writes to standard error itself.
#[derive(Clone, Copy, Debug)]
pub struct LogLines;

/// Starts the thread; once.
pub fn start() -> io::Result<()> {
    let (sender, receiver) = sync_channel(MAX_WAITING);
    Builder::new()
        .name("quire-log".into())
        .spawn(move || write_all(&receiver, &mut io::stderr()))?;
    // A second thread would have nothing to write, and ends.
    let _ = QUEUE.set(sender);
    Ok(())
}

/// Waits a moment until what was logged is written. For the end of the process.
pub fn flush() {
    let (done, is_done) = sync_channel(1);
    if let Some(queue) = QUEUE.get()
        && queue.try_send(Message::Flush(done)).is_ok()
    {
        let _ = is_done.recv_timeout(PATIENCE);
    }
}

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(queue) = QUEUE.get() else { return io::stderr().write(line) };
        if queue.try_send(Message::Line(line.to_vec())).is_err() {
            metrics::log_lines_dropped().increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(receiver: &Receiver<Message>, out: &mut impl Write) {
    for message in receiver {
        match message {
            Message::Line(line) => {
                if out.write_all(&line).is_err() {
                    metrics::log_lines_dropped().increment(1);
                }
            }
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}
