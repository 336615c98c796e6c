//! Manifests: which blobs a model is made of, as registries and Ollama's store write it.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::name::BlobDigest;

/// The longest manifest that is read.
pub(crate) const MAX_MANIFEST: u64 = 1 << 20;
const MAX_LAYERS: usize = 256;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.ollama.image.";

/// A checked manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Layer,
    pub layers: Vec<Layer>,
}

/// A blob and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub media_type: String,
    pub digest: BlobDigest,
    pub size: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: RawLayer,
    layers: Vec<RawLayer>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RawLayer {
    media_type: String,
    digest: String,
    size: u64,
}

impl Manifest {
    /// Checks every digest before anything is done with it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() as u64 <= MAX_MANIFEST, "the manifest is over {MAX_MANIFEST} bytes");
        let raw: RawManifest = serde_json::from_slice(bytes).context("the manifest is not one")?;
        ensure!(raw.schema_version == 2, "the manifest's version is not 2");
        ensure!(raw.layers.len() <= MAX_LAYERS, "the manifest has over {MAX_LAYERS} layers");
        let layers = raw.layers.into_iter().map(checked).collect::<Result<_>>()?;
        Ok(Self { config: checked(raw.config)?, layers })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let raw = |layer: &Layer| RawLayer {
            media_type: layer.media_type.clone(),
            digest: layer.digest.to_string(),
            size: layer.size,
        };
        let manifest = RawManifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            config: raw(&self.config),
            layers: self.layers.iter().map(raw).collect(),
        };
        serde_json::to_vec(&manifest).expect("it has string keys only")
    }

    /// All blobs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Layers of a kind: `model`, `params`, `system`, …
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(move |layer| layer.kind() == kind)
    }

    pub(crate) fn num_bytes(&self) -> u64 {
        self.blobs().fold(0, |sum: u64, layer| sum.saturating_add(layer.size))
    }
}

impl Layer {
    pub(crate) fn new(kind: &str, digest: BlobDigest, size: u64) -> Self {
        Self { media_type: format!("{LAYER_TYPE}{kind}"), digest, size }
    }

    fn kind(&self) -> &str {
        self.media_type.strip_prefix(LAYER_TYPE).unwrap_or("")
    }
}

fn checked(raw: RawLayer) -> Result<Layer> {
    Ok(Layer { media_type: raw.media_type, digest: raw.digest.parse()?, size: raw.size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_checked_before_it_is_used() {
        let digest = BlobDigest::of(b"x");
        let manifest = Manifest {
            config: Layer { media_type: CONFIG_TYPE.into(), digest: digest.clone(), size: 1 },
            layers: vec![Layer::new("model", digest, 7)],
        };
        let text = String::from_utf8(manifest.to_bytes()).unwrap();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
        assert_eq!((manifest.num_bytes(), manifest.of_kind("model").count()), (8, 1));
        let hex = BlobDigest::of(b"x").hex().to_owned();
        for bad in [
            text.replace(&hex, "../../../../etc/passwd"),
            text.replace(&hex, &hex[1..]),
            text.replace("\"size\":7", "\"size\":-7"),
            text.replace("\"schemaVersion\":2", "\"schemaVersion\":1"),
            text.replace("\"layers\"", "\"Layers\""),
            String::new(),
            "[".repeat(100_000),
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{}", crate::error::shortened(&bad));
        }
        assert!(Manifest::parse(&vec![b' '; MAX_MANIFEST as usize + 1]).is_err());
    }
}
