//! Who asks: travels with the task that answers, from the door to where the engine is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;

use super::limits::Demand;
use super::{Admission, Identity, Tenant, WaitingPlace};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::model::ServedModel;
use crate::traces::TraceParent;

/// How long the whole request may take, in milliseconds; a tenant's own deadline holds beside it.
const TIMEOUT: &str = "x-request-timeout-ms";
const MAX_TIMEOUT_MS: u64 = 86_400_000;

#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) deadline: Option<Instant>,
    /// The caller's own span.
    pub(crate) trace: Option<TraceParent>,
}

tokio::task_local! {
    static CALLER: Caller;
}

impl Caller {
    /// Of a request that has just come.
    pub(crate) fn new(identity: &Identity, headers: &HeaderMap) -> Result<Self, ApiError> {
        let now = Instant::now();
        let tenant = Arc::clone(&identity.tenant);
        let timeout = match (tenant.deadline(), timeout_of(headers)?) {
            (Some(own), Some(asked)) => Some(own.min(asked)),
            (own, asked) => own.or(asked),
        };
        let deadline = timeout.map(|timeout| now + timeout);
        Ok(Self { tenant, deadline, trace: TraceParent::of(headers) })
    }

    /// Answers a request on behalf of this caller.
    pub(crate) async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        CALLER.scope(self, work).await
    }

    /// Whose request this task answers.
    pub(crate) fn current(state: &SharedState) -> Self {
        let tenant = || state.tenants.default_tenant();
        let fallback = || Self { tenant: tenant(), deadline: None, trace: None };
        CALLER.try_with(Self::clone).unwrap_or_else(|_| fallback())
    }

    /// Takes a request to `model`, or says what forbids it.
    pub(crate) fn admit(
        &self,
        state: &SharedState,
        model: &ServedModel,
        num_answers: u32,
        num_prompt_tokens: u64,
    ) -> Result<(Admission, Vec<WaitingPlace>), ApiError> {
        match state.models.find(Some(&model.name)) {
            Ok(entry) => self.tenant.check_model(entry.names())?,
            Err(_) => self.tenant.check_model(std::slice::from_ref(&model.name))?,
        }
        let demand = demand(state, model, num_answers, num_prompt_tokens);
        self.tenant.admit(demand, Instant::now())
    }

    /// Refuses what [`admit`](Self::admit) would refuse whatever is asked, before anybody reads it: a flood is to cost little.
    pub(crate) fn check_unheard(&self, state: &SharedState) -> Result<(), ApiError> {
        // Of several models each has a queue of its own.
        let is_known = state.models.is_single() && !state.is_draining();
        let Some(model) = state.models.loaded(None).ok().filter(|_| is_known) else {
            return Ok(());
        };
        self.tenant.check_unheard(demand(state, &model, 1, 0), Instant::now())
    }

    /// Done when the request has taken too long.
    pub(crate) async fn out_of_time(deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// Whether who asks, if anybody does, may use a model of one of these names; before it is loaded for them.
pub(crate) fn check_model(names: &[String]) -> Result<(), ApiError> {
    CALLER.try_with(|caller| caller.tenant.check_model(names)).unwrap_or(Ok(()))
}

fn demand(
    state: &SharedState,
    model: &ServedModel,
    num_answers: u32,
    num_prompt_tokens: u64,
) -> Demand {
    let free = model.engine.info().max_num_queued.saturating_sub(model.engine.num_waiting());
    let num_free_places = if state.tenants.is_shared() { free } else { u32::MAX };
    let retry_after = state.retry_after(model);
    Demand { num_answers, num_prompt_tokens, num_free_places, retry_after }
}

fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let ms = value.to_str().ok().and_then(|text| text.parse().ok());
    let ms = ms.filter(|ms| (1..=MAX_TIMEOUT_MS).contains(ms)).ok_or_else(|| {
        let message = format!("{TIMEOUT} must be a whole number from 1 to {MAX_TIMEOUT_MS}");
        ApiError::invalid(TIMEOUT, message)
    })?;
    Ok(Some(Duration::from_millis(ms)))
}
