//! TLS of a listener: a certificate and its key, which may change while they are served.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What makes an accepted socket a TLS connection that speaks HTTP/2. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Files>);

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// For connections to come.
    acceptor: RwLock<TlsAcceptor>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {}: {why}", path.display())]
pub struct TlsError {
    pub flag: &'static str,
    pub path: PathBuf,
    pub why: String,
}

impl Tls {
    /// `certificate`: PEM, the server's own first and those that vouch for it behind; `key`: PEM.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let acceptor = RwLock::new(acceptor(certificate, key)?);
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self(Arc::new(Files { certificate, key, acceptor })))
    }

    /// Reads the files again. Connections live on with what they have; after an error those to come have it too.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let new = acceptor(&self.0.certificate, &self.0.key)?;
        *self.0.acceptor.write() = new;
        Ok(())
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        vec![self.0.certificate.clone(), self.0.key.clone()]
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.acceptor.read().clone()
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed = |flag: &'static str, path: &Path| {
        let path = path.to_owned();
        move |why: String| TlsError { flag, path, why }
    };
    let bad_certificate = failed("--tls-cert", certificate);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = match chain {
        Ok(chain) if chain.is_empty() => {
            return Err(bad_certificate("it holds no certificate".into()));
        }
        Ok(chain) => chain,
        Err(error) => return Err(bad_certificate(error.to_string())),
    };
    let bad_key = failed("--tls-key", key);
    let key = match PrivateKeyDer::from_pem_file(key) {
        Ok(key) => key,
        Err(error) => return Err(bad_key(error.to_string())),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad_key(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
