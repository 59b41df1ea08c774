//! How numbers are shown in sentences and tables.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use larder_daemon::{ByteSize, show_duration};

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
    fn a_time_is_shown_in_the_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(
            in_zone(1_700_000_000_123_456_789, zone.clone()),
            "2023-11-15 00:13:20"
        );
        assert_eq!(in_zone(-1, zone), "1970-01-01 01:59:59");
    }
}
