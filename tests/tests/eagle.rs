//! EAGLE heads and DFlash drafters: the golden drafts, and that guessing changes no bit of an answer.

use std::path::Path;

use quire_engine::config::{Speculative, Weights};
use quire_engine::draft_trial::{DraftTree, DraftTrial};
use quire_engine::{EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request};
use quire_tests::heads::{Head, committed_head, golden, with_head, with_trees};
use quire_tests::requests::{assert_equal, one_by_one, requests, together};
use quire_tests::safetensors::Safetensors;
use quire_tests::{options, repository, speculative, start, tiny_model};
use serde_json::Value;

fn uncached() -> EngineOptions {
    EngineOptions { enable_prefix_caching: false, ..options() }
}

/// Each golden prompt twice, so that the second time its blocks come from the cache.
fn check_golden(head: &Path, key: &str, options: EngineOptions) {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("committed");
    let options = EngineOptions { weights: Weights::Float32, ..options };
    let mut trial = DraftTrial::new(&files, &with_head(head, 7, options), None).expect("it starts");
    for (prompt, first, drafts) in golden(key) {
        for time in ["new", "cached"] {
            let (sampled, got) = trial.ask(&prompt, drafts.len()).expect("it guesses");
            assert!(got.is_chain());
            assert_eq!(
                (sampled, &*got),
                (first, &*drafts),
                "{key}, {} tokens, {time}",
                prompt.len()
            );
        }
        assert_eq!(*trial.ask(&prompt, 2).expect("it guesses").1, drafts[..2]);
    }
}

#[test]
fn golden_drafts_are_reproduced() {
    let chunked =
        EngineOptions { max_num_batched_tokens: Some(7), block_size: Some(5), ..options() };
    check_golden(&committed_head(), "drafts", options());
    check_golden(&committed_head(), "drafts", chunked.clone());
    let ranks = EngineOptions { tensor_parallel_size: 2, threads: Some(2), ..options() };
    check_golden(&committed_head(), "drafts", ranks.clone());
    Head::committed().as_eagle1().written("eagle1", |head| {
        check_golden(head, "eagle1_drafts", options());
        check_golden(head, "eagle1_drafts", chunked.clone());
        check_golden(head, "eagle1_drafts", ranks.clone());
    });
    Head::committed().as_dflash().written("dflash", |head| {
        check_golden(head, "dflash_drafts", options());
        check_golden(head, "dflash_drafts", chunked);
        check_golden(head, "dflash_drafts", ranks);
    });
}

/// The number of the likeliest draft after each, from the known tokens on: the first one that follows it.
fn likeliest_way(tree: &DraftTree) -> Vec<usize> {
    let child = |&number: &usize| {
        let follows = |&parent: &u8| usize::from(parent) == number;
        tree.parents().iter().position(follows).map(|index| index + 1)
    };
    std::iter::successors(child(&0), child).collect()
}

/// On its likeliest way a tree has the golden chain, though its nodes lie between others.
#[test]
fn a_tree_goes_the_golden_way() {
    for (key, head) in
        [("drafts", Head::committed()), ("eagle1_drafts", Head::committed().as_eagle1())]
    {
        head.written(&format!("tree-{key}"), |head| {
            let files = ModelFiles::open(&tiny_model("llama3")).expect("committed");
            let small = EngineOptions {
                weights: Weights::Float32,
                block_size: Some(5),
                max_num_batched_tokens: Some(7),
                ..options()
            };
            let (mut num_apart, mut num_forks) = (0, 0);
            for topk in [2, 3, 7] {
                let options = with_trees(head, (topk, 7), small.clone());
                let mut trial = DraftTrial::new(&files, &options, None).expect("it starts");
                for (prompt, _, drafts) in golden(key) {
                    for most in [1, 3, 7] {
                        let (_, tree) = trial.ask(&prompt, most).expect("it guesses");
                        let way = likeliest_way(&tree);
                        let tokens: Vec<u32> = way.iter().map(|number| tree[number - 1]).collect();
                        let what = format!("{key}, {topk} of {} tokens: {tree:?}", prompt.len());
                        assert_eq!(tree.len(), most, "{what}");
                        assert_eq!(tokens, drafts[..way.len()], "{what}");
                        num_apart += way.iter().enumerate().filter(|(i, n)| i + 1 != **n).count();
                        num_forks += usize::from(!tree.is_chain());
                    }
                }
            }
            assert!(num_apart > 6 && num_forks > 8, "{num_apart} apart, {num_forks} forks");
        });
    }
}

/// What a head guesses in the middle of an answer is what it guesses after a prompt of the same tokens: wherever right drafts
/// came from, it has followed them.
#[test]
fn guesses_do_not_depend_on_how_the_text_was_made() {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("committed");
    let options = EngineOptions { block_size: Some(5), ..uncached() };
    for (kind, head) in [("EAGLE-3", Head::committed()), ("EAGLE-1", Head::committed().as_eagle1())]
    {
        // An EAGLE-1 head has all tokens of the model.
        let head = if kind == "EAGLE-3" { head.guessing(&[20, 21, 22]) } else { head };
        head.written(&format!("go-on-{kind}"), |head| {
            for (topk, most) in [(1, 4), (3, 7), (8, 7)] {
                let options = with_trees(head, (topk, 7), options.clone());
                let trial = || {
                    let allowed = Some(vec![20, 21, 22]);
                    DraftTrial::new(&files, &options, allowed).expect("it starts")
                };
                let (mut going_on, mut fresh) = (trial(), trial());
                let mut num_right = 0;
                for (prompt, _, _) in golden("drafts") {
                    let steps = going_on.go_on(&prompt, &|_| most, 9).expect("it guesses");
                    num_right += steps[8].0.len() - steps[0].0.len() - 8;
                    for (text, drafts) in steps {
                        let (&last, before) = text.split_last().expect("it is not empty");
                        let (sampled, expected) = fresh.ask(before, most).expect("it guesses");
                        assert_eq!(sampled, last);
                        assert_eq!(*drafts, *expected, "{kind}, {topk} after {text:?}");
                        assert_eq!(drafts.parents(), expected.parents());
                    }
                }
                assert!(
                    kind == "EAGLE-1" || num_right > 5,
                    "{kind}, {topk}: {num_right} are right"
                );
            }
        });
    }
}

/// A head that nobody asks computes nothing, or a block at a time; what it guesses then is what it would have guessed.
#[test]
fn a_head_catches_up_when_it_is_asked() {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("committed");
    let options = EngineOptions { block_size: Some(5), ..uncached() };
    let heads = [Head::committed(), Head::committed().as_eagle1(), Head::committed().as_dflash()];
    for (index, head) in heads.iter().enumerate() {
        head.written(&format!("late-{index}"), |head| {
            let options = with_head(head, 7, options.clone());
            let trial = || DraftTrial::new(&files, &options, None).expect("it starts");
            let (mut seldom, mut fresh) = (trial(), trial());
            for (prompt, _, _) in golden("drafts") {
                let most = |step: usize| if [3, 4, 12].contains(&step) { 4 } else { 0 };
                let steps = seldom.go_on(&prompt, &most, 13).expect("it guesses");
                for (step, (text, drafts)) in steps.into_iter().enumerate() {
                    let (_, before) = text.split_last().expect("it is not empty");
                    let (_, expected) = fresh.ask(before, most(step)).expect("it guesses");
                    assert_eq!(*drafts, *expected, "head {index}, step {step}");
                    assert_eq!(drafts.len(), most(step), "head {index}, step {step}");
                }
            }
        });
    }
}

/// The published layout with heads of other sizes, and a block of 8, where its file is there; `golden_drafts_are_reproduced` has
/// a committed drafter.
#[test]
fn golden_drafts_of_a_drafter_are_reproduced() {
    let drafter = repository("../shared/data/conformance/speculative/dflash_qwen3");
    let Ok(text) = std::fs::read_to_string(drafter.join("golden.json")) else {
        println!("not run: dflash_qwen3, which is not beside the repository");
        return;
    };
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let prompts = Safetensors::open(&repository("tests/data/conformance/qwen3.safetensors"));
    let files = ModelFiles::open(&tiny_model("qwen3")).expect("committed");
    let options = EngineOptions { weights: Weights::Float32, ..options() };
    let mut trial =
        DraftTrial::new(&files, &with_head(&drafter, 7, options), None).expect("it starts");
    for (index, entry) in golden["prompts"].as_array().expect("prompts").iter().enumerate() {
        let prompt = prompts.ids(&format!("p{index}.input_ids"));
        let (_, drafts) = trial.ask(&prompt, 7).expect("it guesses");
        assert_eq!(serde_json::json!(*drafts), entry["drafts"], "{} tokens", prompt.len());
    }
}

/// A fifth of them allows no other tokens than the head of the tests guesses.
fn guessable(max_prompt: u32, max_tokens: u32) -> Vec<Request> {
    let mut requests = requests(512, max_prompt);
    for (index, request) in requests.iter_mut().enumerate() {
        request.params.max_tokens = Some(max_tokens + index as u32 % 7);
        if index % 2 == 0 {
            request.params.allowed_token_ids = Some((20..23).collect());
        }
    }
    requests
}

#[test]
fn answers_are_those_without_a_head() {
    let third = Head::committed().guessing(&[20, 21, 22]);
    let (first, block) = (Head::committed().as_eagle1(), Head::committed().as_dflash());
    for (family, kind) in [
        ("llama3", "EAGLE-3"),
        ("llama3", "EAGLE-1"),
        ("llama3", "DFlash"),
        ("gemma3", "EAGLE-3"),
        ("qwen35_vl", "EAGLE-3"),
    ] {
        let is_third = kind == "EAGLE-3";
        let head = match kind {
            "EAGLE-3" => &third,
            "EAGLE-1" => &first,
            _ => &block,
        };
        let (model, requests) = (tiny_model(family), guessable(50, 24));
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
        head.written(&format!("{family}-{kind}"), |head| {
            let handle = start(&model, &with_head(head, 5, uncached()), &[3]);
            assert_equal("alone", &expected[..8], &one_by_one(&handle, &requests[..8]));
            assert_equal("together", &expected, &together(&handle, &requests));
            let drafts = handle.stats().drafts;
            let num_right: u64 = drafts.num_right.iter().sum();
            assert!(drafts.num_tokens > num_right + 100, "{family}: {drafts:?}");
            assert!(!is_third || num_right > 40, "{family}: {drafts:?}");

            let chunked = EngineOptions { max_num_batched_tokens: Some(9), ..uncached() };
            let handle = start(&model, &with_head(head, 7, chunked), &[3]);
            assert_equal("in chunks", &expected, &together(&handle, &requests));

            let cached = EngineOptions { block_size: Some(8), threads: Some(3), ..options() };
            let mut adaptive = with_head(head, 7, cached);
            adaptive.speculative.iter_mut().for_each(|own| own.is_adaptive = true);
            let handle = start(&model, &adaptive, &[3]);
            assert_equal("first time", &expected, &together(&handle, &requests));
            assert_equal("cached", &expected, &together(&handle, &requests));
        });
    }
}

#[test]
fn preempted_sequences_are_guessed_for_again() {
    let mut requests = guessable(12, 60);
    requests.iter_mut().for_each(|request| request.prompt.truncate(45));
    let model = tiny_model("llama3");
    let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
    Head::committed().guessing(&[20, 21, 22]).written("preempted", |head| {
        for topk in [1, 3] {
            let small = EngineOptions { kv_cache_memory: Some(400 * 512), ..options() };
            let handle = start(&model, &with_trees(head, (topk, 4), small), &[3]);
            assert_equal("preempted", &expected, &together(&handle, &requests));
            let stats = handle.stats();
            assert!(stats.num_preemptions > 0, "the pool is too large");
            assert!(stats.drafts.num_right.iter().sum::<u64>() > 40, "{:?}", stats.drafts);
        }
    });
}

#[test]
fn trees_change_no_answer_and_are_right_more_often() {
    let head = Head::committed().guessing(&[20, 21, 22]);
    for family in ["llama3", "gemma3", "llama4_scout", "gpt_oss_mxfp4"] {
        let (model, requests) = (tiny_model(family), guessable(50, 24));
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
        head.written(&format!("{family}-trees"), |head| {
            let num_right = |handle: &EngineHandle| -> u64 {
                let drafts = handle.stats().drafts;
                assert!(drafts.num_tokens > drafts.num_right.iter().sum::<u64>() + 100);
                drafts.num_right.iter().sum()
            };
            let handle = start(&model, &with_head(head, 6, uncached()), &[3]);
            assert_equal("in chains", &expected, &together(&handle, &requests));
            let of_chains = num_right(&handle);
            for (topk, num_tokens) in [(2, 6), (3, 6), (8, 7)] {
                let handle = start(&model, &with_trees(head, (topk, num_tokens), uncached()), &[3]);
                assert_equal("together", &expected, &together(&handle, &requests));
                assert!(num_right(&handle) > of_chains, "{family}: {topk} of {num_tokens}");
                assert_equal("alone", &expected[..8], &one_by_one(&handle, &requests[..8]));
            }
            let chunked = EngineOptions { max_num_batched_tokens: Some(9), ..uncached() };
            let handle = start(&model, &with_trees(head, (3, 7), chunked), &[3]);
            assert_equal("in chunks", &expected, &together(&handle, &requests));

            let cached = EngineOptions { block_size: Some(8), threads: Some(3), ..options() };
            let mut adaptive = with_trees(head, (3, 7), cached);
            adaptive.speculative.iter_mut().for_each(|own| own.is_adaptive = true);
            let handle = start(&model, &adaptive, &[3]);
            assert_equal("first time", &expected, &together(&handle, &requests));
            assert_equal("cached", &expected, &together(&handle, &requests));
        });
    }
}

/// Each rank keeps the keys of its own heads, and moves those of right drafts.
#[test]
fn trees_on_ranks_change_no_answer() {
    let head = Head::committed().guessing(&[20, 21, 22]);
    for family in ["llama3", "gemma3"] {
        let (model, mut requests) = (tiny_model(family), guessable(50, 24));
        requests.truncate(12);
        let ranks = EngineOptions {
            tensor_parallel_size: 2,
            threads: Some(2),
            block_size: Some(5),
            ..uncached()
        };
        let expected = one_by_one(&start(&model, &ranks, &[3]), &requests);
        head.written(&format!("{family}-ranks"), |head| {
            for (topk, num_tokens) in [(3, 7), (8, 6)] {
                let handle =
                    start(&model, &with_trees(head, (topk, num_tokens), ranks.clone()), &[3]);
                assert_equal("together", &expected, &together(&handle, &requests));
                assert_equal("alone", &expected[..8], &one_by_one(&handle, &requests[..8]));
                let drafts = handle.stats().drafts;
                assert!(drafts.num_right.iter().sum::<u64>() > 20, "{family}: {drafts:?}");
            }
            let cached = EngineOptions { enable_prefix_caching: true, ..ranks.clone() };
            let handle = start(&model, &with_trees(head, (3, 7), cached), &[3]);
            for time in ["first time", "cached"] {
                assert_equal(time, &expected, &together(&handle, &requests));
            }
        });
    }
}

fn error(model: &str, options: &EngineOptions) -> String {
    let files = ModelFiles::open(&tiny_model(model)).expect("committed");
    let error = MemoryPlan::new(&files, options, &Machine::detect()).err();
    format!("{:#}", error.expect("it cannot be done"))
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn a_head_that_does_not_fit_is_a_sentence_at_start() {
    let of = |path: &Path| with_head(path, 5, options());
    let no_head = error("llama3", &of(&repository("tests/data/conformance/hf/llama3")));
    assert_says(&no_head, &["--speculative eagle:", "hf/llama3", "EAGLE head"]);
    let gguf = error("llama3", &of(&tiny_model("qwen3")));
    assert_says(&gguf, &["qwen3.gguf", "EAGLE head"]);
    for (change, parts) in [
        (("hidden_size", Value::from(128)), &["128 channels", "has 64", "llama3.gguf"][..]),
        (("vocab_size", 600.into()), &["600 tokens", "has 512", "llama3.gguf"]),
        (("num_hidden_layers", 2.into()), &["2 layers"]),
        (("draft_vocab_size", 255.into()), &["d2t has 256 entries", "255"]),
        (("norm_output", true.into()), &["norm_output"]),
        (
            ("eagle_config", serde_json::json!({"eagle_aux_hidden_state_layer_ids": [0, 1]})),
            &["192 channels (fc.weight)", "2 layers", "128"],
        ),
        (
            ("eagle_config", serde_json::json!({"eagle_aux_hidden_state_layer_ids": [0, 1, 3]})),
            &["layer 3", "4 layers"],
        ),
    ] {
        let mut head = Head::committed();
        let (key, value) = change;
        head.config.insert(key.into(), value);
        head.written(&format!("bad-{}", parts[0].len()), |head| {
            let text = error("llama3", &of(head));
            assert_says(&text, parts);
            assert_says(&text, &["--speculative eagle:"]);
        });
    }
    let outside = Head::committed().guessing(&[512]);
    outside.written("outside", |head| assert_says(&error("llama3", &of(head)), &["d2t", "512"]));
    let mut narrow = Head::committed();
    narrow.keep_columns("fc.weight", 128);
    narrow.written("narrow", |head| {
        assert_says(&error("llama3", &of(head)), &["128 channels", "have 192", "llama3.gguf"]);
    });
}

#[test]
fn trees_that_cannot_be_are_a_sentence_at_start() {
    let flag = "--speculative-eagle-topk";
    let of = |topk| with_trees(&committed_head(), (topk, 5), options());
    for topk in [0, 9] {
        assert_says(&error("llama3", &of(topk)), &[flag, "between 1 and 8"]);
    }
    let ngram = Speculative { eagle_topk: 2, ..Speculative::new(speculative("ngram")) };
    let ngram = EngineOptions { speculative: Some(ngram), ..options() };
    assert_says(&error("llama3", &ngram), &[flag, "eagle:PATH", "ngram"]);
    assert_says(&error("qwen35_vl", &of(2)), &[flag, "2", "one after the other"]);
    let narrow = EngineOptions { max_num_batched_tokens: Some(4), ..of(5) };
    assert_says(&error("llama3", &narrow), &[flag, "5", "--max-num-batched-tokens"]);
    Head::committed().as_dflash().written("forked", |head| {
        let trees = with_trees(head, (2, 5), options());
        assert_says(&error("llama3", &trees), &[flag, "DFlash"]);
    });
}
