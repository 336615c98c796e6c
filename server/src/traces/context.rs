//! `traceparent`: whose span a request belongs to (W3C, "Trace Context").

use axum::http::HeaderMap;

/// The span of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    /// The caller records its trace.
    pub(super) is_sampled: bool,
}

impl TraceParent {
    /// `None` without the header, and with one that is wrong: the standard says to begin a trace then.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        parse(headers.get("traceparent")?.to_str().ok()?)
    }
}

fn parse(text: &str) -> Option<TraceParent> {
    let mut parts = text.split('-');
    let version: [u8; 1] = bytes(parts.next()?)?;
    let (trace_id, span_id) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
    let [flags] = bytes(parts.next()?)?;
    // Later versions may add parts, this one has none.
    let is_whole = version[0] != 0 || parts.next().is_none();
    let is_valid = version[0] != 0xff && trace_id != [0; 16] && span_id != [0; 8] && is_whole;
    is_valid.then_some(TraceParent { trace_id, span_id, is_sampled: flags & 1 == 1 })
}

/// Lower-case hexadecimal digits, two a byte.
fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != 2 * N || !digits.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_what_the_standard_allows_is_taken() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parsed = parse(good).unwrap();
        assert_eq!((parsed.trace_id[0], parsed.span_id[7], parsed.is_sampled), (0x0a, 0x31, true));
        assert!(!parse(&good.replace("-01", "-00")).unwrap().is_sampled);
        assert!(parse(&good.replace("00-0", "01-0")).is_some());
        assert!(parse(&(good.replace("00-0", "01-0") + "-more")).is_some());
        for bad in [
            "",
            "00",
            &(good.to_owned() + "-more"),
            &good.replace("00-0", "ff-0"),
            &good.to_uppercase(),
            &good.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &good.replace("b7ad6b7169203331", "0000000000000000"),
            &good.replace("b7ad", "b7é"),
            "00-0af7-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
