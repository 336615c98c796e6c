//! `quire list`: the models in the models folder.

use quire_engine::plan::human_bytes;
use quire_server::registry::main_type;
use quire_server::store::Stored;

use super::model;
use crate::args::CommonOptions;

/// Prints a line a model; a file that cannot be read gets the reason.
pub(crate) fn run(options: &CommonOptions) {
    let models = model::models_in(&options.models_dir);
    let stored = model::stores(options).into_iter().flat_map(|store| store.list());
    let stored: Vec<Stored> = stored.collect();
    if models.is_empty() && stored.is_empty() {
        println!("no model in {}: get one with `quire pull`", options.models_dir.display());
        return;
    }
    let names: Vec<String> = models
        .iter()
        .map(|path| path.strip_prefix(&options.models_dir).unwrap_or(path).display().to_string())
        .collect();
    let stored: Vec<(String, Stored)> =
        stored.into_iter().map(|stored| (stored.name.to_string(), stored)).collect();
    let all_names = names.iter().chain(stored.iter().map(|(name, _)| name));
    let width = all_names.map(String::len).max().unwrap_or(0).max("NAME".len());
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
    for (name, stored) in stored {
        let size = human_bytes(stored.num_bytes());
        match model::find_origin(&name, options).and_then(|origin| model::open(&origin.path)) {
            Ok(files) => println!(
                "{name:width$}  {size:>10}  {:8}  {}",
                main_type(&files),
                files.architecture().unwrap_or("unknown")
            ),
            Err(error) => println!("{name:width$}  unusable: {error:#}"),
        }
    }
}
