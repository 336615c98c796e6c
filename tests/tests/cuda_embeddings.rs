//! Embeddings with `--device cuda` on the emulator: near the golden numbers, and the same in any company.

use quire_engine::config::DeviceChoice;
use quire_engine::request::StreamEvent;
use quire_engine::{
    EngineHandle, EngineOptions, ModelFiles, PoolingKind, PoolingParams, Request, SamplingParams,
    TokenStream,
};
use quire_tests::families::{ENCODERS, Family};
use quire_tests::{collect, options, start, start_files, tiny_model};

/// As the last layer left it.
const RAW: PoolingParams =
    PoolingParams { dimensions: None, normalize: Some(false), second_text: None };

fn cuda() -> EngineOptions {
    EngineOptions {
        device: DeviceChoice::Cuda(0),
        max_model_len: Some(128),
        max_num_seqs: Some(4),
        max_num_batched_tokens: Some(128),
        ..options()
    }
}

fn submit(handle: &EngineHandle, ids: &[u32]) -> TokenStream {
    handle.generate(Request::embedding(ids.to_vec(), RAW)).expect("a valid request")
}

fn finish(mut stream: TokenStream) -> Vec<f32> {
    assert!(matches!(stream.blocking_next(), Some(StreamEvent::Started(_))));
    match stream.blocking_next() {
        Some(StreamEvent::Embedding(embedding)) => embedding,
        event => panic!("{event:?} in place of an embedding"),
    }
}

/// ‖got − want‖ / ‖want‖
fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let norm = |squares: &mut dyn Iterator<Item = f32>| squares.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut got.iter().zip(want).map(|(x, y)| x - y)) / norm(&mut want.iter().copied())
}

fn open(family: &Family) -> Option<ModelFiles> {
    let directory = family.directory().map(|path| ModelFiles::open(&path).expect("readable"));
    directory.or_else(|| family.open_gguf())
}

#[test]
fn encoders_are_near_the_golden_numbers() {
    let _emulator = quire_sim::load();
    for family in ENCODERS.iter().filter(|family| family.name != "xlm_roberta") {
        let golden = family.golden();
        let files = open(family).expect("committed");
        for (kind, name) in [(PoolingKind::Mean, "mean"), (PoolingKind::Cls, "cls")] {
            let options = EngineOptions { pooling: Some(kind), ..cuda() };
            let handle = start_files(&files, &options, &[]);
            for prompt in ["p0", "p1", "p2"] {
                let ids = golden.ids(&format!("{prompt}.input_ids"));
                let want = golden.f32(&format!("{prompt}.{name}"));
                let distance = distance(&finish(submit(&handle, &ids)), &want);
                println!("{} {prompt} {name}: {distance}", family.name);
                assert!(distance < 0.02, "{} {prompt} {name}: {distance}", family.name);
            }
        }
    }
}

/// Whatever cuBLASLt would sum otherwise is left to kernels that do not look at the number of rows.
#[test]
fn company_and_chunks_change_no_bit() {
    let _emulator = quire_sim::load();
    let texts: Vec<Vec<u32>> = [1, 60, 3, 17, 33]
        .map(|len| (0..len).map(|i| 4 + (i * 37 + len * 11) % 500).collect())
        .into_iter()
        .collect();
    let options = EngineOptions { batch_invariant: true, ..cuda() };
    for name in ["modernbert", "llama3"] {
        let one = EngineOptions { max_num_seqs: Some(1), ..options.clone() };
        let handle = start(&tiny_model(name), &one, &[]);
        let alone: Vec<Vec<f32>> = texts.iter().map(|text| finish(submit(&handle, text))).collect();
        // An encoder's texts are not cut.
        let max_num_batched_tokens = Some(if name == "llama3" { 24 } else { 128 });
        let together = EngineOptions { max_num_batched_tokens, ..options.clone() };
        let handle = start(&tiny_model(name), &together, &[]);
        let answer = Request::new(texts[1].clone(), SamplingParams::greedy(4));
        let answer = (name == "llama3").then(|| handle.generate(answer).expect("valid"));
        let streams: Vec<_> = texts.iter().rev().map(|text| submit(&handle, text)).collect();
        let got: Vec<Vec<f32>> = streams.into_iter().rev().map(finish).collect();
        assert_eq!(got, alone, "{name}");
        assert!(answer.is_none_or(|answer| collect(answer).tokens.len() == 4));
    }
}
