//! The POSIX suite pjdfstest on a real mount, for each profile.
//!
//! A volume on a folder store is made and mounted through the `larder` program, and all
//! cases of the suite run in it, as root and as two users without rights that every
//! Debian has. What native file systems pass, Larder passes: no case may fail, and only a
//! few that are known by name may be skipped.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::playground::{self, Playground, Program};
use crate::{run, setup};

/// A mount profile, and the cases that it is known not to pass.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    name: &'static str,
    /// Reviewed exceptions; one that passes after all is a failure, so that the list
    /// shrinks.
    exceptions: &'static [&'static str],
}

/// All profiles.
pub const PROFILES: [Profile; 3] = [
    Profile {
        name: "passthrough",
        exceptions: &[],
    },
    Profile {
        name: "cached",
        exceptions: &[],
    },
    Profile {
        name: "no-open",
        exceptions: &[],
    },
];

/// Cases in the version of the suite that `setup` installs.
const CASES: usize = 398;
/// Cases that are skipped. Most would remount the file system read-only, which `mount` leaves
/// to a helper that FUSE's own tools do not have. One needs a link limit, and the C library
/// knows none of any FUSE file system.
const SKIPPED: [(&str, usize); 2] = [("::erofs_", 13), ("link::link_count_max", 1)];

/// The profile of that name.
pub fn profile(name: &str) -> Result<Profile> {
    let known = PROFILES
        .iter()
        .find(|profile| profile.name == name)
        .copied();
    known.with_context(|| format!("There is no profile {name}."))
}

/// Runs the suite on a mount of each of `profiles`.
pub fn run(profiles: &[Profile], program: Program) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("pjdfstest changes owners and users, so it runs as root only.");
    }
    let playground = Playground::new("pjdfstest", program)?;
    for profile in profiles {
        run::step(&format!("pjdfstest, profile {}", profile.name));
        let output = on_a_mount(&playground, profile)?;
        let kept = run::target().join(format!("pjdfstest-{}.txt", profile.name));
        fs::write(&kept, &output)?;
        judge(&output, profile.exceptions)
            .with_context(|| format!("{}; see {}", profile.name, kept.display()))?;
    }
    Ok(())
}

fn on_a_mount(playground: &Playground, profile: &Profile) -> Result<String> {
    let name = profile.name;
    let mount = playground.path(&format!("mount-{name}"));
    let config = playground.path(&format!("{name}.toml"));
    let elsewhere = playground.path("elsewhere");
    fs::create_dir_all(&elsewhere)?;
    fs::write(&config, configuration(profile.exceptions))?;
    run::output(
        playground
            .larder(name)
            .args(["init", "--budget", "1G", "--store"])
            .arg(playground.path(&format!("store-{name}")))
            .arg(&mount),
    )?;
    let mut daemon = Daemon(
        playground
            .larder(name)
            .args(["mount", "--foreground", "--allow-other", "--profile", name])
            .arg(&mount)
            .stdin(Stdio::null())
            .spawn()?,
    );
    playground::wait_until_mounted(&mount, || daemon.check())?;
    let suite = Command::new(setup::pjdfstest_program())
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "0")
        .arg("--configuration-file")
        .arg(&config)
        .arg("--path")
        .arg(&mount)
        .arg("--secondary-fs")
        .arg(&elsewhere)
        .output()
        .context("pjdfstest does not start")?;
    daemon.check()?;
    run::output(playground.larder(name).arg("unmount").arg(&mount))?;
    let status = daemon.0.wait()?;
    if !status.success() {
        bail!("The daemon ended with {status} after an unmount.");
    }
    Ok(String::from_utf8_lossy(&suite.stdout).into_owned())
}

/// The mount's daemon; it does not outlive a failure.
struct Daemon(Child);

impl Daemon {
    fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("The daemon ended by itself with {status}."),
            None => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = playground::end(&mut self.0);
    }
}

/// Everything that Linux's own file systems can do, and naps longer than the kernel's
/// coarse clock takes for a step.
fn configuration(exceptions: &[&str]) -> String {
    format!(
        "[features]\n\
         posix_fallocate = {{}}\n\
         rename_ctime = {{}}\n\
         utime_now = {{}}\n\
         utimensat = {{}}\n\
         [settings]\n\
         naptime = 0.02\n\
         expected_failures = {exceptions:?}\n\
         [dummy_auth]\n\
         entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n"
    )
}

/// Whether the suite's output is what is asked for.
fn judge(output: &str, exceptions: &[&str]) -> Result<()> {
    let named = |word: &str| -> Vec<&str> {
        // Details of a case follow it, indented.
        let cases = output
            .lines()
            .filter(|line| !line.starts_with(char::is_whitespace));
        let lines = cases.filter(|line| line.trim_end().ends_with(word));
        lines
            .filter_map(|line| line.split_whitespace().next())
            .collect()
    };
    let failed = [named(" FAILED"), named(" PASSED UNEXPECTEDLY")].concat();
    let skipped = named(" skipped");
    let excused = named(" failed as expected");
    let passed = named(" ok");
    let total = failed.len() + skipped.len() + excused.len() + passed.len();
    println!(
        "{} passed, {} skipped, {} excused, {} failed",
        passed.len(),
        skipped.len(),
        excused.len(),
        failed.len()
    );
    if !failed.is_empty() {
        bail!(
            "These cases are not as they should be: {}",
            failed.join(", ")
        );
    }
    for (part, count) in SKIPPED {
        let found = skipped.iter().filter(|name| name.contains(part)).count();
        if found != count {
            bail!("{found} cases named {part} were skipped instead of {count}.");
        }
    }
    let skips: usize = SKIPPED.iter().map(|(_, count)| count).sum();
    if total != CASES || skipped.len() != skips || excused.len() != exceptions.len() {
        bail!(
            "{total} cases ran and {} were skipped, instead of {CASES} and {skips}: {}",
            skipped.len(),
            skipped.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run like the real ones, in which case `at` ends with `change(at)` instead.
    fn output(change: impl Fn(usize) -> Option<&'static str>) -> String {
        let usual = |at| match at {
            0..13 => (format!("chmod{at}::erofs_named"), "skipped"),
            13 => ("link::link_count_max".to_owned(), "skipped"),
            _ => (format!("chmod::case{at}"), "ok"),
        };
        let line = |at| {
            let (name, end) = usual(at);
            format!("{name}   {}\n\twhy: ok\n", change(at).unwrap_or(end))
        };
        (0..CASES).map(line).collect()
    }

    #[test]
    fn a_clean_run_is_accepted() {
        judge(&output(|_| None), &[]).unwrap();
    }

    #[test]
    fn a_failure_a_skip_and_a_missing_case_are_not() {
        for word in [
            "FAILED",
            "skipped",
            "PASSED UNEXPECTEDLY",
            "failed as expected",
            "lost",
        ] {
            let bad = output(|at| (at == 100).then_some(word));
            assert!(judge(&bad, &[]).is_err(), "{word}");
        }
        let remounted = output(|at| (at == 3).then_some("ok"));
        assert!(judge(&remounted, &[]).is_err());
        assert!(judge("", &[]).is_err());
    }

    #[test]
    fn a_reviewed_exception_has_to_fail() {
        let excused = output(|at| (at == 100).then_some("failed as expected"));
        judge(&excused, &["chmod::case100"]).unwrap();
        assert!(judge(&output(|_| None), &["chmod::case100"]).is_err());
    }
}
