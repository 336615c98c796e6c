//! The plain loop: the oracle of `route_experts`.

use super::{RouterScores, RouterSpec};

/// The experts of one row and their weights, the best first, in f64. `bias` and `scales` have a number an expert.
pub fn route_row(
    logits: &[f32],
    spec: &RouterSpec,
    bias: Option<&[f32]>,
    scales: Option<&[f32]>,
) -> Vec<(usize, f32)> {
    let exponential = |logit: &f32| f64::from(*logit).exp();
    let total: f64 = logits.iter().map(exponential).sum();
    let scores: Vec<f64> = match spec.scores {
        RouterScores::Softmax => logits.iter().map(|logit| exponential(logit) / total).collect(),
        RouterScores::Sigmoid => {
            logits.iter().map(|&logit| 1.0 / (1.0 + (-f64::from(logit)).exp())).collect()
        }
    };
    let mut choice: Vec<f64> = match bias {
        Some(bias) => scores.iter().zip(bias).map(|(s, &b)| s + f64::from(b)).collect(),
        None => logits.iter().map(|&logit| f64::from(logit)).collect(),
    };
    if let Some(groups) = spec.groups {
        let size = spec.num_experts / groups.num_groups;
        let worth = |group: usize| {
            let mut members = choice[group * size..][..size].to_vec();
            members.sort_by(|a, b| b.total_cmp(a));
            members[0] + members[1]
        };
        let mut order: Vec<usize> = (0..groups.num_groups).collect();
        order.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)));
        for &group in &order[groups.num_chosen..] {
            choice[group * size..][..size].fill(f64::NEG_INFINITY);
        }
    }
    let mut experts: Vec<usize> = (0..spec.num_experts).collect();
    experts.sort_by(|&a, &b| choice[b].total_cmp(&choice[a]));
    experts.truncate(spec.num_chosen);
    let sum: f64 = experts.iter().map(|&expert| scores[expert]).sum();
    let weight = |&expert: &usize| {
        let share = if spec.normalises { scores[expert] / sum } else { scores[expert] };
        let scale = scales.map_or(1.0, |scales| f64::from(scales[expert]));
        (expert, (share * f64::from(spec.scale) * scale) as f32)
    };
    experts.iter().map(weight).collect()
}
