//! How numbers are shown in sentences and tables.

use std::time::Duration;

use larder_daemon::{ByteSize, show_duration, show_time};

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
    show_time(nanos).replacen('T', " ", 1)
}
