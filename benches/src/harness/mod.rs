//! The load harness: what `quire-bench` does to any server, and what it makes of it.
//!
//! `args` are its flags and `session` what they lead to: levels one after the other, rounds of two servers (`compare`), a `search`,
//! a gate (`baseline`). `outcome` is all of it as JSON, `console` as text, `page` as HTML.
//!
//! `workload` makes conversations, `arrivals` says when they begin, `runner` holds them with a `target`, `measures` and `timeline`
//! say what came of it, and `lag` how late the client itself was. `mock` is a server to try it on.

pub mod args;
pub mod arrivals;
pub mod baseline;
pub mod compare;
pub mod console;
pub mod failure;
pub mod lag;
pub mod live;
pub mod measures;
pub mod mock;
pub mod objectives;
pub mod outcome;
pub mod page;
pub mod random;
pub mod runner;
pub mod search;
pub mod session;
pub mod target;
pub mod text;
pub mod timeline;
pub mod workload;

#[cfg(test)]
mod tests;
