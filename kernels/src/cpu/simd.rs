//! The instruction sets an op may use, chosen once when the device is made.
//!
//! This is where NEON belongs. A new level is a variant here, with its name and the test whether a machine has it; an
//! implementation of `Lanes` (`linear/packed/lanes.rs`); and an arm in each `match` on `SimdLevel`, which is that of
//! `Portable` where an op has no code for it yet. Tests run every level in `available`, and `--cpu-isa` forces it.

/// Ordered from narrow to wide: what one level computes with floats, every later one can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// Plain Rust: every machine.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-VNNI (integer dot products in 256 bits) on top of AVX2.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI on top of AVX2. Machines with AVX-512 but without VNNI count as AVX2.
    Avx512,
    /// AVX-512 BF16 (dot products of BF16) on top of that.
    Avx512Bf16,
}

impl SimdLevel {
    /// Narrowest first.
    const ALL: [Self; 5] =
        [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Avx512Bf16];

    /// The widest level of this machine.
    pub fn detect() -> Self {
        let widest = Self::ALL.into_iter().rev().find(|level| level.is_available());
        widest.expect("every machine has the portable level")
    }

    /// As the flag `--cpu-isa` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// The level of that name, whether or not this machine has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Every level this machine has, narrowest first: tests force each.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.is_available()).collect()
    }

    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
        };
        match self {
            Self::Portable => true,
            Self::Avx2 => avx2(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512 => avx512(),
            Self::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
        }
    }

    /// A level of another architecture has its test here.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }
}
