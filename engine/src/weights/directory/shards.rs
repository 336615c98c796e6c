//! Which safetensors files a directory's model lies in: one, or the shards of an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::weights::json;
use crate::weights::quoted;
use crate::weights::safetensors::SafetensorsFile;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 100_000_000;
const MAX_SHARDS: usize = 4096;

pub(super) fn open_all(directory: &Path) -> anyhow::Result<Vec<SafetensorsFile>> {
    if directory.join(INDEX_FILE).exists() {
        return open_shards(directory);
    }
    let single = directory.join(SINGLE_FILE);
    if single.exists() {
        return Ok(vec![SafetensorsFile::open(&single)?]);
    }
    let names = safetensors_in(directory).with_context(|| directory.display().to_string())?;
    match names.as_slice() {
        [name] => Ok(vec![SafetensorsFile::open(&directory.join(name))?]),
        [] => bail!("{}: the directory has no safetensors file", directory.display()),
        [first, ..] => bail!(
            "{}: the directory has {} safetensors files ({first}, …), but neither {SINGLE_FILE} nor {INDEX_FILE}, \
             which says what belongs together",
            directory.display(),
            names.len()
        ),
    }
}

/// The shards of the index; each tensor must be in the shard that the index says.
fn open_shards(directory: &Path) -> anyhow::Result<Vec<SafetensorsFile>> {
    let path = directory.join(INDEX_FILE);
    let index = json::read(&path, MAX_INDEX_BYTES)?;
    let Some(Value::Object(weight_map)) = index.get("weight_map") else {
        bail!("{}: has no weight_map", path.display());
    };
    let mut tensors_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let shard = shard.as_str().filter(|name| is_file_name(name));
        let shard = shard.with_context(|| {
            format!("{}: the shard of tensor {} is no file name", path.display(), quoted(tensor))
        })?;
        tensors_of.entry(shard).or_default().push(tensor);
    }
    ensure!(
        (1..=MAX_SHARDS).contains(&tensors_of.len()),
        "{}: names {} shards, not 1 to {MAX_SHARDS}",
        path.display(),
        tensors_of.len()
    );
    let missing: Vec<&str> =
        tensors_of.keys().copied().filter(|name| !directory.join(name).exists()).collect();
    if let Some(first) = missing.first() {
        let more = if missing.len() > 1 {
            format!(" and {} more", missing.len() - 1)
        } else {
            String::new()
        };
        bail!("{}: of {} shards, {first}{more} is missing", path.display(), tensors_of.len());
    }
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, tensors) in &tensors_of {
        let file = SafetensorsFile::open(&directory.join(name))?;
        for tensor in tensors {
            ensure!(
                file.tensor(tensor).is_some(),
                "{}: tensor {} is not in {name}",
                path.display(),
                quoted(tensor)
            );
        }
        for tensor in file.tensors() {
            ensure!(
                seen.insert(tensor.name.clone()),
                "{}: tensor {} is in several shards",
                path.display(),
                quoted(&tensor.name)
            );
        }
        files.push(file);
    }
    Ok(files)
}

/// Names inside the directory only: an index must not lead elsewhere.
fn is_file_name(name: &str) -> bool {
    let has_path = name.contains(['/', '\\', '\0']) || matches!(name, "" | "." | "..");
    !has_path && name.ends_with(".safetensors")
}

fn safetensors_in(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
