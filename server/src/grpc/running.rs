//! The calls that run, by their request ids, so that another call may end them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use axum::http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::ApiError;
use crate::http::auth::KeyOwner;
use crate::http::observe::is_safe_id;

/// Whose key a call came with. Calls of one owner are no business of another, also where their ids are the same.
pub(super) fn owner_of<T>(request: &tonic::Request<T>) -> KeyOwner {
    request.extensions().get::<KeyOwner>().copied().unwrap_or_default()
}

/// Ids and what ends their calls. As many as there are calls.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<(KeyOwner, String), watch::Sender<bool>>>);

/// A place in `Running` while it lives.
pub(super) struct Place {
    owner: KeyOwner,
    id: String,
    running: Arc<Running>,
    aborted: watch::Receiver<bool>,
}

impl Running {
    /// Registers a call under its id; an empty id gets a fresh one.
    pub(super) fn register(
        self: &Arc<Self>,
        owner: KeyOwner,
        id: String,
    ) -> Result<Place, ApiError> {
        let id = if id.is_empty() { uuid::Uuid::new_v4().simple().to_string() } else { id };
        if !is_safe_id(&id) {
            let message = "request_id must be 1 to 128 letters, digits, or any of -_.:";
            return Err(ApiError::invalid("request_id", message));
        }
        let (sender, aborted) = watch::channel(false);
        match self.0.lock().entry((owner, id.clone())) {
            Entry::Occupied(_) => {
                let message = format!("a request with the request_id {id:?} is running");
                let error = ApiError::new(StatusCode::CONFLICT, message);
                return Err(ApiError { param: Some("request_id".into()), ..error });
            }
            Entry::Vacant(entry) => entry.insert(sender),
        };
        Ok(Place { owner, id, running: Arc::clone(self), aborted })
    }

    /// Ends the owner's calls with exactly these ids; how many there were.
    pub(super) fn abort(&self, owner: KeyOwner, ids: &[String]) -> u32 {
        let running = self.0.lock();
        let ended = ids.iter().filter_map(|id| running.get(&(owner, id.clone())));
        ended.map(|sender| u32::from(!sender.send_replace(true))).sum()
    }
}

impl Place {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Done once somebody has ended the call.
    pub(super) async fn aborted(&mut self) {
        // The sender stays in the map as long as this place.
        let _ = self.aborted.wait_for(|&aborted| aborted).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let place = (self.owner, std::mem::take(&mut self.id));
        self.running.0.lock().remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{KeyOwner, Running};

    #[test]
    fn an_id_is_one_call_at_a_time_and_no_prefix() {
        let running = Arc::new(Running::default());
        let (me, other) = (KeyOwner(Some([1; 32])), KeyOwner(Some([2; 32])));
        let place = running.register(me, "job-1".into()).expect("free");
        assert!(running.register(me, "job-1".into()).is_err(), "it runs");
        assert!(running.register(me, "a b".into()).is_err(), "a space");
        assert_eq!(running.abort(me, &["job".into(), "job-1x".into(), String::new()]), 0);
        assert_eq!(running.abort(other, &["job-1".into()]), 0, "somebody else's");
        assert!(running.register(other, "job-1".into()).is_ok(), "another's id is free");
        assert_eq!(running.abort(me, &["job-1".into(), "job-1".into()]), 1);
        drop(place);
        assert_eq!(running.abort(me, &["job-1".into()]), 0);
        assert!(running.register(me, "job-1".into()).is_ok(), "free again");
    }
}
