//! Names the layer of a tiny model where its numbers leave the golden ones.

use quire_engine::EngineOptions;
use quire_engine::hidden_states::hidden_states;
use quire_engine::weights::ModelFiles;

use crate::safetensors::Safetensors;

/// Largest difference, relative to the largest number of the layer where that is above 1.
const TOLERANCE: f32 = 2e-3;

/// What comes first whose output is not the golden one; `None`: all is. The golden hidden states are those of the last position
/// of `prompt`: after the embedding, after each layer, and of the last after the final norm.
pub fn first_wrong_layer(
    files: &ModelFiles,
    options: &EngineOptions,
    golden: &Safetensors,
    prompt: &str,
) -> Option<String> {
    let ids = golden.ids(&format!("{prompt}.input_ids"));
    let states = hidden_states(files, options, &ids).expect("the model runs");
    let expected = golden.f32(&format!("{prompt}.hidden_last"));
    let rows = expected.chunks(expected.len() / states.len());
    assert_eq!(rows.len(), states.len(), "rows of {prompt}.hidden_last");
    let num_layers = states.len() - 1;
    for (index, (state, row)) in states.iter().zip(rows).enumerate() {
        let largest = row.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
        let mut differences = state.iter().zip(row).map(|(got, want)| (got - want).abs());
        let limit = TOLERANCE * largest;
        let wrong = differences.find(|&difference| difference.is_nan() || difference > limit);
        let Some(difference) = wrong else { continue };
        let name = match index {
            0 => "the embedding".to_owned(),
            _ if index == num_layers => format!("layer {} or the final norm", index - 1),
            _ => format!("layer {}", index - 1),
        };
        return Some(format!("{name} is wrong by {difference} ({prompt})"));
    }
    None
}
