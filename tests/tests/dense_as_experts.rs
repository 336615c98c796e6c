//! A dense model cut into experts, all of which every row uses alike, has the dense model's answers.

use std::fs;
use std::path::{Path, PathBuf};

use quire_engine::EngineOptions;
use quire_engine::config::Weights;
use quire_engine::weights::safetensors::SafetensorsFile;
use quire_tests::distance::{Distance, check_prompt, prompts};
use quire_tests::safetensors::Safetensors;
use quire_tests::{options, repository, start};
use serde_json::{Map, Value, json};

/// A power of two, so that the outputs can be multiplied by it exactly.
const NUM_EXPERTS: usize = 8;

/// A tensor of BF16.
struct Matrix {
    name: String,
    shape: Vec<usize>,
    values: Vec<u16>,
}

/// The tensors of the dense model, its MLPs as experts: rows of gate and up, columns of down; the router gives each expert
/// the weight 1 / NUM_EXPERTS.
fn as_experts(dense: Vec<Matrix>, hidden_size: usize) -> Vec<Matrix> {
    let mut out = Vec::new();
    for tensor in dense {
        let Some((layer, part)) = tensor.name.split_once(".mlp.") else {
            out.push(tensor);
            continue;
        };
        let expert_name = |expert: usize, part: &str| {
            format!("{layer}.block_sparse_moe.experts.{expert}.{part}.weight")
        };
        let [rows, cols] = tensor.shape[..] else { panic!("{} is no matrix", tensor.name) };
        for expert in 0..NUM_EXPERTS {
            let (name, shape, values) = if part == "down_proj.weight" {
                let width = cols / NUM_EXPERTS;
                let columns = tensor.values.chunks(cols);
                let columns = columns.flat_map(|row| &row[expert * width..][..width]);
                let values = columns.map(|&value| times(value, NUM_EXPERTS as f32)).collect();
                ("w2", vec![rows, width], values)
            } else {
                let height = rows / NUM_EXPERTS;
                let values = tensor.values[expert * height * cols..][..height * cols].to_vec();
                let name = if part == "gate_proj.weight" { "w1" } else { "w3" };
                (name, vec![height, cols], values)
            };
            let name = expert_name(expert, name);
            out.push(Matrix { name, shape, values });
        }
        if part == "down_proj.weight" {
            out.push(Matrix {
                name: format!("{layer}.block_sparse_moe.gate.weight"),
                shape: vec![NUM_EXPERTS, hidden_size],
                values: vec![0; NUM_EXPERTS * hidden_size],
            });
        }
    }
    out
}

fn times(bf16: u16, factor: f32) -> u16 {
    let product = f32::from_bits(u32::from(bf16) << 16) * factor;
    assert_eq!(product.to_bits() & 0xFFFF, 0, "exact");
    (product.to_bits() >> 16) as u16
}

fn read(path: &Path) -> Vec<Matrix> {
    let file = SafetensorsFile::open(path).expect("a committed file");
    let matrix = |info| {
        let info: &quire_engine::weights::safetensors::TensorInfo = info;
        assert_eq!(info.dtype, "BF16", "{}", info.name);
        let words = file.tensor_bytes(info).as_chunks::<2>().0;
        Matrix {
            name: info.name.clone(),
            shape: info.shape.iter().map(|&size| size as usize).collect(),
            values: words.iter().map(|&word| u16::from_le_bytes(word)).collect(),
        }
    };
    file.tensors().iter().map(matrix).collect()
}

fn write(path: &Path, tensors: &[Matrix]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for tensor in tensors {
        let start = data.len();
        data.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
        let (shape, offsets) = (&tensor.shape, [start, data.len()]);
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": offsets});
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), &data].concat();
    fs::write(path, bytes).expect("the folder is writable");
}

/// The dense model's directory once more, as Mixtral.
fn write_mixtral(dense: &Path) -> PathBuf {
    let name = format!("quire-dense-as-experts-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).expect("the folder can be made");
    let config = fs::read_to_string(dense.join("config.json")).expect("committed");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    let size = |key: &str| config[key].as_u64().expect(key);
    let (hidden, intermediate) = (size("hidden_size"), size("intermediate_size"));
    config["architectures"] = json!(["MixtralForCausalLM"]);
    config["model_type"] = json!("mixtral");
    config["intermediate_size"] = json!(intermediate / NUM_EXPERTS as u64);
    config["num_local_experts"] = json!(NUM_EXPERTS);
    config["num_experts_per_tok"] = json!(NUM_EXPERTS);
    fs::write(folder.join("config.json"), config.to_string()).expect("writable");
    let tensors = as_experts(read(&dense.join("model.safetensors")), hidden as usize);
    write(&folder.join("model.safetensors"), &tensors);
    folder
}

#[test]
fn a_dense_model_as_experts_has_the_dense_answers() {
    let dense = repository("tests/data/conformance/hf/llama3");
    let folder = write_mixtral(&dense);
    let golden = repository("tests/data/conformance/llama3.safetensors");
    let golden = Safetensors::open(&golden);
    let weights = Weights::Float32;
    let handle = start(&folder, &EngineOptions { weights, ..options() }, &[]);
    let mut distance = Distance::default();
    for prompt in prompts() {
        check_prompt(&handle, &golden, &prompt, 0.0, &mut distance);
    }
    fs::remove_dir_all(&folder).expect("made above");
    println!("llama3 as {NUM_EXPERTS} experts: {distance:?}");
    assert!(distance.largest <= 2e-3, "{distance:?}");
}
