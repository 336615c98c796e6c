//! Bugs are planted in kernels and in launches, and each must be noticed by the cases on the emulator: in some schedule an
//! output is wrong, or the emulator reports a fault.
//!
//! `make mutations` plants all (`PART=attention`: those in files of such names); `cargo test` the first of each kernel. A kernel's bug is a text of its source that is
//! replaced: the emulator is built again with it and runs in a process of its own.
#![allow(clippy::disallowed_methods, reason = "this test speaks to its own child processes")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use quire_kernels::{Device, cases, cases::Case};
use quire_sim::{Asynchrony, Order, Schedule, mutants};

/// File, its text, what stands there instead, the op whose cases must notice. `cargo test` plants the first of each kernel.
type Mutation = (&'static str, &'static str, &'static str, &'static str);

const MUTATIONS: &[Mutation] = &[
    // Waits, barriers, masks, rescaling, merging: prefill.
    ("attention/prefill.cu", "__syncthreads();  // the values are there", ";  //", "attention"),
    (
        "attention/prefill.cu",
        "cp_async_wait<0>();\n        widen_tile<D, Page>",
        "cp_async_wait<1>();\n        widen_tile<D, Page>",
        "attention",
    ),
    ("attention/prefill.cu", "__syncthreads();  // the keys are there", ";  //", "attention"),
    ("attention/prefill.cu", "sum[2 * row] *= factor;", "", "attention"),
    ("attention/prefill.cu", "has_merged ? slot", "false ? slot", "attention"),
    ("attention/prefill.cu", "unit % parts};", "0};", "attention"),
    // Decode.
    ("attention/decode.cu", "shared.ticket + 1 !=", "shared.ticket + 2 !=", "attention"),
    ("attention/decode.cu", "__syncthreads();  // the tile is there", ";  //", "attention"),
    (
        "attention/decode.cu",
        "split < unit.splits; split++",
        "split < unit.splits - 1; split++",
        "attention",
    ),
    ("attention/decode.cu", "a.arrivals[unit.first_part] = 0;", ";", "attention"),
    ("attention/decode.cu", "(i + 1) % DECODE_STAGES", "i % DECODE_STAGES", "attention"),
    (
        "attention/decode.cu",
        "before[n][2 * i + 1] * factor",
        "before[n][2 * i] * factor",
        "attention",
    ),
    // What both share.
    (
        "attention/attention.cuh",
        "position <= sees.last[row]",
        "position <= sees.last[row] + 1",
        "attention",
    ),
    (
        "attention/attention.cuh",
        "position >= sees.first[row]",
        "position >= sees.first[row] - 1",
        "attention",
    ),
    (
        "attention/attention.cuh",
        "token >= first && token < end",
        "token >= first && token <= end",
        "attention",
    ),
    ("attention/attention.cuh", "__shfl_xor_sync(~0u, v, 2)", "v", "attention"),
    (
        "attention/attention.cuh",
        "a.block_size + token % a.block_size",
        "a.block_size + token % 8",
        "attention",
    ),
    (
        "attention/attention.cuh",
        "position - position % a.chunk",
        "position - position % a.chunk + 1",
        "attention",
    ),
    ("attention/attention.cuh", "__syncwarp();  // all have read", ";  //", "attention"),
    (
        "attention/attention.cuh",
        "((uint4*)row)[2 * c + 1] = numbers[1];",
        "((uint4*)row)[2 * c + 1] = numbers[0];",
        "attention",
    ),
    // What pages get.
    ("rope_write_kv/rope_write_kv.cu", "if (fp8) run", "if (false) run", "rope_write_kv"),
    ("rope_write_kv/rope_write_kv.cu", "y * cos + x * sin", "y * cos - x * sin", "rope_write_kv"),
    ("rope_write_kv/rope_write_kv.cu", "if (slot == ~0u) return;", "", "rope_write_kv"),
    // Products.
    (
        "linear/dense.cu",
        "min(first_feature + lane / 4 + 8 * i,",
        "min(first_feature + lane / 4 + 4 * i,",
        "linear",
    ),
    (
        "linear/dense.cu",
        "mma16816(total[t], high, numbers.z, numbers.w);",
        "mma16816(total[t], high, numbers.w, numbers.z);",
        "linear",
    ),
    (
        "linear/x.cuh",
        "    __syncthreads();\n    for (int i = threadIdx.x; i < TILES",
        "    for (int i = threadIdx.x; i < TILES",
        "linear",
    ),
    ("linear/x.cuh", "w = 1; w < LINEAR_WARPS", "w = 1; w < LINEAR_WARPS - 1", "linear"),
    ("linear/x.cuh", "|| feature >= a.out_features", "", "linear"),
    ("linear/scales.cuh", "byte_of(field, 8 + group)", "byte_of(field, group)", "linear"),
    (
        "linear/codes.cuh",
        "look_up(plane.word[step] >> 16)",
        "look_up(plane.word[step] >> 12)",
        "linear",
    ),
    ("linear/quantized.cuh", "k + s * 16 + lane % 4 * 4", "k + lane % 4 * 4", "linear"),
    // Experts.
    (
        "route_experts/route_rows.cu",
        "if (num_better < a.chosen_groups) continue;",
        "if (num_better <= a.chosen_groups) continue;",
        "route_experts",
    ),
    ("route_experts/route_rows.cu", "            keys[expert] = 0;\n", "", "route_experts"),
    ("route_experts/route_rows.cu", "bits >> 31 ? ~bits :", "", "route_experts"),
    (
        "route_experts/sort_experts.cu",
        "__syncthreads();  // all warps have counted",
        ";  //",
        "route_experts",
    ),
    (
        "route_experts/sort_experts.cu",
        "__syncthreads();  // the counts are read",
        ";  //",
        "route_experts",
    ),
    ("route_experts/sort_experts.cu", "if (w < warp) place += found[w];", "", "route_experts"),
    ("route_experts/sort_experts.cu", "start + t * a.tile_rows", "start + t", "expert_linear"),
    ("combine_experts/combine_experts.cu", "sum[i] *= gate;", ";", "combine_experts"),
    ("weigh_experts/weigh_experts.cu", "places[blockIdx.x]", "blockIdx.x", "weigh_experts"),
    ("linear/experts.cuh", "(size_t)tile.x * e.bias_stride", "0", "expert_linear"),
    ("linear/experts.cuh", "e.rows ? (int)e.rows[place] :", "", "expert_linear"),
    ("linear/many_rows.cuh", "cp_async_wait<1>();", "cp_async_wait<2>();", "expert_linear"),
    ("linear/many_rows.cuh", "__syncthreads();  // the rows are read", ";  //", "expert_linear"),
    ("linear/many_rows.cuh", "row < a.rows &&", "", "expert_linear"),
    // Latent attention.
    ("attention/latent.cu", "__syncthreads();  // the weights are there", ";  //", "attention"),
    (
        "attention/latent.cu",
        "__syncthreads();  // the largest scores are there",
        ";  //",
        "attention",
    ),
    (
        "attention/latent.cu",
        "shared.keys[(i + 1) % LATENT_STAGES]",
        "shared.keys[i % LATENT_STAGES]",
        "attention",
    ),
    ("attention/latent.cu", "shared.ticket + 1 !=", "shared.ticket + 2 !=", "attention"),
    ("attention/latent.cu", "Shape::ROPE + (warp +", "(warp +", "attention"),
    ("attention/latent.cu", "if (!is_first) load", "if (is_first) load", "attention"),
    ("linear/heads.cu", "(size_t)head * a.x_head", "(size_t)head * a.out_head", "head_linear"),
    ("linear/heads.cu", "lane / 4 + 8 * i, feature", "lane / 4, feature", "head_linear"),
    // Positions that an indexer chooses.
    (
        "attention/latent.cu",
        "(size_t)unit.seq.query_start * a.top_k + token",
        "(size_t)unit.seq.query_start * a.top_k",
        "attention_to",
    ),
    (
        "attention/work_list.cuh",
        "min(a.top_k, seq.first_position() + row - seq.query_start + 1)",
        "min(a.top_k, seq.first_position() + row - seq.query_start)",
        "attention_to",
    ),
    ("attention/work_list.cuh", "a.first_row + i;", "i;", "attention_to"),
    ("index_keys/index_keys.cu", "|| a.slots[row] == ~0u", "", "index_keys"),
    ("index_keys/index_keys.cu", "(x[i] - mean) * factor", "x[i] * factor", "index_keys"),
    (
        "choose_positions/index_scores.cu",
        "fmaxf(s[n][2 * i + 1], 0.f)",
        "s[n][2 * i + 1]",
        "choose_positions",
    ),
    (
        "choose_positions/index_scores.cu",
        "cp_async_wait<0>();\n        __syncwarp();",
        "cp_async_wait<1>();\n        __syncwarp();",
        "choose_positions",
    ),
    ("choose_positions/index.cuh", "+ 1 - after", "- after", "choose_positions"),
    (
        "choose_positions/choose_positions.cu",
        "is_equal && equal_it < left",
        "is_equal && equal_it <= left",
        "choose_positions",
    ),
    (
        "choose_positions/choose_positions.cu",
        "__syncthreads();  // all are counted",
        ";  //",
        "choose_positions",
    ),
    (
        "choose_positions/choose_positions.cu",
        "above += until >> 16,",
        "above += before >> 16,",
        "choose_positions",
    ),
    // Encoders.
    ("activate/activate.cu", "values[i] = Activation", "values[0] = Activation", "activate"),
    ("add_rows/add_rows.cu", "rows ? rows[blockIdx.x] : 0", "blockIdx.x", "add_rows"),
    ("mean_rows/mean_rows.cu", "(float)(end - start)", "(float)end", "mean_rows"),
    ("layer_norm/layer_norm.cu", "(x - mean) * (x - mean)", "x * x", "layer_norm"),
    ("layer_norm/layer_norm.cu", "if (!KEEPS_NORM) store", "if (false) store", "layer_norm"),
    (
        "attention/attention.cuh",
        "min(position + a.window / 2, context - 1)",
        "position + a.window / 2",
        "attention",
    ),
    (
        "attention/attention.cuh",
        "a.both_ways ? a.window / 2 :",
        "a.both_ways ? a.window :",
        "attention",
    ),
    // Layers that keep a state.
    (
        "causal_conv/causal_conv.cu",
        "row - begin >= a.taps - 1",
        "row - begin >= a.taps",
        "causal_conv",
    ),
    ("causal_conv/causal_conv.cu", "j == i + end - begin", "j == i", "causal_conv"),
    (
        "gated_delta/gated_delta.cu",
        "            __syncthreads();  // everybody has read the tokens\n",
        "",
        "gated_delta",
    ),
    (
        "gated_delta/gated_delta.cu",
        "__syncthreads();\n            for (int token",
        "for (int token",
        "gated_delta",
    ),
    (
        "gated_delta/gated_delta.cu",
        "slot != NO_STATE && has(a, j, i)",
        "has(a, j, i)",
        "gated_delta",
    ),
    ("gated_delta/gated_delta.cu", "__shfl_xor_sync(~0u, sum, 2)", "sum", "gated_delta"),
    ("gated_delta/gated_delta.cu", "column.store(a, at, segment.to);", ";", "gated_delta"),
    // The sampler.
    ("sample/sample.cu", "atomicExch(counts + token, 0u)", "counts[token]", "sample"),
    (
        "sample/select.cuh",
        "const int lane = threadIdx.x & 31;\n    __syncthreads();",
        "const int lane = threadIdx.x & 31;",
        "sample",
    ),
    (
        "sample/select.cuh",
        "end = min(begin + part, end);",
        "end = min(begin + part - 1, end);",
        "sample",
    ),
    ("sample/select.cuh", "(before + low < before ? 1u : 0u)", "0u", "sample"),
    ("sample/weights.cuh", "bits >> 31 ? bits : ~(bits | 1u << 31)", "bits", "sample"),
];

/// Changes of a launch: which kernel, how.
const LAUNCHES: &[(&str, &str, &str)] = &[
    ("attention_prefill", "a block less", "attention"),
    ("attention_decode", "half the threads", "attention"),
    ("attention_decode", "not launched", "attention"),
    ("attention_decode_fp8", "not launched", "attention"),
    ("rope_write_kv", "a block less", "rope_write_kv"),
    ("rms_norm", "a block less", "rms_norm"),
    ("gather_rows", "an argument one larger", "gather_rows"),
    ("linear_", "a block less", "linear"),
    ("dequantize_", "a block less", "linear"),
    ("dequantize_", "not launched", "linear"),
    ("route_rows", "a block less", "route_experts"),
    ("sort_experts", "a block less", "route_experts"),
    ("sort_experts", "half the threads", "route_experts"),
    ("expert_linear_", "a block less", "expert_linear"),
    ("attention_latent", "half the threads", "attention"),
    ("head_linear", "a block less", "head_linear"),
    ("attention_to", "not launched", "attention_to"),
    ("index_keys", "a block less", "index_keys"),
    ("index_scores", "not launched", "choose_positions"),
    ("choose_positions", "a block less", "choose_positions"),
    ("add_layer_norm", "a block less", "layer_norm"),
    ("mean_rows", "an argument one larger", "mean_rows"),
    ("causal_conv", "a block less", "causal_conv"),
    ("gated_delta", "half the threads", "gated_delta"),
    ("gated_delta_norm", "not launched", "gated_delta"),
    ("sample_rows", "a block less", "sample"),
];

const SCHEDULES: [Schedule; 4] = [
    (Order::Forward, Asynchrony::Lazy),
    (Order::Reverse, Asynchrony::Eager),
    (Order::Random(11), Asynchrony::Eager),
    (Order::Random(4242), Asynchrony::Lazy),
];

/// Seconds of processor time that a child may take, and of the clock where it waits for ever; longer is noticed too.
const MOST_COMPUTED: u64 = 300;
const MOST_WAITED: u64 = 3600;

const FOLDER: &str = "QUIRE_MUTANT_FOLDER";
const OP: &str = "QUIRE_MUTANT_OP";
const PLANTED: &str = "EMULATOR_PLANT";
const ALL: &str = "QUIRE_ALL_MUTATIONS";

/// What a child runs: the cases of one op, on the libraries of one folder.
#[test]
fn child() {
    let (Some(folder), Ok(op)) = (std::env::var_os(FOLDER), std::env::var(OP)) else { return };
    let emulator = quire_sim::load_from(Path::new(&folder));
    let device = Device::cuda(0).expect("the emulator is a GPU");
    let is_own = |case: &Case| case.op == op && !case.cuda_tolerance.is_nan();
    let mut cases: Vec<Case> = cases::all().into_iter().filter(is_own).collect();
    assert!(!cases.is_empty(), "{op} has no cases");
    let num_schedules = match std::env::var_os(PLANTED).is_some_and(|planted| !planted.is_empty()) {
        // What is wrong with a launch is wrong in every schedule.
        true => 1,
        false => SCHEDULES.len(),
    };
    for schedule in &SCHEDULES[..num_schedules] {
        emulator.run_as(*schedule);
        for case in &mut cases {
            assert_eq!(case.check(&device), Ok(()), "{schedule:?}");
        }
    }
}

/// Whether the cases of `op` fail on the libraries of `folder`.
fn is_noticed(folder: &Path, op: &str, planted: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
    command.args(["--exact", "child"]).env(FOLDER, folder).env(OP, op).env(PLANTED, planted);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return !status.success();
        }
        let waited = start.elapsed().as_secs();
        if waited > MOST_WAITED || seconds_computed(child.id()) > MOST_COMPUTED {
            child.kill().expect("a child can be ended");
            let _ = child.wait();
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Of a process and its threads; as proc(5) counts, in hundredths.
fn seconds_computed(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let numbers = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    numbers.filter_map(|number| number.parse::<u64>().ok()).sum::<u64>() / 100
}

#[test]
fn planted_bugs_are_noticed() {
    let all = std::env::var(ALL).ok();
    let mut missed = Vec::new();
    let mut last_file = "";
    for (index, &(file, from, to, op)) in MUTATIONS.iter().enumerate() {
        let is_first = file != std::mem::replace(&mut last_file, file);
        let is_asked = all.as_deref().map(|part| part == "1" || file.contains(part));
        if !is_asked.unwrap_or(is_first && !file.contains(".cuh")) {
            continue;
        }
        let folder =
            std::env::temp_dir().join(format!("quire-mutant-{}-{index}", std::process::id()));
        let built = mutants::build(&folder, file, from, to);
        assert_eq!(built, Ok(()), "{file}: `{from}`");
        let start = Instant::now();
        let is_noticed = is_noticed(&folder, op, "");
        println!("{file}: `{from}` {is_noticed}, {} s", start.elapsed().as_secs());
        if !is_noticed {
            missed.push(format!("{file}: `{from}` -> `{to}`"));
        }
        std::fs::remove_dir_all(&folder).expect("a folder of this test");
    }
    assert!(missed.is_empty(), "not noticed:\n{}", missed.join("\n"));
}

#[test]
fn planted_launches_are_noticed() {
    let folder = quire_sim::library_folder();
    assert!(!is_noticed(&folder, "rms_norm", ""), "the cases fail without a bug");
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(launch @ (kernel, how, op)) = LAUNCHES.get(next.fetch_add(1, Relaxed)) {
            if !is_noticed(&folder, op, &format!("{kernel}:{how}")) {
                missed.lock().expect("no thread panics with it").push(launch);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let missed = missed.into_inner().expect("the threads have ended");
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
