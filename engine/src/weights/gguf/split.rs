//! A model in several files named `<model>-00001-of-00003.gguf`: found, opened and checked against each other.

use std::path::{Path, PathBuf};
use std::{fs, io};

use quire_kernels::MappedFile;

use super::GgufFile;
use super::error::{GgufError, GgufProblem};
use super::metadata::Metadata;
use super::parse::{ParsedFile, parse};
use crate::weights::bytes::Bytes;

pub const MAX_SPLITS: u64 = 4096;

const SPLIT_NO: &str = "split.no";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// What a file name says about a split: `model-00002-of-00003.gguf` is split 1 (counted from 0) of 3.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitName {
    pub model: String,
    pub index: u64,
    pub count: u64,
}

impl SplitName {
    pub fn parse(file_name: &str) -> Option<Self> {
        let (rest, count) = file_name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (model, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| {
            let plain = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (number, count) = (digits(number)?, digits(count)?);
        (1..=count).contains(&number).then(|| Self {
            model: model.to_owned(),
            index: number - 1,
            count,
        })
    }

    /// The name of split `index` (from 0) of the same model.
    pub fn file_name(&self, index: u64) -> String {
        format!("{}-{:05}-of-{:05}.gguf", self.model, index + 1, self.count)
    }
}

/// One file, mapped and parsed.
struct Part {
    path: PathBuf,
    map: MappedFile,
    metadata: Metadata,
    parsed: Vec<super::TensorInfo>,
}

impl Part {
    fn open(path: &Path, index: usize) -> Result<Self, GgufError> {
        let io = |error: io::Error| GgufProblem::Io(error).at(path);
        // Before it is opened: the opening of a pipe waits for its other end.
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(GgufProblem::Format("is not a regular file".to_owned()).at(path));
        }
        let map = MappedFile::open(path).map_err(io)?;
        let ParsedFile { entries, tensors } =
            parse(&map.bytes(), index).map_err(|problem| problem.at(path))?;
        // The metadata was copied; most of it is vocabulary.
        map.bytes().release();
        let metadata = Metadata { path: path.to_owned(), entries };
        Ok(Self { path: path.to_owned(), map, metadata, parsed: tensors })
    }

    /// The key's value, which must be `expected`.
    fn expect(&self, key: &str, expected: u64) -> Result<(), GgufError> {
        let found = self.metadata.require_u64(key)?;
        if found != expected {
            let text = format!("is {found}; the name and the other splits say {expected}");
            return Err(self.metadata.invalid(key, text));
        }
        Ok(())
    }
}

pub(super) fn open(path: &Path) -> Result<GgufFile, GgufError> {
    let opened = Part::open(path, 0)?;
    let count = opened.metadata.u64(SPLIT_COUNT)?.unwrap_or(1);
    let parts = if count <= 1 { vec![opened] } else { siblings(&opened, count)? };
    join(parts)
}

/// All splits of the model, given one.
fn siblings(opened: &Part, count: u64) -> Result<Vec<Part>, GgufError> {
    let path = &opened.path;
    if count > MAX_SPLITS {
        let text = format!("is {count}; at most {MAX_SPLITS} splits are read");
        return Err(opened.metadata.invalid(SPLIT_COUNT, text));
    }
    let name = path.file_name().and_then(|name| name.to_str()).and_then(SplitName::parse);
    let Some(name) = name else {
        let text = format!(
            "is one of {count} splits, but its name does not end in -00001-of-{count:05}.gguf, \
             so that the others cannot be found"
        );
        return Err(GgufProblem::Split(text).at(path));
    };
    opened.expect(SPLIT_COUNT, name.count)?;
    opened.expect(SPLIT_NO, name.index)?;
    let paths: Vec<PathBuf> =
        (0..count).map(|index| path.with_file_name(name.file_name(index))).collect();
    let missing: Vec<String> = paths
        .iter()
        .filter(|path| !path.exists())
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    if let Some(first) = missing.first() {
        let more = if missing.len() > 1 {
            format!(" and {} more", missing.len() - 1)
        } else {
            String::new()
        };
        let text = format!("is one of {count} splits; missing beside it: {first}{more}");
        return Err(GgufProblem::Split(text).at(path));
    }
    let total = opened.metadata.u64(SPLIT_TENSORS)?;
    let mut parts = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let part = Part::open(path, index)?;
        part.expect(SPLIT_COUNT, count)?;
        part.expect(SPLIT_NO, index as u64)?;
        if let Some(total) = total {
            part.expect(SPLIT_TENSORS, total)?;
        }
        parts.push(part);
    }
    let found: usize = parts.iter().map(|part| part.parsed.len()).sum();
    match total {
        Some(total) if total != found as u64 => {
            let text = format!("is {total}, but the splits hold {found} tensors");
            Err(opened.metadata.invalid(SPLIT_TENSORS, text))
        }
        _ => Ok(parts),
    }
}

/// The metadata is that of the first split, the tensors are those of all.
fn join(parts: Vec<Part>) -> Result<GgufFile, GgufError> {
    let mut first = None;
    let mut tensors = Vec::new();
    let mut splits = Vec::new();
    for part in parts {
        tensors.extend(part.parsed);
        splits.push(Bytes::Mapped(part.map));
        first.get_or_insert((part.path, part.metadata));
    }
    let (path, metadata) = first.expect("the opened file is one of the parts");
    GgufFile::assemble(path, metadata, tensors, splits)
}
