//! One blocking POST over a connection of its own, its answer read as it comes. The load harness has hyper.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// Longest line of a header, a chunk size or a server-sent event.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Most of an error's body that is kept.
const MAX_ERROR_BYTES: u64 = 2000;

/// Where a server is: from `http://host:port/prefix`, or `https://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// host:port
    authority: String,
    prefix: String,
    is_tls: bool,
}

impl BaseUrl {
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let (is_tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => bail!("{url}: only http:// and https:// are supported"),
        };
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(!authority.is_empty(), "{url} has no host");
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let port = if is_tls { 443 } else { 80 };
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
        // Clients give the address with or without the version of the API.
        let prefix = prefix.trim_end_matches('/');
        let prefix = prefix.strip_suffix("v1").unwrap_or(prefix).trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { authority, prefix, is_tls })
    }

    /// host:port
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Without its port and the brackets of IPv6.
    pub fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// What precedes the paths of the API: nothing, or a folder without the slash at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// Posts JSON and returns the body of a 200 answer; any other status is an error with the body's beginning.
pub fn post(
    url: &BaseUrl,
    path: &str,
    body: &[u8],
    timeout: Duration,
) -> anyhow::Result<BufReader<Body>> {
    ensure!(!url.is_tls, "{}: this client has no TLS", url.authority);
    let mut stream = TcpStream::connect(&url.authority)
        .with_context(|| format!("cannot connect to {}", url.authority))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let BaseUrl { authority, prefix, .. } = url;
    let mut request = format!(
        "POST {prefix}{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    stream.write_all(&request)?;
    let (status, body) = answer(Box::new(BufReader::new(stream)))?;
    if status != 200 {
        let mut text = String::new();
        let _ = body.take(MAX_ERROR_BYTES).read_to_string(&mut text);
        bail!("status {status}: {text}");
    }
    Ok(BufReader::new(body))
}

/// A line without its end; `None` at the end of the input.
pub fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.take(MAX_LINE_BYTES).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == MAX_LINE_BYTES {
        return Err(invalid("a line is too long"));
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(Some(line))
}

/// The body of an answer, decoded.
pub struct Body {
    reader: Box<dyn BufRead + Send>,
    framing: Framing,
}

/// How the end of a body is known, with what is left of the body or chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    FirstChunk,
    /// 0: the next chunk begins after the end of this one's line.
    Chunk(u64),
    UntilClose,
    Ended,
}

fn answer(mut reader: Box<dyn BufRead + Send>) -> anyhow::Result<(u16, Body)> {
    let line = read_line(&mut reader)?.context("the server closed the connection")?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("not an HTTP answer: {line:?}"))?;
    let mut framing = Framing::UntilClose;
    loop {
        let line = read_line(&mut reader)?.context("the answer ended in its headers")?;
        if line.is_empty() {
            return Ok((status, Body { reader, framing }));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Framing::FirstChunk;
        } else if name.eq_ignore_ascii_case("content-length") && framing == Framing::UntilClose {
            framing = Framing::Length(value.parse().context("Content-Length")?);
        }
    }
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if matches!(self.framing, Framing::FirstChunk | Framing::Chunk(0)) {
            self.next_chunk()?;
        }
        let left = match self.framing {
            Framing::Ended | Framing::Length(0) | Framing::FirstChunk => return Ok(0),
            Framing::UntilClose => u64::MAX,
            Framing::Length(left) | Framing::Chunk(left) => left,
        };
        let wanted = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let num_bytes = self.reader.read(&mut out[..wanted])?;
        let is_short = num_bytes == 0 && wanted > 0 && self.framing != Framing::UntilClose;
        if is_short {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.framing {
            Framing::Length(left) | Framing::Chunk(left) => *left -= num_bytes as u64,
            Framing::FirstChunk | Framing::UntilClose | Framing::Ended => {}
        }
        Ok(num_bytes)
    }
}

impl Body {
    /// Reads the size of the next chunk, and the end of the one before.
    fn next_chunk(&mut self) -> io::Result<()> {
        let mut next_line = || match read_line(&mut self.reader) {
            Ok(line) => line.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(error) => Err(error),
        };
        if self.framing != Framing::FirstChunk && !next_line()?.is_empty() {
            return Err(invalid("a chunk is longer than its size"));
        }
        let line = next_line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| invalid("a bad chunk size"))?;
        self.framing = if size == 0 { Framing::Ended } else { Framing::Chunk(size) };
        Ok(())
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> anyhow::Result<(u16, String)> {
        let (status, mut body) = answer(Box::new(text.as_bytes()))?;
        let mut content = String::new();
        body.read_to_string(&mut content)?;
        Ok((status, content))
    }

    #[test]
    fn bodies_end_as_their_headers_say() {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, not this",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.0 200\r\n\r\nhello",
        ];
        for text in answers {
            assert_eq!(read(text).expect(text), (200, "hello".to_owned()), "{text}");
        }
    }

    #[test]
    fn broken_answers_are_errors() {
        let answers = [
            "",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        ];
        for text in answers {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base_urls_lose_the_api_version() {
        let cases = [
            ("http://127.0.0.1:8000", ("127.0.0.1:8000", "127.0.0.1", "", false)),
            ("http://127.0.0.1:8000/v1/", ("127.0.0.1:8000", "127.0.0.1", "", false)),
            ("http://host/a/v1", ("host:80", "host", "/a", false)),
            ("http://[::1]", ("[::1]:80", "::1", "", false)),
            ("https://host/v1", ("host:443", "host", "", true)),
            ("https://[::1]:8443", ("[::1]:8443", "::1", "", true)),
        ];
        for (url, expected) in cases {
            let parsed = BaseUrl::parse(url).expect(url);
            let found = (parsed.authority(), parsed.host(), parsed.prefix(), parsed.is_tls());
            assert_eq!(found, expected, "{url}");
        }
        for broken in ["ftp://host", "host:80", "http:///v1"] {
            assert!(BaseUrl::parse(broken).is_err(), "{broken}");
        }
    }
}
