//! The clients of a download: one for where it was asked to go, one for where it is sent from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use ureq::config::Config;
use ureq::http::header;
use ureq::typestate::WithoutBody;
use ureq::unversioned::resolver::{DefaultResolver, Resolver};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, RequestBuilder};

use super::guard::{Noting, PublicOnly, check_literal};
use super::hub::same_origin;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Which bytes of a file are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub start: u64,
    /// `None`: all that follow.
    pub len: Option<u64>,
}

impl Span {
    pub(super) const WHOLE: Self = Self { start: 0, len: None };
}

/// A host of the owner's own network may send a download anywhere; a public one only to public addresses.
pub(super) struct Agents {
    first: Agent,
    public: Agent,
    /// A public address was asked.
    met_public: Arc<AtomicBool>,
}

impl Default for Agents {
    fn default() -> Self {
        Self::resolving(DefaultResolver::default)
    }
}

impl Agents {
    fn resolving<R: Resolver>(resolver: impl Fn() -> R) -> Self {
        let met_public = Arc::new(AtomicBool::new(false));
        let noting = Noting { inner: resolver(), met_public: Arc::clone(&met_public) };
        let public = PublicOnly(resolver());
        Self {
            first: Agent::with_parts(config(), DefaultConnector::default(), noting),
            public: Agent::with_parts(config(), DefaultConnector::default(), public),
            met_public,
        }
    }

    /// Asks for the bytes of `span` at `url`, to which redirects led from `first`, as they are.
    pub(super) fn get(
        &self,
        first: &str,
        url: &str,
        span: Span,
    ) -> Result<RequestBuilder<WithoutBody>> {
        let is_guarded = !same_origin(url, first) && self.met_public.load(Ordering::Acquire);
        let agent = if is_guarded { &self.public } else { &self.first };
        if is_guarded {
            // A proxy would resolve it elsewhere.
            check_literal(url)?;
        }
        let request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        Ok(match span {
            Span { start: 0, len: None } => request,
            Span { start, len: None } => request.header(header::RANGE, format!("bytes={start}-")),
            Span { start, len: Some(len) } => {
                let last = start.saturating_add(len).saturating_sub(1);
                request.header(header::RANGE, format!("bytes={start}-{last}"))
            }
        })
    }
}

/// Redirects and statuses are left to the caller.
fn config() -> Config {
    Agent::config_builder()
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .user_agent(concat!("quire/", env!("CARGO_PKG_VERSION")))
        .build()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::atomic::AtomicUsize;

    use ureq::http::Uri;
    use ureq::unversioned::resolver::ResolvedSocketAddrs;
    use ureq::unversioned::transport::NextTimeout;

    use super::*;

    /// Every name is `then`, but the first is public for the first who asks.
    #[derive(Debug)]
    struct Turning {
        asked: Arc<AtomicUsize>,
        then: SocketAddr,
    }

    impl Resolver for Turning {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let mut found = self.empty();
            match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 => found.push("203.0.113.1:80".parse().unwrap()),
                _ => found.push(self.then),
            }
            Ok(found)
        }
    }

    /// A server of this machine that says "secret" to whoever comes, and counts them.
    fn inside() -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&count);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                seen.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
            }
        });
        (address, count)
    }

    #[test]
    fn a_name_that_turns_inwards_is_not_followed() {
        let (address, count) = inside();
        let asked = Arc::new(AtomicUsize::new(0));
        let agents = Agents::resolving(|| Turning { asked: Arc::clone(&asked), then: address });
        // Nothing public was met yet: this is the owner's own network.
        asked.store(1, Ordering::SeqCst);
        let get = |url: &str| agents.get("http://hub.example/a", url, Span::WHOLE).unwrap().call();
        assert!(get("http://hub.example/a").is_ok() && get("http://cdn.example/a").is_ok());
        assert_eq!(count.load(Ordering::SeqCst), 2);

        // A public registry: whoever looks first sees a public address, and the connection would go inwards.
        agents.met_public.store(true, Ordering::SeqCst);
        asked.store(0, Ordering::SeqCst);
        let looked = Turning { asked: Arc::clone(&asked), then: address };
        let uri: Uri = "http://evil.example/a".parse().unwrap();
        let timeout = NextTimeout::default();
        assert!(!looked.resolve(&uri, &config(), timeout).unwrap()[0].ip().is_loopback());
        let error = get("http://evil.example/a").unwrap_err().to_string();
        assert!(error.contains("address of this network"), "{error}");
        assert_eq!(count.load(Ordering::SeqCst), 2, "it was asked all the same");
        for url in ["http://127.0.0.1/x", "https://[::1]:8443/x", "http://169.254.169.254/latest"] {
            assert!(agents.get("http://hub.example/a", url, Span::WHOLE).is_err(), "{url}");
        }
    }

    #[test]
    fn a_public_address_is_noticed_when_it_is_asked() {
        let asked = Arc::new(AtomicUsize::new(0));
        let then = "127.0.0.1:1".parse().unwrap();
        let met_public = Arc::new(AtomicBool::new(false));
        let inner = Turning { asked, then };
        let noting = Noting { inner, met_public: Arc::clone(&met_public) };
        let uri: Uri = "http://hub.example/".parse().unwrap();
        noting.resolve(&uri, &config(), NextTimeout::default()).unwrap();
        assert!(met_public.load(Ordering::SeqCst));
        met_public.store(false, Ordering::SeqCst);
        noting.resolve(&uri, &config(), NextTimeout::default()).unwrap();
        assert!(!met_public.load(Ordering::SeqCst));
    }
}
