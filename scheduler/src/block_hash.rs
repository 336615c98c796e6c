//! The name of a full block: a 128-bit hash of its tokens and everything before them.
//!
//! SipHash-2-4 with 128-bit output (Aumasson and Bernstein, 2012), where the parent's hash is the
//! key: `h[i] = siphash(key = h[i - 1], tokens[i])` and `h[-1] = siphash(key = 0, salt)`. Tokens
//! are not compared on a hit: with a million different blocks in the cache the odds that any two
//! share a hash are below 2^-88, and who does not know the salt cannot search for a pair.

use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU128;

use crate::request::TokenId;

#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub(crate) struct BlockHash(NonZeroU128);

impl BlockHash {
    /// The parent of a sequence's first block.
    pub(crate) fn root(cache_salt: u64) -> Self {
        Self::new(siphash_128(0, &[cache_salt as u32, (cache_salt >> 32) as u32]))
    }

    /// The hash of the block that follows `self` and holds `tokens`.
    pub(crate) fn child(self, tokens: &[TokenId]) -> Self {
        Self::new(siphash_128(self.0.get(), tokens))
    }

    /// The same tokens have a block in each cache group; group 0 keeps the plain hash.
    pub(crate) fn in_group(self, group: usize) -> Self {
        const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        Self::new(self.0.get() ^ (group as u128).wrapping_mul(SPREAD))
    }

    /// Enough of it to tell blocks apart for those outside.
    pub(crate) fn short(self) -> u64 {
        self.0.get() as u64
    }

    fn new(hash: u128) -> Self {
        Self(NonZeroU128::new(hash).unwrap_or(NonZeroU128::MIN))
    }
}

/// The bytes hashed are the tokens in little-endian order.
fn siphash_128(key: u128, tokens: &[TokenId]) -> u128 {
    let (key_low, key_high) = (key as u64, (key >> 64) as u64);
    let mut state = [
        key_low ^ 0x736f_6d65_7073_6575,
        key_high ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        key_low ^ 0x6c79_6765_6e65_7261,
        key_high ^ 0x7465_6462_7974_6573,
    ];
    let mut absorb = |word: u64| {
        state[3] ^= word;
        sip_round(&mut state);
        sip_round(&mut state);
        state[0] ^= word;
    };
    let (pairs, rest) = tokens.as_chunks::<2>();
    for &[low, high] in pairs {
        absorb(u64::from(low) | u64::from(high) << 32);
    }
    let num_bytes = tokens.len() as u64 * 4;
    absorb(num_bytes << 56 | rest.first().map_or(0, |&token| u64::from(token)));

    let mut squeeze = |lane: usize, mark: u64| {
        state[lane] ^= mark;
        (0..4).for_each(|_| sip_round(&mut state));
        state[0] ^ state[1] ^ state[2] ^ state[3]
    };
    let low = squeeze(2, 0xee);
    let high = squeeze(1, 0xdd);
    u128::from(low) | u128::from(high) << 64
}

fn sip_round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

/// Hashes integers for the maps of this crate: block hashes are mixed already, ids come from the
/// caller's counter.
#[derive(Default)]
pub(crate) struct IntegerHasher(u64);

pub(crate) type BuildIntegerHasher = BuildHasherDefault<IntegerHasher>;

impl Hasher for IntegerHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let product =
            u128::from(self.0 ^ value ^ 0x9e37_79b9_7f4a_7c15) * 0xd134_2543_de82_ef95_u128;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 ^= value as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_vectors() {
        // From the authors' test vectors: key 00 01 .. 0f, inputs of 0, 4 and 8 bytes 00 01 ..
        let key = u128::from_le_bytes(std::array::from_fn(|i| i as u8));
        let digest = |tokens: &[TokenId]| siphash_128(key, tokens).swap_bytes();
        assert_eq!(digest(&[]), 0xa381_7f04_ba25_a8e6_6df6_7214_c755_0293);
        assert_eq!(digest(&[0x0302_0100]), 0xf881_64c1_2d9c_8faf_7d0f_6e7c_7bcd_5579);
        assert_eq!(digest(&[0x0302_0100, 0x0706_0504]), 0x3b62_a9ba_6258_f561_0f83_e264_f314_97b4);
    }

    #[test]
    fn each_part_matters() {
        let root = BlockHash::root(7);
        let hashes = [
            root.child(&[1, 2, 3]),
            root.child(&[1, 2, 4]),
            root.child(&[1, 2]),
            root.child(&[1, 2, 0]),
            BlockHash::root(8).child(&[1, 2, 3]),
            root.child(&[1, 2, 3]).child(&[1, 2, 3]),
            root.child(&[1, 2, 3]).in_group(1),
        ];
        for (i, a) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(a), "{i}");
        }
        assert_eq!(root.child(&[1, 2, 3]).in_group(0), hashes[0]);
    }
}
