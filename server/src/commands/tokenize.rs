//! `quire tokenize`: text on standard input, token ids on standard output.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use quire_server::text::{SpecialTokens, tokenizer_of};

use super::model;
use crate::args::{CommonOptions, TokenizeArgs};

/// The longest text, in bytes.
const MAX_TEXT: u64 = 1 << 30;

/// Prints the ids of the text on one line, separated by spaces.
pub(crate) fn run(args: &TokenizeArgs, options: &CommonOptions) -> Result<()> {
    let path = model::find_origin(&args.model, options)?.path;
    let files = model::open(&path)?;
    let tokenizer = tokenizer_of(&files)
        .with_context(|| format!("{} has no usable vocabulary", path.display()))?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_TEXT, "the text is longer than {MAX_TEXT} bytes");
    let text = String::from_utf8(bytes).context("the text on standard input is not UTF-8")?;
    let tokens = tokenizer.encode(&text, SpecialTokens::AsText);
    let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
    writeln!(std::io::stdout().lock(), "{}", ids.join(" "))?;
    Ok(())
}
