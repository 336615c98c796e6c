//! Rows that fail on a GPU: what one request's numbers do to it alone. A GPU that fails: `server/tests/gpu.rs`.

use quire_engine::config::{DeviceChoice, Faults};
use quire_engine::request::FinishReason;
use quire_engine::{EngineOptions, Request, SamplingParams};
use quire_tests::{ask, collect, options, start, tiny_model};

const POISON: u32 = 77;

#[test]
fn logits_that_are_not_numbers_fail_their_own_request() {
    let _emulator = quire_sim::load();
    let options = EngineOptions {
        device: DeviceChoice::Cuda(0),
        max_model_len: Some(64),
        max_num_seqs: Some(4),
        max_num_batched_tokens: Some(32),
        faults: Faults { nan_on_token: Some(POISON), ..Faults::default() },
        ..options()
    };
    let handle = start(&tiny_model("llama3"), &options, &[]);
    let params = || SamplingParams { ignore_eos: true, ..SamplingParams::greedy(5) };
    let alone = ask(&handle, &[1, 7, 20], params());
    let prompts = [vec![1, 7, 20], vec![4, 9, POISON]];
    let submit = |prompt: Vec<u32>| handle.generate(Request::new(prompt, params())).expect("valid");
    let [well, poisoned] = prompts.map(submit).map(collect);
    assert_eq!(well.ids(), alone.ids());
    assert!(matches!(poisoned.finished.reason, FinishReason::Error(_)), "{:?}", poisoned.finished);
    assert_eq!(ask(&handle, &[1, 7, 20], params()).ids(), alone.ids(), "afterwards");
}
