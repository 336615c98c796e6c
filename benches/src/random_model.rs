//! Random-weight GGUF files of any shape and type: for timing what no small download offers.
//!
//! Weights are uniform in about [-1, 1]; the norms before a matrix are sqrt(3 / hidden_size), which keeps its output near
//! 1, so every number stays far from the limits of float16.

use std::io::{self, Write};

use anyhow::{Context, ensure};
use quire_engine::weights::gguf::GgufWriter;
use quire_engine::weights::gguf::TensorInfo;
use quire_kernels::WeightFormat;
use quire_kernels::linear::cases::random_weight_bytes;

use crate::vocabulary;

/// Families whose tensors and keys can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Dimensions of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub architecture: Architecture,
    pub num_layers: usize,
    pub hidden_size: usize,
    /// Of one expert where there are experts.
    pub intermediate_size: usize,
    /// Experts of each layer and how many of them a token gets; none: one MLP for all.
    pub experts: Option<(usize, usize)>,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// The head is the embedding table.
    pub tied_embeddings: bool,
    pub context_length: usize,
}

/// Shapes of well-known models by name.
pub const SHAPES: [(&str, Shape); 6] = {
    use Architecture::{Llama, Qwen2, Qwen3};
    [
        ("tiny", shape(Llama, 2, [256, 512], (4, 2, 64), 512, true)),
        ("smollm2-135m", shape(Llama, 30, [576, 1536], (9, 3, 64), 49_152, true)),
        ("qwen2.5-0.5b", shape(Qwen2, 24, [896, 4864], (14, 2, 64), 151_936, true)),
        ("qwen2.5-1.5b", shape(Qwen2, 28, [1536, 8960], (12, 2, 128), 151_936, true)),
        ("qwen3-0.6b", shape(Qwen3, 28, [1024, 3072], (16, 8, 128), 151_936, true)),
        ("llama-3.2-1b", shape(Llama, 16, [2048, 8192], (32, 8, 64), 128_256, true)),
    ]
};

const fn shape(
    architecture: Architecture,
    num_layers: usize,
    [hidden_size, intermediate_size]: [usize; 2],
    (num_heads, num_kv_heads, head_dim): (usize, usize, usize),
    vocab_size: usize,
    tied_embeddings: bool,
) -> Shape {
    Shape {
        architecture,
        num_layers,
        hidden_size,
        intermediate_size,
        experts: None,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size,
        tied_embeddings,
        context_length: 8192,
    }
}

/// Which format each tensor gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    most: WeightFormat,
    /// Of v and down in some layers, and of the head.
    better: WeightFormat,
    head: WeightFormat,
}

/// Mixtures as llama.cpp's quantizer makes them, but for small differences.
const MIXTURES: [(&str, Recipe); 3] = {
    use WeightFormat::{Q3K, Q4K, Q5K, Q6K};
    [
        ("Q3_K_M", Recipe { most: Q3K, better: Q5K, head: Q6K }),
        ("Q4_K_M", Recipe { most: Q4K, better: Q6K, head: Q6K }),
        ("Q5_K_M", Recipe { most: Q5K, better: Q6K, head: Q6K }),
    ]
};

impl Recipe {
    /// A format or a mixture by name.
    pub fn named(name: &str) -> Option<Self> {
        if let Some((_, recipe)) = MIXTURES.iter().find(|(known, _)| *known == name) {
            return Some(*recipe);
        }
        let format = WeightFormat::ALL.iter().copied().find(|format| format.name() == name)?;
        Some(Self { most: format, better: format, head: format })
    }

    pub fn names() -> Vec<&'static str> {
        let formats = WeightFormat::ALL.iter().map(|format| format.name());
        formats.chain(MIXTURES.iter().map(|(name, _)| *name)).collect()
    }

    /// v and down are better in the first and last eighth of the layers, and in every third between.
    fn of_layer(self, layer: usize, num_layers: usize) -> WeightFormat {
        let eighth = num_layers / 8;
        let is_outer = layer < eighth || layer >= num_layers - eighth;
        let is_better = is_outer || (layer - eighth) % 3 == 2;
        if is_better { self.better } else { self.most }
    }
}

/// The format itself, or one of blocks of 32 where `in_features` is no multiple of 256.
fn fitting(format: WeightFormat, in_features: usize) -> anyhow::Result<WeightFormat> {
    let smaller = match format {
        WeightFormat::Q4K => WeightFormat::Q5_0,
        WeightFormat::Q5K => WeightFormat::Q5_1,
        WeightFormat::Q6K => WeightFormat::Q8_0,
        _ if format.name().starts_with("IQ") => WeightFormat::Iq4Nl,
        _ => WeightFormat::Q4_0,
    };
    let fits = |format: &WeightFormat| format.row_bytes(in_features).is_some();
    [format, smaller].into_iter().find(fits).with_context(|| {
        format!("{format}: rows of {in_features} are not whole blocks; choose a multiple of 32")
    })
}

/// Writes a model that can be served. Equal arguments give equal bytes.
pub fn write(
    shape: &Shape,
    recipe: Recipe,
    vocabulary: &vocabulary::Vocabulary,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let counts = [shape.num_layers, shape.hidden_size, shape.intermediate_size, shape.head_dim];
    ensure!(counts.iter().all(|&count| count > 0), "every dimension must be at least 1");
    ensure!(
        shape.num_kv_heads > 0 && shape.num_heads.is_multiple_of(shape.num_kv_heads),
        "{} heads over {} KV heads",
        shape.num_heads,
        shape.num_kv_heads
    );
    if let Some((num_experts, num_chosen)) = shape.experts {
        let is_possible = (1..=num_experts).contains(&num_chosen);
        ensure!(is_possible, "a token cannot get {num_chosen} of {num_experts} experts");
        // The one of the three whose experts are told by keys alone.
        ensure!(shape.architecture == Architecture::Llama, "experts need the architecture llama");
    }
    let mut writer = GgufWriter::new();
    write_keys(&mut writer, shape);
    vocabulary.write_keys(&mut writer);
    declare_tensors(&mut writer, shape, recipe)?;
    let norm = (3.0 / shape.hidden_size as f32).sqrt();
    let mut seed = 0;
    writer.write(out, |tensor, out| {
        seed += 1 << 32;
        write_tensor(tensor, norm, seed, out)
    })?;
    Ok(())
}

fn write_keys(writer: &mut GgufWriter, shape: &Shape) {
    let architecture = shape.architecture.name();
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    writer.string("general.architecture", architecture);
    writer.string("general.name", "random weights");
    let numbers = [
        ("block_count", shape.num_layers),
        ("context_length", shape.context_length),
        ("embedding_length", shape.hidden_size),
        ("feed_forward_length", shape.intermediate_size),
        ("attention.head_count", shape.num_heads),
        ("attention.head_count_kv", shape.num_kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("rope.dimension_count", shape.head_dim),
        ("vocab_size", shape.vocab_size),
    ];
    let experts = shape.experts.map(|(num_experts, num_chosen)| {
        [("expert_count", num_experts), ("expert_used_count", num_chosen)]
    });
    for (suffix, number) in numbers.into_iter().chain(experts.into_iter().flatten()) {
        writer.u32(&key(suffix), number as u32);
    }
    writer.f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    writer.f32(&key("rope.freq_base"), 1e6);
}

fn declare_tensors(writer: &mut GgufWriter, shape: &Shape, recipe: Recipe) -> anyhow::Result<()> {
    let &Shape { architecture, hidden_size, intermediate_size, head_dim, vocab_size, .. } = shape;
    let (q_size, kv_size) = (shape.num_heads * head_dim, shape.num_kv_heads * head_dim);
    let mut matrix = |name: &str, dims: &[usize], format| {
        let format = fitting(format, dims[0]).with_context(|| name.to_owned())?;
        let dims: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        writer.tensor(name, &dims, ggml_id(format))?;
        anyhow::Ok(())
    };
    matrix("token_embd.weight", &[hidden_size, vocab_size], recipe.head)?;
    if !shape.tied_embeddings {
        matrix("output.weight", &[hidden_size, vocab_size], recipe.head)?;
    }
    for layer in 0..shape.num_layers {
        let name = |suffix: &str| format!("blk.{layer}.{suffix}.weight");
        let better = recipe.of_layer(layer, shape.num_layers);
        matrix(&name("attn_q"), &[hidden_size, q_size], recipe.most)?;
        matrix(&name("attn_k"), &[hidden_size, kv_size], recipe.most)?;
        matrix(&name("attn_v"), &[hidden_size, kv_size], better)?;
        matrix(&name("attn_output"), &[q_size, hidden_size], recipe.most)?;
        let (suffix, experts) = match shape.experts {
            Some((num_experts, _)) => ("_exps", Some(num_experts)),
            None => ("", None),
        };
        if let Some(num_experts) = experts {
            matrix(&name("ffn_gate_inp"), &[hidden_size, num_experts], WeightFormat::F32)?;
        }
        let mut mlp = |part: &str, in_features, out_features, format| {
            let dims = [in_features, out_features].into_iter().chain(experts);
            matrix(&name(&format!("{part}{suffix}")), &dims.collect::<Vec<_>>(), format)
        };
        mlp("ffn_gate", hidden_size, intermediate_size, recipe.most)?;
        mlp("ffn_up", hidden_size, intermediate_size, recipe.most)?;
        mlp("ffn_down", intermediate_size, hidden_size, better)?;
    }
    let mut vector = |name: String, len: usize| {
        writer.tensor(&name, &[len as u64], ggml_id(WeightFormat::F32)).map(|_| ())
    };
    vector("output_norm.weight".into(), hidden_size)?;
    for layer in 0..shape.num_layers {
        vector(format!("blk.{layer}.attn_norm.weight"), hidden_size)?;
        vector(format!("blk.{layer}.ffn_norm.weight"), hidden_size)?;
        match architecture {
            Architecture::Llama => {}
            Architecture::Qwen2 => {
                for (part, len) in [("q", q_size), ("k", kv_size), ("v", kv_size)] {
                    vector(format!("blk.{layer}.attn_{part}.bias"), len)?;
                }
            }
            Architecture::Qwen3 => {
                vector(format!("blk.{layer}.attn_q_norm.weight"), head_dim)?;
                vector(format!("blk.{layer}.attn_k_norm.weight"), head_dim)?;
            }
        }
    }
    Ok(())
}

/// The format's number in tensor infos.
fn ggml_id(format: WeightFormat) -> u32 {
    let is_of_format = |&id: &u32| WeightFormat::from_ggml_id(id) == Some(format);
    (0..256).find(is_of_format).expect("every format has a number")
}

/// Weights are drawn for this many rows at a time.
const ROWS_AT_ONCE: u64 = 64;

fn write_tensor(tensor: &TensorInfo, norm: f32, seed: u64, out: &mut dyn Write) -> io::Result<()> {
    let (in_features, rest) = tensor.dims.split_first().expect("every tensor has dimensions");
    let in_features = *in_features as usize;
    if rest.is_empty() {
        let value = if tensor.name.ends_with("bias") { 0.1 } else { norm };
        return out.write_all(&value.to_le_bytes().repeat(in_features));
    }
    let out_features: u64 = rest.iter().product();
    let format = WeightFormat::from_ggml_id(tensor.ggml_type).expect("a format of the recipe");
    for first in (0..out_features).step_by(ROWS_AT_ONCE as usize) {
        let rows = ROWS_AT_ONCE.min(out_features - first) as usize;
        out.write_all(&random_weight_bytes(format, rows, in_features, seed + first))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use quire_engine::request::{FinishReason, StreamEvent};
    use quire_engine::{
        Engine, EngineOptions, GgufFile, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
    };

    use super::*;

    fn model(shape: &Shape, name: &str) -> GgufFile {
        let vocabulary = vocabulary::Vocabulary::new(shape.vocab_size).expect("enough tokens");
        let mut bytes = Vec::new();
        write(shape, Recipe::named(name).expect(name), &vocabulary, &mut bytes).expect(name);
        GgufFile::from_bytes(Path::new("random.gguf"), bytes).expect(name)
    }

    /// The reason why 4 tokens ended.
    fn generate(file: GgufFile) -> FinishReason {
        let options = EngineOptions {
            threads: Some(2),
            kv_cache_memory: Some(1 << 20),
            ..EngineOptions::on_cpu()
        };
        let files = ModelFiles::from(file);
        let plan = MemoryPlan::new(&files, &options, &Machine::detect()).expect("it fits");
        let engine = Engine::load(&files, &plan, &[], &|_, _| ()).expect("it loads");
        let (handle, _) = engine.spawn().expect("it starts");
        let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(4) };
        let mut stream = handle.generate(Request::new(vec![1, 2, 3], params)).expect("valid");
        loop {
            match stream.blocking_next() {
                Some(StreamEvent::Finished(finished)) => return finished.reason,
                Some(_) => {}
                None => panic!("a stream ends with Finished"),
            }
        }
    }

    #[test]
    fn every_architecture_and_format_generates_finite_numbers() {
        let (_, tiny) = SHAPES[0];
        for architecture in Architecture::ALL {
            let shape = Shape { architecture, tied_embeddings: false, ..tiny };
            assert_eq!(generate(model(&shape, "Q4_K_M")), FinishReason::Length);
        }
        let experts = Shape { experts: Some((8, 2)), intermediate_size: 64, ..tiny };
        assert_eq!(generate(model(&experts, "Q4_K_M")), FinishReason::Length);
        // 96 is no multiple of 256: K-quants fall back.
        let odd = Shape { num_layers: 1, hidden_size: 96, ..tiny };
        for name in Recipe::names() {
            assert_eq!(generate(model(&odd, name)), FinishReason::Length, "{name}");
        }
    }

    #[test]
    fn mixtures_put_the_better_format_where_it_matters() {
        let shape = Shape { num_layers: 8, ..SHAPES[0].1 };
        let file = model(&shape, "Q4_K_M");
        let format = |name: &str| {
            let tensor = file.tensor(name).expect(name);
            WeightFormat::from_ggml_id(tensor.ggml_type).expect(name).name()
        };
        let of_layers = |part: &str| -> Vec<&str> {
            (0..8).map(|layer| format(&format!("blk.{layer}.{part}.weight"))).collect()
        };
        let expected = ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"];
        assert_eq!(of_layers("ffn_down"), expected);
        assert_eq!(of_layers("attn_v"), expected);
        assert_eq!(of_layers("attn_q"), ["Q4_K"; 8]);
        assert_eq!(format("token_embd.weight"), "Q6_K");
    }

    #[test]
    fn impossible_shapes_are_errors() {
        let (_, tiny) = SHAPES[0];
        let vocabulary = vocabulary::Vocabulary::new(512).expect("enough tokens");
        let recipe = Recipe::named("Q8_0").expect("a format");
        let shapes = [
            Shape { num_kv_heads: 3, ..tiny },
            Shape { num_kv_heads: 0, ..tiny },
            Shape { hidden_size: 100, ..tiny },
            Shape { num_layers: 0, ..tiny },
            Shape { experts: Some((8, 9)), ..tiny },
            Shape { experts: Some((8, 0)), ..tiny },
            Shape { experts: Some((8, 2)), architecture: Architecture::Qwen3, ..tiny },
        ];
        for shape in shapes {
            let result = write(&shape, recipe, &vocabulary, &mut io::sink());
            assert!(result.is_err(), "{shape:?}");
        }
        assert_eq!(Recipe::named("Q4_Z"), None);
    }
}
