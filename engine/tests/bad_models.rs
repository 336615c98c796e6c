//! Models and flags that cannot work: each is an error that names the key, tensor or flag, before anything runs.

use std::collections::BTreeMap;
use std::path::Path;

use quire_engine::config::{DeviceChoice, SimdLevel};
use quire_engine::weights::gguf::GgufWriter;
use quire_engine::{Engine, EngineOptions, GgufFile, Machine, MemoryPlan, ModelFiles};

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q8_K: u32 = 15;

/// A one-layer llama that a test may spoil.
struct Model {
    architecture: &'static str,
    numbers: BTreeMap<&'static str, u32>,
    tensors: BTreeMap<&'static str, (Vec<u64>, u32)>,
    rope_scaling: Option<&'static str>,
}

impl Model {
    fn new() -> Self {
        let numbers = [
            ("block_count", 1),
            ("context_length", 128),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ];
        let tensors = [
            ("token_embd.weight", vec![32, 50]),
            ("output_norm.weight", vec![32]),
            ("blk.0.attn_norm.weight", vec![32]),
            ("blk.0.attn_q.weight", vec![32, 32]),
            ("blk.0.attn_k.weight", vec![32, 16]),
            ("blk.0.attn_v.weight", vec![32, 16]),
            ("blk.0.attn_output.weight", vec![32, 32]),
            ("blk.0.ffn_norm.weight", vec![32]),
            ("blk.0.ffn_gate.weight", vec![32, 64]),
            ("blk.0.ffn_up.weight", vec![32, 64]),
            ("blk.0.ffn_down.weight", vec![64, 32]),
        ];
        Self {
            architecture: "llama",
            numbers: numbers.into(),
            tensors: tensors.map(|(name, dims)| (name, (dims, F32))).into(),
            rope_scaling: None,
        }
    }

    fn without_key(mut self, key: &str) -> Self {
        assert!(self.numbers.remove(key).is_some());
        self
    }

    fn with_key(mut self, key: &'static str, value: u32) -> Self {
        self.numbers.insert(key, value);
        self
    }

    fn with_tensor(mut self, name: &'static str, dims: &[u64], ggml_type: u32) -> Self {
        self.tensors.insert(name, (dims.to_vec(), ggml_type));
        self
    }

    fn without_tensor(mut self, name: &str) -> Self {
        assert!(self.tensors.remove(name).is_some());
        self
    }

    fn open(&self) -> ModelFiles {
        let mut writer = GgufWriter::new();
        writer.string("general.architecture", self.architecture);
        writer.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        for (key, value) in &self.numbers {
            writer.u32(&format!("llama.{key}"), *value);
        }
        if let Some(kind) = self.rope_scaling {
            writer.string("llama.rope.scaling.type", kind);
        }
        for (name, (dims, ggml_type)) in &self.tensors {
            writer.tensor(name, dims, *ggml_type).expect("a valid tensor");
        }
        let file = GgufFile::from_bytes(Path::new("bad.gguf"), writer.to_bytes());
        file.expect("a valid container").into()
    }
}

fn load(model: &Model, options: &EngineOptions) -> Result<(), String> {
    let simd_levels = vec![SimdLevel::Portable];
    let machine = Machine { available_memory: 1 << 30, num_cores: 1, simd_levels };
    let file = model.open();
    let loaded = MemoryPlan::new(&file, options, &machine)
        .and_then(|plan| Engine::load(&file, &plan, &[], &|_, _| ()));
    loaded.map(drop).map_err(|error| format!("{error:#}"))
}

fn check_model(model: Model, expected: &str) {
    let error = load(&model, &EngineOptions::on_cpu()).expect_err(expected);
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

fn check_flag(options: EngineOptions, expected: &str) {
    let error = load(&Model::new(), &options).expect_err(expected);
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

#[test]
fn the_unspoilt_model_loads() {
    assert_eq!(load(&Model::new(), &EngineOptions::on_cpu()), Ok(()));
}

#[test]
fn bad_keys_are_named() {
    let m = Model::new;
    check_model(Model { architecture: "mamba", ..m() }, "\"mamba\" is not supported");
    check_model(m().without_key("block_count"), "no key \"llama.block_count\"");
    check_model(m().without_key("context_length"), "no key \"llama.context_length\"");
    check_model(m().with_key("embedding_length", u32::MAX), "llama.embedding_length is 4294967295");
    check_model(m().with_key("attention.head_count", 0), "no key \"llama.attention.head_count\"");
    check_model(m().with_key("attention.head_count_kv", 3), "not a multiple of 3 KV heads");
    check_model(m().with_key("attention.value_length", 4), "8 key and 4 value channels");
    check_model(m().with_key("rope.dimension_count", 7), "rope.dimension_count is 7");
    check_model(m().with_key("expert_count", 8), "llama.expert_count is set, but no layer has");
    check_model(Model { rope_scaling: Some("wavy"), ..m() }, "rope.scaling.type is \"wavy\"");
    check_model(
        Model { rope_scaling: Some("yarn"), ..m() },
        "no key \"llama.rope.scaling.factor\"",
    );
    check_model(m().with_key("block_count", 1 << 24), "block_count is 16777216, above the limit");
}

#[test]
fn tensors_that_contradict_the_keys_are_named() {
    let m = Model::new;
    check_model(m().without_tensor("token_embd.weight"), "no tensor \"token_embd.weight\"");
    check_model(m().without_tensor("blk.0.ffn_up.weight"), "no tensor \"blk.0.ffn_up.weight\"");
    check_model(m().with_key("block_count", 2), "no tensor \"blk.1.attn_norm.weight\"");
    check_model(
        m().with_tensor("blk.0.attn_k.weight", &[32, 8], F32),
        "\"blk.0.attn_k.weight\" is [8, 32], but the model's keys ask for [16, 32]",
    );
    check_model(
        m().with_tensor("blk.0.ffn_up.weight", &[32, 64, 2], Q8_0),
        "\"blk.0.ffn_up.weight\" is [2, 64, 32], but the model's keys ask for [64, 32]",
    );
    check_model(
        m().with_tensor("blk.0.ffn_up.weight", &[256, 64], Q8_K),
        "\"blk.0.ffn_up.weight\" has element type Q8_K, which is not supported",
    );
}

#[test]
fn experts_that_contradict_the_keys_are_named() {
    let m = || {
        Model::new()
            .with_key("expert_count", 4)
            .with_key("expert_used_count", 2)
            .with_tensor("blk.0.ffn_gate_inp.weight", &[32, 4], F32)
            .with_tensor("blk.0.ffn_gate_exps.weight", &[32, 64, 4], F32)
            .with_tensor("blk.0.ffn_up_exps.weight", &[32, 64, 4], F32)
            .with_tensor("blk.0.ffn_down_exps.weight", &[64, 32, 4], F32)
    };
    assert_eq!(load(&m(), &EngineOptions::on_cpu()), Ok(()));
    check_model(
        m().with_tensor("blk.0.ffn_up_exps.weight", &[32, 64, 3], F32),
        "\"blk.0.ffn_up_exps.weight\": is [3, 64, 32], but the model's keys ask for [4, 64, 32]",
    );
    check_model(
        m().with_tensor("blk.0.ffn_gate_inp.weight", &[32, 5], F32),
        "\"blk.0.ffn_gate_inp.weight\" is [5, 32], but the model's keys ask for [4, 32]",
    );
    check_model(m().without_tensor("blk.0.ffn_down_exps.weight"), "\"blk.0.ffn_down_exps.weight\"");
    check_model(m().with_key("expert_used_count", 5), "5 of 4 experts cannot be chosen");
    check_model(m().with_key("expert_count", 1 << 20), "expert_count is 1048576, above the limit");
    check_model(m().with_key("expert_gating_func", 9), "expert_gating_func is 9");
    let groups = m().with_key("expert_group_count", 3).with_key("expert_group_used_count", 1);
    check_model(groups, "4 experts do not make 3 groups");
}

#[test]
fn flags_that_cannot_work_are_named() {
    let o = EngineOptions::on_cpu;
    let check = check_flag;
    check(EngineOptions { device: DeviceChoice::Cuda(0), ..o() }, "--device cpu");
    check(EngineOptions { max_num_seqs: Some(0), ..o() }, "--max-num-seqs must be at least 1");
    check(EngineOptions { max_num_batched_tokens: Some(0), ..o() }, "--max-num-batched-tokens");
    check(EngineOptions { block_size: Some(4096), ..o() }, "--block-size 4096");
    check(EngineOptions { threads: Some(0), ..o() }, "--threads 0");
    check(EngineOptions { max_model_len: Some(129), ..o() }, "context length of 128");
    check(EngineOptions { kv_cache_memory: Some(100), ..o() }, "--kv-cache-memory");
    check(EngineOptions { kv_cache_memory: Some(1 << 40), ..o() }, "1.0 TiB");
    let level = Some(SimdLevel::AvxVnni);
    let expected = "--cpu-isa avx-vnni: this machine has portable only";
    check(EngineOptions { cpu_isa: level, ..o() }, expected);
    let (len, kv) = (Some(128), Some(4096));
    check(EngineOptions { max_model_len: len, kv_cache_memory: kv, ..o() }, "--max-model-len 128");
    let (seqs, tokens) = (Some(9), Some(8));
    let both = EngineOptions { max_num_seqs: seqs, max_num_batched_tokens: tokens, ..o() };
    check(both, "--max-num-batched-tokens 8 is below --max-num-seqs 9");
}
