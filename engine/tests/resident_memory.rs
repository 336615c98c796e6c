//! Loading takes the memory that the plan says, once: no second copy of the weights, no KV cache before it is used.
#![cfg(target_os = "linux")]

use std::fs;

use quire_engine::weights::gguf::GgufWriter;
use quire_engine::{Engine, EngineOptions, Machine, MemoryPlan, ModelFiles};

const F32: u32 = 0;
const Q8_0: u32 = 8;
const MIB: u64 = 1 << 20;

/// What a load may take beside the weights: tables of positions, counters, threads, the allocator's slack.
const SLACK: u64 = 6 * MIB;
/// Pages of the file whose copies are being made.
const IN_FLIGHT: u64 = 12 * MIB;

#[test]
fn a_load_takes_the_planned_memory_once() {
    let path = std::env::temp_dir().join(format!("quire-resident-{}.gguf", std::process::id()));
    fs::write(&path, model().to_bytes()).expect("room for 60 MB");
    let files = ModelFiles::open(&path).expect("a valid file");
    let machine = Machine { available_memory: 4 << 30, num_cores: 2, ..Machine::detect() };
    let plan = MemoryPlan::new(&files, &EngineOptions::on_cpu(), &machine).expect("it fits");
    assert!(plan.weight_bytes > 40 * MIB && plan.kv_bytes > 4 * plan.weight_bytes);

    fs::write("/proc/self/clear_refs", "5").expect("a process may reset its own peak");
    let before = status("VmRSS:");
    let engine = Engine::load(&files, &plan, &[], &|_, _| ()).expect("it loads");
    let (peak, after) = (status("VmHWM:") - before, status("VmRSS:") - before);
    drop(engine);
    fs::remove_file(&path).expect("it was written");

    let weights = plan.weight_bytes;
    let shown = format!("{weights} bytes of weights, {after} resident, {peak} at the peak");
    assert!((weights - MIB..weights + SLACK).contains(&after), "{shown}");
    assert!(peak < weights + SLACK + IN_FLIGHT, "{shown}");
}

/// A llama of one layer whose embedding table and MLP are far larger than what is in flight.
fn model() -> GgufWriter {
    let (hidden, intermediate, vocab) = (512, 8192, 65536);
    let mut writer = GgufWriter::new();
    writer.string("general.architecture", "llama");
    writer.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let numbers = [
        ("block_count", 1),
        ("context_length", 4096),
        ("embedding_length", hidden as u32),
        ("feed_forward_length", intermediate as u32),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 8),
    ];
    for (key, value) in numbers {
        writer.u32(&format!("llama.{key}"), value);
    }
    let matrices = [
        ("token_embd.weight", [hidden, vocab]),
        ("blk.0.attn_q.weight", [hidden, hidden]),
        ("blk.0.attn_k.weight", [hidden, hidden]),
        ("blk.0.attn_v.weight", [hidden, hidden]),
        ("blk.0.attn_output.weight", [hidden, hidden]),
        ("blk.0.ffn_gate.weight", [hidden, intermediate]),
        ("blk.0.ffn_up.weight", [hidden, intermediate]),
        ("blk.0.ffn_down.weight", [intermediate, hidden]),
    ];
    for (name, dims) in matrices {
        writer.tensor(name, &dims, Q8_0).expect("a valid tensor");
    }
    for name in ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"] {
        writer.tensor(name, &[hidden], F32).expect("a valid tensor");
    }
    writer
}

/// Bytes of a line of /proc/self/status.
fn status(line: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let value = text.lines().find_map(|text| text.strip_prefix(line)).expect("a known line");
    value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") * 1024
}
