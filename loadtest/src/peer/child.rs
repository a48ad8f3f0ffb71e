//! A server run as a child process, with its directory, until it is dropped.

use super::PeerError;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(20);
const LOG_FILE: &str = "output.log";
/// How much of what a failed server wrote goes into the error, in bytes.
const LOG_TAIL_BYTES: usize = 2000;

/// A server that answers at `url`. Dropping it kills it, reaps it and removes its directory.
#[derive(Debug)]
pub struct RunningPeer {
    /// The peer's name.
    pub name: &'static str,
    /// Where to post records.
    pub url: String,
    /// What it keeps of a request and when that is safe, for a reader of the comparison.
    pub keeps: &'static str,
    child: Child,
    directory: TempDir,
}

impl RunningPeer {
    /// The server's process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Where the server writes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts `command` with its output in the directory; [`RunningPeer::wait_until`] then waits for it.
    pub(super) fn spawn(
        name: &'static str,
        keeps: &'static str,
        url: String,
        command: &mut Command,
        directory: TempDir,
    ) -> Result<Self, SpawnError> {
        let log = File::create(directory.path().join(LOG_FILE))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { name, url, keeps, child, directory })
    }

    /// Waits until `ready` says so.
    pub(super) fn wait_until(mut self, ready: impl Fn() -> bool) -> Result<Self, PeerError> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.not_ready(format!("it ended with {status}")));
            }
            if ready() {
                return Ok(self);
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(self.not_ready(format!("it did not answer within {} s", START_TIMEOUT.as_secs())));
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    fn not_ready(&self, reason: String) -> PeerError {
        let bytes = std::fs::read(self.directory.path().join(LOG_FILE)).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
        PeerError::NotReady { name: self.name, reason, log: String::from_utf8_lossy(tail).trim().to_owned() }
    }
}

impl Drop for RunningPeer {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nothing to do about an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Running a program failed before there was a process.
pub type SpawnError = io::Error;

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

/// Says whether GET `path` on a local port answers 200.
pub fn answers_ok(port: u16, path: &str) -> bool {
    get_status_line(port, path).is_ok_and(|line| line.starts_with(b"HTTP/1.1 200"))
}

/// Says whether something listens on a local port.
pub fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&local(port), Duration::from_secs(1)).is_ok()
}

fn get_status_line(port: u16, path: &str) -> io::Result<[u8; 12]> {
    let timeout = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&local(port), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    Ok(line)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
