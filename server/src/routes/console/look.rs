//! A look at the engines of a model: figures, blocks and the times of requests. Asked for by many, taken once.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quire_engine::EngineHandle;
use quire_engine::view::{EngineView, MAX_REQUESTS, RequestState, RequestView};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Cells of the map of blocks, of all replicas together.
const MAX_CELLS: u32 = 512;

/// So long a look serves all who ask.
const MAX_AGE: Duration = Duration::from_millis(200);

/// An engine answers between two steps; after so long the page gets what is known without it.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is shown of a model's engines.
#[derive(Default, Serialize)]
pub(super) struct Look {
    replicas: Vec<Value>,
    /// Those that live, the last to come first, then those that have ended, the last to end first; `null`: no engine has
    /// answered in time.
    requests: Option<Vec<Value>>,
}

/// The last look, and when it was taken.
#[derive(Default)]
pub(crate) struct LastLook(Mutex<Option<(Instant, Arc<Look>)>>);

impl LastLook {
    /// A new look, if the last one is too old.
    pub(super) async fn renewed(&self, engine: &EngineHandle) -> Arc<Look> {
        let mut last = self.0.lock().await;
        if let Some((at, look)) = last.as_ref()
            && at.elapsed() < MAX_AGE
        {
            return Arc::clone(look);
        }
        let look = Arc::new(look_at(engine).await);
        *last = Some((Instant::now(), Arc::clone(&look)));
        look
    }
}

async fn look_at(engine: &EngineHandle) -> Look {
    let num_replicas = engine.num_replicas();
    let max_cells = (MAX_CELLS / num_replicas as u32).max(1);
    let views = (0..num_replicas).map(|replica| async move {
        tokio::time::timeout(PATIENCE, engine.view_of(replica, max_cells)).await.ok().flatten()
    });
    let views: Vec<Option<EngineView>> = join_all(views).await;
    let replicas = views.iter().enumerate();
    let replicas = replicas.map(|(index, view)| figures(engine, index, view.as_ref())).collect();
    let is_answered = views.iter().any(Option::is_some);
    Look { replicas, requests: is_answered.then(|| requests(&views)) }
}

fn figures(engine: &EngineHandle, replica: usize, view: Option<&EngineView>) -> Value {
    let stats = engine.stats_of(replica);
    let blocks = |view: &EngineView| -> Vec<[u32; 3]> {
        view.blocks.iter().map(|cell| [cell.num_blocks, cell.num_used, cell.num_cached]).collect()
    };
    json!({
        "num_running": stats.num_running,
        "num_waiting": stats.num_waiting,
        "num_blocks": stats.num_blocks,
        "num_used_blocks": stats.num_used_blocks,
        "num_cached_blocks": stats.num_cached_free_blocks,
        "num_touched_blocks": stats.num_touched_blocks,
        "prefix_cache_queries": stats.prefix_cache_queries,
        "prefix_cache_hits": stats.prefix_cache_hits,
        "num_preemptions": stats.num_preemptions,
        "num_prompt_tokens": view.map(|view| view.totals.num_prompt_tokens),
        "num_generated_tokens": view.map(|view| view.totals.num_generated_tokens),
        // Of each cell: its blocks, those in use, those that keep a prefix.
        "blocks": view.map(blocks),
    })
}

fn requests(views: &[Option<EngineView>]) -> Vec<Value> {
    let (mut live, mut ended) = (Vec::new(), Vec::new());
    for (replica, view) in views.iter().enumerate() {
        let Some(view) = view else { continue };
        live.extend(view.live.iter().map(|request| (replica, request)));
        ended.extend(view.ended.iter().map(|request| (replica, request)));
    }
    let is_waiting = |request: &RequestView| request.state == RequestState::Waiting;
    // Beyond the limit those that wait are left out first; then the last to come are shown first.
    live.sort_by_key(|(_, request)| (is_waiting(request), request.arrival));
    live.truncate(MAX_REQUESTS);
    live.sort_by_key(|(_, request)| Reverse(request.arrival));
    ended.sort_by_key(|(_, request)| Reverse(request.arrival + request.times.e2e));
    ended.truncate(MAX_REQUESTS);
    let has_several = views.len() > 1;
    live.into_iter()
        .chain(ended)
        .map(|(replica, request)| {
            let id = if has_several {
                format!("{replica}.{}", request.id)
            } else {
                request.id.to_string()
            };
            row(id, request)
        })
        .collect()
}

fn row(id: String, request: &RequestView) -> Value {
    let (times, counts) = (&request.times, &request.counts);
    let ms = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
    json!({
        "id": id,
        "state": request.state.name(),
        "age_ms": ms(request.arrival.elapsed()),
        "queue_ms": ms(times.queue),
        "prefill_ms": ms(times.prefill),
        "decode_ms": ms(times.decode),
        "num_prompt_tokens": counts.prompt,
        "num_cached_tokens": counts.cached,
        "num_output_tokens": counts.output,
        "num_preemptions": counts.preemptions,
    })
}
