//! How a lane delivers what it is given: commits it, in stretches if need be, and sets aside what cannot be delivered.

use std::sync::Arc;

use futures_lite::future::yield_now;

use super::DrainError;
use super::dispatch::LaneEnd;
use super::lane::Lane;
use super::shared::Payment;
use crate::drain::breaker;
use crate::drain::dead_letters::DeadLetterError;
use crate::drain::feed::{FeedError, Taken};
use crate::drain::lot::Lot;
use crate::drain::retry;
use crate::drain::scheduler::Scheduler;
use crate::planted::{Bug, is_planted};
use crate::progress::Progress;
use crate::record::{Record, Sequence};
use crate::sink::encoded::{Ahead, Encoded};
use crate::sink::{Batch, Delivery, SinkError};

/// What the dead letter says of a record that stands for a lost one.
const LOST_REASON: &str = "lost: the disk had damaged the record's bytes, and `forebay repair` cut them out";

/// A lot on its way, without those of its records that are not to be sent.
struct Load<'a> {
    taken: &'a Taken,
    encoded: &'a Encoded,
    deliveries: Vec<Delivery<'a>>,
    /// Where in the lot each delivery stands, from 0.
    places: Vec<usize>,
}

/// A stretch of a lot that is committed in one transaction.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Index of its first delivery and behind its last.
    from: usize,
    to: usize,
    /// Place in the lot of its first record and behind its last, those included that are not sent.
    first: usize,
    end: usize,
}

/// Whether its client has said that nobody wants it any more by now.
fn is_unwanted(delivery: &Delivery<'_>, now_us: u64) -> bool {
    delivery.record.attributes.expires_at_us().is_some_and(|expires_at_us| expires_at_us <= now_us)
}

impl Load<'_> {
    /// Parts a span before a delivery, by its index.
    fn part(&self, span: Span, middle: usize) -> (Span, Span) {
        let border = self.places.get(middle).copied().unwrap_or(span.end);
        (Span { to: middle, end: border, ..span }, Span { from: middle, first: border, ..span })
    }

    /// Those of a span, with those that are not sent.
    fn sequences(&self, span: Span) -> impl Iterator<Item = Sequence> {
        self.taken.sequences().take(span.end).skip(span.first)
    }

    fn of(&self, span: Span) -> &[Delivery<'_>] {
        &self.deliveries[span.from..span.to]
    }

    /// What is encoded already of a span: of the first records that follow each other, with none between them that is not sent.
    fn encoded(&self, span: Span) -> Option<Ahead<'_>> {
        let places = &self.places[span.from..span.to];
        let first = *places.first()?;
        let from = if is_planted(Bug::SendFromStart) { 0 } else { first };
        let following = places.iter().zip(first..).take_while(|(place, next)| *place == next).count();
        self.encoded.part(from, following)
    }
}

/// What became of one attempt.
enum Attempt {
    Committed,
    Refused(String),
    /// It failed for this reason, and nothing of it was committed.
    Failed(String),
    /// The sink has asked for less.
    Throttled,
    Stopped,
}

impl<S: Scheduler> Lane<S> {
    /// Commits what it is given; `false` if a stop came first.
    pub(super) async fn deliver(
        &mut self,
        lot: &Lot,
        is_released: bool,
        end: &mut LaneEnd<S>,
    ) -> Result<bool, DrainError> {
        let Some(load) = self.load(lot).await? else { return Ok(false) };
        let mut paid_at = if is_released { self.take_released(load.deliveries.len() as u64) } else { None };
        let mut spans = vec![Span { from: 0, to: load.deliveries.len(), first: 0, end: load.taken.len() }];
        while let Some(span) = spans.pop() {
            if paid_at.is_none() {
                self.shared.follow();
            }
            let Some(span) = self.expire(&load, span, &mut spans).await else { return Ok(false) };
            // What was released at another pace is released anew: it may be too much for this one.
            if self.has_changed_since(paid_at) {
                paid_at = None;
                spans.push(span);
                continue;
            }
            let span = self.portion(&load, span, &mut spans);
            if paid_at.take().is_none() {
                match self.waiter.pay_for(span.to - span.from).await {
                    Payment::Made => {}
                    Payment::Void => {
                        spans.push(span);
                        continue;
                    }
                    Payment::Stopped => return Ok(false),
                }
            }
            let given_up = match self.commit(&load, span).await? {
                Attempt::Committed => continue,
                Attempt::Stopped => return Ok(false),
                Attempt::Refused(reason) => Some(reason),
                Attempt::Failed(error) => self.give_up(load.of(span), &error),
                // It is no fault of the record's.
                Attempt::Throttled => None,
            };
            match given_up {
                None => {
                    spans.push(span);
                    if !self.admit_waiting(end).await? {
                        return Ok(false);
                    }
                }
                Some(_) if span.to - span.from > 1 => {
                    let (first, second) = load.part(span, span.from + (span.to - span.from) / 2);
                    spans.extend([second, first]);
                }
                Some(reason) => {
                    if !self.set_aside(load.of(span), &reason).await {
                        return Ok(false);
                    }
                    // Without the record, the span still has to move the position.
                    spans.push(Span { from: span.to, ..span });
                }
            }
        }
        Ok(true)
    }

    /// Takes the departures of records that were released; at which of the course's changes, or `None` if another lane has
    /// taken them meanwhile, the drain was paused meanwhile, or the sink has asked to be left alone.
    fn take_released(&self, count: u64) -> Option<u64> {
        let now_ns = self.shared.platform.monotonic_ns();
        let mut state = self.shared.state();
        if state.course.told.is_paused || state.alone_until_ns > now_ns || state.course.pacer.due(now_ns) < count {
            return None;
        }
        state.course.pacer.take(count, now_ns);
        Some(state.course.changes)
    }

    /// Whether the drain is told something else, or goes at another pace than when records were paid for.
    fn has_changed_since(&self, paid_at: Option<u64>) -> bool {
        let course = &self.shared.state().course;
        course.is_told_otherwise() || paid_at.is_some_and(|changes| changes != course.changes)
    }

    /// What of a lot is to be sent; `None` if a stop came first.
    async fn load<'a>(&mut self, Lot { taken, tickets, encoded }: &'a Lot) -> Result<Option<Load<'a>>, DrainError> {
        let (mut deliveries, mut places) = (Vec::with_capacity(taken.len()), Vec::with_capacity(taken.len()));
        let (mut unwanted, now_us) = (Vec::new(), self.shared.platform.unix_us());
        let progress = self.shared.progress();
        for (place, ((sequence, record), ticket)) in taken.records().zip(tickets).enumerate() {
            let record = record.map_err(|error| FeedError::Record { sequence, error })?;
            if self.shared.outlet.dead_letters.contains(sequence) || progress.contains(sequence) {
                continue;
            }
            let delivery = Delivery { sequence, record, ticket };
            if is_unwanted(&delivery, now_us) {
                unwanted.push(sequence);
            } else if !record.is_lost() {
                deliveries.push(delivery);
                places.push(place);
            } else if !self.set_aside_lost(&delivery).await {
                return Ok(None);
            }
        }
        let is_dropped = self.drop_unwanted(&unwanted).await;
        Ok(is_dropped.then_some(Load { taken, encoded, deliveries, places }))
    }

    /// Drops records that nobody wants any more; `false` if a stop came before it was on disk.
    async fn drop_unwanted(&mut self, sequences: &[Sequence]) -> bool {
        if sequences.is_empty() {
            return true;
        }
        loop {
            let error = match self.shared.dead_letters.expire(sequences, self.shared.platform.unix_us()) {
                Ok(()) => break,
                Err(error @ (DeadLetterError::Full { .. } | DeadLetterError::Io { .. })) => error,
            };
            if !self.waiter.pause_after(&error).await {
                return false;
            }
        }
        tracing::info!(
            queue = self.shared.queue.name,
            records = sequences.len(),
            "records have expired and are dropped"
        );
        true
    }

    /// Ends the records with which a span begins and that are too old, or that nobody wants any more, and returns what is to be
    /// sent of the rest of it, which still moves the position past them; `None` if a stop came first.
    async fn expire(&mut self, load: &Load<'_>, span: Span, spans: &mut Vec<Span>) -> Option<Span> {
        let now_us = self.shared.platform.unix_us();
        let age_ms_max = self.shared.state().course.told.shaping.retry.age_ms_max;
        let is_old = |delivery: &Delivery<'_>| {
            age_ms_max.is_some_and(|max| retry::is_expired(max, delivery.record.received_at_us, now_us))
        };
        let is_over = |delivery: &Delivery<'_>| is_unwanted(delivery, now_us) || is_old(delivery);
        let over = load.of(span).iter().take_while(|delivery| is_over(delivery)).count();
        let (over, rest) = load.of(span).split_at(over);
        let (unwanted, old): (Vec<Delivery<'_>>, Vec<_>) =
            over.iter().copied().partition(|delivery| is_unwanted(delivery, now_us));
        let unwanted: Vec<_> = unwanted.iter().map(|delivery| delivery.sequence).collect();
        let reason = retry::expired_reason(age_ms_max.unwrap_or_default());
        if !self.drop_unwanted(&unwanted).await || !self.set_aside(&old, &reason).await {
            return None;
        }
        let span = Span { from: span.from + over.len(), ..span };
        // There may be more of them between others.
        let Some(next) = rest.iter().position(is_over) else { return Some(span) };
        let (first, second) = load.part(span, span.from + next);
        spans.push(second);
        Some(first)
    }

    /// Counts a failed attempt of a record by itself; why it is to be given up, if it is. What fails together with
    /// others is not counted, or one record would cost its neighbours their attempts.
    fn give_up(&mut self, sent: &[Delivery<'_>], error: &str) -> Option<String> {
        let [alone] = sent else { return None };
        self.attempts.fail(alone.sequence, &self.shared.state().course.told.shaping.retry, error)
    }

    /// As much of the span as may leave at once, or its first record alone if the sink has yet to show that it works; the rest
    /// waits its turn. A span that was formed at another rate can hold more.
    fn portion(&self, load: &Load<'_>, span: Span, spans: &mut Vec<Span>) -> Span {
        let records_max = match self.breaker.state() {
            breaker::State::Closed => usize::try_from(self.shared.state().course.pacer.at_once()).unwrap_or(usize::MAX),
            breaker::State::HalfOpen => 1,
        };
        if span.to - span.from <= records_max {
            return span;
        }
        let (first, second) = load.part(span, span.from + records_max);
        spans.push(second);
        first
    }

    /// Commits a span, once, and finds out what became of it.
    async fn commit(&mut self, load: &Load<'_>, span: Span) -> Result<Attempt, DrainError> {
        let known = self.shared.progress();
        let mut next = Progress::clone(&known);
        load.sequences(span).for_each(|sequence| next.mark(sequence));
        if next == *known {
            // The sink has all of it from a life in which the queue had another order.
            self.publish_bytes(load, span);
            return Ok(Attempt::Committed);
        }
        let mut beyond = Vec::new();
        next.encode_beyond(&mut beyond);
        let is_in_order = next.is_in_order() && self.said.is_in_order() && !self.always_says_beyond();
        let batch = Batch {
            after: self.said.through(),
            through: next.through(),
            beyond: (!is_in_order).then_some(&beyond),
            deliveries: load.of(span),
            witnesses: &self.witnesses(),
            ahead: load.encoded(span),
        };
        let began_ns = self.shared.platform.monotonic_ns();
        self.shared.note_in_flight(true);
        let committed = self.sink.commit(batch).await;
        self.shared.note_in_flight(false);
        let now_ns = self.shared.platform.monotonic_ns();
        let error = match committed {
            Ok(()) => {
                self.note_session();
                self.shared.state().course.adaptive.committed(now_ns - began_ns, now_ns);
                self.delivered(load, span, &known, next);
                return Ok(Attempt::Committed);
            }
            Err(SinkError::Permanent { message }) if span.to > span.from => return Ok(Attempt::Refused(message)),
            Err(fenced @ SinkError::Fenced(_)) if !is_planted(Bug::TakeBackWhenFenced) => {
                return Err(DrainError::Fenced(fenced));
            }
            Err(error) => error,
        };
        self.note_failure();
        self.shared.heed(&error);
        if !self.waiter.pause_after(&error).await {
            return Ok(Attempt::Stopped);
        }
        // Whether the commit went through is for the row of this lane to say.
        match self.take_over().await? {
            None => Ok(Attempt::Stopped),
            Some(found) if found == next && !is_planted(Bug::AssumeNotCommitted) => {
                self.delivered(load, span, &known, next);
                Ok(Attempt::Committed)
            }
            Some(found) if found == *self.said => Ok(match error {
                SinkError::Throttled { .. } => Attempt::Throttled,
                error => Attempt::Failed(error.to_string()),
            }),
            Some(found) => {
                let (after, through) = (self.said.through(), next.through());
                Err(DrainError::Moved { position: found.through(), after, through })
            }
        }
    }

    /// Publishes that a span is delivered, which its row says as `next` does. `known` is what was so before.
    fn delivered(&mut self, load: &Load<'_>, span: Span, known: &Arc<Progress>, next: Progress) {
        self.works_again();
        self.said = Arc::new(next);
        self.publish_bytes(load, span);
        {
            let mut state = self.shared.state();
            if Arc::ptr_eq(&state.progress, known) {
                state.progress = Arc::clone(&self.said);
            } else {
                // Other lanes have delivered something meanwhile.
                let progress = Arc::make_mut(&mut state.progress);
                load.sequences(span).for_each(|sequence| progress.mark(sequence));
            }
            let drain = &self.shared.outlet.drain;
            drain.batches.add(1);
            if drain.released.get() < state.progress.through() {
                drain.released.set(state.progress.through());
            }
            drain.publish(&state.progress);
            let records = (span.end - span.first) as u64;
            drain.rate_measured.set(state.meter.add(records, self.shared.platform.monotonic_ns()));
        }
    }

    /// Publishes up to which byte the queue is delivered; out of order, the window knows that.
    fn publish_bytes(&self, load: &Load<'_>, span: Span) {
        let outlet = &self.shared.outlet;
        if !outlet.config.ordering.is_reordering()
            && let Some(bytes) = load.taken.end_byte(span.end as u64)
        {
            outlet.drain.delivered_bytes.set(bytes);
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
            let (queue, ticket) = (&self.shared.queue.name, delivery.ticket);
            tracing::warn!(queue, ticket, reason, "this record cannot be delivered; it is set aside as a dead letter");
            // Each waits for the disk, and there are other queues on this thread.
            yield_now().await;
        }
        true
    }

    async fn append_dead_letter(&mut self, delivery: &Delivery<'_>, reason: &str) -> bool {
        loop {
            let error = match self.shared.dead_letters.append(delivery, reason) {
                Ok(()) => return true,
                Err(error @ (DeadLetterError::Full { .. } | DeadLetterError::Io { .. })) => error,
            };
            if !self.waiter.pause_after(&error).await {
                return false;
            }
        }
    }
}
