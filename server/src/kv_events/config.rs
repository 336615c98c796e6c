//! `--kv-events-config`: vLLM's JSON of where events are published.

use serde::{Deserialize, Serialize};

/// The fields and defaults are vLLM's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KvEventsConfig {
    pub enable_kv_cache_events: bool,
    pub publisher: Publisher,
    /// Where subscribers connect to; ranks add their number to its port.
    pub endpoint: String,
    /// Where subscribers ask for batches that they missed.
    pub replay_endpoint: Option<String>,
    /// Batches that can be asked for again.
    pub buffer_steps: usize,
    /// Batches that a slow subscriber may be behind.
    pub hwm: u32,
    /// Batches that wait to be sent; further ones are dropped.
    pub max_queue_size: usize,
    /// What messages begin with.
    pub topic: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Publisher {
    Zmq,
    Null,
}

impl Default for KvEventsConfig {
    fn default() -> Self {
        Self {
            enable_kv_cache_events: false,
            publisher: Publisher::Zmq,
            endpoint: "tcp://*:5557".into(),
            replay_endpoint: None,
            buffer_steps: 10_000,
            hwm: 100_000,
            max_queue_size: 100_000,
            topic: String::new(),
        }
    }
}

impl KvEventsConfig {
    /// Of the flag's value; the error says what is wrong with it.
    pub fn parse(json: &str) -> Result<Self, String> {
        let config: Self =
            serde_json::from_str(json).map_err(|error| format!("--kv-events-config: {error}"))?;
        let endpoints = [Some(&config.endpoint), config.replay_endpoint.as_ref()];
        for endpoint in endpoints.into_iter().flatten() {
            address_of(endpoint, 0)?;
        }
        Ok(config)
    }

    pub fn is_on(&self) -> bool {
        self.enable_kv_cache_events && self.publisher == Publisher::Zmq
    }
}

/// `tcp://HOST:PORT` of a rank; `*` is every network of this machine, port 0 a free one.
pub(super) fn address_of(endpoint: &str, rank: u32) -> Result<String, String> {
    let wrong = || format!("--kv-events-config: {endpoint:?} is not tcp://HOST:PORT");
    let (host, port) =
        endpoint.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let offset = if port == 0 { 0 } else { rank };
    let port = u16::try_from(u32::from(port) + offset).map_err(|_| wrong())?;
    let host = match host {
        "" => return Err(wrong()),
        "*" => "0.0.0.0",
        host => host,
    };
    Ok(format!("tcp://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_vllms() {
        let json =
            r#"{"enable_kv_cache_events": true, "endpoint": "tcp://*:6000", "topic": "kv@a"}"#;
        let config = KvEventsConfig::parse(json).expect("it is one");
        assert!(config.is_on() && config.buffer_steps == 10_000 && config.topic == "kv@a");
        assert_eq!(address_of(&config.endpoint, 2).as_deref(), Ok("tcp://0.0.0.0:6002"));
        assert_eq!(address_of("tcp://127.0.0.1:0", 2).as_deref(), Ok("tcp://127.0.0.1:0"));
        let silent =
            KvEventsConfig::parse(r#"{"enable_kv_cache_events": true, "publisher": "null"}"#);
        assert!(!silent.expect("it is one").is_on());
        for wrong in [
            "{",
            r#"{"port": 1}"#,
            r#"{"endpoint": "ipc://x"}"#,
            r#"{"replay_endpoint": "tcp://h:x"}"#,
        ] {
            let error = KvEventsConfig::parse(wrong).expect_err("it is wrong");
            assert!(error.starts_with("--kv-events-config: "), "{error}");
        }
    }
}
