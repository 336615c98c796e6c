//! The limits of the HTTP front-end; each is a flag of `quire serve`.

use std::time::Duration;

use crate::error::ApiError;

/// What one client, or all of them together, may ask of the front-end.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Bytes of a request body (`--max-body-bytes`).
    pub max_body_bytes: usize,
    /// Bytes of all large bodies together that are read or parsed at once (`--bodies-memory`); one of the largest is always
    /// let in. Decoded messages of gRPC have as much again.
    pub bodies_memory: usize,
    /// Bytes of a request's head (`--max-header-bytes`).
    pub max_header_bytes: usize,
    /// Header fields of a request (`--max-headers`).
    pub max_headers: usize,
    /// Connections served at once (`--max-connections`). A further one has the place of the one that is idle longest; if none is idle, it
    /// is answered 503 and closed.
    pub max_connections: usize,
    /// gRPC calls at once on one connection (`--max-streams`).
    pub max_streams: u32,
    /// From the first byte of a request to the end of its head; on a new connection from its beginning (`--header-read-timeout`).
    pub header_read_timeout: Duration,
    /// From the end of one request to the first byte of the next (`--idle-timeout`).
    pub idle_timeout: Duration,
    /// For the whole body of a request (`--body-read-timeout`).
    pub body_read_timeout: Duration,
    /// A client that reads nothing for this long is cut off (`--slow-client-timeout`).
    pub write_timeout: Duration,
    /// Answers to one prompt, the field `n` (`--max-n`).
    pub max_n: u32,
    /// Prompts in one request (`--max-prompts`).
    pub max_prompts: usize,
    /// Inputs in one request for embeddings (`--max-inputs`).
    pub max_inputs: usize,
    /// Messages in one chat (`--max-messages`).
    pub max_messages: usize,
    /// Tools in one request (`--max-tools`).
    pub max_tools: usize,
    /// Stop strings of one request (`--max-stop-strings`).
    pub max_stop_strings: usize,
    /// Bytes of one stop string (`--max-stop-len`).
    pub max_stop_len: usize,
    /// Templates and tokenizations of long prompts that run at once (`--max-tokenize-jobs`).
    pub max_tokenize_jobs: usize,
    /// Bytes of a schema, a regular expression or a grammar (`--max-grammar-bytes`).
    pub max_grammar_bytes: usize,
    /// For compiling one, its turn included (`--grammar-timeout`).
    pub grammar_timeout: Duration,
    /// Of them that are compiled at once (`--max-grammar-jobs`).
    pub max_grammar_jobs: usize,
    /// Compiled ones that are kept for the next request (`--max-cached-grammars`).
    pub max_cached_grammars: usize,
    /// Bytes of the responses that are stored because their requests asked for it (`--response-store-memory`).
    pub response_store_bytes: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            bodies_memory: 64 << 20,
            max_header_bytes: 64 << 10,
            max_headers: 100,
            max_connections: 4096,
            max_streams: 1024,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            body_read_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            max_n: 128,
            max_prompts: 256,
            max_inputs: 2048,
            max_messages: 4096,
            max_tools: 512,
            max_stop_strings: 32,
            max_stop_len: 1024,
            max_tokenize_jobs: 2,
            max_grammar_bytes: 256 << 10,
            grammar_timeout: Duration::from_secs(10),
            max_grammar_jobs: 2,
            max_cached_grammars: 64,
            response_store_bytes: 64 << 20,
        }
    }
}

impl ServerLimits {
    /// Whether the field `name`, whose entries become embeddings, has as many as one request may.
    pub(crate) fn check_num_inputs(
        &self,
        name: &'static str,
        count: usize,
    ) -> Result<(), ApiError> {
        if count == 0 {
            return Err(ApiError::invalid(name, format!("{name} has no entries")));
        }
        let limit = self.max_inputs;
        if count > limit {
            let message = format!("{name} has {count} entries, over {limit} (--max-inputs)");
            return Err(ApiError::invalid(name, message));
        }
        Ok(())
    }
}
