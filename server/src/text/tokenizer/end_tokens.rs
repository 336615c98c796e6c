//! Which tokens end a generation.

use super::config::SpecialIds;
use super::vocabulary::Vocabulary;

/// Texts that end a turn or a document in the model families that use them.
pub(super) const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<|eot|>",
    "<|eom|>",
    "<|user|>",
    "<|observation|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
];

/// Ends only in the families where the model itself never writes them inside an answer.
const GLM_ENDS: [&str; 2] = ["<|user|>", "<|observation|>"];

/// Harmony closes each channel with `<|end|>` and goes on; only these end its turn.
const HARMONY_ENDS: [[&str; 2]; 2] = [["<|return|>", "<|call|>"], ["<|calls|>", "<|flush|>"]];

/// The sorted ids that end a generation: those known by text or role, and `more`.
pub(super) fn find(vocabulary: &Vocabulary, ids: &SpecialIds, more: &[u32]) -> Vec<u32> {
    let control =
        |text: &str| vocabulary.id_of(text).filter(|&id| vocabulary.kind(id).is_special());
    let is_glm = control("[gMASK]").is_some();
    let is_harmony =
        HARMONY_ENDS.iter().any(|pair| pair.iter().all(|text| control(text).is_some()));
    let by_text = END_TEXTS
        .iter()
        .filter(|text| is_glm || !GLM_ENDS.contains(text))
        .filter(|text| !is_harmony || **text != "<|end|>")
        .filter_map(|text| control(text));
    let mut ends: Vec<u32> =
        by_text.chain([ids.eos, ids.eot, ids.eom].into_iter().flatten()).collect();
    ends.extend(more);
    ends.sort_unstable();
    ends.dedup();
    ends
}
