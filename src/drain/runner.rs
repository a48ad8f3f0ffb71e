//! The runner of one queue's drain: takes what the pacer releases, commits it into the
//! sink, and sets aside what the sink refuses for good.
//!
//! Invariants: the position only moves from where the sink has it; nothing is sent again
//! before the fate of what was sent is known; every row that is sent to the sink, again or for the
//! first time, has been released by the pacer; a dead letter is on disk before the position
//! passes it.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::zip;
use tokio::sync::watch;

use super::breaker;
use super::course::Course;
use super::dead_letters::{DeadLetterError, DeadLetterFile};
use super::feed::{Feed, FeedError, Taken};
use super::lot::Lot;
use super::meter::Meter;
use super::scheduler::Scheduler;
use crate::journal::platform::System;
use crate::limits::SCHEDULE_LOOK_MS;
use crate::planted::{Bug, is_planted};
use crate::queue::{DrainState, Queue};
use crate::rate::Rate;
use crate::record::{Record, Sequence};
use crate::sink::{Batch, Delivery, Sink, SinkError};

/// What the dead letter says of a record that stands for a lost one.
const LOST_REASON: &str = "lost: the disk had damaged the record's bytes, and `forebay repair` cut them out";

/// Drains one queue.
pub struct Runner<S: Scheduler = System> {
    platform: S,
    queue: Arc<Queue>,
    feed: Feed<S>,
    sink: Box<dyn Sink>,
    dead_letters: DeadLetterFile<S>,
    course: Course,
    meter: Meter,
    stop: watch::Receiver<bool>,
    /// What comes after the batch that is being delivered, read while the sink works on that one.
    ahead: Lot,
}

/// Why a drain ended.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Another process delivers this queue now.
    #[error(transparent)]
    Fenced(SinkError),
    /// The sink's position is before what the journal still has.
    #[error(
        "the sink says that sequence {position} was the last one delivered, but the journal begins with {first}: the \
         database was set back to an earlier state. If the records in between are not wanted any more, set \
         forebay_position.position of this part to {} and restart", first - 1
    )]
    SinkBehind {
        /// The sink's position.
        position: Sequence,
        /// The first sequence that the journal has.
        first: Sequence,
    },
    /// The sink's position is beyond what the journal has.
    #[error(
        "the sink says that sequence {position} was delivered, but the journal ends with {durable}: the data directory \
         was set back to an earlier state. Restore the newer one, or move this one away to start empty"
    )]
    SinkAhead {
        /// The sink's position.
        position: Sequence,
        /// The last sequence that the journal has.
        durable: Sequence,
    },
    /// The sink's position is neither before nor behind the batch that we sent.
    #[error("the sink's position is {position}, where {after} or {through} was expected: somebody else has moved it")]
    Moved {
        /// The sink's position.
        position: Sequence,
        /// The position before our batch.
        after: Sequence,
        /// The position behind it.
        through: Sequence,
    },
    /// Records beyond the sink's position are delivered too.
    #[error(
        "the sink says that, beyond sequence {position}, {count} records were delivered out of order, which this version \
         cannot go on from"
    )]
    OutOfOrder {
        /// The sink's position.
        position: Sequence,
        /// How many are delivered beyond it.
        count: u64,
    },
    /// Durable records could not be read back.
    #[error(transparent)]
    Feed(#[from] FeedError),
}

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
    /// It failed, and nothing of it was committed.
    Failed,
    Stopped,
}

/// Whether records may be sent again.
enum Payment {
    /// They may.
    Made,
    /// The drain was told something else meanwhile: what may leave at once is to be asked again.
    Void,
    /// A stop came first.
    Stopped,
}

impl<S: Scheduler> Runner<S> {
    /// A runner that has not started.
    #[must_use]
    pub fn new(
        platform: S,
        queue: Arc<Queue>,
        feed: Feed<S>,
        sink: Box<dyn Sink>,
        dead_letters: DeadLetterFile<S>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let course = Course::new(&queue, platform.monotonic_ns(), platform.unix_us());
        let (meter, ahead) = (Meter::default(), Lot::default());
        Self { platform, queue, feed, sink, dead_letters, course, meter, stop, ahead }
    }

    /// Runs until a stop is asked for, or until it cannot go on without a person.
    pub async fn run(mut self) {
        if let Err(error) = self.drain().await {
            self.queue.drain.set_state(DrainState::Halted);
            tracing::error!(queue = self.queue.name, %error, "this queue is no longer delivered; records are still accepted");
        }
    }

    async fn drain(&mut self) -> Result<(), DrainError> {
        let Some(mut position) = self.take_over().await? else { return Ok(()) };
        self.begin_at(position).await?;
        let mut lot = Lot::default();
        while !self.is_stopping() {
            self.follow();
            if self.course.told.is_paused {
                self.wait_while_paused().await;
                continue;
            }
            std::mem::swap(&mut lot, &mut self.ahead);
            self.ahead.clear();
            // What was read ahead has waited for no departure. It needs none, unless a limit has come since.
            let mut is_released = self.course.pace.rate == Rate::Unlimited;
            if lot.taken.is_empty() {
                if !self.take(position, &mut lot).await? {
                    continue;
                }
                is_released = true;
            }
            if self.queue.drain.state() == DrainState::Retrying {
                self.queue.drain.set_state(DrainState::Running);
            }
            if is_released {
                self.course.pacer.take(lot.taken.len() as u64, self.platform.monotonic_ns());
            }
            let through = position + lot.taken.len() as u64;
            self.queue.drain.released.set(through);
            if !self.deliver(&lot, position, is_released).await? {
                return Ok(());
            }
            position = through;
        }
        Ok(())
    }

    /// Takes what is due behind `position`; `false` if nothing was, and the caller should look again.
    async fn take(&mut self, position: Sequence, lot: &mut Lot) -> Result<bool, DrainError> {
        let available = self.queue.journal.durable.get() - position;
        if available == 0 {
            self.wait_for_records().await;
            return Ok(false);
        }
        let count = self.wait_until_due(available).await;
        if count == 0 {
            return Ok(false);
        }
        let bytes_max = self.course.told.shaping.batch.bytes_max;
        match lot.take(&mut self.feed, &self.queue, count, bytes_max, position + available).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_transient() => {
                self.pause_after(&error).await;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Connects and learns where to go on; `None` if a stop came first.
    async fn take_over(&mut self) -> Result<Option<Sequence>, DrainError> {
        loop {
            let error = match self.sink.take_over().await {
                Ok(progress) if progress.is_in_order() => return Ok(Some(progress.through())),
                Ok(progress) => {
                    let (position, count) = (progress.through(), progress.count_beyond_below(Sequence::MAX));
                    return Err(DrainError::OutOfOrder { position, count });
                }
                Err(error) => error,
            };
            self.note_failure();
            if !self.pause_after(&error).await {
                return Ok(None);
            }
        }
    }

    /// Checks the sink's position against the journal and moves there.
    async fn begin_at(&mut self, position: Sequence) -> Result<(), DrainError> {
        while is_planted(Bug::WaitForJournal) && position > self.queue.journal.durable.get() && !self.is_stopping() {
            self.follow();
            self.wait_for_records().await;
        }
        let (durable, trimmed) = (self.queue.journal.durable.get(), self.queue.journal.trimmed.get());
        if position > durable {
            return Err(DrainError::SinkAhead { position, durable });
        }
        if position < trimmed {
            return Err(DrainError::SinkBehind { position, first: trimmed + 1 });
        }
        let bytes = if position == durable {
            self.feed.skip_to(durable + 1);
            self.queue.journal.durable_bytes.get()
        } else {
            loop {
                match self.feed.seek(position + 1).await {
                    Ok(bytes) => break bytes,
                    Err(error) if error.is_transient() && self.pause_after(&error).await => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let drain = &self.queue.drain;
        drain.released.set(position);
        drain.delivered_bytes.set(bytes);
        drain.delivered.set(position);
        drain.set_state(DrainState::Running);
        tracing::info!(
            queue = self.queue.name,
            position,
            backlog = durable - position,
            "delivering to the sink from here on"
        );
        Ok(())
    }

    fn follow(&mut self) {
        self.course.follow(&self.queue, self.platform.monotonic_ns(), self.platform.unix_us());
    }

    async fn wait_while_paused(&mut self) {
        self.queue.drain.set_state(DrainState::Paused);
        tokio::select! {
            biased;
            _ = self.course.instructions.changed() => self.course.instructions.mark_changed(),
            _ = self.stop.changed() => {}
        }
    }

    async fn wait_for_records(&mut self) {
        // In a fixed order, so that nothing is left to chance that a simulation could not repeat.
        tokio::select! {
            biased;
            () = self.queue.durable_moved.notified() => {}
            _ = self.course.instructions.changed() => self.course.instructions.mark_changed(),
            _ = self.stop.changed() => {}
        }
    }

    /// Sleeps until so much time has passed, or there is something else to follow, or a stop.
    async fn sleep_unless_told(&mut self, time: Duration) {
        let look = Duration::from_millis(SCHEDULE_LOOK_MS);
        let time = if self.course.told.shaping.schedule.entries.is_empty() { time } else { time.min(look) };
        tokio::select! {
            biased;
            () = self.platform.sleep(time) => {}
            _ = self.course.instructions.changed() => self.course.instructions.mark_changed(),
            _ = self.stop.changed() => {}
        }
    }

    /// Waits until a batch is due and returns how many records may leave; 0 if the caller should look again.
    async fn wait_until_due(&mut self, available: u64) -> u64 {
        let batch = &self.course.told.shaping.batch;
        let records_max = batch.records_max as u64;
        let lingered = self.course.pacer.records_in(batch.linger_ms_max.saturating_mul(1_000_000));
        let wanted = lingered.min(records_max).min(available).max(1);
        let now_ns = self.platform.monotonic_ns();
        let due_ns = self.course.pacer.when_due_ns(wanted, now_ns);
        if due_ns > now_ns {
            self.sleep_unless_told(Duration::from_nanos(due_ns - now_ns)).await;
            // Whoever was told something else meanwhile, or was waked early, looks again.
            if self.is_stopping() || self.course.is_told_otherwise() || self.platform.monotonic_ns() < due_ns {
                return 0;
            }
        }
        self.course.pacer.due(self.platform.monotonic_ns()).min(records_max)
    }

    /// Commits what was taken; `false` if a stop came first.
    async fn deliver(&mut self, lot: &Lot, position: Sequence, is_released: bool) -> Result<bool, DrainError> {
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
            // What was released at another pace is released anew: it may be too much for this one.
            if self.course.is_told_otherwise() {
                is_paid = false;
            }
            if !is_paid {
                self.follow();
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
            match self.commit(span, &deliveries).await? {
                Attempt::Committed => self.delivered(span, taken, position),
                Attempt::Stopped => return Ok(false),
                Attempt::Failed => spans.push(span),
                Attempt::Refused(_) if span.to - span.from > 1 => {
                    let middle = span.from + (span.to - span.from) / 2;
                    let border = deliveries[middle - 1].sequence;
                    spans.push(Span { from: middle, after: border, ..span });
                    spans.push(Span { to: middle, through: border, ..span });
                }
                Attempt::Refused(reason) => {
                    if !self.set_aside(deliveries.get(span.from), &reason).await {
                        return Ok(false);
                    }
                    // Without the record, the span still has to move the position.
                    spans.push(Span { to: span.from, ..span });
                }
            }
        }
        Ok(true)
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
        let Span { after, through, .. } = span;
        let batch = Batch { after, through, beyond: None, deliveries: &deliveries[span.from..span.to] };
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
        match self.take_over().await? {
            None => Ok(Attempt::Stopped),
            Some(position) if position == span.through && !is_planted(Bug::AssumeNotCommitted) => {
                self.works_again();
                Ok(Attempt::Committed)
            }
            Some(position) if position == span.after => Ok(Attempt::Failed),
            Some(position) => Err(DrainError::Moved { position, after: span.after, through: span.through }),
        }
    }

    /// The sink has failed, in a way that may pass.
    fn note_failure(&mut self) {
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

    /// Sets a record aside; `false` if a stop came before it could be.
    async fn set_aside(&mut self, delivery: Option<&Delivery<'_>>, reason: &str) -> bool {
        let Some(delivery) = delivery else { return true };
        let appended = self.append_dead_letter(delivery, reason).await;
        if appended {
            tracing::warn!(
                queue = self.queue.name,
                ticket = delivery.ticket,
                reason,
                "the sink refuses this record for good; it is set aside as a dead letter"
            );
        }
        appended
    }

    async fn append_dead_letter(&mut self, delivery: &Delivery<'_>, reason: &str) -> bool {
        loop {
            let error = match self.dead_letters.append(delivery, reason, &self.queue.dead_letters) {
                Ok(()) => return true,
                Err(error @ (DeadLetterError::Full { .. } | DeadLetterError::Io { .. })) => error,
            };
            if !self.pause_after(&error).await {
                return false;
            }
        }
    }

    /// Waits until `count` more records may be sent, at most as many as may leave at once.
    async fn pay_for(&mut self, count: usize) -> Payment {
        if count == 0 {
            return Payment::Made;
        }
        if self.course.told.is_paused {
            self.wait_while_paused().await;
            return if self.is_stopping() { Payment::Stopped } else { Payment::Void };
        }
        let due_ns = self.course.pacer.when_due_ns(count as u64, self.platform.monotonic_ns());
        loop {
            if self.is_stopping() {
                return Payment::Stopped;
            }
            if self.course.is_told_otherwise() {
                return Payment::Void;
            }
            let now_ns = self.platform.monotonic_ns();
            if due_ns <= now_ns {
                // Only now: a sleep that lasts too long must not be made good twice, by these records and by the next.
                self.course.pacer.take(count as u64, now_ns);
                return Payment::Made;
            }
            self.sleep_unless_told(Duration::from_nanos(due_ns - now_ns)).await;
        }
    }

    /// Logs a failure and waits before the next attempt; `false` if a stop came first.
    async fn pause_after(&mut self, error: &(dyn std::error::Error + Sync)) -> bool {
        let pause_ms = self.course.backoff.next_ms(self.platform.random().unwrap_or(u64::MAX / 2));
        self.queue.drain.retries.add(1);
        if self.queue.drain.state() == DrainState::Running {
            self.queue.drain.set_state(DrainState::Retrying);
        }
        tracing::warn!(queue = self.queue.name, %error, pause_ms, "the sink did not take records; trying again");
        self.sleep(Duration::from_millis(pause_ms)).await
    }

    /// Sleeps; `false` if a stop came first.
    async fn sleep(&mut self, time: Duration) -> bool {
        if self.is_stopping() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.platform.sleep(time) => true,
            _ = self.stop.changed() => false,
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}
