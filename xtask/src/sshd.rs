//! A real SSH server on loopback, with keys of its own.
//!
//! Debian's sshd with its sftp-server, on a free port, for the user who runs this. It
//! reads no configuration of the machine and ends with the value. (The store's tests have a
//! larger one, which can misbehave; a demo must not build all that they need.)

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{playground, run, setup};

/// A server that is running.
pub struct Sshd {
    child: Child,
    program: PathBuf,
    dir: PathBuf,
    port: u16,
}

impl Sshd {
    /// Starts one whose files lie in the fresh directory `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let program = setup::find("sshd").context("there is no sshd (Debian: openssh-server)")?;
        fs::create_dir(dir)?;
        for key in ["host_key", "user_key"] {
            run::output(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"])
                    .arg(dir.join(key)),
            )?;
        }
        fs::copy(dir.join("user_key.pub"), dir.join("authorized_keys"))?;
        if rustix::process::geteuid().is_root() {
            // Where the package has not been started yet, its own directory is missing.
            fs::create_dir_all("/run/sshd")?;
        }
        let port = free_port()?;
        fs::write(dir.join("config"), configuration(dir, port))?;
        let mut sshd = Self {
            child: launch(&program, dir)?,
            program,
            dir: dir.to_owned(),
            port,
        };
        sshd.wait_until_ready()?;
        Ok(sshd)
    }

    /// The address of a directory on it.
    pub fn address(&self, path: &Path) -> Result<String> {
        let user = run::output(Command::new("id").arg("-un"))?;
        Ok(format!(
            "sftp://{}@127.0.0.1:{}{}",
            user.trim(),
            self.port,
            path.display()
        ))
    }

    /// The private key that it lets in.
    pub fn identity(&self) -> PathBuf {
        self.dir.join("user_key")
    }

    /// A known-hosts file with its key.
    pub fn known_hosts(&self) -> Result<PathBuf> {
        let path = self.dir.join("known_hosts");
        let key = fs::read_to_string(self.dir.join("host_key.pub"))?;
        fs::write(&path, format!("[127.0.0.1]:{} {key}", self.port))?;
        Ok(path)
    }

    /// Ends it and all its sessions, in the middle of whatever they do.
    pub fn stop(&mut self) -> Result<()> {
        playground::kill(&mut self.child)
    }

    /// Starts it again after [`Self::stop`], at the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.child = launch(&self.program, &self.dir)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > end {
                let said = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("sshd does not answer:\n{said}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = playground::end(&mut self.child);
    }
}

fn launch(program: &Path, dir: &Path) -> Result<Child> {
    let log = dir.join("log");
    Command::new(program)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("config"))
        .stdin(Stdio::null())
        .stderr(fs::File::options().create(true).append(true).open(log)?)
        .spawn()
        .context("sshd does not start")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn configuration(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "ListenAddress 127.0.0.1\n\
         Port {port}\n\
         HostKey {dir}/host_key\n\
         AuthorizedKeysFile {dir}/authorized_keys\n\
         PidFile none\n\
         StrictModes no\n\
         UsePAM no\n\
         PasswordAuthentication no\n\
         PermitRootLogin prohibit-password\n\
         Subsystem sftp internal-sftp\n"
    )
}
