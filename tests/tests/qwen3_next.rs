//! Qwen3-Next as GGUF answers as the directory that it is made of, whether its converter took q, k, v and z apart or not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use quire_engine::config::Weights;
use quire_engine::weights::ModelFiles;
use quire_engine::weights::gguf::GgufWriter;
use quire_engine::weights::safetensors::SafetensorsFile;
use quire_engine::{EngineHandle, EngineOptions, GgufFile, SamplingParams};
use quire_tests::distance::{Distance, check_prompt, prompts};
use quire_tests::families::FAMILIES;
use quire_tests::random_models::{VOCAB_SIZE, float32, numbers, qwen3_next, write_directory};
use quire_tests::{Random, ask, options, start, start_files};
use serde_json::Value;

const F32: u32 = 0;

/// Tensors by name: shapes and numbers.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The parts of names that GGUF has in place of a directory's.
const NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("linear_attn.in_proj_qkvz", "ssm_in"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("mlp.gate.", "ffn_gate_inp."),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
];

fn dimension(config: &Value, key: &str) -> usize {
    config[key].as_u64().unwrap_or_else(|| panic!("no {key}")) as usize
}

/// What converters make of a directory's tensors.
fn converted(config: &Value, tensors: &Tensors, is_apart: bool) -> Tensors {
    let mut out = Tensors::new();
    for (name, (shape, values)) in tensors {
        let mut ours = NAMES.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
        let (mut shape, mut values) = (shape.clone(), values.clone());
        if name.ends_with("norm.weight") && !name.contains("linear_attn") {
            values.iter_mut().for_each(|value| *value += 1.0);
        } else if name.ends_with("A_log") {
            values.iter_mut().for_each(|value| *value = -value.exp());
        } else if name.contains("conv1d") {
            shape.remove(1);
        } else if name.contains("shared_expert_gate") {
            shape.remove(0);
        } else if is_apart && name.contains("in_proj_qkvz") {
            let layer = ours.replace("ssm_in.weight", "");
            for (part, values) in ["attn_qkv", "attn_gate"].into_iter().zip(apart(config, &values))
            {
                let shape = vec![values.len() / shape[1], shape[1]];
                out.insert(format!("{layer}{part}.weight"), (shape, values));
            }
            continue;
        } else if let Some((layer, expert)) = name.split_once(".mlp.experts.") {
            let (number, part) = expert.split_once('.').expect("an expert has a number");
            let layer = layer.replace("model.layers", "blk");
            ours = format!("{layer}.ffn_{}_exps.weight", part.replace("_proj.weight", ""));
            let all = out.entry(ours).or_insert_with(|| ([&[0][..], &shape].concat(), Vec::new()));
            assert_eq!(number, all.0[0].to_string(), "experts come in order");
            all.0[0] += 1;
            all.1.extend(values);
            continue;
        }
        out.insert(ours, (shape, values));
    }
    out
}

/// Rows of q, k and v of all heads, and of z, of rows that have them head by head.
fn apart(config: &Value, values: &[f32]) -> [Vec<f32>; 2] {
    let [hidden, key_dim, value_dim, num_keys, num_values] = [
        "hidden_size",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_num_key_heads",
        "linear_num_value_heads",
    ]
    .map(|key| dimension(config, key));
    let values_of_key = num_values / num_keys * value_dim;
    let group = 2 * key_dim + 2 * values_of_key;
    let rows = |start: usize, len: usize| -> Vec<f32> {
        let of_group = |group: &[f32]| group[start * hidden..(start + len) * hidden].to_vec();
        values.chunks(group * hidden).flat_map(of_group).collect()
    };
    let z = group - values_of_key;
    let qkv = [rows(0, key_dim), rows(key_dim, key_dim), rows(2 * key_dim, values_of_key)];
    [qkv.concat(), rows(z, values_of_key)]
}

fn gguf(config: &Value, tensors: &Tensors) -> ModelFiles {
    let mut writer = GgufWriter::new();
    writer.string("general.architecture", "qwen3next");
    for (ours, key) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.value_length", "head_dim"),
        ("expert_count", "num_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        ("ssm.conv_kernel", "linear_conv_kernel_dim"),
        ("ssm.state_size", "linear_key_head_dim"),
        ("ssm.group_count", "linear_num_key_heads"),
        ("ssm.time_step_rank", "linear_num_value_heads"),
    ] {
        writer.u32(&format!("qwen3next.{ours}"), dimension(config, key) as u32);
    }
    let heads = dimension(config, "linear_num_value_heads");
    let inner = heads * dimension(config, "linear_value_head_dim");
    writer.u32("qwen3next.ssm.inner_size", inner as u32);
    let number = |key: &str| config[key].as_f64().expect("a number") as f32;
    let rotated = dimension(config, "head_dim") as f32 * number("partial_rotary_factor");
    writer.u32("qwen3next.rope.dimension_count", rotated as u32);
    writer.f32("qwen3next.rope.freq_base", number("rope_theta"));
    writer.f32("qwen3next.attention.layer_norm_rms_epsilon", number("rms_norm_eps"));
    let kinds = config["layer_types"].as_array().expect("kinds").iter();
    let is_recurrent: Vec<bool> = kinds.map(|kind| kind == "linear_attention").collect();
    writer.bools("qwen3next.attention.recurrent_layers", &is_recurrent);
    for (name, (shape, _)) in tensors {
        let dims: Vec<u64> = shape.iter().rev().map(|&dim| dim as u64).collect();
        writer.tensor(name, &dims, F32).expect("a valid tensor");
    }
    let mut bytes = writer.header();
    for (_, values) in tensors.values() {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
    }
    GgufFile::from_bytes(Path::new("qwen3next.gguf"), bytes).expect("a valid file").into()
}

#[test]
fn a_file_answers_as_the_directory_that_it_is_made_of() {
    let (model, mut random) = (qwen3_next(), Random::new(11));
    let mut tensors = Tensors::new();
    for (name, shape) in &model.tensors {
        tensors.insert(name.clone(), (shape.clone(), numbers(&mut random, name, shape)));
    }
    let folder = std::env::temp_dir().join(format!("quire-qwen3-next-{}", std::process::id()));
    let stored = tensors.iter().map(|(name, (shape, values))| float32(name, shape, values));
    write_directory(&folder, &model.config, &stored.collect::<Vec<_>>());
    let options = EngineOptions { weights: Weights::Float32, ..options() };
    let prompt: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % VOCAB_SIZE).collect();
    let answer = |handle: &EngineHandle| {
        let params = SamplingParams {
            logprobs: Some(VOCAB_SIZE),
            prompt_logprobs: Some(VOCAB_SIZE),
            ..SamplingParams::greedy(16)
        };
        let answer = ask(handle, &prompt, params);
        (answer.started.prompt_logprobs, answer.tokens)
    };
    let expected = answer(&start(&folder, &options, &[]));
    fs::remove_dir_all(&folder).expect("made above");
    for is_apart in [false, true] {
        let files = gguf(&model.config, &converted(&model.config, &tensors, is_apart));
        assert_eq!(answer(&start_files(&files, &options, &[])), expected, "apart: {is_apart}");
    }
}

/// Of the tiny model that lies beside the repository.
#[test]
fn a_file_reproduces_the_golden_numbers() {
    let family = FAMILIES.iter().find(|family| family.name == "qwen3_next").expect("a family");
    let Some(path) = family.directory() else {
        println!("qwen3_next: no directory here");
        return;
    };
    let config = fs::read(path.join("config.json")).expect("a configuration");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let file = SafetensorsFile::open(&path.join("model.safetensors")).expect("readable");
    let mut tensors = Tensors::new();
    for info in file.tensors() {
        assert_eq!(info.dtype, "BF16", "{}", info.name);
        let (halves, _) = file.tensor_bytes(info).as_chunks::<2>();
        let values = halves.iter().map(|&half| u32::from(u16::from_le_bytes(half)) << 16);
        let shape = info.shape.iter().map(|&dim| dim as usize).collect();
        tensors.insert(info.name.clone(), (shape, values.map(f32::from_bits).collect()));
    }
    for is_apart in [false, true] {
        let files = gguf(&config, &converted(&config, &tensors, is_apart));
        let handle = start_files(&files, &family.options(Weights::Float32), &[]);
        let mut distance = Distance::default();
        for prompt in prompts() {
            check_prompt(&handle, &family.golden(), &prompt, 0.0, &mut distance);
        }
        println!("qwen3_next float32, apart: {is_apart}: {distance:?}");
        assert!(distance.largest <= 2e-3, "apart: {is_apart}: {distance:?}");
    }
}
