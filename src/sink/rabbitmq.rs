//! RabbitMQ, by AMQP 0-9-1: a message for each record, which is delivered once the broker has confirmed it.
//!
//! Messages are mandatory, so that one for which there is no queue comes back instead of being dropped. Those of a batch are sent
//! without waiting for each other's confirm, in order.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::str::FromStr as _;
use std::time::Duration;

use futures_lite::future::poll_once;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError, BasicProperties};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    Channel, Confirmation, Connection, ConnectionProperties, DefaultConnectionBuilder, ErrorKind, ExchangeKind,
};

use super::kept::{Carrier, Kept, Outcome};
use super::mapping::TextPlan;
use super::{Delivery, Driver, SinkError, SinkFuture};
use crate::config::{self, OptionRule, OptionValues, SinkKind, Takes, Template, UrlRule};
use crate::record::Sequence;

pub(super) static DRIVER: Driver = Driver {
    kind: &KIND,
    open: |sink, part, data_dir| {
        let carrier = RabbitMq::new(sink, &part.queue);
        Box::new(Kept::new(carrier, sink, part, data_dir))
    },
};

static KIND: SinkKind = SinkKind {
    name: "rabbitmq",
    title: "RabbitMQ",
    url: UrlRule {
        prefixes: &["amqp://", "amqps://"],
        example: "amqp://user:password@host:5672/vhost",
        is_required: true,
    },
    takes: Takes::Own,
    options: &[
        OptionRule { key: "exchange", values: OptionValues::Text { example: "orders", default: Some("") } },
        OptionRule {
            key: "routing_key",
            values: OptionValues::Template { example: "orders.{/region}", default: Some("{$queue}") },
        },
        OptionRule { key: "headers", values: OptionValues::TemplateTable },
        OptionRule { key: "delivery_mode", values: OptionValues::Choice { words: &["persistent", "transient"] } },
        OptionRule { key: "in_flight_max", values: OptionValues::Integer { default: 1000, min: 1, max: 10_000 } },
        OptionRule {
            key: "tls_ca_file",
            values: OptionValues::Text { example: "/etc/forebay/ca.pem", default: Some("") },
        },
    ],
};

/// How AMQP writes the two modes of delivery.
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// A sink that publishes.
struct RabbitMq {
    url: String,
    /// What is wrong with the options, if something is.
    plan: Result<Plan, String>,
    in_flight_max: usize,
    /// Whom to trust besides the system's authorities; empty for nobody.
    ca_file: String,
    connect_timeout: Duration,
    commit_timeout: Duration,
    session: Option<Session>,
}

/// What a record becomes.
struct Plan {
    exchange: ShortString,
    /// The routing key, and the values of the headers.
    texts: TextPlan,
    headers: Vec<ShortString>,
    delivery_mode: u8,
    routing_key: Template,
    queue: String,
}

/// A message on its way.
struct Message {
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

/// An open connection with a channel on which the broker confirms.
struct Session {
    connection: Connection,
    channel: Channel,
    /// What was sent and is not confirmed, in order. A broker that has blocked us confirms it once it has room again, so it
    /// outlives the call that has sent it.
    sent: VecDeque<Sent>,
    /// Whether every record has the same routing key.
    is_key_of_all: bool,
}

struct Sent {
    sequence: Sequence,
    confirm: Confirm,
}

type Confirm = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send + Sync>>;

/// Why some of a batch was not taken.
enum Failure {
    /// The connection, or its channel, is of no more use.
    Connection(lapin::Error),
    /// The same, for want of an answer.
    Silence(String),
    /// What the broker said of a message, or asks of us.
    Answer(SinkError),
}

impl Plan {
    fn new(sink: &config::Sink, queue: &str) -> Result<Self, String> {
        let routing_key = sink.options.template("routing_key");
        let headers = sink.options.table("headers");
        let names = headers.iter().map(|(name, _)| short("the name of a header", name.as_bytes().to_vec()));
        let templates: Vec<_> =
            std::iter::once(&routing_key).chain(headers.iter().map(|(_, template)| template)).cloned().collect();
        Ok(Self {
            exchange: short("`exchange`", sink.options.text("exchange").as_bytes().to_vec())?,
            texts: TextPlan::new(&templates, queue),
            headers: names.collect::<Result<_, _>>()?,
            delivery_mode: if sink.options.text("delivery_mode") == "transient" { TRANSIENT } else { PERSISTENT },
            routing_key,
            queue: queue.to_owned(),
        })
    }

    /// The message of a record.
    ///
    /// # Errors
    ///
    /// Why there is none and never will be.
    fn message(&self, delivery: &Delivery<'_>) -> Result<Message, String> {
        let mut texts = self.texts.texts(delivery).map_err(|error| error.to_string())?.into_iter();
        let routing_key = short("the routing key", texts.next().unwrap_or_default())?;
        let mut headers = FieldTable::default();
        // What a record does not have is no header.
        for (name, value) in self.headers.iter().zip(texts).filter(|(_, value)| !value.is_empty()) {
            headers.insert(name.clone(), AMQPValue::LongString(LongString::from(value)));
        }
        let record = &delivery.record;
        let mut properties = BasicProperties::default()
            .with_message_id(short("the ticket", delivery.ticket.as_bytes().to_vec())?)
            .with_timestamp(record.received_at_us / 1_000_000)
            .with_delivery_mode(self.delivery_mode)
            .with_headers(headers);
        // One that is too long for AMQP is no reason to keep the record from anybody.
        if let Ok(content_type) = short("", record.content_type.to_vec())
            && !record.content_type.is_empty()
        {
            properties = properties.with_content_type(content_type);
        }
        Ok(Message { routing_key, properties, body: record.body.to_vec() })
    }
}

/// A short string of AMQP, which has 255 bytes at most.
fn short(what: &str, bytes: Vec<u8>) -> Result<ShortString, String> {
    let text = String::from_utf8(bytes).map_err(|_| format!("{what} would not be UTF-8"))?;
    ShortString::try_new(text).map_err(|error| format!("{what} would be too long: {error}"))
}

impl RabbitMq {
    fn new(sink: &config::Sink, queue: &str) -> Self {
        Self {
            url: sink.url.clone(),
            plan: Plan::new(sink, queue),
            in_flight_max: usize::try_from(sink.options.integer("in_flight_max")).unwrap_or(1).max(1),
            ca_file: sink.options.text("tls_ca_file").to_owned(),
            connect_timeout: Duration::from_millis(sink.connect_timeout_ms),
            commit_timeout: Duration::from_millis(sink.commit_timeout_ms),
            session: None,
        }
    }

    /// Connects, whatever there was before.
    ///
    /// # Errors
    ///
    /// Why there is no connection, in a sentence without the URL, which may hold a password.
    async fn open(&self) -> Result<Session, SinkError> {
        let failed = |why: String| SinkError::Transient(why);
        let uri = self.uri().map_err(failed)?;
        let place = format!("{}:{}", uri.authority.host, uri.authority.port);
        let mut tls = OwnedTLSConfig::default();
        if !self.ca_file.is_empty() {
            let path = self.ca_file.clone();
            let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
            let read = read.map_err(|error| failed(error.to_string()))?;
            tls.cert_chain = Some(read.map_err(|error| failed(format!("`tls_ca_file` {}: {error}", self.ca_file)))?);
        }
        let connecting = async {
            let name = LongString::from("forebay");
            let properties = ConnectionProperties::default().with_connection_name(name);
            let builder = DefaultConnectionBuilder::new()?.with_uri(uri).with_properties(properties);
            let connection = builder.with_tls_config(tls).connect().await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let is_key_of_all = self.plan.as_ref().is_ok_and(|plan| plan.routing_key.common(&plan.queue).1);
            Ok(Session { connection, channel, sent: VecDeque::new(), is_key_of_all })
        };
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(|error: lapin::Error| failed(format!("{place}: {error}"))),
            Err(_) => Err(failed(format!("{place}: no connection within {} ms", self.connect_timeout.as_millis()))),
        }
    }

    fn uri(&self) -> Result<AMQPUri, String> {
        // The parser's own message may show the URL.
        let unreadable = || {
            "the URL is not one of RabbitMQ: write `amqp://user:password@host:5672/vhost`, with what is special in user, \
             password and virtual host percent-encoded"
                .to_owned()
        };
        let mut uri = AMQPUri::from_str(&self.url).map_err(|_| unreadable())?;
        // A password with a slash would be read as a port and a virtual host, and the port shown.
        let behind_host = self.url.splitn(4, '/').nth(3).unwrap_or_default();
        if behind_host.contains('@') {
            return Err(unreadable());
        }
        // The client's own thread would otherwise go on trying when nobody waits for it any more.
        uri.query.connection_timeout = u64::try_from(self.connect_timeout.as_millis()).ok();
        Ok(uri)
    }

    /// Publishes all that is not on its way yet, and waits for all confirms.
    async fn publish(
        &self,
        session: &mut Session,
        deliveries: &[Delivery<'_>],
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let plan = self.plan.as_ref().map_err(|problem| Failure::Answer(SinkError::Transient(problem.clone())))?;
        let on_their_way: BTreeSet<_> = session.sent.iter().map(|sent| sent.sequence).collect();
        let mut answer = Ok(());
        for delivery in deliveries.iter().filter(|delivery| !on_their_way.contains(&delivery.sequence)) {
            while session.sent.len() >= self.in_flight_max {
                answer = answer.and(session.settle_first(outcome).await?);
            }
            // What comes later would overtake what was not taken.
            if answer.is_err() {
                break;
            }
            match plan.message(delivery) {
                Ok(message) => session.send(&plan.exchange, message, delivery.sequence, outcome).await?,
                Err(reason) => outcome.refuse(delivery.sequence, reason),
            }
        }
        while !session.sent.is_empty() {
            answer = answer.and(session.settle_first(outcome).await?);
        }
        answer.map_err(Failure::Answer)
    }

    async fn publish_in_time(
        &self,
        session: &mut Session,
        deliveries: &[Delivery<'_>],
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let was_blocked = session.is_blocked();
        if was_blocked && session.sent.is_empty() {
            return Err(blocked());
        }
        let publishing = self.publish(session, deliveries, outcome);
        match tokio::time::timeout(self.commit_timeout, publishing).await {
            Ok(published) => published,
            // If that has only just ended, the confirms are still to come.
            Err(_) if was_blocked || session.is_blocked() => Err(blocked()),
            Err(_) => Err(Failure::Silence(format!("no confirm within {} ms", self.commit_timeout.as_millis()))),
        }
    }

    async fn find_problems(&mut self) -> Result<Vec<String>, SinkError> {
        let plan = match &self.plan {
            Ok(plan) => plan,
            Err(problem) => return Ok(vec![problem.clone()]),
        };
        let session = self.open().await?;
        let asking = async {
            let problem = session.problem(plan).await;
            // Whatever it says, we have no more to say.
            let _ = session.connection.close(200, ShortString::default()).await;
            problem
        };
        let problem = tokio::time::timeout(self.commit_timeout, asking)
            .await
            .map_err(|_| SinkError::Transient(format!("no answer within {} ms", self.commit_timeout.as_millis())))?;
        Ok(problem.into_iter().collect())
    }
}

/// What is said while an alarm of memory or disk keeps the broker from taking anything.
fn blocked() -> Failure {
    let message = "RabbitMQ has an alarm (memory or disk) and takes nothing; `rabbitmqctl status` says which";
    Failure::Answer(SinkError::Throttled { message: message.to_owned(), retry_after_ms: None })
}

impl Session {
    /// Whether it is of use, as far as is known without sending anything.
    fn is_open(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    fn is_blocked(&self) -> bool {
        self.is_open() && self.connection.status().blocked()
    }

    /// Hands a message to the connection, which sends it behind those before.
    async fn send(
        &mut self,
        exchange: &ShortString,
        message: Message,
        sequence: Sequence,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let (channel, exchange) = (self.channel.clone(), exchange.clone());
        let mut confirm: Confirm = Box::pin(async move {
            let Message { routing_key, properties, body } = message;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
        });
        // The first poll hands it over, so the order of polls is that of messages.
        match poll_once(&mut confirm).await {
            None => self.sent.push_back(Sent { sequence, confirm }),
            Some(confirmed) => judge(sequence, confirmed, self.is_key_of_all, outcome)?.map_err(Failure::Answer)?,
        }
        Ok(())
    }

    /// Waits for the confirm of the first message that waits for one.
    async fn settle_first(&mut self, outcome: &mut Outcome) -> Result<Result<(), SinkError>, Failure> {
        let Some(sent) = self.sent.front_mut() else { return Ok(Ok(())) };
        let (sequence, confirmed) = (sent.sequence, sent.confirm.as_mut().await);
        self.sent.pop_front();
        judge(sequence, confirmed, self.is_key_of_all, outcome)
    }

    /// Why nothing would arrive, as far as the broker tells without a message.
    async fn problem(&self, plan: &Plan) -> Option<String> {
        let (routing_key, is_all) = plan.routing_key.common(&plan.queue);
        if plan.exchange.as_str().is_empty() {
            if !is_all {
                return None;
            }
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = ShortString::try_new(routing_key.as_str()).ok()?;
            let error = self.channel.queue_declare(queue, options, FieldTable::default()).await.err()?;
            return Some(format!(
                "queue {routing_key}: {error}; make it, such as with `rabbitmqadmin declare queue name={routing_key} \
                 durable=true`, or name an `exchange`"
            ));
        }
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let (exchange, kind) = (plan.exchange.clone(), ExchangeKind::Direct);
        let error = self.channel.exchange_declare(exchange, kind, options, FieldTable::default()).await.err()?;
        Some(format!("exchange {}: {error}", plan.exchange))
    }
}

/// Notes what became of a message.
///
/// # Errors
///
/// That of the connection; what the broker says of the message is inside.
fn judge(
    sequence: Sequence,
    confirmed: lapin::Result<Confirmation>,
    is_key_of_all: bool,
    outcome: &mut Outcome,
) -> Result<Result<(), SinkError>, Failure> {
    let confirmation = confirmed.map_err(Failure::Connection)?;
    let is_ack = confirmation.is_ack();
    if let Some(returned) = confirmation.take_message() {
        let (exchange, key) = (&returned.delivery.exchange, &returned.delivery.routing_key);
        let (code, text) = (returned.reply_code, &returned.reply_text);
        let why = format!("{code} {text}: exchange \"{exchange}\" has no queue for routing key \"{key}\"");
        if is_key_of_all {
            // Then it is not this record's fault: the queue is missing, or the node that has it is away.
            return Ok(Err(SinkError::Transient(why)));
        }
        outcome.refuse(sequence, why);
    } else if is_ack {
        outcome.take(sequence);
    } else {
        let why =
            "RabbitMQ did not take a message (nack): a queue is full and rejects what is published, or has failed";
        return Ok(Err(SinkError::Transient(why.to_owned())));
    }
    Ok(Ok(()))
}

/// Whether the broker has closed the channel over what it thinks of a message, such as its size. It does not say of which.
fn is_about_a_message(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::CONTENTTOOLARGE))
}

impl Carrier for RabbitMq {
    fn connect(&mut self) -> SinkFuture<'_, ()> {
        Box::pin(async {
            if let Err(problem) = &self.plan {
                return Err(SinkError::Transient(problem.clone()));
            }
            if !self.session.as_ref().is_some_and(Session::is_open) {
                self.session = Some(self.open().await?);
            }
            Ok(())
        })
    }

    fn deliver<'a>(&'a mut self, deliveries: &'a [Delivery<'a>], outcome: &'a mut Outcome) -> SinkFuture<'a, ()> {
        Box::pin(async {
            let mut session = match self.session.take().filter(Session::is_open) {
                Some(session) => session,
                None => self.open().await?,
            };
            let was_idle = session.sent.is_empty();
            match self.publish_in_time(&mut session, deliveries, outcome).await {
                Ok(()) => self.session = Some(session),
                Err(Failure::Answer(answer)) => {
                    self.session = Some(session);
                    return Err(answer);
                }
                Err(Failure::Silence(why)) => return Err(SinkError::Transient(why)),
                Err(Failure::Connection(error)) => match deliveries {
                    // The drain sends records one by one after a failure, and finds the one that it is about.
                    [only] if was_idle && is_about_a_message(&error) => {
                        outcome.refuse(only.sequence, error.to_string());
                    }
                    _ => return Err(SinkError::Transient(error.to_string())),
                },
            }
            Ok(())
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(self.find_problems())
    }
}
