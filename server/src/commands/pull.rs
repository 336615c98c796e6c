//! `quire pull`: a model from a Hugging Face style hub, whole and verified or not at all.

use std::path::PathBuf;

use anyhow::{Context, Result};

use self::choice::choose_files;
use self::hub::Hub;
use self::name::{ModelName, check_revision};
use crate::args::{CommonOptions, Environment, PullArgs};
use quire_engine::plan::human_bytes;

mod choice;
mod directory;
mod download;
mod hub;
mod name;
mod progress;

/// The public hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Downloads what `args` names to `MODELS/ORG/REPO/` and says how to serve it.
pub(crate) fn run(
    args: &PullArgs,
    options: &CommonOptions,
    environment: &Environment,
) -> Result<()> {
    let name: ModelName = args.model.parse()?;
    check_revision(&args.revision)?;
    let endpoint = environment.hub_endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT);
    let hub = Hub::new(endpoint, environment.hub_token.clone(), &options.models_dir)?;
    let listing = hub.list(&name, &args.revision)?;
    let files = choose_files(&name, &listing.files)?;

    let folder = options.models_dir.join(&name.org).join(&name.repo);
    let mut paths: Vec<PathBuf> = Vec::with_capacity(files.len());
    for file in files {
        paths.push(download::fetch(&hub, &listing, file, &folder)?);
    }
    let first = paths.first().context("the choice of files is never empty")?;
    let num_bytes: u64 = paths.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
    let model = if first.extension().is_some_and(|it| it == "gguf") { first } else { &folder };
    println!("{} ({})", model.display(), human_bytes(num_bytes));
    println!("serve it with: quire serve {}", model.display());
    Ok(())
}
