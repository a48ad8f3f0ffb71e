//! `forebay serve` into SQLite, draining slowly so that the drain hardly disturbs what is measured.

use super::child::{START_TIMEOUT, Server, Stop, answers_ok, find_program, free_ports, posted};
use super::{Peer, PeerError, RunningPeer, StartOptions, write_file};
use crate::wire::Wire;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const PEER: Peer = Peer { name: "forebay", start };

const KEEPS: &str = "keeps every record on disk (fdatasync) before its 202";
const CONFIG_FILE: &str = "forebay.toml";
const METRICS_TIMEOUT: Duration = Duration::from_secs(30);
/// More than all metrics of as many queues as forebay can have, in bytes.
const METRICS_BYTES_MAX: u64 = 4 << 20;
/// A start with a large backlog on a slow disk may take its time.
const RESTART_TIMEOUT: Duration = Duration::from_mins(2);

/// When a record is acknowledged, as the configuration says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// After the sync.
    Durable,
    /// Before it.
    Memory,
}

/// What a forebay is told. Where it is `None`, forebay's own default holds.
#[derive(Clone, Debug)]
pub struct ForebayConfiguration {
    /// The names of the queues, of which there is at least one.
    pub queues: Vec<String>,
    /// The rate of each queue's drain.
    pub rate: String,
    /// When a record is acknowledged.
    pub ack: Ack,
    /// Records that may leave at once.
    pub burst: Option<u64>,
    /// What lowers the rate while the sink is slow, as members of an inline table of TOML.
    pub adaptive: Option<String>,
    /// The sink of each queue, as lines of TOML; `None` for a SQLite file of its own.
    pub sink: Option<String>,
    /// Bytes of undelivered records that each queue takes.
    pub max_backlog_bytes: Option<u64>,
    /// Open connections of the whole process.
    pub connections_max: Option<u64>,
    /// How long a connection may be silent, in milliseconds.
    pub idle_timeout_ms: Option<u64>,
    /// Bytes of one record.
    pub record_bytes_max: Option<u64>,
    /// Bytes of bodies that an executor holds while they arrive.
    pub body_bytes_in_flight_max: Option<u64>,
    /// Bytes of the ring between an executor and the journal.
    pub ring_bytes: Option<u64>,
}

impl Default for ForebayConfiguration {
    /// One queue, `orders`, of which a record a second is drained, and each record durable before it is acknowledged.
    fn default() -> Self {
        Self {
            queues: vec!["orders".to_owned()],
            rate: "1/s".to_owned(),
            ack: Ack::Durable,
            burst: None,
            adaptive: None,
            sink: None,
            max_backlog_bytes: None,
            connections_max: None,
            idle_timeout_ms: None,
            record_bytes_max: None,
            body_bytes_in_flight_max: None,
            ring_bytes: None,
        }
    }
}

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    Ok(Forebay::start(&ForebayConfiguration::default(), options)?.into_peer())
}

/// A forebay that runs, killed with its directory when it is dropped.
#[derive(Debug)]
pub struct Forebay {
    peer: RunningPeer,
    program: PathBuf,
    port: u16,
    admin_port: u16,
}

impl Forebay {
    /// Starts it on free ports in a new temporary directory and waits until it is ready.
    ///
    /// # Errors
    /// The program is missing, does not start with this configuration, or is not ready within 10 s.
    pub fn start(configuration: &ForebayConfiguration, options: &StartOptions) -> Result<Self, PeerError> {
        Self::start_as(PEER.name, KEEPS, configuration, options)
    }

    /// Starts it under the name of a peer.
    pub(super) fn start_as(
        name: &'static str,
        keeps: &'static str,
        configuration: &ForebayConfiguration,
        options: &StartOptions,
    ) -> Result<Self, PeerError> {
        let program = program(options)?;
        let directory = options.temporary_directory()?;
        let ports @ [port, admin_port] = free_ports()?;
        write_file(&directory.path().join(CONFIG_FILE), &configuration.to_toml(directory.path(), ports))?;
        let wire = Wire::Http { url: url(port, configuration.queues.first().map_or("", String::as_str)) };
        let peer = spawn(name, keeps, wire, &program, directory)?;
        let peer = peer.wait_until(START_TIMEOUT, |_| answers_ok(admin_port, "/readyz"))?;
        Ok(Self { peer, program, port, admin_port })
    }

    /// Reads a rate of a queue, such as `drain_rate_limit`, in records per second; infinite for none.
    ///
    /// # Errors
    /// As for [`Forebay::queue_metric`].
    pub fn queue_rate(&self, metric: &'static str, queue: &str) -> Result<f64, PeerError> {
        let value = queue_metric(self.admin_port, metric, queue);
        value.ok_or_else(|| PeerError::NoMetric { metric, queue: queue.to_owned() })
    }

    /// Kills it (SIGKILL) and starts it again in the same directory and on the same ports; returns how long that took
    /// from the start of the new process until `/readyz` answered 200, the guard's own start included.
    ///
    /// # Errors
    /// It does not start, or is not ready within two minutes.
    pub fn kill_and_restart(self) -> Result<(Self, Duration), PeerError> {
        let Self { peer, program, port, admin_port } = self;
        let (name, keeps, wire) = (peer.name, peer.keeps, peer.wire.clone());
        let (directory, _) = peer.kill();
        let started = Instant::now();
        let peer = spawn(name, keeps, wire, &program, directory)?;
        let peer = peer.wait_until(RESTART_TIMEOUT, |_| answers_ok(admin_port, "/readyz"))?;
        let took = started.elapsed();
        Ok((Self { peer, program, port, admin_port }, took))
    }

    /// The server as any other peer, whose first queue is loaded.
    #[must_use]
    pub fn peer(&self) -> &RunningPeer {
        &self.peer
    }

    /// The same, by value.
    #[must_use]
    pub fn into_peer(self) -> RunningPeer {
        self.peer
    }

    /// Where to post the records of a queue.
    #[must_use]
    pub fn url(&self, queue: &str) -> String {
        url(self.port, queue)
    }

    /// The path in that URL.
    #[must_use]
    pub fn records_path(queue: &str) -> String {
        format!("/v1/queues/{queue}/records")
    }

    /// Stops the delivery of a queue, and nothing else.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub fn pause(&self, queue: &str) -> Result<(), PeerError> {
        self.ask_admin(&format!("/v1/queues/{queue}/pause"))
    }

    /// Delivers the queue again.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub fn resume(&self, queue: &str) -> Result<(), PeerError> {
        self.ask_admin(&format!("/v1/queues/{queue}/resume"))
    }

    fn ask_admin(&self, path: &str) -> Result<(), PeerError> {
        posted(self.admin_port, path).map_err(|reason| PeerError::Refused { path: path.to_owned(), reason })
    }

    /// Where it keeps its journal.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        data_directory(self.peer.directory())
    }

    /// Reads one of the metrics that each queue has, such as `backlog_records`.
    ///
    /// # Errors
    /// The server does not answer, or there is no such metric or queue.
    pub fn queue_metric(&self, metric: &'static str, queue: &str) -> Result<u64, PeerError> {
        let value = queue_metric(self.admin_port, metric, queue);
        value.ok_or_else(|| PeerError::NoMetric { metric, queue: queue.to_owned() })
    }
}

/// Finds the program that is meant.
pub(crate) fn program(options: &StartOptions) -> Result<PathBuf, PeerError> {
    let binary = options.forebay_binary.as_deref().unwrap_or(Path::new("forebay"));
    let program = find_program(&[binary]).ok_or_else(|| PeerError::Missing {
        program: binary.display().to_string(),
        remedy: "build it with cargo build --release and pass its path".to_owned(),
    })?;
    // The server runs in its own directory, from which a relative path would lead elsewhere.
    program.canonicalize().map_err(|source| PeerError::Directory { source })
}

fn spawn(
    name: &'static str,
    keeps: &'static str,
    wire: Wire,
    program: &Path,
    directory: TempDir,
) -> Result<RunningPeer, PeerError> {
    let config = directory.path().join(CONFIG_FILE).display().to_string();
    RunningPeer::spawn(Server {
        name,
        keeps,
        wire,
        program,
        arguments: vec!["serve".to_owned(), "--config".to_owned(), config],
        environment: Vec::new(),
        stop: Stop::Kill,
        account: None,
        cores: None,
        directory,
    })
}

fn url(port: u16, queue: &str) -> String {
    format!("http://127.0.0.1:{port}{}", Forebay::records_path(queue))
}

fn data_directory(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Reads a queue's metric, without the `forebay_` before its name, from the admin address of a forebay.
pub fn queue_metric<T: FromStr>(admin_port: u16, metric: &str, queue: &str) -> Option<T> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port));
    let mut stream = TcpStream::connect_timeout(&address, METRICS_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(METRICS_TIMEOUT)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: forebay\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.take(METRICS_BYTES_MAX).read_to_string(&mut text).ok()?;
    let line_start = format!("forebay_{metric}{{queue=\"{queue}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&line_start))?.parse().ok()
}

impl ForebayConfiguration {
    fn to_toml(&self, directory: &Path, [port, admin_port]: [u16; 2]) -> String {
        let mut text = format!(
            "data_dir = {data}

[[listeners]]
protocol = \"http\"
address = \"127.0.0.1:{port}\"

[admin]
address = \"127.0.0.1:{admin_port}\"

[ingress]
{ingress}
[journal]
{journal}",
            data = toml_string(&data_directory(directory)),
            ingress = settings(&[
                ("connections_max", self.connections_max),
                ("idle_timeout_ms", self.idle_timeout_ms),
                ("record_bytes_max", self.record_bytes_max),
                ("body_bytes_in_flight_max", self.body_bytes_in_flight_max),
            ]),
            journal = settings(&[("ring_bytes", self.ring_bytes)]),
        );
        for queue in &self.queues {
            text.push_str(&self.queue_toml(queue, directory));
        }
        text
    }

    fn queue_toml(&self, queue: &str, directory: &Path) -> String {
        let ack = match self.ack {
            Ack::Durable => "durable",
            Ack::Memory => "memory",
        };
        let adaptive =
            self.adaptive.as_ref().map_or_else(String::new, |members| format!("adaptive = {{ {members} }}\n"));
        let sink = self.sink.clone().unwrap_or_else(|| {
            let database = toml_string(&directory.join(format!("{queue}.db")));
            format!("type = \"sqlite\"\nurl = {database}\n")
        });
        format!(
            "
[queues.{queue}]
rate = \"{rate}\"
ack = \"{ack}\"
{adaptive}{backlog}
[queues.{queue}.sink]
{sink}",
            rate = self.rate,
            backlog = settings(&[("burst", self.burst), ("max_backlog_bytes", self.max_backlog_bytes)]),
        )
    }
}

/// A line for each value that is given.
fn settings(values: &[(&str, Option<u64>)]) -> String {
    let line = |(name, value): &(&str, Option<u64>)| value.map(|value| format!("{name} = {value}\n"));
    values.iter().filter_map(line).collect()
}

/// A path as a TOML basic string.
fn toml_string(path: &Path) -> String {
    let escaped = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_in_the_configuration() {
        let configuration = ForebayConfiguration { ack: Ack::Memory, ..ForebayConfiguration::default() };
        let text = configuration.to_toml(Path::new("/a \"b\"/c\\d"), [1, 2]);
        assert!(text.contains(r#"data_dir = "/a \"b\"/c\\d/data""#), "{text}");
        assert!(text.contains("ack = \"memory\""), "{text}");
    }

    #[test]
    fn only_what_is_given_is_configured() {
        let text = ForebayConfiguration::default().to_toml(Path::new("/d"), [1, 2]);
        assert!(!text.contains("_bytes") && !text.contains("_max"), "{text}");
        let configuration = ForebayConfiguration {
            queues: vec!["a".to_owned(), "b".to_owned()],
            max_backlog_bytes: Some(7),
            ring_bytes: Some(8),
            ..ForebayConfiguration::default()
        };
        let text = configuration.to_toml(Path::new("/d"), [1, 2]);
        assert!(text.contains("[journal]\nring_bytes = 8\n"), "{text}");
        assert!(text.contains("[queues.b]\nrate = \"1/s\"\nack = \"durable\"\nmax_backlog_bytes = 7\n"), "{text}");
        assert!(text.contains("url = \"/d/b.db\""), "{text}");
    }
}
