//! Where downloads may go: never from a public host to an address of this machine or its network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Whether a name may be asked without TLS: only this machine.
pub(super) fn is_loopback_host(host: &str) -> bool {
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Resolves names, and refuses those that lead into this machine or its network. The connection goes to the very addresses
/// that were looked at, so no name can change its meaning in between.
#[derive(Debug)]
pub(super) struct PublicOnly<R>(pub(super) R);

impl<R: Resolver> Resolver for PublicOnly<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        // The owner's proxy may be near.
        let is_proxy = config.proxy().is_some_and(|proxy| uri.host() == Some(proxy.host()));
        if !is_proxy && found.iter().any(|address| !is_public(address.ip())) {
            let host = uri.host().unwrap_or_default();
            let message = format!("{host} is an address of this network: not followed");
            return Err(ureq::Error::Io(io::Error::new(io::ErrorKind::PermissionDenied, message)));
        }
        Ok(found)
    }
}

/// Resolves names, and notes whether one is outside this machine and its network.
#[derive(Debug)]
pub(super) struct Noting<R> {
    pub inner: R,
    pub met_public: Arc<AtomicBool>,
}

impl<R: Resolver> Resolver for Noting<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        // What a proxy asks cannot be seen: it counts as public.
        if config.proxy().is_some() || found.iter().any(|address| is_public(address.ip())) {
            self.met_public.store(true, Ordering::Release);
        }
        Ok(found)
    }
}

/// Whether an error says that an address is refused, whatever is tried again.
pub(super) fn is_refusal(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

/// Refuses a number as host that leads into this machine or its network.
pub(super) fn check_literal(url: &str) -> Result<()> {
    let uri: Uri = url.parse().context("the address is malformed")?;
    let host = uri.host().context("the address has no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_inside = bare.parse().is_ok_and(|ip| !is_public(ip));
    ensure!(!is_inside, "{bare} is an address of this network: not followed");
    Ok(())
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => {
            let inner = ip.to_ipv4_mapped().or_else(|| translated(ip));
            inner.map_or_else(|| is_public_v6(ip), is_public_v4)
        }
    }
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    // Unique local, link local, multicast.
    let is_local = first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 || first >> 8 == 0xff;
    !(ip.is_loopback() || ip.is_unspecified() || is_local)
}

/// The IPv4 address inside one of NAT64 or 6to4.
fn translated(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some(join(g, h)),
        (0x2002, _) => Some(join(b, c)),
        (0, 0) if [c, d, e, f] == [0; 4] && g != 0 => Some(join(g, h)),
        _ => None,
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_reserved =
        a == 0 || a >= 240 || (a == 192 && b == 0) || (a == 198 && (b == 18 || b == 19));
    !(ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || is_shared
        || is_reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_found_in_all_their_forms() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::7f00:1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        assert!(check_literal("https://127.0.0.1/x").is_err());
        assert!(check_literal("https://[::1]:8443/x").is_err());
        assert!(is_loopback_host("localhost:5000") && is_loopback_host("127.0.0.1"));
        assert!(!is_loopback_host("localhost.evil.example"));
    }
}
