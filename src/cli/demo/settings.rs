//! What a run of the demo uses, made from the flags: directory, ports, database and names.

use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use forebay_loadtest::order::RunId;
use forebay_loadtest::results::{grouped, rate as shown_rate};
use forebay_loadtest::verify::{self, OrdersTable};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Arguments;
use crate::rate::{Rate, RateError};

/// The queue that the orders go to.
pub const QUEUE: &str = "orders";
/// The file system type of tmpfs (linux/magic.h).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// What `--sink` says.
#[derive(Clone)]
pub enum SinkChoice {
    /// A file in the demo's directory.
    Sqlite,
    /// A connection URL, which may hold a password.
    Postgres(String),
}

impl FromStr for SinkChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sqlite" => Ok(Self::Sqlite),
            _ if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
                Ok(Self::Postgres(text.to_owned()))
            }
            _ => Err("write sqlite, or postgres://user@host/database"),
        }
    }
}

/// Reads `--rate`: a rate, or a bare number for records per second.
pub fn drain_rate(text: &str) -> Result<Rate, RateError> {
    text.parse().or_else(|error| format!("{text}/s").parse().map_err(|_| error))
}

/// Reads `--offered-rate`, which spreads the sale over time and so cannot be unlimited.
pub fn offered_rate(text: &str) -> Result<Rate, String> {
    match drain_rate(text) {
        Ok(Rate::Unlimited) => Err("the sale needs a rate; write a high one such as 100000/s".to_owned()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

/// Everything that a run uses.
pub struct Settings {
    /// Orders to send.
    pub records: u64,
    /// How fast they come.
    pub offered_rate: Rate,
    /// How fast they leave.
    pub drain_rate: Rate,
    /// Connections of the load.
    pub connections: u32,
    /// How often the server is killed.
    pub kills: u32,
    /// Where everything is written; absolute.
    pub directory: PathBuf,
    /// Whether that is memory and no disk.
    pub is_tmpfs: bool,
    /// Where the figures go.
    pub json: Option<PathBuf>,
    /// Starts the id of each order.
    pub run: RunId,
    /// The database.
    pub sink: verify::Sink,
    /// The table's name.
    pub table_name: String,
    /// The table.
    pub table: OrdersTable,
    /// Where the server takes records.
    pub address: SocketAddr,
    /// Where it says how it is.
    pub admin: SocketAddr,
}

impl Settings {
    /// Makes the directory and finds free ports.
    pub fn prepare(arguments: &Arguments) -> anyhow::Result<Self> {
        if let Some(json) = &arguments.json {
            // A run of minutes should not end with figures that cannot be written.
            let parent = json.parent().filter(|parent| !parent.as_os_str().is_empty());
            ensure!(
                !json.is_dir() && parent.is_none_or(Path::is_dir),
                "--json {}: cannot write a file there",
                json.display()
            );
        }
        let directory = match &arguments.dir {
            Some(directory) => given_directory(directory)?,
            None => fresh_directory()?,
        };
        let run = RunId::random();
        let (sink, table_name) = match &arguments.sink {
            SinkChoice::Sqlite => (verify::Sink::Sqlite(directory.join("orders.db")), "orders".to_owned()),
            // Others may use that database, so the table is one that nobody has.
            SinkChoice::Postgres(url) => (verify::Sink::Postgres(url.clone()), format!("forebay_demo_{run}")),
        };
        let [address, admin] = free_addresses().context("no free ports on 127.0.0.1")?;
        Ok(Self {
            records: arguments.records,
            offered_rate: arguments.offered_rate,
            drain_rate: arguments.rate,
            connections: arguments.connections,
            kills: arguments.kill,
            is_tmpfs: rustix::fs::statfs(&directory).is_ok_and(|system| system.f_type == TMPFS_MAGIC),
            directory,
            json: arguments.json.clone(),
            run,
            sink,
            table: OrdersTable::new(&table_name)?,
            table_name,
            address,
            admin,
        })
    }

    /// How long the sale lasts if nothing holds it up.
    pub fn planned_ns(&self) -> u64 {
        self.offered_rate.time_for_ns(self.records)
    }

    /// Records per second of the drain, unless it is unlimited.
    pub fn drain_per_second(&self) -> Option<f64> {
        Some(self.drain_rate.per_second()).filter(|rate| rate.is_finite())
    }

    /// The run in a sentence.
    pub fn description(&self) -> String {
        let sink = match self.sink {
            verify::Sink::Sqlite(_) => "SQLite",
            verify::Sink::Postgres(_) => "PostgreSQL",
        };
        let drain = self.drain_per_second().map_or_else(|| "as fast as it takes them".to_owned(), shown_rate);
        let offered = shown_rate(self.offered_rate.per_second());
        let (records, connections) = (grouped(self.records), self.connections);
        format!(
            "A flash sale: {records} orders at {offered} over {connections} connections, drained into {sink} at {drain}."
        )
    }
}

/// A directory that the user chose must hold nothing: what is counted there must be ours alone.
fn given_directory(directory: &Path) -> anyhow::Result<PathBuf> {
    let shown = directory.display();
    std::fs::create_dir_all(directory).with_context(|| format!("--dir {shown}: cannot make the directory"))?;
    let mut entries = std::fs::read_dir(directory).with_context(|| format!("--dir {shown}: cannot read it"))?;
    ensure!(
        entries.next().is_none(),
        "--dir {shown} is not empty; name an empty directory, or one that does not exist"
    );
    std::path::absolute(directory).with_context(|| format!("--dir {shown}"))
}

/// A directory that nobody else has, and that nobody else may look into.
fn fresh_directory() -> anyhow::Result<PathBuf> {
    let random = getrandom::u32().context("no random numbers")?;
    let name = format!("forebay-demo-{}-{random:08x}", std::process::id());
    let directory = std::path::absolute(std::env::temp_dir())?.join(name);
    let made = DirBuilder::new().mode(0o700).create(&directory);
    made.with_context(|| format!("cannot make {}; choose another place with --dir", directory.display()))?;
    Ok(directory)
}

/// Addresses that were free a moment ago. Both stay bound until both are known, so that they differ.
fn free_addresses() -> std::io::Result<[SocketAddr; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (first, second) = (bind()?, bind()?);
    Ok([first.local_addr()?, second.local_addr()?])
}

/// Each connection takes a descriptor here and one in the server, which inherits the limit. If the
/// limit stays as it is, connections fail and are counted as such.
pub fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_per_second() {
        assert_eq!(drain_rate("5000"), "5000/s".parse());
        assert_eq!(drain_rate("300/min"), "300/min".parse());
        assert_eq!(drain_rate("unlimited"), Ok(Rate::Unlimited));
        assert!(drain_rate("fast").unwrap_err().to_string().starts_with("\"fast\" is not a rate"));
        assert!(offered_rate("unlimited").is_err());
        assert!(offered_rate("0").is_err());
    }

    #[test]
    fn sinks_are_sqlite_or_a_url() {
        assert!(matches!("sqlite".parse(), Ok(SinkChoice::Sqlite)));
        assert!(matches!("postgresql://h/d".parse(), Ok(SinkChoice::Postgres(_))));
        assert!("mysql://h/d".parse::<SinkChoice>().is_err());
    }
}
