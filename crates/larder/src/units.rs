//! How numbers are shown in sentences and tables.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use larder_daemon::{ByteSize, parse_duration, show_duration};

/// A number of bytes, as `1.4 GiB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A number of seconds, as `2h 5m`.
pub fn secs(secs: u64) -> String {
    show_duration(Duration::from_secs(secs))
}

/// A time (nanoseconds since 1970) in the machine's time zone, to the second.
pub fn time(nanos: i64) -> String {
    in_zone(nanos, TimeZone::system())
}

/// The nanoseconds since 1970 of a day or a time in the machine's time zone (a day means its
/// end), or of a time that is so long ago; `None` if it is neither.
pub fn parse_time(text: &str) -> Option<i64> {
    if let Ok(ago) = parse_duration(text) {
        let now = Timestamp::now().as_nanosecond();
        return i64::try_from(now - i128::try_from(ago.as_nanos()).ok()?).ok();
    }
    let zone = TimeZone::system();
    let moment = match text.parse::<jiff::civil::Date>() {
        Ok(day) if text.len() <= "2026-11-21".len() => {
            day.tomorrow().ok()?.to_zoned(zone).ok()?.timestamp()
        }
        _ => match text.parse::<Timestamp>() {
            Ok(moment) => moment,
            Err(_) => {
                let time: jiff::civil::DateTime = text.parse().ok()?;
                time.to_zoned(zone).ok()?.timestamp()
            }
        },
    };
    i64::try_from(moment.as_nanosecond()).ok()
}

fn in_zone(nanos: i64, zone: TimeZone) -> String {
    match Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(time) => time
            .to_zoned(zone)
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_means_its_end_and_a_time_with_a_zone_that_moment() {
        let day = parse_time("2026-11-21").unwrap();
        let noon = parse_time("2026-11-21T12:00").unwrap();
        assert_eq!(day - noon, 12 * 3600 * 1_000_000_000);
        assert_eq!(noon, parse_time("2026-11-21 12:00:00").unwrap());
        assert_eq!(parse_time("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        assert!(parse_time("1h").unwrap() < parse_time("10m").unwrap());
        for wrong in ["", "abc", "2026-13-01", "12"] {
            assert_eq!(parse_time(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_time_is_shown_in_the_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(
            in_zone(1_700_000_000_123_456_789, zone.clone()),
            "2023-11-15 00:13:20"
        );
        assert_eq!(in_zone(-1, zone), "1970-01-01 01:59:59");
    }
}
