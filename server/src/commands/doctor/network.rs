//! Ports that somebody else has, and how many connections the process may hold.

use std::net::TcpListener;

use super::{Finding, Surroundings};

pub(super) fn ports(around: &Surroundings) -> Finding {
    let taken = around.listens.iter().filter(|(_, port)| *port != 0).filter_map(|(host, port)| {
        let error = TcpListener::bind((host.as_str(), *port)).err()?;
        Some(Finding::failing(format!(
            "{host}:{port} cannot be listened on ({error}): choose another --port"
        )))
    });
    let well = match around.listens.len() {
        0 => "the server listens".to_owned(),
        count => format!("{count} ports are free"),
    };
    Finding::worst(taken.collect(), well)
}

/// Open files beside connections: the model's, the store's, logs.
const BESIDE: u64 = 64;

pub(super) fn open_files(around: &Surroundings) -> Finding {
    let limits = around.text("proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let wanted = around.max_connections as u64 + BESIDE;
    match soft.filter(|&soft| soft < wanted) {
        Some(soft) => Finding::warning(format!(
            "{soft} files may be open, fewer than --max-connections {} and {BESIDE} more: raise ulimit -n",
            around.max_connections
        )),
        None => Finding::ok("connections fit the limit of open files"),
    }
}
