//! What sampling promises: kept sets, the distribution of draws, failures that stay in their row, equal bits.

use super::{SampleRow, Sampled, cpu, logprobs, reference, sample};
use crate::cases::random_f32;
use crate::cpu::SimdLevel;
use crate::device::Device;
use crate::tensor::{Tensor, View, ViewMut};

fn sample_one(logits: &[f32], row: SampleRow) -> Sampled {
    let mut out = vec![Sampled::default()];
    let mut logits = logits.to_vec();
    let vocabulary = logits.len();
    let view = ViewMut::from_f32(&mut logits, 1, vocabulary);
    sample(&Device::cpu(1), &mut out, view, &[row]);
    out.remove(0)
}

fn sample_rows(device: &Device, logits: &[f32], rows: &[SampleRow]) -> Vec<Sampled> {
    let mut out = vec![Sampled::default(); rows.len()];
    let mut logits = logits.to_vec();
    let vocabulary = logits.len() / rows.len();
    sample(device, &mut out, ViewMut::from_f32(&mut logits, rows.len(), vocabulary), rows);
    out
}

/// Rows that differ in every setting.
fn varied_rows(num_rows: usize) -> Vec<SampleRow<'static>> {
    let row = |index: usize| SampleRow {
        temperature: [0.0, 0.7, 1.0, 1.5][index % 4],
        top_k: [0, 5, 1000][index % 3],
        top_p: [1.0, 0.9][index / 2 % 2],
        min_p: [0.0, 0.02][index / 4 % 2],
        frequency_penalty: [0.0, 0.5][index / 3 % 2],
        output_tokens: &[1, 1, 2],
        banned: if index.is_multiple_of(5) { &[3, 4] } else { &[] },
        seed: index as u64,
        position: index as u32 * 3,
        num_logprobs: [None, Some(0), Some(4)][index / 2 % 3],
        ..SampleRow::default()
    };
    (0..num_rows).map(row).collect()
}

#[test]
fn kept_sets_are_the_reference_s() {
    for vocabulary in [1, 2, 63, 64, 65, 700, 5000] {
        let steep = random_f32(1, vocabulary).iter().map(|x| x * 15.0).collect::<Vec<_>>();
        let ties = steep.iter().map(|x| (x / 2.0).round()).collect::<Vec<_>>();
        let mut masked = ties.clone();
        masked.iter_mut().skip(1).step_by(3).for_each(|logit| *logit = f32::NEG_INFINITY);
        for logits in [steep, ties, masked, vec![0.0; vocabulary]] {
            for_each_filter(vocabulary as u32, |row| {
                let mut expected = reference::kept(&logits, &row);
                expected.sort_unstable();
                for simd in SimdLevel::available() {
                    let kept = cpu::kept_tokens(simd, &logits, &row);
                    assert_eq!(kept, expected, "{simd:?} {vocabulary} {row:?}");
                }
            });
        }
    }
}

fn for_each_filter(vocabulary: u32, mut check: impl FnMut(SampleRow)) {
    for temperature in [0.3, 1.0, 2.0] {
        for top_k in [0, 1, 2, 50, vocabulary.saturating_sub(1), vocabulary, u32::MAX] {
            for top_p in [1e-6, 0.5, 0.9, 0.999, 1.0] {
                for min_p in [0.0, 0.03, 1.0] {
                    check(SampleRow { temperature, top_k, top_p, min_p, ..SampleRow::default() });
                }
            }
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [1.0, 0.0, 2.0, f32::NEG_INFINITY, -1.0, 1.5, 0.5, -4.0];
    let plain = SampleRow { temperature: 1.3, ..SampleRow::default() };
    // The critical values of chi-square at 1e-4, by degrees of freedom.
    let critical = [f32::NAN, 15.1, 18.4, 21.1, 23.5, 25.7, 27.9];
    let rows = [plain, SampleRow { top_k: 4, ..plain }, SampleRow { top_p: 0.7, ..plain }];
    for row in rows {
        let kept = reference::kept(&logits, &row);
        let weight = |&token: &u32| (logits[token as usize] / row.temperature).exp();
        let total: f32 = kept.iter().map(weight).sum();
        for by_seed in [false, true] {
            let draw = |n: u32| SampleRow {
                seed: if by_seed { u64::from(n) } else { 1234 },
                position: if by_seed { 17 } else { n },
                ..row
            };
            let rows: Vec<SampleRow> = (0..20_000).map(draw).collect();
            let out = sample_rows(&Device::cpu(1), &logits.repeat(rows.len()), &rows);
            let count = |token: u32| out.iter().filter(|row| row.token == token).count() as f32;
            let chi_square = kept.iter().map(|token| {
                let expected = weight(token) / total * rows.len() as f32;
                (count(*token) - expected).powi(2) / expected
            });
            let chi_square: f32 = chi_square.sum();
            assert!(chi_square < critical[kept.len() - 1], "{chi_square} {row:?} {by_seed}");
            assert_eq!(kept.iter().map(|&token| count(token)).sum::<f32>(), rows.len() as f32);
        }
    }
}

#[test]
fn draws_are_the_reference_s() {
    let logits: Vec<f32> = random_f32(3, 3000).iter().map(|x| x * 6.0).collect();
    for position in 0..40 {
        for (top_k, top_p, min_p) in
            [(0, 1.0, 0.0), (0, 1.0, 0.1), (30, 1.0, 0.0), (0, 0.9, 0.0), (200, 0.99, 0.01)]
        {
            let seed = u64::MAX - 5;
            let num_logprobs = (position % 2 == 0).then_some(3);
            let row =
                SampleRow { temperature: 0.8, top_k, top_p, min_p, seed, ..Default::default() };
            let row = SampleRow { position, num_logprobs, ..row };
            let (out, expected) = (sample_one(&logits, row), reference::sample_row(&logits, &row));
            assert_eq!((out.token, out.rank), (expected.token, expected.rank), "{row:?}");
        }
    }
}

#[test]
fn the_way_to_a_kept_set_does_not_change_the_draw() {
    let mut logits: Vec<f32> = random_f32(4, 1000).iter().map(|x| x * 5.0).collect();
    logits[500] = f32::NEG_INFINITY;
    for position in 0..200 {
        let row = SampleRow { temperature: 1.0, position, ..SampleRow::default() };
        let by_chunks = sample_one(&logits, row);
        let by_candidates = sample_one(&logits, SampleRow { top_k: 999, ..row });
        assert_eq!(by_chunks, by_candidates);
        let likeliest = sample_one(&logits, SampleRow { top_k: 1, ..row });
        assert_eq!(likeliest.token, sample_one(&logits, SampleRow::default()).token);
    }
}

#[test]
fn greedy_takes_the_lowest_id_of_the_largest_processed_logits() {
    let mut logits = vec![0.0; 300];
    for token in [70, 150, 299] {
        logits[token] = 2.0;
    }
    let greedy = |row| sample_one(&logits, row).token;
    assert_eq!(greedy(SampleRow::default()), 70);
    assert_eq!(greedy(SampleRow { temperature: 9e-6, ..SampleRow::default() }), 70);
    assert_eq!(greedy(SampleRow { banned: &[70], ..SampleRow::default() }), 150);
    assert_eq!(greedy(SampleRow { logit_bias: &[(299, 0.5)], ..SampleRow::default() }), 299);
    let ranked = sample_one(&logits, SampleRow { num_logprobs: Some(5), ..SampleRow::default() });
    let top: Vec<u32> = ranked.top.iter().map(|&(token, _)| token).collect();
    assert_eq!((ranked.rank, top), (1, vec![70, 150, 299, 0, 1]));
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let logits: Vec<f32> = random_f32(9, 200).iter().map(|x| x * 4.0).collect();
    let raw = sample_one(&logits, SampleRow { num_logprobs: Some(200), ..SampleRow::default() });
    let sum: f32 = raw.top.iter().map(|&(_, logprob)| logprob.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    let second = raw.top[1];
    let banned = [raw.token];
    let row = SampleRow { banned: &banned, num_logprobs: Some(200), ..SampleRow::default() };
    let changed = sample_one(&logits, row);
    assert_eq!((changed.token, changed.logprob, changed.rank), (second.0, second.1, 2));
    assert_eq!(changed.top, raw.top);
}

#[test]
fn an_unusable_row_fails_alone() {
    let (num_rows, vocabulary) = (8, 130);
    let good: Vec<f32> = random_f32(2, num_rows * vocabulary);
    let mut bad = good.clone();
    bad[3 * vocabulary + 129] = f32::NAN;
    bad[4 * vocabulary] = f32::INFINITY;
    bad[5 * vocabulary..6 * vocabulary].fill(f32::NEG_INFINITY);
    let mut rows = varied_rows(num_rows);
    rows[6].allowed = Some(&[]);
    rows[7].logit_bias = &[(0, f32::MAX), (0, f32::MAX)];
    let device = Device::cpu(3);
    let (healthy, out) = (sample_rows(&device, &good, &rows), sample_rows(&device, &bad, &rows));
    assert_eq!(out[..3], healthy[..3]);
    assert!(healthy[..6].iter().all(|row| row.finite));
    assert!(out[3..].iter().all(|row| *row == Sampled::default()));
    let mut prompt =
        vec![Sampled { token: 9, top: vec![(1, 1.0)], ..Sampled::default() }; num_rows];
    let view = View::from_f32(&bad, num_rows, vocabulary);
    logprobs(&device, &mut prompt, view, &[1; 8], &[2; 8]);
    let finite: Vec<bool> = prompt.iter().map(|row| row.finite).collect();
    assert_eq!(finite, [true, true, true, false, false, false, true, true]);
    assert_eq!(prompt[4], Sampled::default());
}

/// A mask alone takes one pass over the row, with other changes three: the same tokens.
#[test]
fn a_mask_alone_is_a_mask_beside_others() {
    for vocabulary in [1, 31, 64, 65, 130, 1500] {
        let logits: Vec<f32> = random_f32(9, vocabulary).iter().map(|x| x * 7.0).collect();
        let bits = |seed, len| random_f32(seed, len).iter().map(|x| x.to_bits()).collect();
        let masks: [Vec<u32>; 5] =
            [bits(10, 60), bits(11, 1), vec![1], vec![0; 60], vec![u32::MAX; 60]];
        let mut broken = logits.clone();
        broken[vocabulary - 1] = f32::NAN;
        let levels = SimdLevel::available();
        let all = levels.iter().flat_map(|&simd| [(simd, &logits), (simd, &broken)]);
        let all: Vec<(SimdLevel, &Vec<f32>)> = all.collect();
        for (mask, temperature) in masks.iter().flat_map(|mask| [(mask, 0.0), (mask, 0.9)]) {
            let row = SampleRow { temperature, allowed: Some(mask), ..SampleRow::default() };
            for &(simd, logits) in &all {
                let beside = SampleRow { banned: &[u32::MAX], ..row };
                let device = Device::cpu_with(1, simd);
                let out =
                    sample_rows(&device, &[&logits[..], &logits[..]].concat(), &[row, beside]);
                assert_eq!(out[0], out[1], "{simd:?} {vocabulary} {mask:?}");
                let expected = reference::sample_row(logits, &row);
                assert!(temperature > 0.0 || out[0] == expected, "{simd:?} {vocabulary} {mask:?}");
            }
        }
    }
}

#[test]
fn ids_beyond_the_vocabulary_never_leave_the_row() {
    let (vocabulary, width) = (40, 64);
    let mut tensor = Tensor::from_f32(&[1.0; 3 * 64], 3, width);
    let row = SampleRow {
        repetition_penalty: 3.0,
        frequency_penalty: 1.0,
        prompt_tokens: &[40, 63, u32::MAX],
        output_tokens: &[41, 64, u32::MAX],
        logit_bias: &[(40, 5.0), (64, 5.0), (u32::MAX, 5.0)],
        allowed: Some(&[u32::MAX; 9]),
        banned: &[40, 63, 64, u32::MAX],
        ..SampleRow::default()
    };
    let mut out = vec![Sampled::default(); 3];
    let view = tensor.view_mut().columns(0..vocabulary);
    sample(&Device::cpu(1), &mut out, view, &[row; 3]);
    assert!(out.iter().all(|row| row.finite && row.token == 0));
    assert!(tensor.f32().iter().all(|&logit| logit == 1.0));
    let view = tensor.view().columns(0..vocabulary);
    logprobs(&Device::cpu(1), &mut out, view, &[40, 39, u32::MAX], &[0; 3]);
    let got: Vec<_> = out.iter().map(|row| (row.logprob, row.rank)).collect();
    let behind = (f32::NEG_INFINITY, 41);
    assert_eq!(got, [behind, (-(40.0_f32.ln()), 40), behind]);
}

#[test]
fn a_row_s_bits_depend_on_nothing_else() {
    let (num_rows, vocabulary) = (32, 1500);
    let logits: Vec<f32> =
        random_f32(8, num_rows * vocabulary).iter().map(|logit| logit * 7.0).collect();
    let rows = varied_rows(num_rows);
    let alone: Vec<Sampled> = logits
        .chunks(vocabulary)
        .zip(&rows)
        .map(|(logits, row)| sample_one(logits, *row))
        .collect();
    for simd in SimdLevel::available() {
        for num_threads in [1, 3] {
            let device = Device::cpu_with(num_threads, simd);
            assert_eq!(sample_rows(&device, &logits, &rows), alone, "{simd:?} {num_threads}");
        }
    }
}

#[test]
fn any_setting_gives_an_allowed_token() {
    let extreme = [f32::NAN, f32::NEG_INFINITY, -1.0, 0.0, f32::MIN_POSITIVE, 2.0, f32::INFINITY];
    let mut logits: Vec<f32> = random_f32(6, 100).iter().map(|x| x * f32::MAX).collect();
    logits[..50].fill(f32::NEG_INFINITY);
    for value in extreme {
        for row in [
            SampleRow { temperature: value, ..SampleRow::default() },
            SampleRow { temperature: 1.0, top_p: value, ..SampleRow::default() },
            SampleRow { temperature: 1.0, min_p: value, ..SampleRow::default() },
            SampleRow { temperature: value, top_p: 0.5, min_p: 1.0, ..SampleRow::default() },
            SampleRow { temperature: value, top_p: value, top_k: 3, ..SampleRow::default() },
        ] {
            let out = sample_one(&logits, row);
            assert!(out.finite && out.token >= 50, "{row:?} {out:?}");
        }
    }
}

#[test]
fn the_exponential_is_exact_to_two_units() {
    for step in 0..40_000 {
        let x = step as f32 * -8e-4;
        let (got, want) = (f64::from(cpu::exp(x)), f64::from(x).exp());
        assert!((got / want - 1.0).abs() < 2.0_f64.powi(-22), "{x}: {got} {want}");
    }
    assert_eq!(cpu::exp(0.0), 1.0);
}

#[test]
fn a_trace_logs_shapes() {
    let (device, log) = Device::trace();
    let mut tensor = Tensor::shape_only(crate::tensor::DType::F32, 3, 49152);
    let mut out = vec![Sampled::default(); 3];
    sample(&device, &mut out, tensor.view_mut(), &[SampleRow::default(); 3]);
    logprobs(&device, &mut out, tensor.view(), &[0; 3], &[0; 3]);
    assert_eq!(log.lines(), ["sample 3x49152", "logprobs 3x49152"]);
}
