//! What the tests need of the machine, and how to get it.
//!
//! Debian's packages by `apt-get`, and only those that are missing; tools from crates.io
//! into `target/tools`, never into the user's own directories.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// A program that must be there, and the package that brings it.
struct Need {
    program: &'static str,
    package: &'static str,
}

/// The real SSH server of the store's tests and the demo (its package brings the client's
/// tools), the helper that mounts for users without rights, and programs that are tried on a
/// mount.
const NEEDS: &[Need] = &[
    Need {
        program: "sshd",
        package: "openssh-server",
    },
    Need {
        program: "fusermount3",
        package: "fuse3",
    },
    Need {
        program: "git",
        package: "git",
    },
    Need {
        program: "rsync",
        package: "rsync",
    },
    Need {
        program: "sqlite3",
        package: "sqlite3",
    },
];

const PJDFSTEST: &str = "0.2.2";
const CARGO_FUZZ: &str = "0.13.2";
const FSX: &str = "0.3.2";

/// Everything that `cargo xtask test` needs.
pub fn all() -> Result<()> {
    run::step("Set-up");
    packages()?;
    components()?;
    fuse()?;
    pjdfstest()?;
    println!("All that the tests need is here.");
    Ok(())
}

/// Where the POSIX suite is installed.
pub fn pjdfstest_program() -> PathBuf {
    tools().join("bin/pjdfstest")
}

/// Installs the POSIX suite if it is not there in the right version.
pub fn pjdfstest() -> Result<()> {
    tool("pjdfstest", PJDFSTEST)
}

/// Where fsx is installed.
pub fn fsx_program() -> PathBuf {
    tools().join("bin/fsx")
}

/// Installs fsx if it is not there in the right version.
pub fn fsx() -> Result<()> {
    tool("fsx", FSX)
}

/// Installs a program from crates.io if it is not there in this version.
fn tool(name: &str, version: &str) -> Result<()> {
    let there = run::output(Command::new(tools().join("bin").join(name)).arg("--version"));
    if there.is_ok_and(|line| line.trim_end().ends_with(version)) {
        return Ok(());
    }
    run::show(
        run::cargo()
            .args(["install", "--locked", "--version", version, "--root"])
            .arg(tools())
            .arg(name),
    )
}

/// Installs cargo-fuzz if it is not there; the nightly compiler is the user's to have.
pub fn cargo_fuzz() -> Result<()> {
    let nightly = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--version"])
        .output();
    if !nightly.is_ok_and(|out| out.status.success()) {
        bail!(
            "Fuzzing needs a nightly compiler.\n\
             Hint: `rustup toolchain install nightly --profile minimal`."
        );
    }
    tool("cargo-fuzz", CARGO_FUZZ)
}

/// `PATH`, with the tools that were installed here first.
pub fn path_with_tools() -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(tools().join("bin")).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(all)?)
}

fn tools() -> PathBuf {
    run::target().join("tools")
}

fn packages() -> Result<()> {
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|need| find(need.program).is_none())
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!(
            "These packages are missing: {list}.\n\
             Hint: As root, run `apt-get install {list}`, or use `cargo xtask test --fast`."
        );
    }
    if find("apt-get").is_none() {
        bail!("These packages are missing, and there is no apt-get to install them: {list}.");
    }
    run::show(&mut apt(&["update", "-qq"]))?;
    run::show(apt(&["install", "-y", "-qq", "--no-install-recommends"]).args(&missing))
}

fn apt(args: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(args);
    apt
}

/// rustfmt and clippy, which a minimal toolchain lacks.
fn components() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if run::output(run::cargo().args([tool, "--version"])).is_err() {
            run::show(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

fn fuse() -> Result<()> {
    let device = Path::new("/dev/fuse");
    if !device.exists() {
        // It may only not be loaded; whether that worked is asked of the device.
        let _ = run::output(Command::new("modprobe").arg("fuse"));
    }
    if !device.exists() {
        bail!(
            "There is no /dev/fuse, and the tests mount real volumes.\n\
             Hint: In a container, start it with `--device /dev/fuse --cap-add SYS_ADMIN`."
        );
    }
    Ok(())
}

/// Where a program lies; those of the system are found without being in `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
