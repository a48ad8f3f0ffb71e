//! An HTTP service: each record is a request, at least once, with a key by which the service can know it again.
//!
//! A batch is sent over several connections at once. Records of one key, and in a strict order all records, follow one another: each is
//! sent when the one before it was answered. Once the service has asked for less or cannot be reached, no further request of the
//! batch is begun.

mod client;
mod request;
mod response;

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;

use self::client::{Client, Connecting, client};
use self::request::RequestPlan;
use self::response::{Verdict, verdict, words};
use super::kept::{Carrier, Kept, Outcome};
use super::{Delivery, Driver, Part, SinkError, SinkFuture};
use crate::clock;
use crate::config::{self, OptionRule, OptionValues, SinkKind, Takes, UrlRule};
use crate::limits::{
    UPSTREAM_BODY_MS, UPSTREAM_CONNECTIONS_BOUND, UPSTREAM_CONNECTIONS_MAX, UPSTREAM_RESPONSE_BYTES_MAX,
    UPSTREAM_WORDS_BYTES_MAX,
};
use crate::record::Sequence;

pub(super) static DRIVER: Driver = Driver {
    kind: &KIND,
    open: |sink, part, data_dir: &Path| {
        let upstream = Upstream::new(sink, &part);
        Box::new(Kept::new(upstream, sink, part, data_dir))
    },
};

static KIND: SinkKind = SinkKind {
    name: "http",
    title: "an HTTP service",
    url: UrlRule { prefixes: &["http://", "https://"], example: "https://partner.example/api", is_required: true },
    takes: Takes::Own,
    options: &[
        OptionRule { key: "method", values: OptionValues::Template { example: "PUT", default: Some("{$method}") } },
        OptionRule {
            key: "path",
            values: OptionValues::Template { example: "/orders/{/order_id}", default: Some("{$path}") },
        },
        OptionRule { key: "headers", values: OptionValues::TemplateTable },
        OptionRule {
            key: "connections_max",
            values: OptionValues::Integer {
                default: UPSTREAM_CONNECTIONS_MAX,
                min: 1,
                max: UPSTREAM_CONNECTIONS_BOUND,
            },
        },
        OptionRule {
            key: "tls_ca_file",
            values: OptionValues::Text { example: "/etc/ssl/partner-ca.pem", default: Some("") },
        },
    ],
};

/// A sink that sends requests.
struct Upstream {
    /// Or what is wrong with the configuration.
    plan: Result<RequestPlan, Vec<String>>,
    connecting: Connecting,
    connections_max: usize,
    /// Whether each record waits for the one before it.
    is_strict: bool,
    timeout: Duration,
    client: Option<Client>,
}

/// Records of which each waits for the one before it.
type Chain<'a> = VecDeque<&'a Delivery<'a>>;

/// What became of a request.
enum Answer {
    Taken,
    Refused(String),
    Failed {
        message: String,
        /// Whether the service could not even be connected to.
        is_away: bool,
    },
    Throttled {
        message: String,
        retry_after_ms: Option<u64>,
    },
}

/// What has gone wrong in a batch.
#[derive(Default)]
struct Trouble {
    failed: Option<String>,
    throttled: Option<(String, Option<u64>)>,
    /// Nothing more is to be sent.
    is_over: bool,
}

impl Upstream {
    fn new(sink: &config::Sink, part: &Part) -> Self {
        let connecting = Connecting {
            is_tls: sink.url.starts_with("https://"),
            ca_file: sink.options.text("tls_ca_file").to_owned(),
            timeout: Duration::from_millis(sink.connect_timeout_ms),
        };
        Self {
            plan: RequestPlan::new(sink, &part.queue),
            connecting,
            connections_max: usize::try_from(sink.options.integer("connections_max")).unwrap_or(1),
            is_strict: !part.reorders,
            timeout: Duration::from_millis(sink.commit_timeout_ms),
            client: None,
        }
    }

    fn plan(&self) -> Result<&RequestPlan, SinkError> {
        self.plan.as_ref().map_err(|faults| SinkError::Transient(faults.join("; ")))
    }

    fn failed(&self, what: &str) -> SinkError {
        let place = self.plan.as_ref().map(RequestPlan::place).unwrap_or_default();
        SinkError::Transient(format!("{place}: {what}"))
    }

    /// Connections are made when there is something to send; what can be made ready before that is.
    async fn prepare(&mut self) -> Result<(), SinkError> {
        self.plan()?;
        if self.client.is_none() {
            let connecting = self.connecting.clone();
            let timeout = connecting.timeout;
            let made = tokio::task::spawn_blocking(move || connecting.connector());
            let late = |_| self.failed(&format!("no certificates were read within {} ms", timeout.as_millis()));
            let made = tokio::time::timeout(timeout, made).await.map_err(late)?;
            let connector = made.unwrap_or_else(|error| Err(error.to_string())).map_err(|error| self.failed(&error))?;
            self.client = Some(client(connector, self.connections_max));
        }
        Ok(())
    }

    /// Sends records, until all are settled or something has gone wrong.
    async fn send(&mut self, deliveries: &[Delivery<'_>], outcome: &mut Outcome) -> Result<(), SinkError> {
        self.prepare().await?;
        let (plan, Some(client)) = (self.plan()?, &self.client) else { return Ok(()) };
        let mut ready = chains(deliveries, self.is_strict);
        let mut behind: HashMap<Sequence, Chain<'_>> = HashMap::new();
        let mut flights = JoinSet::new();
        let mut trouble = Trouble::default();
        loop {
            while flights.len() < self.connections_max && !trouble.is_over {
                let Some(mut chain) = ready.pop_front() else { break };
                let Some(delivery) = chain.pop_front() else { continue };
                let sequence = delivery.sequence;
                match plan.request(delivery) {
                    Ok(request) => {
                        let client = client.clone();
                        flights.spawn(async move { (sequence, ask(&client, request).await) });
                        behind.insert(sequence, chain);
                    }
                    Err(reason) => {
                        outcome.refuse(sequence, format!("record {sequence}: {reason}"));
                        ready.push_front(chain);
                    }
                }
            }
            let Some(landed) = flights.join_next().await else { break };
            let (sequence, answer) = landed.map_err(|error| self.failed(&error.to_string()))?;
            let chain = behind.remove(&sequence);
            match answer {
                Answer::Taken => outcome.take(sequence),
                Answer::Refused(reason) => outcome.refuse(sequence, reason),
                // Those behind it wait for the next attempt.
                unsettled => {
                    trouble.note(unsettled);
                    continue;
                }
            }
            ready.extend(chain);
        }
        trouble.into_result()
    }

    async fn find_faults(&self) -> Vec<String> {
        let plan = match &self.plan {
            Ok(plan) => plan,
            Err(faults) => return faults.clone(),
        };
        let connector = match self.connecting.connector() {
            Ok(connector) => connector,
            Err(fault) => return vec![fault],
        };
        let uri = match plan.uri() {
            Ok(uri) => uri,
            Err(fault) => return vec![fault],
        };
        let connect = TowerToHyperService::new(connector).call(uri);
        let place = plan.place();
        match tokio::time::timeout(self.connecting.timeout, connect).await {
            Ok(Ok(_connection)) => Vec::new(),
            Ok(Err(error)) => vec![format!("{place}: {}", whole(error.as_ref()))],
            Err(_) => vec![format!("{place}: no connection within {} ms", self.connecting.timeout.as_millis())],
        }
    }
}

impl Trouble {
    fn note(&mut self, answer: Answer) {
        match answer {
            Answer::Taken | Answer::Refused(_) => {}
            Answer::Failed { message, is_away } => {
                self.is_over |= is_away;
                self.failed.get_or_insert(message);
            }
            Answer::Throttled { message, retry_after_ms } => {
                self.is_over = true;
                let (_, longest) = self.throttled.get_or_insert((message, None));
                *longest = (*longest).max(retry_after_ms);
            }
        }
    }

    fn into_result(self) -> Result<(), SinkError> {
        match (self.throttled, self.failed) {
            (Some((message, retry_after_ms)), _) => Err(SinkError::Throttled { message, retry_after_ms }),
            (None, Some(message)) => Err(SinkError::Transient(message)),
            (None, None) => Ok(()),
        }
    }
}

/// Which records wait for which: in a strict order each for the one before it, else for the one before it with the same key.
fn chains<'a>(deliveries: &'a [Delivery<'a>], is_strict: bool) -> VecDeque<Chain<'a>> {
    if is_strict {
        return [deliveries.iter().collect()].into();
    }
    let mut chains: VecDeque<Chain<'a>> = VecDeque::new();
    let mut of_key: HashMap<&[u8], usize> = HashMap::new();
    for delivery in deliveries {
        let key = delivery.record.key;
        let known = of_key.get(key).copied().filter(|_| !key.is_empty());
        if let Some(chain) = known.and_then(|number| chains.get_mut(number)) {
            chain.push_back(delivery);
        } else {
            of_key.insert(key, chains.len());
            chains.push_back([delivery].into());
        }
    }
    chains
}

/// Sends one request and waits for its answer.
async fn ask(client: &Client, request: Request<Full<Bytes>>) -> Answer {
    // Without the query, which may hold a secret.
    let uri = request.uri();
    let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
    let place = format!("{} {scheme}://{authority}{}", request.method(), uri.path());
    match client.request(request).await {
        Ok(response) => judge(&place, response).await,
        Err(error) => Answer::Failed { message: format!("{place}: {}", whole(&error)), is_away: error.is_connect() },
    }
}

async fn judge(place: &str, response: Response<Incoming>) -> Answer {
    let status = response.status();
    let verdict = verdict(status, response.headers(), clock::unix_us());
    let mut said = Vec::new();
    // What the service thinks of the record is known already, so a body that breaks off or does not come is none the worse.
    let _ = tokio::time::timeout(Duration::from_millis(UPSTREAM_BODY_MS), read(response.into_body(), &mut said)).await;
    let message = || format!("{place}: {}", words(status, &said));
    match verdict {
        Verdict::Taken => Answer::Taken,
        Verdict::Refused => Answer::Refused(message()),
        Verdict::Failed => Answer::Failed { message: message(), is_away: false },
        Verdict::Throttled(retry_after_ms) => Answer::Throttled { message: message(), retry_after_ms },
    }
}

/// Reads a body so that its connection can be used again, and keeps its beginning.
async fn read(mut body: Incoming, beginning: &mut Vec<u8>) {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        let room = UPSTREAM_WORDS_BYTES_MAX - beginning.len();
        beginning.extend_from_slice(&data[..data.len().min(room)]);
        length += data.len();
        if length > UPSTREAM_RESPONSE_BYTES_MAX {
            return;
        }
    }
}

/// An error with what led to it.
fn whole(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Carrier for Upstream {
    fn connect(&mut self) -> SinkFuture<'_, ()> {
        Box::pin(self.prepare())
    }

    fn deliver<'a>(&'a mut self, deliveries: &'a [Delivery<'a>], outcome: &'a mut Outcome) -> SinkFuture<'a, ()> {
        Box::pin(async {
            let late = self.failed(&format!("not all was answered within {} ms", self.timeout.as_millis()));
            tokio::time::timeout(self.timeout, self.send(deliveries, outcome)).await.unwrap_or(Err(late))
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async { Ok(self.find_faults().await) })
    }
}
