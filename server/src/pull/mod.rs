//! Models from elsewhere, whole and verified or not at all: from a Hugging Face style hub, or a registry.

mod agents;
mod choice;
mod directory;
mod download;
mod guard;
mod hub;
mod name;
mod ranges;
mod registry;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};

pub use hub::HubFile;
pub use name::{ModelName, check_revision};
pub use registry::RegistryClient;

use crate::store::{Store, StoreName};
use choice::choose_files;
use hub::Hub;

/// The public hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where models come from, and how to ask there.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The hub; `None`: the public one.
    pub hub_endpoint: Option<String>,
    /// Sent to the hub, and to no other host.
    pub hub_token: Option<String>,
    /// Ranges of a big file under way at once; up to 1: one stream.
    pub max_streams: usize,
}

/// Where this machine keeps models, and where it gets more.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// With the store's manifests and blobs, and models as plain files.
    pub models_dir: PathBuf,
    pub sources: Sources,
    /// Registries beside Ollama's that requests over HTTP may name.
    pub allowed_registries: Vec<String>,
}

impl Library {
    pub fn store(&self) -> Store {
        Store::new(self.models_dir.clone())
    }
}

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `ORG/REPO`, `hf.co/ORG/REPO:QUANT`.
    Hub(ModelName),
    /// `MODEL:TAG`, `HOST/NAMESPACE/MODEL:TAG`.
    Registry(StoreName),
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let of_hub = ["hf.co/", "huggingface.co/"].iter().find_map(|host| text.strip_prefix(host));
        if let Some(name) = of_hub {
            return Ok(Self::Hub(name.parse()?));
        }
        let base = text.split_once(':').map_or(text, |(base, _)| base);
        Ok(match base.matches('/').count() {
            1 => Self::Hub(text.parse()?),
            _ => Self::Registry(text.parse()?),
        })
    }
}

impl Place {
    /// As it can be asked for again, in one form however it was written.
    pub fn name(&self) -> String {
        match self {
            Self::Hub(name) => name.to_string(),
            Self::Registry(name) => name.to_string(),
        }
    }
}

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was here already.
    Here,
    /// A connection is open, and `len` of its bytes are here.
    Started {
        len: u64,
        size: Option<u64>,
    },
    Has {
        len: u64,
        size: Option<u64>,
    },
    Verifying,
}

/// Is told of each step of each file.
pub type Report<'a> = &'a mut dyn FnMut(&HubFile, Step);

/// A model that came from the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// A GGUF file, or a directory.
    pub path: PathBuf,
    pub num_bytes: u64,
}

/// Downloads what `name` means at `revision` to `MODELS/ORG/REPO/`.
pub fn from_hub(
    sources: &Sources,
    name: &ModelName,
    revision: &str,
    models_dir: &Path,
    report: Report<'_>,
) -> Result<Pulled> {
    let endpoint = sources.hub_endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT);
    let hub = Hub::new(endpoint, sources.hub_token.clone(), models_dir)?;
    let listing = hub.list(name, revision)?;
    let files = choose_files(name, &listing.files)?;
    let folder = models_dir.join(&name.org).join(&name.repo);
    let mut paths: Vec<PathBuf> = Vec::with_capacity(files.len());
    for file in files {
        let path = folder.join(&file.path);
        let open = |span| hub.open(&listing, file, span);
        download::fetch(&open, sources.max_streams, file, &path, &mut *report)?;
        paths.push(path);
    }
    let first = paths.first().context("the choice of files is never empty")?;
    let num_bytes = paths.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
    let is_gguf = first.extension().is_some_and(|it| it == "gguf");
    Ok(Pulled { path: if is_gguf { first.clone() } else { folder }, num_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_hubs_or_registries() {
        for (text, name) in [
            ("org/repo", "hf.co/org/repo"),
            ("org/repo:Q8_0", "hf.co/org/repo:Q8_0"),
            ("hf.co/org/repo:Q8_0", "hf.co/org/repo:Q8_0"),
            ("huggingface.co/org/repo:a/b.gguf", "hf.co/org/repo:a/b.gguf"),
            ("smollm2:135m", "smollm2:135m"),
            ("smollm2", "smollm2:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("registry.example/a/b", "registry.example/a/b:latest"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().name(), name, "{text:?}");
        }
        for text in ["", "../x", "hf.co/../x", "hf.co/a", "a/b/c/d", "hf.co/a/b/c", "http://h/a/b"]
        {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }
}
