//! `make gpu` on the emulator with tiny shapes: everything that a GPU host will run, so that nothing breaks there first.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("benches lies in it").to_path_buf()
}

#[test]
fn every_part_runs_and_leaves_its_pages() {
    let results = std::env::temp_dir().join(format!("quire-gpu-run-{}", std::process::id()));
    let mut run = Command::new("bash");
    run.arg(repository().join("benches/gpu/run.sh")).arg(&results);
    run.env("GPU_BIN", env!("CARGO_BIN_EXE_gpu")).env("TINY", "1").env("LARGEST_OUTPUT", "200");
    run.env("PARTS", "instructions parity memcheck kernels steps peers");
    run.env("LD_LIBRARY_PATH", quire_sim::library_folder());
    let output = run.output().expect("bash is there");
    let read = |name: &str| std::fs::read_to_string(results.join(name)).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stdout);
    let logs =
        ["instructions", "parity", "kernels", "steps"].map(|part| read(&format!("{part}.log")));
    assert!(output.status.success(), "{said}\n{}", logs.concat());
    for part in ["instructions", "parity", "kernels", "steps"] {
        let page = read(&format!("{part}.md"));
        assert!(page.contains("This is the emulator"), "{part}: {page}");
        let data: Value = serde_json::from_str(&read(&format!("{part}.json"))).expect(part);
        assert!(data["data"].is_object() || data["data"].is_array(), "{part}: {data}");
    }
    let steps: Value = serde_json::from_str(&read("steps.json")).expect("JSON");
    let models = steps["data"]["models"].as_array().expect("a list");
    // BF16 and a quantized format, each with a prefill and two batches.
    assert_eq!(models.len(), 2, "{steps}");
    for model in models {
        assert_eq!(model["figures"].as_array().expect("a list").len(), 3, "{model}");
    }
    let kernels: Value = serde_json::from_str(&read("kernels.json")).expect("JSON");
    assert_eq!(kernels["data"]["left_out"], Value::Array(Vec::new()), "{kernels}");
    let measured = kernels["data"]["measurements"].as_array().expect("a list");
    let has = |op: &str| measured.iter().any(|line| line["op"] == op);
    for op in
        ["add_rms_norm", "gated_mul", "rope_write_kv", "embedding", "linear", "attention", "sample"]
    {
        assert!(has(op), "{op}");
    }
    std::fs::remove_dir_all(&results).expect("a folder of this test");
}
