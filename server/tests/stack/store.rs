//! Models that come and go over HTTP: the store's routes, their key, and hostile registries.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Path as UrlPath;
use axum::http::{Method, Request, Response, StatusCode, header};
use axum::routing::get;
use http_body_util::BodyExt;
use quire_server::app::ServerConfig;
use quire_server::http::auth::ApiKey;
use quire_server::http::connections::{Connections, Protocol};
use quire_server::limits::ServerLimits;
use quire_server::pull::Library;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{TestServer, config, json_request, model_file};

const PLENTY: u64 = 1 << 30;

/// A models folder of one test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quire-stack-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn server(&self, allowed_registries: Vec<String>) -> TestServer {
        let library =
            Library { models_dir: self.0.clone(), allowed_registries, ..Library::default() };
        let config =
            ServerConfig { library: Some(Arc::new(library)), open_management: true, ..config() };
        TestServer::empty(PLENTY, config)
    }

    /// Every file below it, but the lock.
    fn files(&self) -> Vec<String> {
        let (mut files, mut folders) = (Vec::new(), vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path.strip_prefix(&self.0).unwrap().display().to_string()),
                }
            }
        }
        files.retain(|file| !file.contains(".quire-store"));
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn weights() -> Vec<u8> {
    std::fs::read(model_file("llama3")).unwrap()
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

async fn send_blob(server: &TestServer, digest: &str, bytes: Vec<u8>) -> (StatusCode, String) {
    let request = Request::post(format!("/api/blobs/{digest}")).body(Body::from(bytes)).unwrap();
    let reply = server.send(request).await;
    (reply.status, reply.body)
}

#[tokio::test]
async fn a_model_is_sent_made_copied_asked_and_deleted() {
    let folder = Folder::new("life");
    let server = folder.server(vec![]);
    let (bytes, digest) = (weights(), digest_of(&weights()));
    let head =
        |digest: &str| Request::head(format!("/api/blobs/{digest}")).body(Body::empty()).unwrap();
    assert_eq!(server.send(head(&digest)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(send_blob(&server, &digest, bytes).await.0, StatusCode::CREATED);
    assert_eq!(server.send(head(&digest)).await.status, StatusCode::OK);

    let create = json!({
        "model": "mine:v1", "files": {"m.gguf": digest}, "system": "Be brief.",
        "parameters": {"temperature": 0, "num_predict": 4, "stop": ["a", "b"]}, "license": "MIT",
    });
    let made = server.post("/api/create", &create).await;
    let last: Value = serde_json::from_str(made.body.lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({"status": "success"}), "{}", made.body);
    let show = server.post("/api/show", &json!({"model": "mine:v1"})).await.ok();
    assert_eq!((&show["system"], &show["license"]), (&json!("Be brief."), &json!("MIT")));
    assert!(show["parameters"].as_str().unwrap().contains("stop                           \"a\""));
    let modelfile = show["modelfile"].as_str().unwrap();
    assert!(modelfile.contains("SYSTEM \"\"\"Be brief.\"\"\""), "{modelfile}");

    // Its settings hold where a request says nothing.
    let body = json!({"model": "mine:v1", "prompt": "Hello", "stream": false});
    let answer = server.post("/api/generate", &body).await.ok();
    assert_eq!(answer["eval_count"], 4);
    let without = json!({"model": "mine:v1", "prompt": "Hello", "stream": false, "system": "B"});
    let shorter = server.post("/api/generate", &without).await.ok();
    assert!(shorter["prompt_eval_count"].as_u64() < answer["prompt_eval_count"].as_u64());

    let copy = json!({"source": "mine:v1", "destination": "me/other"});
    assert_eq!(server.post("/api/copy", &copy).await.status, StatusCode::OK);
    let from = json!({"model": "third", "stream": false,
                      "modelfile": "FROM me/other\nPARAMETER num_predict 2\nTEMPLATE chatml"});
    assert_eq!(server.post("/api/create", &from).await.ok()["status"], "success");
    let body = json!({"model": "third", "prompt": "Hello", "stream": false});
    let answer = server.post("/api/generate", &body).await.ok();
    assert_eq!(answer["eval_count"], 2);
    let tags = server.get("/api/tags").await.ok();
    assert_eq!(tags["models"].as_array().unwrap().len(), 3);

    for name in ["mine:v1", "me/other:latest", "third"] {
        let request = json_request(Method::DELETE, "/api/delete", &json!({"model": name}));
        let reply = server.send(request).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    }
    assert!(folder.files().is_empty(), "{:?}", folder.files());
    assert!(server.loaded().is_empty() && server.state.models.entries().is_empty());
    let request = json_request(Method::DELETE, "/api/delete", &json!({"model": "third"}));
    assert_eq!(server.send(request).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_model_is_deleted_after_its_running_answers() {
    let folder = Folder::new("busy");
    let server = folder.server(vec![]);
    let digest = digest_of(&weights());
    send_blob(&server, &digest, weights()).await;
    let create = json!({"model": "m", "files": {"m.gguf": digest}, "stream": false});
    server.post("/api/create", &create).await.ok();
    let body = json!({"model": "m", "prompt": "Hello", "options": {"num_predict": 150}});
    let mut stream = server.start("/api/generate", &body).await;
    // On a busy machine the whole answer may have come before anybody reads.
    let first = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    let (router, state) = (server.router.clone(), server.state.clone());
    let deleting = tokio::spawn(async move {
        let request = json_request(Method::DELETE, "/api/delete", &json!({"model": "m"}));
        TestServer { state, router }.send(request).await.status
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!deleting.is_finished());
    let rest = stream.collect().await.unwrap().to_bytes();
    let answer = String::from_utf8([first, rest].concat()).unwrap();
    assert!(answer.contains("\"done\":true"), "{answer}");
    assert_eq!(deleting.await.unwrap(), StatusCode::OK);
    assert!(folder.files().is_empty(), "{:?}", folder.files());
}

#[tokio::test]
async fn hostile_names_and_digests_touch_nothing() {
    let folder = Folder::new("hostile");
    let server = folder.server(vec![]);
    let digest = digest_of(b"x");
    for bad in ["../../etc/passwd", "a/../b", "..", "/etc/passwd", "a\\b", "x:../y", "", "a b"] {
        for (path, body) in [
            ("/api/pull", json!({"model": bad})),
            ("/api/create", json!({"model": bad, "files": {"f": digest}})),
            ("/api/create", json!({"model": "ok", "from": bad})),
            ("/api/copy", json!({"source": bad, "destination": "ok"})),
            ("/api/copy", json!({"source": "ok", "destination": bad})),
        ] {
            let reply = server.post(path, &body).await;
            assert!(
                [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND].contains(&reply.status),
                "{path} {body}: {} {}",
                reply.status,
                reply.body
            );
        }
        let request = json_request(Method::DELETE, "/api/delete", &json!({"model": bad}));
        assert_eq!(server.send(request).await.status, StatusCode::BAD_REQUEST, "{bad:?}");
    }
    for bad in ["sha256:..%2f..%2fx", "sha256:00", "md5:x", "sha256:%00"] {
        assert_eq!(send_blob(&server, bad, vec![1]).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    // Bytes of another sum, a file that is no model, settings that mean nothing.
    let (status, body) = send_blob(&server, &digest, b"y".to_vec()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("checksum is wrong"), "{body}");
    assert!(folder.files().is_empty(), "{:?}", folder.files());
    assert_eq!(send_blob(&server, &digest, b"x".to_vec()).await.0, StatusCode::CREATED);
    for (more, expected) in [
        (json!({"files": {"f": digest}}), "no model that can be served"),
        (json!({"files": {"f": digest_of(b"z")}}), "no blob"),
        (json!({"files": {"f": "sha256:../x"}}), "not a digest"),
        (json!({"from": "/etc/passwd"}), "not a model name"),
        (json!({"from": "absent"}), "no model absent"),
        (json!({"from": "absent", "adapters": {"a": digest}}), "adapters is not supported"),
        (json!({"from": "absent", "template": "{{ .Prompt }}"}), "chatml"),
        (json!({"from": "absent", "parameters": {"temperature": "hot"}}), "temperature"),
        (json!({"modelfile": "FROM ../x\nADAPTER y"}), "ADAPTER"),
        (json!({"modelfile": "FROM ../../etc/passwd"}), "not a model name"),
        (json!({"modelfile": "FROM @sha256:../x"}), "not a digest"),
        (json!({}), "from or files is missing"),
    ] {
        let mut body = json!({"model": "evil", "stream": false});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = server.post("/api/create", &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {}", reply.body);
        assert!(reply.body.contains(expected), "{body}: {}", reply.body);
    }
    assert_eq!(folder.files().len(), 1, "{:?}", folder.files());
}

#[tokio::test]
async fn changing_models_needs_a_key_of_its_own() {
    let folder = Folder::new("keys");
    let library = Some(Arc::new(Library { models_dir: folder.0.clone(), ..Library::default() }));
    let with = |api: &[&str], manage: &[&str]| ServerConfig {
        api_keys: api.iter().map(|key| ApiKey::new(key)).collect(),
        manage_keys: manage.iter().map(|key| ApiKey::new(key)).collect(),
        library: library.clone(),
        ..config()
    };
    let status = async |config: ServerConfig, path: &str, key: Option<&str>| {
        let server = TestServer::empty(PLENTY, config);
        let mut request = json_request(Method::POST, path, &json!({"model": "absent"}));
        if let Some(key) = key {
            let value = format!("Bearer {key}").parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        server.send(request).await.status.as_u16()
    };
    // Nobody, unless the server's owner says so.
    assert_eq!(status(with(&[], &[]), "/api/create", None).await, 403);
    assert_eq!(status(with(&["ask"], &[]), "/api/create", Some("ask")).await, 403);
    let both = || with(&["ask"], &["change"]);
    assert_eq!(status(both(), "/api/create", None).await, 401);
    assert_eq!(status(both(), "/api/create", Some("ask")).await, 403);
    assert_eq!(status(both(), "/api/create", Some("change")).await, 400);
    assert_eq!(status(both(), "/api/show", Some("change")).await, 404);
    assert_eq!(status(with(&[], &["change"]), "/api/show", None).await, 404);
    assert_eq!(status(with(&[], &["change"]), "/api/create", None).await, 403);
}

/// A registry that serves `weights()` as the model's name says.
async fn registry() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new()
        .route("/v2/{namespace}/{model}/manifests/{tag}", get(manifest))
        .route("/v2/{namespace}/{model}/blobs/{digest}", get(blob));
    tokio::spawn(async move {
        let mut connections = Connections::new(Protocol::Http1, app, ServerLimits::default());
        connections.accept(&listener, std::future::pending()).await;
    });
    address
}

async fn manifest(UrlPath((_, model, _)): UrlPath<(String, String, String)>) -> Response<Body> {
    let bytes = weights();
    let (digest, config) = (digest_of(&bytes), digest_of(b"{}"));
    let (digest, size) = match model.as_str() {
        "traversal" => ("sha256:../../../../tmp/evil".to_owned(), bytes.len()),
        "wrong" => (digest_of(b"others"), bytes.len()),
        "huge" => (digest, 1 << 60),
        "short" => (digest, bytes.len() + 1),
        _ => (digest, bytes.len()),
    };
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}],
    });
    match model.as_str() {
        "absent" => Response::builder().status(404).body(Body::empty()).unwrap(),
        "endless" => {
            let parts = futures_util::stream::repeat_with(|| {
                Ok::<_, std::convert::Infallible>(vec![b' '; 1 << 16])
            });
            Response::new(Body::from_stream(parts))
        }
        "bomb" => gzip_bomb(),
        "login" => Response::builder()
            .status(401)
            .header("www-authenticate", "Bearer realm=\"http://127.0.0.1:1/steal\"")
            .body(Body::empty())
            .unwrap(),
        _ => Response::new(manifest.to_string().into()),
    }
}

/// Many zeros, compressed as one run again and again: 13 bits for 258 of them (RFC 1951, fixed codes).
fn gzip_bomb() -> Response<Body> {
    let mut bits: Vec<bool> = vec![true, true, false];
    let mut code = |value: u32, len: u32| bits.extend((0..len).rev().map(|i| value >> i & 1 == 1));
    code(0x30, 8);
    for _ in 0..400_000 {
        code(0xc5, 8);
        code(0, 5);
    }
    let byte = |bits: &[bool]| bits.iter().enumerate().map(|(i, &bit)| u8::from(bit) << i).sum();
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bytes.extend(bits.chunks(8).map(byte).collect::<Vec<u8>>());
    Response::builder().header("content-encoding", "gzip").body(bytes.into()).unwrap()
}

async fn blob(
    UrlPath((_, model, digest)): UrlPath<(String, String, String)>,
    headers: axum::http::HeaderMap,
) -> Response<Body> {
    let bytes = if digest == digest_of(b"{}") { b"{}".to_vec() } else { weights() };
    match model.as_str() {
        "file" => Response::builder()
            .status(302)
            .header("location", "file:///etc/passwd")
            .body(Body::empty())
            .unwrap(),
        "bloated" if bytes.len() > 2 => gzip_bomb(),
        "long" if bytes.len() > 2 => Response::new([bytes, vec![0; 9]].concat().into()),
        _ => {
            // Whoever is resumed gets the rest.
            let range =
                headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
            let start = range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
            let Some(start) = start else { return Response::new(bytes.into()) };
            let span = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Response::builder()
                .status(206)
                .header("content-range", span)
                .body(bytes[start..].to_vec().into())
                .unwrap()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_pulled_and_served() {
    let (folder, address) = (Folder::new("pull"), registry().await);
    let server = folder.server(vec![address.to_string()]);
    let name = format!("{address}/lib/tiny:v1");
    let reply = server.post("/api/pull", &json!({"model": name})).await;
    let lines: Vec<Value> =
        reply.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"status": "pulling manifest"}));
    assert_eq!(*lines.last().unwrap(), json!({"status": "success"}), "{}", reply.body);
    let size = weights().len();
    assert!(
        lines.iter().any(|line| line["completed"] == size && line["total"] == size),
        "{}",
        reply.body
    );
    let body =
        json!({"model": name, "prompt": "Hello", "stream": false, "options": {"num_predict": 2}});
    assert_eq!(server.post("/api/generate", &body).await.ok()["eval_count"], 2);
    // Once more: nothing new is asked for, and two at once do no harm.
    let body = json!({"model": name, "stream": false});
    let (one, two) = tokio::join!(server.post("/api/pull", &body), server.post("/api/pull", &body));
    assert!(
        [&one, &two].iter().any(|reply| reply.status == StatusCode::OK),
        "{} {}",
        one.body,
        two.body
    );
    assert_eq!(folder.files().len(), 3, "{:?}", folder.files());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rogue_registries_leave_nothing_behind() {
    let (folder, address) = (Folder::new("rogue"), registry().await);
    let server = folder.server(vec![address.to_string()]);
    for (model, expected) in [
        ("traversal", "not a digest"),
        ("wrong", "checksum is wrong"),
        ("huge", "are free"),
        ("long", "more bytes than it named"),
        ("absent", "there is no"),
        ("endless", "cannot be read"),
        ("bomb", "cannot be read"),
        ("bloated", "more bytes than it named"),
        ("login", "does not give out"),
        ("file", "not followed"),
    ] {
        let body = json!({"model": format!("{address}/lib/{model}"), "stream": false});
        let reply = server.post("/api/pull", &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{model}: {}", reply.body);
        assert!(reply.body.contains(expected), "{model}: {}", reply.body);
    }
    let left: Vec<String> = folder.files();
    // The configuration's two bytes are a blob of their own right.
    let is_fine = |file: &String| file.ends_with(&digest_of(b"{}")[7..]) || file.contains(".part");
    assert!(left.iter().all(is_fine), "{left:?}");
    assert!(server.state.models.entries().is_empty());

    // Hosts that nobody allowed are not asked, whatever they are called.
    for host in ["169.254.169.254", "localhost:1", "metadata.internal", "evil.example:443"] {
        let body = json!({"model": format!("{host}/lib/m")});
        let reply = server.post("/api/pull", &body).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{host}: {}", reply.body);
        assert!(reply.body.contains("--allowed-registries"), "{}", reply.body);
    }
}
