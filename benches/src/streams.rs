//! What a bench waits for in the stream of an answer.

use anyhow::bail;
use quire_engine::TokenStream;
use quire_engine::request::{FinishReason, StreamEvent};

/// Waits for the next token.
pub fn next_token(stream: &mut TokenStream) -> anyhow::Result<()> {
    loop {
        match stream.blocking_next() {
            Some(StreamEvent::Token(_)) => return Ok(()),
            Some(StreamEvent::Started(_)) => {}
            event => bail!("the answer ended early: {event:?}"),
        }
    }
}

/// Waits for the end, which is to come when all tokens that were asked for are there.
pub fn expect_length(stream: &mut TokenStream) -> anyhow::Result<()> {
    match stream.blocking_next() {
        Some(StreamEvent::Finished(finished)) if finished.reason == FinishReason::Length => Ok(()),
        event => bail!("the answer did not end at its length: {event:?}"),
    }
}
