//! `quire pull` against a hub of our own on this machine.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::get;
use quire_server::http::connections::{Connections, Protocol};
use quire_server::limits::ServerLimits;
use sha2::{Digest, Sha256};

const SHA_OF_ANOTHER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// How the range of a big file begins whose connection breaks.
const CUT_RANGE: &str = "bytes=16777216";
const COMMIT: &str = "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd";

/// A hub that serves one file, `m-Q4_0.gguf`, in the manner that the repository's name says.
#[derive(Clone)]
struct Hub {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request for a file's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    path: String,
    range: Option<String>,
    has_token: bool,
}

#[test]
fn a_whole_file_arrives_under_its_name() {
    let (hub, models) = (Hub::start(), Models::new("whole"));
    let output = models.pull(&hub, "org/plain");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(models.files(), ["org/plain/m-Q4_0.gguf"]);
    assert_eq!(models.read("org/plain/m-Q4_0.gguf"), content());
    assert!(stdout(&output).contains("quire serve"), "{}", stdout(&output));
    assert!(stderr(&output).contains("100% of"), "{}", stderr(&output));

    let requests = hub.take_seen();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].path, format!("/org/plain/resolve/{COMMIT}/m-Q4_0.gguf"));
    let again = models.pull(&hub, "org/plain");
    assert!(again.status.success() && stderr(&again).contains("already"), "{}", stderr(&again));
    assert_eq!(hub.take_seen(), []);
}

#[test]
fn a_repository_without_gguf_arrives_as_a_directory() {
    let (hub, models) = (Hub::start(), Models::new("directory"));
    let output = models.pull(&hub, "org/directory");
    assert!(output.status.success(), "{}", stderr(&output));
    let mut files = models.files();
    files.sort();
    let expected = ["config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(files, expected.map(|name| format!("org/directory/{name}")));
    assert_eq!(models.read("org/directory/model.safetensors"), content());
    assert!(stdout(&output).trim_end().ends_with("org/directory"), "{}", stdout(&output));
}

#[test]
fn a_redirect_is_followed_and_the_token_stays_at_home() {
    let (hub, models) = (Hub::start(), Models::new("redirect"));
    let output = models.pull(&hub, "org/redirect");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(models.read("org/redirect/m-Q4_0.gguf"), content());
    let requests = hub.take_seen();
    let tokens: Vec<(&str, bool)> =
        requests.iter().map(|seen| (&seen.path[..5], seen.has_token)).collect();
    assert_eq!(tokens, [("/org/", true), ("/cdn/", false)]);
}

#[test]
fn a_partial_file_is_resumed() {
    let (hub, models) = (Hub::start(), Models::new("resume"));
    let half = content().len() / 2;
    models.write_part("org/plain", &content()[..half]);
    let output = models.pull(&hub, "org/plain");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(models.files(), ["org/plain/m-Q4_0.gguf"]);
    assert_eq!(models.read("org/plain/m-Q4_0.gguf"), content());
    assert_eq!(hub.take_seen()[0].range, Some(format!("bytes={half}-")));
}

#[test]
fn a_hub_without_ranges_starts_over() {
    let (hub, models) = (Hub::start(), Models::new("norange"));
    models.write_part("org/norange", &content()[..1000]);
    let output = models.pull(&hub, "org/norange");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(models.read("org/norange/m-Q4_0.gguf"), content());
}

#[test]
fn a_connection_that_breaks_is_taken_up_again() {
    let (hub, models) = (Hub::start(), Models::new("cut"));
    let output = models.pull(&hub, "org/cut");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(models.read("org/cut/m-Q4_0.gguf"), content());
    let requests = hub.take_seen();
    assert!(requests.len() >= 2 && requests[1].range.is_some(), "{requests:?}");
}

#[test]
fn a_wrong_checksum_leaves_no_file() {
    for repo in ["org/wrong", "org/wrong-etag"] {
        let (hub, models) = (Hub::start(), Models::new("wrong"));
        let output = models.pull(&hub, repo);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("checksum is wrong"), "{}", stderr(&output));
        assert!(models.files().is_empty(), "{:?}", models.files());
    }
}

#[test]
fn a_spoilt_part_is_found_out_and_deleted() {
    let (hub, models) = (Hub::start(), Models::new("spoilt"));
    models.write_part("org/plain", &[7; 1000]);
    let output = models.pull(&hub, "org/plain");
    assert!(stderr(&output).contains("checksum is wrong"), "{}", stderr(&output));
    assert!(models.files().is_empty(), "{:?}", models.files());
    assert!(models.pull(&hub, "org/plain").status.success());
}

#[test]
fn mistakes_are_one_clear_sentence() {
    let (hub, models) = (Hub::start(), Models::new("mistakes"));
    for (name, sentence) in [
        ("org/none", "there is no org/none"),
        ("org/gated", "HF_TOKEN"),
        ("org/loop", "redirects"),
        ("org/safetensors", "no GGUF file"),
        ("org/plain:Q8_0", "org/plain:m-Q4_0.gguf"),
        ("org/huge", "--models-dir"),
        ("org/evil", "no GGUF file"),
        ("../plain", "not a model name"),
        ("org/plain:../x.gguf", "neither"),
    ] {
        let output = models.pull(&hub, name);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.starts_with("error: ") && text.contains(sentence), "{name}: {text}");
        assert!(!text.contains("backtrace") && !text.contains("panicked"), "{name}: {text}");
    }
    assert!(models.files().is_empty(), "{:?}", models.files());
}

#[test]
fn a_planted_link_is_not_followed() {
    let (hub, models) = (Hub::start(), Models::new("link"));
    let outside = Models::new("link-outside");
    let (victim, folder) = (outside.dir.join("victim"), models.dir.join("org/plain"));
    std::fs::write(&victim, b"mine").unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    let part = folder.join(part_name());
    std::os::unix::fs::symlink(&victim, &part).unwrap();
    let output = models.pull(&hub, "org/plain");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot be written"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
    // In the place of the file itself it is replaced.
    std::fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink(&victim, folder.join("m-Q4_0.gguf")).unwrap();
    assert!(models.pull(&hub, "org/plain").status.success());
    assert_eq!(models.read("org/plain/m-Q4_0.gguf"), content());
    assert!(folder.join("m-Q4_0.gguf").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
}

#[test]
fn a_disk_that_is_full_in_the_middle_loses_nothing() {
    let (hub, models) = (Hub::start(), Models::new("full"));
    // No file of this process may be longer than 1 MiB: writes fail there.
    let limit = ["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "bash"];
    let output = models.command(&hub, "org/plain", &limit).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot be written"), "{}", stderr(&output));
    let part = format!("org/plain/{}", part_name());
    assert_eq!(models.files(), [part.as_str()]);
    assert_eq!(models.read(&part), content()[..1 << 20]);
    hub.take_seen();
    assert!(models.pull(&hub, "org/plain").status.success());
    assert_eq!(hub.take_seen()[0].range, Some(format!("bytes={}-", 1 << 20)));
    assert_eq!(models.read("org/plain/m-Q4_0.gguf"), content());
}

#[test]
fn two_pulls_of_one_model_do_not_meet() {
    let (hub, models) = (Hub::start(), Models::new("two"));
    let start = || {
        let mut command = models.command(&hub, "org/slow", &[]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let outputs = [start(), start()].map(|child| child.wait_with_output().unwrap());
    assert!(outputs.iter().any(|output| output.status.success()));
    for output in outputs.iter().filter(|output| !output.status.success()) {
        assert!(stderr(output).contains("by another quire pull"), "{}", stderr(output));
    }
    assert_eq!(models.files(), ["org/slow/m-Q4_0.gguf"]);
    assert_eq!(models.read("org/slow/m-Q4_0.gguf"), content());
}

#[test]
fn a_big_file_comes_in_ranges_where_they_are_served() {
    let (hub, models) = (Hub::start(), Models::new("big"));
    // The second range breaks off in the middle: what came before is not asked for again.
    let output = models.pull(&hub, "org/big");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(models.read("org/big/m-Q4_0.gguf") == *big_content());
    let asked: Vec<String> = hub.take_seen().into_iter().filter_map(|seen| seen.range).collect();
    let start_of = |range: &str| range["bytes=".len()..].split('-').next()?.parse::<usize>().ok();
    let starts: Vec<usize> = asked.iter().filter_map(|range| start_of(range)).collect();
    let count = |start: usize| starts.iter().filter(|own| **own == start).count();
    assert_eq!((count(0), count(16 << 20)), (1, 1), "{asked:?}");
    assert!(starts.iter().any(|start| ((16 << 20) + 1..32 << 20).contains(start)), "{asked:?}");
}

#[test]
fn one_stream_serves_where_ranges_do_not() {
    let (hub, models) = (Hub::start(), Models::new("whole"));
    assert!(models.pull(&hub, "org/big-whole").status.success());
    assert!(models.read("org/big-whole/m-Q4_0.gguf") == *big_content());
    let output = models.pull(&hub, "org/big-shifted");
    assert!(stderr(&output).contains("not from byte 0"), "{}", stderr(&output));
    hub.take_seen();
    let output = models.command(&hub, "org/big-one", &[]).args(["--streams", "1"]).output();
    assert!(output.unwrap().status.success());
    assert!(models.read("org/big-one/m-Q4_0.gguf") == *big_content());
    let ranges: Vec<_> = hub.take_seen().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None]);
}

impl Hub {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let hub = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let app = Router::new()
            .route("/api/models/{org}/{repo}/revision/{revision}", get(describe))
            .route("/{org}/{repo}/resolve/{revision}/{*file}", get(resolve))
            .route("/cdn/{file}", get(deliver_elsewhere))
            .with_state(hub.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let mut connections =
                    Connections::new(Protocol::Http1, app, ServerLimits::default());
                connections.accept(&listener, std::future::pending()).await;
            });
        });
        hub
    }

    fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn note(&self, path: String, headers: &HeaderMap) -> usize {
        let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
        let has_token = headers.get(header::AUTHORIZATION).is_some_and(|v| v == "Bearer secret");
        let mut seen = self.seen.lock().unwrap();
        seen.push(Seen { path, range, has_token });
        seen.len()
    }
}

async fn describe(UrlPath((_, repo, _)): UrlPath<(String, String, String)>) -> Response<Body> {
    let status = match repo.as_str() {
        "none" => StatusCode::NOT_FOUND,
        "gated" => StatusCode::UNAUTHORIZED,
        _ => StatusCode::OK,
    };
    let file = match repo.as_str() {
        "safetensors" => "model.safetensors",
        "evil" => "../../m-Q4_0.gguf",
        _ => "m-Q4_0.gguf",
    };
    let (mut size, mut sha256) = (content().len() as u64, sha256_of_content());
    match repo.as_str() {
        "huge" => size = 1 << 60,
        "wrong" => sha256 = SHA_OF_ANOTHER.into(),
        "big" | "big-whole" | "big-one" | "big-shifted" => {
            size = big_content().len() as u64;
            sha256 = format!("{:x}", Sha256::digest(&**big_content()));
        }
        _ => {}
    }
    let lfs = match repo.as_str() {
        "wrong-etag" => String::new(),
        _ => format!(r#","lfs":{{"sha256":"{sha256}","size":{size}}}"#),
    };
    let mut siblings = format!(r#"[{{"rfilename":"README.md"}},{{"rfilename":"{file}"{lfs}}}]"#);
    if repo == "directory" {
        let weights = format!(r#"{{"rfilename":"model.safetensors"{lfs}}}"#);
        let texts = ["config.json", "tokenizer.json", "modeling.py"]
            .map(|name| format!(r#"{{"rfilename":"{name}","size":{size}}}"#));
        siblings = format!("[{weights},{}]", texts.join(","));
    }
    let body = format!(r#"{{"sha":"{COMMIT}","siblings":{siblings}}}"#);
    Response::builder().status(status).body(body.into()).unwrap()
}

async fn resolve(
    State(hub): State<Hub>,
    UrlPath((org, repo, revision, file)): UrlPath<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let path = format!("/{org}/{repo}/resolve/{revision}/{file}");
    let num_seen = hub.note(path.clone(), &headers);
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let redirect = |to: String| {
        Response::builder()
            .status(StatusCode::FOUND)
            .header(header::LOCATION, to)
            .header("x-linked-etag", format!("\"{}\"", sha256_of_content()))
            .body(Body::empty())
            .unwrap()
    };
    match repo.as_str() {
        "redirect" => redirect(format!("http://localhost:{}/cdn/{file}", hub.address.port())),
        "loop" => redirect(path),
        "norange" => Response::new(content().into()),
        "cut" if num_seen == 1 => cut_answer(),
        "big" if asked.is_some_and(|range| range.starts_with(CUT_RANGE)) => cut_range(&headers),
        "big" | "big-one" => ranged_answer_of(&headers, big_content()),
        "big-whole" => Response::new(big_content().clone().into()),
        "big-shifted" => shifted_range(&headers),
        "slow" => {
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            ranged_answer(&headers)
        }
        "wrong-etag" => {
            let mut response = ranged_answer(&headers);
            response.headers_mut().insert("etag", format!("\"{SHA_OF_ANOTHER}\"").parse().unwrap());
            response
        }
        _ => ranged_answer(&headers),
    }
}

async fn deliver_elsewhere(
    State(hub): State<Hub>,
    UrlPath(file): UrlPath<String>,
    headers: HeaderMap,
) -> Response<Body> {
    hub.note(format!("/cdn/{file}"), &headers);
    ranged_answer(&headers)
}

fn ranged_answer(headers: &HeaderMap) -> Response<Body> {
    ranged_answer_of(headers, &content())
}

fn ranged_answer_of(headers: &HeaderMap, content: &[u8]) -> Response<Body> {
    let Some(range) = headers.get(header::RANGE) else {
        return Response::new(content.to_vec().into());
    };
    let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (start, last) = range.split_once('-').unwrap();
    let (start, size): (usize, usize) = (start.parse().unwrap(), content.len());
    let end = last.parse::<usize>().map_or(size, |last| (last + 1).min(size));
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1))
        .body(content[start..end].to_vec().into())
        .unwrap()
}

/// Half of the file, then the connection breaks.
fn cut_answer() -> Response<Body> {
    let half = Bytes::from(content()[..content().len() / 2].to_vec());
    let broken = std::io::Error::other("cut");
    let parts = futures_util::stream::iter([Ok(half), Err(broken)]);
    Response::builder()
        .header(header::CONTENT_LENGTH, content().len())
        .body(Body::from_stream(parts))
        .unwrap()
}

/// Other bytes than were asked for.
fn shifted_range(headers: &HeaderMap) -> Response<Body> {
    let mut headers = headers.clone();
    headers.insert(header::RANGE, "bytes=7-9999".parse().unwrap());
    ranged_answer_of(&headers, big_content())
}

/// Half of a range, then the connection breaks.
fn cut_range(headers: &HeaderMap) -> Response<Body> {
    let (parts, _) = ranged_answer_of(headers, big_content()).into_parts();
    let half = Bytes::from(big_content()[16 << 20..][..8 << 20].to_vec());
    let body = futures_util::stream::iter([Ok(half), Err(std::io::Error::other("cut"))]);
    Response::from_parts(parts, Body::from_stream(body))
}

fn content() -> Vec<u8> {
    bytes(3_000_000)
}

/// Enough for ranges.
fn big_content() -> &'static Vec<u8> {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| bytes(40 << 20))
}

fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn sha256_of_content() -> String {
    format!("{:x}", Sha256::digest(content()))
}

/// The file that grows into `m-Q4_0.gguf`.
fn part_name() -> String {
    format!("m-Q4_0.gguf.{}.part", &sha256_of_content()[..12])
}

/// A models folder of one test, removed with it.
struct Models {
    dir: PathBuf,
}

impl Models {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("quire-pull-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    fn pull(&self, hub: &Hub, name: &str) -> Output {
        self.command(hub, name, &[]).output().unwrap()
    }

    /// `quire pull`, started by bash with `wrapper` where that is not empty.
    fn command(&self, hub: &Hub, name: &str, wrapper: &[&str]) -> Command {
        let environment = HashMap::from([
            ("HF_ENDPOINT", format!("http://{}", hub.address)),
            ("HF_TOKEN", "secret".to_owned()),
            ("HOME", self.dir.display().to_string()),
        ]);
        let quire = env!("CARGO_BIN_EXE_quire");
        let mut command = Command::new(if wrapper.is_empty() { quire } else { "bash" });
        if !wrapper.is_empty() {
            command.args(wrapper).arg(quire);
        }
        command.args(["pull", name, "--models-dir"]).arg(&self.dir);
        command.env_clear().envs(environment);
        command
    }

    fn write_part(&self, repo: &str, bytes: &[u8]) {
        let folder = self.dir.join(repo);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(part_name()), bytes).unwrap();
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.dir.join(path)).unwrap()
    }

    /// All files below the folder except empty parts.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.metadata().unwrap().len() > 0 {
                    files.push(relative(&path, &self.dir));
                }
            }
        }
        files
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn relative(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir).unwrap().display().to_string()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
