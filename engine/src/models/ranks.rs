//! The spec of one rank of a tensor-parallel model: its heads and channels.

use anyhow::ensure;

use super::spec::{AttentionDims, DecoderSpec, FfnSpec, MoeSpec};
use crate::weights::Shard;

impl DecoderSpec {
    /// What a rank computes: all as much, but for blocks of channels that come out uneven, of which the first has most. KV
    /// heads that are fewer than ranks lie on several.
    pub fn of_rank(&self, shard: Shard) -> anyhow::Result<Self> {
        let num_ranks = shard.num_ranks;
        if num_ranks == 1 {
            return Ok(self.clone());
        }
        let mut spec = self.clone();
        for layer in &mut spec.layers {
            // All heads of latent attention share one latent vector, which every rank keeps.
            layer.attention = heads_of_rank(layer.attention, num_ranks)?;
            if let FfnSpec::Dense(size) | FfnSpec::Parallel(size) = &mut layer.ffn {
                divide_channels(size, shard, "the channels of the MLP")?;
            }
        }
        if let Some(moe) = &mut spec.moe {
            divide_experts(moe, shard)?;
            if let Some(shared) = &mut moe.shared {
                let size = &mut shared.intermediate_size;
                divide_channels(size, shard, "the channels of the shared expert")?;
            }
        }
        if let Some(recurrent) = &mut spec.gated_delta {
            let heads = &mut recurrent.heads;
            divide(&mut heads.num_key_heads, num_ranks, "the key heads of Gated DeltaNet")?;
            divide(&mut heads.num_value_heads, num_ranks, "the value heads of Gated DeltaNet")?;
        }
        Ok(spec)
    }
}

/// In whole blocks, or evenly.
fn divide_channels(size: &mut usize, shard: Shard, what: &str) -> anyhow::Result<()> {
    if !shard.divides_blocks(*size) {
        return divide(size, shard.num_ranks, what);
    }
    *size = shard.channels(*size).len();
    Ok(())
}

/// Evenly, or where even shares would end inside blocks, in whole blocks.
fn divide_experts(moe: &mut MoeSpec, shard: Shard) -> anyhow::Result<()> {
    if moe.block_channels == 1 || !shard.divides_in(moe.num_channels, moe.block_channels) {
        return divide(&mut moe.intermediate_size, shard.num_ranks, "the channels of an expert");
    }
    moe.intermediate_size = shard.expert_channels(moe).len();
    Ok(())
}

fn divide(size: &mut usize, num_ranks: usize, what: &str) -> anyhow::Result<()> {
    ensure!(
        size.is_multiple_of(num_ranks),
        "--tensor-parallel-size {num_ranks} does not divide {what}, {size}"
    );
    *size /= num_ranks;
    Ok(())
}

fn heads_of_rank(dims: AttentionDims, num_ranks: usize) -> anyhow::Result<AttentionDims> {
    let AttentionDims { num_heads, num_kv_heads, head_dim } = dims;
    let is_even = num_kv_heads.is_multiple_of(num_ranks) || num_ranks.is_multiple_of(num_kv_heads);
    ensure!(
        num_heads.is_multiple_of(num_ranks) && is_even,
        "--tensor-parallel-size {num_ranks} does not divide {num_heads} heads with {num_kv_heads} KV heads; {} would",
        sizes(dims)
    );
    let num_kv_heads = (num_kv_heads / num_ranks).max(1);
    Ok(AttentionDims { num_heads: num_heads / num_ranks, num_kv_heads, head_dim })
}

/// The sizes that divide the heads: "1, 3 or 9".
fn sizes(AttentionDims { num_heads, num_kv_heads, .. }: AttentionDims) -> String {
    let divides = |ranks: &usize| {
        num_heads.is_multiple_of(*ranks)
            && (num_kv_heads.is_multiple_of(*ranks) || ranks.is_multiple_of(num_kv_heads))
    };
    let mut sizes: Vec<String> =
        (1..=num_heads).filter(divides).map(|ranks| ranks.to_string()).collect();
    match sizes.pop() {
        Some(last) if !sizes.is_empty() => format!("{} or {last}", sizes.join(", ")),
        last => last.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_out_even_or_the_sizes_that_would_are_named() {
        let dims =
            |num_heads, num_kv_heads| AttentionDims { num_heads, num_kv_heads, head_dim: 64 };
        let divide = |dims, ranks| heads_of_rank(dims, ranks).map_err(|error| error.to_string());
        assert_eq!(divide(dims(9, 3), 3), Ok(dims(3, 1)));
        assert_eq!(divide(dims(32, 8), 4), Ok(dims(8, 2)));
        assert_eq!(divide(dims(14, 2), 7), Err(
            "--tensor-parallel-size 7 does not divide 14 heads with 2 KV heads; 1, 2 or 14 would".into()
        ));
        assert_eq!(divide(dims(16, 2), 8), Ok(dims(2, 1)), "each KV head on four ranks");
        assert!(divide(dims(9, 3), 2).is_err());
    }
}
