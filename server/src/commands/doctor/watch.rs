//! The checks as metrics of a running server, from a thread of their own: `quire_doctor_check{check}` is 0, 1 or 2.

use std::thread::Builder;
use std::time::{Duration, SystemTime};

use ::metrics::gauge;

use super::{CHECKS, Status, Surroundings};

const INTERVAL: Duration = Duration::from_secs(300);

/// Looks now and every five minutes, as long as the process lives; says in the log what got worse.
pub(crate) fn start(mut around: Surroundings) {
    let mut before = [Status::Ok; CHECKS.len()];
    let looking = move || loop {
        around.now = SystemTime::now();
        for ((name, finding), before) in around.examine().into_iter().zip(&mut before) {
            gauge!("quire_doctor_check", "check" => name).set(f64::from(finding.status as u8));
            if finding.status > *before {
                tracing::warn!(check = name, "{}", finding.message);
            }
            *before = finding.status;
        }
        std::thread::sleep(INTERVAL);
    };
    if let Err(error) = Builder::new().name("quire-doctor".into()).spawn(looking) {
        tracing::warn!("the checks of quire doctor do not run: {error}");
    }
}
