//! The parts of the bench `front_end`: the server that pretends, and the clients that load it.

mod clients;
mod mock;
mod text;

pub use clients::{Door, Load, measure_idle, measure_streams};
pub use mock::Mock;
pub use text::measure_text;
