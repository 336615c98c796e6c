//! Numbers as people type them: `8k` tokens, `512MiB` of memory, `cuda:1`, `30s`.

use std::time::Duration;

use quire_engine::config::{DeviceChoice, WeightFormat};

use super::LoadFormat;

/// What can be written, for those who wrote something else.
const TOKENS: &str = "write 8192, 8k (8,000) or 8K (8,192)";
const BYTES: &str = "write 1073741824, 512MiB or 4G";
const SECONDS: &str = "write 30, 30s, 500ms or 5m";

/// Tokens: `8192`, `8k` (8,000), `8K` (8,192), `25.6k`, `1M`. Small letters count in thousands, capitals in 1,024s.
pub(crate) fn tokens(text: &str) -> Result<u32, String> {
    let (number, unit) = split_unit(text, TOKENS)?;
    let scale = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "K" => 1024.0,
        "M" => 1024.0 * 1024.0,
        _ => return Err(format!("unknown unit '{unit}': {TOKENS}")),
    };
    let count = number * scale;
    if count.fract() != 0.0 || !(1.0..=f64::from(u32::MAX)).contains(&count) {
        return Err(format!("not a whole number of tokens from 1 to {}", u32::MAX));
    }
    Ok(count as u32)
}

/// Bytes: `1073741824`, `512MiB`, `4G`. `K M G T` and `KiB …` are powers of 1,024, `KB …` powers of 1,000.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text, BYTES)?;
    let unit = unit.to_ascii_lowercase();
    let (letter, base) = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('i')) {
        Some(letter) => (letter, 1024.0_f64),
        None => match unit.strip_suffix('b') {
            Some(letter) => (letter, 1000.0),
            None => (unit.as_str(), 1024.0),
        },
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("unknown unit '{unit}': {BYTES}")),
    };
    let count = (number * base.powi(power)).floor();
    if !(1.0..=9e18).contains(&count) {
        return Err("not a number of bytes above 0".into());
    }
    Ok(count as u64)
}

/// Seconds, with or without the `s`: `30`, `2.5s`, `500ms`, `5m`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text, SECONDS)?;
    let scale = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit '{unit}': {SECONDS}")),
    };
    Duration::try_from_secs_f64(number * scale).map_err(|_| "too long".to_owned())
}

/// `auto`, `dummy` (of BF16) or `dummy:FORMAT`.
pub(crate) fn load_format(text: &str) -> Result<LoadFormat, String> {
    let named = |name: &str| {
        let is_named = |format: &&WeightFormat| format.name().eq_ignore_ascii_case(name);
        WeightFormat::ALL.iter().find(is_named).copied().map(LoadFormat::Dummy)
    };
    let format = match text.split_once(':') {
        None if text == "auto" => return Ok(LoadFormat::Auto),
        None if text == "dummy" => Some(LoadFormat::Dummy(WeightFormat::BF16)),
        Some(("dummy", name)) => named(name),
        _ => None,
    };
    format.ok_or_else(|| "write auto, dummy, or dummy: and a format of GGUF, as Q4_K".to_owned())
}

/// `auto`, `cpu`, `cuda` or `cuda:N`.
pub(crate) fn device(text: &str) -> Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(0)),
        _ => text
            .strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .map(DeviceChoice::Cuda)
            .ok_or_else(|| "write auto, cpu, cuda or cuda:N".to_owned()),
    }
}

/// The leading number, and the unit that follows it.
fn split_unit<'a>(text: &'a str, advice: &str) -> Result<(f64, &'a str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    match number.parse::<f64>() {
        Ok(number) => Ok((number, unit.trim())),
        Err(_) => Err(format!("does not begin with a number: {advice}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_counts() {
        for (text, count) in [
            ("1", 1),
            ("8192", 8192),
            ("8k", 8000),
            ("8K", 8192),
            ("25.6k", 25_600),
            ("1M", 1 << 20),
        ] {
            assert_eq!(tokens(text), Ok(count), "{text}");
        }
        for text in ["", "0", "-1", "k", "8kk", "1.5", "5G", "1e3", "99999999999", "NaN"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn byte_counts() {
        for (text, count) in [
            ("1073741824", 1 << 30),
            ("512MiB", 512 << 20),
            ("4G", 4 << 30),
            ("4g", 4 << 30),
            ("4Gi", 4 << 30),
            ("4GB", 4_000_000_000),
            ("1.5K", 1536),
            ("2 GiB", 2 << 30),
            ("7B", 7),
        ] {
            assert_eq!(bytes(text), Ok(count), "{text}");
        }
        for text in ["", "0", "-4G", "4X", "G", "inf", "1e99T"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_devices() {
        assert_eq!(seconds("2.5s"), Ok(Duration::from_millis(2500)));
        assert_eq!(seconds("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("5m"), Ok(Duration::from_secs(300)));
        assert!(seconds("5 years").is_err());
        assert_eq!(device("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        for text in ["gpu", "cuda:", "cuda:-1", "CPU"] {
            assert!(device(text).is_err(), "{text}");
        }
    }
}
