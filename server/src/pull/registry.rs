//! Registries in the manner of Docker's: a manifest, then its blobs, into the store.

use anyhow::{Context, Result, bail, ensure};
use ureq::http::{Response, header};

use super::agents::{Agents, Span};
use super::guard::is_loopback_host;
use super::hub::{Download, HubFile, body_range, header_text, join_url};
use super::{Report, download};
use crate::store::{MANIFEST_TYPE, MAX_MANIFEST, Manifest, Store, StoreName, check_disk};

const MAX_REDIRECTS: usize = 5;

/// Asks registries, without any key: whoever they redirect to learns nothing.
pub struct RegistryClient {
    agents: Agents,
    max_streams: usize,
}

impl RegistryClient {
    /// Asks for up to `max_streams` ranges of a big blob at once.
    pub fn new(max_streams: usize) -> Self {
        Self { agents: Agents::default(), max_streams }
    }

    /// Downloads the model's blobs that are not in `store` yet, then gives it its name.
    pub fn pull(&self, store: &Store, name: &StoreName, report: Report<'_>) -> Result<Manifest> {
        let _lock = store.lock_to_add()?;
        let base = base_url(name);
        let bytes = self.manifest(&base, name)?;
        let manifest = Manifest::parse(&bytes).with_context(|| format!("{name}"))?;
        let missing = manifest.blobs().filter(|layer| !store.has_blob(&layer.digest));
        let missing = missing.fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        std::fs::create_dir_all(store.blobs())
            .with_context(|| format!("{} cannot be written", store.root().display()))?;
        check_disk(&store.blobs(), missing)?;
        for layer in manifest.blobs() {
            let file = HubFile {
                path: format!("{name} {}", &layer.digest.hex()[..12]),
                size: Some(layer.size),
                sha256: Some(layer.digest.hex().to_owned()),
            };
            let url = format!("{base}/blobs/{}", layer.digest);
            let open = |span| self.open(&url, span);
            let path = store.blob_path(&layer.digest);
            download::fetch(&open, self.max_streams, &file, &path, &mut *report)?;
        }
        store.put_manifest(name, &manifest)?;
        Ok(manifest)
    }

    fn manifest(&self, base: &str, name: &StoreName) -> Result<Vec<u8>> {
        let url = format!("{base}/manifests/{}", name.tag);
        let request =
            self.agents.get(&url, &url, Span::WHOLE)?.header(header::ACCEPT, MANIFEST_TYPE);
        let mut response =
            request.call().with_context(|| format!("{} cannot be reached", name.host))?;
        match response.status().as_u16() {
            200 => {}
            404 => bail!("there is no {name} at {}", name.host),
            401 | 403 => bail!("{} does not give out {name}", name.host),
            status => bail!("{} answers {status} for {name}", name.host),
        }
        let body = response.body_mut().with_config().limit(MAX_MANIFEST).read_to_vec();
        body.with_context(|| format!("the manifest of {name} cannot be read"))
    }

    /// Bytes of a blob.
    fn open(&self, first: &str, span: Span) -> Result<Download> {
        let mut url = first.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get(first, &url, span)?;
            if response.status().is_redirection() {
                url = join_url(&url, header_text(&response, "location")?)?;
                continue;
            }
            let status = response.status().as_u16();
            ensure!([200, 206].contains(&status), "the registry answers {status} for a blob");
            let (start, size) = body_range(&response, span.start)?;
            return Ok(Download {
                start,
                size,
                sha256: None,
                body: Box::new(response.into_body().into_reader()),
            });
        }
        bail!("a blob has more than {MAX_REDIRECTS} redirects")
    }

    fn get(&self, first: &str, url: &str, span: Span) -> Result<Response<ureq::Body>> {
        self.agents.get(first, url, span)?.call().context("the registry cannot be reached")
    }
}

/// Without TLS only on this machine.
fn base_url(name: &StoreName) -> String {
    let scheme = if is_loopback_host(&name.host) { "http" } else { "https" };
    format!("{scheme}://{}/v2/{}/{}", name.host, name.namespace, name.model)
}
