//! Who asks, and how much of the server is theirs: keys, tenants and their limits, from one file that may change while it is served.

mod bucket;
pub(crate) mod caller;
mod file;
mod limits;
mod tenant;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use axum::http::HeaderMap;
use parking_lot::RwLock;

pub use file::KeysFile;
pub(crate) use tenant::{Admission, Tenant, WaitingPlace};

use crate::app::ServerConfig;
use crate::http::auth::{self, ApiKey, KeyHash};
use file::Settings;

/// The tenant of clients without a key of the file; the file may give it limits.
pub const DEFAULT: &str = "default";

/// Names of tenants that one process ever sees: each is a label of metrics, and a number in the scheduler.
const MAX_NAMES: usize = 1024;

/// All tenants.
pub struct Tenants {
    file: Option<KeysFile>,
    table: RwLock<Table>,
}

struct Table {
    keys: Vec<FileKey>,
    /// Every name that was ever in the file: one that comes back has its number and what it used.
    by_name: HashMap<String, Arc<Tenant>>,
    default: Arc<Tenant>,
}

struct FileKey {
    key: ApiKey,
    tenant: Arc<Tenant>,
}

/// Who sent a request.
pub(crate) struct Identity {
    pub(crate) tenant: Arc<Tenant>,
    /// The key that is known.
    pub(crate) key: Option<KeyHash>,
    pub(crate) may_manage: bool,
}

impl Tenants {
    pub(crate) fn new(file: Option<KeysFile>) -> Self {
        let default = Arc::new(Tenant::new(DEFAULT, 0, Settings::default()));
        let by_name = HashMap::from([(DEFAULT.to_owned(), Arc::clone(&default))]);
        let table = Table { keys: Vec::new(), by_name, default };
        let tenants = Self { file, table: RwLock::new(table) };
        if let Some(file) = &tenants.file {
            tenants.apply(file.entries()).expect("a file that was opened has few names");
        }
        tenants
    }

    /// Takes what a file says from now on. The error: it has more names than can be kept apart; nothing is changed then.
    pub(crate) fn apply(&self, entries: &[file::Entry]) -> Result<(), String> {
        let mut table = self.table.write();
        let is_new = |entry: &&file::Entry| !table.by_name.contains_key(&entry.name);
        let num_new = entries.iter().filter(is_new).count();
        if table.by_name.len() + num_new > MAX_NAMES {
            return Err(format!(
                "since the start there were {} names of tenants, the limit is {MAX_NAMES}: restart \
                 the server to forget the old ones",
                table.by_name.len() + num_new
            ));
        }
        let mut keys = Vec::new();
        if !entries.iter().any(|entry| entry.name == DEFAULT) {
            table.default.set(Settings::default());
        }
        for entry in entries {
            let index = table.by_name.len() as u32;
            let settings = entry.settings.clone();
            let tenant = table.by_name.entry(entry.name.clone());
            let tenant = tenant
                .and_modify(|tenant| tenant.set(settings.clone()))
                .or_insert_with(|| Arc::new(Tenant::new(&entry.name, index, settings.clone())));
            let of_key = |key: &ApiKey| FileKey { key: key.clone(), tenant: Arc::clone(tenant) };
            keys.extend(entry.keys.iter().map(of_key));
        }
        table.keys = keys;
        Ok(())
    }

    /// The file that was opened at the start.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(KeysFile::path)
    }

    /// Takes what the file says now. After an error those who could ask still can.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        let path = self.file().context("there is no keys file")?;
        self.apply(KeysFile::open(path)?.entries()).map_err(anyhow::Error::msg)
    }

    /// Several tenants share the server: none of them may have the whole queue.
    pub(crate) fn is_shared(&self) -> bool {
        self.file.is_some()
    }

    pub(crate) fn default_tenant(&self) -> Arc<Tenant> {
        Arc::clone(&self.table.read().default)
    }

    /// Who sends a request with these headers; `None`: a key is needed.
    pub(crate) fn identify(&self, config: &ServerConfig, headers: &HeaderMap) -> Option<Identity> {
        let given = auth::given_key(headers);
        let is_one_of = |keys: &[ApiKey]| {
            given.as_ref().is_some_and(|given| auth::is_one_of(keys.iter(), given))
        };
        let table = self.table.read();
        let key = given.as_ref().map(|given| *given.digest());
        let identity = |tenant: &Arc<Tenant>, may_manage, key| {
            Some(Identity { tenant: Arc::clone(tenant), may_manage, key })
        };
        if is_one_of(&config.manage_keys) {
            return identity(&table.default, true, key);
        }
        // Every key is compared, so that the time says nothing about which one matched.
        let of_file = given.as_ref().and_then(|given| {
            let same = table.keys.iter().filter(|own| own.key.is_same(given));
            same.fold(None, |_, own| Some(&own.tenant))
        });
        if let Some(tenant) = of_file {
            return identity(tenant, tenant.settings().may_manage, key);
        }
        let manages_openly = config.manage_keys.is_empty() && config.open_management;
        if is_one_of(&config.api_keys) {
            return identity(&table.default, manages_openly, key);
        }
        let is_open = config.api_keys.is_empty() && self.file.is_none();
        if is_open { identity(&table.default, manages_openly, None) } else { None }
    }
}
