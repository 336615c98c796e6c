//! The tiny models with golden numbers: where their files lie, what those leave out, and how close answers must be.

use std::path::PathBuf;

use quire_engine::config::{Activations, KvCacheDtype, SimdLevel, Weights};
use quire_engine::weights::ModelFiles;
use quire_engine::{EngineOptions, GgufFile};

use crate::distance::{Distance, other_answers};
use crate::gguf_keys::{KeyValue, with_keys};
use crate::safetensors::Safetensors;
use crate::{options, repository, start_files};

/// Where a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In this repository.
    Committed,
    /// Tried where all tiny models lie beside the repository.
    Beside,
    /// There is none.
    Nowhere,
}

/// A tiny model.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    /// As GGUF names it.
    pub architecture: &'static str,
    /// As GGUF.
    pub gguf: Home,
    /// As a directory with safetensors.
    pub directory: Home,
    /// Keys that the converter to GGUF left out, because llama.cpp assumes their values or does without.
    missing_keys: &'static [(&'static str, KeyValue)],
    pub max_model_len: Option<u32>,
    /// Rounding may lead a row to another expert, or to other positions, whose output has nothing of the first's.
    pub chooses: bool,
    /// Of quantized weights. 8 bits would lead rows of these random models to other experts too often.
    pub activations: Activations,
}

const BESIDE: Family = Family {
    name: "",
    architecture: "",
    gguf: Home::Beside,
    directory: Home::Beside,
    missing_keys: &[],
    max_model_len: None,
    chooses: false,
    activations: Activations::INT8,
};
const GGUF: Family = Family { gguf: Home::Committed, ..BESIDE };
const BOTH: Family = Family { directory: Home::Committed, ..GGUF };
const DIRECTORY_ONLY: Family = Family { gguf: Home::Nowhere, ..BESIDE };
const DIRECTORY_COMMITTED: Family = Family { directory: Home::Committed, ..DIRECTORY_ONLY };
const BESIDE_EXPERTS: Family = Family { chooses: true, ..BESIDE };
const GGUF_EXPERTS: Family = Family { chooses: true, ..GGUF };

const LLAMA4_KEYS: &[(&str, KeyValue)] = &[
    ("llama4.attention.chunk_size", KeyValue::U32(64)),
    ("llama4.attention.temperature_length", KeyValue::U32(32)),
];

pub const FAMILIES: &[Family] = &[
    Family { name: "llama3", architecture: "llama", ..BOTH },
    Family { name: "llama3_k256", architecture: "llama", ..BESIDE },
    Family { name: "smollm2", architecture: "llama", ..BESIDE },
    Family { name: "qwen2", architecture: "qwen2", ..BESIDE },
    Family { name: "qwen3", architecture: "qwen3", ..BOTH },
    Family { name: "gemma3", architecture: "gemma3", ..GGUF },
    // The golden numbers have the factors of contexts up to 512, which a longer limit would replace.
    Family { name: "phi4mini", architecture: "phi3", max_model_len: Some(512), ..GGUF },
    Family { name: "ministral3", architecture: "mistral3", ..GGUF },
    Family {
        name: "mistral",
        architecture: "llama",
        missing_keys: &[("llama.attention.sliding_window", KeyValue::U32(48))],
        ..BESIDE
    },
    Family {
        name: "gemma2",
        architecture: "gemma2",
        directory: Home::Committed,
        missing_keys: &[("gemma2.attention.scale", KeyValue::F32(0.204_124_15))],
        ..BESIDE
    },
    Family { name: "qwen35", architecture: "qwen35", ..DIRECTORY_ONLY },
    Family { name: "qwen35_vl", architecture: "qwen35", ..BOTH },
    Family { name: "qwen35_moe", architecture: "qwen35moe", chooses: true, ..DIRECTORY_ONLY },
    Family { name: "qwen35_moe_vl", architecture: "qwen35moe", ..BESIDE_EXPERTS },
    Family { name: "qwen3_next", architecture: "qwen3next", chooses: true, ..DIRECTORY_ONLY },
    Family {
        name: "qwen3_next_small",
        architecture: "qwen3next",
        chooses: true,
        ..DIRECTORY_COMMITTED
    },
    Family { name: "gemma4_31b", architecture: "gemma4", ..BESIDE },
    Family { name: "mixtral", architecture: "llama", ..BESIDE_EXPERTS },
    Family { name: "qwen3_moe", architecture: "qwen3moe", ..BESIDE_EXPERTS },
    Family { name: "gpt_oss", architecture: "gpt-oss", ..BESIDE_EXPERTS },
    Family {
        name: "gpt_oss_mxfp4",
        architecture: "gpt-oss",
        chooses: true,
        activations: Activations::INT16,
        ..BOTH
    },
    Family { name: "glm4_moe", architecture: "glm4moe", ..BESIDE_EXPERTS },
    Family { name: "deepseek_v3", architecture: "deepseek2", ..GGUF_EXPERTS },
    Family { name: "glm4_moe_lite", architecture: "deepseek2", ..BESIDE_EXPERTS },
    Family { name: "mistral4", architecture: "mistral4", chooses: true, ..DIRECTORY_ONLY },
    Family {
        name: "mistral4_vl",
        architecture: "mistral4",
        missing_keys: &[("mistral4.attention.temperature_scale", KeyValue::F32(0.1))],
        ..BESIDE_EXPERTS
    },
    Family { name: "llama4_scout", architecture: "llama4", ..GGUF_EXPERTS },
    Family {
        name: "llama4_scout_vl",
        architecture: "llama4",
        missing_keys: LLAMA4_KEYS,
        ..BESIDE_EXPERTS
    },
    Family {
        name: "llama4_maverick",
        architecture: "llama4",
        missing_keys: LLAMA4_KEYS,
        ..BESIDE_EXPERTS
    },
    Family { name: "gemma4_26b", architecture: "gemma4", ..GGUF_EXPERTS },
    Family { name: "gemma4_26b_vl", architecture: "gemma4", ..BESIDE_EXPERTS },
    Family { name: "gemma4_e2b", architecture: "gemma4", ..GGUF },
    Family { name: "gemma4_e2b_vl", architecture: "gemma4", ..BESIDE },
    Family { name: "deepseek_v32", architecture: "deepseek32", ..BESIDE_EXPERTS },
    Family { name: "glm5", architecture: "glm-dsa", ..BESIDE_EXPERTS },
    Family { name: "glm5_shared", architecture: "glm-dsa", ..GGUF_EXPERTS },
    Family { name: "phi3", architecture: "phi3", ..BESIDE },
    Family { name: "smollm3", architecture: "smollm3", ..BESIDE },
];

/// Those that make embeddings.
pub const ENCODERS: &[Family] = &[
    Family { name: "bert", architecture: "bert", directory: Home::Committed, ..BESIDE },
    Family { name: "modernbert", architecture: "modern-bert", ..GGUF },
    Family { name: "nomic_bert", architecture: "nomic-bert", ..DIRECTORY_COMMITTED },
    Family { name: "xlm_roberta", architecture: "bert", ..DIRECTORY_ONLY },
];

const COMMITTED: &str = "tests/data/conformance";

/// Every decoder that is here, with its files.
#[expect(clippy::print_stdout, reason = "a test says what it leaves out")]
pub fn families_here() -> impl Iterator<Item = (&'static Family, ModelFiles)> {
    FAMILIES.iter().filter_map(|family| {
        let files = family.open();
        if files.is_none() {
            println!("{}: not run, for it is not beside the repository", family.name);
        }
        Some((family, files?))
    })
}

/// The folder of all tiny models: `QUIRE_CONFORMANCE`, or beside the repository.
fn all() -> PathBuf {
    let folder = folder_of("QUIRE_CONFORMANCE");
    unseen().or(folder).unwrap_or_else(|| repository("../shared/data/conformance"))
}

/// The folder of directories that `tests/seeds.py` made, which are then tried instead of all others.
fn unseen() -> Option<PathBuf> {
    folder_of("QUIRE_UNSEEN")
}

/// What a variable names has to be there: else each model would be left out, and every test pass.
fn folder_of(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    assert!(folder.iter().all(|folder| folder.is_dir()), "{variable} names no folder: {folder:?}");
    folder
}

impl Family {
    /// What answers are computed with.
    pub fn options(&self, weights: Weights) -> EngineOptions {
        let &Self { max_model_len, activations, .. } = self;
        EngineOptions { weights, activations, max_model_len, ..options() }
    }

    /// With float32 weights, where nothing is rounded but the cache: prompts with other answers, and how far all numbers are.
    fn with_rounded_cache(
        &self,
        files: &ModelFiles,
        kv_cache_dtype: KvCacheDtype,
    ) -> (Vec<String>, Distance) {
        let options = EngineOptions { kv_cache_dtype, ..self.options(Weights::Float32) };
        let (handle, mut distance) = (start_files(files, &options, &[]), Distance::default());
        (other_answers(&handle, &self.golden(), 0.1, &mut distance), distance)
    }

    /// Of the prompts whose answer is another in the default mode, those that must not be, and whether the mean distance is near
    /// enough. A model that chooses experts or positions may be led as far as a cache of 16 bits alone leads it.
    fn without_explanation(
        &self,
        files: &ModelFiles,
        mut others: Vec<String>,
        mean: f64,
    ) -> (Vec<String>, bool) {
        let is_near = mean < 0.05;
        if !self.chooses || (others.is_empty() && is_near) {
            return (others, is_near);
        }
        let (rounded, distance) = self.with_rounded_cache(files, KvCacheDtype::F16);
        others.retain(|prompt| !rounded.contains(prompt));
        (others, is_near || mean < 2.0 * distance.mean())
    }

    /// Checks the default mode with these activations, and says how near it is. Where the machine multiplies floats as BF16 a token
    /// may differ whose lead is less than what BF16 changes in this model at least.
    pub fn check_packed(&self, files: &ModelFiles, activations: Activations) -> String {
        let options = EngineOptions { activations, ..self.options(Weights::Packed) };
        let handle = start_files(files, &options, &[]);
        let mut distance = Distance::default();
        let others = other_answers(&handle, &self.golden(), 0.1, &mut distance);
        let (mut others, is_near) = self.without_explanation(files, others, distance.mean());
        let multiplies_bf16 = SimdLevel::detect() >= SimdLevel::Avx512Bf16;
        if multiplies_bf16 && activations == Activations::INT8 && !self.chooses {
            let gap = self.with_rounded_cache(files, KvCacheDtype::BF16).1.largest.max(0.1);
            others = other_answers(&handle, &self.golden(), gap, &mut Distance::default());
        }
        let name = format!("{} packed, {activations}", self.name);
        assert_eq!(others, [""; 0], "{name}");
        assert!(is_near, "{name}: {distance:?}");
        format!("{name}: mean {}, {distance:?}", distance.mean())
    }

    /// The model in one of its forms, GGUF first; `None`: it is not here.
    pub fn open(&self) -> Option<ModelFiles> {
        let directory = || self.directory().map(|path| ModelFiles::open(&path).expect("it opens"));
        self.open_gguf().or_else(directory)
    }

    /// The model as GGUF; `None`: there is none, or it is not here.
    pub fn open_gguf(&self) -> Option<ModelFiles> {
        if unseen().is_some() {
            return None;
        }
        let name = self.name;
        let path = match self.gguf {
            Home::Committed => repository(&format!("{COMMITTED}/{name}.gguf")),
            Home::Beside => all().join(format!("gguf/{name}-f32.gguf")),
            Home::Nowhere => return None,
        };
        if self.gguf == Home::Beside && !path.exists() {
            return None;
        }
        let bytes = std::fs::read(&path).expect("the model is readable");
        // The committed ones have all keys.
        let bytes = match self.gguf {
            Home::Beside => with_keys(&bytes, self.missing_keys),
            Home::Committed | Home::Nowhere => bytes,
        };
        Some(GgufFile::from_bytes(&path, bytes).expect("a valid file").into())
    }

    /// The model as a directory; `None`: there is none, or it is not here.
    pub fn directory(&self) -> Option<PathBuf> {
        let path = match self.directory {
            Home::Committed if unseen().is_none() => {
                return Some(repository(&format!("{COMMITTED}/hf/{}", self.name)));
            }
            Home::Committed | Home::Beside => all().join("models").join(self.name),
            Home::Nowhere => return None,
        };
        path.exists().then_some(path)
    }

    /// The golden numbers, which are committed where a model is.
    pub fn golden(&self) -> Safetensors {
        let is_committed = self.gguf == Home::Committed || self.directory == Home::Committed;
        let path = match is_committed && unseen().is_none() {
            true => repository(&format!("{COMMITTED}/{}.safetensors", self.name)),
            false => all().join(format!("models/{}/golden.safetensors", self.name)),
        };
        Safetensors::open(&path)
    }
}
