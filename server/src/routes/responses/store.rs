//! Responses that were asked to be kept: in memory, within a limit, each for the key that asked for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::http::auth::KeyOwner;

/// A response and what it came of, as JSON.
pub(crate) struct Stored {
    caller: KeyOwner,
    pub response: String,
    /// The items of its own request.
    input: String,
    /// All items, earlier ones and the answer included.
    conversation: String,
}

/// Responses by id; the oldest give way.
pub(crate) struct ResponseStore {
    max_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_age: BTreeMap<u64, (String, Arc<Stored>)>,
    ages: HashMap<String, u64>,
    next_age: u64,
    num_bytes: usize,
}

impl Stored {
    pub(super) fn new(
        caller: KeyOwner,
        response: &Value,
        input: &[Value],
        conversation: &[Value],
    ) -> Self {
        let text = |items: &[Value]| Value::from(items).to_string();
        Self {
            caller,
            response: response.to_string(),
            input: text(input),
            conversation: text(conversation),
        }
    }

    pub(super) fn input(&self) -> Vec<Value> {
        serde_json::from_str(&self.input).expect("it was written from values")
    }

    pub(super) fn conversation(&self) -> Vec<Value> {
        serde_json::from_str(&self.conversation).expect("it was written from values")
    }

    fn num_bytes(&self) -> usize {
        // What the maps take is small beside it, but never nothing.
        256 + self.response.len() + self.input.len() + self.conversation.len()
    }
}

impl ResponseStore {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, kept: Mutex::default() }
    }

    /// Keeps a response; the oldest go until it fits. `false`: it would not fit alone.
    pub(super) fn put(&self, id: &str, stored: Stored) -> bool {
        let num_bytes = stored.num_bytes();
        if num_bytes > self.max_bytes {
            return false;
        }
        let mut kept = self.kept();
        while kept.num_bytes + num_bytes > self.max_bytes {
            let Some((_, (id, oldest))) = kept.by_age.pop_first() else { break };
            kept.ages.remove(&id);
            kept.num_bytes -= oldest.num_bytes();
        }
        let age = kept.next_age;
        kept.next_age += 1;
        kept.num_bytes += num_bytes;
        kept.ages.insert(id.to_owned(), age);
        kept.by_age.insert(age, (id.to_owned(), Arc::new(stored)));
        true
    }

    /// The response, if `caller` stored it.
    pub(super) fn find(&self, caller: KeyOwner, id: &str) -> Option<Arc<Stored>> {
        let kept = self.kept();
        let (_, stored) = kept.by_age.get(kept.ages.get(id)?)?;
        (stored.caller == caller).then(|| Arc::clone(stored))
    }

    /// Forgets the response, if `caller` stored it; whether there was one.
    pub(super) fn remove(&self, caller: KeyOwner, id: &str) -> bool {
        if self.find(caller, id).is_none() {
            return false;
        }
        let mut kept = self.kept();
        let Some(age) = kept.ages.remove(id) else { return false };
        let Some((_, stored)) = kept.by_age.remove(&age) else { return false };
        kept.num_bytes -= stored.num_bytes();
        true
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing is left half done where a panic could happen.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn caller(key: &str) -> KeyOwner {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", key.parse().unwrap());
        KeyOwner::of(&headers)
    }

    #[test]
    fn the_oldest_give_way_and_keys_see_their_own() {
        let (mine, other) = (caller("a"), caller("b"));
        let stored = |caller| Stored::new(caller, &Value::from("x".repeat(700)), &[], &[]);
        let store = ResponseStore::new(3 * 1024);
        for id in ["r0", "r1", "r2", "r3"] {
            assert!(store.put(id, stored(mine)));
        }
        assert!(store.find(mine, "r0").is_none());
        assert!(store.find(mine, "r1").is_some() && store.find(other, "r1").is_none());
        assert!(!store.remove(other, "r1") && store.remove(mine, "r1"));
        assert!(store.find(mine, "r1").is_none() && !store.remove(mine, "r1"));
        // The place of the one that was deleted is free.
        assert!(store.put("r4", stored(other)) && store.find(mine, "r2").is_some());
        assert!(!ResponseStore::new(900).put("r", stored(mine)));
    }
}
