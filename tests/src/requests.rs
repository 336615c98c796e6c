//! Requests of many shapes, and what it means that their answers are equal.

use quire_engine::{EngineHandle, Request, SamplingParams};

use crate::{Answer, Random, collect};

const NUM_REQUESTS: usize = 32;

/// Requests of many shapes: greedy and random, long and short, with penalties, biases and prompt log probabilities.
pub fn requests(vocab_size: u32, max_prompt: u32) -> Vec<Request> {
    let mut random = Random::new(7);
    let shared: Vec<u32> = (0..40).map(|_| random.below(vocab_size)).collect();
    (0..NUM_REQUESTS as u32)
        .map(|index| {
            let length = 1 + random.below(max_prompt);
            let own = (0..length).map(|_| random.below(vocab_size));
            // A third of the prompts begin alike, so that running ones share blocks.
            let prompt = match index % 3 {
                0 => shared.iter().copied().chain(own).collect(),
                _ => own.collect(),
            };
            Request::new(prompt, params(index, vocab_size, &mut random))
        })
        .collect()
}

fn params(index: u32, vocab_size: u32, random: &mut Random) -> SamplingParams {
    SamplingParams {
        max_tokens: Some(4 + random.below(20)),
        min_tokens: index % 5,
        temperature: [0.0, 0.7, 1.0, 1.6][index as usize % 4],
        top_k: [0, 5, 40][index as usize % 3],
        top_p: [1.0, 0.9][index as usize % 2],
        min_p: if index.is_multiple_of(7) { 0.05 } else { 0.0 },
        repetition_penalty: if index.is_multiple_of(5) { 1.3 } else { 1.0 },
        presence_penalty: if index.is_multiple_of(6) { 0.8 } else { 0.0 },
        frequency_penalty: if index.is_multiple_of(4) { -0.5 } else { 0.0 },
        seed: Some(u64::from(index) * 17),
        stop_token_ids: vec![random.below(vocab_size)],
        logit_bias: vec![(random.below(vocab_size), 2.5)],
        logprobs: Some(5),
        prompt_logprobs: index.is_multiple_of(8).then_some(2),
        ..SamplingParams::default()
    }
}

/// Each request alone on the engine.
pub fn one_by_one(handle: &EngineHandle, requests: &[Request]) -> Vec<Answer> {
    requests
        .iter()
        .map(|request| together(handle, std::slice::from_ref(request)).remove(0))
        .collect()
}

/// All requests at once, answers in their order.
pub fn together(handle: &EngineHandle, requests: &[Request]) -> Vec<Answer> {
    let submit = |request: &Request| handle.generate(request.clone()).expect("a valid request");
    let streams: Vec<_> = requests.iter().map(submit).collect();
    streams.into_iter().map(collect).collect()
}

/// Equal in every bit but for how many tokens came from the cache.
pub fn assert_equal(what: &str, expected: &[Answer], answers: &[Answer]) {
    for (index, (want, got)) in expected.iter().zip(answers).enumerate() {
        let mut got = got.clone();
        got.started.num_cached_tokens = want.started.num_cached_tokens;
        got.finished.num_cached_tokens = want.finished.num_cached_tokens;
        assert_eq!(want, &got, "{what}: request {index}");
    }
}
