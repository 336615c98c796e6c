//! Shapes that test and time `route_experts`.

use super::{
    ExpertGroups, ExpertRouting, RouteExperts, RouterScores, RouterSpec, reference, route_experts,
};
use crate::cases::{Case, F32_TOLERANCE, Input, Kind, Work, random_f32};
use crate::device::Device;
use crate::tensor::DType;

/// Rows, experts, experts of a row.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (3, 4, 1), (5, 8, 2), (7, 6, 6), (33, 128, 8), (300, 64, 6)];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, num_experts, num_chosen) in SHAPES {
        for scores in [RouterScores::Softmax, RouterScores::Sigmoid] {
            let groups = None;
            let (normalises, scale) = (n % 2 == 1, if n % 3 == 0 { 2.5 } else { 1.0 });
            let spec = RouterSpec { num_experts, num_chosen, scores, groups, normalises, scale };
            cases.push(case(n, spec, n % 4 == 1));
        }
    }
    for (num_experts, num_chosen, num_groups, chosen_groups) in [(8, 2, 4, 2), (256, 8, 8, 4)] {
        let groups = Some(ExpertGroups { num_groups, num_chosen: chosen_groups });
        let (scores, normalises, scale) = (RouterScores::Sigmoid, true, 2.5);
        cases.push(case(
            17,
            RouterSpec { num_experts, num_chosen, scores, groups, normalises, scale },
            true,
        ));
    }
    cases
}

/// The output has the weight of each expert, 0 for those not chosen.
fn case(n: usize, spec: RouterSpec, with_vectors: bool) -> Case {
    let num_experts = spec.num_experts;
    let logits: Vec<f32> = random_f32(41, n * num_experts).iter().map(|x| 4.0 * x).collect();
    let bias = with_vectors.then(|| random_f32(42, num_experts));
    let scales = with_vectors.then(|| random_f32(43, num_experts));
    let input =
        |values: &Vec<f32>, rows| Input::new(Kind::Numbers, values.clone(), rows, num_experts);
    let mut choice_bias = bias.as_ref().map(|bias| input(bias, 1));
    let mut expert_scales = scales.as_ref().map(|scales| input(scales, 1));
    let mut input = input(&logits, n);
    Case {
        op: "route_experts",
        name: format!("{n} rows to {} of {num_experts} {:?}", spec.num_chosen, spec.scores),
        work: Work {
            bytes: 4 * (n * num_experts) as u64,
            operations: 20 * (n * num_experts) as u64,
        },
        tolerance: 3e-6,
        cuda_tolerance: F32_TOLERANCE,
        output_len: n * num_experts,
        run: Box::new(move |device, output| {
            let mut routing = ExpertRouting::new(device, n + 2, num_experts, spec.num_chosen)
                .expect("a small case fits");
            let args = RouteExperts {
                spec: &spec,
                choice_bias: choice_bias.as_mut().map(|bias| bias.on(device)),
                expert_scales: expert_scales.as_mut().map(|scales| scales.on(device)),
            };
            route_experts(device, &mut routing, input.view(device), &args);
            let routing = routing.read();
            check_order(&routing);
            output.fill(0.0);
            for (row, output) in output.chunks_mut(num_experts).enumerate() {
                for (&expert, &weight) in
                    routing.experts_of(row).iter().zip(routing.weights_of(row))
                {
                    output[expert as usize] = weight;
                }
            }
        }),
        reference: Box::new(move || {
            let row = |logits: &[f32]| {
                let mut weights = vec![0.0; num_experts];
                let chosen =
                    reference::route_row(logits, &spec, bias.as_deref(), scales.as_deref());
                chosen.into_iter().for_each(|(expert, weight)| weights[expert] = weight);
                weights
            };
            logits.chunks(num_experts).flat_map(row).collect()
        }),
    }
}

/// Each place is of one row and expert; places of an expert lie together, their rows ascending.
fn check_order(routing: &ExpertRouting) {
    let mut next = 0;
    for expert in 0..routing.num_experts() {
        let places = routing.places_of_expert(expert);
        assert_eq!(places.start, next, "places of expert {expert}");
        next = places.end;
        let rows = &routing.rows()[places.clone()];
        assert!(rows.is_sorted_by(|a, b| a < b), "rows of expert {expert}: {rows:?}");
        for (place, &row) in places.zip(rows) {
            let rank = routing.experts_of(row as usize).iter().position(|&e| e == expert as u32);
            let rank = rank.expect("the row chose this expert");
            assert_eq!(routing.places_of(row as usize)[rank] as usize, place);
        }
    }
    assert_eq!(next, routing.num_places());
}

/// A routing for tests of other ops: row r goes to experts that depend on r, some of them to few experts only.
pub(crate) fn some_routing(
    device: &Device,
    n: usize,
    num_experts: usize,
    num_chosen: usize,
) -> ExpertRouting {
    let (scores, groups, normalises, scale) = (RouterScores::Softmax, None, true, 1.0);
    let spec = RouterSpec { num_experts, num_chosen, scores, groups, normalises, scale };
    let mut logits = random_f32(44, n * num_experts);
    // The last expert gets no row where there are others, the first gets many.
    for row in logits.chunks_mut(num_experts) {
        row[num_experts - 1] -= 10.0;
        row[0] += 0.5;
    }
    let mut routing =
        ExpertRouting::new(device, n, num_experts, num_chosen).expect("a small case fits");
    let args = RouteExperts { spec: &spec, choice_bias: None, expert_scales: None };
    let logits = device.tensor(DType::F32, &logits, n, num_experts).expect("a small case fits");
    route_experts(device, &mut routing, logits.view(), &args);
    routing
}
