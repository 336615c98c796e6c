//! Shapes that test and time `verify_drafts`.

use super::{Drafts, Verified, reference, verify_drafts};
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
            cases.push(case((name, row), vocabulary, &counts, chain));
            if vocabulary > 1 {
                cases.push(case((name, row), vocabulary, &counts, tree));
            }
        }
    }
    cases
}

/// What each of `count` drafts follows.
type Shape = fn(u8) -> Vec<u8>;

fn chain(count: u8) -> Vec<u8> {
    (0..count).collect()
}

/// Three at first, then two after the second of them, and so on.
fn tree(count: u8) -> Vec<u8> {
    [0, 0, 0, 2, 2, 4, 4, 6][..usize::from(count)].to_vec()
}

fn case(
    (name, row): (&str, SampleRow<'static>),
    vocabulary: usize,
    counts: &[u32],
    shape: Shape,
) -> Case {
    let counts = counts.to_vec();
    let parents: Vec<u8> = counts.iter().flat_map(|&count| shape(count as u8)).collect();
    let num_rows = counts.iter().sum::<u32>() as usize + counts.len();
    let logits: Vec<f32> = random_f32(vocabulary as u64, num_rows * vocabulary)
        .into_iter()
        .map(|value| (value * 128.0).floor() / 16.0)
        .collect();
    let position = |index: usize| SampleRow { position: index as u32, ..row };
    let rows: Vec<SampleRow> = (0..num_rows).map(position).collect();
    let drafts = guesses(&logits, &rows, &counts, &parents);
    let (input, input_rows, input_drafts) = (logits.clone(), rows.clone(), drafts.clone());
    let (input_counts, input_parents) = (counts.clone(), parents.clone());
    let (mut scratch, mut valid_rows) = (logits.clone(), vec![0; num_rows]);
    let mut out = vec![Sampled::default(); num_rows];
    let mut num_valid = vec![0; counts.len()];
    let num_logits = logits.len() as u64;
    Case {
        op: "verify_drafts",
        name: format!("{num_rows}x{vocabulary} {name} drafts {parents:?} of {}", counts.len()),
        work: Work { bytes: 4 * num_logits, operations: 20 * num_logits },
        tolerance: 0.0,
        cuda_tolerance: F32_TOLERANCE / 100.0,
        output_len: num_rows,
        run: Box::new(move |device, output| {
            scratch.copy_from_slice(&input);
            in_place(device, Kind::Numbers, &mut scratch, (num_rows, vocabulary), |logits| {
                let (tokens, counts) = (&input_drafts[..], &input_counts[..]);
                let drafts = Drafts { tokens, counts, parents: &input_parents };
                let verified = Verified { num_valid: &mut num_valid, rows: &mut valid_rows };
                verify_drafts(device, &mut out, verified, logits, &input_rows, drafts);
            });
            let mut first = 0;
            let valid = input_counts.iter().zip(&num_valid).map(|(&count, &num_valid)| {
                let own = first..first + num_valid as usize;
                first += 1 + count as usize;
                let rows = valid_rows[own.clone()].iter().map(|&row| usize::from(row));
                rows.zip(out[own].iter().cloned()).collect::<Vec<_>>()
            });
            output.copy_from_slice(&flatten(&valid.collect::<Vec<_>>(), &input_counts));
        }),
        reference: Box::new(move || {
            let (mut first_row, mut first_draft) = (0, 0);
            let mut valid = Vec::new();
            for &count in &counts {
                let own_rows = first_row..first_row + 1 + count as usize;
                let own_drafts = first_draft..first_draft + count as usize;
                let logits: Vec<&[f32]> =
                    own_rows.clone().map(|row| &logits[row * vocabulary..][..vocabulary]).collect();
                let paths = paths(&drafts[own_drafts.clone()], &parents[own_drafts]);
                valid.push(reference::verify_sequence(&logits, &rows[own_rows], &paths));
                first_row += 1 + count as usize;
                first_draft += count as usize;
            }
            flatten(&valid, &counts)
        }),
    }
}

/// The drafts up to each one.
fn paths(drafts: &[u32], parents: &[u8]) -> Vec<Vec<u32>> {
    let mut paths = vec![Vec::new()];
    for (&draft, &parent) in drafts.iter().zip(parents) {
        let mut path = paths[usize::from(parent)].clone();
        path.push(draft);
        paths.push(path);
    }
    paths.split_off(1)
}

/// Of the drafts after one row the last is right, but for one: later in each sequence than in the one before it.
fn guesses(logits: &[f32], rows: &[SampleRow], counts: &[u32], parents: &[u8]) -> Vec<u32> {
    let vocabulary = logits.len() / rows.len();
    let mut drafts = Vec::new();
    let mut first_row = 0;
    for (sequence, &count) in counts.iter().enumerate() {
        let own = &parents[drafts.len()..][..count as usize];
        for (index, &parent) in own.iter().enumerate() {
            let row = first_row + usize::from(parent);
            let token = sample_row(&logits[row * vocabulary..][..vocabulary], &rows[row]).token;
            let num_later = (index + 1..own.len()).filter(|&later| own[later] == parent).count();
            let is_wrong = usize::from(parent) == 2 * sequence;
            let offset = num_later + usize::from(is_wrong);
            drafts.push((token + offset as u32) % vocabulary as u32);
        }
        first_row += 1 + count as usize;
    }
    drafts
}

/// Tokens of the valid rows, each plus 1, and which rows those are; 0 for the others.
fn flatten(valid: &[Vec<(usize, Sampled)>], counts: &[u32]) -> Vec<f32> {
    let sequence = |(sampled, &count): (&Vec<(usize, Sampled)>, &u32)| {
        let value =
            |(row, sampled): &(usize, Sampled)| sampled.token as f32 * 8.0 + *row as f32 + 1.0;
        let mut values: Vec<f32> = sampled.iter().map(value).collect();
        values.resize(1 + count as usize, 0.0);
        values
    };
    valid.iter().zip(counts).flat_map(sequence).collect()
}
