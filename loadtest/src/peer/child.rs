//! A server run as a child process, with its directory, until it is dropped.

use super::{PeerError, ServerProcess};
use crate::engine::kept_to;
use crate::wire::Wire;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::CpuSet;
use std::env;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Short, because the time that a restart takes is known no better than this.
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// What the server writes to its standard output and error, one life behind the other.
pub const LOG_FILE: &str = "output.log";
/// How much of what a failed server wrote goes into the error, in bytes.
const LOG_TAIL_BYTES: usize = 2000;

/// Runs the server in a process group of its own and sends it the signal `$1` when our end of the pipe closes, which it
/// also does when we are killed ourselves; whatever is left of the group three seconds later goes too. Who ends on
/// purpose says so on the pipe; after anybody else nobody is left to remove the directory `$2`, which may hold
/// gigabytes, so that goes as well. The shell waits for the server, so that a killed one is gone and not a zombie. A
/// server that is killed should not dump its memory.
const GUARD: &str = r#"signal=$1; directory=$2; shift 2; ulimit -c 0
exec 3<&0; "$@" 3<&- </dev/null & server=$!
{ read -r owner <&3; kill -"$signal" "$server"; sleep 3; kill -KILL "$server"
if [ -z "$owner" ]; then case "$directory" in */forebay-loadtest-*) rm -rf "$directory";; esac; fi
kill -KILL 0; } 2>/dev/null &
exec 3<&-; wait "$server""#;
/// What an owner that is still there writes before it closes the pipe.
const OWNER: &[u8] = b"owner\n";

/// A server that answers. Dropping it kills it with all its processes, reaps it and removes its directory.
#[derive(Debug)]
pub struct RunningPeer {
    /// The peer's name.
    pub name: &'static str,
    /// How to load it.
    pub wire: Wire,
    /// What it keeps of a request and when that is safe, for a reader of the comparison.
    pub keeps: &'static str,
    /// Before the directory, because what is declared first is dropped first.
    guard: Guard,
    directory: TempDir,
}

/// The shell that runs a server. Dropping it kills the server with all its processes and reaps it.
#[derive(Debug)]
struct Guard(Child);

/// A server to start.
pub struct Server<'a> {
    pub name: &'static str,
    pub keeps: &'static str,
    pub wire: Wire,
    /// The program with its arguments; its environment and user are those of `command`.
    pub program: &'a Path,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    pub stop: Stop,
    pub account: Option<Account>,
    /// Where it may run; `None` for anywhere.
    pub cores: Option<CpuSet>,
    pub directory: TempDir,
}

/// The signal that ends a server.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// It has no processes that outlive it, or none outside of its process group.
    Kill,
    /// It ends its own processes before it goes.
    Quit,
}

/// Who runs a server that refuses to be root.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub user: u32,
    pub group: u32,
}

impl Account {
    /// The first of these that there is: that of the server's package, or the one that owns nothing.
    pub fn of_any(names: &[&str]) -> Option<Self> {
        let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
        names.iter().find_map(|name| {
            let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some(Self { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
        })
    }

    pub fn run(self, command: &mut Command) {
        command.uid(self.user).gid(self.group);
    }
}

impl RunningPeer {
    /// The id of the process group in which the server runs.
    #[must_use]
    pub fn process_group(&self) -> u32 {
        self.guard.0.id()
    }

    /// The server's own process, a child of the guard; `None` when it has ended, or when it is a shell script.
    #[must_use]
    pub fn process(&self) -> Option<ServerProcess> {
        ServerProcess::child_of(self.guard.0.id())
    }

    /// Where the server writes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The end of what the server wrote to its standard output and error.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&std::fs::read(self.directory.path().join(LOG_FILE)).unwrap_or_default())
    }

    /// Starts a server with its output in its directory; [`RunningPeer::wait_until`] then waits for it.
    pub(crate) fn spawn(server: Server<'_>) -> Result<Self, PeerError> {
        let spawn_error = |source| PeerError::Spawn { program: server.program.display().to_string(), source };
        let log = OpenOptions::new().create(true).append(true).open(server.directory.path().join(LOG_FILE));
        let log = log.map_err(spawn_error)?;
        let mut command = Command::new("sh");
        let stop = match server.stop {
            Stop::Kill => "KILL",
            Stop::Quit => "QUIT",
        };
        command.args(["-c", GUARD, "sh", stop]).arg(server.directory.path());
        command.arg(server.program).args(&server.arguments);
        command.envs(server.environment).current_dir(server.directory.path());
        if let Some(account) = server.account {
            account.run(&mut command);
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone().map_err(spawn_error)?).stderr(log).process_group(0);
        let guard = match server.cores {
            Some(cores) => kept_to(&cores, || command.spawn()),
            None => command.spawn(),
        };
        let guard = Guard(guard.map_err(spawn_error)?);
        let Server { name, keeps, wire, directory, .. } = server;
        Ok(Self { name, wire, keeps, guard, directory })
    }

    /// Waits until `ready` no longer says why it is not.
    pub(crate) fn wait_until(
        mut self,
        limit: Duration,
        ready: impl Fn(&Self) -> Result<(), String>,
    ) -> Result<Self, PeerError> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.guard.0.try_wait() {
                return Err(self.not_ready(format!("it ended with {status}")));
            }
            let Err(reason) = ready(&self) else { return Ok(self) };
            if started.elapsed() > limit {
                return Err(self.not_ready(format!("it did not answer within {} s: {reason}", limit.as_secs())));
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// Waits for a server that was told to end; says whether it did within the time.
    pub(crate) fn ended_within(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        while matches!(self.guard.0.try_wait(), Ok(None)) {
            if started.elapsed() > limit {
                return false;
            }
            thread::sleep(POLL_PAUSE);
        }
        true
    }

    /// Kills the server as dropping it does, but leaves its directory for another one. Returns how the guard ended,
    /// which is as a shell says how the server did: 137 if it was killed (SIGKILL). `None` if nobody could tell.
    pub(crate) fn kill(self) -> (TempDir, Option<ExitStatus>) {
        let Self { mut guard, directory, .. } = self;
        let status = guard.end();
        (directory, status)
    }

    fn not_ready(&self, reason: String) -> PeerError {
        PeerError::NotReady { name: self.name, reason, log: self.log_tail() }
    }
}

impl Guard {
    /// Ends the server with whatever belongs to it, and the shell. Returns how the shell ended; `None` the second time,
    /// when the group's number may already be another's.
    fn end(&mut self) -> Option<ExitStatus> {
        let Self(child) = self;
        let mut pipe = child.stdin.take()?;
        // It may have ended by itself; there is nothing to do about an error here.
        let _ = pipe.write_all(OWNER);
        drop(pipe);
        let started = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && started.elapsed() < STOP_TIMEOUT {
            thread::sleep(POLL_PAUSE);
        }
        // The guard's own second process is still there, so the group's number cannot be another's by now.
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait().ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}

/// The end of what a program wrote.
pub fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).trim().to_owned()
}

/// The first of `programs` that exists: a path, or a name on the PATH.
pub fn find_program(programs: &[&Path]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    programs.iter().find_map(|program| {
        if program.components().count() > 1 {
            return program.is_file().then(|| program.to_path_buf());
        }
        env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
    })
}

/// Finds a program of a Debian package, which may be outside of the PATH of ordinary users.
pub fn installed(program: &'static str, elsewhere: &str, package: &str) -> Result<PathBuf, PeerError> {
    find_program(&[Path::new(program), Path::new(elsewhere)]).ok_or_else(|| not_installed(program, package))
}

pub fn not_installed(program: &str, package: &str) -> PeerError {
    PeerError::Missing { program: program.to_owned(), remedy: format!("apt-get install {package}") }
}

/// Ports that were free a moment ago, all different.
pub fn free_ports<const N: usize>() -> Result<[u16; N], PeerError> {
    let mut ports = [0; N];
    // All stay bound until every port is known, so that none is handed out twice.
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| {
            *port = listener.local_addr()?.port();
            Ok(listener)
        });
        held.push(bound.map_err(|source| PeerError::Spawn { program: "a listener".to_owned(), source })?);
    }
    Ok(ports)
}

/// Asks for GET `path` on a local port, which must answer 200.
pub fn answers_ok(port: u16, path: &str) -> Result<(), String> {
    let line = status_line(port, "GET", path).map_err(|error| error.to_string())?;
    if line.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(String::from_utf8_lossy(&line).into_owned()) }
}

/// Posts nothing to `path` on a local port, which must answer 200.
pub fn posted(port: u16, path: &str) -> Result<(), String> {
    let line = status_line(port, "POST", path).map_err(|error| error.to_string())?;
    if line.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(String::from_utf8_lossy(&line).into_owned()) }
}

/// Connects to a local port.
pub fn listens(port: u16) -> Result<(), String> {
    let connected = TcpStream::connect_timeout(&local(port), Duration::from_secs(1));
    connected.map(drop).map_err(|error| error.to_string())
}

fn status_line(port: u16, method: &str, path: &str) -> io::Result<[u8; 12]> {
    let timeout = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&local(port), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    Ok(line)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
