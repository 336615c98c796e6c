//! What a decoder layer is made of; each file knows its weights and its ops.

mod attention;
mod latent_attention;
mod mlp;
mod moe;
mod norms;
mod parallel_moe;
mod positions;

pub use attention::Attention;
pub use latent_attention::LatentAttention;
pub use mlp::Mlp;
pub use moe::Moe;
pub use norms::{Before, BlockNorm, Norm, PostNorm};
pub use parallel_moe::ParallelMoe;
pub use positions::Positions;
