//! A real NATS server with JetStream for tests: its own directory, its own port, gone when it is dropped.
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
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures_lite::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// Runs the server, and kills it when our end of the pipe closes: what it has is the test's and may be lost. The shell waits for
/// the server itself, so that a killed one is gone and not a zombie.
const GUARD: &str = r#"exec 3<&0; "$@" 3<&- </dev/null & server=$!
{ read -r _ <&3; kill -KILL "$server"; } 2>/dev/null &
exec 3<&-; wait "$server""#;
/// How often a start is tried; somebody else may take a port that was free a moment ago.
const PORTS_TRIED: usize = 5;
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// Of the user `forebay`, who may do everything.
pub const PASSWORD: &str = "p@ss/w:rd,?";
/// The same in a URL.
pub const PASSWORD_ENCODED: &str = "p%40ss%2Fw%3Ard%2C%3F";
/// Of the user `restricted`, who may publish nothing but to `allowed.>`.
pub const RESTRICTED_PASSWORD: &str = "restricted-password";

/// A running server.
pub struct NatsServer {
    directory: TempDir,
    settings: String,
    port: u16,
    guard: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

/// A message as it is in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub subject: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Stored {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

impl NatsServer {
    /// Starts a server that takes messages of up to 4 MiB.
    ///
    /// # Panics
    ///
    /// If there is no such program or it doesn't start; a test without it would prove nothing.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(|_| "max_payload: 4MB".to_owned())
    }

    /// Starts one with further settings, which are made once its directory is known.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(settings: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::Builder::new().prefix("forebay-nats-").tempdir().unwrap();
        let settings = settings(directory.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut server = Self { directory, settings, port: 0, guard: None, runtime };
        let started = (0..PORTS_TRIED).any(|_| {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            server.run().inspect_err(|log| eprintln!("{log}")).is_ok()
        });
        assert!(started, "NATS did not start");
        server
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The server's URL for the user who may do everything.
    #[must_use]
    pub fn url(&self) -> String {
        Self::url_at(self.address())
    }

    #[must_use]
    pub fn url_at(address: SocketAddr) -> String {
        format!("nats://forebay:{PASSWORD_ENCODED}@{address}")
    }

    /// Makes or changes a stream.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    pub fn set_stream(&self, config: &stream::Config) {
        self.ask(async |context| {
            context.create_or_update_stream(config.clone()).await.unwrap();
        });
    }

    /// Removes everything from a stream.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn purge(&self, stream: &str) {
        self.ask(async |context| {
            context.get_stream(stream).await.unwrap().purge().await.unwrap();
        });
    }

    /// Everything in a stream, in its order.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn stored(&self, stream: &str) -> Vec<Stored> {
        self.ask(async |context| {
            let mut stream = context.get_stream(stream).await.unwrap();
            let count = usize::try_from(stream.info().await.unwrap().state.messages).unwrap();
            let reader = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
            let reader = stream.create_consumer(reader).await.unwrap();
            let mut stored = Vec::with_capacity(count);
            while stored.len() < count {
                // What is asked for at a time is bounded by the client's own queue.
                let asked = (count - stored.len()).min(1000);
                let mut messages = reader.fetch().max_messages(asked).messages().await.unwrap();
                while let Some(message) = messages.next().await {
                    let message = message.unwrap();
                    let headers = message.headers.iter().flat_map(|headers| headers.iter());
                    let headers = headers.map(|(name, values)| (name.to_string(), values[0].to_string())).collect();
                    let body = message.payload.to_vec();
                    stored.push(Stored { subject: message.subject.to_string(), headers, body });
                }
            }
            stored
        })
    }

    fn ask<T>(&self, work: impl AsyncFnOnce(jetstream::Context) -> T) -> T {
        self.runtime.block_on(async {
            let asked = async {
                let options = async_nats::ConnectOptions::with_user_and_password("forebay".into(), PASSWORD.into());
                let client = options.connect(self.address().to_string()).await.unwrap();
                work(jetstream::new(client)).await
            };
            tokio::time::timeout(PATIENCE, asked).await.expect("an answer of NATS")
        })
    }

    /// Kills the server with SIGKILL and waits until it is gone.
    ///
    /// # Panics
    ///
    /// If it isn't running.
    pub fn kill9(&mut self) {
        let text = fs::read_to_string(self.directory.path().join("pid")).unwrap();
        let process = Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        // One that has already gone is no error.
        let _ = kill_process(process, Signal::KILL);
        if let Some(guard) = &mut self.guard {
            let _ = guard.wait();
        }
        self.reap();
    }

    /// Starts the server again, on the same port and data.
    ///
    /// # Panics
    ///
    /// If it doesn't start.
    pub fn restart(&mut self) {
        self.stop();
        let started = (0..PORTS_TRIED).any(|_| self.run().inspect_err(|log| eprintln!("{log}")).is_ok());
        assert!(started, "NATS did not start again");
    }

    fn run(&mut self) -> Result<(), String> {
        let program = ["/usr/sbin/nats-server", "/usr/local/bin/nats-server"].map(Path::new);
        let program = program.into_iter().find(|path| path.exists()).unwrap_or(Path::new("nats-server"));
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        assert!(found.is_ok_and(|status| status.success()), "install NATS: apt-get install nats-server");
        let (port, store, config) =
            (self.port, self.directory.path().display(), self.directory.path().join("nats.conf"));
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\npid_file: \"{store}/pid\"\njetstream {{ store_dir: \"{store}/jetstream\" }}\n\
             authorization {{ users = [\n{{ user: forebay, password: \"{PASSWORD}\" }}\n\
             {{ user: restricted, password: \"{RESTRICTED_PASSWORD}\", permissions: {{ publish: [\"allowed.>\"] }} }}\n] }}\n{}\n",
            self.settings
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh"]).arg(program).arg("--config").arg(&config);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut guard = command.spawn().map_err(|error| error.to_string())?;
        let mut log = BufReader::new(guard.stderr.take().ok_or("no stderr")?);
        let mut said = String::new();
        loop {
            let length = said.len();
            let ended = log.read_line(&mut said).map_err(|error| error.to_string())? == 0;
            if said[length..].contains("Server is ready") {
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

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.stop();
    }
}
