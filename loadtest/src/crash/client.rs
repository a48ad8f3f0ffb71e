//! A client that sends one request after the other, and repeats those with a key until they are acknowledged.

use super::account::{Fate, Finding, Kind, Sent, Tickets};
use super::connection::{Answer, Connection};
use super::request::{QUEUES, Request};
use super::stage::{Phase, Stage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The longest that a client thinks between two requests.
const THINK_US_MAX: u64 = 6_000;
/// How long a client waits before it asks a server again that did not take its request.
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// One of so many acknowledged requests is followed by an earlier one with its old key.
const REPEAT_ONE_IN: u32 = 8;
/// Refusals that pass, and that say that nothing was stored.
const PASSING: [&str; 2] = ["urn:forebay:problem:busy", "urn:forebay:problem:stopping"];

/// Why a client gives up, and the whole run with it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A refusal that there is no reason for.
    #[error("request {request} was refused with {status}: {body}")]
    Refused {
        /// Its client and number.
        request: String,
        /// The status code.
        status: u16,
        /// What the server said.
        body: String,
    },
    /// An acknowledgement that does not name what was sent.
    #[error("the acknowledgement of request {request} is none: {body}")]
    Unreadable {
        /// Its client and number.
        request: String,
        /// What the server said.
        body: String,
    },
    /// A server that runs and does not answer.
    #[error("request {request} was not answered by a server that runs: {source}")]
    Silent {
        /// Its client and number.
        request: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a client has done.
#[derive(Default)]
pub struct Record {
    /// All its requests, in order.
    pub sent: Vec<Sent>,
    /// What it could see by itself: a repeated request that got another ticket.
    pub findings: Vec<Finding>,
    /// Attempts without an answer.
    pub unanswered: u64,
    /// Attempts that were answered with a refusal that passes.
    pub refused: u64,
    /// Requests that were repeated since their answer was lost, and had been stored.
    pub replayed: u64,
    /// Acknowledged requests that were sent once more.
    pub repeated: u64,
}

/// One client.
pub struct Client {
    name: u32,
    random: StdRng,
    stage: Arc<Stage>,
    connection: Option<Connection>,
    record: Record,
}

/// What came of one attempt.
enum Attempt {
    Acknowledged { tickets: Tickets, replayed: bool },
    Refused,
    Unanswered,
}

impl Client {
    /// A client that has sent nothing.
    pub fn new(name: u32, seed: u64, stage: Arc<Stage>) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { name, random, stage, connection: None, record: Record::default() }
    }

    /// Sends until the storm is over. Whoever fails abandons the run.
    pub fn run(mut self) -> Result<Record, ClientError> {
        match self.send_all() {
            Ok(()) => Ok(self.record),
            Err(error) => {
                self.stage.enter(Phase::Abandoned);
                Err(error)
            }
        }
    }

    fn send_all(&mut self) -> Result<(), ClientError> {
        for number in 0.. {
            if self.stage.phase() > Phase::Storm {
                break;
            }
            let request = Request::choose(self.name, number, &mut self.random);
            let fate = self.submit(&request)?;
            self.record.sent.push(Sent { request, fate });
            if self.random.random_ratio(1, REPEAT_ONE_IN) {
                self.repeat()?;
            }
            let think = Duration::from_micros(self.random.random_range(0..THINK_US_MAX));
            self.stage.pause(think, Phase::Storm);
        }
        Ok(())
    }

    /// Sends a request; with a key, until it is acknowledged.
    fn submit(&mut self, request: &Request) -> Result<Fate, ClientError> {
        loop {
            let Some(attempt) = self.attempt(request)? else { return Ok(Fate::Unanswered) };
            match attempt {
                Attempt::Acknowledged { tickets, replayed } => {
                    self.record.replayed += u64::from(replayed);
                    self.stage.acknowledged(request.records);
                    return Ok(Fate::Acknowledged(tickets));
                }
                Attempt::Refused if !request.keyed => return Ok(Fate::Refused),
                Attempt::Unanswered if !request.keyed => return Ok(Fate::Unanswered),
                Attempt::Refused | Attempt::Unanswered => {}
            }
        }
    }

    /// Sends an earlier request with its key once more, which must get the ticket that it got.
    fn repeat(&mut self) -> Result<(), ClientError> {
        let earlier = self.random.random_range(0..self.record.sent.len());
        let Sent { request, fate: Fate::Acknowledged(tickets) } = self.record.sent[earlier].clone() else {
            return Ok(());
        };
        if !request.keyed {
            return Ok(());
        }
        self.record.repeated += 1;
        if let Some(Attempt::Acknowledged { tickets: again, .. }) = self.attempt(&request)?
            && again != tickets
        {
            let what = format!("record {} got the ticket {} and later {}", request.id(0), tickets.first, again.first);
            self.record.findings.push(Finding::new(Kind::OtherTicket, QUEUES[request.queue], what));
        }
        Ok(())
    }

    /// Sends a request once, over a connection that is open; `None` once the run is abandoned.
    fn attempt(&mut self, request: &Request) -> Result<Option<Attempt>, ClientError> {
        let Some(mut connection) = self.connection() else { return Ok(None) };
        let address = connection.address;
        let attempt = match connection.post(request) {
            Ok(answer) => {
                if !answer.closes {
                    self.connection = Some(connection);
                }
                read(request, &answer)?
            }
            Err(source) if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(ClientError::Silent { request: name_of(request), source });
            }
            // Killed in the middle, or stopped: whether it was stored, nobody can tell.
            Err(_) => Attempt::Unanswered,
        };
        match attempt {
            Attempt::Acknowledged { .. } => {}
            Attempt::Refused => self.record.refused += 1,
            Attempt::Unanswered => self.record.unanswered += 1,
        }
        if !matches!(attempt, Attempt::Acknowledged { .. }) {
            self.stage.pause_after(address, RETRY_PAUSE);
        }
        Ok(Some(attempt))
    }

    fn connection(&mut self) -> Option<Connection> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        loop {
            let address = self.stage.address()?;
            if let Ok(connection) = Connection::open(address) {
                return Some(connection);
            }
            self.stage.pause_after(address, RETRY_PAUSE);
        }
    }
}

fn name_of(request: &Request) -> String {
    format!("{}-{}", request.client, request.number)
}

fn read(request: &Request, answer: &Answer) -> Result<Attempt, ClientError> {
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let body = || String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status == 202 {
        let tickets = tickets(request, &json);
        let unreadable = || ClientError::Unreadable { request: name_of(request), body: body() };
        return Ok(Attempt::Acknowledged { tickets: tickets.ok_or_else(unreadable)?, replayed: answer.replayed });
    }
    if json["type"].as_str().is_some_and(|problem| PASSING.contains(&problem)) {
        return Ok(Attempt::Refused);
    }
    Err(ClientError::Refused { request: name_of(request), status: answer.status, body: body() })
}

fn tickets(request: &Request, json: &Value) -> Option<Tickets> {
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    if !request.batch {
        return text("ticket").map(|ticket| Tickets { first: ticket.clone(), last: ticket });
    }
    let whole = json["count"].as_u64() == Some(request.records.into());
    Some(Tickets { first: text("first_ticket")?, last: text("last_ticket")? }).filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(batch: bool) -> Request {
        Request { client: 1, number: 2, queue: 0, batch, records: 2, keyed: true, padding_bytes: 0 }
    }

    fn said(request: &Request, status: u16, body: &str) -> Result<Attempt, ClientError> {
        read(request, &Answer { status, replayed: false, closes: false, body: body.as_bytes().to_vec() })
    }

    #[test]
    fn an_acknowledgement_names_what_was_sent() {
        let one = said(&request(false), 202, r#"{"ticket":"orders-1-aa"}"#);
        assert!(matches!(one, Ok(Attempt::Acknowledged { tickets, .. }) if tickets.first == tickets.last));
        let body = r#"{"first_ticket":"orders-1-aa","last_ticket":"orders-2-bb","count":2}"#;
        assert!(matches!(said(&request(true), 202, body), Ok(Attempt::Acknowledged { .. })));
        for wrong in [body.replace(":2}", ":3}"), String::new(), "{}".to_owned()] {
            assert!(matches!(said(&request(true), 202, &wrong), Err(ClientError::Unreadable { .. })), "{wrong}");
        }
    }

    #[test]
    fn only_refusals_that_pass_are_borne() {
        for problem in PASSING {
            let refused = said(&request(false), 503, &format!("{{\"type\":\"{problem}\"}}"));
            assert!(matches!(refused, Ok(Attempt::Refused)));
        }
        for problem in ["urn:forebay:problem:journal-failed", "urn:forebay:problem:disk-full"] {
            let refused = said(&request(false), 503, &format!("{{\"type\":\"{problem}\"}}"));
            assert!(matches!(refused, Err(ClientError::Refused { status: 503, .. })));
        }
        assert!(said(&request(false), 400, "").is_err());
    }
}
