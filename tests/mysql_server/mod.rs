//! A real MariaDB for tests: its own directory, its own port, gone when it is dropped.
//!
//! The server runs under a small shell that holds the other end of a pipe to us, so that it also stops if the test is
//! killed and nothing of ours is left to stop it.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tempfile::TempDir;

/// Runs the server, and kills it when our end of the pipe closes: its data are thrown away, and it recovers what a restart
/// needs. The shell waits for the server itself, so that a killed one is gone and not a zombie.
const GUARD: &str = r#"exec 3<&0; "$@" 3<&- </dev/null & server=$!
{ read -r _ <&3; kill -KILL "$server"; } 2>/dev/null &
exec 3<&-; wait "$server""#;
/// How often a start is tried; somebody else may take the port that was free a moment ago.
const PORTS_TRIED: usize = 5;
const INSTALL: &str = "install MariaDB: apt-get install mariadb-server";

/// A running server with an account `forebay` that may do everything and needs no password.
pub struct MysqlServer {
    directory: TempDir,
    account: Option<Account>,
    options: Vec<String>,
    port: u16,
    guard: Option<Child>,
}

/// Who runs the server if we are root, which the server refuses to be.
#[derive(Clone, Copy)]
struct Account {
    user: u32,
    group: u32,
}

impl MysqlServer {
    /// Creates a data directory and starts a server on it.
    ///
    /// # Panics
    ///
    /// If MariaDB isn't installed or doesn't start; a test without it would prove nothing.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with options of the server's, such as `--local-infile=0`.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("forebay-mysql-").tempdir().unwrap();
        let account = geteuid().is_root().then(account);
        if let Some(account) = account {
            chown(directory.path(), Some(account.user), Some(account.group)).unwrap();
        }
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { directory, account, options, port: 0, guard: None };
        server.initialise();
        let started = (0..PORTS_TRIED).any(|_| {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            server.run().inspect_err(|log| eprintln!("{log}")).is_ok()
        });
        assert!(started, "MariaDB did not start");
        server
    }

    /// The URL of a database of this server; `forebay` always exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("mysql://forebay@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it takes connections.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Kills the server with SIGKILL, as a lack of memory would.
    pub fn kill9(&mut self) {
        self.stop();
    }

    /// Starts the server again, on the same port and data, after [`kill9`](Self::kill9).
    ///
    /// # Panics
    ///
    /// If it doesn't start.
    pub fn restart(&mut self) {
        self.stop();
        let started = (0..PORTS_TRIED).any(|_| self.run().inspect_err(|log| eprintln!("{log}")).is_ok());
        assert!(started, "MariaDB did not start again");
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Makes the system tables. They are made as everything else is written, without a sync, since nothing of it is kept.
    fn initialise(&self) {
        let program = find("mariadb-install-db").expect(INSTALL);
        let mut command = Command::new(program);
        self.as_account(&mut command);
        command.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]);
        command.arg(format!("--datadir={}", self.data().display())).arg("--innodb-log-file-size=16M");
        let output = command.output().unwrap();
        assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stdout));
        let accounts = "CREATE DATABASE IF NOT EXISTS forebay;\nCREATE USER IF NOT EXISTS forebay@'%';\n\
             GRANT ALL ON *.* TO forebay@'%' WITH GRANT OPTION;\n";
        fs::write(self.directory.path().join("accounts.sql"), accounts).unwrap();
    }

    fn as_account(&self, command: &mut Command) {
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command.current_dir(self.directory.path()).env("LC_ALL", "C").env("TMPDIR", self.directory.path());
    }

    /// Runs the server until it takes connections.
    ///
    /// # Errors
    ///
    /// What it said if it ended before.
    fn run(&mut self) -> Result<(), String> {
        let place = self.directory.path();
        let mut command = Command::new("sh");
        self.as_account(&mut command);
        command.args(["-c", GUARD, "sh"]).arg(find("mariadbd").expect(INSTALL));
        command.args([
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=32M",
        ]);
        command.args(["--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=1", "--key-buffer-size=1M"]);
        command.args(["--aria-pagecache-buffer-size=1M", "--max-connections=100", "--performance-schema=OFF"]);
        command.arg(format!("--port={}", self.port)).arg(format!("--datadir={}", self.data().display()));
        command.arg(format!("--socket={}", place.join("socket").display()));
        command.arg(format!("--pid-file={}", place.join("pid").display()));
        command.arg(format!("--init-file={}", place.join("accounts.sql").display()));
        command.args(&self.options);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut guard = command.spawn().map_err(|error| error.to_string())?;
        let mut log = BufReader::new(guard.stderr.take().ok_or("no stderr")?);
        let mut said = String::new();
        loop {
            let length = said.len();
            let ended = log.read_line(&mut said).map_err(|error| error.to_string())? == 0;
            if said[length..].contains("ready for connections") {
                break;
            }
            if ended || said[length..].contains("[ERROR] Aborting") {
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

    fn stop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
            if let Some(group) = i32::try_from(guard.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
}

impl Drop for MysqlServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where a program of the server is; some of them are not on everybody's path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/libexec"].map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|path: &PathBuf| Path::exists(path))
}

fn account() -> Account {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let fields: Vec<&str> =
            passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
        Some(Account { user: fields.get(2)?.parse().ok()?, group: fields.get(3)?.parse().ok()? })
    };
    find("mysql").or_else(|| find("nobody")).expect("an account that is not root")
}
