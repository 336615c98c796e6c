//! Small situations, read step by step: each line of a step is `id @row [positions) +new blocks`,
//! `*` where it samples.

use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};
use quire_scheduler::{
    CacheGroup, CacheKind, CachePool, DraftTree, FinishReason, NewSequence, Policy,
    SampledSequence, Scheduler, SchedulerConfig, SchedulerOutput, SequenceEvent, SequenceId,
    StepOutput, StopRule, Tenant, TokenId, TokenList,
};

const EOS: TokenId = 0;
const WORD: TokenId = 500;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: 4,
        pools: vec![pool(64)],
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        max_model_len: 100,
        step_overhead_tokens: 0,
        max_num_queued_seqs: 4,
        long_prefill_token_threshold: 0,
        enable_chunked_prefill: true,
        policy: Policy::FirstCome,
        enable_prefix_caching: true,
        cache_groups: vec![CacheGroup { kind: CacheKind::FullAttention, pool: 0 }],
    }
}

fn pool(num_blocks: u32) -> CachePool {
    CachePool { num_blocks, num_resident_blocks: num_blocks }
}

fn scheduler(config: SchedulerConfig) -> Scheduler {
    Scheduler::new(config).expect("a valid config")
}

/// A prompt of its own.
fn sequence(id: u64, num_prompt_tokens: u32, max_tokens: u32) -> NewSequence {
    NewSequence {
        id: SequenceId(id),
        prompt: (0..num_prompt_tokens).map(|i| 1000 * id as u32 + i).collect(),
        stop: StopRule {
            max_tokens,
            min_tokens: 0,
            eos_token_ids: Arc::new([EOS]),
            stop_token_ids: Arc::new([]),
            ignore_eos: false,
        },
        tenant: Tenant::default(),
        priority: 0,
        cache_salt: 0,
        skip_prefix_cache: false,
    }
}

fn result(output: &SchedulerOutput, token: TokenId) -> StepOutput {
    let sampled = output.sequences.iter().map(|sequence| SampledSequence {
        tokens: if sequence.samples { TokenList::one(token) } else { TokenList::EMPTY },
        failed: false,
    });
    StepOutput { step: output.step, sequences: sampled.collect() }
}

fn show(output: &SchedulerOutput) -> String {
    let found = output
        .admitted
        .iter()
        .filter(|admitted| admitted.num_cached_tokens > 0)
        .map(|admitted| format!("{} finds {}", admitted.id.0, admitted.num_cached_tokens));
    let scheduled = output.sequences.iter().map(|sequence| {
        let blocks = output.new_blocks_of(sequence).iter();
        let blocks = blocks.map(|new| format!(" +{}", new.block.0)).collect::<Vec<_>>().concat();
        let end = sequence.start + sequence.num_tokens;
        let sample = if sequence.samples { " *" } else { "" };
        format!("{} @{} [{}, {end}){blocks}{sample}", sequence.id.0, sequence.row.0, sequence.start)
    });
    found.chain(scheduled).collect::<Vec<_>>().join(" | ")
}

/// Steps one after the other, each of which samples `WORD`.
fn run(scheduler: &mut Scheduler, num_steps: usize) -> String {
    let mut lines = Vec::new();
    for _ in 0..num_steps {
        let Some(output) = scheduler.schedule() else {
            lines.push("nothing".to_owned());
            continue;
        };
        lines.push(show(&output));
        for event in scheduler.update(&result(&output, WORD)) {
            if let Some(finish) = event.finish {
                lines.push(format!("  {} ends: {finish:?}", event.id.0));
            }
        }
        scheduler.check().expect("the invariants hold");
    }
    lines.join("\n") + "\n"
}

fn check(scheduler: &mut Scheduler, num_steps: usize, expected: &Expect) {
    expected.assert_eq(&run(scheduler, num_steps));
}

#[test]
fn a_long_prompt_is_computed_in_chunks_and_decodes_go_first() {
    let mut scheduler = scheduler(config());
    scheduler.add(sequence(1, 3, 3)).unwrap();
    scheduler.add(sequence(2, 37, 2)).unwrap();
    scheduler.add(sequence(3, 2, 2)).unwrap();
    check(
        &mut scheduler,
        5,
        &expect![[r"
            1 @0 [0, 3) +0 * | 2 @1 [0, 13) +1 +2 +3 +4 +5 +6 +7 +8 +9 +10
            1 @0 [3, 4) * | 2 @1 [13, 28)
            1 @0 [4, 5) +11 * | 2 @1 [28, 37) * | 3 @2 [0, 2) +12 *
              1 ends: Length
            2 @1 [37, 38) * | 3 @2 [2, 3) *
              2 ends: Length
              3 ends: Length
            nothing
        "]],
    );
}

#[test]
fn a_threshold_leaves_budget_for_others() {
    let mut scheduler = scheduler(SchedulerConfig { long_prefill_token_threshold: 6, ..config() });
    scheduler.add(sequence(1, 13, 1)).unwrap();
    scheduler.add(sequence(2, 5, 1)).unwrap();
    check(
        &mut scheduler,
        3,
        &expect![[r"
            1 @0 [0, 6) +0 +1 +2 +3 | 2 @1 [0, 5) +4 +5 *
              2 ends: Length
            1 @0 [6, 12)
            1 @0 [12, 13) *
              1 ends: Length
        "]],
    );
}

#[test]
fn prompts_that_must_not_be_cut_wait_for_a_step_with_room() {
    let config = SchedulerConfig { max_model_len: 17, enable_chunked_prefill: false, ..config() };
    let mut scheduler = scheduler(config.clone());
    for (id, num_tokens) in [(1, 9), (2, 8), (3, 2)] {
        scheduler.add(sequence(id, num_tokens, 1)).unwrap();
    }
    check(
        &mut scheduler,
        3,
        &expect![[r"
            1 @0 [0, 9) +0 +1 +2 *
              1 ends: Length
            2 @0 [0, 8) +2 +3 * | 3 @1 [0, 2) +4 *
              2 ends: Length
              3 ends: Length
            nothing
        "]],
    );
    let error = Scheduler::new(SchedulerConfig { max_model_len: 18, ..config }).err();
    assert!(error.is_some_and(|error| error.contains("max_num_batched_tokens is 16")));
}

#[test]
fn equal_prompts_share_their_full_blocks_even_in_one_step() {
    let mut scheduler = scheduler(config());
    for id in 1..=3 {
        let prompt = (1..=8).collect();
        let cache_salt = u64::from(id == 3);
        scheduler.add(NewSequence { prompt, cache_salt, ..sequence(id, 1, 1) }).unwrap();
    }
    check(
        &mut scheduler,
        2,
        &expect![[r"
            2 finds 4 | 1 @0 [0, 8) +0 +1 * | 2 @1 [4, 8) +0 +2 * | 3 @2 [0, 4) +3 +4
              1 ends: Length
              2 ends: Length
            3 @2 [4, 8) *
              3 ends: Length
        "]],
    );
    let stats = scheduler.stats();
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (24, 4));
    // Full blocks of a conversation, its output too, are found by its next turn.
    let prompt = (1..=8).chain([WORD, 9]).collect();
    scheduler.add(NewSequence { prompt, ..sequence(4, 1, 4) }).unwrap();
    check(
        &mut scheduler,
        4,
        &expect![[r"
            4 finds 8 | 4 @2 [8, 10) +0 +1 +2 *
            4 @2 [10, 11) *
            4 @2 [11, 12) *
            4 @2 [12, 13) +5 *
              4 ends: Length
        "]],
    );
    let prompt = (1..=8).chain([WORD, 9, WORD, WORD, WORD, WORD, 10]).collect();
    scheduler.add(NewSequence { prompt, ..sequence(5, 1, 1) }).unwrap();
    check(
        &mut scheduler,
        1,
        &expect![[r"
            5 finds 12 | 5 @2 [12, 15) +0 +1 +2 +5 *
              5 ends: Length
        "]],
    );
}

/// As `run`, with the states that each step reads and writes.
fn run_with_states(scheduler: &mut Scheduler, num_steps: usize) -> String {
    let mut lines = Vec::new();
    for _ in 0..num_steps {
        let output = scheduler.schedule().expect("a step");
        let segments = output.state_segments.iter().map(|segment| {
            let from = segment.from.map_or("-".to_owned(), |block| block.0.to_string());
            format!("{from}>{} x{}", segment.to.0, segment.num_tokens)
        });
        lines.push(format!("{}; {}", show(&output), segments.collect::<Vec<_>>().join(", ")));
        scheduler.update(&result(&output, WORD));
        scheduler.check().expect("the invariants hold");
    }
    lines.join("\n") + "\n"
}

#[test]
fn a_snapshot_serves_the_next_turn() {
    let mut scheduler = scheduler(SchedulerConfig {
        pools: vec![pool(64), pool(8)],
        cache_groups: vec![
            CacheGroup { kind: CacheKind::FullAttention, pool: 0 },
            CacheGroup { kind: CacheKind::SlidingWindow { window: 3 }, pool: 0 },
            CacheGroup { kind: CacheKind::RecurrentState, pool: 1 },
        ],
        ..config()
    });
    scheduler.add(sequence(1, 10, 4)).unwrap();
    expect![[r"
        1 @0 [0, 10) +0 +1 +2 +3 +4 +5 *; ->0 x8, 0>1 x2
        1 @0 [10, 11) *; 1>1 x1
        1 @0 [11, 12) *; 1>1 x1
        1 @0 [12, 13) +6 +7 *; 1>2 x1
    "]]
    .assert_eq(&run_with_states(&mut scheduler, 4));
    // The same prompt, its answer and a question: found up to the last snapshot.
    let prompt = (0..10).map(|i| 1000 + i).chain([WORD, WORD, WORD, WORD, 7]).collect();
    scheduler.add(NewSequence { prompt, ..sequence(2, 1, 2) }).unwrap();
    expect![[r"
        2 finds 12 | 2 @0 [12, 15) +0 +1 +2 +7 +5 +6 *; 1>2 x3
        2 @0 [15, 16) *; 2>2 x1
    "]]
    .assert_eq(&run_with_states(&mut scheduler, 2));
}

/// A tree is cut where the budget ends, and takes a place a draft; its right way counts as a chain's.
#[test]
fn a_tree_of_drafts_is_scheduled_as_a_chain() {
    let mut scheduler = scheduler(SchedulerConfig { max_num_batched_tokens: 6, ..config() });
    scheduler.add(sequence(1, 5, 9)).unwrap();
    let first = scheduler.schedule().expect("a step");
    scheduler.update(&result(&first, WORD));
    let mut tree = DraftTree::EMPTY;
    for (parent, token) in [(0, 3), (0, WORD), (2, 4), (2, WORD), (4, WORD), (5, 6), (1, 7)] {
        tree.push_after(parent, token);
    }
    scheduler.propose_tree(SequenceId(1), tree);
    let output = scheduler.schedule().expect("a step");
    assert!(output.has_trees());
    let (own, tokens, parents) = output.with_drafts().next().expect("a sequence");
    assert_eq!((own.num_tokens, tokens.len()), (6, 5));
    assert_eq!(parents, [0, 0, 2, 2, 4]);
    let sampled =
        SampledSequence { tokens: [WORD, WORD, WORD, 9].into_iter().collect(), failed: false };
    let events = scheduler.update(&StepOutput { step: output.step, sequences: vec![sampled] });
    assert_eq!((events[0].num_drafts, events[0].num_right_drafts), (5, 3));
    assert_eq!(scheduler.stats().drafts.num_right[..4], [1, 1, 1, 0]);
    let next = scheduler.schedule().expect("a step");
    assert_eq!((next.sequences[0].start, next.sequences[0].num_tokens), (9, 1));
    scheduler.check().expect("the invariants hold");
}

#[test]
fn right_drafts_are_steps_saved_and_wrong_ones_go_back() {
    let mut scheduler = scheduler(SchedulerConfig {
        pools: vec![pool(64), pool(8)],
        cache_groups: vec![
            CacheGroup { kind: CacheKind::FullAttention, pool: 0 },
            CacheGroup { kind: CacheKind::RecurrentState, pool: 1 },
        ],
        ..config()
    });
    scheduler.add(sequence(1, 5, 9)).unwrap();
    let mut lines = run_with_states(&mut scheduler, 1);
    assert_eq!(scheduler.draftable().collect::<Vec<_>>(), [(SequenceId(1), 7)]);
    scheduler.propose(SequenceId(1), &[WORD, WORD, 3]);
    let output = scheduler.schedule().expect("a step");
    assert_eq!(
        (output.sequences[0].num_drafts, &output.draft_tokens[..]),
        (3, &[WORD, WORD, 3][..])
    );
    let sampled =
        SampledSequence { tokens: [WORD, WORD, WORD].into_iter().collect(), failed: false };
    let events = scheduler.update(&StepOutput { step: output.step, sequences: vec![sampled] });
    assert_eq!(events[0].new_tokens.len(), 3);
    let stats = scheduler.stats().drafts;
    assert_eq!(
        (stats.num_verified, stats.num_tokens, &stats.num_right[..3]),
        (1, 3, &[1, 1, 0][..])
    );
    // Five more tokens, the last of which is never computed.
    assert_eq!(scheduler.draftable().collect::<Vec<_>>(), [(SequenceId(1), 4)]);
    scheduler.check().expect("the invariants hold");
    lines += &run_with_states(&mut scheduler, 2);
    expect![[r"
        1 @0 [0, 5) +0 +1 *; ->0 x4, 0>1 x1
        1 @0 [8, 9) *; 3>3 x1
        1 @0 [9, 10) *; 3>3 x1
    "]]
    .assert_eq(&lines);
}

#[test]
fn unused_prefixes_give_way_until_they_are_missed() {
    let mut scheduler = scheduler(SchedulerConfig {
        pools: vec![CachePool { num_blocks: 64, num_resident_blocks: 4 }],
        ..config()
    });
    let mut num_sent = 0;
    // Prompts of three blocks, one after the other: (tokens found, blocks that take memory).
    let mut send = |conversation: u32| {
        num_sent += 1;
        let prompt = (0..12).map(|i| 100 * conversation + i).collect();
        scheduler.add(NewSequence { prompt, ..sequence(num_sent, 1, 1) }).unwrap();
        let hits = scheduler.stats().prefix_cache_hits;
        let output = scheduler.schedule().expect("a step");
        scheduler.update(&result(&output, WORD));
        scheduler.check().unwrap();
        let stats = scheduler.stats();
        (stats.prefix_cache_hits - hits, stats.num_touched_blocks)
    };
    let rounds = [[1, 1, 2, 3], [3, 4, 5, 6], [5, 6, 5, 6], [5, 6, 5, 6]];
    let rows = rounds.map(|round| format!("{:?}", round.map(|prompt| (prompt, send(prompt)))));
    expect![[r"
        [(1, (0, 3)), (1, (8, 4)), (2, (0, 4)), (3, (0, 4))]
        [(3, (8, 4)), (4, (0, 4)), (5, (0, 4)), (6, (0, 4))]
        [(5, (4, 4)), (6, (4, 6)), (5, (8, 7)), (6, (8, 7))]
        [(5, (8, 7)), (6, (8, 7)), (5, (8, 7)), (6, (8, 7))]"]]
    .assert_eq(&rows.join("\n"));
}

#[test]
fn the_last_is_preempted_and_comes_back_first() {
    // Two fit if they reach 70 % of their limit, as is expected at first; they reach all of it.
    let mut scheduler = scheduler(SchedulerConfig { pools: vec![pool(7)], ..config() });
    for id in 1..=3 {
        scheduler.add(sequence(id, 4, 12)).unwrap();
    }
    check(
        &mut scheduler,
        18,
        &expect![[r"
            1 @0 [0, 4) +0 * | 2 @1 [0, 4) +1 *
            1 @0 [4, 5) +2 * | 2 @1 [4, 5) +3 *
            1 @0 [5, 6) * | 2 @1 [5, 6) *
            1 @0 [6, 7) * | 2 @1 [6, 7) *
            1 @0 [7, 8) * | 2 @1 [7, 8) *
            1 @0 [8, 9) +4 * | 2 @1 [8, 9) +5 *
            1 @0 [9, 10) * | 2 @1 [9, 10) *
            1 @0 [10, 11) * | 2 @1 [10, 11) *
            1 @0 [11, 12) * | 2 @1 [11, 12) *
            1 @0 [12, 13) +6 *
            1 @0 [13, 14) *
            1 @0 [14, 15) *
              1 ends: Length
            2 finds 12 | 2 @0 [12, 13) +1 +3 +5 +6 *
            2 @0 [13, 14) *
            2 @0 [14, 15) *
              2 ends: Length
            3 @0 [0, 4) +6 *
            3 @0 [4, 5) +4 *
            3 @0 [5, 6) *
        "]],
    );
    assert_eq!(scheduler.stats().num_preemptions, 1);
}

#[test]
fn the_lowest_priority_waits_and_is_preempted() {
    let mut scheduler =
        scheduler(SchedulerConfig { policy: Policy::Priority, pools: vec![pool(7)], ..config() });
    for (id, priority) in [(1, 5), (2, 2)] {
        scheduler.add(NewSequence { priority, ..sequence(id, 4, 12) }).unwrap();
    }
    run(&mut scheduler, 1);
    scheduler.add(NewSequence { priority: -1, ..sequence(3, 4, 2) }).unwrap();
    check(
        &mut scheduler,
        16,
        &expect![[r"
            2 @0 [4, 5) +2 * | 1 @1 [4, 5) +3 *
            2 @0 [5, 6) * | 1 @1 [5, 6) *
            2 @0 [6, 7) * | 1 @1 [6, 7) *
            2 @0 [7, 8) * | 1 @1 [7, 8) *
            2 @0 [8, 9) +4 * | 1 @1 [8, 9) +5 *
            2 @0 [9, 10) * | 1 @1 [9, 10) *
            2 @0 [10, 11) * | 1 @1 [10, 11) *
            2 @0 [11, 12) * | 1 @1 [11, 12) *
            2 @0 [12, 13) +6 *
            2 @0 [13, 14) * | 3 @1 [0, 4) +5 *
            3 @1 [4, 5) +3 * | 2 @0 [14, 15) *
              3 ends: Length
              2 ends: Length
            1 finds 4 | 1 @0 [4, 13) +1 +6 +3 +5 *
            1 @0 [13, 14) *
            1 @0 [14, 15) *
              1 ends: Length
            nothing
            nothing
        "]],
    );
}

#[test]
fn one_step_may_be_in_flight_while_the_next_is_scheduled() {
    let mut scheduler = scheduler(config());
    scheduler.add(sequence(1, 3, 9)).unwrap();
    let first = scheduler.schedule().unwrap();
    let second = scheduler.schedule().unwrap();
    assert_eq!(scheduler.schedule(), None, "two steps are in flight");
    assert_eq!(
        (first.sequences[0].num_unknown_tokens, first.sequences[0].num_output_tokens),
        (0, 0)
    );
    assert_eq!((second.sequences[0].start, second.sequences[0].num_unknown_tokens), (3, 1));
    assert_eq!(second.sequences[0].num_output_tokens, 1);

    scheduler.update(&result(&first, WORD));
    let third = scheduler.schedule().unwrap();
    let events = scheduler.update(&result(&second, EOS));
    assert_eq!(events, [finished(1, EOS, FinishReason::Stop)]);
    assert_eq!(scheduler.tokens(SequenceId(1)), None);
    assert_eq!(scheduler.update(&result(&third, WORD)), [], "computed after the end");
    assert_eq!(scheduler.stats().num_used_blocks, 0);
    assert_eq!(scheduler.schedule(), None);
}

fn finished(id: u64, token: TokenId, reason: FinishReason) -> SequenceEvent {
    SequenceEvent {
        id: SequenceId(id),
        index_in_step: Some(0),
        new_tokens: TokenList::one(token),
        finish: Some(reason),
        num_drafts: 0,
        num_right_drafts: 0,
    }
}

#[test]
fn a_predictable_end_costs_no_step() {
    let mut scheduler = scheduler(config());
    scheduler.add(sequence(1, 3, 1)).unwrap();
    let output = scheduler.schedule().unwrap();
    assert_eq!(scheduler.schedule(), None);
    let events = scheduler.update(&result(&output, WORD));
    assert_eq!(events, [finished(1, WORD, FinishReason::Length)]);
}

#[test]
fn only_the_culprit_of_a_failing_step_fails() {
    let mut scheduler = scheduler(config());
    for id in 1..=3 {
        scheduler.add(sequence(id, 4, 4)).unwrap();
    }
    run(&mut scheduler, 1);
    let failing = scheduler.schedule().unwrap();
    assert_eq!(failing.sequences.len(), 3);
    assert_eq!(scheduler.abort_in_flight(), []);
    check(
        &mut scheduler,
        1,
        &expect![[r"
            1 @0 [0, 5) +3 +4 *
        "]],
    );
    let failing = scheduler.schedule().unwrap();
    assert_eq!(failing.sequences[0].id, SequenceId(2), "alone");
    assert_eq!(scheduler.schedule(), None, "nothing beside a suspect");
    let events = scheduler.abort_in_flight();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].id, events[0].finish), (SequenceId(2), Some(FinishReason::Error)));
    check(
        &mut scheduler,
        4,
        &expect![[r"
            3 @0 [0, 5) +4 +2 *
            3 @0 [5, 6) * | 1 @1 [0, 6) +1 +0 *
            1 @1 [6, 7) * | 3 @0 [6, 7) *
              1 ends: Length
              3 ends: Length
            nothing
        "]],
    );
}

#[test]
fn what_does_not_fit_is_rejected_with_the_numbers() {
    let mut scheduler = scheduler(SchedulerConfig { pools: vec![pool(5)], ..config() });
    let mut text = String::new();
    let mut add = |new: NewSequence| match scheduler.add(new) {
        Ok(()) => text.push_str("taken\n"),
        Err(rejected) => writeln!(text, "{rejected}").unwrap(),
    };
    add(sequence(1, 0, 1));
    add(sequence(1, 1, 0));
    add(sequence(1, 100, 1));
    add(sequence(1, 21, 1));
    add(sequence(1, 20, 1));
    add(sequence(1, 20, 1));
    (2..=5).for_each(|id| add(sequence(id, 1, 1)));
    expect![[r"
        the prompt has no tokens
        max_tokens must be at least 1
        the prompt has 100 tokens, but max_model_len leaves room for 99 before one token of output
        the prompt has 21 tokens, but the KV cache holds 20 (num_blocks times block_size)
        taken
        sequence 1 is unfinished already
        taken
        taken
        taken
        4 sequences wait already, the limit of max_num_queued_seqs
    "]]
    .assert_eq(&text);
}

#[test]
fn a_full_pool_ends_a_sequence_that_runs_alone() {
    let mut scheduler = scheduler(SchedulerConfig { pools: vec![pool(2)], ..config() });
    scheduler.add(sequence(1, 7, 50)).unwrap();
    check(
        &mut scheduler,
        3,
        &expect![[r"
            1 @0 [0, 7) +0 +1 *
            1 @0 [7, 8) *
              1 ends: Length
            nothing
        "]],
    );
}

#[test]
fn wrong_limits_name_the_field() {
    let group = |kind, pool| vec![CacheGroup { kind, pool }];
    let window = |window| CacheKind::SlidingWindow { window };
    let mut text = String::new();
    for wrong in [
        SchedulerConfig { block_size: 0, ..config() },
        SchedulerConfig { max_num_batched_tokens: 3, ..config() },
        SchedulerConfig { max_model_len: 1, ..config() },
        SchedulerConfig { cache_groups: vec![], ..config() },
        SchedulerConfig { cache_groups: group(window(0), 0), ..config() },
        SchedulerConfig { cache_groups: group(window(9), 1), ..config() },
        SchedulerConfig { pools: vec![pool(0)], ..config() },
        SchedulerConfig {
            pools: vec![pool(1)],
            cache_groups: group(CacheKind::RecurrentState, 0),
            ..config()
        },
        SchedulerConfig {
            cache_groups: [group(CacheKind::RecurrentState, 0), group(window(9), 0)].concat(),
            ..config()
        },
    ] {
        writeln!(text, "{}", Scheduler::new(wrong).err().unwrap()).unwrap();
    }
    expect![[r"
        block_size is 0, but must be at least 1
        max_num_batched_tokens is 3, but must be at least max_num_seqs (4): each running sequence gets a token in each step
        max_model_len is 1, but must be at least 2
        cache_groups is empty: a model keeps something for a sequence
        cache group SlidingWindow { window: 0 } sees nothing
        cache group SlidingWindow { window: 9 } is of pool 1, which is not there
        num_blocks of pool 0 is 0, but must be at least 1 and less than 2^32 - 1
        num_blocks of pool 0 is 1, but must be at least two for each group of states
        pool 0 is of pages and of states
    "]]
    .assert_eq(&text);
}
