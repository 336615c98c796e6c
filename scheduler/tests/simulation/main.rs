//! Seeded random traffic against a fake model: each sequence gets the tokens of a run of its own.
//!
//! Parts: `model` (tokens as a function of the past), `runner` (a device that checks what it
//! reads), `traffic` (what comes and what has to come out), and here the loop that plays them
//! against each other.

mod model;
mod runner;
mod traffic;

use std::collections::VecDeque;

use model::Random;
use quire_scheduler::{
    BlockCell, CacheKind, Policy, Scheduler, SchedulerOutput, SequenceId, StepOutput,
};
use runner::{FakeRunner, Panicked};
use traffic::Traffic;

const NUM_SEEDS: u64 = 1500;
const NUM_STEPS: u32 = 200;

#[derive(Copy, Clone, Debug)]
enum Overlap {
    Never,
    Always,
    Sometimes,
}

struct Simulation {
    random: Random,
    overlap: Overlap,
    scheduler: Scheduler,
    runner: FakeRunner,
    traffic: Traffic,
    /// Results of the steps in flight, and who is in them.
    in_flight: VecDeque<(Result<StepOutput, Panicked>, Vec<SequenceId>)>,
    coverage: Coverage,
}

/// What happened in a run: a simulation in which nothing happens proves nothing.
#[derive(Default, Debug)]
struct Coverage {
    steps: u64,
    finished: u64,
    preemptions: u64,
    cached_tokens: u64,
    cancelled_in_flight: u64,
    failed_rows: u64,
    aborts: u64,
    culprits: u64,
    capped_by_pool: u64,
    /// Cached prefixes that a group with a window or chunk served a part of.
    hits_behind_windows: u64,
    /// Cached prefixes that a snapshot of a state served.
    hits_by_snapshots: u64,
    preemptions_with_states: u64,
    accepted_drafts: u64,
    wrong_drafts: u64,
    /// Of both, those in groups with states.
    drafts_with_states: u64,
}

impl Coverage {
    fn counts(&self) -> [u64; 15] {
        [
            self.steps,
            self.finished,
            self.preemptions,
            self.cached_tokens,
            self.cancelled_in_flight,
            self.failed_rows,
            self.aborts,
            self.culprits,
            self.capped_by_pool,
            self.hits_behind_windows,
            self.hits_by_snapshots,
            self.preemptions_with_states,
            self.accepted_drafts,
            self.wrong_drafts,
            self.drafts_with_states,
        ]
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let config = traffic::random_config(&mut random);
        let overlap =
            [Overlap::Never, Overlap::Always, Overlap::Sometimes][random.below(3) as usize];
        Self {
            overlap,
            runner: FakeRunner::new(&config),
            scheduler: Scheduler::new(config.clone()).expect("a valid config"),
            traffic: Traffic::new(config, &mut random),
            in_flight: VecDeque::new(),
            coverage: Coverage::default(),
            random,
        }
    }

    fn run(mut self) -> Coverage {
        for _ in 0..NUM_STEPS {
            self.traffic.add_some(&mut self.scheduler, &mut self.random);
            self.cancel_some();
            self.traffic.propose_some(&mut self.scheduler, &mut self.random);
            self.step();
        }
        // Each unfinished token takes at most one chunk or one lone step; the rest is room for
        // recomputing.
        let mut num_steps_left = 200 + 40 * self.traffic.num_unfinished_tokens();
        while self.scheduler.has_unfinished() {
            assert!(num_steps_left > 0, "starved: {:?}", self.scheduler.stats());
            num_steps_left -= 1;
            self.step();
        }
        while !self.in_flight.is_empty() {
            self.deliver();
        }
        let stats = self.scheduler.stats();
        assert_eq!(stats.num_used_blocks + stats.num_running + stats.num_waiting, 0);
        self.traffic.assert_all_ended();
        self.coverage.preemptions = stats.num_preemptions;
        let has_states = self.has_group(|kind| kind == CacheKind::RecurrentState);
        self.coverage.preemptions_with_states = if has_states { stats.num_preemptions } else { 0 };
        self.coverage.cached_tokens = stats.prefix_cache_hits;
        self.coverage.finished = self.traffic.num_finished;
        self.coverage.culprits = self.traffic.num_culprits;
        self.coverage.capped_by_pool = self.traffic.num_capped_by_pool;
        self.coverage
    }

    fn step(&mut self) {
        let output = self.scheduler.schedule();
        self.check();
        let idle = output.is_none();
        if let Some(output) = output {
            self.launch(&output);
        } else {
            assert!(
                !self.in_flight.is_empty() || !self.scheduler.has_unfinished(),
                "nothing is scheduled and nothing is in flight: {:?}",
                self.scheduler.stats()
            );
        }
        let wait = match self.overlap {
            Overlap::Never => true,
            Overlap::Always => idle || self.in_flight.len() == 2,
            Overlap::Sometimes => idle || self.in_flight.len() == 2 || self.random.one_in(2),
        };
        if wait && !self.in_flight.is_empty() {
            self.deliver();
        }
    }

    fn launch(&mut self, output: &SchedulerOutput) {
        self.coverage.steps += 1;
        let ids: Vec<SequenceId> = output.sequences.iter().map(|sequence| sequence.id).collect();
        self.check_order(output, &ids);
        self.traffic.assert_may_read_cache(output);
        self.count_hits(output);
        let faults = self.traffic.faults(output, &mut self.random);
        let num_in_flight = self.in_flight.len() as u64;
        let result = self.runner.launch(output, &self.scheduler, &faults, num_in_flight);
        self.count_drafts(output, result.as_ref().ok());
        if !self.traffic.has_panics() {
            let max_num_tokens = |id| self.traffic.max_num_tokens(id);
            let tenant = |id| self.traffic.tenant(id).index;
            let runner = &mut self.runner;
            runner.assert_decodes_go_first(output, num_in_flight, max_num_tokens, tenant);
        }
        let panicked_in_launch = result.is_err() && self.random.one_in(2);
        self.in_flight.push_back((result, ids));
        if panicked_in_launch {
            self.abort();
        }
    }

    fn has_group(&self, is_asked: impl Fn(CacheKind) -> bool) -> bool {
        self.traffic.config.cache_groups.iter().any(|group| is_asked(group.kind))
    }

    fn count_drafts(&mut self, output: &SchedulerOutput, result: Option<&StepOutput>) {
        let has_states = self.has_group(|kind| kind == CacheKind::RecurrentState);
        let sampled = result.into_iter().flat_map(|result| &result.sequences);
        for (sequence, sampled) in output.sequences.iter().zip(sampled) {
            let num_drafts = u64::from(sequence.num_drafts);
            let num_accepted = (sampled.tokens.len() as u64).saturating_sub(1);
            self.coverage.accepted_drafts += num_accepted;
            self.coverage.wrong_drafts += num_drafts - num_accepted;
            self.coverage.drafts_with_states += if has_states { num_drafts } else { 0 };
        }
    }

    fn count_hits(&mut self, output: &SchedulerOutput) {
        let block_size = self.traffic.config.block_size;
        for admitted in output.admitted.iter().filter(|admitted| admitted.num_cached_tokens > 0) {
            let skips = |first: u32| first >= block_size;
            let has_window = self.has_group(|kind| match kind {
                CacheKind::SlidingWindow { window } => {
                    skips((admitted.num_cached_tokens + 1).saturating_sub(window))
                }
                CacheKind::Chunk { chunk } => skips(admitted.num_cached_tokens / chunk * chunk),
                _ => false,
            });
            self.coverage.hits_behind_windows += u64::from(has_window);
            let has_states = self.has_group(|kind| kind == CacheKind::RecurrentState);
            self.coverage.hits_by_snapshots += u64::from(has_states);
        }
    }

    /// Waits for the oldest step.
    fn deliver(&mut self) {
        let Some((Ok(result), _)) = self.in_flight.front() else {
            self.abort();
            return;
        };
        self.coverage.failed_rows +=
            result.sequences.iter().filter(|sampled| sampled.failed).count() as u64;
        let events = self.scheduler.update(result);
        for event in &events {
            self.traffic.take(event, Some(result));
        }
        self.in_flight.pop_front();
        self.check();
    }

    fn abort(&mut self) {
        self.coverage.aborts += 1;
        let forgotten = self.in_flight.drain(..).find_map(|(result, _)| result.ok());
        let events = self.scheduler.abort_in_flight();
        for event in &events {
            self.traffic.take(event, None);
        }
        self.runner.rebuild();
        self.check();
        if let Some(result) = forgotten {
            assert_eq!(self.scheduler.update(&result), [], "the step is forgotten");
        }
    }

    fn cancel_some(&mut self) {
        let Some(id) = self.traffic.choose_to_cancel(&mut self.random) else { return };
        assert!(self.scheduler.cancel(id), "an unfinished sequence can be cancelled");
        assert!(!self.scheduler.cancel(id), "a cancelled sequence is gone");
        assert_eq!(self.scheduler.tokens(id), None);
        let in_flight = self.in_flight.iter().any(|(_, ids)| ids.contains(&id));
        self.coverage.cancelled_in_flight += u64::from(in_flight);
        self.traffic.cancelled(id);
        self.check();
    }

    /// Admitted come last, none of them overtakes another of its tenant or a better class, and the first in line always moves.
    fn check_order(&self, output: &SchedulerOutput, ids: &[SequenceId]) {
        let admitted: Vec<SequenceId> =
            output.admitted.iter().map(|admitted| admitted.id).collect();
        let is_alone = self.traffic.num_tenants() == 1;
        if is_alone {
            assert_eq!(ids[ids.len() - admitted.len()..], admitted);
        }
        assert!(ids.iter().filter(|id| admitted.contains(id)).eq(&admitted));
        if self.traffic.has_panics() {
            return;
        }
        let place = |id: SequenceId| (self.traffic.tenant(id), self.traffic.place(id));
        for waiting in self.scheduler.waiting_ids() {
            let (tenant, waiting) = place(waiting);
            for (other, admitted) in admitted.iter().map(|&id| place(id)) {
                assert!(tenant != other || admitted < waiting, "a waiting sequence is overtaken");
                assert!(other.class <= tenant.class, "a class is overtaken by a worse one");
            }
        }
        if is_alone && self.traffic.config.policy == Policy::FirstCome {
            let oldest = self.traffic.oldest_unfinished().expect("a step has sequences");
            let moves = ids.contains(&oldest)
                || self.in_flight.iter().any(|(_, ids)| ids.contains(&oldest));
            assert!(moves, "the oldest sequence stands still");
        }
    }

    fn check(&self) {
        if let Err(message) = self.scheduler.check() {
            panic!("{message}");
        }
        let (cells, stats) = (self.scheduler.block_map(8), self.scheduler.stats());
        let sum = |count: fn(&BlockCell) -> u32| cells.iter().map(count).sum::<u32>();
        let used = (sum(|cell| cell.num_used), stats.num_used_blocks);
        let cached = (sum(|cell| cell.num_cached), stats.num_cached_free_blocks);
        assert!(cells.len() <= 8 && used.0 == used.1 && cached.0 == cached.1, "{cells:?}");
        assert_eq!(sum(|cell| cell.num_blocks), stats.num_blocks);
    }
}

/// Says how to repeat the run that failed.
struct RepeatWith(u64);

impl Drop for RepeatWith {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "repeat with: QUIRE_SIM_SEED={} cargo test --release -p quire-scheduler --test simulation",
                self.0
            );
        }
    }
}

fn run_seed(seed: u64) -> Coverage {
    let _repeat = RepeatWith(seed);
    Simulation::new(seed).run()
}

#[test]
fn random_traffic_gets_the_tokens_of_isolated_runs() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the seed to repeat is the one input of this test"
    )]
    if let Ok(seed) = std::env::var("QUIRE_SIM_SEED") {
        println!("{:?}", run_seed(seed.parse().expect("QUIRE_SIM_SEED is a number")));
        return;
    }
    let mut total = [0; 15];
    for seed in 0..NUM_SEEDS {
        let coverage = run_seed(seed);
        total.iter_mut().zip(coverage.counts()).for_each(|(sum, count)| *sum += count);
    }
    println!("{total:?}");
    assert!(total.iter().all(|&count| count > 100), "something hardly happened: {total:?}");
}

#[test]
fn equal_seeds_make_equal_runs() {
    for seed in 0..10 {
        assert_eq!(format!("{:?}", run_seed(seed)), format!("{:?}", run_seed(seed)));
    }
}
