//! Quantized weights that a model reads in an order of its own (the projections of Gated DeltaNet, queries and their gates,
//! keys and values of latent vectors, experts with act-order) give the answers of the same numbers in float32.

use std::fs;
use std::path::{Path, PathBuf};

use quire_engine::config::{Activations, KvCacheDtype, Weights};
use quire_engine::{EngineOptions, SamplingParams};
use quire_tests::random_models::{
    HIDDEN, RandomModel, Stored, VOCAB_SIZE, deepseek_v3, float32, numbers, qwen3_next, stored,
    unit, write_directory,
};
use quire_tests::{Answer, Random, ask, options, start};
use serde_json::{Value, json};

const GROUP: usize = 32;

#[derive(Clone, Copy, Debug)]
enum Method {
    /// A scale for each feature.
    Float8,
    /// Groups with zero points, in act-order.
    Gptq,
    /// Scales for 16 numbers, and one for the tensor.
    Nvfp4,
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A number of 8 bits, E4M3.
fn float8(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let value = match exponent {
        0 => mantissa / 8.0 * 2.0_f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { value } else { -value }
}

impl Method {
    fn config(self) -> Value {
        let compressed = |format: &str, weights: Value| {
            let groups = json!({"group_0": {"targets": ["Linear"], "weights": weights}});
            json!({"quant_method": "compressed-tensors", "format": format, "config_groups": groups})
        };
        match self {
            Self::Float8 => compressed("float-quantized", json!({"num_bits": 8})),
            Self::Gptq => {
                json!({"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": true})
            }
            Self::Nvfp4 => {
                compressed("nvfp4-pack-quantized", json!({"num_bits": 4, "group_size": 16}))
            }
        }
    }

    /// A random weight `[rows, cols]`: its tensors, and its numbers.
    fn weight(self, random: &mut Random, name: &str, shape: [usize; 2]) -> (Vec<Stored>, Vec<f32>) {
        let module = name.strip_suffix("weight").expect("a weight");
        match self {
            Self::Float8 => float8_weight(random, module, shape),
            Self::Gptq => gptq_weight(random, module, shape),
            Self::Nvfp4 => nvfp4_weight(random, module, shape),
        }
    }
}

fn float8_weight(random: &mut Random, module: &str, shape: [usize; 2]) -> (Vec<Stored>, Vec<f32>) {
    let [rows, cols] = shape;
    // Up to 1.9.
    let codes: Vec<u8> = (0..rows * cols).map(|_| random.below(256) as u8 & 0xBF).collect();
    let spread = 2.0 / (cols as f32).sqrt();
    let scales: Vec<f32> = (0..rows).map(|_| spread * (0.5 + unit(random))).collect();
    let values = codes.iter().enumerate().map(|(i, &code)| float8(code) * scales[i / cols]);
    let values = values.collect();
    let tensors = vec![
        stored(&format!("{module}weight"), "F8_E4M3", &shape, codes),
        float32(&format!("{module}weight_scale"), &[rows, 1], &scales),
    ];
    (tensors, values)
}

fn gptq_weight(random: &mut Random, module: &str, shape: [usize; 2]) -> (Vec<Stored>, Vec<f32>) {
    let [rows, cols] = shape;
    let num_groups = cols / GROUP;
    // Gate and up of an expert have one order.
    let seed = module.replace("up_proj", "gate_proj").bytes().map(u64::from).sum();
    let mut of_order = Random::new(seed);
    let mut order: Vec<usize> = (0..cols).collect();
    (1..cols).rev().for_each(|i| order.swap(i, of_order.below(i as u32 + 1) as usize));
    let mut group_of = vec![0; cols];
    order.iter().enumerate().for_each(|(place, &k)| group_of[k] = (place / GROUP) as u32);
    let codes: Vec<u32> = (0..rows * cols).map(|_| random.below(16)).collect();
    let zeros: Vec<u32> = (0..num_groups * rows).map(|_| 6 + random.below(5)).collect();
    // Of 2^-5 to 2^-4, as F16.
    let mantissas: Vec<u16> = (0..num_groups * rows).map(|_| random.below(1024) as u16).collect();
    let scale = |at: usize| (1.0 + f32::from(mantissas[at]) / 1024.0) / 32.0;
    let value = |i: usize| {
        let at = group_of[i % cols] as usize * rows + i / cols;
        (codes[i] as f32 - zeros[at] as f32) * scale(at)
    };
    let values = (0..rows * cols).map(value).collect();
    let word = |numbers: &mut dyn Iterator<Item = u32>| {
        numbers.enumerate().fold(0, |word, (place, number)| word | number << (4 * place))
    };
    let of_cols = (0..cols / 8).flat_map(|block| (0..rows).map(move |row| (block, row)));
    let words: Vec<u32> = of_cols
        .map(|(block, row)| word(&mut (0..8).map(|k| codes[row * cols + 8 * block + k])))
        .collect();
    // The first format has them 1 too small.
    let packed_zeros: Vec<u32> =
        zeros.chunks(8).map(|zeros| word(&mut zeros.iter().map(|zero| zero - 1))).collect();
    let scales = mantissas.iter().flat_map(|mantissa| (10 << 10 | mantissa).to_le_bytes());
    let name = |part: &str| format!("{module}{part}");
    let tensors = vec![
        stored(&name("qweight"), "I32", &[cols / 8, rows], bytes_of(&words)),
        stored(&name("qzeros"), "I32", &[num_groups, rows / 8], bytes_of(&packed_zeros)),
        stored(&name("scales"), "F16", &[num_groups, rows], scales.collect()),
        stored(&name("g_idx"), "I32", &[cols], bytes_of(&group_of)),
    ];
    (tensors, values)
}

fn nvfp4_weight(random: &mut Random, module: &str, shape: [usize; 2]) -> (Vec<Stored>, Vec<f32>) {
    const NUMBERS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let [rows, cols] = shape;
    let codes: Vec<u8> = (0..rows * cols).map(|_| random.below(16) as u8).collect();
    let scales: Vec<u8> = (0..rows * cols / 16).map(|_| 0x30 + random.below(12) as u8).collect();
    let global = 16.0 + 16.0 * unit(random);
    let value = |i: usize| {
        let number = NUMBERS[usize::from(codes[i] & 7)];
        let number = if codes[i] & 8 == 0 { number } else { -number };
        number * (float8(scales[i / 16]) * (1.0 / global))
    };
    let values = (0..rows * cols).map(value).collect();
    let packed = codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect();
    let name = |part: &str| format!("{module}{part}");
    let tensors = vec![
        stored(&name("weight_packed"), "U8", &[rows, cols / 2], packed),
        stored(&name("weight_scale"), "F8_E4M3", &[rows, cols / 16], scales),
        float32(&name("weight_global_scale"), &[1], &[global]),
    ];
    (tensors, values)
}

/// The model with quantized weights, and with their numbers in float32.
fn two_directories(model: &RandomModel, method: Method) -> [PathBuf; 2] {
    let mut random = Random::new(7);
    let (mut quantized, mut floats) = (Vec::new(), Vec::new());
    for (name, shape) in &model.tensors {
        let is_router = name.contains("mlp.gate.") || name.contains("shared_expert_gate");
        match shape[..] {
            [rows, cols] if name.contains(".layers.") && !is_router => {
                let (tensors, values) = method.weight(&mut random, name, [rows, cols]);
                quantized.extend(tensors);
                floats.push(float32(name, shape, &values));
            }
            _ => {
                let values = numbers(&mut random, name, shape);
                quantized.push(float32(name, shape, &values));
                floats.push(float32(name, shape, &values));
            }
        }
    }
    let mut config = model.config.clone();
    let folder = |kind: &str| {
        let name = format!("quire-{}-{method:?}-{kind}-{}", model.name, std::process::id());
        std::env::temp_dir().join(name)
    };
    let folders = [folder("quantized"), folder("float32")];
    write_directory(&folders[1], &config, &floats);
    config["quantization_config"] = method.config();
    write_directory(&folders[0], &config, &quantized);
    folders
}

fn answer(folder: &Path, weights: Weights) -> Answer {
    let (activations, kv_cache_dtype) = (Activations::INT16, KvCacheDtype::F32);
    let options = EngineOptions { weights, activations, kv_cache_dtype, ..options() };
    let prompt: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % VOCAB_SIZE).collect();
    let params = SamplingParams {
        logprobs: Some(VOCAB_SIZE),
        prompt_logprobs: Some(VOCAB_SIZE),
        ..SamplingParams::greedy(8)
    };
    ask(&start(folder, &options, &[]), &prompt, params)
}

/// Log probabilities of all tokens after each of the prompt.
fn rows(answer: &Answer) -> Vec<Vec<(u32, f32)>> {
    let entries = answer.started.prompt_logprobs.iter().flatten();
    let sorted = entries.map(|entry| {
        let mut top = entry.top.clone();
        top.sort_unstable_by_key(|&(token, _)| token);
        top
    });
    sorted.collect()
}

#[test]
fn quantized_weights_in_another_order_answer_as_their_numbers() {
    for model in [qwen3_next(), deepseek_v3()] {
        for method in [Method::Float8, Method::Gptq, Method::Nvfp4] {
            let at = format!("{} {method:?}", model.name);
            let folders = two_directories(&model, method);
            let [quantized, floats] = folders.each_ref().map(|f| answer(f, Weights::Float32));
            let packed = answer(&folders[0], Weights::Packed);
            folders.iter().for_each(|folder| fs::remove_dir_all(folder).expect("made above"));
            assert_eq!(quantized.started.prompt_logprobs, floats.started.prompt_logprobs, "{at}");
            assert_eq!(quantized.tokens, floats.tokens, "{at}");
            let pairs =
                rows(&packed).into_iter().flatten().zip(rows(&floats).into_iter().flatten());
            let differences: Vec<f32> = pairs.map(|((_, a), (_, b))| (a - b).abs()).collect();
            let mean = differences.iter().sum::<f32>() / differences.len() as f32;
            println!("{at}: mean difference of a log probability, packed: {mean:.1e}");
            assert!(mean < 5e-3, "{at}: {mean}");
        }
    }
}

/// Stacked they have one row of x, which has one order.
#[test]
fn gate_and_up_with_orders_of_their_own_are_refused() {
    let model = deepseek_v3();
    let [folder, other] = two_directories(&model, Method::Gptq);
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).expect("made above");
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let name = "model.layers.1.mlp.experts.2.up_proj.g_idx";
    let start = 8 + length + header[name]["data_offsets"][0].as_u64().expect("a number") as usize;
    let mut spoilt = bytes.clone();
    // The groups, changed with one another.
    spoilt[start..start + 4 * HIDDEN].chunks_mut(4).for_each(|group| group[0] = 1 - group[0]);
    fs::write(&path, spoilt).expect("writable");
    let load = || {
        let files = quire_engine::ModelFiles::open(&folder)?;
        let machine = quire_engine::machine::Machine::detect();
        let plan = quire_engine::MemoryPlan::new(&files, &options(), &machine)?;
        quire_engine::Engine::load(&files, &plan, &[], &|_, _| ()).map(|_| ())
    };
    let error = load().expect_err("it has two orders");
    [folder.clone(), other]
        .iter()
        .for_each(|folder| fs::remove_dir_all(folder).expect("made above"));
    let error = format!("{error:#}");
    assert!(error.contains("act-orders of their own"), "{error}");
}
