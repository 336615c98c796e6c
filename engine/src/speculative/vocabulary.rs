//! Whether a draft model speaks the language of its model: drafts are token ids, which must mean the same text.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::models::spec_of;
use crate::weights::ModelFiles;
use crate::weights::gguf::{GgufFile, StringArray};

/// `tokenizer.ggml.token_type` of ids that no text has: tables are filled up to a round size with them.
const UNUSED: i32 = 5;

/// The tokens of a GGUF file.
struct Tokens<'a> {
    texts: &'a StringArray,
    types: Vec<i32>,
}

impl<'a> Tokens<'a> {
    fn of(file: &'a GgufFile) -> anyhow::Result<Option<Self>> {
        let metadata = file.metadata();
        let types = metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
        let texts = metadata.strings("tokenizer.ggml.tokens")?;
        Ok(texts.map(|texts| Self { texts, types }))
    }

    /// `None`: no text has this id.
    fn text(&self, id: usize) -> Option<&'a str> {
        self.texts.get(id).filter(|_| self.types.get(id) != Some(&UNUSED))
    }
}

/// All ids that texts have must be the same in both. What one vocabulary has more it may only be filled up with.
pub fn ensure_same(target: &ModelFiles, draft: &ModelFiles) -> anyhow::Result<()> {
    let sizes = (spec_of(target)?.vocab_size(), spec_of(draft)?.vocab_size());
    let names = (target.path().display(), draft.path().display());
    let is_known_same = match (target, draft) {
        (ModelFiles::Gguf(target), ModelFiles::Gguf(draft)) => {
            match (Tokens::of(target)?, Tokens::of(draft)?) {
                (Some(target), Some(draft)) => {
                    let difference = difference(&target, &draft);
                    if let Some((id, target, draft)) = difference.filter(|_| sizes.0 == sizes.1) {
                        bail!(
                            "a draft model has the vocabulary of the model: token {id} is {} in {}, but {} in {}",
                            shown(draft),
                            names.1,
                            shown(target),
                            names.0
                        );
                    }
                    difference.is_none()
                }
                _ => false,
            }
        }
        (ModelFiles::Directory(target), ModelFiles::Directory(draft)) if sizes.0 != sizes.1 => {
            let read = |folder: &Path| {
                let path = folder.join("tokenizer.json");
                fs::read(&path).with_context(|| path.display().to_string())
            };
            read(target.path())? == read(draft.path())?
        }
        _ => false,
    };
    ensure!(
        sizes.0 == sizes.1 || is_known_same,
        "a draft model has the vocabulary of the model: {} has {} tokens, {} has {}",
        names.1,
        sizes.1,
        names.0,
        sizes.0
    );
    Ok(())
}

/// The first id with different texts, and those.
fn difference<'a>(
    target: &Tokens<'a>,
    draft: &Tokens<'a>,
) -> Option<(usize, Option<&'a str>, Option<&'a str>)> {
    let num_ids = target.texts.len().max(draft.texts.len());
    let mut texts = (0..num_ids).map(|id| (id, target.text(id), draft.text(id)));
    texts.find(|(_, target, draft)| target != draft)
}

fn shown(text: Option<&str>) -> String {
    text.map_or("of no text".into(), |text| format!("{text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::gguf::GgufWriter;

    #[test]
    fn only_padding_may_differ() {
        let file = |texts: &[&str], types: &[i32]| {
            let mut writer = GgufWriter::new();
            writer
                .string("general.architecture", "llama")
                .strings("tokenizer.ggml.tokens", texts)
                .i32s("tokenizer.ggml.token_type", types);
            GgufFile::from_bytes(Path::new("small.gguf"), writer.to_bytes()).expect("a valid file")
        };
        let target = file(&["a", "b", "[PAD2]"], &[1, 1, 5]);
        let first = |draft: &GgufFile| {
            let tokens = |file| Tokens::of(file).expect("arrays").expect("they are there");
            difference(&tokens(&target), &tokens(draft)).map(|(id, ..)| id)
        };
        assert_eq!(first(&file(&["a", "b"], &[1, 1])), None);
        assert_eq!(first(&file(&["a", "b", "<x>", "<y>"], &[1, 1, 5, 5])), None);
        assert_eq!(first(&file(&["a", "b", "c"], &[1, 1, 1])), Some(2));
        assert_eq!(first(&file(&["a"], &[1])), Some(1));
        assert_eq!(first(&file(&["a", "x"], &[1, 1])), Some(1));
    }
}
