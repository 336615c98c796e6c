//! Model directories: what is understood, and what is refused with both sides named.

use std::collections::BTreeMap;

use quire_engine::models::rope::RopeScaling;
use serde_json::{Value, json};

use crate::log::with_log;
use crate::support::{Model, file_of, with_header};

/// The error of a model that `spoil` spoilt.
#[track_caller]
fn check(spoil: impl FnOnce(&mut Model), expected: &str) {
    let caller = std::panic::Location::caller().line();
    let mut model = Model::new(&format!("bad-{caller}"));
    spoil(&mut model);
    model.write_all();
    let error = model.load().expect_err(expected);
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

#[test]
fn the_unspoilt_model_loads() {
    let model = Model::new("good");
    model.write_all();
    assert_eq!(model.load(), Ok(()));
}

#[test]
fn what_is_not_text_is_left_out() {
    let mut model = Model::new("vision");
    let text = model.config.take();
    model.config = json!({"model_type": "mistral3", "text_config": text, "auto_map": {"AutoModel": "code.py"}});
    model.config["architectures"] = json!(["Mistral3ForConditionalGeneration"]);
    model.prefix("language_model.model.");
    model.tensor("vision_tower.patch_conv.weight", &[4, 3, 2, 2]);
    model.tensor("multi_modal_projector.linear_1.weight", &[8, 8]);
    model.write_all();
    let (loaded, lines) = with_log(|| model.load());
    assert_eq!(loaded, Ok(()));
    let said = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(said("2 tensors for images, sound or drafts are left out"), 1, "{lines:?}");
    assert_eq!(said("Python code (auto_map) is ignored"), 1, "{lines:?}");
}

#[test]
fn keys_of_old_and_new_files() {
    let rope = |keys: &[(&str, Value)]| {
        let mut model = Model::new("rope");
        model.config.as_object_mut().unwrap().remove("rope_theta");
        keys.iter().for_each(|(key, value)| _ = model.set(key, value.clone()));
        model.write_all();
        model.open().map(|(_, plan)| plan.spec.decoder().expect("a decoder").ropes[0].clone())
    };
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 64, "rope_theta": 5e5});
    let old = rope(&[("rope_theta", json!(5e5)), ("rope_scaling", llama3.clone())]).unwrap();
    assert_eq!(old.theta, 5e5);
    assert!(matches!(old.scaling, RopeScaling::Llama3 { original_context_length: 64.0, .. }));
    assert_eq!(rope(&[("rope_parameters", llama3)]).unwrap(), old);
    let none = rope(&[("rope_scaling", Value::Null)]).unwrap();
    assert_eq!((none.theta, none.scaling, none.rotary_dim), (10_000.0, RopeScaling::None, 8));
    let linear = json!({"type": "linear", "factor": 2});
    let linear = rope(&[("rope_scaling", linear), ("partial_rotary_factor", json!(0.5))]).unwrap();
    assert_eq!((linear.scaling, linear.rotary_dim), (RopeScaling::Linear { factor: 2.0 }, 4));
    for (scaling, expected) in [
        (json!({"rope_type": "wavy", "factor": 4.0}), "rope_scaling.rope_type is \"wavy\""),
        (json!({"rope_type": "yarn"}), "rope_scaling.factor is missing"),
        (json!({"rope_type": "dynamic", "factor": 2}), "is \"dynamic\", which is not supported"),
        (json!({"rope_type": "longrope"}), "original_max_position_embeddings is missing"),
        (
            json!({"rope_type": "longrope", "original_max_position_embeddings": 64,
                   "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 3]}),
            "rope_scaling.long_factor has 3 numbers, not 4 above 0",
        ),
        (json!({"rope_type": "linear"}), "rope_scaling.factor is missing"),
        (json!({"rope_type": "linear", "factor": -1}), "rope_scaling.factor is -1"),
        (json!({"sliding": {"rope_type": "default"}}), "by kind of layer"),
        (json!("linear"), "rope_scaling is not an object"),
    ] {
        let error = rope(&[("rope_scaling", scaling)]).unwrap_err();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

#[test]
fn rotations_by_kind_of_layer() {
    let mut model = Model::new("kinds");
    let full =
        json!({"rope_type": "yarn", "original_max_position_embeddings": 32, "rope_theta": 1e6});
    model.set("rope_parameters", json!({"full_attention": full}));
    model.write_all();
    let spec = model.open().unwrap().1.spec;
    let rope = spec.decoder().expect("a decoder").ropes[0].clone();
    let RopeScaling::Yarn { factor, .. } = rope.scaling else { panic!("{rope:?}") };
    assert_eq!((rope.theta, factor), (1e6, 4.0));
    model.set("rope_parameters", json!({"sliding_attention": {"rope_type": "default"}}));
    model.write_all();
    let error = model.load().unwrap_err();
    assert_eq!(error, "config.json: rope_parameters.full_attention is missing");
}

#[test]
fn every_layer_has_the_window() {
    let windows = |window: Value, is_on: Value| {
        let mut model = Model::new("window");
        model.set("sliding_window", window).set("use_sliding_window", is_on).write_all();
        let spec = model.open().unwrap().1.spec;
        let layers = &spec.decoder().expect("a decoder").layers;
        layers.iter().map(|layer| layer.window).collect::<Vec<_>>()
    };
    assert_eq!(windows(json!(48), Value::Null), [Some(48)]);
    assert_eq!(windows(json!(48), json!(false)), [None]);
    assert_eq!(windows(Value::Null, json!(true)), [None]);
}

#[test]
fn configurations_that_cannot_work_are_named() {
    check(
        |m| _ = m.set("model_type", json!("mamba")),
        "\"mamba\" is not supported; supported: llama",
    );
    check(|m| _ = m.set("model_type", Value::Null), "config.json: model_type is missing");
    check(
        |m| _ = m.set("architectures", json!(["LlamaForSequenceClassification"])),
        "no model that writes text",
    );
    check(|m| _ = m.set("hidden_size", json!("32")), "config.json: hidden_size is not a count");
    check(|m| _ = m.set("hidden_size", json!(1_u64 << 40)), "hidden_size is 1099511627776, above");
    check(|m| _ = m.set("num_key_value_heads", json!(3)), "not a multiple of 3 KV heads");
    check(|m| _ = m.set("hidden_act", json!("gelu")), "hidden_act is \"gelu\"");
    check(|m| _ = m.set("rms_norm_eps", Value::Null), "rms_norm_eps is missing");
    let quantization = json!({"quant_method": "quip", "bits": 4});
    check(|m| _ = m.set("quantization_config", quantization), "\"quip\", which is not supported");
}

#[test]
fn tensors_that_contradict_the_configuration_are_named() {
    check(
        |m| _ = m.set("vocab_size", json!(60)),
        "\"model.embed_tokens.weight\" is [50, 32], but the model's keys ask for [60, 32]",
    );
    check(
        |m| _ = m.tensor("model.layers.0.self_attn.k_proj.weight", &[8, 32]),
        "\"model.layers.0.self_attn.k_proj.weight\" is [8, 32], but the model's keys ask for [16, 32]",
    );
    check(|m| _ = m.set("num_hidden_layers", json!(2)), "no tensor \"model.layers.1.");
    check(|m| _ = m.set("tie_word_embeddings", json!(false)), "no tensor \"lm_head.weight\"");
    let sinks = "model.layers.0.self_attn.sinks";
    check(|m| _ = m.tensor(sinks, &[4]), "self_attn.sinks\" has no place in a llama model");
    let router = "model.layers.0.mlp.gate.weight";
    check(|m| _ = m.tensor(router, &[4, 32]), "mlp.gate.weight\" has no place in a llama model");
    let unknown = "model.layers.0.self_attn.rotation.weight";
    check(|m| _ = m.tensor(unknown, &[32]), "rotation.weight\" has no place in a llama model");
    let norm = "model.layers.0.self_attn.q_norm.weight";
    check(|m| _ = m.tensor(norm, &[8]), "has no norms of q and k");
    check(
        |m| _ = m.tensor("model.layers.0.mlp.up_proj.weight", &[64, 32, 1]),
        "\"model.layers.0.mlp.up_proj.weight\" is [64, 32, 1], but the model's keys ask for [64, 32]",
    );
}

/// A Qwen3 with two experts a layer, one by one or fused.
fn with_experts(model: &mut Model, fused: bool) {
    model.tensors.retain(|name, _| !name.contains(".mlp."));
    let layer = |name: &str| format!("model.layers.0.{name}");
    for name in ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] {
        model.tensor(&layer(name), &[8]);
    }
    model.tensor(&layer("mlp.gate.weight"), &[2, 32]);
    if fused {
        model.tensor(&layer("mlp.experts.gate_up_proj"), &[2, 32, 32]);
        model.tensor(&layer("mlp.experts.down_proj"), &[2, 32, 16]);
    } else {
        for expert in 0..2 {
            let name = |part: &str| layer(&format!("mlp.experts.{expert}.{part}_proj.weight"));
            model.tensor(&name("gate"), &[16, 32]).tensor(&name("up"), &[16, 32]);
            model.tensor(&name("down"), &[32, 16]);
        }
    }
    model
        .set("model_type", json!("qwen3_moe"))
        .set("architectures", json!(["Qwen3MoeForCausalLM"]));
    model.set("num_experts", json!(2)).set("num_experts_per_tok", json!(1));
    model.set("moe_intermediate_size", json!(16));
}

#[test]
fn experts_that_contradict_the_configuration_are_named() {
    for fused in [false, true] {
        let mut model = Model::new("experts");
        with_experts(&mut model, fused);
        model.write_all();
        assert_eq!(model.load(), Ok(()));
    }
    let refuse = |fused, spoil: fn(&mut Model), expected: &str| {
        check(
            |m| {
                with_experts(m, fused);
                spoil(m);
            },
            expected,
        );
    };
    refuse(
        true,
        |m| _ = m.tensor("model.layers.0.mlp.experts.down_proj", &[2, 32, 24]),
        "experts.down_proj\": is [2, 32, 24], but the model's keys ask for [2, 32, 16]",
    );
    refuse(
        false,
        |m| _ = m.tensor("model.layers.0.mlp.experts.1.up_proj.weight", &[24, 32]),
        "experts.1.up_proj.weight\" is [24, 32], but the model's keys ask for [16, 32]",
    );
    refuse(
        false,
        |m| _ = m.tensors.remove("model.layers.0.mlp.experts.1.down_proj.weight"),
        "no tensor \"model.layers.0.mlp.experts.1.down_proj.weight\"",
    );
    refuse(
        false,
        |m| _ = m.tensor("model.layers.0.mlp.experts.2.up_proj.weight", &[16, 32]),
        "experts.2.up_proj.weight\" has no place",
    );
    refuse(
        false,
        |m| _ = m.tensor("model.layers.0.mlp.gate.weight", &[4, 32]),
        "mlp.gate.weight\" is [4, 32], but the model's keys ask for [2, 32]",
    );
    refuse(
        false,
        |m| _ = m.set("num_experts_per_tok", json!(3)),
        "3 of 2 experts cannot be chosen",
    );
}

#[test]
fn an_element_type_is_refused_only_where_it_is_used() {
    let model = Model::new("types");
    model.write_all();
    let header = json!({
        "model.norm.weight": {"dtype": "F8_E4M3", "shape": [32], "data_offsets": [0, 32]},
    });
    let mut rest = model.tensors.clone();
    rest.remove("model.norm.weight");
    let index: BTreeMap<&String, &str> =
        rest.keys().map(|name| (name, "rest.safetensors")).collect();
    let mut index = json!({"weight_map": index});
    index["weight_map"]["model.norm.weight"] = json!("norm.safetensors");
    model.write("model.safetensors.index.json", index.to_string());
    model.write("rest.safetensors", file_of(&rest));
    model.write("norm.safetensors", with_header(&header.to_string(), 32));
    let error = model.load().unwrap_err();
    assert!(error.contains("\"model.norm.weight\" has element type F8_E4M3"), "{error}");
    let unused = header.to_string().replace("model.norm", "vision_tower.norm");
    model.write("norm.safetensors", with_header(&unused, 32));
    let named = index.to_string().replace("model.norm", "vision_tower.norm");
    model.write("model.safetensors.index.json", named);
    let error = model.load().unwrap_err();
    assert!(error.contains("no tensor \"model.norm.weight\""), "{error}");
}

#[test]
fn shards() {
    let model = Model::new("shards");
    model.write_all();
    let (first, second): (BTreeMap<_, _>, BTreeMap<_, _>) =
        model.tensors.clone().into_iter().partition(|(name, _)| name.contains("mlp"));
    let index = |names: [&str; 2]| {
        let of = |part: &BTreeMap<String, Vec<u64>>, file: &str| -> Vec<(String, String)> {
            part.keys().map(|name| (name.clone(), file.to_owned())).collect()
        };
        let all: BTreeMap<String, String> =
            of(&first, names[0]).into_iter().chain(of(&second, names[1])).collect();
        json!({"metadata": {"total_size": 1}, "weight_map": all}).to_string()
    };
    let write = |text: String| model.write("model.safetensors.index.json", text);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    model.write(names[0], file_of(&first));
    write(index(names));
    assert_eq!(
        model.load().unwrap_err(),
        "model.safetensors.index.json: of 2 shards, model-00002-of-00002.safetensors is missing"
    );
    model.write(names[1], file_of(&second));
    assert_eq!(model.load(), Ok(()));
    for (text, expected) in [
        (index([names[1], names[0]]), "is not in model-00001-of-00002.safetensors"),
        (index([names[0], "../model.safetensors"]), "is no file name"),
        (index([names[0], "model.safetensors"]), "is in several shards"),
        ("{}".to_owned(), "has no weight_map"),
        ("{\"weight_map\": {}}".to_owned(), "names 0 shards"),
        ("not JSON".to_owned(), "is not JSON"),
    ] {
        write(text);
        let error = model.load().expect_err(expected);
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}
