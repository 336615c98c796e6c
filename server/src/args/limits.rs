//! The flags that bound what clients may ask of the front-end.

use std::time::Duration;

use clap::Args as ClapArgs;
use quire_server::limits::ServerLimits;

use super::units;

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// The largest request body
    #[arg(long, default_value = "16MiB", value_parser = units::bytes, value_name = "BYTES")]
    max_body_bytes: u64,

    /// Memory for large request bodies that are read or parsed at once; further ones are answered 503.
    /// As much again is for what messages of gRPC become
    #[arg(long, default_value = "64MiB", value_parser = units::bytes, value_name = "BYTES")]
    bodies_memory: u64,

    /// The largest head of a request
    #[arg(long, default_value = "64KiB", value_parser = units::bytes, value_name = "BYTES")]
    max_header_bytes: u64,

    /// Header fields of a request
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    max_headers: usize,

    /// Connections at once; further ones take the place of the one that is idle longest, or are answered 503
    #[arg(long, default_value_t = 4096, value_name = "COUNT")]
    max_connections: usize,

    /// gRPC calls at once on one connection
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    max_streams: u32,

    /// How long the head of a request may take
    #[arg(long, default_value = "10s", value_parser = units::seconds, value_name = "TIME")]
    header_read_timeout: Duration,

    /// How long a connection may wait for its next request; clients that keep connections should give them up sooner
    #[arg(long, default_value = "120s", value_parser = units::seconds, value_name = "TIME")]
    idle_timeout: Duration,

    /// How long the body of a request may take
    #[arg(long, default_value = "60s", value_parser = units::seconds, value_name = "TIME")]
    body_read_timeout: Duration,

    /// A client that reads nothing for this long is cut off
    #[arg(long, default_value = "60s", value_parser = units::seconds, value_name = "TIME")]
    slow_client_timeout: Duration,

    /// Answers to one prompt, the field `n`
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    max_n: u32,

    /// Prompts in one request
    #[arg(long, default_value_t = 256, value_name = "COUNT")]
    max_prompts: usize,

    /// Inputs in one request for embeddings
    #[arg(long, default_value_t = 2048, value_name = "COUNT")]
    max_inputs: usize,

    /// Messages in one chat
    #[arg(long, default_value_t = 4096, value_name = "COUNT")]
    max_messages: usize,

    /// Tools in one request
    #[arg(long, default_value_t = 512, value_name = "COUNT")]
    max_tools: usize,

    /// Stop strings of one request
    #[arg(long, default_value_t = 32, value_name = "COUNT")]
    max_stop_strings: usize,

    /// Bytes of one stop string
    #[arg(long, default_value_t = 1024, value_name = "COUNT")]
    max_stop_len: usize,

    /// Long prompts that are turned into tokens at once
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    max_tokenize_threads: usize,

    /// The largest schema, regular expression or grammar of structured output
    #[arg(long, default_value = "256KiB", value_parser = units::bytes, value_name = "BYTES")]
    max_grammar_bytes: u64,

    /// How long compiling a grammar may take, its turn included
    #[arg(long, default_value = "10s", value_parser = units::seconds, value_name = "TIME")]
    grammar_timeout: Duration,

    /// Grammars that are compiled at once
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    max_grammar_jobs: usize,

    /// Compiled grammars that are kept for later requests
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    max_cached_grammars: usize,

    /// Memory for responses that are stored because their requests say `store: true`; the oldest go first
    #[arg(long, default_value = "64MiB", value_parser = units::bytes, value_name = "BYTES")]
    response_store_memory: u64,
}

impl LimitArgs {
    pub(crate) fn resolve(&self) -> ServerLimits {
        ServerLimits {
            max_body_bytes: self.max_body_bytes as usize,
            bodies_memory: self.bodies_memory as usize,
            max_header_bytes: self.max_header_bytes as usize,
            max_headers: self.max_headers,
            max_connections: self.max_connections,
            max_streams: self.max_streams,
            header_read_timeout: self.header_read_timeout,
            idle_timeout: self.idle_timeout,
            body_read_timeout: self.body_read_timeout,
            write_timeout: self.slow_client_timeout,
            max_n: self.max_n,
            max_prompts: self.max_prompts,
            max_inputs: self.max_inputs,
            max_messages: self.max_messages,
            max_tools: self.max_tools,
            max_stop_strings: self.max_stop_strings,
            max_stop_len: self.max_stop_len,
            max_tokenize_jobs: self.max_tokenize_threads,
            max_grammar_bytes: self.max_grammar_bytes as usize,
            grammar_timeout: self.grammar_timeout,
            max_grammar_jobs: self.max_grammar_jobs,
            max_cached_grammars: self.max_cached_grammars,
            response_store_bytes: self.response_store_memory as usize,
        }
    }
}
