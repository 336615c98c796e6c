//! The plain loop: the oracle of `combine_experts`.

/// One row, in f64: `experts` has the weight and the output of each expert, `shared` the gate's logit and the output.
pub fn combine_row(experts: &[(f32, &[f32])], shared: Option<(Option<f32>, &[f32])>) -> Vec<f32> {
    let cols = experts[0].1.len();
    let sum = |col: usize| {
        let base = shared.map_or(0.0, |(gate, out)| {
            let gate = gate.map_or(1.0, |gate| 1.0 / (1.0 + (-f64::from(gate)).exp()));
            gate * f64::from(out[col])
        });
        let add = |sum: f64, &(weight, out): &(f32, &[f32])| {
            sum + f64::from(weight) * f64::from(out[col])
        };
        experts.iter().fold(base, add) as f32
    };
    (0..cols).map(sum).collect()
}
