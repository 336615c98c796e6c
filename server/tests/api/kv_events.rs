//! Events of the prefix cache over ZeroMQ, read by a subscriber.

use std::sync::Arc;
use std::time::Duration;

use quire_engine::{CacheEvent, EngineHandle};
use quire_server::grpc;
use quire_server::kv_events::{KvEventsConfig, KvPublisher};
use quire_server::metrics::Metrics;
use serde_json::{Value, json};
use vllm_proto::control_client::ControlClient;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

use crate::support::{TestServer, config, engine_info, served_model};

fn publisher() -> KvPublisher {
    let config = json!({
        "enable_kv_cache_events": true, "endpoint": "tcp://127.0.0.1:0",
        "replay_endpoint": "tcp://127.0.0.1:0", "topic": "kv@here@tiny", "buffer_steps": 2,
    });
    let config = KvEventsConfig::parse(&config.to_string()).unwrap();
    KvPublisher::start(&config, 0).unwrap()
}

/// A batch as JSON.
fn decoded(payload: &[u8]) -> Value {
    rmp_serde::from_slice(payload).unwrap()
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("nothing came")
}

#[tokio::test]
async fn subscribers_read_what_is_cached() {
    let publisher = publisher();
    let mut sink = publisher.sink();
    let mut subscriber = SubSocket::new();
    subscriber.connect(publisher.endpoint()).await.unwrap();
    subscriber.subscribe("kv@").await.unwrap();
    let stored = CacheEvent::Stored { hash: 7, parent: Some(5), tokens: vec![1, 2, 3] };
    // What is published before the subscription takes effect is lost: the first to arrive counts.
    let first = soon(async {
        loop {
            sink(vec![stored.clone(), CacheEvent::Removed { hash: 9 }]);
            let wait = tokio::time::timeout(Duration::from_millis(50), subscriber.recv());
            if let Ok(message) = wait.await {
                return message.unwrap();
            }
        }
    })
    .await;
    let frames = first.into_vec();
    assert_eq!(&frames[0][..], b"kv@here@tiny");
    assert_eq!(frames[1].len(), 8);
    let batch = decoded(&frames[2]);
    assert!(batch[0].as_f64().unwrap() > 1.7e9);
    let expected = json!([
        {
            "type": "BlockStored", "block_hashes": [7], "parent_block_hash": 5,
            "token_ids": [1, 2, 3], "block_size": 3, "lora_id": null, "medium": "GPU",
            "lora_name": null,
        },
        {"type": "BlockRemoved", "block_hashes": [9], "medium": "GPU"},
    ]);
    assert_eq!((&batch[1], &batch[2]), (&expected, &json!(0)));
}

#[tokio::test]
async fn what_was_missed_is_sent_again() {
    let publisher = publisher();
    let mut sink = publisher.sink();
    for hash in 0..4 {
        sink(vec![CacheEvent::Removed { hash }]);
    }
    let mut dealer = DealerSocket::new();
    dealer.connect(publisher.replay_endpoint().unwrap()).await.unwrap();
    let ask = |first: u64| {
        let mut request = ZmqMessage::from(Vec::new());
        request.push_back(first.to_be_bytes().to_vec().into());
        request
    };
    // Of four batches the last two are kept, once all were sent.
    let numbers = soon(async {
        loop {
            dealer.send(ask(1)).await.unwrap();
            let mut numbers = Vec::new();
            loop {
                let frames = dealer.recv().await.unwrap().into_vec();
                assert_eq!((frames.len(), frames[0].len()), (4, 0), "a delimiter and three frames");
                let number = i64::from_be_bytes(frames[2][..].try_into().unwrap());
                if number == -1 {
                    assert!(frames[1].is_empty() && frames[3].is_empty());
                    break;
                }
                assert_eq!(&frames[1][..], b"kv@here@tiny");
                let batch = decoded(&frames[3]);
                assert_eq!(batch[1][0]["block_hashes"], json!([number]));
                numbers.push(number);
            }
            if numbers == [2, 3] {
                return numbers;
            }
        }
    })
    .await;
    assert_eq!(numbers.len(), 2);
}

#[tokio::test]
async fn a_subscriber_that_reads_nothing_costs_events_and_no_time() {
    let metrics = Metrics::install();
    let config = json!({
        "enable_kv_cache_events": true, "endpoint": "tcp://127.0.0.1:0", "max_queue_size": 1,
        "buffer_steps": 2,
    });
    let config = KvEventsConfig::parse(&config.to_string()).unwrap();
    let publisher = KvPublisher::start(&config, 0).unwrap();
    let mut subscriber = SubSocket::new();
    subscriber.connect(publisher.endpoint()).await.unwrap();
    subscriber.subscribe("").await.unwrap();
    let mut sink = publisher.sink();
    // It returns each time, whoever reads.
    for hash in 0..20_000 {
        sink(vec![CacheEvent::Stored { hash, parent: None, tokens: vec![7; 1000] }]);
    }
    let text = metrics.render();
    let dropped = text.lines().find(|line| line.starts_with("quire_kv_events_dropped_total "));
    assert!(dropped.is_some_and(|line| !line.ends_with(" 0")), "{dropped:?}");
}

#[tokio::test]
async fn routers_are_told_where_to_subscribe() {
    let server = TestServer::loading(config());
    let (handle, _queue) = EngineHandle::new(engine_info());
    let mut model = served_model(handle);
    model.kv_publishers = vec![publisher()];
    let endpoint = model.kv_publishers[0].endpoint().to_owned();
    server.state.set_model(model);
    let sources = server.get("/kv_event_sources").await.json();
    assert_eq!(
        (&sources["0"]["endpoint"], &sources["0"]["publisher"]),
        (&json!(endpoint), &json!("zmq"))
    );
    assert_eq!(sources["0"]["topic"], "kv@here@tiny");
    let mut control = ControlClient::new(grpc::router(Arc::clone(&server.state)));
    let asked = vllm_proto::GetKvEventSourcesRequest::default();
    let sources = control.get_kv_event_sources(asked).await.unwrap().into_inner().sources;
    assert_eq!(
        (sources[0].endpoint.as_str(), sources[0].transport.as_str()),
        (endpoint.as_str(), "zmq")
    );
    assert_eq!(sources[0].data_parallel_rank, Some(0));
}

#[test]
fn an_endpoint_that_cannot_be_bound_is_named() {
    let taken = publisher();
    let config = json!({"enable_kv_cache_events": true, "endpoint": taken.endpoint()});
    let config = KvEventsConfig::parse(&config.to_string()).unwrap();
    let Err(error) = KvPublisher::start(&config, 0) else { panic!("bound twice") };
    assert!(error.to_string().starts_with("--kv-events-config: tcp://127.0.0.1:"), "{error}");
}
