//! EAGLE heads and DFlash drafters with `--device cuda` on the emulator.

use std::path::Path;

use quire_engine::config::{DeviceChoice, KvCacheDtype};
use quire_engine::draft_trial::DraftTrial;
use quire_engine::{EngineOptions, ModelFiles, Request, SamplingParams};
use quire_tests::heads::{Head, committed_head, golden, with_head, with_trees};
use quire_tests::requests::{assert_equal, together};
use quire_tests::{options, start, tiny_model};

fn cuda() -> EngineOptions {
    EngineOptions {
        device: DeviceChoice::Cuda(0),
        max_model_len: Some(128),
        max_num_seqs: Some(4),
        max_num_batched_tokens: Some(64),
        batch_invariant: true,
        ..options()
    }
}

/// How many golden drafts are reproduced before rounding leads to another, of how many.
fn num_golden(head: &Path, key: &str) -> (usize, usize) {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("committed");
    let mut trial = DraftTrial::new(&files, &with_head(head, 7, cuda()), None).expect("it starts");
    let (mut num_equal, mut num_drafts) = (0, 0);
    for (prompt, first, drafts) in golden(key).into_iter().filter(|(prompt, ..)| prompt.len() < 60)
    {
        let (sampled, got) = trial.ask(&prompt, 3).expect("it guesses");
        if sampled == first {
            num_equal += got.iter().zip(&drafts).take_while(|(got, draft)| got == draft).count();
            num_drafts += 3;
        }
    }
    (num_equal, num_drafts)
}

#[test]
fn golden_drafts_are_reproduced() {
    let _emulator = quire_sim::load();
    let check = |head: &Path, key: &str| {
        let (num_equal, num_drafts) = num_golden(head, key);
        assert!(num_drafts >= 6 && num_equal * 10 >= num_drafts * 8, "{key}: {num_equal}");
    };
    check(&committed_head(), "drafts");
    Head::committed().as_eagle1().written("cuda-eagle1", |head| check(head, "eagle1_drafts"));
    Head::committed().as_dflash().written("cuda-dflash", |head| check(head, "dflash_drafts"));
}

/// Some answers of the tokens that the head guesses, some of any.
fn some_requests() -> Vec<Request> {
    let request = |index: u32| {
        let prompt = (0..5 + 7 * index).map(|i| (i * 37 + index * 11) % 500).collect();
        let mut params = SamplingParams::greedy(8 + index);
        params.allowed_token_ids = index.is_multiple_of(2).then(|| (20..23).collect());
        Request::new(prompt, params)
    };
    (0..4).map(request).collect()
}

#[test]
fn answers_are_those_without_a_head() {
    let _emulator = quire_sim::load();
    let model = tiny_model("llama3");
    let third = Head::committed().guessing(&[20, 21, 22]);
    let (first, block) = (Head::committed().as_eagle1(), Head::committed().as_dflash());
    let fp8 = EngineOptions { kv_cache_dtype: KvCacheDtype::FP8, ..cuda() };
    let chunked = EngineOptions { max_num_batched_tokens: Some(9), ..cuda() };
    for (kind, head, options, least) in [
        ("EAGLE-3", &third, cuda(), 6),
        ("EAGLE-3 in chunks", &third, chunked, 6),
        ("EAGLE-3 of eight bits", &third, fp8, 2),
        ("EAGLE-1", &first, cuda(), 0),
        ("DFlash", &block, cuda(), 0),
    ] {
        let requests = some_requests();
        let expected = together(&start(&model, &options, &[3]), &requests);
        head.written(&format!("cuda-{}", kind.replace(' ', "-")), |head| {
            let handle = start(&model, &with_head(head, 3, options.clone()), &[3]);
            assert_equal(kind, &expected, &together(&handle, &requests));
            assert_equal("again", &expected[..1], &together(&handle, &requests[..1]));
            let drafts = handle.stats().drafts;
            let num_right: u64 = drafts.num_right.iter().sum();
            assert!(drafts.num_tokens > num_right + 10, "{kind}: {drafts:?}");
            assert!(num_right >= least, "{kind}: {drafts:?}");
        });
    }
}

#[test]
fn a_head_on_the_first_of_two_gpus_changes_nothing() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    let options = EngineOptions { tensor_parallel_size: 2, ..cuda() };
    let (model, requests) = (tiny_model("llama3"), some_requests());
    let expected = together(&start(&model, &options, &[3]), &requests);
    let third = Head::committed().guessing(&[20, 21, 22]);
    for (kind, head) in [("EAGLE-3", third), ("EAGLE-1", Head::committed().as_eagle1())] {
        head.written(&format!("gpus-{kind}"), |head| {
            let handle = start(&model, &with_head(head, 3, options.clone()), &[3]);
            assert_equal(kind, &expected, &together(&handle, &requests));
            let drafts = handle.stats().drafts;
            assert!(drafts.num_tokens > 10, "{kind}: {drafts:?}");
            assert!(kind == "EAGLE-1" || drafts.num_right[0] > 1, "{kind}: {drafts:?}");
        });
    }
}

#[test]
fn trees_change_no_answer() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    let head = Head::committed().guessing(&[20, 21, 22]);
    let two = EngineOptions { tensor_parallel_size: 2, ..cuda() };
    let fp8 = EngineOptions { kv_cache_dtype: KvCacheDtype::FP8, block_size: Some(5), ..cuda() };
    for (kind, family, options) in [
        ("one", "llama3", cuda()),
        ("windows", "gemma3", cuda()),
        ("fp8", "llama3", fp8),
        ("two", "llama3", two),
    ] {
        let (model, mut requests) = (tiny_model(family), some_requests());
        for request in &mut requests {
            request.params.allowed_token_ids = Some((20..23).collect());
        }
        let expected = together(&start(&model, &options, &[3]), &requests);
        head.written(&format!("cuda-trees-{kind}"), |head| {
            let handle = start(&model, &with_trees(head, (3, 5), options), &[3]);
            assert_equal(kind, &expected, &together(&handle, &requests));
            let drafts = handle.stats().drafts;
            let num_right: u64 = drafts.num_right.iter().sum();
            assert!(drafts.num_tokens > num_right + 10 && num_right > 8, "{kind}: {drafts:?}");
        });
    }
}

/// On the way of the likeliest tokens a tree has the chain that the same head guesses.
#[test]
fn a_tree_goes_the_way_of_the_chain() {
    let _emulator = quire_sim::load();
    let files = ModelFiles::open(&tiny_model("llama3")).expect("committed");
    let trial = |topk| {
        let options = with_trees(&committed_head(), (topk, 7), cuda());
        DraftTrial::new(&files, &options, None).expect("it starts")
    };
    let (mut chains, mut trees, mut num_forks) = (trial(1), trial(3), 0);
    for (prompt, ..) in golden("drafts").into_iter().filter(|(prompt, ..)| prompt.len() < 60) {
        let (_, chain) = chains.ask(&prompt, 7).expect("it guesses");
        let (_, tree) = trees.ask(&prompt, 7).expect("it guesses");
        let way = tree.likeliest_way();
        assert!(way.len() > 1 && way[..] == chain[..way.len()], "{way:?} of {chain:?}");
        num_forks += usize::from(!tree.is_chain());
    }
    assert!(num_forks > 1, "{num_forks}");
}
