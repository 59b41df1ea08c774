//! How a moment is named: by a time in the machine's time zone, by a number, or by an id.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use larder_model::{TagName, Time};

use super::Which;
use super::chain::DIGITS_MIN;

const SECOND: i64 = 1_000_000_000;

impl Which {
    /// From `latest`, a day or a time (`2026-11-21`, `2026-11-21T10:00`, with or without a zone), a
    /// commit's number, the start of its id, or its name. A day and a second mean their end, so that
    /// a time that [`show_time`] shows names what was then. `None` if it is none of these.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        if let Some(time) = parse_time(text) {
            return Some(Self::At(time));
        }
        // A name, perhaps with the replica that gave it behind it.
        let name = text.split_once(" (").map_or(text, |(name, _)| name);
        TagName::new(name).map(|_| Self::Name(text.to_owned()))
    }

    /// Whether this would be taken for a commit's number, or for the start of an id.
    pub(super) fn is_number_or_id(text: &str) -> bool {
        text.bytes().all(|byte| byte.is_ascii_digit())
            || text.len() >= DIGITS_MIN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

fn parse_time(text: &str) -> Option<Time> {
    let zone = TimeZone::system();
    let nanos = |moment: Timestamp| i64::try_from(moment.as_nanosecond()).ok();
    if text.len() <= "2026-11-21".len()
        && let Ok(day) = text.parse::<Date>()
    {
        let end = nanos(day.tomorrow().ok()?.to_zoned(zone).ok()?.timestamp())?;
        return Some(Time(end - 1));
    }
    let moment = match text.parse::<Timestamp>() {
        Ok(moment) => moment,
        Err(_) => {
            let time: DateTime = text.parse().ok()?;
            time.to_zoned(zone).ok()?.timestamp()
        }
    };
    let time = nanos(moment)?;
    let is_whole = time.rem_euclid(SECOND) == 0;
    Some(Time(time.checked_add(if is_whole {
        SECOND - 1
    } else {
        0
    })?))
}

/// A time as [`Which::parse`] reads it, in the machine's time zone, to the second: `2026-11-21T10:00:03`.
pub fn show_time(time: Time) -> String {
    in_zone(time, TimeZone::system())
}

fn in_zone(time: Time, zone: TimeZone) -> String {
    match Timestamp::from_nanosecond(i128::from(time.0)) {
        Ok(time) => {
            let zoned = time.to_zoned(zone);
            zoned.strftime("%Y-%m-%dT%H:%M:%S").to_string()
        }
        Err(_) => time.0.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        match Which::parse(text) {
            Some(Which::At(time)) => time.0,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_commit_is_named_by_time_number_and_id() {
        assert_eq!(Which::parse("latest"), Some(Which::Latest));
        assert_eq!(Which::parse("12"), Some(Which::Name("12".into())));
        let id = Some(Which::Name("3deadbeef".into()));
        assert_eq!(Which::parse("3deadbeef"), id);
        for name in ["v1", "before the move", "v1 (3fab12cd)"] {
            assert_eq!(Which::parse(name), Some(Which::Name(name.into())));
            assert!(!Which::is_number_or_id(name));
        }
        assert!(Which::is_number_or_id("12") && Which::is_number_or_id("3deadbeef"));
        for wrong in ["", ".", "a/b", "(x)", "-v"] {
            assert_eq!(Which::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_day_means_its_end_and_a_second_too() {
        let (day, noon) = (at("2026-11-21"), at("2026-11-21T12:00"));
        assert_eq!(day - noon, 12 * 3600 * SECOND - SECOND);
        assert_eq!(noon, at("2026-11-21 12:00:00"));
        assert_eq!(at("1970-01-01T00:00:01Z"), 2 * SECOND - 1);
        assert_eq!(at("1970-01-01T00:00:01.5Z"), SECOND + SECOND / 2);
    }

    #[test]
    fn a_time_that_is_shown_names_what_was_then() {
        for nanos in [1_700_000_000_123_456_789, 1_700_000_000_000_000_000] {
            let shown = at(&show_time(Time(nanos)));
            assert!((nanos..nanos + SECOND).contains(&shown));
        }
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let shown = in_zone(Time(1_700_000_000_123_456_789), zone.clone());
        assert_eq!(shown, "2023-11-15T00:13:20");
        assert_eq!(in_zone(Time(-1), zone), "1970-01-01T01:59:59");
    }
}
