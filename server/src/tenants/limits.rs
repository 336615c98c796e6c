//! A tenant's own limits: what is refused with 429, when to come again, and what the headers say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::file::Settings;
use super::tenant::{Admission, REASONS, Tenant, Used, WaitingPlace};
use crate::error::ApiError;

/// What a request asks for.
#[derive(Clone, Copy)]
pub(crate) struct Demand {
    pub num_answers: u32,
    pub num_prompt_tokens: u64,
    /// Places of the queue that are free for everybody.
    pub num_free_places: u32,
    /// Seconds until the queue has moved.
    pub retry_after: u64,
}

impl Tenant {
    /// Takes a request, or says which limit it is over.
    ///
    /// Tokens are paid when they are known, so a bucket may be overdrawn by what runs; nothing is taken until it has filled again.
    pub(crate) fn admit(
        self: &Arc<Self>,
        demand: Demand,
        now: Instant,
    ) -> Result<(Admission, Vec<WaitingPlace>), ApiError> {
        let settings = self.settings();
        let mut used = self.used.lock();
        self.check(&settings, &mut used, demand, now)?;
        if settings.requests_per_minute.is_some() {
            used.requests.take(1.0);
        }
        if settings.tokens_per_minute.is_some() {
            used.tokens.take(demand.num_prompt_tokens as f64);
        }
        used.num_in_flight += 1;
        used.num_waiting += demand.num_answers;
        self.show(&used);
        drop(used);
        self.count_prompt(demand.num_prompt_tokens);
        Ok(self.enter(demand.num_answers))
    }

    /// Says whether `admit` would refuse it, and takes nothing.
    pub(super) fn check_unheard(&self, demand: Demand, now: Instant) -> Result<(), ApiError> {
        self.check(&self.settings(), &mut self.used.lock(), demand, now)
    }

    fn check(
        &self,
        settings: &Settings,
        used: &mut Used,
        demand: Demand,
        now: Instant,
    ) -> Result<(), ApiError> {
        let refuse = |reason, message: String, seconds| {
            self.count_refused(reason);
            Err(refusal(format!("tenant {}: {message}", self.name()), seconds))
        };
        if let Some(limit) = settings.requests_per_minute
            && used.requests.level(limit, now) < 1.0
        {
            let wait = seconds_up(used.requests.time_until(1.0, limit));
            return refuse("requests", format!("{limit} requests a minute are used up"), wait);
        }
        if let Some(limit) = settings.tokens_per_minute
            && used.tokens.level(limit, now) <= 0.0
        {
            let wait = seconds_up(used.tokens.time_until(1.0, limit));
            return refuse("tokens", format!("{limit} tokens a minute are used up"), wait);
        }
        if let Some(limit) = settings.max_concurrency.filter(|&limit| used.num_in_flight >= limit) {
            let message = format!("{limit} requests run already, the limit");
            return refuse("concurrency", message, demand.retry_after);
        }
        // As many may wait as there are places left for others (Choudhury and Hahne, "Dynamic Queue Length Thresholds for
        // Shared-Memory Packet Switches", 1998): a flood leaves room, and one that is alone has half of the queue.
        let places = settings.max_queued.unwrap_or(u32::MAX).min(demand.num_free_places);
        if used.num_waiting.saturating_add(demand.num_answers) > places {
            let message = format!("{} answers wait already, as many as may", used.num_waiting);
            return refuse("queue", message, demand.retry_after);
        }
        Ok(())
    }

    fn count_refused(&self, reason: &str) {
        let index = REASONS.iter().position(|own| *own == reason);
        self.metrics.refused[index.expect("a reason of the table")].increment(1);
    }

    /// Whether one of the names of a model is among those it may use.
    pub(crate) fn check_model(&self, names: &[String]) -> Result<(), ApiError> {
        let settings = self.settings();
        if settings.models.is_none_or(|allowed| names.iter().any(|name| allowed.contains(name))) {
            return Ok(());
        }
        self.count_refused("model");
        let message = format!("tenant {} may not use this model", self.name());
        let error = ApiError::new(StatusCode::FORBIDDEN, message);
        Err(ApiError { param: Some("model".into()), code: Some("model_not_allowed"), ..error })
    }

    /// `x-ratelimit-*`, under OpenAI's names, of the limits that there are.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap, now: Instant) {
        let settings = self.settings();
        let mut used = self.used.lock();
        let used = &mut *used;
        let buckets = [
            (REQUEST_HEADERS, settings.requests_per_minute, &mut used.requests),
            (TOKEN_HEADERS, settings.tokens_per_minute, &mut used.tokens),
        ];
        for ([limit_name, remaining_name, reset_name], limit, bucket) in buckets {
            let Some(limit) = limit else { continue };
            let remaining = bucket.level(limit, now).max(0.0) as u64;
            let reset = duration_text(bucket.time_until(f64::from(limit), limit));
            headers.insert(HeaderName::from_static(limit_name), HeaderValue::from(limit));
            headers.insert(HeaderName::from_static(remaining_name), HeaderValue::from(remaining));
            if let Ok(reset) = HeaderValue::try_from(reset) {
                headers.insert(HeaderName::from_static(reset_name), reset);
            }
        }
    }
}

const REQUEST_HEADERS: [&str; 3] =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKEN_HEADERS: [&str; 3] =
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

fn refusal(message: String, retry_after: u64) -> ApiError {
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message);
    ApiError { code: Some("rate_limit_exceeded"), retry_after: Some(retry_after), ..error }
}

/// Whole seconds, at least 1.
fn seconds_up(time: Duration) -> u64 {
    (time.as_secs_f64().ceil() as u64).max(1)
}

/// As OpenAI writes times: `6m0s`, `1.5s`, `20ms`.
fn duration_text(time: Duration) -> String {
    let ms = time.as_millis() as u64;
    match ms {
        0 => "0s".to_owned(),
        1..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}s", ms as f64 / 1e3),
        _ => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        let text = |ms| duration_text(Duration::from_millis(ms));
        assert_eq!(
            [0, 20, 1500, 60_000, 363_900].map(text),
            ["0s", "20ms", "1.5s", "1m0s", "6m3s"]
        );
    }
}
