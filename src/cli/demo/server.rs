//! The server of the demo: another process of this program, which never outlives us.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::configuration;
use super::interrupt::Interrupt;
use super::metrics;
use super::settings::Settings;
use crate::clock;

/// How long a start may take, recovery included.
const START_NS: u64 = 60_000_000_000;
/// How long a stop may take: the server's own grace time and its last transaction.
const STOP_NS: u64 = 60_000_000_000;
/// How often a start that failed is tried again: in the moment of a restart somebody else may hold the port.
const STARTS_MAX: usize = 3;
const STARTS_PAUSE: Duration = Duration::from_millis(300);
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// How much of the log an error shows, in bytes.
const LOG_TAIL_BYTES: u64 = 2000;

/// `forebay serve` in a process of its own.
pub struct ServerProcess<'a> {
    config: PathBuf,
    log: PathBuf,
    admin: SocketAddr,
    interrupt: &'a Interrupt,
    child: Option<Child>,
}

/// Where the server's log is.
pub fn log_path(directory: &Path) -> PathBuf {
    directory.join("server.log")
}

impl<'a> ServerProcess<'a> {
    /// Prepares it; nothing runs yet.
    pub fn new(settings: &Settings, interrupt: &'a Interrupt) -> Self {
        let log = log_path(&settings.directory);
        Self { config: configuration::path(settings), log, admin: settings.admin, interrupt, child: None }
    }

    /// Runs the server and waits until it accepts records.
    pub fn start(&mut self) -> anyhow::Result<()> {
        for attempt in 1.. {
            self.spawn()?;
            let Some(status) = self.wait_until_ready()? else { break };
            if attempt == STARTS_MAX {
                bail!("it ended with {status}; {}", self.log_tail());
            }
            self.interrupt.wait(STARTS_PAUSE)?;
        }
        Ok(())
    }

    /// Kills it as `kill -9` does and waits for its end; says whether it was running until then.
    pub fn kill(&mut self) -> anyhow::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        let was_running = child.try_wait().context("cannot look after the server")?.is_none();
        child.kill().context("cannot kill the server")?;
        child.wait().context("cannot wait for the server")?;
        self.forget();
        Ok(was_running)
    }

    /// Fails if it has ended by itself.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended()? {
            bail!("the server ended by itself with {status}; {}", self.log_tail());
        }
        Ok(())
    }

    /// Stops it in order with SIGTERM; returns what it exited with.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_ref().context("the server does not run")?;
        kill_process(Pid::from_child(child), Signal::TERM).context("cannot signal the server")?;
        let deadline = clock::monotonic_ns() + STOP_NS;
        while clock::monotonic_ns() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            self.interrupt.wait(POLL_PAUSE)?;
        }
        bail!("it did not end within {} s; {}", STOP_NS / 1_000_000_000, self.log_tail())
    }

    /// The last lines of its log, for an error.
    pub fn log_tail(&self) -> String {
        let path = self.log.display();
        match read_tail(&self.log) {
            Ok(tail) if tail.is_empty() => format!("{path} says nothing"),
            Ok(tail) => format!("{path} ends with:\n{tail}"),
            Err(error) => format!("{path} cannot be read: {error}"),
        }
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let open = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open.with_context(|| format!("cannot write {}", self.log.display()))?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A Ctrl-C in the terminal is for us alone: we decide what becomes of the server.
        command.process_group(0);
        // From before there is a child until after its end, so that no signal falls between.
        self.interrupt.set_child(true);
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                self.forget();
                return Err(error).context("cannot run this program again");
            }
        }
        Ok(())
    }

    /// Returns the exit status if it ended before it was ready.
    fn wait_until_ready(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = clock::monotonic_ns() + START_NS;
        while clock::monotonic_ns() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if metrics::is_ready(self.admin) {
                return Ok(None);
            }
            self.interrupt.wait(POLL_PAUSE)?;
        }
        bail!("it was not ready within {} s; {}", START_NS / 1_000_000_000, self.log_tail())
    }

    /// What it exited with, once it has.
    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the server does not run")?;
        let status = child.try_wait().context("cannot look after the server")?;
        if status.is_some() {
            self.forget();
        }
        Ok(status)
    }

    fn forget(&mut self) {
        self.child = None;
        self.interrupt.set_child(false);
    }
}

impl Drop for ServerProcess<'_> {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing left to do about an error here.
        let _ = self.kill();
    }
}

fn read_tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).trim().to_owned())
}
