//! `quire list`: the models in the models folder.

use std::collections::BTreeMap;

use quire_engine::weights::gguf::{GgufFile, type_layout};

use super::model;
use crate::args::CommonOptions;
use quire_engine::plan::human_bytes;

/// Prints a line a model; a file that cannot be read gets the reason.
pub(crate) fn run(options: &CommonOptions) {
    let models = model::models_in(&options.models_dir);
    if models.is_empty() {
        println!("no model in {}: get one with `quire pull`", options.models_dir.display());
        return;
    }
    let names: Vec<String> = models
        .iter()
        .map(|path| path.strip_prefix(&options.models_dir).unwrap_or(path).display().to_string())
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max("NAME".len());
    println!("{:width$}  {:>10}  {:8}  ARCHITECTURE", "NAME", "SIZE", "TYPE");
    for (path, name) in models.iter().zip(&names) {
        match model::open(path) {
            // A vocabulary for tests and tokenizing.
            Ok(file) if file.tensors().len() == 0 => {}
            Ok(file) => println!(
                "{name:width$}  {:>10}  {:8}  {}",
                human_bytes(file.num_bytes()),
                main_type(&file),
                architecture(&file)
            ),
            Err(error) => println!("{name:width$}  unusable: {error:#}"),
        }
    }
}

/// As the file names it.
pub(crate) fn architecture(file: &GgufFile) -> String {
    let name = file.metadata().string("general.architecture").ok().flatten();
    name.unwrap_or("unknown").to_owned()
}

/// The tensor type that takes most of the file's bytes.
pub(crate) fn main_type(file: &GgufFile) -> String {
    let mut bytes_of: BTreeMap<u32, u64> = BTreeMap::new();
    for tensor in file.tensors() {
        *bytes_of.entry(tensor.ggml_type).or_default() += tensor.num_bytes;
    }
    let largest = bytes_of.into_iter().max_by_key(|&(_, bytes)| bytes);
    largest.map_or("no weights".to_owned(), |(id, _)| {
        type_layout(id).map_or_else(|_| format!("type {id}"), |layout| layout.name.to_owned())
    })
}
