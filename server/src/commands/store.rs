//! `quire show | rm | cp | create`: the models of the store.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use quire_engine::plan::human_bytes;
use quire_server::registry::Card;
use quire_server::store::create::{From, create as create_in};
use quire_server::store::modelfile::{MAX_MODELFILE, Modelfile};
use quire_server::store::{Store, StoreName};

use super::model;
use crate::args::{CommonOptions, CpArgs, CreateArgs, RmArgs, ShowArgs};

/// Prints what the model's files and its Modelfile say.
pub(crate) fn show(args: &ShowArgs, options: &CommonOptions) -> Result<()> {
    let origin = model::find_origin(&args.model, options)?;
    let card = Card::read(&origin.path)?;
    let mut lines = vec![
        ("file", origin.path.display().to_string()),
        ("size", human_bytes(card.num_bytes)),
        ("architecture", card.architecture.clone()),
        ("parameters", card.parameter_size()),
        ("type", card.quantization.clone()),
        ("context", format!("{} tokens", card.context_length)),
        ("embedding", format!("{} numbers", card.hidden_size)),
        ("can", card.capabilities().join(", ")),
    ];
    let settings = &origin.settings;
    lines
        .extend(settings.parameters.iter().map(|(name, it)| ("parameter", format!("{name} {it}"))));
    lines.extend(settings.system.iter().map(|text| ("system", text.clone())));
    lines.extend(settings.template.iter().map(|name| ("template", name.clone())));
    for (name, value) in lines {
        println!("{name:14} {value}");
    }
    Ok(())
}

pub(crate) fn remove(args: &RmArgs, options: &CommonOptions) -> Result<()> {
    let store = Store::new(options.models_dir.clone());
    for text in &args.models {
        let name: StoreName = text.parse()?;
        // `quire list` shows files too, which others may have put there.
        if store.find(&name)?.is_none()
            && let Ok(path) = model::find(Some(text), &options.models_dir)
        {
            bail!("{} is no model of the store: remove it yourself", path.display());
        }
        store.remove(&name)?;
        println!("{name} is removed");
    }
    Ok(())
}

pub(crate) fn copy(args: &CpArgs, options: &CommonOptions) -> Result<()> {
    let (source, destination): (StoreName, StoreName) =
        (args.source.parse()?, args.destination.parse()?);
    Store::new(options.models_dir.clone()).copy(&source, &destination)?;
    println!("{destination} is what {source} is");
    Ok(())
}

/// FROM is a name in the store, or else a file: below the Modelfile's folder, or wherever a model is found.
pub(crate) fn create(args: &CreateArgs, options: &CommonOptions) -> Result<()> {
    let name: StoreName = args.model.parse()?;
    let context = || format!("{} cannot be read (--file names another)", args.file.display());
    let size = args.file.metadata().with_context(context)?.len();
    ensure!(size <= MAX_MODELFILE as u64, "{}: too long", args.file.display());
    let text = std::fs::read_to_string(&args.file).with_context(context)?;
    let settings = Modelfile::parse(&text).with_context(|| format!("{}", args.file.display()))?;
    let store = Store::new(options.models_dir.clone());
    let from = match settings.from.parse::<StoreName>() {
        Ok(source) if store.find(&source)?.is_some() => From::Name(source),
        _ => {
            let beside = args.file.parent().unwrap_or(Path::new("")).join(&settings.from);
            let file = match beside.is_file() {
                true => beside,
                false => model::find_origin(&settings.from, options)?.path,
            };
            From::File(file)
        }
    };
    create_in(&store, &name, &from, &settings)?;
    println!("{name}\nserve it with: quire serve {name}");
    Ok(())
}
