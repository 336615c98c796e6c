//! Who follows the events of the prefix cache knows what is in it.

use std::collections::HashMap;
use std::sync::Arc;

use quire_scheduler::{
    CacheEvent, CacheGroup, CacheKind, CachePool, NewSequence, Policy, SampledSequence, Scheduler,
    SchedulerConfig, SequenceId, StepOutput, StopRule, Tenant, TokenId, TokenList,
};

const BLOCK: usize = 4;

fn scheduler(num_blocks: u32, kinds: &[CacheKind]) -> Scheduler {
    Scheduler::new(SchedulerConfig {
        block_size: BLOCK as u32,
        pools: vec![CachePool { num_blocks, num_resident_blocks: num_blocks }],
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: 60,
        step_overhead_tokens: 0,
        max_num_queued_seqs: 64,
        long_prefill_token_threshold: 0,
        enable_chunked_prefill: true,
        policy: Policy::FirstCome,
        enable_prefix_caching: true,
        cache_groups: kinds.iter().map(|&kind| CacheGroup { kind, pool: 0 }).collect(),
    })
    .expect("a valid config")
}

/// Adds a prompt and runs it to its end. Returns how many of its tokens were cached.
fn run(scheduler: &mut Scheduler, id: u64, prompt: Vec<TokenId>, cache_salt: u64) -> u32 {
    let stop = StopRule {
        max_tokens: 3,
        min_tokens: 0,
        eos_token_ids: Arc::new([]),
        stop_token_ids: Arc::new([]),
        ignore_eos: true,
    };
    let id = SequenceId(id);
    let skip_prefix_cache = false;
    let tenant = Tenant::default();
    let sequence =
        NewSequence { id, prompt, stop, tenant, priority: 0, cache_salt, skip_prefix_cache };
    scheduler.add(sequence).expect("it fits");
    let mut num_cached = 0;
    while let Some(output) = scheduler.schedule() {
        num_cached += output.admitted.iter().map(|a| a.num_cached_tokens).sum::<u32>();
        let sampled = output.sequences.iter().map(|sequence| SampledSequence {
            tokens: if sequence.samples { TokenList::one(7) } else { TokenList::EMPTY },
            failed: false,
        });
        let result = StepOutput { step: output.step, sequences: sampled.collect() };
        scheduler.update(&result);
        scheduler.check().expect("the invariants hold");
    }
    num_cached
}

/// What a router would know.
#[derive(Default)]
struct Index(HashMap<u64, (Option<u64>, Vec<TokenId>)>);

impl Index {
    fn follow(&mut self, events: Vec<CacheEvent>) {
        for event in events {
            match event {
                CacheEvent::Stored { hash, parent, tokens } => {
                    assert_eq!(tokens.len(), BLOCK);
                    let known = self.0.insert(hash, (parent, tokens));
                    assert!(known.is_none(), "stored twice");
                }
                // Of other groups and salts too, which nobody was told of.
                CacheEvent::Removed { hash } => drop(self.0.remove(&hash)),
                CacheEvent::Cleared => self.0.clear(),
            }
        }
    }

    /// Tokens of `prompt` that are cached, by what was told.
    fn num_cached(&self, prompt: &[TokenId]) -> u32 {
        let mut parent = None;
        let mut num_cached = 0;
        for block in prompt[..prompt.len() - 1].chunks_exact(BLOCK) {
            let child = self.0.iter().find(|(_, (of, tokens))| *of == parent && tokens == block);
            let Some((&hash, _)) = child else { break };
            (parent, num_cached) = (Some(hash), num_cached + BLOCK as u32);
        }
        num_cached
    }
}

/// Prompts that share beginnings, in an order that makes blocks give way.
fn prompts() -> Vec<Vec<TokenId>> {
    let prompt = |family: u32, length: u32| (0..length).map(|i| family * 100 + i % 50).collect();
    let mut seed = 5_u32;
    let mut next = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % below
    };
    (0..200).map(|_| prompt(next(6), 2 + next(40))).collect()
}

#[test]
fn an_index_of_the_events_finds_what_the_scheduler_finds() {
    let window = CacheKind::SlidingWindow { window: 8 };
    for kinds in [&[CacheKind::FullAttention][..], &[window, CacheKind::FullAttention]] {
        let mut scheduler = scheduler(40, kinds);
        scheduler.watch_cache(1);
        let mut index = Index::default();
        for (id, prompt) in prompts().into_iter().enumerate() {
            // What has another salt is cached apart, and no news for anybody.
            let salt = if id % 7 == 6 { 2 } else { 1 };
            let expected = index.num_cached(&prompt);
            let found = run(&mut scheduler, id as u64, prompt, salt);
            if salt == 1 && kinds.len() == 1 {
                assert_eq!(found, expected, "prompt {id}");
            } else if salt == 1 {
                assert!(found <= expected, "the window may have lost what all positions have");
            }
            index.follow(scheduler.take_cache_events());
        }
        assert!(!index.0.is_empty());
        assert!(scheduler.take_cache_events().is_empty());
    }
}

#[test]
fn nothing_is_noted_unasked() {
    let mut scheduler = scheduler(40, &[CacheKind::FullAttention]);
    run(&mut scheduler, 1, (0..20).collect(), 1);
    assert!(scheduler.take_cache_events().is_empty());
}
