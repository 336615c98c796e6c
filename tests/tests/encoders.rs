//! Embeddings: golden hidden states of encoders and decoders, the same bits in any company, and what is refused.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use quire_engine::config::{Activations, Faults, Weights};
use quire_engine::request::{FinishReason, StreamEvent, SubmitError};
use quire_engine::weights::safetensors::SafetensorsFile;
use quire_engine::{
    EngineHandle, EngineOptions, GgufFile, Machine, MemoryPlan, ModelFiles, PoolingKind,
    PoolingParams, Request, SamplingParams, TokenStream,
};
use quire_tests::families::{ENCODERS, FAMILIES, Family};
use quire_tests::gguf_keys::{KeyValue, with_keys};
use quire_tests::random_models::{Stored, float32, stored, write_directory};
use quire_tests::{ask, options, start, start_files, tiny_model};
use serde_json::{Value, json};

/// Whatever the machine: floats are multiplied in float32.
fn exact() -> EngineOptions {
    EngineOptions { activations: Activations::INT16, ..options() }
}

/// As the last layer left it.
const RAW: PoolingParams =
    PoolingParams { dimensions: None, normalize: Some(false), second_text: None };

fn submit(handle: &EngineHandle, ids: &[u32], params: PoolingParams) -> TokenStream {
    handle.generate(Request::embedding(ids.to_vec(), params)).expect("a valid request")
}

/// The embedding, or how the request ended without one.
fn finish(mut stream: TokenStream) -> Result<Vec<f32>, FinishReason> {
    assert!(matches!(stream.blocking_next(), Some(StreamEvent::Started(_))));
    let event = stream.blocking_next().expect("an embedding or the end");
    let StreamEvent::Embedding(embedding) = event else {
        let StreamEvent::Finished(finished) = event else { panic!("{event:?}") };
        return Err(finished.reason);
    };
    let Some(StreamEvent::Finished(finished)) = stream.blocking_next() else { panic!("no end") };
    assert_eq!(stream.blocking_next(), None, "nothing follows Finished");
    assert_eq!((finished.reason, finished.num_output_tokens), (FinishReason::Embedded, 0));
    Ok(embedding)
}

fn embed(handle: &EngineHandle, ids: &[u32], params: PoolingParams) -> Vec<f32> {
    finish(submit(handle, ids, params)).expect("an embedding")
}

fn family(name: &str) -> &'static Family {
    let mut all = FAMILIES.iter().chain(ENCODERS);
    all.find(|family| family.name == name).expect("a family")
}

/// The tiny encoder as a directory and as GGUF, where they are.
fn homes(family: &Family) -> Vec<ModelFiles> {
    let directory = family.directory().map(|path| ModelFiles::open(&path).expect("readable"));
    directory.into_iter().chain(family.open_gguf()).collect()
}

/// One home of a committed one.
fn home(name: &str) -> ModelFiles {
    homes(family(name)).into_iter().next().expect("committed")
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max)
}

#[test]
fn encoders_reproduce_the_golden_numbers() {
    for family in ["bert", "modernbert", "nomic_bert"].map(family) {
        let (golden, homes) = (family.golden(), homes(family));
        assert!(!homes.is_empty(), "{} is committed", family.name);
        for files in homes {
            for (weights, kind) in [
                (Weights::Float32, PoolingKind::Cls),
                (Weights::Float32, PoolingKind::Mean),
                (Weights::Packed, PoolingKind::Mean),
                (Weights::Packed, PoolingKind::Last),
            ] {
                let options = EngineOptions { weights, pooling: Some(kind), ..exact() };
                let handle = start_files(&files, &options, &[]);
                for prompt in ["p0", "p1", "p2", "p3"] {
                    let tensor = |name: &str| golden.f32(&format!("{prompt}.{name}"));
                    let want = match kind {
                        PoolingKind::Cls => tensor("cls"),
                        PoolingKind::Mean => tensor("mean"),
                        PoolingKind::Last => last(tensor("last_hidden"), tensor("mean").len()),
                    };
                    let ids = golden.ids(&format!("{prompt}.input_ids"));
                    let distance = largest_difference(&embed(&handle, &ids, RAW), &want);
                    assert!(
                        distance < 1e-4,
                        "{} {prompt} {kind:?}: {distance}",
                        files.path().display()
                    );
                }
            }
        }
    }
}

/// What sentence-transformers and this give lies within a cosine of 1e-3, on machines that multiply BF16 too.
#[test]
fn embeddings_of_the_default_mode_point_the_same_way() {
    for family in ["bert", "modernbert", "nomic_bert"].map(family) {
        let options = EngineOptions { pooling: Some(PoolingKind::Mean), ..options() };
        let handle = start_files(&home(family.name), &options, &[]);
        for prompt in ["p0", "p1", "p2", "p3"] {
            let want = family.golden().f32(&format!("{prompt}.mean"));
            let ids = family.golden().ids(&format!("{prompt}.input_ids"));
            let got = embed(&handle, &ids, PoolingParams::default());
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = dot(&got, &want) / dot(&want, &want).sqrt();
            assert!(cosine > 0.999, "{} {prompt}: {cosine}", family.name);
        }
    }
}

/// The last row.
fn last(mut numbers: Vec<f32>, len: usize) -> Vec<f32> {
    numbers.split_off(numbers.len() - len)
}

/// The golden number of XLM-RoBERTa is that of a head for ranking, which is computed here: `out(tanh(dense(cls)))`.
#[test]
fn roberta_counts_positions_behind_the_padding() {
    let family = family("xlm_roberta");
    let Some(path) = family.directory() else {
        println!("not run: xlm_roberta, which is not beside the repository");
        return;
    };
    let golden = family.golden();
    let options = EngineOptions { pooling: Some(PoolingKind::Cls), ..exact() };
    let handle = start(&path, &options, &[]);
    let file = SafetensorsFile::open(&path.join("model.safetensors")).expect("readable");
    let numbers = |name: &str| -> Vec<f32> {
        let bytes = file.tensor_bytes(file.tensor(name).expect("a head"));
        let halves = bytes.as_chunks::<2>().0.iter();
        halves.map(|&half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16)).collect()
    };
    let layer = |name: &str, x: &[f32]| -> Vec<f32> {
        let (weight, bias) = (
            numbers(&format!("classifier.{name}.weight")),
            numbers(&format!("classifier.{name}.bias")),
        );
        let rows = weight.chunks(x.len()).zip(bias);
        rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>() + bias).collect()
    };
    for prompt in ["p0", "p1", "p2", "p3"] {
        let cls = embed(&handle, &golden.ids(&format!("{prompt}.input_ids")), RAW);
        let dense: Vec<f32> = layer("dense", &cls).into_iter().map(f32::tanh).collect();
        let distance =
            largest_difference(&layer("out_proj", &dense), &golden.f32(&format!("{prompt}.score")));
        assert!(distance < 1e-4, "{prompt}: {distance}");
    }
    let reranker = start(&path, &exact(), &[]);
    for prompt in ["p1", "p2", "p3"] {
        let ids = golden.ids(&format!("{prompt}.input_ids"));
        let logit = embed(&reranker, &ids, PoolingParams { second_text: Some(2), ..RAW });
        let distance = largest_difference(&logit, &golden.f32(&format!("{prompt}.score")));
        assert!(distance < 1e-4, "{prompt}: {distance}");
    }
}

/// Numbers from -0.25 to 0.25, those of make_rerankers.py.
fn made_up(count: usize, seed: u32) -> Vec<f32> {
    let number = |index: u32| (index + seed).wrapping_mul(2_654_435_761) >> 8;
    (0..count as u32).map(|index| (number(index) as f32 / 16_777_216.0 - 0.5) / 2.0).collect()
}

/// `out(norm(gelu(dense(row))))` of the golden row, in float64.
#[test]
fn a_modernbert_with_a_head_scores_pairs() {
    if family("modernbert").directory().is_none() {
        println!("not run: modernbert, which is not beside the repository");
        return;
    }
    let golden = family("modernbert").golden();
    for pooling in ["cls", "mean"] {
        let handle = rewritten_as("modernbert", None, |config, tensors| {
            let class = "ModernBertForSequenceClassification";
            set(config, json!({"architectures": [class], "classifier_pooling": pooling}));
            for tensor in tensors.iter_mut().filter(|tensor| !tensor.name.starts_with("model.")) {
                tensor.name.insert_str(0, "model.");
            }
            tensors.push(float32("head.dense.weight", &[64, 64], &made_up(64 * 64, 1)));
            tensors.push(float32("head.norm.weight", &[64], &made_up(64, 2)));
            tensors.push(float32("classifier.weight", &[1, 64], &made_up(64, 3)));
            tensors.push(float32("classifier.bias", &[1], &made_up(1, 4)));
        });
        let row = golden.f32(&format!("p1.{pooling}"));
        let product = |weights: &[f32]| -> f64 {
            weights.iter().zip(&row).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
        };
        let dense: Vec<f64> =
            made_up(64 * 64, 1).chunks(64).map(|weights| gelu(product(weights))).collect();
        let mean = dense.iter().sum::<f64>() / 64.0;
        let variance = dense.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 64.0;
        let factors = made_up(64, 2).into_iter().zip(made_up(64, 3));
        let terms = dense.iter().zip(factors).map(|(x, (norm, out))| {
            (x - mean) / (variance + 1e-5).sqrt() * f64::from(norm) * f64::from(out)
        });
        let expected = (terms.sum::<f64>() + f64::from(made_up(1, 4)[0])) as f32;
        let params = PoolingParams { second_text: Some(2), ..RAW };
        let logit = embed(&handle, &golden.ids("p1.input_ids"), params);
        assert!(largest_difference(&logit, &[expected]) < 1e-3, "{pooling}: {logit:?} {expected}");
    }
}

/// By the Taylor series of erf, for x that are not large.
fn gelu(x: f64) -> f64 {
    let y = x / std::f64::consts::SQRT_2;
    let (_, sum) = (0..100)
        .map(f64::from)
        .fold((y, 0.0), |(term, sum), n| (term * -y * y / (n + 1.0), sum + term / (2.0 * n + 1.0)));
    x / 2.0 * (1.0 + std::f64::consts::FRAC_2_SQRT_PI * sum)
}

/// Why files that ask for a reranker's pooling cannot be served; with `--pooling last` they can.
#[test]
fn rank_pooling_without_a_head_is_refused() {
    let refusal = |name: &str, key: &str, pooling| {
        let path = tiny_model(name);
        let bytes = with_keys(&fs::read(&path).expect("committed"), &[(key, KeyValue::U32(4))]);
        let files = GgufFile::from_bytes(&path, bytes).expect("a valid file").into();
        let options = EngineOptions { pooling, ..options() };
        MemoryPlan::new(&files, &options, &Machine::detect()).map(|_| ()).map_err(|e| e.to_string())
    };
    let error = refusal("modernbert", "modern-bert.pooling_type", None).unwrap_err();
    assert!(error.contains("no tensor \"cls.output.weight\""), "{error}");
    let error = refusal("llama3", "llama.pooling_type", None).unwrap_err();
    assert!(error.contains("a reranker that is a decoder is not supported"), "{error}");
    assert_eq!(refusal("llama3", "llama.pooling_type", Some(PoolingKind::Last)), Ok(()));
}

/// A pair, and the logit that numpy found.
struct Pair {
    first: Vec<u32>,
    second: Vec<u32>,
    logit: f32,
}

fn golden_pairs() -> Vec<Pair> {
    let json = include_str!("../data/conformance/rerankers.json");
    let pairs: Vec<Value> = serde_json::from_str(json).expect("as written");
    let ids = |ids: &Value| serde_json::from_value(ids.clone()).expect("token ids");
    let pair = |pair: &Value| Pair {
        first: ids(&pair["first"]),
        second: ids(&pair["second"]),
        logit: pair["logit"].as_f64().expect("a number") as f32,
    };
    pairs.iter().map(pair).collect()
}

/// tests/data/conformance/rerankers.json is of the same model.
#[test]
fn a_bert_with_a_head_scores_pairs() {
    let pairs = golden_pairs();
    for prefix in ["", "bert."] {
        let handle = rewritten_as("bert", None, |config, tensors| {
            set(config, json!({"architectures": ["BertForSequenceClassification"]}));
            tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, prefix));
            tensors.retain(|tensor| !tensor.name.contains("pooler."));
            let pooler = format!("{prefix}pooler.dense");
            tensors.push(float32(&format!("{pooler}.weight"), &[64, 64], &made_up(64 * 64, 1)));
            tensors.push(float32(&format!("{pooler}.bias"), &[64], &made_up(64, 2)));
            tensors.push(float32("classifier.weight", &[1, 64], &made_up(64, 3)));
            tensors.push(float32("classifier.bias", &[1], &made_up(1, 4)));
        });
        let of_pair = |pair: &Pair| {
            let params = PoolingParams { second_text: Some(pair.first.len() as u32), ..RAW };
            submit(&handle, &[&pair.first[..], &pair.second].concat(), params)
        };
        let streams: Vec<TokenStream> = pairs.iter().map(of_pair).collect();
        for (pair, stream) in pairs.iter().zip(streams) {
            let logit = finish(stream).expect("a logit");
            assert!(largest_difference(&logit, &[pair.logit]) < 1e-4, "{logit:?}: {}", pair.logit);
            assert_eq!(bits(&finish(of_pair(pair)).expect("a logit")), bits(&logit), "alone");
        }
        for second_text in [None, Some(3)] {
            let request = Request::embedding(vec![5; 3], PoolingParams { second_text, ..RAW });
            assert!(matches!(handle.generate(request), Err(SubmitError::Invalid(_))));
        }
    }
}

/// The means of a committed encoder whose directory was rewritten.
fn rewritten(name: &str, rewrite: impl FnOnce(&mut Value, &mut Vec<Stored>)) -> EngineHandle {
    rewritten_as(name, Some(PoolingKind::Mean), rewrite)
}

/// An engine of a committed encoder's directory that was rewritten.
fn rewritten_as(
    name: &str,
    pooling: Option<PoolingKind>,
    rewrite: impl FnOnce(&mut Value, &mut Vec<Stored>),
) -> EngineHandle {
    let path = family(name).directory().expect("committed");
    let config = fs::read(path.join("config.json")).expect("readable");
    let mut config = serde_json::from_slice(&config).expect("JSON");
    let file = SafetensorsFile::open(&path.join("model.safetensors")).expect("readable");
    let tensors = file.tensors().iter().map(|tensor| {
        assert_eq!(tensor.dtype, "BF16", "{}", tensor.name);
        let shape: Vec<usize> = tensor.shape.iter().map(|&dim| dim as usize).collect();
        stored(&tensor.name, "BF16", &shape, file.tensor_bytes(tensor).to_vec())
    });
    let mut tensors = tensors.collect();
    rewrite(&mut config, &mut tensors);
    // Tests of one model run beside each other: a file that another one overwrites would be lost under its mapping.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = format!("quire-{name}-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(folder);
    write_directory(&folder, &config, &tensors);
    let handle = start(&folder, &EngineOptions { pooling, ..exact() }, &[]);
    fs::remove_dir_all(&folder).expect("made above");
    handle
}

fn set(config: &mut Value, keys: Value) {
    let Value::Object(keys) = keys else { panic!("keys are an object") };
    config.as_object_mut().expect("a configuration is one").extend(keys);
}

/// Means of the golden prompts, to the bit.
fn means(handle: &EngineHandle, name: &str) -> Vec<Vec<u32>> {
    let golden = family(name).golden();
    let ids = |prompt: &str| golden.ids(&format!("{prompt}.input_ids"));
    ["p0", "p1", "p2", "p3"].map(|prompt| bits(&embed(handle, &ids(prompt), RAW))).to_vec()
}

/// As RoBERTa a BERT has rows for the padding before its positions, and another prefix.
#[test]
fn bert_as_roberta_gives_the_same_embeddings() {
    let plain = means(&rewritten("bert", |_, _| ()), "bert");
    for (padding, prefix) in [(0, ""), (1, "roberta."), (5, "roberta.")] {
        let as_roberta = rewritten("bert", |config, tensors| {
            let first_row = padding + 1;
            set(config, json!({"model_type": "roberta", "architectures": ["RobertaModel"]}));
            set(
                config,
                json!({"pad_token_id": padding, "max_position_embeddings": 320 + first_row}),
            );
            for tensor in tensors {
                if tensor.name.contains("position_embeddings") {
                    tensor.shape[0] += first_row;
                    // 128.0, which would be seen.
                    let before = [0, 0x43].repeat(first_row * tensor.shape[1]);
                    tensor.bytes.splice(0..0, before);
                }
                tensor.name.insert_str(0, prefix);
            }
        });
        assert_eq!(means(&as_roberta, "bert"), plain, "padding {padding}");
    }
}

/// RoBERTa's head is BERT's pooler and classifier by other names; it knows no second kind of token.
#[test]
fn a_bert_with_robertas_head_scores_pairs_as_with_its_own() {
    let with_head = |is_roberta: bool| {
        rewritten_as("bert", None, |config, tensors| {
            let class = if is_roberta {
                "RobertaForSequenceClassification"
            } else {
                "BertForSequenceClassification"
            };
            set(config, json!({"architectures": [class]}));
            if is_roberta {
                // Without a row for the padding.
                set(
                    config,
                    json!({"model_type": "roberta", "pad_token_id": 0, "max_position_embeddings": 321}),
                );
            }
            tensors.retain(|tensor| !tensor.name.contains("pooler."));
            for tensor in tensors.iter_mut() {
                if tensor.name.contains("token_type_embeddings") {
                    let first = tensor.bytes[..tensor.bytes.len() / 2].to_vec();
                    tensor.bytes = first.repeat(2);
                }
                if is_roberta && tensor.name.contains("position_embeddings") {
                    tensor.shape[0] += 1;
                    let row = vec![0; 2 * tensor.shape[1]];
                    tensor.bytes.splice(0..0, row);
                }
                tensor.name.insert_str(0, if is_roberta { "roberta." } else { "bert." });
            }
            let (dense, out) = match is_roberta {
                true => ("classifier.dense", "classifier.out_proj"),
                false => ("bert.pooler.dense", "classifier"),
            };
            tensors.push(float32(&format!("{dense}.weight"), &[64, 64], &made_up(64 * 64, 1)));
            tensors.push(float32(&format!("{dense}.bias"), &[64], &made_up(64, 2)));
            tensors.push(float32(&format!("{out}.weight"), &[1, 64], &made_up(64, 3)));
            tensors.push(float32(&format!("{out}.bias"), &[1], &made_up(1, 4)));
        })
    };
    let handles = [false, true].map(with_head);
    for pair in golden_pairs() {
        let params = PoolingParams { second_text: Some(pair.first.len() as u32), ..RAW };
        let ids = [&pair.first[..], &pair.second].concat();
        let [own, robertas] = handles.each_ref().map(|handle| bits(&embed(handle, &ids, params)));
        assert_eq!(own, robertas);
    }
}

/// transformers 5 writes the names of other encoders into config.json, beside the published names of tensors.
#[test]
fn nomic_is_read_in_its_published_keys_and_in_those_of_transformers() {
    let published = means(&rewritten("nomic_bert", |_, _| ()), "nomic_bert");
    let with_theta = |theta: f64| {
        let handle = rewritten("nomic_bert", |config, _| {
            *config = json!({
                "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "vocab_size": 64,
                "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
                "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "silu",
                "layer_norm_eps": 1e-12, "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
            });
        });
        means(&handle, "nomic_bert")
    };
    assert_eq!(with_theta(700.0), published);
    assert!(with_theta(1000.0) != published, "the base of the rotation is of no consequence");
}

#[test]
fn decoders_give_their_last_hidden_state() {
    let golden = family("llama3").golden();
    for weights in [Weights::Float32, Weights::Packed] {
        let handle = start(&tiny_model("llama3"), &EngineOptions { weights, ..exact() }, &[]);
        for prompt in ["p0", "p2", "p5"] {
            let ids = golden.ids(&format!("{prompt}.input_ids"));
            let got = embed(&handle, &ids, RAW);
            let want = last(golden.f32(&format!("{prompt}.hidden_last")), got.len());
            let distance = largest_difference(&got, &want);
            assert!(distance < 2e-3, "{prompt}: {distance}");
            let unit = embed(&handle, &ids, PoolingParams::default());
            let length = unit.iter().map(|x| x * x).sum::<f32>();
            assert!((length - 1.0).abs() < 1e-5, "length {length}");
        }
    }
}

fn texts() -> Vec<Vec<u32>> {
    let lengths = [1, 200, 3, 64, 65, 17, 129, 300, 2, 40];
    let ids =
        |(text, &len): (usize, &u32)| (0..len).map(move |i| 4 + (i * 37 + text as u32 * 11) % 60);
    lengths.iter().enumerate().map(|text| ids(text).collect()).collect()
}

fn bits(embedding: &[f32]) -> Vec<u32> {
    embedding.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn company_changes_no_bit() {
    for files in ["bert", "modernbert", "nomic_bert", "qwen3"].map(home) {
        let one = EngineOptions { threads: Some(1), max_num_seqs: Some(1), ..options() };
        let handle = start_files(&files, &one, &[]);
        let alone: Vec<Vec<u32>> =
            texts().iter().map(|text| bits(&embed(&handle, text, RAW))).collect();
        for (threads, async_scheduling, block_size) in [(1, false, 16), (3, true, 8)] {
            let options = EngineOptions {
                threads: Some(threads),
                async_scheduling: Some(async_scheduling),
                block_size: Some(block_size),
                ..options()
            };
            let handle = start_files(&files, &options, &[]);
            let texts = texts();
            let streams: Vec<_> =
                texts.iter().rev().map(|text| submit(&handle, text, RAW)).collect();
            let got = streams.into_iter().rev().map(|s| bits(&finish(s).expect("an embedding")));
            assert!(got.eq(alone.iter().cloned()), "{} {threads}", files.path().display());
        }
    }
}

/// A decoder's embeddings are computed in chunks, from cached prefixes, and beside answers.
#[test]
fn chunks_prefixes_and_answers_change_no_bit_of_a_decoders_embedding() {
    let path = tiny_model("llama3");
    let handle = start(&path, &EngineOptions { enable_prefix_caching: false, ..options() }, &[]);
    let text = &texts()[1];
    let alone = bits(&embed(&handle, text, RAW));
    let options =
        EngineOptions { max_num_seqs: Some(4), max_num_batched_tokens: Some(24), ..options() };
    let handle = start(&path, &options, &[]);
    let answer = Request::new(text[..50].to_vec(), SamplingParams::greedy(20));
    let answer = handle.generate(answer).expect("a valid request");
    let streams: Vec<_> = (0..3).map(|_| submit(&handle, text, RAW)).collect();
    for stream in streams {
        assert_eq!(bits(&finish(stream).expect("an embedding")), alone);
    }
    assert_eq!(quire_tests::collect(answer).tokens.len(), 20);
    assert_eq!(bits(&embed(&handle, text, RAW)), alone, "from the prefix cache");
}

#[test]
fn what_a_model_cannot_do_is_said() {
    let encoder = start_files(&home("bert"), &options(), &[]);
    let refusal = |handle: &EngineHandle, request| match handle.generate(request) {
        Err(SubmitError::Invalid(invalid)) => (invalid.param, invalid.message),
        other => panic!("{:?}", other.map(|_| ())),
    };
    let (param, message) = refusal(&encoder, Request::new(vec![5], SamplingParams::greedy(1)));
    assert!(param == "model" && message.contains("/v1/embeddings"), "{message}");
    let (param, message) = refusal(&encoder, Request::embedding(vec![5; 321], RAW));
    assert!(param == "input" && message.contains("320 tokens, but an input has 321"), "{message}");
    assert_eq!(embed(&encoder, &[5; 320], RAW).len(), 64);
    let three =
        |dimensions| PoolingParams { dimensions: Some(dimensions), ..PoolingParams::default() };
    let (param, message) = refusal(&encoder, Request::embedding(vec![5], three(65)));
    assert!(param == "dimensions" && message.contains("from 1 to 64"), "{message}");
    assert_eq!(embed(&encoder, &[5], three(3)).len(), 3);
    let (param, _) = refusal(&encoder, Request::embedding(vec![512], RAW));
    assert_eq!(param, "input");

    let mean = EngineOptions { pooling: Some(PoolingKind::Mean), ..options() };
    let decoder = start(&tiny_model("llama3"), &mean, &[]);
    let (param, message) = refusal(&decoder, Request::embedding(vec![5], RAW));
    assert!(param == "model" && message.contains("--pooling last"), "{message}");
    assert_eq!(ask(&decoder, &[5, 6], SamplingParams::greedy(2)).tokens.len(), 2);
}

#[test]
fn a_fault_fails_its_own_request_alone() {
    const BAD_TOKEN: u32 = 333;
    for faults in [
        Faults { panic_on_token: Some(BAD_TOKEN), ..Faults::default() },
        Faults { nan_on_token: Some(BAD_TOKEN), ..Faults::default() },
    ] {
        let files = home("bert");
        let healthy = start_files(&files, &options(), &[]);
        let handle = start_files(&files, &EngineOptions { faults, ..options() }, &[]);
        let mut texts: Vec<Vec<u32>> = (0..6).map(|i| vec![10 + i; 20]).collect();
        texts[3].push(BAD_TOKEN);
        let streams: Vec<_> = texts.iter().map(|text| submit(&handle, text, RAW)).collect();
        for (index, (text, stream)) in texts.iter().zip(streams).enumerate() {
            match finish(stream) {
                Ok(embedding) => assert_eq!(bits(&embedding), bits(&embed(&healthy, text, RAW))),
                Err(reason) => {
                    assert!(index == 3 && matches!(reason, FinishReason::Error(_)), "{reason:?}");
                }
            }
        }
    }
}
