//! A real Redis or Valkey for tests: its own directory, its own ports, gone when it is dropped.
//!
//! The server runs under a small shell that holds the other end of a pipe to us, so that it also stops if the test is killed and
//! nothing of ours is left to stop it.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use redis::{Connection, ConnectionLike, FromRedisValue, Value};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// Runs the server, and kills it when our end of the pipe closes: what it has is the test's and may be lost. The shell waits for
/// the server itself, so that a killed one is gone and not a zombie.
const GUARD: &str = r#"exec 3<&0; "$@" 3<&- </dev/null & server=$!
{ read -r _ <&3; kill -KILL "$server"; } 2>/dev/null &
exec 3<&-; wait "$server""#;
/// Names another program than `redis-server`, `valkey-server` for one.
const PROGRAM_VARIABLE: &str = "FOREBAY_REDIS_SERVER";
/// How often a start is tried; somebody else may take a port that was free a moment ago.
const PORTS_TRIED: usize = 5;

/// A running server; each answer that it gives is on disk before.
pub struct RedisServer {
    directory: TempDir,
    settings: Vec<String>,
    port: u16,
    bus_port: u16,
    guard: Option<Child>,
}

impl RedisServer {
    /// Starts a server that syncs its append-only file before every answer.
    ///
    /// # Panics
    ///
    /// If there is no such program or it doesn't start; a test without it would prove nothing.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further settings, as they stand on its command line.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("forebay-redis-").tempdir().unwrap();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { directory, settings, port: 0, bus_port: 0, guard: None };
        let started = (0..PORTS_TRIED).any(|_| {
            (server.port, server.bus_port) = (free_port(), free_port());
            server.run().inspect_err(|log| eprintln!("{log}")).is_ok()
        });
        assert!(started, "Redis did not start");
        server
    }

    /// The URL of the server's database 0.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    #[must_use]
    pub fn bus_port(&self) -> u16 {
        self.bus_port
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection to database 0.
    ///
    /// # Panics
    ///
    /// If there is none to be had.
    #[must_use]
    pub fn connection(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// What the server answers to a command, on a connection of its own.
    ///
    /// # Panics
    ///
    /// If that is an error.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        ask(&mut self.connection(), words)
    }

    /// The process of the server, which can be killed from another thread.
    ///
    /// # Panics
    ///
    /// If it isn't running.
    #[must_use]
    pub fn process(&self) -> Pid {
        let text = fs::read_to_string(self.directory.path().join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// Kills the server with SIGKILL and waits until it is gone.
    ///
    /// # Panics
    ///
    /// If it isn't running.
    pub fn kill9(&mut self) {
        // One that has already gone is no error.
        let _ = kill_process(self.process(), Signal::KILL);
        self.wait();
    }

    /// Waits until a server that was killed is gone.
    pub fn wait(&mut self) {
        if let Some(guard) = &mut self.guard {
            let _ = guard.wait();
        }
        self.reap();
    }

    /// Starts the server again, on the same ports and data.
    ///
    /// # Panics
    ///
    /// If it doesn't start.
    pub fn restart(&mut self) {
        self.stop();
        let started = (0..PORTS_TRIED).any(|_| self.run().inspect_err(|log| eprintln!("{log}")).is_ok());
        assert!(started, "Redis did not start again");
    }

    fn run(&mut self) -> Result<(), String> {
        let program = std::env::var(PROGRAM_VARIABLE).unwrap_or_else(|_| "redis-server".to_owned());
        let found = Command::new(&program).arg("--version").stdout(Stdio::null()).status();
        assert!(found.is_ok_and(|status| status.success()), "{program}: install Redis: apt-get install redis-server");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh", &program, "--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]);
        command.arg(self.directory.path()).arg("--pidfile").arg(self.directory.path().join("pid"));
        command.args(["--cluster-port", &self.bus_port.to_string(), "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", "always"]).args(&self.settings);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut guard = command.spawn().map_err(|error| error.to_string())?;
        let mut log = BufReader::new(guard.stdout.take().ok_or("no stdout")?);
        let mut said = String::new();
        loop {
            let length = said.len();
            let ended = log.read_line(&mut said).map_err(|error| error.to_string())? == 0;
            if said[length..].contains("Ready to accept connections") {
                break;
            }
            if ended {
                drop(guard.stdin.take());
                let _ = guard.wait();
                return Err(said);
            }
        }
        // Nobody reads the rest, but a full pipe would stop the server.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.guard = Some(guard);
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(guard) = &mut self.guard {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
        self.reap();
    }

    /// Ends the guard and whatever is still in its process group.
    fn reap(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            if let Some(group) = i32::try_from(guard.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = guard.wait();
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a server answers to a command.
///
/// # Panics
///
/// If that is an error.
pub fn ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    let mut command = redis::Cmd::new();
    command.arg(words);
    let answer: Value =
        connection.req_command(&command).unwrap_or_else(|error| panic!("{words:?}: {error}")).extract_error().unwrap();
    T::from_redis_value(answer).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
