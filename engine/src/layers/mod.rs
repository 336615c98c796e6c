//! What a decoder layer is made of; each file knows its weights and its ops.

mod attention;
mod mlp;
mod norms;
mod positions;

pub use attention::Attention;
pub use mlp::Mlp;
pub use norms::{Norm, PostNorm};
pub use positions::Positions;
