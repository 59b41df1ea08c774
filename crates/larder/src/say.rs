//! How the program speaks: what was asked for on standard output; `Warning:`, `Hint:` and
//! `Error:` lines and progress on standard error.
//!
//! A reader that went away (`larder ls | head`) is no error.

use std::fmt::{Arguments, Display};
use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};
use larder_daemon::{Failure, Progress, Unit};
use parking_lot::Mutex;
use serde::Serialize;

/// One line on standard output.
pub fn out(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Text on standard output, as it is.
pub fn raw(text: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text).and_then(|()| stdout.flush());
}

/// A value as JSON on standard output.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    out(text);
    Ok(())
}

/// A value as one line of JSON on standard output.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(Failure::failed)?;
    out(text);
    Ok(())
}

/// Something that the user should know.
pub fn warning(text: impl Display) {
    note(format_args!("Warning: {text}"));
}

/// What the user can do next.
pub fn hint(text: impl Display) {
    note(format_args!("Hint: {text}"));
}

/// Why it did not work.
pub fn failure(failure: &Failure) {
    note(format_args!("Error: {failure}"));
    if let Some(text) = &failure.hint {
        hint(text);
    }
}

fn note(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// `1 file`, `2 files`.
pub fn count(n: u64, one: &str) -> String {
    match (n, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        (_, None) => format!("{n} {one}s"),
    }
}

/// A progress bar on standard error; nothing is shown if that is no terminal.
pub struct Bar {
    bar: ProgressBar,
    shown: Mutex<Option<(String, Unit)>>,
}

impl Bar {
    /// A bar that shows itself with the first report.
    pub fn new() -> Self {
        Self {
            bar: ProgressBar::no_length(),
            shown: Mutex::new(None),
        }
    }

    /// Shows a report.
    pub fn report(&self, progress: Progress) {
        let mut shown = self.shown.lock();
        let now = (progress.phase, progress.unit);
        if shown.as_ref() != Some(&now) {
            self.bar.set_style(style(now.1));
            self.bar.set_prefix(now.0.clone());
            self.bar.reset();
            *shown = Some(now);
        }
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        self.bar.set_message(progress.path.unwrap_or_default());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => {
            "{prefix} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, \
             {eta} left {wide_msg}"
        }
        Unit::Files => "{prefix} [{bar:30}] {pos} of {len} files, {eta} left {wide_msg}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_counted_in_english() {
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(count(1, "directory"), "1 directory");
        assert_eq!(count(2, "directory"), "2 directories");
    }

    #[test]
    fn the_bars_can_be_drawn() {
        for unit in [Unit::Bytes, Unit::Files] {
            let bar = ProgressBar::hidden();
            bar.set_style(style(unit));
        }
    }
}
