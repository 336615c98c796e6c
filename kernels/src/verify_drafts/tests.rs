//! What verification promises: the tokens of no speculation, the target's distribution, failures in their place.

use std::sync::LazyLock;

use super::{Drafts, Verified, verify_drafts};
use crate::device::Device;
use crate::sample::{SampleRow, Sampled, sample};
use crate::tensor::ViewMut;

const VOCABULARY: usize = 6;
const SHARPNESS: f32 = 1.5;

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::cpu(1));

/// A model of two tokens' memory: its logits after a text.
fn model(text: &[u32], sharpness: f32) -> Vec<f32> {
    let last = text.iter().rev().take(2).fold(7_u32, |sum, &token| sum * 31 + token * token + 5);
    let logit = |token: u32| ((last * (token + 3) * 2_654_435) % 97) as f32 / 97.0 * sharpness;
    (0..VOCABULARY as u32).map(logit).collect()
}

fn row(seed: u64, text: &[u32]) -> SampleRow<'_> {
    let (output_tokens, position) = (text, text.len() as u32);
    SampleRow {
        temperature: 1.0,
        frequency_penalty: 0.3,
        output_tokens,
        seed,
        position,
        ..SampleRow::default()
    }
}

fn draw(logits: &[f32], row: SampleRow) -> u32 {
    let (mut logits, mut out) = (logits.to_vec(), [Sampled::default()]);
    sample(&DEVICE, &mut out, ViewMut::from_f32(&mut logits, 1, VOCABULARY), &[row]);
    out[0].token
}

/// Drafts, and what each follows.
type Tree = (Vec<u32>, Vec<u8>);

fn chain(tokens: Vec<u32>) -> Tree {
    let parents = (0..tokens.len() as u8).collect();
    (tokens, parents)
}

/// The text before each row: `text`, and the drafts that it follows.
fn texts(text: &[u32], (tokens, parents): &Tree) -> Vec<Vec<u32>> {
    let mut texts = vec![text.to_vec()];
    for (&token, &parent) in tokens.iter().zip(parents) {
        let mut own = texts[usize::from(parent)].clone();
        own.push(token);
        texts.push(own);
    }
    texts
}

/// Texts of `len` tokens, made a step at a time with the drafts that `guess` makes of a text.
fn speculate(seed: u64, len: usize, guess: &dyn Fn(u64, &[u32]) -> Tree) -> (Vec<u32>, usize) {
    let (mut text, mut num_right) = (Vec::new(), 0);
    while text.len() < len {
        let tree = guess(seed, &text);
        let texts = texts(&text, &tree);
        let mut logits: Vec<f32> = texts.iter().flat_map(|text| model(text, SHARPNESS)).collect();
        let rows: Vec<SampleRow> = texts.iter().map(|text| row(seed, text)).collect();
        let mut out = vec![Sampled::default(); rows.len()];
        let (mut num_valid, mut valid_rows) = ([0], vec![0; rows.len()]);
        let view = ViewMut::from_f32(&mut logits, rows.len(), VOCABULARY);
        let counts = [tree.0.len() as u32];
        let drafts = Drafts { tokens: &tree.0, counts: &counts, parents: &tree.1 };
        let verified = Verified { num_valid: &mut num_valid, rows: &mut valid_rows };
        verify_drafts(&DEVICE, &mut out, verified, view, &rows, drafts);
        let num_valid = num_valid[0] as usize;
        for (sampled, &row) in out[..num_valid].iter().zip(&valid_rows) {
            assert_eq!(texts[usize::from(row)], text, "the row that the token follows");
            text.push(sampled.token);
        }
        num_right += num_valid - 1;
    }
    text.truncate(len);
    (text, num_right)
}

fn one_by_one(seed: u64, len: usize) -> Vec<u32> {
    let mut text = Vec::new();
    for _ in 0..len {
        let token = draw(&model(&text, SHARPNESS), row(seed, &text));
        text.push(token);
    }
    text
}

/// The drafts of a seed and a text.
type Guess = Box<dyn Fn(u64, &[u32]) -> Tree>;

/// No drafts, constant ones, the likeliest of another model, another model's draws with the same random numbers, and trees:
/// constant ones, and the likeliest two at each place.
fn proposers() -> Vec<(&'static str, Guess)> {
    let by_model = |sharpness: f32, greedy: bool| {
        move |seed: u64, text: &[u32]| {
            let mut guessed = text.to_vec();
            for _ in 0..3 {
                let own = row(seed, &guessed);
                let temperature = if greedy { 0.0 } else { own.temperature };
                let token = draw(&model(&guessed, sharpness), SampleRow { temperature, ..own });
                guessed.push(token);
            }
            chain(guessed.split_off(text.len()))
        }
    };
    vec![
        ("none", Box::new(|_, _| chain(Vec::new()))),
        ("constant", Box::new(|seed, text| chain(vec![seed as u32 % 6, text.len() as u32 % 6, 2]))),
        ("greedy", Box::new(by_model(SHARPNESS, true))),
        ("coupled", Box::new(by_model(1.0, false))),
        ("constant tree", Box::new(|_, _| (vec![1, 3, 4, 0, 2, 5, 3], vec![0, 0, 1, 2, 2, 0, 5]))),
        ("likeliest two", Box::new(|_, text| likeliest_two(text))),
    ]
}

/// Two drafts after the text, and two after each of these.
fn likeliest_two(text: &[u32]) -> Tree {
    let two = |text: &[u32]| {
        let logits = model(text, SHARPNESS);
        let mut tokens: Vec<u32> = (0..VOCABULARY as u32).collect();
        tokens.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        [tokens[0], tokens[1]]
    };
    let mut tokens = two(text).to_vec();
    for first in 0..2 {
        let longer: Vec<u32> = text.iter().chain([&tokens[first]]).copied().collect();
        tokens.extend(two(&longer));
    }
    (tokens, vec![0, 0, 1, 1, 2, 2])
}

#[test]
fn tokens_are_those_of_no_speculation() {
    for (name, guess) in proposers() {
        for seed in 0..200 {
            assert_eq!(speculate(seed, 9, &*guess).0, one_by_one(seed, 9), "{name}, seed {seed}");
        }
    }
}

/// Probabilities of `row` by their formula.
fn probabilities(text: &[u32]) -> Vec<f64> {
    let count = |token: u32| text.iter().filter(|&&other| other == token).count() as f64;
    let logits = model(text, SHARPNESS);
    let penalty = f64::from(row(0, text).frequency_penalty);
    let weight =
        |(token, &logit): (usize, &f32)| (f64::from(logit) - penalty * count(token as u32)).exp();
    let weights: Vec<f64> = logits.iter().enumerate().map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Texts of three tokens with every proposer, against the product of the model's own probabilities.
#[test]
fn texts_follow_the_model_s_distribution() {
    const NUM_TEXTS: u64 = 20_000;
    // The critical value of chi-square at 1e-4 for 6^3 - 1 degrees of freedom (Wilson and Hilferty 1931).
    const CRITICAL: f64 = 300.0;
    for (name, guess) in proposers() {
        let mut counts = vec![0.0; VOCABULARY.pow(3)];
        for seed in 0..NUM_TEXTS {
            let (text, _) = speculate(seed * 7919 + 3, 3, &*guess);
            counts[text.iter().fold(0, |index, &token| index * VOCABULARY + token as usize)] += 1.0;
        }
        let mut chi_square = 0.0;
        for (index, count) in counts.into_iter().enumerate() {
            let text = [index / 36, index / 6 % 6, index % 6].map(|token| token as u32);
            let of = |end: usize| probabilities(&text[..end])[text[end] as usize];
            let expected = of(0) * of(1) * of(2) * NUM_TEXTS as f64;
            chi_square += (count - expected) * (count - expected) / expected;
        }
        assert!(chi_square < CRITICAL, "{name}: chi-square is {chi_square}");
    }
}

/// With the random numbers of the sampler a near model is right more often than by its likeliest tokens.
#[test]
fn coupled_drafts_are_right_more_often() {
    let right = |wanted: &str| {
        let proposers = proposers();
        let (_, guess) = proposers.iter().find(|(name, _)| *name == wanted).expect("it is there");
        (0..500).map(|seed| speculate(seed, 9, &**guess).1).sum::<usize>()
    };
    let (greedy, coupled) = (right("greedy"), right("coupled"));
    assert!(coupled > greedy && greedy > right("constant"), "{coupled} and {greedy}");
    let tree = right("likeliest two");
    assert!(tree > greedy, "two at each place are right less often: {tree} and {greedy}");
}

#[test]
fn a_row_that_is_not_a_number_ends_its_sequence_alone() {
    // Two sequences with two right drafts each; 1 is the likeliest token everywhere.
    let logits = [0.0, 1.0].repeat(6);
    for bad_row in 0..6 {
        let mut logits = logits.clone();
        logits[2 * bad_row] = f32::NAN;
        let (mut out, mut num_valid) = (vec![Sampled::default(); 6], [0; 2]);
        let verified = Verified { num_valid: &mut num_valid, rows: &mut [0; 6] };
        let drafts = Drafts { tokens: &[1; 4], counts: &[2, 2], parents: &[0, 1, 0, 1] };
        let view = ViewMut::from_f32(&mut logits, 6, 2);
        let rows = [SampleRow::default(); 6];
        verify_drafts(&DEVICE, &mut out, verified, view, &rows, drafts);
        let mut expected = [3, 3];
        expected[bad_row / 3] = (bad_row as u32 % 3).max(1);
        assert_eq!(num_valid, expected, "row {bad_row}");
        assert_eq!(out[0].finite, bad_row != 0);
        assert_eq!(out[3].finite, bad_row != 3);
    }
}
