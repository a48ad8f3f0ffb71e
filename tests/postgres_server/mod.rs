//! A real PostgreSQL for tests: its own directory, its own port, gone when it is dropped.
//!
//! The server runs under a small shell that holds the other end of a pipe to us, so that it
//! also stops if the test is killed and nothing of ours is left to stop it.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use tempfile::TempDir;

/// Runs the server, and ends it at once (SIGQUIT) when our end of the pipe closes. The shell
/// waits for the server itself, so that a killed one is gone and not a zombie.
const GUARD: &str = r#"exec 3<&0; "$@" 3<&- </dev/null & server=$!
{ read -r _ <&3; kill -QUIT "$server"; } 2>/dev/null &
exec 3<&-; wait "$server""#;
/// How often a start is tried; somebody else may take the port that was free a moment ago.
const PORTS_TRIED: usize = 5;

/// A running server with a superuser `forebay`, who needs no password.
pub struct PostgresServer {
    directory: TempDir,
    binaries: PathBuf,
    account: Option<Account>,
    port: u16,
    guard: Option<Child>,
}

/// Who runs the server if we are root, which PostgreSQL refuses to be.
#[derive(Clone, Copy)]
struct Account {
    user: u32,
    group: u32,
}

impl PostgresServer {
    /// Creates a database cluster in a temporary directory and starts a server on it.
    ///
    /// # Panics
    ///
    /// If PostgreSQL isn't installed or doesn't start; a test without it would prove nothing.
    #[must_use]
    pub fn start() -> Self {
        let binaries = binaries().expect("install PostgreSQL: apt-get install postgresql");
        let directory = tempfile::Builder::new().prefix("forebay-postgres-").tempdir().unwrap();
        let account = geteuid().is_root().then(account);
        if let Some(account) = account {
            chown(directory.path(), Some(account.user), Some(account.group)).unwrap();
        }
        let mut server = Self { directory, binaries, account, port: 0, guard: None };
        let data = server.data();
        let initdb = server
            .command("initdb")
            .args(["--username=forebay", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let started = (0..PORTS_TRIED).any(|_| {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            server.run().inspect_err(|log| eprintln!("{log}")).is_ok()
        });
        assert!(started, "PostgreSQL did not start");
        server
    }

    /// The URL of a database of this server; `postgres` always exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://forebay@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it takes connections.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Kills every process of the server with SIGKILL, as a lack of memory would.
    pub fn kill9(&mut self) {
        let postmaster = self.postmaster();
        let mut processes = children(postmaster);
        processes.insert(0, postmaster);
        for process in processes {
            // One that has already gone is no error.
            let _ = kill_process(process, Signal::KILL);
        }
        if let Some(guard) = &mut self.guard {
            let _ = guard.wait();
        }
        self.reap();
    }

    /// Starts the server again, on the same port and data, after [`kill9`](Self::kill9) or a stop.
    ///
    /// # Panics
    ///
    /// If it doesn't start.
    pub fn restart(&mut self) {
        self.stop();
        // A process that was killed a moment ago may still hold the shared memory.
        let started = (0..PORTS_TRIED).any(|_| self.run().inspect_err(|log| eprintln!("{log}")).is_ok());
        assert!(started, "PostgreSQL did not start again");
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(self.binaries.join(binary));
        self.as_account(&mut command);
        command
    }

    fn as_account(&self, command: &mut Command) {
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command.current_dir(self.directory.path()).env("LC_ALL", "C");
    }

    /// Runs the server until it takes connections.
    ///
    /// # Errors
    ///
    /// What it said if it ended before.
    fn run(&mut self) -> Result<(), String> {
        let mut command = Command::new("sh");
        self.as_account(&mut command);
        command.args(["-c", GUARD, "sh"]).arg(self.binaries.join("postgres")).arg("-D").arg(self.data());
        command.args(["-p", &self.port.to_string(), "-k"]).arg(self.directory.path());
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=on",
            "shared_buffers=16MB",
            "max_connections=40",
            "autovacuum=off",
            "log_min_messages=log",
            "log_destination=stderr",
        ] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut guard = command.spawn().map_err(|error| error.to_string())?;
        let mut log = BufReader::new(guard.stderr.take().ok_or("no stderr")?);
        let mut said = String::new();
        loop {
            let length = said.len();
            let ended = log.read_line(&mut said).map_err(|error| error.to_string())? == 0;
            if said[length..].contains("database system is ready to accept connections") {
                break;
            }
            if ended || said[length..].contains("database system is shut down") {
                drop(guard.stdin.take());
                let _ = guard.wait();
                return Err(said);
            }
        }
        // Nobody reads the rest, but a full pipe would stop the server.
        std::thread::spawn(move || std::io::copy(&mut log.by_ref(), &mut std::io::sink()));
        self.guard = Some(guard);
        Ok(())
    }

    fn postmaster(&self) -> Pid {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap()).unwrap()
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

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where the newest installed server's programs are.
fn binaries() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let installed = versions.into_iter().rev().map(|(_, path)| path);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let complete = |path: &PathBuf| path.join("initdb").exists() && path.join("postgres").exists();
    installed.chain(on_path).find(complete)
}

fn account() -> Account {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let fields: Vec<&str> =
            passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
        Some(Account { user: fields.get(2)?.parse().ok()?, group: fields.get(3)?.parse().ok()? })
    };
    find("postgres").or_else(|| find("nobody")).expect("an account that is not root")
}

/// The processes whose parent is `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let parent_of = |directory: &Path| -> Option<i32> {
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        // The name before it is in parentheses and may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| parent_of(&entry.path()) == Some(parent.as_raw_nonzero().get()))
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}
