//! What is seen of an engine is what it does, in lists of bounded length.

use quire_engine::handle::EngineHandle;
use quire_engine::request::StreamEvent;
use quire_engine::view::{EngineView, MAX_REQUESTS, RequestState};
use quire_engine::{
    Engine, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams, TokenStream,
};

fn start() -> EngineHandle {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../tests/data/conformance/llama3.gguf");
    let files = ModelFiles::open(path.as_ref()).expect("committed");
    let options = EngineOptions {
        kv_cache_memory: Some(1 << 20),
        threads: Some(1),
        ..EngineOptions::on_cpu()
    };
    let plan = MemoryPlan::new(&files, &options, &Machine::detect()).expect("it fits");
    let engine = Engine::load(&files, &plan, &[], &|_, _| ()).expect("it loads");
    engine.spawn().expect("it starts").0
}

fn ask(handle: &EngineHandle, seed: u32, num_tokens: u32) -> TokenStream {
    let prompt = (0..20).map(|index| (index * 7 + seed * 13) % 500).collect();
    handle.generate(Request::new(prompt, SamplingParams::greedy(num_tokens))).expect("valid")
}

fn look(handle: &EngineHandle, max_cells: u32) -> EngineView {
    futures_executor::block_on(handle.view_of(0, max_cells)).expect("it runs")
}

fn to_the_end(mut stream: TokenStream) {
    while stream.blocking_next().is_some() {}
}

#[test]
fn an_idle_engine_is_seen() {
    let handle = start();
    let view = look(&handle, 512);
    assert!(view.live.is_empty() && view.ended.is_empty());
    assert!(view.blocks.iter().all(|cell| cell.num_used == 0 && cell.num_blocks > 0));
}

#[test]
fn a_request_is_seen_to_run() {
    let handle = start();
    // The engine may be faster than who looks.
    let seen = (0..1000).find_map(|seed| {
        let mut stream = ask(&handle, seed, 400);
        while !matches!(stream.blocking_next(), Some(StreamEvent::Token(_))) {}
        Some(look(&handle, 512)).filter(|view| !view.live.is_empty())
    });
    let view = seen.expect("one of them ran");
    let request = view.live.last().expect("it was not empty");
    assert_eq!((request.state, request.counts.prompt), (RequestState::Running, 20));
    assert!(request.counts.output > 0 && view.totals.num_generated_tokens > 0);
    assert!(view.blocks.iter().any(|cell| cell.num_used > 0));
}

#[test]
fn the_last_requests_to_end_are_kept() {
    let handle = start();
    let num_requests = MAX_REQUESTS as u32 + 6;
    (0..num_requests).for_each(|seed| to_the_end(ask(&handle, seed, 3)));
    let view = look(&handle, 512);
    assert!(view.live.is_empty());
    let ids: Vec<u64> = view.ended.iter().map(|request| request.id).collect();
    let num = u64::from(num_requests);
    let expected: Vec<u64> = (num - MAX_REQUESTS as u64..num).rev().collect();
    assert_eq!(ids, expected, "the last ones");
    for request in &view.ended {
        assert_eq!(request.state, RequestState::Ended("length"));
        let (times, counts) = (&request.times, &request.counts);
        assert_eq!((counts.prompt, counts.output), (20, 3));
        assert!(times.queue + times.prefill + times.decode <= times.e2e);
        assert!(!times.prefill.is_zero() && !times.decode.is_zero());
    }
    let totals = (view.totals.num_prompt_tokens, view.totals.num_generated_tokens);
    assert_eq!(totals, (20 * num, 3 * num));
}

#[test]
fn blocks_are_gathered_into_as_many_cells_as_are_wanted() {
    let handle = start();
    to_the_end(ask(&handle, 1, 3));
    let (stats, num_blocks) = (handle.stats(), handle.info().num_blocks);
    for max_cells in [0, 1, 7, 512] {
        let cells = look(&handle, max_cells).blocks;
        assert!(cells.len() <= max_cells.max(1) as usize, "{max_cells}");
        assert_eq!(cells.iter().map(|cell| cell.num_blocks).sum::<u32>(), num_blocks);
        assert_eq!(cells.iter().map(|cell| cell.num_used).sum::<u32>(), 0);
        let num_cached: u32 = cells.iter().map(|cell| cell.num_cached).sum();
        assert_eq!((num_cached, stats.num_cached_free_blocks), (1, 1), "{max_cells}");
        let sizes: Vec<u32> = cells.iter().map(|cell| cell.num_blocks).collect();
        assert!(sizes[..sizes.len() - 1].iter().all(|&size| size == sizes[0]), "{sizes:?}");
    }
}

#[test]
fn an_engine_that_has_ended_is_not_waited_for() {
    let (handle, queue) = EngineHandle::new(start().info().clone());
    drop(queue);
    assert!(futures_executor::block_on(handle.view_of(0, 512)).is_none());
}
