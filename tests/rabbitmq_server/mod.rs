//! A real RabbitMQ for tests: its own directory, its own ports, gone when it is dropped.
//!
//! The broker runs under a small shell that holds the other end of a pipe to us, so that it also stops if the test is killed and
//! nothing of ours is left to stop it. It takes some ten seconds to start, so tests share one where they can.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_lite::StreamExt as _;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// Runs epmd, which tells Erlang nodes of each other and which the broker would otherwise start as a daemon, and the broker. Kills
/// the whole process group, itself too, when our end of the pipe closes.
const GUARD: &str = r#"exec 3<&0; "$1" -address 127.0.0.1 -port "$ERL_EPMD_PORT" 3<&- </dev/null & shift
"$@" 3<&- </dev/null & server=$!
{ read -r _ <&3; kill -KILL 0; } 2>/dev/null &
exec 3<&-; wait "$server""#;
/// The package's program in PATH starts this one as the user `rabbitmq`, with files in that user's directories.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
const INSTALL: &str = "install RabbitMQ: apt-get install rabbitmq-server";
/// How often a start is tried; somebody else may take a port that was free a moment ago.
const PORTS_TRIED: usize = 3;
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// Of the user `forebay`, who may do everything in the virtual host `/`.
pub const PASSWORD: &str = "p@ss/w:rd,?";
/// The same in a URL.
pub const PASSWORD_ENCODED: &str = "p%40ss%2Fw%3Ard%2C%3F";

/// A running broker.
pub struct RabbitMqServer {
    directory: TempDir,
    settings: String,
    ports: Ports,
    guard: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

#[derive(Clone, Copy, Default)]
struct Ports {
    amqp: u16,
    amqps: u16,
    distribution: u16,
    epmd: u16,
}

/// A message as it is in a queue.
#[derive(Clone, Debug)]
pub struct Stored {
    pub exchange: String,
    pub routing_key: String,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

impl RabbitMqServer {
    /// Starts a broker.
    ///
    /// # Panics
    ///
    /// If it isn't installed or doesn't start; a test without it would prove nothing.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(|_, _| String::new())
    }

    /// Starts one with further settings, which are made of its directory and a free port.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(settings: impl Fn(&Path, u16) -> String) -> Self {
        let directory = tempfile::Builder::new().prefix("forebay-rabbitmq-").tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ports = Ports::default();
        let mut server = Self { directory, settings: String::new(), ports, guard: None, runtime };
        let started = (0..PORTS_TRIED).any(|_| {
            let [amqp, amqps, distribution, epmd] = free_ports();
            server.ports = Ports { amqp, amqps, distribution, epmd };
            server.settings = settings(server.directory.path(), amqps);
            server.run().inspect_err(|log| eprintln!("{log}")).is_ok()
        });
        assert!(started, "RabbitMQ did not start");
        server
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.amqp))
    }

    /// The port that the settings were given.
    #[must_use]
    pub fn other_port(&self) -> u16 {
        self.ports.amqps
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The broker's URL for the user who may do everything.
    #[must_use]
    pub fn url(&self) -> String {
        Self::url_at(self.address())
    }

    #[must_use]
    pub fn url_at(address: SocketAddr) -> String {
        format!("amqp://forebay:{PASSWORD_ENCODED}@{address}")
    }

    /// Makes a queue that survives the broker's restarts.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub fn make_queue(&self, queue: &str, arguments: &FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.ask(async |channel| {
            channel.queue_declare(queue.into(), options, arguments.clone()).await.unwrap();
        });
    }

    /// Everything in a queue, in its order. It stays there.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    #[must_use]
    pub fn stored(&self, queue: &str) -> Vec<Stored> {
        self.ask(async |channel| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
            let (count, mut stored) = (declared.message_count() as usize, Vec::new());
            let (options, tag) = (BasicConsumeOptions::default(), "forebay-test".into());
            let mut consumer = channel.basic_consume(queue.into(), tag, options, FieldTable::default()).await.unwrap();
            // Nothing is acknowledged, so all goes back when the connection is closed.
            while stored.len() < count {
                let delivery = consumer.next().await.unwrap().unwrap();
                stored.push(Stored {
                    exchange: delivery.exchange.to_string(),
                    routing_key: delivery.routing_key.to_string(),
                    properties: delivery.properties,
                    body: delivery.data,
                });
            }
            stored
        })
    }

    /// Does something on a channel of its own.
    ///
    /// # Panics
    ///
    /// If there is none to be had.
    pub fn ask<T>(&self, work: impl AsyncFnOnce(Channel) -> T) -> T {
        self.runtime.block_on(async {
            let asked = async {
                let connection = Connection::connect(&self.url(), ConnectionProperties::default()).await.unwrap();
                let channel = connection.create_channel().await.unwrap();
                // It is held here too: one that is dropped closes itself, and nothing else can then be closed.
                let result = work(channel.clone()).await;
                connection.close(200, "".into()).await.unwrap();
                result
            };
            tokio::time::timeout(PATIENCE, asked).await.expect("an answer of RabbitMQ")
        })
    }

    /// Runs a command of `rabbitmqctl`.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn control(&self, arguments: &[&str]) {
        let output = Command::new(CONTROL).envs(self.environment()).args(arguments).output().expect(INSTALL);
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
    }

    /// Kills every process of the broker with SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            if let Some(group) = i32::try_from(guard.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = guard.wait();
        }
    }

    /// Starts the broker again, on the same ports and data.
    ///
    /// # Panics
    ///
    /// If it doesn't start.
    pub fn restart(&mut self) {
        self.kill9();
        // The ports of processes that were killed a moment ago may still be theirs.
        let started = (0..PORTS_TRIED).any(|_| self.run().inspect_err(|log| eprintln!("{log}")).is_ok());
        assert!(started, "RabbitMQ did not start again");
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        vec![
            ("HOME", path("")),
            ("ERL_EPMD_PORT", self.ports.epmd.to_string()),
            ("RABBITMQ_NODENAME", format!("forebay-{}@localhost", self.ports.amqp)),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", self.ports.amqp.to_string()),
            ("RABBITMQ_DIST_PORT", self.ports.distribution.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_LOGS", "-".to_owned()),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", path("generated")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            // Neither exists, so that nothing of the machine's own broker is read.
            ("RABBITMQ_CONF_ENV_FILE", path("environment.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
        ]
    }

    fn run(&mut self) -> Result<(), String> {
        assert!(Path::new(PROGRAM).exists(), "{INSTALL}");
        let write = |name: &str, text: String| fs::write(self.directory.path().join(name), text).unwrap();
        write("plugins", "[].\n".to_owned());
        // The limit on free disk would stop the broker on a machine that is nearly full.
        let settings = &self.settings;
        write(
            "rabbitmq.conf",
            format!("default_user = forebay\ndefault_pass = {PASSWORD}\ndisk_free_limit.absolute = 10MB\n{settings}\n"),
        );
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh", "epmd", PROGRAM]).envs(self.environment());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut guard = command.spawn().map_err(|error| error.to_string())?;
        let mut log = BufReader::new(guard.stdout.take().ok_or("no stdout")?);
        self.guard = Some(guard);
        let mut said = String::new();
        loop {
            let length = said.len();
            let ended = log.read_line(&mut said).map_err(|error| error.to_string())? == 0;
            if said[length..].contains("Server startup complete") {
                break;
            }
            // epmd holds the pipe too, so it has no end while that runs.
            if ended || said[length..].contains("BOOT FAILED") {
                self.kill9();
                return Err(said);
            }
        }
        // Nobody reads the rest, but a full pipe would stop the broker.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(())
    }
}

impl Drop for RabbitMqServer {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Ports that nobody uses, all different.
fn free_ports() -> [u16; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
