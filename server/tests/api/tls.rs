//! gRPC over TLS, with a certificate made for the test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use quire_proto::v1;
use quire_proto::v1::inference_client::InferenceClient;
use quire_server::http::tls::Tls;
use quire_server::serve::{Listeners, serve};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::support::{TestServer, answer, until};

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quire-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// A channel that trusts this certificate alone.
async fn connect(
    address: SocketAddr,
    trusted: &CertifiedKey<KeyPair>,
) -> Result<Channel, tonic::transport::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connect = service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").expect("a name");
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_speaks_tls() {
    let folder = Folder::new("speaks");
    let made = certificate();
    let chain = folder.write("cert.pem", &made.cert.pem());
    let key = folder.write("key.pem", &made.signing_key.serialize_pem());
    let server = TestServer::scripted(|request| answer(request, "Hello!"));
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = Listeners {
        http: bind().await,
        grpc: Some(bind().await),
        grpc_tls: Some(Tls::load(&chain, &key).unwrap()),
    };
    let address = listeners.grpc.as_ref().unwrap().local_addr().unwrap();
    tokio::spawn(serve(listeners, Arc::clone(&server.state), std::future::pending()));

    let channel = connect(address, &made).await.unwrap();
    let models = InferenceClient::new(channel).models(v1::ModelsRequest {}).await.unwrap();
    assert_eq!(models.into_inner().models.len(), 2);

    // Without TLS nobody answers.
    let plain = Endpoint::new(format!("http://{address}")).unwrap().connect().await;
    let asked = match plain {
        Ok(channel) => InferenceClient::new(channel).models(v1::ModelsRequest {}).await.is_ok(),
        Err(_) => false,
    };
    assert!(!asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_taken_and_a_wrong_one_is_not() {
    let folder = Folder::new("changes");
    let (old, new) = (certificate(), certificate());
    let chain = folder.write("cert.pem", &old.cert.pem());
    let key = folder.write("key.pem", &old.signing_key.serialize_pem());
    let server = TestServer::scripted(|request| answer(request, "Hello!"));
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = Listeners {
        http: bind().await,
        grpc: Some(bind().await),
        grpc_tls: Some(Tls::load(&chain, &key).unwrap()),
    };
    let address = listeners.grpc.as_ref().unwrap().local_addr().unwrap();
    tokio::spawn(serve(listeners, Arc::clone(&server.state), std::future::pending()));
    let models = async |channel: &Channel| {
        InferenceClient::new(channel.clone()).models(v1::ModelsRequest {}).await.is_ok()
    };
    // Other tests of this process have the same metrics, so only what grows tells.
    let has_failed = async || {
        let failed = r#"quire_tls_certificate_reloads_total{result="failed"} "#;
        let page = server.get("/metrics").await.body;
        page.lines().any(|line| line.strip_prefix(failed).is_some_and(|count| count != "0"))
    };
    let lived = connect(address, &old).await.unwrap();
    assert!(models(&lived).await);

    // A certificate without its key; again and again, since it is not known when the watch begins.
    until("a failed reload", async || {
        folder.write("cert.pem", &new.cert.pem());
        has_failed().await
    })
    .await;
    assert!(connect(address, &new).await.is_err());
    assert!(models(&connect(address, &old).await.unwrap()).await);

    folder.write("key.pem", &new.signing_key.serialize_pem());
    until("a reload", async || connect(address, &new).await.is_ok()).await;
    assert!(connect(address, &old).await.is_err());
    assert!(models(&connect(address, &new).await.unwrap()).await);
    assert!(models(&lived).await, "a connection lives on");
}

#[test]
fn files_that_do_not_serve_are_named() {
    let folder = Folder::new("files");
    let (made, other) = (certificate(), certificate());
    let chain = folder.write("cert.pem", &made.cert.pem());
    let key = folder.write("key.pem", &made.signing_key.serialize_pem());
    let foreign = folder.write("foreign.pem", &other.signing_key.serialize_pem());
    let noise = folder.write("noise.pem", "-----BEGIN nothing");
    let missing = folder.0.join("missing.pem");
    assert!(Tls::load(&chain, &key).is_ok());
    let cases = [
        (&missing, &key, "--tls-cert"),
        (&noise, &key, "--tls-cert"),
        (&key, &key, "--tls-cert"),
        (&chain, &missing, "--tls-key"),
        (&chain, &noise, "--tls-key"),
        (&chain, &chain, "--tls-key"),
        (&chain, &foreign, "--tls-key"),
    ];
    for (chain, key, flag) in cases {
        let Err(error) = Tls::load(chain, key) else { panic!("{chain:?} {key:?}") };
        assert_eq!(error.flag, flag, "{error}");
        assert!(error.to_string().contains(".pem"), "{error}");
    }
}
