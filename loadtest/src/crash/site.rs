//! The server that is killed: its configuration, its starts and ends, and what it leaves behind.

use super::CrashError;
use super::database::Database;
use super::request::QUEUES;
use crate::peer::{
    LOG_FILE, PeerError, RunningPeer, ServerProgram, StartOptions, Stop, answers_ok, forebay_program, queue_metric,
    write_file,
};
use crate::wire::Wire;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a start may take. Only one that hangs ever takes so long.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// How long a stop may take. Only one that hangs ever takes so long.
const STOP_TIMEOUT: Duration = Duration::from_mins(2);
/// What a shell says of a process that was killed by SIGKILL.
const KILLED: i32 = 128 + 9;
const CONFIG_FILE: &str = "forebay.toml";
const DATA: &str = "data";

/// The smallest journal that takes the largest request, so that segments are sealed, recycled and removed all the time;
/// and executors that share two cores, so that keys are looked up across them.
const SMALL: &str = r#"[[listeners]]
address = "127.0.0.1:0"

[admin]
address = "127.0.0.1:0"

[ingress]
executors = 2
record_bytes_max = "16KiB"
batch_request_bytes_max = "32KiB"

[journal]
ring_bytes = "64KiB"
commit_bytes_max = "36KiB"
segment_bytes = "64KiB"
hot_ring_bytes = "16KiB"
"#;
/// Longer than any run, since a key that is forgotten allows a duplicate.
const IDEMPOTENCY_WINDOW_MS: u64 = 24 * 60 * 60 * 1000;
/// More than the longest run has of them, for the same reason.
const IDEMPOTENCY_KEYS_MAX: u64 = 10_000_000;
/// A database that was away for a moment should not be waited for long.
const BACKOFF_MS_MAX: u64 = 200;

/// Where the server lives. Dropping it removes the directory, unless it is to be kept.
pub struct Site {
    program: PathBuf,
    path: PathBuf,
    kept: bool,
}

/// A server that is ready.
pub struct Server {
    peer: RunningPeer,
    /// Where it takes records.
    pub address: SocketAddr,
    admin_port: u16,
    /// How long it took to get ready.
    pub ready: Duration,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was killed.
    Killed,
    /// It had ended before the kill, in order.
    Stopped,
}

impl Site {
    /// Makes a directory for it, which goes with every server and comes back when that is killed.
    pub fn new(options: &StartOptions) -> Result<(Self, TempDir), PeerError> {
        let program = forebay_program(options)?;
        let mut directory = options.temporary_directory()?;
        // A server that does not start must not take it along.
        directory.disable_cleanup(true);
        let path = directory.path().to_path_buf();
        Ok((Self { program, path, kept: false }, directory))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory as it is, and says where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }

    /// Sets the rate of every queue for the next start.
    pub fn configure(&self, rate: &str, database: &Database) -> Result<(), PeerError> {
        let data = self.path.join(DATA).display().to_string();
        let queue = |queue| {
            format!(
                "\n[queues.{queue}]\nrate = \"{rate}\"\nidempotency_window_ms = {IDEMPOTENCY_WINDOW_MS}\n\
                 idempotency_keys_max = {IDEMPOTENCY_KEYS_MAX}\n\
                 retry = {{ backoff_ms_max = {BACKOFF_MS_MAX} }}\n[queues.{queue}.sink]\n{}",
                database.sink_toml(queue)
            )
        };
        let queues: String = QUEUES.map(queue).concat();
        write_file(&self.path.join(CONFIG_FILE), &format!("data_dir = {data:?}\n\n{SMALL}{queues}"))
    }

    /// Starts a server and waits for nothing.
    pub fn spawn(&self, directory: TempDir) -> Result<RunningPeer, PeerError> {
        let config = self.path.join(CONFIG_FILE).display().to_string();
        RunningPeer::spawn(ServerProgram {
            name: "forebay",
            keeps: "",
            // Its ports are known when it says them.
            wire: Wire::Http { url: String::new() },
            program: &self.program,
            arguments: vec!["serve".to_owned(), "--config".to_owned(), config],
            environment: Vec::new(),
            stop: Stop::Kill,
            account: None,
            cores: None,
            directory,
        })
    }

    /// Starts a server and waits until it is ready.
    pub fn start(&self, directory: TempDir) -> Result<Server, CrashError> {
        let log = self.path.join(LOG_FILE);
        let before_bytes = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let started = Instant::now();
        let peer = self.spawn(directory)?;
        let addresses = || addresses(&fs::read(&log).unwrap_or_default(), before_bytes);
        let peer = peer.wait_until(START_TIMEOUT, |_| {
            let (_, admin) = addresses().ok_or("it has not said its addresses")?;
            answers_ok(admin.port(), "/readyz")
        })?;
        let ready = started.elapsed();
        let (address, admin) = addresses().ok_or_else(|| self.broken("its log has lost its addresses"))?;
        Ok(Server { peer, address, admin_port: admin.port(), ready })
    }

    /// Kills a server and waits for its end.
    pub fn kill(&self, peer: RunningPeer) -> Result<(TempDir, End), CrashError> {
        let (directory, status) = peer.kill();
        Ok((directory, self.end_of(status)?))
    }

    fn end_of(&self, status: Option<ExitStatus>) -> Result<End, CrashError> {
        match status.and_then(|status| status.code()) {
            // None: one that took longer to die than the guard is waited for, which is killed then.
            Some(KILLED) | None => Ok(End::Killed),
            Some(0) => Ok(End::Stopped),
            Some(code) => Err(self.broken(format!("it ended by itself with exit code {code}"))),
        }
    }

    /// Runs `forebay verify` on what the last server left: a kill is no damage.
    pub fn verify(&self) -> Result<(), CrashError> {
        let mut command = Command::new(&self.program);
        let output = command.arg("verify").arg(self.path.join(DATA)).output();
        let output =
            output.map_err(|source| PeerError::Spawn { program: self.program.display().to_string(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(CrashError::Damage { said: String::from_utf8_lossy(&said).trim().to_owned() })
    }

    /// Something about the server that is not as it must be, with the end of its log.
    pub fn broken(&self, reason: impl Into<String>) -> CrashError {
        let log = fs::read(self.path.join(LOG_FILE)).unwrap_or_default();
        CrashError::Server { reason: reason.into(), log: crate::peer::tail(&log) }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is in the system's directory for temporary files, or where the caller looks.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Server {
    /// Tells it to stop (SIGTERM).
    pub fn terminate(&self) -> Result<(), &'static str> {
        let process = self.peer.process().ok_or("its process is not found")?;
        let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw).ok_or("its process has no id")?;
        kill_process(id, Signal::TERM).map_err(|_| "it ended by itself before it was told to stop")
    }

    /// Waits until it has stopped; says whether it did.
    pub fn stopped(&mut self) -> bool {
        self.peer.ended_within(STOP_TIMEOUT)
    }

    /// The sum of a metric over all queues; `None` if it does not answer.
    pub fn metric(&self, metric: &str) -> Option<u64> {
        QUEUES.into_iter().map(|queue| queue_metric::<u64>(self.admin_port, metric, queue)).sum()
    }

    /// The server alone, for [`Site::kill`].
    pub fn into_peer(self) -> RunningPeer {
        self.peer
    }
}

/// The addresses for records and of the administration, which the server prints once it listens.
fn addresses(log: &[u8], before_bytes: u64) -> Option<(SocketAddr, SocketAddr)> {
    let fresh = log.get(usize::try_from(before_bytes).ok()?..)?;
    // The last line may be half written.
    let whole = fresh.rsplitn(2, |byte| *byte == b'\n').nth(1)?;
    let text = String::from_utf8_lossy(whole);
    let after = |start: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
        rest.split(' ').next()?.parse().ok()
    };
    Some((after("listening on http://")?, after("admin on http://")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_last_start() {
        let before = "listening on http://127.0.0.1:1\nadmin on http://127.0.0.1:2 (/healthz)\nlistening on http://127";
        let after = "listening on http://127.0.0.1:3\nadmin on http://127.0.0.1:4 (/healthz)\n";
        let log = format!("{before}{after}");
        let ports = |bytes: &[u8], from: usize| {
            addresses(bytes, from as u64).map(|(address, admin)| (address.port(), admin.port()))
        };
        assert_eq!(ports(log.as_bytes(), before.len()), Some((3, 4)));
        assert_eq!(ports(log.as_bytes(), 0), Some((1, 2)));
        assert_eq!(ports(&log.as_bytes()[..log.len() - 1], before.len()), None);
        assert_eq!(ports(b"", 1), None);
    }
}
