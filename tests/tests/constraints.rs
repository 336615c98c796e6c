//! Answers that must follow a grammar are the same alone and together, guessed, preempted and steps ahead; one that cannot
//! go on fails alone.

use std::time::Duration;

use quire_engine::config::{Faults, Speculative};
use quire_engine::request::FinishReason;
use quire_engine::{EngineOptions, Request, SamplingParams, TokenMask};
use quire_tests::grammars::{Classes, END};
use quire_tests::requests::{assert_equal, one_by_one, requests, together};
use quire_tests::{Answer, options, speculative, start, tiny_model};

/// Two of three are constrained, some of them with everything else that narrows a mask.
fn mixed() -> Vec<Request> {
    let mut requests = requests(512, 40);
    for (index, request) in requests.iter_mut().enumerate() {
        let start = request.prompt.len() / 2;
        request.prompt.extend_from_within(start..);
        request.params.max_tokens = Some(20 + index as u32 % 7);
        request.params.stop_token_ids.clear();
        match index % 3 {
            0 => continue,
            1 => {
                // Few words are easily guessed.
                request.params.allowed_token_ids = Some((END..24).collect());
                request.params.ignore_eos = index % 2 == 0;
            }
            _ => request.params.logit_bias = vec![(END, 8.0)],
        }
        request.params.constraint = Classes::default().constraint();
    }
    requests
}

fn uncached() -> EngineOptions {
    EngineOptions { enable_prefix_caching: false, ..options() }
}

fn guessing(options: EngineOptions) -> EngineOptions {
    let method = speculative("ngram");
    let speculative =
        Some(Speculative { num_tokens: 5, is_adaptive: false, ..Speculative::new(method) });
    EngineOptions { speculative, ..options }
}

fn check_grammar(requests: &[Request], answers: &[Answer]) {
    for (request, answer) in requests.iter().zip(answers) {
        if request.params.constraint.is_none() {
            continue;
        }
        let mut grammar = Classes::default();
        for token in answer.ids() {
            grammar.advance(token).expect("the answer follows its grammar");
        }
        let (reason, count) = (&answer.finished.reason, answer.tokens.len() as u32);
        match reason {
            FinishReason::EndToken => assert_eq!(count % 6, 1),
            reason => assert_eq!(*reason, FinishReason::Length),
        }
        assert!(count > request.params.min_tokens);
        if request.params.ignore_eos {
            assert_eq!(count, request.params.max_tokens.expect("given"));
        }
    }
}

#[test]
fn constrained_answers_do_not_depend_on_who_else_runs_or_how() {
    for family in ["llama3", "gemma3", "qwen35_vl"] {
        let model = tiny_model(family);
        let requests = mixed();
        let expected = one_by_one(&start(&model, &uncached(), &[END]), &requests);
        check_grammar(&requests, &expected);
        let ended = expected.iter().filter(|a| a.finished.reason == FinishReason::EndToken);
        assert!(ended.count() > 5);

        let handle = start(&model, &uncached(), &[END]);
        assert_equal("together", &expected, &together(&handle, &requests));
        let ahead = EngineOptions { async_scheduling: Some(true), ..uncached() };
        let handle = start(&model, &ahead, &[END]);
        assert_equal("a step ahead", &expected, &together(&handle, &requests));
        let handle = start(&model, &guessing(uncached()), &[END]);
        assert_equal("guessed", &expected, &together(&handle, &requests));
        let drafts = handle.stats().drafts;
        assert!(drafts.num_right.iter().sum::<u64>() > 20, "{drafts:?}");
        let chunks = EngineOptions { max_num_batched_tokens: Some(33), ..options() };
        let handle = start(&model, &guessing(chunks), &[END]);
        assert_equal("in chunks", &expected, &together(&handle, &requests));
    }
}

#[test]
fn preempted_answers_find_their_place_again() {
    let mut requests = mixed();
    for request in &mut requests {
        request.prompt.truncate(45);
        request.params.max_tokens = request.params.max_tokens.map(|most| most + 60);
        request.params.logit_bias.clear();
    }
    let model = tiny_model("llama3");
    let expected = one_by_one(&start(&model, &uncached(), &[END]), &requests);
    let small = EngineOptions { kv_cache_memory: Some(160 * 512), ..options() };
    for options in [small.clone(), guessing(small)] {
        let handle = start(&model, &options, &[END]);
        assert_equal("preempted", &expected, &together(&handle, &requests));
        assert!(handle.stats().num_preemptions > 0, "the pool is too large");
    }
}

#[test]
fn a_dead_end_and_a_step_that_panics_fail_their_own_requests() {
    let requests = mixed();
    let model = tiny_model("llama3");
    let expected = one_by_one(&start(&model, &uncached(), &[END]), &requests);
    const BAD_TOKEN: u32 = 501;
    let faults = Faults { panic_on_token: Some(BAD_TOKEN), ..Faults::default() };
    for options in [uncached(), guessing(uncached())] {
        let handle = start(&model, &EngineOptions { faults: faults.clone(), ..options }, &[END]);
        let mut all = requests.clone();
        // Nobody else computes it.
        let is_clean = |request: &Request, answer: &Answer| {
            !request.prompt.contains(&BAD_TOKEN) && !answer.ids().contains(&BAD_TOKEN)
        };
        let clean: Vec<bool> =
            all.iter().zip(&expected).map(|(request, answer)| is_clean(request, answer)).collect();
        let dead = Classes::with_dead_end(7);
        let params = SamplingParams {
            constraint: dead.constraint(),
            ignore_eos: true,
            ..SamplingParams::greedy(20)
        };
        all.push(Request::new(vec![5, 6, 7], params));
        let bad = SamplingParams {
            allowed_token_ids: Some(vec![BAD_TOKEN]),
            ..SamplingParams::greedy(20)
        };
        all.push(Request::new(vec![5, 6, 7], bad));
        let mut answers = together(&handle, &all);
        let FinishReason::Error(why) = answers.pop().expect("an answer each").finished.reason
        else {
            panic!("the step does not fail");
        };
        assert!(why.contains("internal error"), "{why}");
        let dead = answers.pop().expect("an answer each");
        assert_eq!(dead.finished.reason, FinishReason::DeadEnd("planted: a dead end".into()));
        assert_eq!(dead.tokens.len(), 7);
        for (index, (want, got)) in expected.iter().zip(&answers).enumerate() {
            if clean[index] {
                assert_equal(
                    "beside failures",
                    std::slice::from_ref(want),
                    std::slice::from_ref(got),
                );
            }
        }
        assert!(clean.iter().filter(|is_clean| **is_clean).count() > 20);
    }
}

/// A mask may take long now and then, but not at each token: others wait.
#[test]
fn a_grammar_that_takes_too_long_fails_alone_and_soon() {
    let requests = mixed();
    let model = tiny_model("llama3");
    let expected = one_by_one(&start(&model, &uncached(), &[END]), &requests);
    for options in [uncached(), guessing(uncached())] {
        let handle = start(&model, &options, &[END]);
        let slow = |effort| SamplingParams {
            constraint: Classes::with_effort(effort).constraint(),
            ignore_eos: true,
            ..SamplingParams::greedy(60)
        };
        let mut all = requests.clone();
        all.push(Request::new(vec![5, 6, 7], slow(Duration::from_millis(20))));
        all.push(Request::new(vec![7, 6, 5], slow(Duration::from_micros(500))));
        let mut answers = together(&handle, &all);
        let (fair, slow) = (answers.pop().expect("each"), answers.pop().expect("each"));
        assert_eq!((fair.finished.reason, fair.tokens.len()), (FinishReason::Length, 60));
        let FinishReason::DeadEnd(why) = slow.finished.reason else { panic!("it goes on") };
        assert!(why.contains("too long"), "{why}");
        assert!(slow.tokens.len() < 15, "{} tokens", slow.tokens.len());
        assert_equal("beside it", &expected, &answers);
    }
}

#[test]
fn drafts_that_a_grammar_forbids_are_not_verified() {
    let model = tiny_model("llama3");
    let handle = start(&model, &guessing(options()), &[END]);
    // The prompt repeats 8, 9, 10: each follows the other in the grammar, but 30 does not follow 10.
    let prompt = [8, 9, 10, 30].repeat(6);
    let params = SamplingParams {
        constraint: Classes::default().constraint(),
        allowed_token_ids: Some(vec![8, 9, 10, 11, 30]),
        ignore_eos: true,
        ..SamplingParams::greedy(40)
    };
    let answer = quire_tests::ask(&handle, &prompt, params);
    assert_eq!(answer.tokens.len(), 40);
    let drafts = handle.stats().drafts;
    assert!(drafts.num_tokens > 0, "{drafts:?}");
    // 8 follows 11 and 30 follows 9: nothing forbidden was ever in a step.
    let mut grammar = Classes::default();
    answer.ids().iter().for_each(|&token| grammar.advance(token).expect("it follows"));
}
