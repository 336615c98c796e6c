//! Who waits of one tenant, in the order of service.

use std::collections::BTreeMap;

use crate::config::Policy;
use crate::sequence::Slot;

/// The place among the sequences of a tenant, for waiting and running alike: a preempted sequence gets
/// its old place back, and the last of the running is the first to be preempted.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct QueueKey {
    priority: i32,
    arrival: u64,
}

impl QueueKey {
    pub(crate) fn new(policy: Policy, priority: i32, arrival: u64) -> Self {
        match policy {
            Policy::FirstCome => Self { priority: 0, arrival },
            Policy::Priority => Self { priority, arrival },
        }
    }
}

#[derive(Default)]
pub(crate) struct WaitingQueue {
    slots: BTreeMap<QueueKey, Slot>,
}

impl WaitingQueue {
    pub(crate) fn insert(&mut self, key: QueueKey, slot: Slot) {
        self.slots.insert(key, slot);
    }

    pub(crate) fn remove(&mut self, key: QueueKey) {
        self.slots.remove(&key);
    }

    pub(crate) fn first(&self) -> Option<Slot> {
        self.slots.first_key_value().map(|(_, &slot)| slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.values().copied()
    }

    pub(crate) fn num_sequences(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
