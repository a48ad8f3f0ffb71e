//! A quorum queue of RabbitMQ beside the client library used by itself, with as many messages in flight.

use super::destination::{Destination, Row, rows};
use super::{BulkError, BulkPlan, IN_FLIGHT_MAX};
use crate::peer::{Peer, RunningPeer, ServerProcess};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use std::collections::VecDeque;
use std::time::Instant;
use tokio::runtime::Runtime;

const QUEUE: &str = "forebay_bulk";
/// The message is written to disk.
const PERSISTENT: u8 = 2;

pub(super) struct Queue {
    url: String,
    plan: BulkPlan,
    server: Option<RunningPeer>,
    runtime: Runtime,
    channel: Channel,
    /// The channel ends with it.
    _connection: Connection,
    rows: Vec<Row>,
}

impl Queue {
    pub(super) fn open(plan: &BulkPlan, url: Option<&str>) -> Result<Self, BulkError> {
        let (url, server) = plan.serve(url, |options| Peer::named("rabbitmq")?.start(options))?;
        let runtime = super::runtime()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.map_err(failed)?;
            let channel = connection.create_channel().await.map_err(failed)?;
            channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
            Ok::<_, BulkError>((connection, channel))
        })?;
        Ok(Self { url, plan: plan.clone(), server, runtime, channel, _connection: connection, rows: Vec::new() })
    }
}

impl Destination for Queue {
    fn names(&self) -> (&'static str, &'static str) {
        ("drain into RabbitMQ", "lapin")
    }

    fn sink_toml(&self) -> String {
        format!(
            "type = \"rabbitmq\"\nurl = {:?}\nrouting_key = \"{QUEUE}\"\nin_flight_max = {IN_FLIGHT_MAX}\n",
            self.url
        )
    }

    fn empty(&mut self) -> Result<(), BulkError> {
        self.remove()?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let declared = self.channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments);
        self.runtime.block_on(declared).map(drop).map_err(failed)
    }

    fn load(&mut self, records: u64) -> Result<f64, BulkError> {
        self.empty()?;
        if self.rows.is_empty() {
            self.rows = rows(&self.plan)?;
        }
        let started = Instant::now();
        self.runtime.block_on(publish(&self.channel, &self.rows))?;
        Ok(records as f64 / started.elapsed().as_secs_f64())
    }

    fn remove(&mut self) -> Result<(), BulkError> {
        let deleted = self.channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
        self.runtime.block_on(deleted).map(drop).map_err(failed)
    }

    fn process(&self) -> Option<ServerProcess> {
        self.server.as_ref()?.process()
    }
}

async fn publish(channel: &Channel, rows: &[Row]) -> Result<(), BulkError> {
    // What the sink says of each message, so that the broker has as much to do.
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut in_flight = VecDeque::with_capacity(IN_FLIGHT_MAX);
    for row in rows {
        if in_flight.len() == IN_FLIGHT_MAX
            && let Some(oldest) = in_flight.pop_front()
        {
            settle(oldest).await?;
        }
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(row.content_type.as_str().into())
            .with_message_id(row.ticket.as_str().into());
        let sent = channel.basic_publish("".into(), QUEUE.into(), options, row.body.as_bytes(), properties).await;
        in_flight.push_back(sent.map_err(failed)?);
    }
    for sent in in_flight {
        settle(sent).await?;
    }
    Ok(())
}

async fn settle(sent: impl Future<Output = lapin::Result<Confirmation>>) -> Result<(), BulkError> {
    match sent.await.map_err(failed)? {
        Confirmation::Ack(None) => Ok(()),
        other => Err(failed(format!("a message was not taken: {other:?}"))),
    }
}

fn failed(error: impl std::fmt::Display) -> BulkError {
    BulkError::Program { program: "lapin".to_owned(), reason: error.to_string() }
}
