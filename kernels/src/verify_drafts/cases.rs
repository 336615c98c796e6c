//! Shapes that test and time `verify_drafts`.

use super::{Drafts, reference, verify_drafts};
use crate::cases::{Case, F32_TOLERANCE, Kind, Work, in_place, random_f32};
use crate::sample::reference::sample_row;
use crate::sample::{SampleRow, Sampled};

pub fn cases() -> Vec<Case> {
    let greedy = SampleRow::default();
    let random = SampleRow { temperature: 0.8, top_k: 40, top_p: 0.9, seed: 3, ..greedy };
    let mut cases = Vec::new();
    for (name, row) in [("greedy", greedy), ("random", random)] {
        for (vocabulary, counts) in
            [(1, vec![3]), (100, vec![0, 7, 2, 0, 1]), (2049, vec![4, 0]), (49152, vec![7])]
        {
            cases.push(case(name, row, vocabulary, &counts));
        }
    }
    cases
}

fn case(name: &str, row: SampleRow<'static>, vocabulary: usize, counts: &[u32]) -> Case {
    let counts = counts.to_vec();
    let num_rows = counts.iter().sum::<u32>() as usize + counts.len();
    let logits: Vec<f32> = random_f32(vocabulary as u64, num_rows * vocabulary)
        .into_iter()
        .map(|value| (value * 128.0).floor() / 16.0)
        .collect();
    let position = |index: usize| SampleRow { position: index as u32, ..row };
    let rows: Vec<SampleRow> = (0..num_rows).map(position).collect();
    let drafts = guesses(&logits, &rows, vocabulary, &counts);
    let (input, input_rows, input_drafts) = (logits.clone(), rows.clone(), drafts.clone());
    let (input_counts, mut scratch) = (counts.clone(), logits.clone());
    let mut out = vec![Sampled::default(); num_rows];
    let mut num_valid = vec![0; counts.len()];
    let num_logits = logits.len() as u64;
    Case {
        op: "verify_drafts",
        name: format!("{num_rows}x{vocabulary} {name} drafts of {}", counts.len()),
        work: Work { bytes: 4 * num_logits, operations: 20 * num_logits },
        tolerance: 0.0,
        cuda_tolerance: F32_TOLERANCE / 100.0,
        output_len: num_rows,
        run: Box::new(move |device, output| {
            scratch.copy_from_slice(&input);
            in_place(device, Kind::Numbers, &mut scratch, (num_rows, vocabulary), |logits| {
                let drafts = Drafts { tokens: &input_drafts, counts: &input_counts };
                verify_drafts(device, &mut out, &mut num_valid, logits, &input_rows, drafts);
            });
            let mut sampled = &out[..];
            let valid = input_counts.iter().zip(&num_valid).map(|(&count, &num_valid)| {
                let (own, others) = sampled.split_at(1 + count as usize);
                sampled = others;
                own[..num_valid as usize].to_vec()
            });
            output.copy_from_slice(&flatten(&valid.collect::<Vec<_>>(), &input_counts));
        }),
        reference: Box::new(move || {
            let (mut first_row, mut first_draft) = (0, 0);
            let mut valid = Vec::new();
            for &count in &counts {
                let own_rows = first_row..first_row + 1 + count as usize;
                let own_drafts = &drafts[first_draft..first_draft + count as usize];
                let logits: Vec<&[f32]> =
                    own_rows.clone().map(|row| &logits[row * vocabulary..][..vocabulary]).collect();
                let rows = &rows[own_rows];
                valid.push(reference::verify_sequence(&logits, rows, own_drafts));
                first_row += 1 + count as usize;
                first_draft += count as usize;
            }
            flatten(&valid, &counts)
        }),
    }
}

/// The right tokens at first, then a wrong one: later in each sequence than in the one before it.
fn guesses(logits: &[f32], rows: &[SampleRow], vocabulary: usize, counts: &[u32]) -> Vec<u32> {
    let mut drafts = Vec::new();
    let mut row = 0;
    for (sequence, &count) in counts.iter().enumerate() {
        for index in 0..count as usize {
            let token =
                sample_row(&logits[(row + index) * vocabulary..][..vocabulary], &rows[row + index])
                    .token;
            let is_wrong = index == 2 * sequence;
            drafts.push(if is_wrong { (token + 1) % vocabulary as u32 } else { token });
        }
        row += 1 + count as usize;
    }
    drafts
}

/// Tokens of the valid rows, each plus 1, and 0 for the others.
fn flatten(valid: &[Vec<Sampled>], counts: &[u32]) -> Vec<f32> {
    let sequence = |(sampled, &count): (&Vec<Sampled>, &u32)| {
        let mut values: Vec<f32> = sampled.iter().map(|row| row.token as f32 + 1.0).collect();
        values.resize(1 + count as usize, 0.0);
        values
    };
    valid.iter().zip(counts).flat_map(sequence).collect()
}
