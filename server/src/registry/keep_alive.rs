//! How long a model stays in memory after its last answer, as flags and requests say it.

use std::str::FromStr;
use std::time::Duration;

/// How long a model stays after its last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    For(Duration),
    Forever,
}

/// Why a text is no such time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time: write 300, 5m, 1h30m, 0 (not at all) or -1 (for ever)")]
pub struct NotATime;

impl KeepAlive {
    /// Seconds; below 0: for ever.
    pub fn from_seconds(seconds: f64) -> Result<Self, NotATime> {
        if seconds < 0.0 {
            return Ok(Self::Forever);
        }
        Duration::try_from_secs_f64(seconds).map(Self::For).map_err(|_| NotATime)
    }
}

impl FromStr for KeepAlive {
    type Err = NotATime;

    /// Seconds, or numbers with the units of Go's durations (`1h30m`, `1.5s`, `-1m`); below 0: for ever.
    fn from_str(text: &str) -> Result<Self, NotATime> {
        if let Ok(seconds) = text.parse::<f64>() {
            return Self::from_seconds(seconds);
        }
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest.is_empty() {
            return Err(NotATime);
        }
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let number_end =
                rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(NotATime)?;
            let number: f64 = rest[..number_end].parse().map_err(|_| NotATime)?;
            rest = &rest[number_end..];
            let unit_end =
                rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            seconds += number * unit_seconds(&rest[..unit_end]).ok_or(NotATime)?;
            rest = &rest[unit_end..];
        }
        Self::from_seconds(sign * seconds)
    }
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_go() {
        let seconds = |seconds| Ok(KeepAlive::For(Duration::from_secs_f64(seconds)));
        for (text, expected) in [
            ("300", seconds(300.0)),
            ("0", seconds(0.0)),
            ("0s", seconds(0.0)),
            ("1.5", seconds(1.5)),
            ("10m", seconds(600.0)),
            ("1h30m", seconds(5400.0)),
            ("1.5h", seconds(5400.0)),
            ("250ms", seconds(0.25)),
            ("-1", Ok(KeepAlive::Forever)),
            ("-1m", Ok(KeepAlive::Forever)),
            ("-0.5s", Ok(KeepAlive::Forever)),
        ] {
            assert_eq!(text.parse::<KeepAlive>(), expected, "{text:?}");
        }
        for text in ["", "-", "m", "5 m", "5d", "5m3", "NaN", "inf", "1e300", "1e300h", "..s", "é"]
        {
            assert_eq!(text.parse::<KeepAlive>(), Err(NotATime), "{text:?}");
        }
    }
}
