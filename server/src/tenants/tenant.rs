//! One tenant: what it may use, what it uses now, and what is counted of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use parking_lot::{Mutex, RwLock};
use quire_engine::request::Tenant as EngineTenant;

use super::bucket::Bucket;
use super::file::Settings;

pub(crate) struct Tenant {
    name: String,
    /// Its number in the scheduler, which it keeps.
    index: u32,
    settings: RwLock<Settings>,
    pub(super) used: Mutex<Used>,
    pub(super) metrics: TenantMetrics,
}

/// What a tenant uses now.
pub(super) struct Used {
    pub(super) requests: Bucket,
    pub(super) tokens: Bucket,
    pub(super) num_in_flight: u32,
    /// Answers without a first token.
    pub(super) num_waiting: u32,
}

/// Why a tenant was refused, as a label.
pub(super) const REASONS: [&str; 5] = ["requests", "tokens", "concurrency", "queue", "model"];

pub(super) struct TenantMetrics {
    pub(super) requests: Counter,
    pub(super) refused: [Counter; 5], // by REASONS
    prompt_tokens: Counter,
    generated_tokens: Counter,
    in_flight: Gauge,
    waiting: Gauge,
    first_token: Histogram,
}

/// A request of a tenant, while it lives.
pub(crate) struct Admission(Arc<Tenant>);

/// An answer that waits for its first token, while it lives.
pub(crate) struct WaitingPlace(Arc<Tenant>);

impl Tenant {
    pub(super) fn new(name: &str, index: u32, settings: Settings) -> Self {
        let now = Instant::now();
        let used = Used {
            requests: Bucket::new(settings.requests_per_minute.unwrap_or(u32::MAX), now),
            tokens: Bucket::new(settings.tokens_per_minute.unwrap_or(u32::MAX), now),
            num_in_flight: 0,
            num_waiting: 0,
        };
        let metrics = TenantMetrics::new(name);
        Self {
            name: name.to_owned(),
            index,
            settings: RwLock::new(settings),
            used: Mutex::new(used),
            metrics,
        }
    }

    pub(super) fn set(&self, settings: Settings) {
        *self.settings.write() = settings;
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings.read().clone()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// As the scheduler knows it.
    pub(crate) fn of_engine(&self) -> EngineTenant {
        let settings = self.settings.read();
        EngineTenant { index: self.index, weight: settings.weight, class: settings.priority_class }
    }

    /// How long a request may take.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.settings.read().deadline
    }

    /// A request is taken, with `num_answers` that wait.
    pub(super) fn enter(self: &Arc<Self>, num_answers: u32) -> (Admission, Vec<WaitingPlace>) {
        self.metrics.requests.increment(1);
        let places = (0..num_answers).map(|_| WaitingPlace(Arc::clone(self))).collect();
        (Admission(Arc::clone(self)), places)
    }

    /// A prompt was taken of so many tokens; those of `tokens_per_minute` are paid already.
    pub(super) fn count_prompt(&self, num_tokens: u64) {
        self.metrics.prompt_tokens.increment(num_tokens);
    }

    /// So many tokens were generated for it.
    pub(crate) fn count_generated(&self, num_tokens: u64) {
        self.metrics.generated_tokens.increment(num_tokens);
        if self.settings.read().tokens_per_minute.is_some() {
            self.used.lock().tokens.take(num_tokens as f64);
        }
    }

    /// An answer has its first token.
    pub(crate) fn record_first_token(&self, took: Duration) {
        self.metrics.first_token.record(took.as_secs_f64());
    }

    pub(super) fn show(&self, used: &Used) {
        self.metrics.in_flight.set(f64::from(used.num_in_flight));
        self.metrics.waiting.set(f64::from(used.num_waiting));
    }
}

impl TenantMetrics {
    fn new(name: &str) -> Self {
        let tenant = || ("tenant", name.to_owned());
        let tokens = |kind| counter!("quire_tenant_tokens_total", &[tenant(), ("kind", kind)]);
        let refused = |reason: &str| {
            counter!("quire_tenant_refused_total", &[tenant(), ("reason", reason.to_owned())])
        };
        let metrics = Self {
            requests: counter!("quire_tenant_requests_total", &[tenant()]),
            refused: REASONS.map(refused),
            prompt_tokens: tokens("prompt".to_owned()),
            generated_tokens: tokens("generated".to_owned()),
            in_flight: gauge!("quire_tenant_requests_in_flight", &[tenant()]),
            waiting: gauge!("quire_tenant_answers_waiting", &[tenant()]),
            first_token: histogram!("quire_tenant_time_to_first_token_seconds", &[tenant()]),
        };
        metrics.in_flight.set(0.0);
        metrics.waiting.set(0.0);
        metrics
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut used = self.0.used.lock();
        used.num_in_flight -= 1;
        self.0.show(&used);
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut used = self.0.used.lock();
        used.num_waiting -= 1;
        self.0.show(&used);
    }
}
