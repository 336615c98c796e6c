//! Answers in the making that another call may end.

use super::running::Place;
use crate::generation::{ChoiceEvent, Generation};

/// Dropping it cancels what is not finished.
pub(super) struct Answers {
    generation: Generation,
    place: Place,
    is_aborted: bool,
}

impl Answers {
    pub(super) fn new(generation: Generation, place: Place) -> Self {
        Self { generation, place, is_aborted: false }
    }

    pub(super) fn request_id(&self) -> &str {
        self.place.id()
    }

    pub(super) fn num_choices(&self) -> usize {
        self.generation.num_choices()
    }

    /// The next step of some answer, with its index; `None` when all are over.
    pub(super) async fn next(&mut self) -> Option<(usize, ChoiceEvent)> {
        if self.is_aborted {
            return self.generation.abort_next();
        }
        tokio::select! {
            biased;
            () = self.place.aborted() => {
                self.is_aborted = true;
                self.generation.abort_next()
            }
            event = self.generation.next() => event,
        }
    }
}
