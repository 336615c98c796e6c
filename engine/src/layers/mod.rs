//! What a decoder layer is made of; each file knows its weights and its ops.

mod attention;
mod mlp;

pub use attention::Attention;
pub use mlp::Mlp;
