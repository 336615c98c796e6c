//! Shapes and settings that test and time `sample` and `logprobs`.

use super::{SampleRow, Sampled, logprobs, reference, sample};
use crate::cases::{Case, F32_TOLERANCE, Input, Kind, Work, in_place, random_f32};

const NUM_TOP: u32 = 5;
/// Token, finite, log-probability, rank, and the likeliest tokens with theirs.
const OUTPUTS_PER_ROW: usize = 4 + 2 * NUM_TOP as usize;

/// Token t of the first 100 comes t % 7 + 1 times.
const REPEATED: [u32; 395] = {
    let mut tokens = [0; 395];
    let (mut i, mut token) = (0, 0);
    while token < 100 {
        let mut times = token % 7 + 1;
        while times > 0 {
            tokens[i] = token;
            i += 1;
            times -= 1;
        }
        token += 1;
    }
    assert!(i == tokens.len());
    tokens
};

const SHAPES: [(usize, usize); 4] = [(1, 1), (3, 100), (5, 2049), (2, 49152)];

pub fn cases() -> Vec<Case> {
    let row = SampleRow { temperature: 0.9, seed: 7, ..SampleRow::default() };
    let settings: [(&str, SampleRow<'static>); 9] = [
        ("greedy", SampleRow::default()),
        (
            "repeated",
            SampleRow { frequency_penalty: 0.1, output_tokens: &REPEATED, ..SampleRow::default() },
        ),
        ("greedy logprobs", SampleRow { num_logprobs: Some(NUM_TOP), ..SampleRow::default() }),
        ("temperature", row),
        ("min_p", SampleRow { min_p: 0.05, ..row }),
        ("top_k", SampleRow { top_k: 50, ..row }),
        ("top_p", SampleRow { top_p: 0.95, ..row }),
        ("top_k top_p min_p", SampleRow { top_k: 40, top_p: 0.8, min_p: 0.01, ..row }),
        (
            "everything",
            SampleRow {
                top_p: 0.9,
                min_p: 0.001,
                repetition_penalty: 1.2,
                presence_penalty: 0.5,
                frequency_penalty: 0.25,
                prompt_tokens: &[0, 1, 2, 3, 5, 8, 13, 21, 2048, u32::MAX],
                output_tokens: &[3, 3, 4, 7, 40000, u32::MAX],
                logit_bias: &[(0, 2.0), (9, -1.0), (u32::MAX, 9.0)],
                banned: &[6, 70, u32::MAX],
                num_logprobs: Some(NUM_TOP),
                ..row
            },
        ),
    ];
    let mut cases = Vec::new();
    for (num_rows, vocabulary) in SHAPES {
        cases.push(prompt_logprobs(num_rows, vocabulary));
        let case = |(name, row)| sampled(num_rows, vocabulary, name, row);
        cases.extend(settings.into_iter().map(case));
    }
    cases
}

fn sampled(num_rows: usize, vocabulary: usize, name: &str, row: SampleRow<'static>) -> Case {
    let logits = random_logits(num_rows, vocabulary);
    let position = |index: usize| SampleRow { position: index as u32, ..row };
    let rows: Vec<SampleRow> = (0..num_rows).map(position).collect();
    let (input, input_rows) = (logits.clone(), rows.clone());
    let mut scratch = logits.clone();
    let mut out = vec![Sampled::default(); num_rows];
    Case {
        op: "sample",
        name: format!("{num_rows}x{vocabulary} {name}"),
        run: Box::new(move |device, output| {
            scratch.copy_from_slice(&input);
            in_place(device, Kind::Numbers, &mut scratch, (num_rows, vocabulary), |logits| {
                sample(device, &mut out, logits, &input_rows);
            });
            output.copy_from_slice(&flatten(&out));
        }),
        reference: Box::new(move || {
            let pairs = logits.chunks(vocabulary).zip(&rows);
            flatten(&pairs.map(|(l, row)| reference::sample_row(l, row)).collect::<Vec<_>>())
        }),
        ..empty(num_rows, vocabulary)
    }
}

fn prompt_logprobs(num_rows: usize, vocabulary: usize) -> Case {
    let logits = random_logits(num_rows, vocabulary);
    let mut input = Input::new(Kind::Numbers, logits.clone(), num_rows, vocabulary);
    let targets: Vec<u32> = (0..num_rows).map(|row| (row * 977 % vocabulary) as u32).collect();
    let (asked, num_top) = (targets.clone(), vec![NUM_TOP; num_rows]);
    let mut out = vec![Sampled::default(); num_rows];
    Case {
        op: "sample",
        name: format!("{num_rows}x{vocabulary} prompt logprobs"),
        run: Box::new(move |device, output| {
            logprobs(device, &mut out, input.view(device), &asked, &num_top);
            output.copy_from_slice(&flatten(&out));
        }),
        reference: Box::new(move || {
            let pairs = logits.chunks(vocabulary).zip(&targets);
            let row = |(l, &target): (&[f32], &u32)| reference::logprobs_row(l, target, NUM_TOP);
            flatten(&pairs.map(row).collect::<Vec<_>>())
        }),
        ..empty(num_rows, vocabulary)
    }
}

fn empty(num_rows: usize, vocabulary: usize) -> Case {
    let num_logits = (num_rows * vocabulary) as u64;
    Case {
        op: "sample",
        name: String::new(),
        work: Work { bytes: 4 * num_logits, operations: 20 * num_logits },
        // Token ids differ by 1 or more, so this asks for equal ids in vocabularies up to 500000.
        tolerance: 2e-6,
        cuda_tolerance: F32_TOLERANCE / 100.0,
        output_len: num_rows * OUTPUTS_PER_ROW,
        run: Box::new(|_, _| ()),
        reference: Box::new(Vec::new),
    }
}

/// Multiples of 1/16 in [-8, 8): many ties.
fn random_logits(num_rows: usize, vocabulary: usize) -> Vec<f32> {
    let values = random_f32(vocabulary as u64, num_rows * vocabulary);
    values.into_iter().map(|value| (value * 128.0).floor() / 16.0).collect()
}

fn flatten(out: &[Sampled]) -> Vec<f32> {
    let row = |sampled: &Sampled| {
        let finite = f32::from(u8::from(sampled.finite));
        let mut values = vec![sampled.token as f32, finite, sampled.logprob, sampled.rank as f32];
        values.extend(sampled.top.iter().flat_map(|&(token, logprob)| [token as f32, logprob]));
        values.resize(OUTPUTS_PER_ROW, 0.0);
        values
    };
    out.iter().flat_map(row).collect()
}
