//! The plain way to sample: full sorts, f64, one vector after the other: the oracle of `sample`.

use super::{SampleRow, Sampled, philox};

/// What `sample` returns for one row.
pub fn sample_row(logits: &[f32], row: &SampleRow) -> Sampled {
    let processed = process(logits, row);
    if !usable(logits) || !usable(&processed) {
        return Sampled::default();
    }
    let token = if row.is_greedy() { order(&processed)[0] } else { draw(&processed, row) };
    match row.num_logprobs {
        Some(num_top) => logprobs_row(logits, token, num_top),
        None => Sampled { token, finite: true, ..Sampled::default() },
    }
}

/// What `logprobs` returns for one row.
pub fn logprobs_row(logits: &[f32], target: u32, num_top: u32) -> Sampled {
    if !usable(logits) {
        return Sampled::default();
    }
    let ordered = order(logits);
    let largest = f64::from(logits[ordered[0] as usize]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    let logprob = |token: u32| {
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        (f64::from(logit) - largest - sum.ln()) as f32
    };
    let place = ordered.iter().position(|&token| token == target).unwrap_or(ordered.len());
    let possible = ordered.iter().filter(|&&token| logits[token as usize] > f32::NEG_INFINITY);
    let top = possible.take(num_top as usize).map(|&token| (token, logprob(token)));
    let (logprob, top) = (logprob(target), top.collect());
    Sampled { token: target, finite: true, logprob, rank: place as u32 + 1, top }
}

/// The logits after masks, bias and penalties.
pub fn process(logits: &[f32], row: &SampleRow) -> Vec<f32> {
    let value = |(id, &logit): (usize, &f32)| {
        let token = id as u32;
        let word = |mask: &[u32]| mask.get(id / 32).copied().unwrap_or(0);
        if row.allowed.is_some_and(|mask| word(mask) >> (id % 32) & 1 == 0)
            || row.banned.contains(&token)
        {
            return f32::NEG_INFINITY;
        }
        let biases = row.logit_bias.iter().filter(|(biased, _)| *biased == token);
        let mut value = biases.fold(logit, |value, (_, bias)| value + bias);
        let count = row.output_tokens.iter().filter(|&&output| output == token).count();
        if count > 0 || row.prompt_tokens.contains(&token) {
            let penalty = row.repetition_penalty;
            value = if value > 0.0 { value / penalty } else { value * penalty };
        }
        if count > 0 {
            value -= count as f32 * row.frequency_penalty;
            value -= row.presence_penalty;
        }
        value
    };
    logits.iter().enumerate().map(value).collect()
}

/// The tokens that temperature, `min_p`, `top_k` and `top_p` leave of processed logits, likeliest first.
pub fn kept(processed: &[f32], row: &SampleRow) -> Vec<u32> {
    let mut kept = order(processed);
    let weights = weights(processed, row.temperature);
    let weight = |&token: &u32| weights[token as usize];
    kept.retain(|&token| processed[token as usize] > f32::NEG_INFINITY);
    kept.retain(|token| weight(token) >= f64::from(row.min_p.min(1.0)));
    if row.top_k > 0 {
        kept.truncate(row.top_k as usize);
    }
    if row.top_p < 1.0 {
        let needed = f64::from(row.top_p) * kept.iter().map(weight).sum::<f64>();
        let mut sum = 0.0;
        let reaches = |token| {
            sum += weight(token);
            sum >= needed
        };
        let last = kept.iter().position(reaches).unwrap_or(kept.len() - 1);
        kept.truncate(last + 1);
    }
    kept
}

/// Inverse of the cumulative distribution over the kept tokens in the order of their ids.
fn draw(processed: &[f32], row: &SampleRow) -> u32 {
    let mut kept = kept(processed, row);
    kept.sort_unstable();
    let weights = weights(processed, row.temperature);
    let bits = philox::random_bits(row.seed, row.position, 0);
    let uniform = (bits as f64 + 1.0) / 2.0_f64.powi(64);
    let target = uniform * kept.iter().map(|&token| weights[token as usize]).sum::<f64>();
    let mut sum = 0.0;
    for &token in &kept {
        sum += weights[token as usize];
        if sum >= target {
            return token;
        }
    }
    kept[kept.len() - 1]
}

/// Probabilities relative to the likeliest token's.
fn weights(logits: &[f32], temperature: f32) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponent = |logit: f32| (f64::from(logit) - f64::from(largest)) / f64::from(temperature);
    logits.iter().map(|&logit| exponent(logit).exp()).collect()
}

/// All tokens by logit, largest first; equal logits by id.
fn order(logits: &[f32]) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |token: u32| logits[token as usize];
    tokens.sort_by(|&a, &b| logit(b).partial_cmp(&logit(a)).expect("no NaN in a usable row"));
    tokens
}

fn usable(logits: &[f32]) -> bool {
    logits.iter().all(|&logit| logit < f32::INFINITY)
        && logits.iter().any(|&logit| logit > f32::NEG_INFINITY)
}
