//! `quire list`: the models in the models folder.

use std::collections::BTreeMap;

use quire_engine::ModelFiles;

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
            Ok(files) if files.tensors().is_empty() => {}
            Ok(files) => println!(
                "{name:width$}  {:>10}  {:8}  {}",
                human_bytes(files.num_bytes()),
                main_type(&files),
                files.architecture().unwrap_or("unknown")
            ),
            Err(error) => println!("{name:width$}  unusable: {error:#}"),
        }
    }
}

/// The element type that takes most of the model's bytes.
pub(crate) fn main_type(files: &ModelFiles) -> String {
    let mut bytes_of: BTreeMap<&str, u64> = BTreeMap::new();
    let tensors = files.tensors();
    for tensor in &tensors {
        *bytes_of.entry(tensor.type_name).or_default() += tensor.num_bytes;
    }
    let largest = bytes_of.into_iter().max_by_key(|&(_, bytes)| bytes);
    largest.map_or("no weights", |(name, _)| name).to_owned()
}
