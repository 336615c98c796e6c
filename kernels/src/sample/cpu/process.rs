//! Masks, bias and penalties, written into the row. Ids beyond the vocabulary are ignored.

use crate::sample::SampleRow;

const IN_PROMPT: u32 = 1 << 31;

/// `counts` is scratch that is all zero before and after.
pub(super) fn process(logits: &mut [f32], row: &SampleRow, counts: &mut Vec<u32>) {
    if let Some(allowed) = row.allowed {
        apply_mask(logits, allowed);
    }
    for &token in row.banned {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    for &(token, bias) in row.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if row.has_penalties() {
        apply_penalties(logits, row, counts);
    }
}

fn apply_mask(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
        }
    }
}

fn apply_penalties(logits: &mut [f32], row: &SampleRow, counts: &mut Vec<u32>) {
    if counts.len() < logits.len() {
        counts.resize(logits.len(), 0);
    }
    let counts = &mut counts[..logits.len()];
    let prompt_tokens = if row.repetition_penalty == 1.0 { &[] } else { row.prompt_tokens };
    for &token in prompt_tokens {
        if let Some(count) = counts.get_mut(token as usize) {
            *count |= IN_PROMPT;
        }
    }
    for &token in row.output_tokens {
        if let Some(count) = counts.get_mut(token as usize) {
            *count += 1;
        }
    }
    for &token in prompt_tokens.iter().chain(row.output_tokens) {
        let Some(count) = counts.get_mut(token as usize) else { continue };
        let seen = std::mem::take(count);
        if seen != 0 {
            let logit = &mut logits[token as usize];
            *logit = penalized(*logit, seen & !IN_PROMPT, row);
        }
    }
}

fn penalized(logit: f32, num_in_output: u32, row: &SampleRow) -> f32 {
    let penalty = row.repetition_penalty;
    let repeated = if logit > 0.0 { logit / penalty } else { logit * penalty };
    if num_in_output == 0 {
        return repeated;
    }
    repeated - num_in_output as f32 * row.frequency_penalty - row.presence_penalty
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::random_f32;
    use crate::sample::reference;

    #[test]
    fn hand_computed_penalties() {
        let row = SampleRow {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            prompt_tokens: &[0, 1, 1, 2, 99],
            output_tokens: &[2, 3, 3, 99, 3],
            logit_bias: &[(0, 1.0), (4, -3.0), (5, 8.0), (99, 1.0)],
            allowed: Some(&[0b101_1111]),
            banned: &[6, 99],
            ..SampleRow::default()
        };
        let mut logits = [3.0, -3.0, 4.0, -1.0, 1.0, 1.0, 1.0];
        let mut counts = Vec::new();
        process(&mut logits, &row, &mut counts);
        let none = f32::NEG_INFINITY;
        // 0: (3+1)/2; 1: -3·2; 2: 4/2 - 0.25 - 0.5; 3: -1·2 - 3·0.25 - 0.5; 4: 1-3; 5: masked before its bias; 6: banned
        assert_eq!(logits, [2.0, -6.0, 1.25, -3.25, -2.0, none, none]);
        assert_eq!(counts, [0; 7]);
    }

    #[test]
    fn bits_equal_the_reference() {
        let token = |value: &f32| (value * 120.0).abs() as u32;
        let tokens: Vec<u32> = random_f32(5, 200).iter().map(token).collect();
        let mask: Vec<u32> = random_f32(6, 3).iter().map(|value| value.to_bits() ^ 255).collect();
        let biases: Vec<(u32, f32)> = tokens[..9].iter().map(|&t| (t, t as f32 / 7.0)).collect();
        let row = SampleRow {
            repetition_penalty: 1.3,
            presence_penalty: -0.7,
            frequency_penalty: 0.3,
            prompt_tokens: &tokens[..60],
            output_tokens: &tokens[60..],
            logit_bias: &biases,
            allowed: Some(&mask),
            ..SampleRow::default()
        };
        let mut logits = random_f32(7, 110);
        let expected = reference::process(&logits, &row);
        process(&mut logits, &row, &mut Vec::new());
        assert_eq!(logits, expected);
    }
}
