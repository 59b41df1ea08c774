//! A volume in a playground, mounted by a daemon that can be ended and killed.
//!
//! Its settings have nothing wait for more to come, so that a run stores, drops and fetches
//! often.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::playground::{self, Playground};
use crate::run;

const EAGER: &str = "\n[limits]\nsettle-quiet = \"0\"\ncommit-interval = \"1s\"\n";

/// What a volume is made with.
pub struct Plan<'a> {
    /// The machine it is on; each has a home of its own.
    pub machine: &'a str,
    pub profile: &'a str,
    pub budget: &'a str,
    /// Its store, and what else `init` is told.
    pub store: Vec<String>,
    /// Lines for its settings' `[limits]`.
    pub limits: &'a str,
}

/// A volume that is mounted, for all users.
pub struct Volume<'a> {
    playground: &'a Playground,
    machine: String,
    profile: String,
    mount: PathBuf,
    daemon: Option<Child>,
}

impl<'a> Volume<'a> {
    /// Makes it and mounts it.
    pub fn start(playground: &'a Playground, plan: &Plan<'_>) -> Result<Self> {
        let mount = playground.path(&format!("mount-{}", plan.machine));
        run::output(
            playground
                .larder(plan.machine)
                .args(["init", "--budget", plan.budget, "--store"])
                .args(&plan.store)
                .arg(&mount),
        )?;
        let settings = settings(&playground.path(plan.machine))?;
        let text = fs::read_to_string(&settings)?;
        if text.contains("\n[limits]\n") {
            bail!("{} has limits already.", settings.display());
        }
        fs::write(&settings, format!("{text}{EAGER}{}\n", plan.limits))?;
        let mut volume = Self {
            playground,
            machine: plan.machine.to_owned(),
            profile: plan.profile.to_owned(),
            mount,
            daemon: None,
        };
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.mount
    }

    /// The daemon's process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("it is not mounted")?.id())
    }

    /// Mounts it, with its profile or not at all.
    pub fn mount(&mut self) -> Result<()> {
        self.mount_under(&[])
    }

    /// As [`Self::mount`], with the daemon started by these words: a program that starts what
    /// stands behind it.
    pub fn mount_under(&mut self, words: &[String]) -> Result<()> {
        let said = self.playground.path(&format!("said-{}", self.machine));
        let larder = self.larder();
        let mut command = match words {
            [] => larder,
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(larder.get_program());
                let set = larder.get_envs();
                command.envs(set.filter_map(|(name, value)| Some((name, value?))));
                command
            }
        };
        let daemon = command
            .args(["mount", "--foreground", "--allow-other", "--profile"])
            .arg(&self.profile)
            .arg(&self.mount)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&said)?)
            .spawn()?;
        let daemon = self.daemon.insert(daemon);
        playground::wait_until_mounted(&self.mount, || match daemon.try_wait()? {
            Some(status) => bail!(
                "The daemon ended with {status}:\n{}",
                fs::read_to_string(&said)?
            ),
            None => Ok(()),
        })
    }

    /// Unmounts it; its daemon must end well.
    pub fn unmount(&mut self) -> Result<()> {
        run::output(self.larder().arg("unmount").arg(&self.mount))?;
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.wait()?;
            if !status.success() {
                bail!("The daemon ended with {status} after an unmount.");
            }
        }
        Ok(())
    }

    /// Kills the daemon as a crash would. What it leaves at the mount is for [`Self::mount`].
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            playground::kill(&mut daemon)?;
        }
        // It may never have been mounted.
        Command::new("umount")
            .arg("--lazy")
            .arg(&self.mount)
            .output()?;
        Ok(())
    }

    /// `larder` on its machine.
    pub fn larder(&self) -> Command {
        self.playground.larder(&self.machine)
    }

    /// Has all of it stored.
    pub fn commit(&self) -> Result<()> {
        run::output(self.larder().arg("commit"))?;
        Ok(())
    }

    /// Has all content stored, dropped, and forgotten by the kernel: the next read asks the
    /// store. Nothing may be open.
    pub fn send_away(&mut self) -> Result<()> {
        self.commit()?;
        run::output(self.larder().arg("stash").arg(&self.mount))?;
        self.unmount()?;
        self.mount()
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        if self.daemon.is_some()
            && self.unmount().is_err()
            && let Some(mut daemon) = self.daemon.take()
        {
            let _ = playground::end(&mut daemon);
        }
    }
}

/// The settings of a machine's only volume.
fn settings(home: &Path) -> Result<PathBuf> {
    let volumes = home.join("volumes");
    for volume in fs::read_dir(&volumes).with_context(|| volumes.display().to_string())? {
        let path = volume?.path().join("config.toml");
        if path.exists() {
            return Ok(path);
        }
    }
    bail!("There is no volume in {}.", volumes.display())
}
