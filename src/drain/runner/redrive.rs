//! How a runner delivers dead letters once more.
//!
//! A redrive is a delivery beside the queue's own: each letter is one transaction that moves a position of its own, from
//! number to number, with the same fence. So it is delivered once whatever is killed when, and never passes the journal,
//! where its idempotency key is known. It keeps its sequence and its ticket. It has a rate of its own and is paid for
//! out of the queue's, so that the sink never sees more than the queue's ceiling.

use std::future::pending;
use std::time::Duration;

use super::Runner;
use super::shared::Payment;
use crate::config;
use crate::drain::dead_letters::{DeadLetterError, Redelivery};
use crate::drain::pacer::{Pace, Pacer, Tolerance};
use crate::drain::retry::{Attempts, Backoff};
use crate::drain::scheduler::Scheduler;
use crate::queue::Outlet;
use crate::rate::Rate;
use crate::sink::{Batch, Sink, SinkError, Subpart};

/// What is kept between two letters.
pub(super) struct Redrive {
    /// The sink and the position there, while letters wait.
    sink: Option<(Box<dyn Sink>, u64)>,
    rate: Rate,
    pacer: Pacer,
    backoff: Backoff,
    attempts: Attempts,
    not_before_ns: u64,
    /// Whether the sink has said since the start what it has of what the file calls delivered.
    is_compared: bool,
    is_halted: bool,
}

/// What became of a letter that was sent.
enum Sent {
    Delivered,
    Refused(String),
    /// Not committed, or nobody can tell yet.
    Undecided,
}

/// Why redriving ends until somebody has looked.
#[derive(Debug, thiserror::Error)]
enum RedriveError {
    #[error(transparent)]
    Fenced(SinkError),
    #[error(
        "the sink says that redrive {position} was delivered, but the dead-letter file knows of {last} only: the file was \
         set back to an earlier state"
    )]
    SinkAhead { position: u64, last: u64 },
}

impl Redrive {
    /// `is_compared` if there has never been a redrive.
    pub(super) fn new(retry: &config::Retry, is_compared: bool, now_ns: u64) -> Self {
        let rate = Rate::Unlimited;
        Self {
            sink: None,
            rate,
            pacer: Pacer::new(pace(rate), now_ns),
            backoff: Backoff::new(retry),
            attempts: Attempts::default(),
            not_before_ns: 0,
            is_compared,
            is_halted: false,
        }
    }

    /// When there is something to do; `None` for nothing.
    fn due_ns(&mut self, outlet: &Outlet, now_ns: u64) -> Option<u64> {
        let letters = &outlet.dead_letters;
        if self.is_halted {
            return None;
        }
        // What was under way when the last process ended is found out at once, whatever the rate.
        if !self.is_compared {
            return Some(self.not_before_ns);
        }
        if letters.redriving() == 0 {
            return None;
        }
        let rate = letters.redrive_rate().unwrap_or(self.rate);
        if rate != self.rate {
            self.rate = rate;
            self.pacer.change(pace(rate), now_ns);
        }
        Some(self.pacer.when_due_ns(1, now_ns).max(self.not_before_ns))
    }
}

/// One letter is one transaction, so nothing is gathered.
fn pace(rate: Rate) -> Pace {
    Pace { rate, tolerance: Tolerance::Records(1) }
}

impl<S: Scheduler> Runner<S> {
    /// How long there is nothing to do for redrives; `None` for until somebody asks for one.
    pub(super) fn redrive_wait(&mut self) -> Option<Duration> {
        let now_ns = self.platform.monotonic_ns();
        let due_ns = self.redrive.due_ns(&self.outlet, now_ns)?;
        Some(Duration::from_nanos(due_ns.saturating_sub(now_ns)))
    }

    /// Returns after so long, if ever.
    pub(super) async fn sleep_at_most(platform: &S, wait: Option<Duration>) {
        match wait {
            Some(wait) => platform.sleep(wait).await,
            None => pending().await,
        }
    }

    /// Delivers one dead letter once more, if one is due.
    pub(super) async fn redrive(&mut self) {
        match self.redrive_wait() {
            None => self.redrive.sink = None,
            Some(Duration::ZERO) => {
                if let Err(error) = self.redrive_one().await {
                    self.redrive.is_halted = true;
                    self.redrive.sink = None;
                    tracing::error!(
                        queue = self.queue.name,
                        %error,
                        "dead letters are no longer redriven until a restart; those that wait stay dead letters"
                    );
                }
            }
            Some(_) => {}
        }
    }

    async fn redrive_one(&mut self) -> Result<(), RedriveError> {
        let Some(position) = self.redrive_position().await? else { return Ok(()) };
        let now_us = self.platform.unix_us();
        // What was committed when nobody was left to note it.
        while let Some((number, sequence)) = self.outlet.dead_letters.next_redrive().filter(|next| next.0 <= position) {
            if let Err(error) = self.dead_letters.redriven(number, sequence, now_us) {
                self.redrive_later(&error);
                return Ok(());
            }
        }
        let Some((number, sequence)) = self.outlet.dead_letters.next_redrive() else { return Ok(()) };
        // Whoever was told something else meanwhile looks again.
        if self.redrive_wait() != Some(Duration::ZERO) || !matches!(self.waiter.pay_for(1).await, Payment::Made) {
            return Ok(());
        }
        let letter = match self.dead_letters.send(number, sequence) {
            Ok(Some(letter)) => letter,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.redrive_later(&error);
                return Ok(());
            }
        };
        self.redrive.pacer.take(1, self.platform.monotonic_ns());
        match self.send(&letter, position, number).await? {
            Sent::Delivered => {
                let noted = self.dead_letters.redriven(number, sequence, self.platform.unix_us());
                tracing::info!(queue = self.queue.name, sequence, "a dead letter was redriven: it is delivered");
                self.noted(noted);
            }
            Sent::Refused(reason) => {
                let noted = self.dead_letters.refused(number, sequence, &reason, self.platform.unix_us());
                let queue = &self.queue.name;
                tracing::warn!(queue, sequence, reason, "a dead letter was redriven and is refused again; it stays");
                self.noted(noted);
            }
            Sent::Undecided => {}
        }
        Ok(())
    }

    /// Commits a letter, once, and finds out what became of it as far as that can be told.
    async fn send(&mut self, letter: &Redelivery, position: u64, number: u64) -> Result<Sent, RedriveError> {
        let Some((sink, at)) = &mut self.redrive.sink else { return Ok(Sent::Undecided) };
        let delivery = letter.delivery();
        let batch = Batch {
            after: position,
            through: number,
            beyond: None,
            deliveries: &[delivery],
            witnesses: &[],
            ahead: None,
        };
        let error = match sink.commit(batch).await {
            Ok(()) => {
                *at = number;
                return Ok(Sent::Delivered);
            }
            Err(SinkError::Permanent { message }) => return Ok(Sent::Refused(message)),
            Err(fenced @ SinkError::Fenced(_)) => return Err(RedriveError::Fenced(fenced)),
            Err(error) => error,
        };
        self.redrive.sink = None;
        self.redrive_later(&error);
        self.shared.heed(&error);
        // At once, so that what was not committed can be cancelled while it waits for its next attempt.
        if self.redrive_position().await? != Some(position) {
            return Ok(Sent::Undecided);
        }
        // A sink that asks for less has nothing against the letter.
        if matches!(error, SinkError::Throttled { .. }) {
            return Ok(Sent::Undecided);
        }
        let retry = &self.shared.state().course.told.shaping.retry;
        let given_up = self.redrive.attempts.fail(delivery.sequence, retry, &error.to_string());
        Ok(given_up.map_or(Sent::Undecided, Sent::Refused))
    }

    fn noted(&mut self, noted: Result<(), DeadLetterError>) {
        match noted {
            Ok(()) => self.redrive.backoff.reset(),
            Err(error) => self.redrive_later(&error),
        }
    }

    /// The position of the redrives in the sink, which is opened if it is not; `None` if it cannot be told now.
    async fn redrive_position(&mut self) -> Result<Option<u64>, RedriveError> {
        if let Some((_, position)) = &self.redrive.sink {
            return Ok(Some(*position));
        }
        let Some(id) = self.dead_letters.redrive_id() else { return Ok(None) };
        let mut sink = (self.open)(Subpart::Redrive(&id));
        let position = match sink.take_over().await {
            Ok(progress) => progress.through(),
            Err(fenced @ SinkError::Fenced(_)) => return Err(RedriveError::Fenced(fenced)),
            Err(error) => {
                self.redrive_later(&error);
                return Ok(None);
            }
        };
        let last = self.outlet.dead_letters.last_number();
        if position > last {
            return Err(RedriveError::SinkAhead { position, last });
        }
        match self.dead_letters.revive(position, self.platform.unix_us()) {
            Ok(0) => {}
            Ok(gone) => tracing::error!(
                queue = self.queue.name,
                gone,
                "the database was set back: letters that had been redriven are no longer there, and their bodies have left the file"
            ),
            Err(error) => {
                self.redrive_later(&error);
                return Ok(None);
            }
        }
        self.dead_letters.decided(position);
        self.redrive.is_compared = true;
        self.redrive.sink = Some((sink, position));
        Ok(Some(position))
    }

    /// Something failed in a way that may pass: nothing is redriven for a while, and the queue's own records go on.
    fn redrive_later(&mut self, error: &(dyn std::error::Error + Sync)) {
        self.redrive.backoff.change(&self.shared.state().course.told.shaping.retry);
        let pause_ms = self.redrive.backoff.next_ms(self.platform.random().unwrap_or(u64::MAX / 2));
        self.redrive.not_before_ns = self.platform.monotonic_ns() + pause_ms * 1_000_000;
        self.outlet.drain.retries.add(1);
        tracing::warn!(queue = self.queue.name, %error, pause_ms, "a dead letter could not be redriven; trying again");
    }
}
