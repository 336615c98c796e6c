//! Tenants that share a scheduler: who gets how much, how soon, and what one can take from the others. Time is steps, or the
//! work in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use quire_scheduler::tenants::{CREDIT_STEPS, OUTPUT_COST, PROMPT_COST};
use quire_scheduler::{
    CacheGroup, CacheKind, CachePool, NewSequence, Policy, SampledSequence, ScheduledSequence,
    Scheduler, SchedulerConfig, SchedulerOutput, SequenceId, StepOutput, StopRule, Tenant,
    TokenList,
};

const WORD: u32 = 500;
const NUM_ROWS: u32 = 32;
/// What a step costs, in parts of 190 us, as a small model on one thread was timed (benches/results/2026-11-21-tenants.md): something at
/// all, and more for each token of a prompt and each row that decodes; reading the weights alone takes a while.
const STEP_WORK: u64 = 12;
const PROMPT_TOKEN_WORK: u64 = 2;
const DECODE_ROW_WORK: u64 = 3;
const LEAST_STEP_WORK: u64 = 21;
/// Of one tenant; a server takes no more of it.
const MOST_WAITING: u32 = 100;

fn config(num_blocks: u32) -> SchedulerConfig {
    SchedulerConfig {
        block_size: 16,
        pools: vec![CachePool { num_blocks, num_resident_blocks: num_blocks }],
        max_num_seqs: NUM_ROWS,
        max_num_batched_tokens: 256,
        max_model_len: 4096,
        step_overhead_tokens: (STEP_WORK / PROMPT_TOKEN_WORK) as u32,
        max_num_queued_seqs: 100_000,
        long_prefill_token_threshold: 0,
        enable_chunked_prefill: true,
        policy: Policy::FirstCome,
        enable_prefix_caching: true,
        cache_groups: vec![CacheGroup { kind: CacheKind::FullAttention, pool: 0 }],
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn within(&mut self, least: u32, most: u32) -> u32 {
        least + (self.next() % u64::from(most - least + 1)) as u32
    }

    /// Above 0, at most 1.
    fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Happens so many times in a thousand.
    fn thousandths(&mut self, count: u64) -> bool {
        self.next() % 1000 < count
    }
}

/// A tenant's requests: of so many tokens, and how often they come.
#[derive(Copy, Clone)]
struct Load {
    tenant: Tenant,
    prompt: (u32, u32),
    output: (u32, u32),
    arrivals: Arrivals,
}

#[derive(Copy, Clone)]
enum Arrivals {
    /// So many in a thousand steps, each step alike.
    Thousandths(u64),
    /// Whenever fewer than this wait.
    KeepWaiting(u32),
    Never,
}

fn tenant(index: u32, weight: u32, class: i32) -> Tenant {
    Tenant { index, weight, class }
}

fn load(tenant: Tenant, arrivals: Arrivals) -> Load {
    Load { tenant, prompt: (300, 900), output: (16, 48), arrivals }
}

struct Request {
    tenant: u32,
    arrived: u64,
    /// The work that was done by then.
    arrived_at: u64,
    has_begun: bool,
}

struct Machine {
    scheduler: Scheduler,
    random: Random,
    step: u64,
    /// The work of all steps so far.
    work: u64,
    /// Steps in a row that had room for one that waits.
    num_pauses: u32,
    next_id: u64,
    requests: BTreeMap<SequenceId, Request>,
    /// By tenant: weighted tokens, as the scheduler counts them.
    served: BTreeMap<u32, u64>,
    finished: BTreeMap<u32, u64>,
    /// By tenant: steps from arrival to the first token.
    first_tokens: BTreeMap<u32, Vec<u64>>,
    /// By tenant: work from arrival to the first token.
    first_token_work: BTreeMap<u32, Vec<u64>>,
    outputs: Vec<SchedulerOutput>,
}

impl Machine {
    fn new(config: SchedulerConfig, seed: u64) -> Self {
        Self {
            scheduler: Scheduler::new(config).expect("a valid config"),
            random: Random(seed),
            step: 0,
            work: 0,
            num_pauses: 0,
            next_id: 0,
            requests: BTreeMap::new(),
            served: BTreeMap::new(),
            finished: BTreeMap::new(),
            first_tokens: BTreeMap::new(),
            first_token_work: BTreeMap::new(),
            outputs: Vec::new(),
        }
    }

    fn add(&mut self, load: &Load) {
        self.add_at(load, self.work);
    }

    fn add_at(&mut self, load: &Load, arrived_at: u64) {
        self.next_id += 1;
        let id = SequenceId(self.next_id);
        let num_prompt_tokens = self.random.within(load.prompt.0, load.prompt.1);
        let max_tokens = self.random.within(load.output.0, load.output.1);
        let new = NewSequence {
            id,
            prompt: (0..num_prompt_tokens)
                .map(|token| self.next_id as u32 * 5000 + token)
                .collect(),
            stop: StopRule {
                max_tokens,
                min_tokens: 0,
                eos_token_ids: Arc::new([]),
                stop_token_ids: Arc::new([]),
                ignore_eos: true,
            },
            tenant: load.tenant,
            priority: 0,
            cache_salt: 0,
            skip_prefix_cache: false,
        };
        let tenant = load.tenant.index;
        let request = Request { tenant, arrived: self.step, arrived_at, has_begun: false };
        self.requests.insert(id, request);
        self.scheduler.add(new).expect("it fits");
    }

    fn num_waiting(&self, tenant: u32) -> u32 {
        let ids = self.scheduler.waiting_ids();
        ids.filter(|id| self.requests[id].tenant == tenant).count() as u32
    }

    fn run(&mut self, loads: &[Load], num_steps: u64) {
        for _ in 0..num_steps {
            for load in loads {
                let num_new = match load.arrivals {
                    Arrivals::Never => 0,
                    Arrivals::Thousandths(count) => u32::from(self.random.thousandths(count)),
                    Arrivals::KeepWaiting(wanted) => {
                        wanted.saturating_sub(self.num_waiting(load.tenant.index))
                    }
                };
                (0..num_new).for_each(|_| self.add(load));
            }
            self.turn();
        }
    }

    /// Requests come after random times around the mean, which are counted in work, also while a step runs.
    fn run_beside(&mut self, loads: &[(Load, f64)], work: u64) {
        let end = self.work + work;
        let mut due: Vec<f64> = loads.iter().map(|_| self.work as f64).collect();
        // Each tenant has its own, so that what one asks for changes nothing of when others come, and with what.
        let mut randoms: Vec<Random> = loads.iter().map(|_| Random(self.random.next())).collect();
        while self.work < end {
            for (((load, mean), due), random) in loads.iter().zip(&mut due).zip(&mut randoms) {
                while *due <= self.work as f64 {
                    std::mem::swap(random, &mut self.random);
                    if self.num_waiting(load.tenant.index) < MOST_WAITING {
                        self.add_at(load, *due as u64);
                    }
                    *due -= mean * self.random.fraction().ln();
                    std::mem::swap(random, &mut self.random);
                }
            }
            if !self.turn() {
                // Nothing to do until somebody comes.
                self.work = due.iter().copied().fold(f64::MAX, f64::min).ceil() as u64;
            }
        }
    }

    /// One step, if there is anything to do.
    fn turn(&mut self) -> bool {
        self.step += 1;
        let Some(output) = self.scheduler.schedule() else { return false };
        self.work += work_of(&output);
        self.scheduler.check().expect("the invariants hold");
        self.assert_nothing_is_wasted(&output);
        for admitted in &output.admitted {
            let request = self.requests.get_mut(&admitted.id).expect("it is unfinished");
            if !std::mem::replace(&mut request.has_begun, true) {
                let tokens = self.scheduler.tokens(admitted.id).expect("it is unfinished");
                let cost = (tokens.len() as u32 - admitted.num_cached_tokens) * PROMPT_COST;
                *self.served.entry(request.tenant).or_default() += u64::from(cost);
            }
        }
        let sampled = output.sequences.iter().map(|sequence| SampledSequence {
            tokens: if sequence.samples { TokenList::one(WORD) } else { TokenList::EMPTY },
            failed: false,
        });
        let result = StepOutput { step: output.step, sequences: sampled.collect() };
        for event in self.scheduler.update(&result) {
            let request = &self.requests[&event.id];
            let tenant = request.tenant;
            let cost = u64::from(OUTPUT_COST) * event.new_tokens.len() as u64;
            *self.served.entry(tenant).or_default() += cost;
            let is_first = output
                .sequences
                .iter()
                .any(|sequence| sequence.id == event.id && sequence.num_output_tokens == 0);
            if is_first {
                self.first_tokens.entry(tenant).or_default().push(self.step - request.arrived);
                let took = self.work - request.arrived_at;
                self.first_token_work.entry(tenant).or_default().push(took);
            }
            if event.finish.is_some() {
                *self.finished.entry(tenant).or_default() += 1;
                self.requests.remove(&event.id);
            }
        }
        self.outputs.push(output);
        true
    }

    /// Where memory is plenty, somebody waits only while the rows or the tokens of the step are taken.
    fn assert_nothing_is_wasted(&mut self, output: &SchedulerOutput) {
        let stats = self.scheduler.stats();
        let has_room = stats.num_used_blocks * 2 < stats.num_blocks;
        let num_rows = self.scheduler.max_num_seqs();
        let is_shared = self.served.len() > 1;
        // Who is ahead leaves room for others that were here, and for the prompts of others a few steps.
        let (rows, tokens, most_pauses) =
            if is_shared { (num_rows / 2, 16, 8) } else { (num_rows, 256, 0) };
        let is_full = stats.num_running >= rows || output.num_tokens() >= tokens;
        let waits_in_vain = stats.num_waiting > 0 && !is_full && has_room;
        self.num_pauses = if waits_in_vain { self.num_pauses + 1 } else { 0 };
        assert!(self.num_pauses <= most_pauses, "a row waits for nobody: {stats:?}");
    }

    fn served(&self, tenant: u32) -> u64 {
        self.served.get(&tenant).copied().unwrap_or(0)
    }
}

fn work_of(output: &SchedulerOutput) -> u64 {
    let of_sequence = |sequence: &ScheduledSequence| match sequence.num_tokens {
        1 => DECODE_ROW_WORK,
        num_tokens => PROMPT_TOKEN_WORK * u64::from(num_tokens),
    };
    let work = STEP_WORK + output.sequences.iter().map(of_sequence).sum::<u64>();
    work.max(LEAST_STEP_WORK)
}

fn percentile(times: &[u64], percent: usize) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

/// Steps until the first token of requests of tenants 1 to 3 at six tenths of their share, while tenant 0 asks as it likes.
fn first_tokens_beside(flood: Arrivals) -> Vec<u64> {
    let mut all = Vec::new();
    for seed in 0..4 {
        let mut machine = Machine::new(config(4000), seed);
        let others = (1..4).map(|index| load(tenant(index, 1, 0), Arrivals::Thousandths(55)));
        let loads: Vec<Load> =
            std::iter::once(load(tenant(0, 1, 0), flood)).chain(others).collect();
        machine.run(&loads, 5000);
        (1..4)
            .for_each(|index| all.append(&mut machine.first_tokens.remove(&index).expect("some")));
    }
    all
}

#[test]
fn a_flood_hardly_delays_the_others() {
    // The machine begins about 370 requests in 1000 steps: a quarter of them is a share.
    let calm = first_tokens_beside(Arrivals::Thousandths(93));
    let flood = first_tokens_beside(Arrivals::KeepWaiting(250));
    for percent in [50, 90, 99] {
        let (before, after) = (percentile(&calm, percent), percentile(&flood, percent));
        println!("p{percent} of {}: {before} steps, beside a flood {after}", calm.len());
        assert!(after * 10 <= before * 12, "p{percent}: {before} steps, beside a flood {after}");
    }
}

/// What tenants 1 to 3 at six tenths of their share and tenant 0 had of a machine.
struct Beside {
    /// Of tenants 1 to 3: work from arrival to the first token.
    first_token_work: Vec<u64>,
    num_finished: u64,
}

/// The machine of a kind of load while tenant 0 asks for so many shares.
fn beside(load: Load, num_rows: u32, num_shares: f64) -> Beside {
    let mean = |(least, most)| f64::from(least + most) / 2.0;
    // The work of a request on a full machine; four of it are the time between two of a tenant's share.
    let of_row = DECODE_ROW_WORK as f64 + STEP_WORK as f64 / f64::from(num_rows);
    let work = mean(load.prompt) * PROMPT_TOKEN_WORK as f64 + mean(load.output) * of_row;
    let mut all = Beside { first_token_work: Vec::new(), num_finished: 0 };
    for seed in 0..6 {
        let of = |index, shares: f64| {
            (Load { tenant: tenant(index, 1, 0), ..load }, 4.0 * work / shares)
        };
        let loads = [of(0, num_shares), of(1, 0.6), of(2, 0.6), of(3, 0.6)];
        let mut machine =
            Machine::new(SchedulerConfig { max_num_seqs: num_rows, ..config(4000) }, seed);
        machine.run_beside(&loads, 500_000);
        let of_others = (1..4).filter_map(|index| machine.first_token_work.remove(&index));
        all.first_token_work.extend(of_others.flatten());
        all.num_finished += machine.finished.values().sum::<u64>();
    }
    all
}

#[test]
fn a_flood_hardly_adds_work_before_the_first_tokens_of_others() {
    let any = load(Tenant::default(), Arrivals::Never);
    let kinds = [
        ("as timed", (75, 85), (16, 16), 16),
        ("alike", (65, 65), (16, 16), 32),
        ("short", (30, 100), (8, 24), 32),
        ("long prompts", (300, 900), (16, 48), 32),
        ("long answers", (20, 40), (100, 200), 32),
    ];
    for (name, prompt, output, num_rows) in kinds {
        let load = Load { prompt, output, ..any };
        let calm = beside(load, num_rows, 1.0);
        let flood = beside(load, num_rows, 100.0);
        let (before, after) = (calm.num_finished, flood.num_finished);
        println!("{name}: {before} requests finished, beside a flood {after}");
        for percent in [50, 90, 99] {
            let [before, after] =
                [&calm, &flood].map(|all| percentile(&all.first_token_work, percent));
            println!("  p{percent} {before}, beside a flood {after}");
            let is_kept = after * 10 <= before * 12;
            assert!(percent < 99 || is_kept, "{name}: {before}, beside a flood {after}");
        }
    }
}

#[test]
fn rows_of_a_flood_stand_still_for_prompts_of_others_but_not_for_long() {
    let flood = load(tenant(0, 1, 0), Arrivals::KeepWaiting(50));
    let flood = Load { prompt: (20, 40), output: (100, 200), ..flood };
    // Never ahead, with a prompt in each step.
    let other = load(tenant(1, 1000, 0), Arrivals::KeepWaiting(1));
    let other = Load { prompt: (30, 30), output: (1, 1), ..other };
    let mut machine = Machine::new(config(4000), 9);
    machine.run(&[flood, other], 100);
    let begin = machine.outputs.len();
    machine.run(&[flood, other], 300);
    let has_flood = |output: &SchedulerOutput| output.sequences.iter().any(|own| own.start > 40);
    let steps: Vec<bool> = machine.outputs[begin..].iter().map(has_flood).collect();
    let num_with = steps.iter().filter(|has| **has).count();
    assert_eq!(
        num_with,
        steps.len().div_ceil(9),
        "a step in nine has rows of the flood: {steps:?}"
    );
    assert!(steps.windows(9).all(|window| window.contains(&true)));
}

/// The most that the weighted services of two tenants come apart between any two of `num_steps` steps.
fn gap_of(machine: &mut Machine, loads: &[Load; 2], num_steps: u64) -> u64 {
    let weights = loads.map(|load| i64::from(load.tenant.weight));
    let (mut least, mut most) = (i64::MAX, i64::MIN);
    for _ in 0..num_steps {
        machine.run(loads, 1);
        let [first, second] = [0, 1].map(|index| {
            // Over the product of the weights, to stay with whole numbers.
            machine.served(loads[index].tenant.index) as i64 * weights[1 - index]
        });
        least = least.min(first - second);
        most = most.max(first - second);
    }
    (most - least) as u64
}

/// What the paper's theorem 4.4 calls U: the largest prompt, or the answers of a whole batch.
fn batch_cost(loads: &[Load]) -> u64 {
    let prompt = loads.iter().map(|load| load.prompt.1 * PROMPT_COST).max().unwrap_or(0);
    let output = loads.iter().map(|load| load.output.1 * OUTPUT_COST * NUM_ROWS).max().unwrap_or(0);
    u64::from(prompt.max(output))
}

#[test]
fn two_that_always_wait_are_served_alike() {
    for (weights, seed) in [((1, 1), 1), ((1, 3), 2), ((5, 2), 3)] {
        let short = load(tenant(0, weights.0, 0), Arrivals::KeepWaiting(40));
        let loads = [
            Load { prompt: (30, 60), output: (40, 80), ..short },
            Load { prompt: (500, 1000), output: (1, 5), tenant: tenant(1, weights.1, 0), ..short },
        ];
        let mut machine = Machine::new(config(6000), seed);
        let gap = gap_of(&mut machine, &loads, 4000);
        let most = 2 * batch_cost(&loads) * u64::from(weights.0.max(weights.1));
        println!("weights {weights:?}: gap {gap} of {most}, served {:?}", machine.served);
        assert!(gap <= most, "weights {weights:?}: {gap} is more than {most}");
        assert!(machine.served(0).min(machine.served(1)) > 100_000, "too short to tell");
    }
}

#[test]
fn who_was_away_has_saved_up_nothing_but_the_credit() {
    let loads = [0, 1].map(|index| load(tenant(index, 1, 0), Arrivals::KeepWaiting(40)));
    let mut machine = Machine::new(config(4000), 4);
    machine.run(&[loads[0]], 3000);
    let gap = gap_of(&mut machine, &loads, 3000);
    let credit = u64::from(CREDIT_STEPS * 256);
    let most = 2 * batch_cost(&loads) + credit;
    println!("gap {gap} of {most}, served before {:?}", machine.served);
    assert!(gap <= most, "{gap} is more than {most}");
}

#[test]
fn a_small_weight_is_served_too() {
    let big = load(tenant(0, 100, 0), Arrivals::KeepWaiting(100));
    let small = Load { tenant: tenant(1, 1, 0), ..big };
    let mut machine = Machine::new(config(4000), 5);
    let mut finished = 0;
    for round in 0..5 {
        machine.run(&[big, small], 1000);
        let now = machine.finished.get(&1).copied().unwrap_or(0);
        assert!(now > finished, "round {round}: nothing of the small one was served");
        finished = now;
    }
    assert!(machine.finished[&0] > 20 * finished);
}

#[test]
fn a_better_class_goes_first_and_gets_rows_at_once() {
    let first = load(tenant(0, 1, -1), Arrivals::Never);
    let first = Load { prompt: (20, 40), ..first };
    let later = load(tenant(1, 1000, 0), Arrivals::KeepWaiting(100));
    let later = Load { prompt: (20, 40), ..later };
    let mut machine = Machine::new(config(4000), 6);
    machine.run(&[later], 200);
    assert_eq!(machine.scheduler.stats().num_running, NUM_ROWS);
    machine.add(&Load { prompt: (100, 100), ..first });
    machine.run(&[later], 1);
    assert_eq!(machine.first_tokens[&0], [1], "a row is free at once");
    let busy = Load { arrivals: Arrivals::KeepWaiting(50), ..first };
    machine.run(&[busy, later], 10);
    let served = machine.served(1);
    machine.run(&[busy, later], 500);
    assert_eq!(machine.served(1), served, "the later class waits");
    machine.run(&[later], 1000);
    assert!(machine.served(1) > served, "and goes on when the first has nothing to do");
}

#[test]
fn rows_are_given_back_up_to_a_share() {
    let flood = load(tenant(0, 1, 0), Arrivals::KeepWaiting(100));
    let flood = Load { output: (2000, 2000), prompt: (8, 8), ..flood };
    let other = Load { tenant: tenant(1, 1, 0), arrivals: Arrivals::Never, ..flood };
    let mut machine = Machine::new(config(6000), 7);
    machine.run(&[flood], 300);
    (0..40).for_each(|_| machine.add(&other));
    let rows_of_other = |machine: &Machine| {
        let running = machine.scheduler.running_ids();
        running.filter(|id| machine.requests[id].tenant == 1).count() as u32
    };
    let preemptions = |machine: &Machine| machine.scheduler.stats().num_preemptions;
    // Half of its share is left to who had everything, until it is ahead no more.
    machine.run(&[flood], 5);
    assert_eq!(rows_of_other(&machine), NUM_ROWS * 3 / 4);
    assert_eq!(preemptions(&machine), u64::from(NUM_ROWS * 3 / 4));
    machine.run(&[flood], 200);
    assert_eq!(rows_of_other(&machine), NUM_ROWS / 2);
    let num_preemptions = preemptions(&machine);
    machine.run(&[flood], 1000);
    assert_eq!(preemptions(&machine), num_preemptions, "then nobody takes from anybody");
}

#[test]
fn one_tenant_alone_is_served_as_ever_whatever_it_is() {
    let run = |tenant| {
        let mut machine = Machine::new(config(300), 8);
        machine.run(&[load(tenant, Arrivals::Thousandths(500))], 1000);
        machine.outputs
    };
    assert_eq!(run(tenant(0, 1, 0)), run(tenant(9, 70, 3)));
}
