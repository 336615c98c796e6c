//! Opens connections to a server: TCP, and TLS on it where the URL says https.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::failure::{Failure, FailureKind};
use crate::http::BaseUrl;

/// What is spoken over a connection of TLS, as ALPN names it.
pub(crate) const HTTP1: &[u8] = b"http/1.1";
pub(crate) const HTTP2: &[u8] = b"h2";

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Who may vouch for servers.
#[derive(Clone, Debug)]
pub struct Trust(Arc<RootCertStore>);

impl Trust {
    /// The authorities that browsers know.
    pub fn well_known() -> Self {
        let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
        Self(Arc::new(RootCertStore { roots }))
    }

    /// The certificates of a PEM file alone.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let flag = || format!("--ca {}", path.display());
        let certificates: Vec<_> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect).with_context(flag)?;
        ensure!(!certificates.is_empty(), "{}: it holds no certificate", flag());
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate).with_context(flag)?;
        }
        Ok(Self(Arc::new(store)))
    }
}

/// The way to one server.
#[derive(Clone)]
pub(super) struct Dialer {
    url: BaseUrl,
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// `protocol`: what is spoken where the connection is one of TLS.
    pub(super) fn new(url: BaseUrl, trust: &Trust, protocol: &[u8]) -> Self {
        let tls = url.is_tls().then(|| {
            let provider = Arc::new(ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider has suites of TLS 1.2 and 1.3")
                .with_root_certificates(trust.0.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        });
        Self { url, tls }
    }

    pub(super) fn url(&self) -> &BaseUrl {
        &self.url
    }

    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Unreachable, error.to_string())
        };
        let stream = TcpStream::connect(self.url.authority()).await;
        let stream = stream.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.url.host().to_owned())
            .map_err(|error| unreachable(&error))?;
        let stream = tls.connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| unreachable(&format!("TLS: {error}")))?))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// TLS before a server that has none: its port on localhost, and the file that vouches for it.
    pub(crate) async fn front(behind: SocketAddr, protocol: &[u8]) -> (u16, PathBuf) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("they fit");
        config.alpn_protocols = vec![protocol.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut inner = TcpStream::connect(behind).await?;
                    let mut outer = acceptor.accept(stream).await?;
                    tokio::io::copy_bidirectional(&mut outer, &mut inner).await
                });
            }
        });
        let path = std::env::temp_dir().join(format!("quire-ca-{}-{port}.pem", std::process::id()));
        std::fs::write(&path, cert.pem()).expect("written");
        (port, path)
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let path = std::env::temp_dir().join(format!("quire-no-ca-{}.pem", std::process::id()));
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            std::fs::write(&path, text).expect("written");
            let error = format!("{:#}", Trust::of_file(&path).expect_err(text));
            assert!(error.starts_with("--ca ") && error.contains("quire-no-ca"), "{error}");
        }
        std::fs::remove_file(&path).expect("it is there");
        assert!(Trust::of_file(&path).is_err());
    }
}
