//! The POSIX suite pjdfstest on a real mount, for each profile.
//!
//! A volume on a folder store is made and mounted through the `larder` program, and all
//! cases of the suite run in it, as root and as two users without rights that every
//! Debian has. What native file systems pass, Larder passes: no case may fail, and only a
//! few that are known by name may be skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::playground::{self, Playground, Program};
use crate::{run, setup};

/// The mount profiles.
pub const PROFILES: [&str; 3] = [PASSTHROUGH, "cached", "no-open"];

const PASSTHROUGH: &str = "passthrough";
/// The first kernel that can do it.
const PASSTHROUGH_KERNEL: (u32, u32) = (6, 9);

/// Cases in the version of the suite that `setup` installs.
const CASES: usize = 398;
/// Cases that are skipped. Most would remount the file system read-only, which `mount` leaves
/// to a helper that FUSE's own tools do not have. One needs a link limit, and the C library
/// knows none of any FUSE file system.
const SKIPPED: [(&str, usize); 2] = [("::erofs_", 13), ("link::link_count_max", 1)];

/// Runs the suite on a mount of each of `profiles`.
pub fn run(profiles: &[&str], program: Program) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("pjdfstest changes owners and users, so it runs as root only.");
    }
    let playground = Playground::new("pjdfstest", program)?;
    let release = rustix::system::uname();
    let kernel = version(&release.release().to_string_lossy());
    for profile in profiles {
        run::step(&format!("pjdfstest, profile {profile}"));
        if *profile == PASSTHROUGH && kernel.is_some_and(|kernel| kernel < PASSTHROUGH_KERNEL) {
            println!("Left out: this kernel cannot do it, it is older than 6.9.");
            continue;
        }
        let output = on_a_mount(&playground, profile)?;
        let kept = run::target().join(format!("pjdfstest-{profile}.txt"));
        fs::write(&kept, &output)?;
        judge(&output).with_context(|| format!("{profile}; see {}", kept.display()))?;
    }
    Ok(())
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What the suite prints in a fresh volume's mount.
fn on_a_mount(playground: &Playground, profile: &str) -> Result<String> {
    let mount = playground.path(&format!("mount-{profile}"));
    let config = playground.path("pjdfstest.toml");
    let elsewhere = playground.path("elsewhere");
    fs::create_dir_all(&elsewhere)?;
    fs::write(&config, CONFIGURATION)?;
    run::output(
        playground
            .larder(profile)
            .args(["init", "--budget", "1G", "--store"])
            .arg(playground.path(&format!("store-{profile}")))
            .arg(&mount),
    )?;
    let mut daemon = Daemon::start(playground, profile, &mount)?;
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
    run::output(playground.larder(profile).arg("unmount").arg(&mount))?;
    let status = daemon.child.wait()?;
    if !status.success() {
        bail!("The daemon ended with {status} after an unmount.");
    }
    Ok(String::from_utf8_lossy(&suite.stdout).into_owned())
}

/// The mount's daemon; it does not outlive a failure.
struct Daemon {
    child: Child,
    said: PathBuf,
}

impl Daemon {
    /// Mounts, with the profile or not at all.
    fn start(playground: &Playground, profile: &str, mount: &Path) -> Result<Self> {
        let said = playground.path(&format!("said-{profile}"));
        let child = playground
            .larder(profile)
            .args(["mount", "--foreground", "--allow-other"])
            .args(["--profile", profile])
            .arg(mount)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&said)?)
            .spawn()?;
        let mut daemon = Self { child, said };
        playground::wait_until_mounted(mount, || daemon.check())?;
        daemon.check()?;
        Ok(daemon)
    }

    /// Fails if it ended or warned: it mounts with another profile than the one asked for
    /// rather than not at all, and says so.
    fn check(&mut self) -> Result<()> {
        let said = fs::read_to_string(&self.said)?;
        if let Some(status) = self.child.try_wait()? {
            bail!("The daemon ended by itself with {status}:\n{said}");
        }
        if said.contains("Warning:") {
            bail!("The daemon warns:\n{said}");
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = playground::end(&mut self.child);
    }
}

/// Everything that Linux's own file systems can do, and naps longer than the kernel's
/// coarse clock takes for a step.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Whether the suite's output is what is asked for.
fn judge(output: &str) -> Result<()> {
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
    let (passed, skipped, failed) = (named(" ok"), named(" skipped"), named(" FAILED"));
    println!(
        "{} passed, {} skipped, {} failed",
        passed.len(),
        skipped.len(),
        failed.len()
    );
    if !failed.is_empty() {
        bail!("These cases fail: {}", failed.join(", "));
    }
    for (part, count) in SKIPPED {
        let found = skipped.iter().filter(|name| name.contains(part)).count();
        if found != count {
            bail!("{found} cases named {part} were skipped instead of {count}.");
        }
    }
    let skips: usize = SKIPPED.iter().map(|(_, count)| count).sum();
    if passed.len() + skips != CASES || skipped.len() != skips {
        bail!(
            "{} cases passed and {} were skipped, instead of {} and {skips}: {}",
            passed.len(),
            skipped.len(),
            CASES - skips,
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
        judge(&output(|_| None)).unwrap();
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
            assert!(judge(&bad).is_err(), "{word}");
        }
        let remounted = output(|at| (at == 3).then_some("ok"));
        assert!(judge(&remounted).is_err());
        assert!(judge("").is_err());
    }

    #[test]
    fn a_kernels_release_is_read() {
        assert_eq!(version("6.9.1-arch1"), Some((6, 9)));
        assert_eq!(version("5.10.0-8-amd64"), Some((5, 10)));
        assert_eq!(version("strange"), None);
    }
}
