//! The real `forebay serve` for tests: a directory with a configuration, the process, and what it says.
//!
//! Every server takes free ports of its own and tells them on its standard output, so that tests can run
//! side by side; a server that is started again has others.

#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::disallowed_methods, reason = "tests wait for another process, which has no bell of ours to ring")]

pub mod client;
pub mod database;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use client::Client;

/// How long a test waits for something that should come at once; only a failure ever takes so long.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The smallest journal that takes NDJSON bodies of 32 KiB, so that a test soon fills many segments.
pub const SMALL_JOURNAL: &str = r#"
[ingress]
record_bytes_max = "16KiB"
batch_request_bytes_max = "32KiB"
[journal]
ring_bytes = "64KiB"
commit_bytes_max = "36KiB"
segment_bytes = "64KiB"
hot_ring_bytes = "16KiB"
"#;
/// A journal that takes everything that the default one takes, without its 64 MiB a file.
const USUAL_JOURNAL: &str = "[journal]\nring_bytes = \"5MiB\"\ncommit_bytes_max = \"5MiB\"\nsegment_bytes = \"6MiB\"\n";

/// Waits until `look` finds what it looks for.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come to pass");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Puts a copy of a directory in the place of another.
pub fn copy_directory(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A configuration and a data directory that outlive the processes that use them.
pub struct Site {
    directory: TempDir,
    environment: Vec<(String, String)>,
    user: Option<u32>,
}

impl Site {
    /// A site with this configuration; what it leaves out is filled in: the data directory, a listener and
    /// an admin address on free ports, and a journal of modest size.
    #[must_use]
    pub fn new(config: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("forebay-site-").tempdir().unwrap();
        let site = Self { directory, environment: Vec::new(), user: None };
        site.configure(config);
        site
    }

    /// Sets a variable of the environment for every process of this site.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs the processes of this site as another user, who can read the configuration and a copy of the program.
    pub fn run_as(&mut self, user: u32) {
        fs::set_permissions(self.path(), Permissions::from_mode(0o755)).unwrap();
        if !self.program().exists() {
            fs::copy(env!("CARGO_BIN_EXE_forebay"), self.program()).unwrap();
        }
        self.user = Some(user);
    }

    /// The program's copy, for users who cannot read the original.
    fn program(&self) -> PathBuf {
        self.path().join("forebay")
    }

    fn forebay(&self) -> Command {
        let mut command = match self.user {
            None => Command::new(env!("CARGO_BIN_EXE_forebay")),
            Some(user) => {
                let mut command = Command::new(self.program());
                command.uid(user).gid(user);
                command
            }
        };
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Writes another configuration, as [`new`](Self::new) does.
    pub fn configure(&self, config: &str) {
        let mut text = String::new();
        if !config.contains("data_dir") {
            text += &format!("data_dir = \"{}\"\n", self.data().display());
        }
        let mut rest = String::new();
        for (section, default) in [
            ("[[listeners]]", "[[listeners]]\naddress = \"127.0.0.1:0\"\n"),
            ("[admin]", "[admin]\naddress = \"127.0.0.1:0\"\n"),
            ("[journal]", USUAL_JOURNAL),
        ] {
            if !config.contains(section) {
                rest += default;
            }
        }
        fs::write(self.config(), format!("{text}{config}\n{rest}")).unwrap();
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path().join("forebay.toml")
    }

    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Where a queue's segments are.
    #[must_use]
    pub fn queue(&self, name: &str) -> PathBuf {
        self.data().join("queues").join(name)
    }

    /// A queue's files with this ending, in the order of their names.
    #[must_use]
    pub fn files(&self, queue: &str, ending: &str) -> Vec<PathBuf> {
        let paths = fs::read_dir(self.queue(queue)).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == ending)).collect();
        files.sort();
        files
    }

    /// The SQLite file that a queue delivers into by default.
    #[must_use]
    pub fn database(&self, queue: &str) -> PathBuf {
        self.data().join(format!("{queue}.db"))
    }

    /// Starts a server and waits until it is ready.
    ///
    /// # Panics
    ///
    /// With the server's log, if it ends instead.
    #[must_use]
    pub fn start(&self) -> Server {
        self.try_start().unwrap_or_else(|log| panic!("the server ended at once:\n{log}"))
    }

    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    ///
    /// The server's log, if it ends instead.
    pub fn try_start(&self) -> Result<Server, String> {
        let mut server = self.spawn();
        let ready = eventually("the server's start", || match server.child.try_wait().unwrap() {
            Some(_) => Some(false),
            None => server.said("admin on http://").then_some(true),
        });
        if !ready {
            server.wait();
            return Err(server.log());
        }
        server.learn_addresses();
        let mut admin = Client::connect(server.admin).unwrap();
        eventually("readiness", || (admin.get("/readyz").status == 200).then_some(()));
        Ok(server)
    }

    /// Starts a server that must refuse to run; returns its exit code and all that it said.
    #[must_use]
    pub fn start_refused(&self) -> (Option<i32>, String) {
        let mut server = self.spawn();
        let status = server.wait();
        (status.code(), server.log())
    }

    /// Runs `forebay check`; returns its exit code and its standard output.
    #[must_use]
    pub fn check(&self) -> (Option<i32>, String) {
        let output = self.command("check").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Runs a command that looks at the data directory; returns its exit code and what it said on each output.
    #[must_use]
    pub fn tool(&self, subcommand: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.forebay().arg(subcommand).arg(self.data()).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = self.forebay();
        command.arg(subcommand).arg("--config").arg(self.config()).current_dir(self.path());
        command
    }

    /// Starts a server and waits for nothing; its addresses are not known.
    #[must_use]
    pub fn spawn(&self) -> Server {
        let mut child = self.command("serve").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = outputs.map(|output| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    *log += &line;
                    log.push('\n');
                }
            })
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Server { child, log, readers: Vec::from(readers), addresses: Vec::new(), admin: nowhere }
    }
}

/// A running server; dropping it kills it.
pub struct Server {
    child: Child,
    log: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
}

impl Server {
    /// The first listener's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The addresses of all listeners, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// A connection to the first listener.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.address()).unwrap()
    }

    /// Everything that the process has said so far, on both of its outputs.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    #[must_use]
    pub fn said(&self, text: &str) -> bool {
        self.log.lock().unwrap().contains(text)
    }

    /// Waits until the log has this text.
    pub fn until_said(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || self.said(text).then_some(()));
    }

    /// Waits until a ticket's record is delivered.
    pub fn until_delivered(&self, ticket: &str) {
        let mut client = self.client();
        eventually(&format!("delivery of {ticket}"), || {
            assert!(!self.said("no longer delivered"), "the drain has halted");
            (client.ticket(ticket)["state"] == "delivered").then_some(())
        });
    }

    /// A metric by its name with its labels, as it stands in the text.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")) as u64
    }

    /// The metrics as text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let response = Client::connect(self.admin).unwrap().get("/metrics");
        assert_eq!(response.status, 200, "{response:?}");
        String::from_utf8(response.body).unwrap()
    }

    /// The process, as the kernel numbers it.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("the end of the process", || self.child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Kills it with SIGKILL.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it with SIGTERM; returns its exit code and its log.
    #[must_use]
    pub fn terminate(mut self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        let status = self.wait();
        (status.code(), self.log())
    }

    /// Stops it with SIGTERM, which must go well.
    pub fn stop(self) {
        let (code, log) = self.terminate();
        assert_eq!(code, Some(0), "{log}");
    }

    fn learn_addresses(&mut self) {
        let log = self.log();
        let after = |text: &str| -> Vec<SocketAddr> {
            let found = log.lines().filter_map(|line| line.strip_prefix(text));
            found.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect()
        };
        self.addresses = after("listening on http://");
        self.admin = after("admin on http://")[0];
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}
