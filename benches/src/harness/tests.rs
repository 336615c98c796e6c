//! quire-bench against servers of a set pace, which misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::args::Args;
use super::compare::Winner;
use super::failure::FailureKind;
use super::measures::{Level, Load};
use super::mock::{Fault, MockOptions, spawn};
use super::outcome::{Outcome, REGRESSION};
use super::target::dial::HTTP1;
use super::target::dial::tests::front;
use super::{console, page, session};
use crate::report::write_json;
use clap::Parser;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Runs quire-bench against servers of this process; `flags` as on a command line.
async fn bench(servers: &[MockOptions], flags: &str) -> anyhow::Result<Outcome> {
    let mut words = vec!["quire-bench".to_owned()];
    for options in servers {
        let address = spawn(options.clone()).await;
        words.extend(["--base-url".to_owned(), format!("http://{address}")]);
    }
    words.extend(flags.split_whitespace().map(str::to_owned));
    session::execute(&Args::try_parse_from(words)?).await
}

fn with_fault(fault: Fault, every: u64) -> MockOptions {
    let (first, gap) = (Duration::from_millis(1), Duration::ZERO);
    MockOptions { first, gap, fault: Some((fault, every)), ..MockOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_meets_the_pace_of_the_server() {
    let pace = MockOptions {
        first: Duration::from_millis(40),
        gap: Duration::from_millis(10),
        ..MockOptions::default()
    };
    let outcome = bench(&[pace], "--concurrency 2,4 --requests 8 --max-tokens 6 --ramp-up 0.02")
        .await
        .expect("it runs");
    assert_eq!(outcome.levels.len(), 2);
    for (level, users) in outcome.levels.iter().zip([2, 4]) {
        assert_eq!((level.requests, level.failures, level.load.users), (8, 0, Some(users)));
        assert_eq!((level.output_tokens, level.prompt_tokens, level.itl.count), (6.0, 10.0, 40));
        // The server is never early; how late it is, is the machine's affair.
        assert!(level.ttft.curve[0] >= 40.0 && level.ttft.p50 < 200.0, "{:?}", level.ttft);
        assert!(level.tpot.p50 >= 9.0 && level.e2e.curve[0] >= 90.0, "{:?}", level.tpot);
        assert!(level.mean_running <= users as f64 && level.peak_running == users);
        let tokens = level.output_tokens_per_second * level.seconds;
        assert!((tokens - 48.0).abs() < 1e-6 && level.timeline.pieces.len() > 1, "{tokens}");
    }
    let text = console::text(&outcome);
    assert!(text.contains("| 2 users |") && text.contains("tokens/s at"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_counted_as_what_it_is() {
    use FailureKind as Kind;
    let cases = [
        (Fault::TooManyRequests, Some(Kind::TooManyRequests)),
        (Fault::Unavailable, Some(Kind::Unavailable)),
        (Fault::Garbage, Some(Kind::Garbage)),
        (Fault::NotHttp, Some(Kind::Garbage)),
        (Fault::Endless, Some(Kind::Endless)),
        (Fault::WrongUsage, Some(Kind::WrongUsage)),
        (Fault::Cut, Some(Kind::Cut)),
        (Fault::Silent, Some(Kind::Silent)),
        (Fault::Empty, Some(Kind::Empty)),
        (Fault::Error, Some(Kind::ServerError)),
        (Fault::NoUsage, None),
        (Fault::HugeLine, None),
    ];
    for (fault, kind) in cases {
        let flags = "--concurrency 2 --requests 6 --max-tokens 4 --timeout 0.5 --warmup 0 --goodput e2el:10000";
        let outcome = bench(&[with_fault(fault, 2)], flags).await.expect("it runs");
        let level = &outcome.levels[0];
        let failed: Vec<(Kind, usize)> = level.failures_by_kind.clone().into_iter().collect();
        let expected: Vec<(Kind, usize)> = kind.map(|kind| (kind, 3)).into_iter().collect();
        assert_eq!(failed, expected, "{fault:?}: {:?}", level.first_failure);
        let (answered, goodput) = (6 - level.failures, level.goodput.expect("objectives"));
        assert_eq!((level.ttft.count, level.requests), (answered, 6), "{fault:?}");
        assert!((goodput.share - answered as f64 / 6.0).abs() < 1e-12, "{fault:?}");
        assert_eq!(level.counted_by_chunks, if fault == Fault::NoUsage { 3 } else { 0 });
        let is_plain = |c: char| !c.is_control() || c == '\n';
        for text in [console::text(&outcome), page::page(&outcome)] {
            assert!(text.chars().all(is_plain), "{fault:?}: {text:?}");
            assert!(!text.contains("<script") || !text.contains("<html"), "{fault:?}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_fails_what_it_owes() {
    let dies = MockOptions { dies_after: Some(11), ..with_fault(Fault::NoUsage, 1000) };
    let flags = "--concurrency 3 --requests 30 --max-tokens 4 --timeout 5";
    let outcome = bench(&[dies], flags).await.expect("it runs");
    let level = &outcome.levels[0];
    // One of the eleven was not counted; those under way at the end may be cut.
    assert_eq!(level.requests, 30);
    assert!(
        (18..=20).contains(&(level.requests - level.failures)) || level.failures >= 20,
        "{level:?}"
    );
    assert!(
        level
            .failures_by_kind
            .keys()
            .all(|kind| [FailureKind::Cut, FailureKind::Unreachable].contains(kind))
    );
    assert!(console::text(&outcome).contains("requests failed"));
}

/// A server that pauses 0.2 s once in a second, under 100 requests a second of which two may run at once. A client that waits for its
/// places asks less during a pause: from sending only two requests a pause are late. From the intended time a fifth are, and those
/// wait 0.1 s on average.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_seen_by_all_who_were_to_ask_in_it() {
    let pauses = MockOptions {
        pause: Some((Duration::from_millis(200), Duration::from_secs(1))),
        ..with_fault(Fault::NoUsage, u64::MAX)
    };
    let flags = "--rate 100 --duration 3 --max-concurrency 2 --max-tokens 1 --burstiness inf";
    let outcome = bench(&[pauses], flags).await.expect("it runs");
    let level = &outcome.levels[0];
    assert_eq!((level.requests, level.failures), (300, 0));
    let late = level.ttft.curve.iter().filter(|&&ttft| ttft > 40.0).count();
    assert!(late >= 5, "p90 and above are late: {:?}", level.ttft);
    assert!(level.ttft.p90 > 50.0 && level.ttft.p99 > 150.0, "{:?}", level.ttft);
    assert!(level.ttft_from_sending.p90 < level.ttft.p90 / 2.0, "{:?}", level.ttft_from_sending);
    // Waiting for a place is the server's doing, not this client's.
    assert!(level.client.dispatch.p90 < level.ttft.p90 / 2.0, "{:?}", level.client.dispatch);
    // Nobody waited longer than a pause and its backlog.
    assert!(level.ttft.max < 1000.0, "{:?}", level.ttft);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_apis_and_conversations_are_counted_alike() {
    let pace = MockOptions {
        first: Duration::from_millis(1),
        gap: Duration::ZERO,
        ..MockOptions::default()
    };
    let cases = [
        ("--api ollama", 6),
        ("--api completions", 6),
        ("--workload turns --turns 3", 18),
        ("--workload prefix", 6),
        ("--workload sharegpt", 6),
    ];
    for (flags, requests) in cases {
        let flags =
            format!("{flags} --concurrency 2 --requests 6 --max-tokens 5 --prompt-words 20");
        let outcome = bench(std::slice::from_ref(&pace), &flags).await.expect(&flags);
        let level = &outcome.levels[0];
        assert_eq!(
            (level.requests, level.failures, level.counted_by_chunks),
            (requests, 0, 0),
            "{flags}"
        );
    }
    // What it says goes in place of what is sent anyway: the answer has another length.
    let flags = r#"--extra-body {"max_tokens":4} --requests 6 --max-tokens 5 --concurrency 2"#;
    let error = bench(std::slice::from_ref(&pace), flags).await.expect_err(flags);
    assert!(format!("{error:#}").contains("4 tokens"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_faster_of_two_servers_is_named() {
    let pace = |gap| MockOptions {
        first: Duration::from_millis(1),
        gap: Duration::from_millis(gap),
        ..MockOptions::default()
    };
    let flags = "--concurrency 2 --requests 4 --max-tokens 12 --name quick --name slow --rounds 3";
    let outcome = bench(&[pace(4), pace(16)], flags).await.expect("it runs");
    let order: Vec<&str> = outcome.levels.iter().map(|level| level.target.as_str()).collect();
    assert_eq!(order, ["quick", "slow", "quick", "slow", "quick", "slow"]);
    let comparison = outcome.comparison.as_ref().expect("two servers");
    let rate = &comparison.ratios[0];
    assert_eq!((rate.winner, comparison.rounds), (Winner::A, 3), "{rate:?}");
    assert!(outcome.headline().1.starts_with("quick makes"), "{:?}", outcome.headline());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_rate_is_found() {
    // One at a time, 20 ms each: 50 a second would be all; what comes above that waits longer and longer.
    let single = MockOptions {
        first: Duration::from_millis(20),
        gap: Duration::ZERO,
        slots: 1,
        ..MockOptions::default()
    };
    let flags = "--find-rate --rate 10 --goodput ttft:400 --goodput-share 0.8 --duration 2 --max-tokens 1 --allow-late";
    let outcome = bench(&[single], flags).await.expect("it runs");
    let search = &outcome.searches[0];
    let best = search.best.expect("ten a second are easy");
    assert!(best < 80.0, "{:?}", search.probes);
    assert!(search.probes.iter().any(|probe| probe.missed.is_some()), "{:?}", search.probes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_is_a_gate() {
    let pace = |gap| MockOptions {
        first: Duration::from_millis(1),
        gap: Duration::from_millis(gap),
        ..MockOptions::default()
    };
    let path = std::env::temp_dir().join(format!("quire-baseline-{}.json", std::process::id()));
    let flags = "--concurrency 2 --requests 4 --max-tokens 8";
    let before = bench(&[pace(4)], flags).await.expect("it runs");
    write_json(Some(&path), &before).expect("written");
    let gated = format!("{flags} --tolerance 0.5 --baseline {}", path.display());
    let slower = bench(&[pace(16)], &gated).await.expect("it runs");
    assert!(
        slower.headline().1.starts_with("Regression: output tokens/s"),
        "{:?}",
        slower.headline()
    );
    assert!(slower.exit_code() >= REGRESSION);
    let other = gated.replace("--max-tokens 8", "--max-tokens 9");
    let refused = bench(&[pace(4)], &other).await.expect("it runs");
    assert_eq!(refused.exit_code(), 1);
    assert!(
        refused.headline().1.contains("answer tokens 8, this run has 9"),
        "{:?}",
        refused.headline()
    );
    std::fs::write(&path, "{}").expect("written");
    let garbage = bench(&[pace(4)], &gated).await.expect("it runs");
    assert!(garbage.gate_error.expect("refused").contains("no JSON of quire-bench"));
    std::fs::remove_file(&path).expect("it is there");
}

/// A refusal that was read whole costs no connection.
#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_refusals() {
    let server = spawn(with_fault(Fault::TooManyRequests, 2)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let num_connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&num_connections);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    let flags = format!("--base-url http://{address} --concurrency 1 --requests 20");
    let outcome = bench(&[], &flags).await.expect("it runs");
    assert!(outcome.levels[0].failures >= 9, "{:?}", outcome.levels[0].failures);
    assert_eq!(num_connections.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_and_dead_servers_are_named() {
    let pace = MockOptions::default();
    let errors = [
        ("--concurrency 0", "--concurrency"),
        ("--rate 0", "--rate"),
        ("--goodput ttft", "--goodput ttft"),
        ("--find-rate", "--goodput"),
        ("--workload trace", "--input"),
        ("--base-url ftp://x --base-url http://y", "one server, or two"),
        ("--api grpc --extra-body {}", "--extra-body"),
        ("--concurrency 30000000", "open files"),
    ];
    for (flags, expected) in errors {
        let error = bench(std::slice::from_ref(&pace), flags).await.expect_err(flags);
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{flags}: {error}");
    }
    let flags =
        Args::try_parse_from(["quire-bench", "--base-url", "http://127.0.0.1:9"]).expect("flags");
    let error = format!("{:#}", session::execute(&flags).await.expect_err("nobody is there"));
    assert!(error.contains("the first request") && error.contains("no connection"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_spoken_with_an_authority_of_ones_own() {
    let (port, ca) = front(spawn(MockOptions::default()).await, HTTP1).await;
    let flags = "--concurrency 2 --requests 4 --max-tokens 4";
    let words = format!("quire-bench --base-url https://localhost:{port} {flags}");
    let run = async |words: &str| {
        session::execute(&Args::try_parse_from(words.split_whitespace()).expect("flags")).await
    };
    let outcome = run(&format!("{words} --ca {}", ca.display())).await.expect("it runs");
    let level = &outcome.levels[0];
    assert_eq!((level.requests, level.failures), (4, 0), "{:?}", level.first_failure);
    let error = format!("{:#}", run(&words).await.expect_err("nobody vouches for it"));
    assert!(error.contains("no connection: TLS: "), "{error}");
    // The certificate is of another name.
    let other = words.replace("localhost", "127.0.0.1");
    let error = run(&format!("{other} --ca {}", ca.display())).await.expect_err("another name");
    assert!(format!("{error:#}").contains("TLS: "), "{error:#}");
    std::fs::remove_file(ca).expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_ends_by_its_time_alone() {
    let quick = with_fault(Fault::NoUsage, u64::MAX);
    let path = std::env::temp_dir().join(format!("quire-chats-{}.jsonl", std::process::id()));
    std::fs::write(&path, "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n").expect("written");
    let flags = "--concurrency 4 --duration 0.5 --max-tokens 1";
    let outcome = bench(std::slice::from_ref(&quick), flags).await.expect("it runs");
    assert!(outcome.levels[0].requests > 8 && outcome.levels[0].repeated == 0);
    let flags = format!("{flags} --workload sharegpt --input {}", path.display());
    let outcome = bench(&[quick], &flags).await.expect("it runs");
    let level = &outcome.levels[0];
    assert!(level.requests > 8 && level.repeated + 2 >= level.requests, "{}", level.repeated);
    assert!(console::text(&outcome).contains("had been held before"));
    std::fs::remove_file(&path).expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_replayed_at_its_times() {
    let quick = with_fault(Fault::NoUsage, u64::MAX);
    let path = std::env::temp_dir().join(format!("quire-trace-{}.jsonl", std::process::id()));
    let line =
        |at: u32| format!("{{\"timestamp\":{at},\"input_length\":30,\"output_length\":3}}\n");
    std::fs::write(&path, [0, 1000, 2000, 9000].map(line).concat()).expect("written");
    let flags = format!("--workload trace --input {} --speed 10 --duration 0.5", path.display());
    let outcome = bench(&[quick], &flags).await.expect("it runs");
    let level = &outcome.levels[0];
    // The last would begin after the end.
    assert_eq!((level.requests, level.failures, level.output_tokens), (3, 0, 3.0));
    assert!((0.2..5.0).contains(&level.seconds), "{}", level.seconds);
    std::fs::remove_file(&path).expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_many_levels_is_small_and_alone() {
    let quick = [with_fault(Fault::HugeLine, 3), MockOptions::default()];
    let flags = "--concurrency 8 --requests 60 --max-tokens 4 --rounds 1 --goodput ttft:100";
    let mut outcome = bench(&quick, flags).await.expect("it runs");
    let levels = outcome.levels.clone();
    for users in [1, 2, 4, 16, 32, 64, 128, 256] {
        let load = Load { users: Some(users), rate: None };
        for _ in 0..3 {
            outcome.levels.extend(levels.iter().map(|level| Level { load, ..level.clone() }));
        }
    }
    let page = page::page(&outcome);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
    // It asks nobody for anything.
    for word in ["http://", "https://", "src=", "<link", "<script", "@import", "url("] {
        let found = page.find(word).map(|at| &page[at..page.floor_char_boundary(at + 80)]);
        assert!(found.is_none_or(|found| found.contains("127.0.0.1")), "{word}: {found:?}");
    }
}
