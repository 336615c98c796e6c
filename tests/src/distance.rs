//! How far an engine's answers lie from the golden numbers of a tiny model.

use quire_engine::{EngineHandle, SamplingParams};

use crate::ask;
use crate::safetensors::Safetensors;

/// Tokens of the tiny models.
pub const VOCAB_SIZE: u32 = 512;

/// How far log probabilities of one run lie from the golden ones.
#[derive(Debug, Default)]
pub struct Distance {
    pub largest: f32,
    sum: f64,
    count: usize,
}

impl Distance {
    fn add(&mut self, got: f32, want: f32) {
        self.largest = self.largest.max((got - want).abs());
        self.sum += f64::from((got - want).abs());
        self.count += 1;
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// The names of the golden prompts.
pub fn prompts() -> Vec<String> {
    (0..6).map(|index| format!("p{index}")).collect()
}

/// Prompt log probabilities, the greedy tokens and the whole distribution at each, against the golden ones.
/// Where the golden logits of the two likeliest lie within `min_gap`, the token may differ, and the rest is skipped.
/// Says at which greedy step another token was chosen.
pub fn first_difference(
    handle: &EngineHandle,
    golden: &Safetensors,
    prompt: &str,
    min_gap: f32,
    distance: &mut Distance,
) -> Option<usize> {
    let greedy_ids = golden.ids(&format!("{prompt}.greedy_ids"));
    let params = SamplingParams {
        logprobs: Some(VOCAB_SIZE),
        prompt_logprobs: Some(0),
        ..SamplingParams::greedy(greedy_ids.len() as u32)
    };
    let answer = ask(handle, &golden.ids(&format!("{prompt}.input_ids")), params);
    let next = match golden.contains(&format!("{prompt}.next_logprob")) {
        true => golden.f32(&format!("{prompt}.next_logprob")),
        false => Vec::new(),
    };
    let computed = answer.started.prompt_logprobs.iter().flatten();
    assert_eq!(computed.clone().count(), next.len(), "{prompt}: prompt log probabilities");
    computed.zip(&next).for_each(|(entry, &want)| distance.add(entry.logprob, want));

    let greedy_logits = golden.f32(&format!("{prompt}.greedy_logits"));
    assert_eq!(answer.tokens.len(), greedy_ids.len());
    let steps = greedy_logits.chunks(VOCAB_SIZE as usize).zip(&answer.tokens).zip(&greedy_ids);
    for (step, ((logits, output), &id)) in steps.enumerate() {
        if gap(logits) < min_gap {
            return None;
        }
        if output.token != id {
            return Some(step);
        }
        let logsumexp = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
        let top = &output.logprobs.as_ref().expect("asked for").top;
        assert_eq!(top.len(), VOCAB_SIZE as usize, "the whole distribution");
        for &(token, logprob) in top {
            distance.add(logprob, (f64::from(logits[token as usize]) - logsumexp) as f32);
        }
    }
    None
}

/// The prompts where `first_difference` finds one.
pub fn other_answers(
    handle: &EngineHandle,
    golden: &Safetensors,
    min_gap: f32,
    distance: &mut Distance,
) -> Vec<String> {
    let mut differs =
        |prompt: &String| first_difference(handle, golden, prompt, min_gap, distance).is_some();
    prompts().into_iter().filter(|prompt| differs(prompt)).collect()
}

/// As `first_difference`, which must be none.
pub fn check_prompt(
    handle: &EngineHandle,
    golden: &Safetensors,
    prompt: &str,
    min_gap: f32,
    distance: &mut Distance,
) {
    let step = first_difference(handle, golden, prompt, min_gap, distance);
    assert_eq!(step, None, "{prompt}: the greedy step that differs");
}

/// By how much the likeliest token is before the next.
pub fn gap(logits: &[f32]) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted[sorted.len() - 1] - sorted[sorted.len() - 2]
}
