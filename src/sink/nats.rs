//! NATS JetStream: a message for each record, which is delivered once a stream has acknowledged it.
//!
//! A message's `Nats-Msg-Id` is the record's ticket, so a stream drops one that comes again within its duplicate window. The
//! messages of a batch are sent without waiting for each other's acknowledgement, in order.

use std::collections::VecDeque;
use std::error::Error as _;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::{HeaderMap, HeaderName, HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{
    Context, ContextBuilder, GetStreamByNameErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream;
use async_nats::jetstream::{Error as ServerAnswer, ErrorCode};
use async_nats::{Auth, AuthError, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use futures_lite::future;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

use super::kept::{Carrier, Kept, Outcome};
use super::mapping::TextPlan;
use super::{Delivery, Driver, Part, SinkError, SinkFuture};
use crate::config::{self, OptionRule, OptionValues, SinkKind, Takes, Template, UrlRule};
use crate::record::Sequence;

pub(super) static DRIVER: Driver = Driver {
    kind: &KIND,
    open: |sink, part, data_dir| {
        let carrier = JetStream::new(sink, &part);
        Box::new(Kept::new(carrier, sink, part, data_dir))
    },
};

static KIND: SinkKind = SinkKind {
    name: "nats",
    title: "NATS JetStream",
    url: UrlRule { prefixes: &["nats://", "tls://"], example: "nats://user:password@host:4222", is_required: true },
    takes: Takes::Own,
    options: &[
        OptionRule {
            key: "subject",
            values: OptionValues::Template { example: "orders.{/region}", default: Some("forebay.{$queue}") },
        },
        OptionRule { key: "headers", values: OptionValues::TemplateTable },
        OptionRule { key: "in_flight_max", values: OptionValues::Integer { default: 1000, min: 1, max: 10_000 } },
        OptionRule {
            key: "tls_ca_file",
            values: OptionValues::Text { example: "/etc/forebay/ca.pem", default: Some("") },
        },
    ],
};

/// Bytes of a subject. A server ends the connection over a line of 4,096 bytes, which has more than the subject.
const SUBJECT_BYTES_MAX: usize = 1024;

/// A sink that publishes.
struct JetStream {
    url: String,
    /// What is wrong with the options, if something is.
    plan: Result<Plan, String>,
    in_flight_max: usize,
    /// Whom to trust instead of the system's authorities; empty for those.
    ca_file: String,
    connect_timeout: Duration,
    commit_timeout: Duration,
    session: Option<Session>,
}

/// What a record becomes.
struct Plan {
    /// The subject, and the values of the headers.
    texts: TextPlan,
    headers: Vec<HeaderName>,
    subject: Template,
    queue: String,
    /// Behind the ticket in a message's id, if this is not the queue's main sink: two sinks may publish into one stream, which
    /// drops what has an id that it knows.
    id_suffix: String,
}

/// An open connection. It is never made anew behind our back: what was waiting to be sent would then overtake what was lost.
struct Session {
    context: Context,
    /// What the server has said besides its answers; it names no message.
    said: watch::Receiver<Option<String>>,
}

impl Session {
    /// Whether it is of use, as far as is known without sending anything.
    fn is_open(&self) -> bool {
        self.context.client().connection_state() == State::Connected
    }
}

/// A message that was sent and is not acknowledged.
struct Sent {
    sequence: Sequence,
    subject: String,
    ack: PublishAckFuture,
}

/// Why some of a batch was not taken.
enum Failure {
    /// The connection is of no more use.
    Connection(String),
    /// The server's answer for a message.
    Answer(SinkError),
}

impl Plan {
    fn new(sink: &config::Sink, part: &Part) -> Result<Self, String> {
        let queue = &part.queue;
        let subject = sink.options.template("subject");
        let mut templates = vec![subject.clone()];
        let mut headers = Vec::new();
        for (name, template) in sink.options.table("headers") {
            let is_ours = ["nats-msg-id", "nats-expected-"].iter().any(|ours| name.to_lowercase().starts_with(ours));
            if is_ours {
                return Err(format!("headers: `{name}` is for forebay to set; remove it"));
            }
            let not_a_name = |_| format!("headers: {name:?} is not the name of a header; use letters, digits and `-`");
            headers.push(HeaderName::from_str(name).map_err(not_a_name)?);
            templates.push(template.clone());
        }
        if let Some(constant) = subject.constant() {
            checked_subject(constant.into())?;
        }
        let id_suffix = part.sink.as_ref().map_or(String::new(), |name| format!("/{name}"));
        Ok(Self { texts: TextPlan::new(&templates, queue), headers, subject, queue: queue.clone(), id_suffix })
    }

    /// The subject and the message of a record.
    ///
    /// # Errors
    ///
    /// Why there is none and never will be.
    fn message(&self, delivery: &Delivery<'_>) -> Result<(String, PublishMessage), String> {
        let mut texts = self.texts.texts(delivery).map_err(|error| error.to_string())?.into_iter();
        let subject = checked_subject(texts.next().unwrap_or_default())?;
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers.iter().zip(texts) {
            let value = String::from_utf8(value).ok().and_then(|value| HeaderValue::from_str(&value).ok());
            let value = value.ok_or_else(|| format!("the header {name} would not be one line of UTF-8"))?;
            // What a record does not have is no header.
            if !value.as_str().is_empty() {
                headers.insert(name.clone(), value);
            }
        }
        headers.insert(NATS_MESSAGE_ID, format!("{}{}", delivery.ticket, self.id_suffix).as_str());
        let payload = Bytes::copy_from_slice(delivery.record.body);
        Ok((subject, PublishMessage::build().headers(headers).payload(payload)))
    }

    /// What all subjects of the template match.
    fn filter(&self) -> String {
        let (common, is_all) = self.subject.common(&self.queue);
        let tokens = common.rfind('.').map_or(0, |dot| dot + 1);
        if is_all { common } else { format!("{}>", &common[..tokens]) }
    }
}

/// A subject that a server takes for one message's, and for nothing else. A `$` begins those by which a server is managed.
fn checked_subject(bytes: Vec<u8>) -> Result<String, String> {
    let subject = String::from_utf8(bytes).map_err(|_| "the subject would not be UTF-8".to_owned())?;
    let is_sound = |token: &str| !token.is_empty() && token != "*" && token != ">";
    let problem = if subject.len() > SUBJECT_BYTES_MAX {
        return Err(format!("the subject would have {} bytes; {SUBJECT_BYTES_MAX} are allowed", subject.len()));
    } else if subject.contains(|char: char| char.is_whitespace() || char.is_control()) {
        "has a blank or a control character"
    } else if !subject.split('.').all(is_sound) {
        "has a token that is empty, `*` or `>`"
    } else if subject.starts_with('$') {
        "begins with `$`, as only the server's own do"
    } else {
        return Ok(subject);
    };
    Err(format!("the subject {subject:?} {problem}"))
}

impl JetStream {
    fn new(sink: &config::Sink, part: &Part) -> Self {
        Self {
            url: sink.url.clone(),
            plan: Plan::new(sink, part),
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
    async fn open(&self) -> Result<Session, String> {
        let Servers { addresses, auth } = servers(&self.url)?;
        let places: Vec<_> = addresses.iter().map(|address| format!("{}:{}", address.host(), address.port())).collect();
        let places = places.join(", ");
        let is_connected = Arc::new(AtomicBool::new(false));
        let was_connected = Arc::clone(&is_connected);
        // Without credentials no second connection can be made, and the client then ends.
        let credentials = move |_| {
            let auth = if was_connected.load(Ordering::Relaxed) { None } else { Some(auth.clone()) };
            async { auth.ok_or_else(|| AuthError::new("the connection is not made anew")) }
        };
        let (says, said) = watch::channel(None);
        let listen = move |event| {
            if let Event::ServerError(error) = event {
                says.send_replace(Some(error.to_string()));
            }
            async {}
        };
        let options = ConnectOptions::with_auth_callback(credentials)
            .event_callback(listen)
            .name("forebay")
            .connection_timeout(self.connect_timeout)
            .request_timeout(Some(self.commit_timeout))
            .ignore_discovered_servers()
            .max_reconnects(addresses.len());
        let options =
            if self.ca_file.is_empty() { options } else { options.add_root_certificates(PathBuf::from(&self.ca_file)) };
        let client = match tokio::time::timeout(self.connect_timeout, options.connect(addresses)).await {
            Ok(connected) => connected.map_err(|error| format!("{places}: {error}"))?,
            Err(_) => return Err(format!("{places}: no connection within {} ms", self.connect_timeout.as_millis())),
        };
        is_connected.store(true, Ordering::Relaxed);
        let context = ContextBuilder::new()
            .timeout(self.commit_timeout)
            .ack_timeout(self.commit_timeout)
            .max_ack_inflight(self.in_flight_max)
            .backpressure_on_inflight(true)
            .build(client);
        Ok(Session { context, said })
    }

    /// Publishes all, and waits for all acknowledgements.
    async fn publish(
        &self,
        context: &Context,
        deliveries: &[Delivery<'_>],
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let plan = self.plan.as_ref().map_err(|problem| Failure::Answer(SinkError::Transient(problem.clone())))?;
        let (mut in_flight, mut answer) = (VecDeque::new(), Ok(()));
        for delivery in deliveries {
            if in_flight.len() >= self.in_flight_max
                && let Some(sent) = in_flight.pop_front()
            {
                answer = settle(sent, outcome).await?;
            }
            // What comes later would overtake what was not taken.
            if answer.is_err() {
                break;
            }
            let sequence = delivery.sequence;
            let (subject, message) = match plan.message(delivery) {
                Ok(message) => message,
                Err(reason) => {
                    outcome.refuse(sequence, reason);
                    continue;
                }
            };
            match context.send_publish(subject.clone(), message).await {
                Ok(ack) => in_flight.push_back(Sent { sequence, subject, ack }),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    outcome.refuse(sequence, error.to_string());
                }
                Err(error) => return Err(Failure::Connection(error.to_string())),
            }
        }
        for sent in in_flight {
            let settled = settle(sent, outcome).await?;
            answer = answer.and(settled);
        }
        answer.map_err(Failure::Answer)
    }

    async fn publish_in_time(
        &self,
        session: &mut Session,
        deliveries: &[Delivery<'_>],
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let Session { context, said } = session;
        let objection = async {
            let said = said.wait_for(Option::is_some).await;
            let said = said.ok().and_then(|said| said.clone());
            Err(Failure::Connection(said.unwrap_or_else(|| "the connection has ended".to_owned())))
        };
        let publishing = future::or(self.publish(context, deliveries, outcome), objection);
        let late = |_| Failure::Connection(format!("no acknowledgement within {} ms", self.commit_timeout.as_millis()));
        tokio::time::timeout(self.commit_timeout, publishing).await.map_err(late)?
    }

    async fn find_problems(&mut self) -> Result<Vec<String>, SinkError> {
        let plan = match &self.plan {
            Ok(plan) => plan,
            Err(problem) => return Ok(vec![problem.clone()]),
        };
        let context = self.open().await.map_err(SinkError::Transient)?.context;
        let filter = plan.filter();
        let name = match context.stream_by_subject(&filter).await {
            Ok(name) => name,
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {
                return Ok(vec![format!(
                    "no stream of JetStream has the subject {filter}; make one, such as with `nats stream add ORDERS \
                     --subjects '{filter}' --defaults`"
                )]);
            }
            Err(error) => return Err(SinkError::Transient(format!("JetStream: {error}"))),
        };
        let stream = context.get_stream(&name).await;
        let stream = stream.map_err(|error| SinkError::Transient(format!("stream {name}: {error}")))?;
        Ok(self.problems_of(&stream.cached_info().config))
    }

    fn problems_of(&self, stream: &stream::Config) -> Vec<String> {
        let (name, window) = (&stream.name, stream.duplicate_window);
        tracing::info!(stream = name, ?window, "the stream drops messages that come again within its duplicate window");
        let mut problems = Vec::new();
        if stream.no_ack {
            let advice = "so nothing would count as delivered; make it one without `--no-ack`";
            problems.push(format!("stream {name} acknowledges nothing, {advice}"));
        }
        if stream.sealed {
            problems.push(format!("stream {name} is sealed and takes no messages; make another one"));
        }
        if window < self.commit_timeout {
            let (window, timeout) = (window.as_millis(), self.commit_timeout.as_millis());
            problems.push(format!(
                "stream {name} drops duplicates for {window} ms, but a message may be sent again after `commit_timeout_ms` \
                 = {timeout}; let it do so for longer, such as with `nats stream edit {name} --dupe-window=2m`"
            ));
        }
        problems
    }
}

/// Waits for a message's acknowledgement, and notes what became of it.
///
/// # Errors
///
/// That of the connection; the answer is inside.
async fn settle(sent: Sent, outcome: &mut Outcome) -> Result<Result<(), SinkError>, Failure> {
    let Sent { sequence, subject, ack } = sent;
    let Err(error) = ack.await else {
        outcome.take(sequence);
        return Ok(Ok(()));
    };
    match error.kind() {
        PublishErrorKind::StreamNotFound => {
            let advice = "no stream has taken it, because none has this subject, or its leader is away";
            Ok(Err(SinkError::Transient(format!("subject {subject}: {advice}; `forebay check` looks for the stream"))))
        }
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
            Err(Failure::Connection("the connection was lost before the acknowledgement".to_owned()))
        }
        _ => match judged(&error) {
            SinkError::Permanent { message } => {
                outcome.refuse(sequence, message);
                Ok(Ok(()))
            }
            answer => Ok(Err(answer)),
        },
    }
}

/// What a stream's refusal means for the record.
fn judged(error: &PublishError) -> SinkError {
    let Some(answer) = error.source().and_then(|source| source.downcast_ref::<ServerAnswer>()) else {
        return SinkError::Transient(error.to_string());
    };
    let message = answer.to_string();
    match answer.error_code() {
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            SinkError::Permanent { message }
        }
        ErrorCode::STREAM_TOO_MANY_REQUESTS => SinkError::Throttled { message, retry_after_ms: None },
        // A stream that discards new messages is full until its consumers have caught up.
        ErrorCode::STREAM_STORE_FAILED if message.starts_with("maximum ") => {
            SinkError::Throttled { message, retry_after_ms: None }
        }
        _ => SinkError::Transient(message),
    }
}

/// Where the servers of a cluster are, and who we are to them.
struct Servers {
    addresses: Vec<ServerAddr>,
    auth: Auth,
}

/// Reads a URL, or several with commas between them, which are servers of one cluster. What the client shows of addresses
/// must not have a password in it, so they are left without.
fn servers(url: &str) -> Result<Servers, String> {
    // A message of the parser's could have a piece of a password that is not encoded.
    let unreadable = || {
        "the URL is not one of NATS: write `nats://user:password@host:4222`, with what is special in user and password \
         percent-encoded"
            .to_owned()
    };
    let scheme = if url.starts_with("tls://") { "tls" } else { "nats" };
    let (mut addresses, mut auth) = (Vec::new(), Auth::new());
    for part in url.split(',') {
        let part = if part.contains("://") { part.to_owned() } else { format!("{scheme}://{part}") };
        let mut url = ServerAddr::from_str(&part).map_err(|_| unreadable())?.into_inner();
        // What stands there is a piece of a password with a slash, a question mark or a comma in it.
        let is_astray = !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
        let is_late =
            !url.username().is_empty() && !addresses.is_empty() && auth.username.is_none() && auth.token.is_none();
        if is_astray || is_late || url.scheme() != scheme || url.host_str().is_none_or(str::is_empty) {
            return Err(unreadable());
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| unreadable());
        match (url.username(), url.password()) {
            ("", _) => {}
            (token, None) => auth.token = Some(decoded(token)?),
            (user, Some(password)) => (auth.username, auth.password) = (Some(decoded(user)?), Some(decoded(password)?)),
        }
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| unreadable())?;
        addresses.push(ServerAddr::from_url(url).map_err(|_| unreadable())?);
    }
    Ok(Servers { addresses, auth })
}

impl Carrier for JetStream {
    fn connect(&mut self) -> SinkFuture<'_, ()> {
        Box::pin(async {
            if let Err(problem) = &self.plan {
                return Err(SinkError::Transient(problem.clone()));
            }
            if !self.session.as_ref().is_some_and(Session::is_open) {
                self.session = Some(self.open().await.map_err(SinkError::Transient)?);
            }
            Ok(())
        })
    }

    fn deliver<'a>(&'a mut self, deliveries: &'a [Delivery<'a>], outcome: &'a mut Outcome) -> SinkFuture<'a, ()> {
        Box::pin(async {
            let mut session = match self.session.take().filter(Session::is_open) {
                Some(session) => session,
                None => self.open().await.map_err(SinkError::Transient)?,
            };
            let failure = self.publish_in_time(&mut session, deliveries, outcome).await;
            if !matches!(failure, Err(Failure::Connection(_))) {
                self.session = Some(session);
            }
            failure.map_err(|failure| match failure {
                Failure::Connection(why) => SinkError::Transient(why),
                Failure::Answer(answer) => answer,
            })
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(self.find_problems())
    }
}
