//! Quantized directories: the values of their own libraries (`tests/data/quantized`), and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quire_engine::weights::directory::ModelDirectory;
use quire_engine::weights::safetensors::SafetensorsFile;
use quire_engine::weights::{WeightLoader, WeightSource};
use quire_engine::{Engine, EngineOptions, Machine, MemoryPlan, ModelFiles};
use quire_kernels::{Device, Tensor, WeightPolicy, embedding};
use serde_json::{Map, Value, json};

use crate::support::with_header;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/quantized")
}

fn layouts() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut layouts: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    layouts.sort();
    assert!(layouts.len() >= 16, "{layouts:?}");
    layouts
}

/// The first features of a weight.
fn expected(layout: &Path, module: &str) -> Vec<f32> {
    let file = SafetensorsFile::open(&layout.join("expected.safetensors")).unwrap();
    let bytes = file.tensor_bytes(file.tensor(module).unwrap());
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

#[test]
fn every_layout_has_the_values_of_its_library() {
    let device = Device::cpu(2);
    for layout in layouts() {
        let directory = ModelDirectory::open(&layout).unwrap();
        for policy in [WeightPolicy::Packed, WeightPolicy::Float32] {
            let loader = WeightLoader::new(&directory, &device, policy, &|_, _| ());
            for (ours, theirs, shape) in [
                ("blk.0.attn_v.weight", "self_attn.v_proj", (32, 128)),
                ("blk.0.ffn_down.weight", "mlp.down_proj", (128, 192)),
            ] {
                assert!(directory.quantized(ours).unwrap().is_some(), "{layout:?} {ours}");
                let weight = loader.linear(ours, shape.0, shape.1).unwrap();
                let expected = expected(&layout, theirs);
                let rows = expected.len() / shape.1;
                let ids: Vec<u32> = (0..rows as u32).collect();
                let mut out = Tensor::from_f32(&vec![f32::NAN; expected.len()], rows, shape.1);
                embedding(&device, out.view_mut(), (&ids).into(), (&weight, 0), 1.0);
                for (i, (got, want)) in out.f32().iter().zip(&expected).enumerate() {
                    // NVFP4's two scales are multiplied in another order.
                    let close = (got - want).abs() <= 3e-7 * want.abs();
                    assert!(close, "{layout:?} {theirs} {policy:?}: [{i}] is {got}, not {want}");
                }
            }
        }
    }
}

/// A layout that a test may spoil: the file's tensors by name.
struct Spoilt {
    config: Value,
    tensors: BTreeMap<String, (String, Vec<u64>, Vec<u8>)>,
}

const V: &str = "model.layers.0.self_attn.v_proj";

impl Spoilt {
    fn new(layout: &str) -> Self {
        let path = folder().join(layout);
        let config = fs::read(path.join("config.json")).unwrap();
        let file = SafetensorsFile::open(&path.join("model.safetensors")).unwrap();
        let tensors = file.tensors().iter().map(|info| {
            let bytes = file.tensor_bytes(info).to_vec();
            (info.name.clone(), (info.dtype.clone(), info.shape.clone(), bytes))
        });
        Self { config: serde_json::from_slice(&config).unwrap(), tensors: tensors.collect() }
    }

    fn quantization(&mut self, key: &str, value: Value) {
        self.config["quantization_config"][key] = value;
    }

    fn remove(&mut self, part: &str) {
        assert!(self.tensors.remove(&format!("{V}.{part}")).is_some(), "{part}");
    }

    /// The tensor with other dimensions, and the bytes that they take.
    fn reshape(&mut self, part: &str, shape: &[u64]) {
        let (_, old, bytes) = self.tensors.get_mut(&format!("{V}.{part}")).unwrap();
        let size = bytes.len() / old.iter().product::<u64>() as usize;
        bytes.resize(size * shape.iter().product::<u64>() as usize, 0x11);
        *old = shape.to_vec();
    }

    /// What loading it says; the path is left out.
    fn load(&self, name: &str) -> Result<(), String> {
        let path =
            std::env::temp_dir().join(format!("quire-quantized-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let (mut header, mut data) = (Map::new(), Vec::<u8>::new());
        for (name, (dtype, shape, bytes)) in &self.tensors {
            let start = data.len();
            data.extend(bytes);
            let entry =
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        let mut bytes = with_header(&Value::Object(header).to_string(), 0);
        bytes.extend(data);
        fs::write(path.join("model.safetensors"), bytes).unwrap();
        fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        let machine = Machine { available_memory: 1 << 30, num_cores: 1, ..Machine::detect() };
        let load = || {
            let files = ModelFiles::open(&path)?;
            let plan = MemoryPlan::new(&files, &EngineOptions::on_cpu(), &machine)?;
            Engine::load(&files, &plan, &[], &|_, _| ()).map(drop)
        };
        let result = load().map_err(|error| format!("{error:#}"));
        fs::remove_dir_all(&path).unwrap();
        result.map_err(|error| error.replace(&format!("{}/", path.display()), ""))
    }
}

#[track_caller]
fn check(layout: &str, spoil: impl FnOnce(&mut Spoilt), expected: &str) {
    let line = std::panic::Location::caller().line();
    let mut model = Spoilt::new(layout);
    assert_eq!(model.load(&format!("good-{line}")), Ok(()), "{layout}");
    spoil(&mut model);
    let error = model.load(&format!("bad-{line}")).expect_err(expected);
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

#[test]
fn methods_that_are_not_known_are_named() {
    check(
        "gptq",
        |m| m.quantization("quant_method", json!("bitsandbytes")),
        "config.json: quantization_config.quant_method is \"bitsandbytes\", which is not supported; \
         supported: fp8, fbgemm_fp8, compressed-tensors, modelopt, mxfp4, gptq, awq, auto-round",
    );
    check("gptq", |m| m.quantization("quant_method", Value::Null), "quant_method is missing");
    check("gptq", |m| m.quantization("checkpoint_format", json!("marlin")), "is \"marlin\"");
    check("awq", |m| m.quantization("version", json!("gemv")), "version is \"gemv\"");
    check("auto-round", |m| m.quantization("packing_format", json!("mlx")), "is \"mlx\"");
    check("compressed-int4", |m| m.quantization("format", json!("marlin-24")), "\"marlin-24\"");
    let transforms = json!({"config_groups": {"R1": {}}});
    check(
        "compressed-int4",
        |m| m.quantization("transform_config", transforms),
        "transform_config is not supported",
    );
    check(
        "gptq",
        |m| m.quantization("quant_method", json!("fp8")),
        "belongs to GPTQ or AWQ, which the configuration does not name",
    );
    check(
        "fp8-block",
        |m| m.config["quantization_config"] = Value::Null,
        "has no place in a llama",
    );
}

#[test]
fn missing_tensors_are_named() {
    let missing = |layout, part, expected: &str| {
        check(layout, |m| m.remove(part), expected);
    };
    missing(
        "gptq",
        "scales",
        "v_proj.scales\" is missing beside \"g_idx\", \"qweight\", \"qzeros\"",
    );
    missing("gptq", "qweight", "v_proj.weight\" is missing beside");
    missing("fp8-block", "weight_scale_inv", "v_proj.weight\" has element type F8_E4M3");
    missing("compressed-int4", "weight_scale", "v_proj.weight_scale\" is missing");
    missing("compressed-nvfp4", "weight_global_scale", "v_proj.weight_scale_2\" is missing");
    missing("modelopt-nvfp4", "weight_scale", "v_proj.weight_scale\" is missing");
}

#[test]
fn shapes_that_contradict_are_named() {
    let reshaped = |layout, part, shape: &[u64], expected: &str| {
        check(layout, |m| m.reshape(part, shape), expected);
    };
    reshaped(
        "gptq",
        "scales",
        &[1, 40],
        "v_proj.scales\" is [1, 40], but the weight has 32 output",
    );
    reshaped("gptq", "scales", &[3, 32], "has 3 groups, which do not divide rows of 128");
    reshaped("gptq", "qzeros", &[1, 3], "its zeros have 12 bytes; 32x128 asks for 16");
    reshaped("gptq", "g_idx", &[64], "is [32, 64], but the model's keys ask for");
    reshaped("gptq", "g_idx", &[100], "has numbers of 5 bits; 4 and 8 are supported");
    reshaped("gptq", "qweight", &[8, 32], "has numbers of 2 bits; 4 and 8 are supported");
    reshaped("awq", "qweight", &[64, 4], "is [32, 64], but the model's keys ask for");
    reshaped("awq", "qzeros", &[2, 3], "its zeros have 24 bytes; 32x128 asks for 32");
    reshaped(
        "fp8-block",
        "weight_scale_inv",
        &[2, 3],
        "is [2, 3], which does not divide a weight of",
    );
    reshaped("fp8-block", "weight", &[16, 128], "is [16, 128], but the model's keys ask for");
    reshaped("compressed-int8", "weight_scale", &[31], "is [31], which does not divide");
    reshaped("modelopt-nvfp4", "weight_scale", &[32, 4], "has a scale for each 16 weights");
    reshaped("modelopt-nvfp4", "weight_scale_2", &[2], "has [2] numbers, not 1");
}
