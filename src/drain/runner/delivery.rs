//! How a runner delivers what it has taken: commits it, in stretches if need be, and sets aside what cannot be delivered.

use futures_lite::future::{yield_now, zip};

use super::{DrainError, Payment, Runner};
use crate::drain::breaker;
use crate::drain::dead_letters::DeadLetterError;
use crate::drain::feed::{FeedError, Taken};
use crate::drain::lot::Lot;
use crate::drain::retry;
use crate::drain::scheduler::Scheduler;
use crate::planted::{Bug, is_planted};
use crate::queue::DrainState;
use crate::record::{Record, Sequence};
use crate::sink::{Batch, Delivery, SinkError};

/// What the dead letter says of a record that stands for a lost one.
const LOST_REASON: &str = "lost: the disk had damaged the record's bytes, and `forebay repair` cut them out";

/// A stretch of a batch that is committed in one transaction.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Index of its first delivery and behind its last.
    from: usize,
    to: usize,
    after: Sequence,
    through: Sequence,
}

/// What became of one attempt.
enum Attempt {
    Committed,
    Refused(String),
    /// It failed for this reason, and nothing of it was committed.
    Failed(String),
    Stopped,
}

impl<S: Scheduler> Runner<S> {
    /// Commits what was taken; `false` if a stop came first.
    pub(super) async fn deliver(
        &mut self,
        lot: &Lot,
        position: Sequence,
        is_released: bool,
    ) -> Result<bool, DrainError> {
        let Lot { taken, tickets } = lot;
        let mut deliveries = Vec::with_capacity(taken.len());
        for ((sequence, record), ticket) in taken.records().zip(tickets) {
            let record = record.map_err(|error| FeedError::Record { sequence, error })?;
            if self.queue.dead_letters.contains(sequence) {
                continue;
            }
            let delivery = Delivery { sequence, record, ticket };
            if !record.is_lost() {
                deliveries.push(delivery);
            } else if !self.set_aside_lost(&delivery).await {
                return Ok(false);
            }
        }
        let whole = Span { from: 0, to: deliveries.len(), after: position, through: position + taken.len() as u64 };
        let mut spans = vec![whole];
        let mut is_paid = is_released;
        while let Some(span) = spans.pop() {
            if !is_paid {
                self.follow();
            }
            let Some(span) = self.expire(span, &deliveries).await else { return Ok(false) };
            // What was released at another pace is released anew: it may be too much for this one.
            if self.course.is_told_otherwise() {
                is_paid = false;
                spans.push(span);
                continue;
            }
            let span = self.portion(span, &deliveries, &mut spans);
            if !std::mem::take(&mut is_paid) {
                match self.pay_for(span.to - span.from).await {
                    Payment::Made => {}
                    Payment::Void => {
                        spans.push(span);
                        continue;
                    }
                    Payment::Stopped => return Ok(false),
                }
            }
            let given_up = match self.commit(span, &deliveries).await? {
                Attempt::Committed => {
                    self.delivered(span, taken, position);
                    continue;
                }
                Attempt::Stopped => return Ok(false),
                Attempt::Refused(reason) => Some(reason),
                Attempt::Failed(error) => self.give_up(&deliveries[span.from..span.to], &error),
            };
            match given_up {
                None => spans.push(span),
                Some(_) if span.to - span.from > 1 => {
                    let middle = span.from + (span.to - span.from) / 2;
                    let border = deliveries[middle - 1].sequence;
                    spans.push(Span { from: middle, after: border, ..span });
                    spans.push(Span { to: middle, through: border, ..span });
                }
                Some(reason) => {
                    if !self.set_aside(&deliveries[span.from..span.to], &reason).await {
                        return Ok(false);
                    }
                    // Without the record, the span still has to move the position.
                    spans.push(Span { to: span.from, ..span });
                }
            }
        }
        Ok(true)
    }

    /// Sets the records aside with which a span begins and that are too old, and returns the rest of it, which still
    /// moves the position past them; `None` if a stop came first.
    async fn expire(&mut self, span: Span, deliveries: &[Delivery<'_>]) -> Option<Span> {
        let Some(age_ms_max) = self.course.told.shaping.retry.age_ms_max else { return Some(span) };
        let now_us = self.platform.unix_us();
        let ages = deliveries[span.from..span.to].iter().map(|delivery| delivery.record.received_at_us);
        let expired = ages.take_while(|received_at_us| retry::is_expired(age_ms_max, *received_at_us, now_us)).count();
        let rest = Span { from: span.from + expired, ..span };
        let reason = retry::expired_reason(age_ms_max);
        self.set_aside(&deliveries[span.from..rest.from], &reason).await.then_some(rest)
    }

    /// Counts a failed attempt of a record by itself; why it is to be given up, if it is. What fails together with
    /// others is not counted, or one record would cost its neighbours their attempts.
    fn give_up(&mut self, sent: &[Delivery<'_>], error: &str) -> Option<String> {
        let [alone] = sent else { return None };
        self.course.attempts.fail(alone.sequence, &self.course.told.shaping.retry, error)
    }

    /// As much of the span as may leave at once, or its first record alone if the sink has yet to show that it works; the rest
    /// waits its turn. A span that was formed at another rate can hold more.
    fn portion(&self, span: Span, deliveries: &[Delivery<'_>], spans: &mut Vec<Span>) -> Span {
        let records_max = match self.course.breaker.state() {
            breaker::State::Closed => usize::try_from(self.course.pacer.at_once()).unwrap_or(usize::MAX),
            breaker::State::HalfOpen => 1,
        };
        if span.to - span.from <= records_max {
            return span;
        }
        let middle = span.from + records_max;
        let border = deliveries[middle - 1].sequence;
        spans.push(Span { from: middle, after: border, ..span });
        Span { to: middle, through: border, ..span }
    }

    /// Publishes that a span is delivered.
    fn delivered(&mut self, span: Span, taken: &Taken, position: Sequence) {
        let drain = &self.queue.drain;
        drain.batches.add(1);
        if let Some(bytes) = taken.end_byte(span.through - position) {
            drain.delivered_bytes.set(bytes);
        }
        drain.delivered.set(span.through);
        drain.rate_measured.set(self.meter.add(span.through - span.after, self.platform.monotonic_ns()));
    }

    /// Commits a span, once, and finds out what became of it.
    async fn commit(&mut self, span: Span, deliveries: &[Delivery<'_>]) -> Result<Attempt, DrainError> {
        let batch = Batch { after: span.after, through: span.through, deliveries: &deliveries[span.from..span.to] };
        let began_ns = self.platform.monotonic_ns();
        let sizes = &self.course.told.shaping.batch;
        let look = self.ahead.look(&mut self.feed, &self.queue, self.course.pace, sizes, batch.through);
        let committed = zip(self.sink.commit(batch), look).await.0;
        let now_ns = self.platform.monotonic_ns();
        let error = match committed {
            Ok(()) => {
                self.course.adaptive.committed(now_ns - began_ns, now_ns);
                self.works_again();
                return Ok(Attempt::Committed);
            }
            Err(SinkError::Permanent { message }) if span.to > span.from => return Ok(Attempt::Refused(message)),
            Err(fenced @ SinkError::Fenced(_)) if !is_planted(Bug::TakeBackWhenFenced) => {
                return Err(DrainError::Fenced(fenced));
            }
            Err(error) => error,
        };
        self.note_failure();
        if !self.pause_after(&error).await {
            return Ok(Attempt::Stopped);
        }
        // Whether the commit went through is for the sink's position to say.
        match self.take_over().await {
            None => Ok(Attempt::Stopped),
            Some(position) if position == span.through && !is_planted(Bug::AssumeNotCommitted) => {
                self.works_again();
                Ok(Attempt::Committed)
            }
            Some(position) if position == span.after => Ok(Attempt::Failed(error.to_string())),
            Some(position) => Err(DrainError::Moved { position, after: span.after, through: span.through }),
        }
    }

    /// The sink has failed, in a way that may pass.
    pub(super) fn note_failure(&mut self) {
        self.course.adaptive.failed(self.platform.monotonic_ns());
        if self.course.breaker.fail() {
            let queue = &self.queue.name;
            tracing::warn!(queue, "many failures in a row: single records will be tried until one goes through");
        }
    }

    fn works_again(&mut self) {
        self.course.backoff.reset();
        self.course.breaker.close();
        if self.queue.drain.state() == DrainState::Retrying {
            tracing::info!(queue = self.queue.name, "the sink takes records again");
            self.queue.drain.set_state(DrainState::Running);
        }
    }

    /// Notes that a record is lost, so that its ticket says so; `false` if a stop came before it could be.
    async fn set_aside_lost(&mut self, delivery: &Delivery<'_>) -> bool {
        // Its body is filling.
        let record = Record { body: b"", ..delivery.record };
        self.append_dead_letter(&Delivery { record, ..*delivery }, LOST_REASON).await
    }

    /// Sets records aside, one after the other; `false` if a stop came before the last one was.
    async fn set_aside(&mut self, deliveries: &[Delivery<'_>], reason: &str) -> bool {
        for delivery in deliveries {
            if !self.append_dead_letter(delivery, reason).await {
                return false;
            }
            let (queue, ticket) = (&self.queue.name, delivery.ticket);
            tracing::warn!(queue, ticket, reason, "this record cannot be delivered; it is set aside as a dead letter");
            // Each waits for the disk, and there are other queues on this thread.
            yield_now().await;
        }
        true
    }

    async fn append_dead_letter(&mut self, delivery: &Delivery<'_>, reason: &str) -> bool {
        loop {
            let error = match self.dead_letters.append(delivery, reason) {
                Ok(()) => return true,
                Err(error @ (DeadLetterError::Full { .. } | DeadLetterError::Io { .. })) => error,
            };
            if !self.pause_after(&error).await {
                return false;
            }
        }
    }
}
