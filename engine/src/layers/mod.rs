//! What a decoder layer is made of; each file knows its weights and its ops.

mod attention;
mod encoder;
mod gated_delta;
mod indexer;
mod latent_attention;
mod mixer;
mod mlp;
mod moe;
mod norms;
mod output;
mod parallel_moe;
mod per_layer_input;
mod positions;

pub use attention::Attention;
pub use encoder::{EncoderAttention, EncoderNorm, FeedForward};
pub use gated_delta::GatedDeltaNet;
pub use indexer::Indexer;
pub use latent_attention::LatentAttention;
pub use mixer::Mixer;
pub use mlp::Mlp;
pub use moe::Moe;
pub use norms::{Before, BlockNorm, Norm, PostNorm};
pub use output::OutputProjection;
pub use parallel_moe::ParallelMoe;
pub use per_layer_input::{PerLayerInput, PerLayerInputs};
pub use positions::{Positions, rope_tables};
