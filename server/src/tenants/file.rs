//! The keys file (`--keys-file`): JSON with tenants, the SHA-256 of their keys, and what each may use.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::MAX_NAMES;
use crate::http::auth::ApiKey;

const MAX_BYTES: u64 = 4 << 20;
/// Each request's key is compared with all of them.
const MAX_KEYS: usize = 4096;
const MAX_NAME_LEN: usize = 64;
const MAX_WEIGHT: u32 = 10_000;

/// A file that was read and checked.
#[derive(Clone, Debug)]
pub struct KeysFile {
    path: PathBuf,
    entries: Arc<Vec<Entry>>,
}

/// One tenant.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(super) name: String,
    pub(super) keys: Vec<ApiKey>,
    pub(super) settings: Settings,
}

/// What a tenant may use; `None`: as much as it likes.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Its share among those of its class, at least 1.
    pub(super) weight: u32,
    /// Lower is served first.
    pub(super) priority_class: i32,
    pub(super) requests_per_minute: Option<u32>,
    /// Of prompts and answers.
    pub(super) tokens_per_minute: Option<u32>,
    /// Requests at once.
    pub(super) max_concurrency: Option<u32>,
    /// Answers that wait for their first token at once.
    pub(super) max_queued: Option<u32>,
    /// Names of models; `None`: all.
    pub(super) models: Option<Vec<String>>,
    /// For a whole request.
    pub(super) deadline: Option<Duration>,
    /// Its keys open the routes that change which models there are.
    pub(super) may_manage: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weight: 1,
            priority_class: 0,
            requests_per_minute: None,
            tokens_per_minute: None,
            max_concurrency: None,
            max_queued: None,
            models: None,
            deadline: None,
            may_manage: false,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    tenants: Vec<WrittenTenant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTenant {
    name: String,
    #[serde(default)]
    keys_sha256: Vec<String>,
    weight: Option<u32>,
    #[serde(default)]
    priority_class: i32,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
    max_concurrency: Option<u32>,
    max_queued: Option<u32>,
    models: Option<Vec<String>>,
    deadline_seconds: Option<f64>,
    #[serde(default)]
    scopes: Vec<Scope>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Infer,
    Manage,
}

impl KeysFile {
    /// Reads and checks it. The error names the file, the tenant and the field.
    pub fn open(path: &Path) -> Result<Self> {
        let named = || format!("--keys-file {}", path.display());
        let size = std::fs::metadata(path).with_context(named)?.len();
        ensure!(size <= MAX_BYTES, "{} has {size} bytes, over {MAX_BYTES}", named());
        let text = std::fs::read_to_string(path).with_context(named)?;
        let entries = Arc::new(parse(&text).with_context(named)?);
        Ok(Self { path: path.to_owned(), entries })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

fn parse(text: &str) -> Result<Vec<Entry>> {
    let written: Written = serde_json::from_str(text)?;
    ensure!(written.tenants.len() < MAX_NAMES, "tenants: more than {}", MAX_NAMES - 1);
    let entries: Vec<Entry> = written.tenants.into_iter().map(entry).collect::<Result<_>>()?;
    let mut names = HashSet::new();
    for entry in &entries {
        ensure!(names.insert(&entry.name), "tenant {:?} is there twice", entry.name);
    }
    let keys: Vec<&ApiKey> = entries.iter().flat_map(|entry| &entry.keys).collect();
    ensure!(keys.len() <= MAX_KEYS, "keys_sha256: more than {MAX_KEYS} keys in all");
    ensure!(!keys.is_empty(), "no tenant has a key in keys_sha256: nobody could ask anything");
    let mut seen = HashSet::new();
    ensure!(keys.iter().all(|key| seen.insert(key.digest())), "keys_sha256: a key is there twice");
    Ok(entries)
}

fn entry(written: WrittenTenant) -> Result<Entry> {
    let name = written.name.clone();
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ensure!(
        (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(is_safe),
        "name: a tenant's name is 1 to {MAX_NAME_LEN} letters, digits, or any of -_."
    );
    checked(written).with_context(|| format!("tenant {name:?}"))
}

fn checked(written: WrittenTenant) -> Result<Entry> {
    let weight = written.weight.unwrap_or(1);
    ensure!((1..=MAX_WEIGHT).contains(&weight), "weight is {weight}, not 1 to {MAX_WEIGHT}");
    let counts = [
        ("requests_per_minute", written.requests_per_minute),
        ("tokens_per_minute", written.tokens_per_minute),
        ("max_concurrency", written.max_concurrency),
        ("max_queued", written.max_queued),
    ];
    for (field, count) in counts {
        ensure!(count != Some(0), "{field} is 0; leave the tenant out to refuse all it asks");
    }
    let deadline = match written.deadline_seconds {
        Some(seconds) if !(0.001..=86_400.0).contains(&seconds) => {
            bail!("deadline_seconds is {seconds}, not 0.001 to 86400")
        }
        seconds => seconds.map(Duration::from_secs_f64),
    };
    let keys = written.keys_sha256.iter().map(|text| {
        ApiKey::from_sha256(text).context(
            "keys_sha256: each is the SHA-256 of a key in 64 hexadecimal digits (printf %s KEY | sha256sum)",
        )
    });
    let keys = keys.collect::<Result<_>>()?;
    let settings = Settings {
        weight,
        priority_class: written.priority_class,
        requests_per_minute: written.requests_per_minute,
        tokens_per_minute: written.tokens_per_minute,
        max_concurrency: written.max_concurrency,
        max_queued: written.max_queued,
        models: written.models,
        deadline,
        may_manage: written.scopes.contains(&Scope::Manage),
    };
    Ok(Entry { name: written.name, keys, settings })
}

#[cfg(test)]
mod tests {
    use super::parse;

    const KEY: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn mistakes_name_the_tenant_and_the_field() {
        let with =
            |rest: &str| format!(r#"{{"tenants":[{{"name":"a","keys_sha256":["{KEY}"]{rest}}}]}}"#);
        assert_eq!(
            parse(&with(r#","weight":3,"scopes":["infer","manage"]"#)).unwrap()[0].settings.weight,
            3
        );
        let cases = [
            (with(r#","weigth":3"#), "weigth"),
            (with(r#","weight":0"#), "weight"),
            (with(r#","weight":-1"#), "-1"),
            (with(r#","requests_per_minute":0"#), "requests_per_minute"),
            (with(r#","deadline_seconds":1e300"#), "deadline_seconds"),
            (with(r#","scopes":["root"]"#), "root"),
            (r#"{"tenants":[]}"#.into(), "no tenant has a key"),
            (r#"{"tenants":[{"name":"a b","keys_sha256":[]}]}"#.into(), "name"),
            (r#"{"tenants":[{"name":"a","keys_sha256":["x"]}]}"#.into(), "keys_sha256"),
            (format!(r#"{{"tenants":[{{"name":"a","keys_sha256":["{KEY}","{KEY}"]}}]}}"#), "twice"),
            (
                format!(r#"{{"tenants":[{{"name":"a","keys_sha256":["{KEY}"]}},{{"name":"a"}}]}}"#),
                "twice",
            ),
            ("[1".into(), "expected"),
        ];
        for (text, word) in cases {
            let Err(error) = parse(&text) else { panic!("accepted {text}") };
            assert!(format!("{error:#}").contains(word), "{text}: {error:#}");
        }
    }
}
