//! Sizes and durations as people write and read them.
//!
//! Sizes: `K`, `M`, `G`, `T`, `P` and `KiB`, `MiB`, ... are powers of 1024 (as `du` and
//! `df` have it), `KB`, `MB`, ... powers of 1000, a bare number is bytes. Durations:
//! a number and `s`, `m`, `h`, `d` or `w`, or several of them (`1h30m`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// Text that is not a size or a duration, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

const BINARY: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let scale = size_scale(unit.trim()).ok_or_else(|| size_error(text))?;
        scaled(number, scale)
            .map(Self)
            .ok_or_else(|| size_error(text))
    }
}

fn size_error(text: &str) -> UnitError {
    UnitError(format!("{text:?} is not a size; write 500M, 20G or 10MiB"))
}

fn size_scale(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    let (letter, rest) = match unit.chars().next() {
        None | Some('b') => return (unit.len() <= 1).then_some(1),
        Some(letter) => (letter, &unit[letter.len_utf8()..]),
    };
    let power = "kmgtp".find(letter)? as u32 + 1;
    match rest {
        "" | "i" | "ib" => Some(1024_u64.pow(power)),
        "b" => Some(1000_u64.pow(power)),
        _ => None,
    }
}

/// `number` (digits, perhaps with a fraction) times `scale`, without floats for whole numbers.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    if fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let tenths = u128::from(fraction.parse::<u64>().ok()?);
    let part = tenths * u128::from(scale) / 10_u128.pow(fraction.len() as u32);
    whole
        .checked_mul(scale)?
        .checked_add(u64::try_from(part).ok()?)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut step = 0;
        let mut value = self.0 as f64;
        while value >= 1024.0 && step + 1 < BINARY.len() {
            value /= 1024.0;
            step += 1;
        }
        let text = match (step, value < 9.95) {
            (0, _) => format!("{} B", self.0),
            (_, true) => format!("{value:.1} {}", BINARY[step]),
            (_, false) => format!("{value:.0} {}", BINARY[step]),
        };
        f.pad(&text)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// The duration that `text` says.
///
/// # Errors
/// If it says none.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || {
        UnitError(format!(
            "{text:?} is not a duration; write 30s, 10m, 2h or 3d"
        ))
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total_secs: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let (scale, unit_len) = duration_scale(&rest[digits..]).ok_or_else(wrong)?;
        total_secs = number
            .checked_mul(scale)
            .and_then(|secs| total_secs.checked_add(secs))
            .ok_or_else(wrong)?;
        rest = &rest[digits + unit_len..];
    }
    Ok(Duration::from_secs(total_secs))
}

fn duration_scale(unit: &str) -> Option<(u64, usize)> {
    let scale = match unit.chars().next()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    Some((scale, 1))
}

/// A duration as one or two units: `45s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub fn show_duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (large, large_unit, small, small_unit) = match secs {
        0..60 => return format!("{secs}s"),
        60..3_600 => (secs / 60, 'm', secs % 60, 's'),
        3_600..86_400 => (secs / 3_600, 'h', secs % 3_600 / 60, 'm'),
        _ => (secs / 86_400, 'd', secs % 86_400 / 3_600, 'h'),
    };
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit} {small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_as_people_write_it() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("7B", 7),
            ("20G", 20 << 30),
            ("10MiB", 10 << 20),
            ("10 mib", 10 << 20),
            ("1.5K", 1536),
            ("2GB", 2_000_000_000),
            ("1Ti", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "G",
            "-1G",
            "1X",
            "1..5K",
            "1.K",
            "99999999P",
            "1GG",
            "1bb",
            "1é",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_is_shown_in_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (20 << 30, "20 GiB"),
            (10_189, "10 KiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_duration_is_read_and_shown() {
        for (text, secs, shown) in [
            ("45s", 45, "45s"),
            ("10m", 600, "10m"),
            ("1h30m", 5_400, "1h 30m"),
            ("3d", 259_200, "3d"),
            ("2w", 1_209_600, "14d"),
            ("0", 0, "0s"),
        ] {
            let duration = Duration::from_secs(secs);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(show_duration(duration), shown);
        }
        for text in ["", "10", "m", "10x", "10mé", "-1m", "99999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
