//! The names of cached blocks that gave way: who asks for one of them would have needed more memory.

use std::collections::HashMap;

use crate::block_hash::{BlockHash, BuildIntegerHasher};

/// The names that were inserted last. Every operation takes constant time and allocates nothing.
pub(crate) struct Forgotten {
    /// Where each name stands in `ring`.
    places: HashMap<BlockHash, u32, BuildIntegerHasher>,
    /// A removed name stays until its place is needed.
    ring: Vec<Option<BlockHash>>,
    next: usize,
}

impl Forgotten {
    const MOST: usize = 1 << 16;

    pub(crate) fn with_capacity(num_names: usize) -> Self {
        let num_names = num_names.min(Self::MOST);
        let hasher = BuildIntegerHasher::default();
        Self {
            places: HashMap::with_capacity_and_hasher(num_names, hasher),
            ring: vec![None; num_names],
            next: 0,
        }
    }

    /// In place of the oldest name when there are too many.
    pub(crate) fn insert(&mut self, hash: BlockHash) {
        let place = self.next as u32;
        let Some(entry) = self.ring.get_mut(self.next) else { return };
        if let Some(oldest) = entry.replace(hash)
            && self.places.get(&oldest) == Some(&place)
        {
            self.places.remove(&oldest);
        }
        self.places.insert(hash, place);
        self.next = (self.next + 1) % self.ring.len();
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, hash: BlockHash) -> bool {
        self.places.remove(&hash).is_some()
    }

    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.ring.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_names_are_kept_and_each_is_found_once() {
        let name = |number: u32| BlockHash::root(0).child(&[number]);
        let mut forgotten = Forgotten::with_capacity(3);
        (0..4).for_each(|number| forgotten.insert(name(number)));
        assert!(!forgotten.remove(name(0)), "the oldest made room");
        assert!(forgotten.remove(name(1)) && !forgotten.remove(name(1)));
        // Name 1 comes again while its old place still holds it.
        [4, 1].into_iter().for_each(|number| forgotten.insert(name(number)));
        let kept = [0, 1, 2, 3, 4].map(|number| forgotten.remove(name(number)));
        assert_eq!(kept, [false, true, false, true, true]);
        Forgotten::with_capacity(0).insert(name(0));
    }
}
