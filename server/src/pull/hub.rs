//! What is asked of a hub: the files of a repository, and the bytes of one from an offset on.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use ureq::http::{Response, Uri, header};

use super::agents::{Agents, Span};
use super::name::{ModelName, is_file_path};

/// Redirects followed for one file.
const MAX_REDIRECTS: usize = 5;
/// The largest listing of a repository, in bytes.
const MAX_LISTING: u64 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A Hugging Face style hub.
pub(crate) struct Hub {
    endpoint: String,
    token: Option<String>,
    api: Api,
    agents: Agents,
}

/// A repository at one commit.
pub(crate) struct Listing {
    pub(crate) files: Vec<HubFile>,
    repo: ApiRepo,
}

/// A file of a repository, as the hub describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubFile {
    pub path: String,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<String>,
}

/// The bytes of a file from `start` on.
pub(crate) struct Download {
    /// 0 when the hub does not serve ranges, whatever was asked for.
    pub(crate) start: u64,
    /// Of the whole file.
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<String>,
    pub(crate) body: Box<dyn Read>,
}

impl Hub {
    pub(crate) fn new(endpoint: &str, token: Option<String>, models_dir: &Path) -> Result<Self> {
        let api = ApiBuilder::from_cache(Cache::new(models_dir.to_path_buf()))
            .with_endpoint(endpoint.to_owned())
            .with_token(token.clone())
            .with_user_agent("quire", env!("CARGO_PKG_VERSION"))
            .build()
            .context("the hub's client cannot start")?;
        Ok(Self { endpoint: endpoint.to_owned(), token, api, agents: Agents::default() })
    }

    /// The files of `name` at `revision`. Those whose names could leave their folder are left out.
    pub(crate) fn list(&self, name: &ModelName, revision: &str) -> Result<Listing> {
        let repo = |revision: &str| {
            let repo = Repo::with_revision(name.id(), RepoType::Model, revision.to_owned());
            self.api.repo(repo)
        };
        let unreachable = || format!("the hub at {} cannot be reached", self.endpoint);
        let mut response = repo(revision)
            .info_request()
            .query("blobs", "true")
            .config()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .build()
            .call()
            .with_context(unreachable)?;
        self.check_status(&response, &format!("{} (revision {revision})", name.id()))?;
        let body = response.body_mut().with_config().limit(MAX_LISTING).read_to_vec();
        let info: RepoInfo = serde_json::from_slice(&body.with_context(unreachable)?)
            .with_context(|| format!("the hub at {} answers in no known form", self.endpoint))?;
        let commit = info.sha.filter(|sha| is_hex(sha, 40));
        let files = info.siblings.into_iter().map(HubFile::from);
        Ok(Listing {
            files: files.filter(|file| is_file_path(&file.path)).collect(),
            repo: repo(commit.as_deref().unwrap_or(revision)),
        })
    }

    /// Opens `file` at `span`. The token goes to the hub itself and to no host it redirects to.
    pub(crate) fn open(&self, listing: &Listing, file: &HubFile, span: Span) -> Result<Download> {
        let first = listing.repo.url(&file.path);
        let mut url = first.clone();
        let mut linked = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get(&first, &url, span)?;
            linked.0 = linked.0.or(header_sha256(&response, "x-linked-etag"));
            linked.1 = linked.1.or(header_text(&response, "x-linked-size")?.parse().ok());
            if response.status().is_redirection() {
                url = join_url(&url, header_text(&response, "location")?)?;
                continue;
            }
            self.check_status(&response, &file.path)?;
            let etag = header_sha256(&response, "etag");
            let (start, size) = body_range(&response, span.start)?;
            return Ok(Download {
                start,
                size: size.or(linked.1),
                sha256: linked.0.or(etag),
                body: Box::new(response.into_body().into_reader()),
            });
        }
        bail!("{}: more than {MAX_REDIRECTS} redirects", file.path)
    }

    fn get(&self, first: &str, url: &str, span: Span) -> Result<Response<ureq::Body>> {
        let mut request = self.agents.get(first, url, span)?;
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(url, &self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().with_context(|| format!("{url} cannot be reached"))
    }

    fn check_status<B>(&self, response: &Response<B>, what: &str) -> Result<()> {
        let endpoint = &self.endpoint;
        match response.status().as_u16() {
            200 | 206 => Ok(()),
            404 => bail!("there is no {what} at {endpoint}"),
            401 | 403 => bail!(
                "{endpoint} does not give out {what}: there is no such model, or it is private or \
                 gated; set HF_TOKEN to a token that may read it"
            ),
            429 => bail!("{endpoint} asks to slow down (429); try again in a while"),
            status => bail!("{endpoint} answers {status} for {what}"),
        }
    }
}

#[derive(Deserialize)]
struct RepoInfo {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl From<Sibling> for HubFile {
    fn from(sibling: Sibling) -> Self {
        let (sha256, size) = sibling.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
        let sha256 = sha256.map(|sha| sha.to_ascii_lowercase()).filter(|sha| is_hex(sha, 64));
        Self { path: sibling.rfilename, size: size.or(sibling.size), sha256 }
    }
}

/// Where the body begins, and how long the whole file is.
pub(super) fn body_range<B>(response: &Response<B>, asked: u64) -> Result<(u64, Option<u64>)> {
    if response.status().as_u16() != 206 {
        return Ok((0, header_text(response, "content-length")?.parse().ok()));
    }
    let range = header_text(response, "content-range")?;
    let parsed = range.strip_prefix("bytes ").and_then(|range| {
        let (span, size) = range.split_once('/')?;
        let start: u64 = span.split_once('-')?.0.parse().ok()?;
        Some((start, size.parse().ok()))
    });
    match parsed {
        Some((start, size)) if start == asked => Ok((start, size)),
        _ => bail!("the hub answers with the range '{range}', not from byte {asked}"),
    }
}

pub(super) fn header_text<'a, B>(response: &'a Response<B>, name: &str) -> Result<&'a str> {
    let Some(value) = response.headers().get(name) else { return Ok("") };
    value.to_str().with_context(|| format!("the hub's header {name} is not text"))
}

/// An ETag that is the sha256 of the file, as those of large files are.
fn header_sha256<B>(response: &Response<B>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    let value = value.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    is_hex(&value, 64).then_some(value)
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn same_origin(url: &str, endpoint: &str) -> bool {
    let origin = |text: &str| {
        let uri: Uri = text.parse().ok()?;
        Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_ascii_lowercase()))
    };
    origin(url).is_some_and(|from| origin(endpoint) == Some(from))
}

/// Where a redirect from `url` leads. A secure address never leads to an open one.
pub(super) fn join_url(url: &str, location: &str) -> Result<String> {
    let from: Uri = url.parse().context("the address is malformed")?;
    let (scheme, authority) = (from.scheme_str(), from.authority());
    let joined = match (scheme, authority) {
        (Some(scheme), Some(_)) if location.starts_with("//") => format!("{scheme}:{location}"),
        (Some(scheme), Some(authority)) if location.starts_with('/') => {
            format!("{scheme}://{authority}{location}")
        }
        _ => location.to_owned(),
    };
    let is_web = joined.starts_with("https://") || joined.starts_with("http://");
    if !is_web || (scheme == Some("https") && !joined.starts_with("https://")) {
        bail!("the hub redirects to '{location}', which is not followed");
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_safe() {
        let join = |location: &str| join_url("https://hub.example/o/r", location).ok();
        assert_eq!(join("/x?y").as_deref(), Some("https://hub.example/x?y"));
        assert_eq!(join("//cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        assert_eq!(join("https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        for bad in ["http://cdn.example/x", "file:///etc/passwd", "", "x"] {
            assert_eq!(join(bad), None, "{bad:?}");
        }
        assert!(same_origin("https://Hub.example/a", "https://hub.example"));
        for other in
            ["https://hub.example.evil/a", "http://hub.example/a", "https://hub.example:1/"]
        {
            assert!(!same_origin(other, "https://hub.example"), "{other}");
        }
    }
}
