//! Where a drain delivers, and what it is held against there.

use super::database::Database;
use super::{BulkError, BulkPlan, QUEUE, file, http, redis};
use crate::peer::ServerProcess;
use serde::Deserialize;
use std::process::{Command, Stdio};

/// A sink of forebay's with whatever else is known to fill it fast.
pub(super) trait Destination {
    /// What the comparison is called, and what the drain is held against.
    fn names(&self) -> (&'static str, &'static str);

    /// The lines of the sink in forebay's configuration.
    fn sink_toml(&self) -> String;

    /// Whether it is only fast if no order is kept.
    fn is_unordered(&self) -> bool {
        false
    }

    /// Whether the other one can commit as often as the drain does.
    fn has_transactions(&self) -> bool {
        false
    }

    /// Makes it empty, and removes the position that an earlier round has left there.
    fn empty(&mut self) -> Result<(), BulkError>;

    /// Has the other one fill it with the same records, of which there are `records`; returns how many a second that were.
    fn load(&mut self, records: u64) -> Result<f64, BulkError>;

    /// Removes whatever was made, unless it goes with the server.
    fn remove(&mut self) -> Result<(), BulkError>;

    /// The server, if it is known which process that is.
    fn process(&self) -> Option<ServerProcess>;
}

/// Opens what the command line names: a kind, of which a server is started, or the URL of one that runs.
pub(super) fn open(plan: &BulkPlan, sink: &str) -> Result<Box<dyn Destination>, BulkError> {
    let (kind, url) = sink.split_once(':').map_or((sink, None), |(scheme, _)| (scheme, Some(sink)));
    Ok(match kind {
        "sqlite" if url.is_none() => Box::new(Database::sqlite(plan)),
        "postgres" | "postgresql" => Box::new(Database::postgres(plan, url)?),
        "mysql" => Box::new(Database::mysql(plan, url)?),
        "redis" | "rediss" => Box::new(redis::Stream::open(plan, url)?),
        "file" => Box::new(file::Lines::open(plan, url)?),
        "http" => Box::new(http::Service::open(plan, url)?),
        "nats" | "tls" => brokers::nats(plan, url)?,
        "rabbitmq" if url.is_none() => brokers::rabbitmq(plan, url)?,
        "amqp" | "amqps" if url.is_some() => brokers::rabbitmq(plan, url)?,
        _ => return Err(BulkError::UnknownSink),
    })
}

#[cfg(feature = "brokers")]
mod brokers {
    use super::{BulkError, BulkPlan, Destination};
    use crate::bulk::{nats, rabbitmq};

    pub(super) fn nats(plan: &BulkPlan, url: Option<&str>) -> Result<Box<dyn Destination>, BulkError> {
        Ok(Box::new(nats::JetStream::open(plan, url)?))
    }

    pub(super) fn rabbitmq(plan: &BulkPlan, url: Option<&str>) -> Result<Box<dyn Destination>, BulkError> {
        Ok(Box::new(rabbitmq::Queue::open(plan, url)?))
    }
}

#[cfg(not(feature = "brokers"))]
mod brokers {
    use super::{BulkError, BulkPlan, Destination};
    use crate::peer::PeerError;

    pub(super) fn nats(_: &BulkPlan, _: Option<&str>) -> Result<Box<dyn Destination>, BulkError> {
        Err(PeerError::NotBuilt { name: "nats", feature: "brokers" }.into())
    }

    pub(super) fn rabbitmq(_: &BulkPlan, _: Option<&str>) -> Result<Box<dyn Destination>, BulkError> {
        Err(PeerError::NotBuilt { name: "rabbitmq", feature: "brokers" }.into())
    }
}

/// A record as `forebay export` writes it, so that the other one delivers the very same.
#[derive(Deserialize)]
pub(super) struct Row {
    pub(super) ticket: String,
    pub(super) received_at: String,
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    pub(super) content_type: String,
    pub(super) body: String,
}

/// The records of the journal that was filled.
pub(super) fn rows(plan: &BulkPlan) -> Result<Vec<Row>, BulkError> {
    let failed = |reason: String| BulkError::Program { program: "forebay export".to_owned(), reason };
    let mut command = Command::new(&plan.forebay);
    command.arg("export").arg(plan.filled()).args(["--queue", QUEUE, "--from", "1"]);
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let rows = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<Vec<Row>, _>>();
    let rows = rows.map_err(|error| failed(error.to_string()))?;
    if rows.len() as u64 == plan.records {
        return Ok(rows);
    }
    Err(failed(format!("it wrote {} of {} records", rows.len(), plan.records)))
}

/// Runs a program to its end; returns what it wrote to its standard output.
pub(super) fn output(command: &mut Command) -> Result<String, BulkError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |reason: String| BulkError::Program { program: program.clone(), reason };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(failed(said(&output.stderr))) }
}
