//! RabbitMQ: each order is a persistent message of one quorum queue, published on a channel that confirms.

use super::WireError;
use super::clients::Client;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use std::sync::Arc;

const QUEUE: &str = "orders";
/// As many requests share a connection; each has a channel, as AMQP means it.
const CHANNELS_PER_CONNECTION: usize = 16;
/// The message is written to disk.
const PERSISTENT: u8 = 2;

pub struct Amqp {
    channel: Channel,
    /// The connection is closed when its last channel goes.
    _connection: Arc<Connection>,
}

/// Where the harness's server listens, as the user that every new server has.
pub fn url(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

async fn connect(port: u16) -> Result<Connection, WireError> {
    Ok(Connection::connect(&url(port), ConnectionProperties::default()).await?)
}

impl Client for Amqp {
    async fn open(port: u16, count: usize) -> Result<Vec<Self>, WireError> {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let connection = Arc::new(connect(port).await?);
            for _ in 0..CHANNELS_PER_CONNECTION.min(count - clients.len()) {
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                clients.push(Self { channel, _connection: connection.clone() });
            }
        }
        Ok(clients)
    }

    async fn publish(&mut self, order: &[u8]) -> Result<(), WireError> {
        // Mandatory: a message that no queue takes comes back, instead of being confirmed and gone.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let published = self.channel.basic_publish("".into(), QUEUE.into(), options, order, properties).await?;
        match published.await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(WireError::Refused("no queue takes the message".to_owned())),
            Confirmation::Nack(_) => Err(WireError::Refused("the message was not taken (nack)".to_owned())),
            Confirmation::NotRequested => Err(WireError::Protocol("no confirms")),
        }
    }

    async fn prepare(port: u16) -> Result<(), WireError> {
        declare(port).await?;
        Ok(())
    }

    async fn held(port: u16) -> Result<u64, WireError> {
        declare(port).await
    }
}

/// Declares the queue and returns how many messages it holds; a queue that is there stays as it is.
async fn declare(port: u16) -> Result<u64, WireError> {
    let channel = connect(port).await?.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let queue = channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await?;
    Ok(u64::from(queue.message_count()))
}
