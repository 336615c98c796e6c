//! What enters and leaves the prefix cache, published over ZeroMQ in vLLM's format for routers that send requests where their
//! prefix is.

mod config;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::counter;
use axum::body::Bytes;
use parking_lot::Mutex;
use quire_engine::CacheEvent;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

pub use config::{KvEventsConfig, Publisher};

/// Ends a replay: -1 as a signed number.
const REPLAY_END: [u8; 8] = (-1_i64).to_be_bytes();

/// One rank's publisher. Events go to `sender`; its thread ends when the last sender is dropped.
pub struct KvPublisher {
    config: KvEventsConfig,
    rank: u32,
    endpoint: String,
    replay_endpoint: Option<String>,
    sender: mpsc::Sender<Vec<CacheEvent>>,
    _thread: JoinHandle<()>,
}

/// Batches that subscribers may ask for again, oldest first.
#[derive(Default)]
struct Sent {
    batches: VecDeque<(u64, Bytes)>,
}

impl KvPublisher {
    /// Binds the sockets of `rank`. The error names the flag.
    pub fn start(config: &KvEventsConfig, rank: u32) -> anyhow::Result<Self> {
        let (sender, receiver) = mpsc::channel(config.max_queue_size.max(1));
        let (bound, is_bound) = std::sync::mpsc::channel();
        let (own, topic_config) = (config.clone(), config.clone());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(publish(topic_config, rank, receiver, &bound)),
                Err(error) => drop(bound.send(Err(error.to_string()))),
            }
        };
        let thread = Builder::new().name("quire-kv-events".into()).spawn(run)?;
        let ended = || Err("the thread ended".to_owned());
        let (endpoint, replay_endpoint) = is_bound
            .recv()
            .unwrap_or_else(|_| ended())
            .map_err(|error| anyhow::anyhow!("--kv-events-config: {error}"))?;
        Ok(Self { config: own, rank, endpoint, replay_endpoint, sender, _thread: thread })
    }

    /// Takes the events of one turn of the engine. Never waits: what finds no room is dropped and counted.
    pub fn sink(&self) -> impl FnMut(Vec<CacheEvent>) + Send + 'static {
        let sender = self.sender.clone();
        let dropped = counter!("quire_kv_events_dropped_total");
        dropped.absolute(0);
        move |events| {
            if sender.try_send(events).is_err() {
                dropped.increment(1);
            }
        }
    }

    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Where it publishes, as bound.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn replay_endpoint(&self) -> Option<&str> {
        self.replay_endpoint.as_deref()
    }

    pub fn config(&self) -> &KvEventsConfig {
        &self.config
    }

    /// The entry of `/kv_event_sources`.
    pub fn describe(&self) -> Value {
        json!({
            "enable_kv_cache_events": true,
            "publisher": "zmq",
            "endpoint": self.endpoint,
            "replay_endpoint": self.replay_endpoint,
            "topic": self.config.topic,
            "hwm": self.config.hwm,
            "buffer_steps": self.config.buffer_steps,
            "max_queue_size": self.config.max_queue_size,
            "encoding": "msgpack",
            "schema_version": 1,
        })
    }
}

type Bound = Result<(String, Option<String>), String>;

async fn publish(
    config: KvEventsConfig,
    rank: u32,
    mut batches: mpsc::Receiver<Vec<CacheEvent>>,
    bound: &std::sync::mpsc::Sender<Bound>,
) {
    let sent = Arc::new(Mutex::new(Sent::default()));
    let mut socket = PubSocket::new();
    let endpoints = bind(&config, rank, &mut socket, &sent).await;
    let failed = endpoints.is_err();
    let _ = bound.send(endpoints);
    if failed {
        return;
    }
    let mut sequence = 0_u64;
    while let Some(events) = batches.recv().await {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let payload = Bytes::from(wire::encode(&events, now, rank));
        sent.lock().keep(sequence, payload.clone(), config.buffer_steps);
        // Who cannot follow misses messages; the next number tells so.
        let _ = socket.send(message(&config.topic, sequence, payload)).await;
        sequence += 1;
    }
}

async fn bind(
    config: &KvEventsConfig,
    rank: u32,
    socket: &mut PubSocket,
    sent: &Arc<Mutex<Sent>>,
) -> Bound {
    let address = config::address_of(&config.endpoint, rank)?;
    let failed = |address: &str, error: zeromq::ZmqError| format!("{address}: {error}");
    let bound = socket.bind(&address).await.map_err(|error| failed(&address, error))?;
    let Some(replay) = &config.replay_endpoint else { return Ok((bound.to_string(), None)) };
    let address = config::address_of(replay, rank)?;
    let mut router = RouterSocket::new();
    let replay = router.bind(&address).await.map_err(|error| failed(&address, error))?;
    tokio::spawn(answer_replays(router, config.topic.clone(), Arc::clone(sent)));
    Ok((bound.to_string(), Some(replay.to_string())))
}

fn message(topic: &str, sequence: u64, payload: Bytes) -> ZmqMessage {
    let mut message = ZmqMessage::from(Bytes::copy_from_slice(topic.as_bytes()));
    message.push_back(Bytes::copy_from_slice(&sequence.to_be_bytes()));
    message.push_back(payload);
    message
}

/// A request is `[peer, "", first wanted]`; each answer begins with the same two frames.
async fn answer_replays(mut router: RouterSocket, topic: String, sent: Arc<Mutex<Sent>>) {
    while let Ok(request) = router.recv().await {
        let frames = request.into_vec();
        let [peer, delimiter, wanted] = frames.as_slice() else { continue };
        let Ok(first) = <[u8; 8]>::try_from(&wanted[..]).map(u64::from_be_bytes) else { continue };
        let kept = sent.lock().since(first);
        let batches =
            kept.into_iter().map(|(sequence, payload)| message(&topic, sequence, payload));
        let mut end = ZmqMessage::from(Bytes::new());
        end.push_back(Bytes::from_static(&REPLAY_END));
        end.push_back(Bytes::new());
        for mut answer in batches.chain([end]) {
            answer.push_front(delimiter.clone());
            answer.push_front(peer.clone());
            if router.send(answer).await.is_err() {
                break;
            }
        }
    }
}

impl Sent {
    fn keep(&mut self, sequence: u64, payload: Bytes, limit: usize) {
        self.batches.push_back((sequence, payload));
        while self.batches.len() > limit {
            self.batches.pop_front();
        }
    }

    fn since(&self, first: u64) -> Vec<(u64, Bytes)> {
        self.batches.iter().filter(|(sequence, _)| *sequence >= first).cloned().collect()
    }
}
