//! Models by name: manifests and blobs on disk, in the layout of Ollama's store, so that an existing one is read in place.
//!
//! `manifests/HOST/NAMESPACE/MODEL/TAG` lists the blobs of a model, `blobs/sha256-HEX` are they. A blob gets its name only when its
//! bytes have that sum, a manifest is written after all of its blobs, and nothing is joined to a path that did not pass `name.rs`.

mod blobs;
pub mod create;
mod manifest;
pub mod modelfile;
mod name;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

pub use blobs::BlobWriter;
pub(crate) use blobs::check_disk;
pub use manifest::{Layer, Manifest};
pub(crate) use manifest::{MANIFEST_TYPE, MAX_MANIFEST};
pub(crate) use name::DEFAULT_HOST;
pub use name::{BlobDigest, NameError, StoreName};

use crate::registry::{ModelSettings, Origin};

/// The longest text of a layer that is no model.
const MAX_TEXT: u64 = 4 << 20;
/// Manifests in a store that are looked at.
const MAX_MANIFESTS: usize = 16_384;

/// A folder with manifests and blobs; it need not be there yet.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A model of the store.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: StoreName,
    pub manifest: Manifest,
    /// Of the manifest's bytes.
    pub digest: BlobDigest,
    pub modified: SystemTime,
}

impl Stored {
    pub fn num_bytes(&self) -> u64 {
        self.manifest.num_bytes()
    }
}

/// Held while the store is changed.
pub struct StoreLock {
    _file: File,
}

impl Store {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether `path` is a folder with manifests.
    pub fn is_one(path: &Path) -> bool {
        path.join("manifests").is_dir() && path.join("blobs").is_dir()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All models, by name. Files that are no manifests are passed over.
    pub fn list(&self) -> Vec<Stored> {
        let mut names = Vec::new();
        collect(&self.manifests(), &mut Vec::new(), &mut names);
        let mut all: Vec<Stored> =
            names.iter().filter_map(|name| self.find(name).ok().flatten()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The model of that name; `None`: there is none.
    pub fn find(&self, name: &StoreName) -> Result<Option<Stored>> {
        let path = self.manifests().join(name.path());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{name} cannot be read")),
        };
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "{name} is not a file in the store");
        let bytes = read_limited(file, MAX_MANIFEST).with_context(|| format!("{name}"))?;
        Ok(Some(Stored {
            manifest: Manifest::parse(&bytes).with_context(|| format!("{name}"))?,
            digest: BlobDigest::of(&bytes),
            name: name.clone(),
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        }))
    }

    /// What is loaded for it, and its settings.
    pub fn origin(&self, stored: &Stored) -> Result<Origin> {
        let (name, manifest) = (&stored.name, &stored.manifest);
        ensure!(
            manifest.of_kind("adapter").next().is_none(),
            "{name} has an adapter: adapters are not supported"
        );
        let model = manifest.of_kind("model").next();
        let model = model.with_context(|| format!("{name} has no model in GGUF form"))?;
        let path = self.blob_path(&model.digest);
        let found = path.metadata().map_or(0, |it| it.len());
        ensure!(
            found == model.size,
            "{name}: its blob {} is not whole; pull it again",
            model.digest
        );
        let digest = Some(stored.digest.hex().to_owned());
        Ok(Origin { path, settings: Arc::new(self.settings(manifest)?), digest })
    }

    fn settings(&self, manifest: &Manifest) -> Result<ModelSettings> {
        let texts = |kind: &str| -> Result<Vec<String>> {
            manifest.of_kind(kind).map(|layer| self.read_text(layer)).collect()
        };
        let parameters: Map<String, Value> = match texts("params")?.pop() {
            Some(text) => serde_json::from_str(&text).context("its parameters are not JSON")?,
            None => Map::new(),
        };
        let messages: Vec<Value> = match texts("messages")?.pop() {
            Some(text) => serde_json::from_str(&text).context("its messages are not JSON")?,
            None => Vec::new(),
        };
        // Templates of Ollama are Go's, which nothing here runs: the model's own is used. A name is Quire's.
        let template = texts("template")?.pop().filter(|text| modelfile::is_template_name(text));
        Ok(ModelSettings {
            parameters,
            system: texts("system")?.pop(),
            messages,
            licenses: texts("license")?,
            template,
        })
    }

    fn read_text(&self, layer: &Layer) -> Result<String> {
        let path = self.blob_path(&layer.digest);
        let file =
            File::open(&path).with_context(|| format!("its blob {} is not there", layer.digest))?;
        let bytes = read_limited(file, MAX_TEXT)?;
        ensure!(BlobDigest::of(&bytes) == layer.digest, "its blob {} is spoilt", layer.digest);
        String::from_utf8(bytes).with_context(|| format!("its blob {} is not text", layer.digest))
    }

    /// Gives the manifest its name, after all of its blobs are there.
    pub fn put_manifest(&self, name: &StoreName, manifest: &Manifest) -> Result<()> {
        for layer in manifest.blobs() {
            let is_whole =
                self.blob_path(&layer.digest).metadata().is_ok_and(|it| it.len() == layer.size);
            ensure!(is_whole, "{name}: its blob {} is not in the store", layer.digest);
        }
        self.write_manifest(name, &manifest.to_bytes())
    }

    pub fn write_manifest(&self, name: &StoreName, bytes: &[u8]) -> Result<()> {
        let path = self.manifests().join(name.path());
        let folder = path.parent().context("a joined path has a parent")?;
        let context = || format!("{} cannot be written", path.display());
        fs::create_dir_all(folder).with_context(context)?;
        // A temporary name does not pass the grammar, so no list shows it.
        let part = folder.join(format!(".{}.part", uuid::Uuid::new_v4().simple()));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&part)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(&part, &path)).with_context(context).inspect_err(|_| {
            let _ = fs::remove_file(&part);
        })
    }

    /// Another name for the same blobs.
    pub fn copy(&self, from: &StoreName, to: &StoreName) -> Result<()> {
        let _lock = self.lock()?;
        let stored = self.find(from)?.with_context(|| format!("there is no model {from}"))?;
        self.put_manifest(to, &stored.manifest)
    }

    /// Removes the name, then the blobs that no other name has.
    pub fn remove(&self, name: &StoreName) -> Result<()> {
        let _lock = self.lock()?;
        let stored = self.find(name)?.with_context(|| format!("there is no model {name}"))?;
        let path = self.manifests().join(name.path());
        fs::remove_file(&path).with_context(|| format!("{name} cannot be removed"))?;
        // Folders that are empty now; the first that is not ends it.
        let folders = path.ancestors().skip(1).take(3);
        let _ = folders.map(fs::remove_dir).take_while(Result::is_ok).count();
        let Some(kept) = self.referenced() else {
            bail!("{name} is removed; its blobs stay, since another manifest cannot be read");
        };
        for layer in stored.manifest.blobs().filter(|layer| !kept.contains(&layer.digest)) {
            let _ = fs::remove_file(self.blob_path(&layer.digest));
        }
        Ok(())
    }

    /// The blobs of all manifests; `None`: one cannot be read.
    fn referenced(&self) -> Option<HashSet<BlobDigest>> {
        let mut names = Vec::new();
        collect(&self.manifests(), &mut Vec::new(), &mut names);
        let mut all = HashSet::new();
        for name in names {
            match self.find(&name) {
                Ok(Some(stored)) => {
                    all.extend(stored.manifest.blobs().map(|layer| layer.digest.clone()));
                }
                Ok(None) => {}
                Err(_) => return None,
            }
        }
        Some(all)
    }

    /// Alone with the store: blobs that a pull counts on are not removed.
    fn lock(&self) -> Result<StoreLock> {
        let file = self.lock_file()?;
        ensure!(
            file.try_lock().is_ok(),
            "the store {} is being written to; try again when that is done",
            self.root.display()
        );
        Ok(StoreLock { _file: file })
    }

    /// Beside others that add to it.
    pub fn lock_to_add(&self) -> Result<StoreLock> {
        let file = self.lock_file()?;
        ensure!(
            file.try_lock_shared().is_ok(),
            "a model is being removed from the store {}; try again",
            self.root.display()
        );
        Ok(StoreLock { _file: file })
    }

    fn lock_file(&self) -> Result<File> {
        let context = || format!("{} cannot be written", self.root.display());
        fs::create_dir_all(&self.root).with_context(context)?;
        let path = self.root.join(".quire-store.lock");
        OpenOptions::new().write(true).create(true).truncate(false).open(path).with_context(context)
    }

    fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }
}

/// The names of the manifests under `folder`, `parts` deep already.
fn collect(folder: &Path, parts: &mut Vec<String>, names: &mut Vec<StoreName>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(part) = entry.file_name().into_string() else { continue };
        if names.len() >= MAX_MANIFESTS {
            return;
        }
        parts.push(part);
        if let [host, namespace, model, tag] = parts.as_slice() {
            names.extend(format!("{host}/{namespace}/{model}:{tag}").parse::<StoreName>().ok());
        } else {
            collect(&entry.path(), parts, names);
        }
        parts.pop();
    }
}

fn read_limited(file: File, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limit, "it is longer than {limit} bytes");
    Ok(bytes)
}

#[cfg(test)]
mod tests;
