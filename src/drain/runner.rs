//! The runner of one queue's drain: takes what the pacer releases, commits it into the
//! sink, and sets aside what the sink refuses for good.
//!
//! Invariants: the position only moves from where the sink has it; nothing is sent again
//! before the fate of what was sent is known; every row that is sent to the sink, again or for the
//! first time, has been released by the pacer; a dead letter is on disk before the position
//! passes it.

mod delivery;
mod redrive;
mod reordering;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::redrive::Redrive;
use self::reordering::Reordering;
use super::course::Course;
use super::dead_letters::DeadLetterFile;
use super::feed::{Feed, FeedError};
use super::lot::Lot;
use super::meter::Meter;
use super::scheduler::Scheduler;
use crate::journal::platform::System;
use crate::limits::WALL_CLOCK_LOOK_MS;
use crate::planted::{Bug, is_planted};
use crate::progress::Progress;
use crate::queue::{DrainState, Queue};
use crate::rate::Rate;
use crate::record::Sequence;
use crate::sink::{Sink, SinkError};

pub use self::redrive::SinkOpener;

/// Drains one queue.
pub struct Runner<S: Scheduler = System> {
    platform: S,
    queue: Arc<Queue>,
    feed: Feed<S>,
    sink: Box<dyn Sink>,
    dead_letters: Arc<DeadLetterFile<S>>,
    redrive: Redrive,
    course: Course,
    meter: Meter,
    stop: watch::Receiver<bool>,
    /// What comes after the batch that is being delivered, read while the sink works on that one.
    ahead: Lot,
    /// What of the queue the sink has, as of the last transaction whose fate is known.
    progress: Arc<Progress>,
    /// Which record goes next, if that is not always the oldest.
    reordering: Option<Reordering>,
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
         forebay_position.position of this part to {}{} and restart", first - 1,
        if *has_beyond { " and its beyond to NULL, which means nothing with another position," } else { "" }
    )]
    SinkBehind {
        /// The sink's position.
        position: Sequence,
        /// Whether the sink also has something beyond it.
        has_beyond: bool,
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
    /// Durable records could not be read back.
    #[error(transparent)]
    Feed(#[from] FeedError),
}

/// Whether records may be sent.
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
        dead_letters: Arc<DeadLetterFile<S>>,
        redrives: SinkOpener,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let course = Course::new(&queue, platform.monotonic_ns(), platform.unix_us());
        let is_compared = dead_letters.redrive_id().is_none();
        let redrive = Redrive::new(redrives, &course.told.shaping.retry, is_compared, platform.monotonic_ns());
        let (meter, ahead, progress) = (Meter::default(), Lot::default(), Arc::new(Progress::up_to(0)));
        let reordering = Reordering::new(&platform, &queue.config.ordering);
        Self { platform, queue, feed, sink, dead_letters, redrive, course, meter, stop, ahead, progress, reordering }
    }

    /// Runs until a stop is asked for, or until it cannot go on without a person.
    pub async fn run(mut self) {
        if let Err(error) = self.drain().await {
            self.queue.drain.set_state(DrainState::Halted);
            tracing::error!(queue = self.queue.name, %error, "this queue is no longer delivered; records are still accepted");
        }
    }

    async fn drain(&mut self) -> Result<(), DrainError> {
        let Some(progress) = self.take_over().await else { return Ok(()) };
        self.begin_at(progress).await?;
        let mut lot = Lot::default();
        while !self.is_stopping() {
            self.follow();
            if self.course.told.is_paused {
                self.wait_while_paused().await;
                continue;
            }
            self.redrive().await;
            std::mem::swap(&mut lot, &mut self.ahead);
            self.ahead.clear();
            // What was read ahead has waited for no departure. It needs none, unless a limit has come since.
            let mut is_released = self.course.pace.rate == Rate::Unlimited;
            if lot.taken.is_empty() {
                if !self.take(&mut lot).await? {
                    continue;
                }
                is_released = true;
            }
            if self.queue.drain.state() == DrainState::Retrying {
                self.queue.drain.set_state(DrainState::Running);
            }
            let last = lot.taken.sequences().max().unwrap_or(0);
            self.queue.drain.released.set(self.queue.drain.released.get().max(last));
            if !self.deliver(&lot, is_released).await? {
                return Ok(());
            }
            self.publish_window();
        }
        Ok(())
    }

    /// Takes what is due; `false` if nothing was, and the caller should look again.
    async fn take(&mut self, lot: &mut Lot) -> Result<bool, DrainError> {
        let passed = self.pass_delivered().await;
        if !self.is_read(passed).await? {
            return Ok(false);
        }
        if self.reordering.is_some() {
            return self.take_from_window(lot).await;
        }
        let durable = self.queue.journal.durable.get();
        let available = durable - self.feed.position();
        if available == 0 {
            self.wait_for_records(None).await;
            return Ok(false);
        }
        let count = self.wait_until_due(available).await;
        if count == 0 {
            return Ok(false);
        }
        let bytes_max = self.course.told.shaping.batch.bytes_max;
        let taken = lot.take(&mut self.feed, &self.queue, count, bytes_max, durable).await;
        self.is_read(taken).await
    }

    /// Passes over records that an earlier life has delivered beyond the position, which has reached them: their segments
    /// may be gone any time.
    async fn pass_delivered(&mut self) -> Result<(), FeedError> {
        let through = self.progress.through();
        if self.feed.position() >= through {
            return Ok(());
        }
        if through < self.queue.journal.durable.get() {
            self.feed.seek(through + 1).await?;
        } else {
            self.feed.skip_to(through + 1, self.queue.journal.durable_bytes.get());
        }
        self.queue.drain.delivered_bytes.set(self.feed.position_bytes());
        Ok(())
    }

    /// Whether records could be read; `false` after a pause if they could not, and may be.
    async fn is_read(&mut self, read: Result<(), FeedError>) -> Result<bool, DrainError> {
        match read {
            Ok(()) => Ok(true),
            Err(error) if error.is_transient() => {
                self.pause_after(&error).await;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Connects and learns where to go on; `None` if a stop came first.
    async fn take_over(&mut self) -> Option<Progress> {
        loop {
            let error = match self.sink.take_over().await {
                Ok(progress) => return Some(progress),
                Err(error) => error,
            };
            self.note_failure();
            if !self.pause_after(&error).await {
                return None;
            }
        }
    }

    /// Checks the sink's position against the journal and moves there.
    async fn begin_at(&mut self, progress: Progress) -> Result<(), DrainError> {
        let position = progress.through();
        while is_planted(Bug::WaitForJournal) && position > self.queue.journal.durable.get() && !self.is_stopping() {
            self.follow();
            self.wait_for_records(None).await;
        }
        let (durable, trimmed) = (self.queue.journal.durable.get(), self.queue.journal.trimmed.get());
        let last = progress.beyond().next_back().map_or(position, |range| *range.end());
        if last > durable {
            return Err(DrainError::SinkAhead { position: last, durable });
        }
        if position < trimmed {
            return Err(DrainError::SinkBehind { position, has_beyond: !progress.is_in_order(), first: trimmed + 1 });
        }
        let bytes = if position == durable {
            let bytes = self.queue.journal.durable_bytes.get();
            self.feed.skip_to(durable + 1, bytes);
            bytes
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
        let is_forgotten = is_planted(Bug::ForgetBeyond);
        self.progress = Arc::new(if is_forgotten { Progress::up_to(position) } else { progress });
        drain.publish(&self.progress);
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

    /// Waits for records, or so long, or until there is something else to do.
    async fn wait_for_records(&mut self, wait: Option<Duration>) {
        let wait = self.redrive_wait().into_iter().chain(wait).min();
        // In a fixed order, so that nothing is left to chance that a simulation could not repeat.
        tokio::select! {
            biased;
            () = self.queue.durable_moved.notified() => {}
            () = self.queue.dead_letters.redrive_asked.notified() => {}
            () = Self::sleep_at_most(&self.platform, wait) => {}
            _ = self.course.instructions.changed() => self.course.instructions.mark_changed(),
            _ = self.stop.changed() => {}
        }
        self.course.pacer.rest(self.platform.monotonic_ns());
    }

    /// Sleeps until so much time has passed, or there is something else to follow, or a stop.
    async fn sleep_unless_told(&mut self, time: Duration) {
        let look = Duration::from_millis(WALL_CLOCK_LOOK_MS);
        let time = if self.course.told.shaping.schedule.entries.is_empty() { time } else { time.min(look) };
        tokio::select! {
            biased;
            () = self.platform.sleep(time) => {}
            () = self.queue.dead_letters.redrive_asked.notified() => {}
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
            let wait = Duration::from_nanos(due_ns - now_ns);
            let wait = self.redrive_wait().map_or(wait, |redrive| redrive.min(wait));
            self.sleep_unless_told(wait).await;
            // Whoever was told something else meanwhile, or was waked early, looks again.
            if self.is_stopping() || self.course.is_told_otherwise() || self.platform.monotonic_ns() < due_ns {
                return 0;
            }
        }
        self.course.pacer.due(self.platform.monotonic_ns()).min(records_max)
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
