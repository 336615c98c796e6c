//! Directories of encoders: what is understood, and what is refused with both sides named.

use quire_engine::pooling::PoolingSpec;
use quire_engine::{PoolingKind, ScoreActivation};
use serde_json::{Value, json};

use crate::support::Model;

/// A one-layer BERT that a test may spoil.
fn bert(name: &str) -> Model {
    let mut model = Model::new(name);
    model.config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "num_hidden_layers": 1, "hidden_size": 32,
        "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 50, "max_position_embeddings": 128,
        "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    });
    model.tensors.clear();
    for (name, rows) in
        [("word_embeddings", 50), ("position_embeddings", 128), ("token_type_embeddings", 2)]
    {
        model.tensor(&format!("embeddings.{name}.weight"), &[rows, 32]);
    }
    for part in ["query", "key", "value"].map(|part| format!("attention.self.{part}")) {
        linear(&mut model, &part, 32, 32);
    }
    linear(&mut model, "attention.output.dense", 32, 32);
    linear(&mut model, "intermediate.dense", 64, 32);
    linear(&mut model, "output.dense", 32, 64);
    let norms = ["attention.output.LayerNorm", "output.LayerNorm"];
    for norm in norms
        .map(|norm| format!("encoder.layer.0.{norm}"))
        .iter()
        .chain([&"embeddings.LayerNorm".to_owned()])
    {
        model.tensor(&format!("{norm}.weight"), &[32]).tensor(&format!("{norm}.bias"), &[32]);
    }
    model
}

fn linear(model: &mut Model, part: &str, rows: u64, cols: u64) {
    let name = format!("encoder.layer.0.{part}");
    model.tensor(&format!("{name}.weight"), &[rows, cols]).tensor(&format!("{name}.bias"), &[rows]);
}

#[test]
fn encoders_that_cannot_work_are_named() {
    let check = |spoil: &dyn Fn(&mut Model), expected: &str| {
        let mut model = bert("bert");
        spoil(&mut model);
        model.write_all();
        let error = model.load().expect_err(expected);
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    };
    let model = bert("sound");
    model.write_all();
    assert_eq!(model.load(), Ok(()));
    check(
        &|m| _ = m.tensor("encoder.layer.0.attention.self.key.weight", &[16, 32]),
        "\"encoder.layer.0.attention.self.key.weight\" is [16, 32], but the model's keys ask for [32, 32]",
    );
    check(&|m| _ = m.set("hidden_act", json!("relu")), "hidden_act is \"relu\"; gelu");
    check(&|m| _ = m.set("num_attention_heads", json!(5)), "32 channels cannot be 5 heads");
    let kind = json!("relative_key");
    check(&|m| _ = m.set("position_embedding_type", kind.clone()), "absolute is supported");
    check(
        &|m| _ = m.set("max_position_embeddings", json!(64)),
        "is [128, 32], but the model's keys ask for [64, 32]",
    );
    let unknown = "encoder.layer.0.attention.self.scale.weight";
    check(&|m| _ = m.tensor(unknown, &[4]), "self.scale.weight\" has no place in a bert model");
}

/// A reranker with the head of `bert`.
fn reranker(name: &str) -> Model {
    let mut model = bert(name);
    model.set("architectures", json!(["BertForSequenceClassification"]));
    for (name, rows) in [("pooler.dense", 32), ("classifier", 1)] {
        model.tensor(&format!("{name}.weight"), &[rows, 32]);
        model.tensor(&format!("{name}.bias"), &[rows]);
    }
    model
}

#[test]
fn rerankers_say_how_they_score() {
    let activation = |config: serde_json::Value| {
        let mut model = reranker("reranker");
        model.set("sentence_transformers", config);
        model.write_all();
        model.open().map(|(_, plan)| plan.pooling.scores)
    };
    let named =
        |name: &str| activation(json!({"activation_fn": format!("torch.nn.modules.{name}")}));
    assert_eq!(activation(json!(null)), Ok(Some(ScoreActivation::Sigmoid)));
    assert_eq!(named("linear.Identity"), Ok(Some(ScoreActivation::None)));
    assert!(named("activation.ReLU").unwrap_err().contains("scores by ReLU are not supported"));

    let mut model = reranker("whole");
    model.write_all();
    assert_eq!(model.load(), Ok(()));
    model.set("id2label", json!({"0": "bad", "1": "good"})).write_all();
    assert!(model.load().unwrap_err().contains("a classifier of 2 classes is not supported"));
    model.set("id2label", json!({"0": "one"})).tensor("classifier.weight", &[3, 32]).write_all();
    let error = model.load().unwrap_err();
    assert!(error.contains("\"classifier.weight\" is [3, 32]"), "{error}");
}

#[test]
fn sentence_transformers_say_how_embeddings_are_made() {
    let model = bert("sentences");
    model.write_all();
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let modules = |kinds: &[(&str, &str)]| {
        let list: Vec<Value> = kinds.iter().map(|(kind, path)| module(kind, path)).collect();
        model.write("modules.json", json!(list).to_string());
    };
    let read = || model.open().map(|(_, plan)| (plan.pooling, plan.config.max_model_len));
    let spec = |kind, normalize| PoolingSpec { kind, normalize, scores: None };
    assert_eq!(read(), Ok((spec(PoolingKind::Mean, true), 128)), "where no file says");
    std::fs::create_dir_all(model.folder().join("1_Pooling")).unwrap();
    model.write(
        "1_Pooling/config.json",
        r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
    );
    modules(&[("Transformer", ""), ("Pooling", "1_Pooling")]);
    assert_eq!(read(), Ok((spec(PoolingKind::Cls, false), 128)));
    model.write("sentence_bert_config.json", r#"{"max_seq_length": 100}"#);
    modules(&[("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]);
    assert_eq!(read(), Ok((spec(PoolingKind::Cls, true), 100)));
    modules(&[("Transformer", ""), ("Pooling", "../1_Pooling")]);
    assert!(read().unwrap_err().contains("is no folder's name"));
    modules(&[("Transformer", ""), ("Dense", "2_Dense")]);
    assert!(read().unwrap_err().contains("Dense\" is not supported"));
    modules(&[("Pooling", "1_Pooling")]);
    model.write(
        "1_Pooling/config.json",
        r#"{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}"#,
    );
    let error = read().unwrap_err();
    assert!(error.contains("pooling by max_tokens and mean_tokens is not supported"), "{error}");
}

#[test]
fn a_decoder_without_a_head_is_for_embeddings_alone() {
    let mut model = Model::new("headless");
    model.set("architectures", json!(["LlamaModel"])).set("tie_word_embeddings", json!(false));
    model.prefix("").write_all();
    assert_eq!(model.load(), Ok(()));
    let plan = model.open().unwrap().1;
    assert!(!plan.writes_text && !plan.spec.is_encoder());
    assert_eq!(
        plan.pooling,
        PoolingSpec { kind: PoolingKind::Last, normalize: true, scores: None }
    );
    model.set("architectures", json!(["LlamaForCausalLM"])).write_all();
    assert!(model.load().unwrap_err().contains("no tensor \"lm_head.weight\""));
}
