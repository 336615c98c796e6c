//! The environment, read once and checked: a variable that is unknown or cannot be used stops the start.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{LogFormat, LogLevel};

/// Everything that the environment may decide. A flag goes before its variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// `QUIRE_API_KEY`: keys that clients must send, separated by commas.
    pub(crate) api_keys: Vec<String>,
    /// `QUIRE_MODELS_DIR`.
    pub(crate) models_dir: Option<PathBuf>,
    /// `QUIRE_LOG_LEVEL`.
    pub(crate) log_level: Option<LogLevel>,
    /// `QUIRE_LOG_FORMAT`.
    pub(crate) log_format: Option<LogFormat>,
    /// `HF_ENDPOINT`: the hub that `pull` asks.
    pub(crate) hub_endpoint: Option<String>,
    /// `HF_TOKEN`: sent to that hub, and to no other host.
    pub(crate) hub_token: Option<String>,
    /// `QUIRE_MANAGE_KEY`: keys that may also change which models there are, separated by commas.
    pub(crate) manage_keys: Vec<String>,
    /// `OLLAMA_MODELS`, or where Ollama keeps its models by default: read in place.
    pub(crate) ollama_dir: Option<PathBuf>,
    /// Where downloaded models lie when neither flag nor variable says so.
    pub(crate) cache_dir: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn read() -> Result<Self> {
        Self::from_vars(std::env::vars_os())
    }

    fn from_vars(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Self> {
        let mut environment = Self::default();
        for (name, value) in vars {
            let Some(name) = name.to_str() else { continue };
            environment.take(name, value)?;
        }
        Ok(environment)
    }

    fn take(&mut self, name: &str, value: OsString) -> Result<()> {
        let is_ours = name.starts_with("QUIRE_") || ["HF_ENDPOINT", "HF_TOKEN"].contains(&name);
        match name {
            // An XDG directory goes before the home directory, in whatever order they come.
            "XDG_CACHE_HOME" if !value.is_empty() => {
                self.cache_dir = Some(PathBuf::from(value).join("quire"));
            }
            "HOME" if !value.is_empty() => {
                let home = PathBuf::from(value);
                self.ollama_dir.get_or_insert_with(|| home.join(".ollama/models"));
                self.cache_dir.get_or_insert_with(|| home.join(".cache/quire"));
            }
            "OLLAMA_MODELS" if !value.is_empty() => self.ollama_dir = Some(value.into()),
            "QUIRE_MODELS_DIR" if value.is_empty() => bail!("QUIRE_MODELS_DIR is set but empty"),
            "QUIRE_MODELS_DIR" => self.models_dir = Some(value.into()),
            _ if !is_ours => {}
            _ => match value.to_str() {
                Some(value) => self.take_text(name, value.trim())?,
                None => bail!("{name} is not valid UTF-8"),
            },
        }
        Ok(())
    }

    fn take_text(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "QUIRE_API_KEY" => {
                self.api_keys = value.split(',').map(|key| key.trim().to_owned()).collect();
                if self.api_keys.iter().any(String::is_empty) {
                    bail!("QUIRE_API_KEY has an empty key");
                }
            }
            "QUIRE_MANAGE_KEY" => {
                self.manage_keys = value.split(',').map(|key| key.trim().to_owned()).collect();
                if self.manage_keys.iter().any(String::is_empty) {
                    bail!("QUIRE_MANAGE_KEY has an empty key");
                }
            }
            "QUIRE_LOG_LEVEL" => self.log_level = Some(choice(name, value)?),
            "QUIRE_LOG_FORMAT" => self.log_format = Some(choice(name, value)?),
            "HF_TOKEN" | "HF_ENDPOINT" if value.is_empty() => {}
            "HF_TOKEN" => self.hub_token = Some(value.to_owned()),
            "HF_ENDPOINT" if value.starts_with("https://") || value.starts_with("http://") => {
                self.hub_endpoint = Some(value.trim_end_matches('/').to_owned());
            }
            "HF_ENDPOINT" => bail!("HF_ENDPOINT is '{value}', not an http:// or https:// address"),
            _ if is_service_link(name, value) => {}
            _ => bail!(
                "unknown environment variable {name}: Quire reads QUIRE_API_KEY, QUIRE_MANAGE_KEY, QUIRE_MODELS_DIR, \
                 QUIRE_LOG_LEVEL and QUIRE_LOG_FORMAT; everything else is a flag (quire serve --help)"
            ),
        }
        Ok(())
    }
}

/// Kubernetes plants `QUIRE_PORT=tcp://…` and the like in every pod beside a service named `quire`.
fn is_service_link(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_TCP_")
        || name.contains("_UDP_")
        || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

fn choice<T: clap::ValueEnum>(name: &str, value: &str) -> Result<T> {
    T::from_str(value, true).or_else(|_| {
        let names: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
            .collect();
        bail!("{name} is '{value}', not one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Environment> {
        Environment::from_vars(vars.iter().map(|&(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn known_variables_are_taken() {
        let environment = read(&[
            ("HOME", "/home/me"),
            ("PATH", "/bin"),
            ("QUIRE_API_KEY", "one, two"),
            ("QUIRE_LOG_LEVEL", "DEBUG"),
            ("HF_ENDPOINT", "http://127.0.0.1:9/"),
        ])
        .unwrap();
        assert_eq!(environment.api_keys, ["one", "two"]);
        assert_eq!(environment.log_level, Some(LogLevel::Debug));
        assert_eq!(environment.hub_endpoint.as_deref(), Some("http://127.0.0.1:9"));
        assert_eq!(environment.cache_dir, Some("/home/me/.cache/quire".into()));
        for order in [[0, 1], [1, 0]] {
            let pair = [("HOME", "/home/me"), ("XDG_CACHE_HOME", "/cache")];
            let environment = read(&order.map(|i| pair[i])).unwrap();
            assert_eq!(environment.cache_dir, Some("/cache/quire".into()));
        }
    }

    #[test]
    fn what_cannot_be_used_stops_the_start_by_name() {
        for (name, value) in [
            ("QUIRE_APIKEY", "k"),
            ("QUIRE_API_KEY", "a,,b"),
            ("QUIRE_API_KEY", ""),
            ("QUIRE_LOG_LEVEL", "loud"),
            ("QUIRE_LOG_FORMAT", "xml"),
            ("QUIRE_MODELS_DIR", ""),
            ("QUIRE_PORT", "8000"),
            ("HF_ENDPOINT", "hub.example"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }

    #[test]
    fn service_links_of_kubernetes_are_no_mistakes() {
        let environment = read(&[
            ("QUIRE_PORT", "tcp://10.0.0.1:8000"),
            ("QUIRE_SERVICE_HOST", "10.0.0.1"),
            ("QUIRE_SERVICE_PORT_HTTP", "8000"),
            ("QUIRE_PORT_8000_TCP_PROTO", "tcp"),
            ("QUIRE_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ]);
        assert_eq!(environment.unwrap(), Environment::default());
    }
}
