//! New models of the store: the weights of another one or of a file, with settings of its own.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Store;
use super::manifest::{CONFIG_TYPE, Layer, Manifest};
use super::modelfile::Modelfile;
use super::name::{BlobDigest, StoreName};
use crate::registry::{Card, Origin};

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Name(StoreName),
    /// A file that is a blob already.
    Blob(BlobDigest),
    /// A file of this machine; only who sits at it may name one.
    File(PathBuf),
}

/// Writes the model `name`. What `settings` leave open is as the model says that it comes from.
pub fn create(
    store: &Store,
    name: &StoreName,
    from: &From,
    settings: &Modelfile,
) -> Result<Origin> {
    let _lock = store.lock_to_add()?;
    let (model, inherited) = match from {
        From::Name(source) => {
            let stored =
                store.find(source)?.with_context(|| format!("there is no model {source}"))?;
            let model = stored.manifest.of_kind("model").next().cloned();
            (
                model.with_context(|| format!("{source} has no model in GGUF form"))?,
                stored.manifest.layers,
            )
        }
        From::Blob(digest) => {
            let size = store.blob_path(digest).metadata().map(|it| it.len());
            let size = size.with_context(|| format!("there is no blob {digest}: send it first"))?;
            (Layer::new("model", digest.clone(), size), Vec::new())
        }
        From::File(path) => {
            ensure!(path.is_file(), "{} is no GGUF file; only those are taken", path.display());
            // Before gigabytes are copied.
            Card::read(path)?;
            let (digest, size) = store.import(path)?;
            (Layer::new("model", digest, size), Vec::new())
        }
    };
    let card = Card::read(&store.blob_path(&model.digest))
        .with_context(|| format!("the blob {} is no model that can be served", model.digest))?;
    let mut layers = vec![model];
    layers.extend(settings_layers(store, settings, &inherited)?);
    let config = json!({
        "model_format": "gguf",
        "model_family": card.architecture,
        "model_families": [card.architecture],
        "model_type": card.parameter_size(),
        "file_type": card.quantization,
    });
    let config = config.to_string();
    let digest = store.put_bytes(config.as_bytes())?;
    let config = Layer { media_type: CONFIG_TYPE.to_owned(), digest, size: config.len() as u64 };
    store.put_manifest(name, &Manifest { config, layers })?;
    let stored = store.find(name)?.with_context(|| format!("{name} is gone again"))?;
    store.origin(&stored)
}

/// A layer for each setting: the new one, or the inherited one; parameters are merged.
fn settings_layers(store: &Store, settings: &Modelfile, inherited: &[Layer]) -> Result<Vec<Layer>> {
    let manifest = Manifest {
        config: Layer::new("config", BlobDigest::of(b""), 0),
        layers: inherited.to_vec(),
    };
    let old = store.settings(&manifest)?;
    let mut parameters = old.parameters;
    parameters.extend(settings.parameters.clone());
    let messages =
        if settings.messages.is_empty() { old.messages } else { settings.messages.clone() };
    let licenses =
        if settings.licenses.is_empty() { old.licenses } else { settings.licenses.clone() };
    let mut layers = Vec::new();
    if !parameters.is_empty() {
        let text = Value::Object(parameters).to_string();
        layers.push(store.put_text("params", text.as_bytes())?);
    }
    if let Some(system) = settings.system.as_ref().or(old.system.as_ref()) {
        layers.push(store.put_text("system", system.as_bytes())?);
    }
    if let Some(template) = settings.template.as_ref().or(old.template.as_ref()) {
        layers.push(store.put_text("template", template.as_bytes())?);
    }
    if !messages.is_empty() {
        let text = Value::Array(messages).to_string();
        layers.push(store.put_text("messages", text.as_bytes())?);
    }
    for license in licenses {
        layers.push(store.put_text("license", license.as_bytes())?);
    }
    Ok(layers)
}
