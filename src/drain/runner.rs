//! The runner of one queue's drain: takes what the pacer releases, commits it into the
//! sink, and sets aside what the sink refuses for good.
//!
//! It reads, waits for departures and picks what is next; its lanes deliver, each a transaction at a time. A queue that keeps
//! a strict order has one lane.
//!
//! Invariants: the position only moves from where the sink has it; nothing is sent again
//! before the fate of what was sent is known; every row that is sent to the sink, again or for the
//! first time, has been released by the pacer; a dead letter is on disk before the position
//! passes it; nothing is sent before the rows of all lanes that there ever were are held.

mod delivery;
mod dispatch;
mod lane;
mod lanes;
mod redrive;
mod reordering;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{Instrument as _, Span};

use self::dispatch::{Dispatcher, Done, InFlight, RunningLanes};
use self::lane::{Lane, Spoken};
use self::lanes::{Admissions, NewLane};
use self::redrive::Redrive;
use self::reordering::Reordering;
use self::shared::{Shared, Waiter};
use super::dead_letters::DeadLetterFile;
use super::feed::{Feed, FeedError};
use super::lot::Lot;
use super::scheduler::Scheduler;
use crate::journal::platform::System;
use crate::planted::{Bug, is_planted};
use crate::progress::Progress;
use crate::queue::{DrainState, Outlet, Queue};
use crate::rate::Rate;
use crate::record::Sequence;
use crate::sink::{Sink, SinkError, Subpart};

/// Opens the queue's sink for another position than that of its first lane.
pub type SinkOpener = Box<dyn Fn(Subpart<'_>) -> Box<dyn Sink> + Send>;

/// Drains one queue into one of its sinks.
pub struct Runner<S: Scheduler = System> {
    platform: S,
    queue: Arc<Queue>,
    outlet: Arc<Outlet>,
    feed: Feed<S>,
    open: SinkOpener,
    dead_letters: Arc<DeadLetterFile<S>>,
    redrive: Redrive,
    shared: Arc<Shared<S>>,
    waiter: Waiter<S>,
    /// Until they run.
    lanes: Vec<Lane<S>>,
    dispatcher: Dispatcher<S>,
    admissions: Admissions<S>,
    /// The memory of a lot that was delivered.
    spare: Lot,
    /// What comes after the batch that is being delivered, read while the sink works on that one.
    ahead: Lot,
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
         database was set back to an earlier state, or this sink was out of the configuration for a while. If the records in \
         between are not wanted any more, set forebay_position.position of this part to {}{} and restart", first - 1,
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

impl<S: Scheduler> Runner<S> {
    /// A runner that has not started; `sink` is that of its first lane.
    #[must_use]
    pub fn new(
        platform: S,
        (queue, outlet): (Arc<Queue>, Arc<Outlet>),
        feed: Feed<S>,
        sink: Box<dyn Sink>,
        dead_letters: Arc<DeadLetterFile<S>>,
        open: SinkOpener,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (lane_count, retry) = {
            let shaping = &outlet.instructions.borrow().shaping;
            (shaping.concurrency.max(1), shaping.retry.clone())
        };
        let lanes = lane_count as usize;
        let known = (Arc::clone(&queue), Arc::clone(&outlet));
        let shared = Arc::new(Shared::new(platform.clone(), known, Arc::clone(&dead_letters), lanes));
        outlet.drain.lanes.set(u64::from(lane_count));
        let reordering = Reordering::new(&platform, &outlet.config.ordering, &queue.config.ordering, lanes);
        let is_compared = dead_letters.redrive_id().is_none();
        let redrive = Redrive::new(&retry, is_compared, platform.monotonic_ns());
        let others = (1..lane_count).map(|lane| (lane as usize, open(Subpart::Lane(lane))));
        let sinks = std::iter::once((0, sink)).chain(others);
        let lanes = sinks.map(|(number, sink)| Lane::new(number, sink, Waiter::new(&shared, stop.clone()))).collect();
        let (waiter, spare, ahead) = (Waiter::new(&shared, stop), Lot::default(), Lot::default());
        Self {
            platform,
            queue,
            outlet,
            feed,
            open,
            dead_letters,
            redrive,
            shared,
            waiter,
            lanes,
            dispatcher: Dispatcher::new(),
            admissions: Admissions::new(&retry),
            spare,
            ahead,
            reordering,
        }
    }

    /// Runs until a stop is asked for, or until it cannot go on without a person.
    pub async fn run(self) {
        // So that what is logged of the queue says of which of its sinks.
        let span = self.outlet.name.as_ref().map_or_else(Span::none, |name| tracing::error_span!("sink", name));
        self.run_in_span().instrument(span).await;
    }

    async fn run_in_span(mut self) {
        if let Err(error) = self.drain().await {
            self.outlet.drain.set_state(DrainState::Halted);
            tracing::error!(queue = self.queue.name, %error, "this queue is no longer delivered; records are still accepted");
        }
        self.outlet.drain.in_flight.set(0);
    }

    async fn drain(&mut self) -> Result<(), DrainError> {
        let Some(progress) = self.take_over().await? else { return Ok(()) };
        self.begin_at(progress).await?;
        let mut running = RunningLanes::new();
        for lane in std::mem::take(&mut self.lanes) {
            running.start(lane.run(self.dispatcher.add()));
        }
        while let Some((lane, end)) = running.run_beside(self.dispatch()).await? {
            running.start(lane.run(end));
        }
        if let Some(mut first) = running.end().await?
            && self.shared.progress() != first.said
            && let Spoken::Failed(error) = first.speak_for_all().await?
        {
            tracing::info!(queue = self.queue.name, %error, "the next start asks all lanes how far they have come");
        }
        Ok(())
    }

    /// Hands lots to lanes until there is another lane, which it returns, or until a stop.
    async fn dispatch(&mut self) -> Result<Option<NewLane<S>>, DrainError> {
        while let Some(lane) = self.idle_lane().await {
            if self.shared.state().course.told.is_paused {
                self.wait_while_paused().await;
                continue;
            }
            self.redrive().await;
            let mut lot = std::mem::take(&mut self.spare);
            std::mem::swap(&mut lot, &mut self.ahead);
            self.ahead.clear();
            // What was read ahead has waited for no departure. It needs none, unless a limit has come since.
            let mut is_released = self.shared.state().course.pace.rate == Rate::Unlimited;
            let mut in_flight = InFlight::default();
            if lot.taken.is_empty() {
                let Some(taken) = self.take(&mut lot).await? else {
                    self.spare = lot;
                    continue;
                };
                (in_flight, is_released) = (taken, true);
            }
            if self.outlet.drain.state() == DrainState::Retrying {
                self.outlet.drain.set_state(DrainState::Running);
            }
            let last = lot.taken.sequences().max().unwrap_or(0);
            self.outlet.drain.released.set(self.outlet.drain.released.get().max(last));
            self.waiter.works_again();
            self.dispatcher.assign(lane, (lot, is_released), in_flight);
            self.look_ahead().await;
        }
        let admitted = self.admissions.admitted.take();
        if admitted.is_none() {
            self.dispatcher.close();
        }
        Ok(admitted)
    }

    /// Follows what the drain is told, and waits for a lane that has nothing to do; `None` if there is another lane to be started,
    /// or a stop came first.
    async fn idle_lane(&mut self) -> Option<usize> {
        loop {
            while let Some(done) = self.dispatcher.try_done() {
                self.finish(done);
            }
            if self.waiter.is_stopping() || self.admissions.admitted.is_some() {
                return None;
            }
            self.shared.follow();
            self.fit_lanes();
            if let Some(lane) = self.dispatcher.idle(self.lanes_wanted()) {
                return Some(lane);
            }
            let wait = self.admission_wait();
            tokio::select! {
                biased;
                done = self.dispatcher.next_done() => self.finish(done),
                () = Self::sleep_at_most(&self.platform, wait) => {}
                _ = self.waiter.instructions.changed() => {}
                _ = self.waiter.stop.changed() => {}
            }
        }
    }

    /// A lane has delivered what it had, or admitted another one.
    fn finish(&mut self, done: Done<S>) {
        let (lane, lot) = match done {
            Done::Delivered { lane, lot } => (lane, lot),
            Done::Admitted(admitted) => return self.note_admitted(admitted),
        };
        let InFlight { keys, .. } = self.dispatcher.finish(lane);
        self.release(&keys);
        self.spare = lot;
        self.spare.clear();
        self.publish_window();
    }

    /// Reads the next batch of a queue in strict order while the one before it is being delivered, and encodes it as far as there is
    /// time for that.
    async fn look_ahead(&mut self) {
        if self.reordering.is_some() {
            return;
        }
        let (pace, batch, encoder) = {
            let state = &self.shared.state();
            (state.course.pace, state.course.told.shaping.batch.clone(), state.encoder.clone())
        };
        self.ahead.look(&mut self.feed, &self.queue, pace, &batch).await;
        if let Some(encoder) = encoder
            && !self.ahead.taken.is_empty()
        {
            let dispatcher = &self.dispatcher;
            self.ahead.encode(encoder, || dispatcher.has_done()).await;
        }
    }

    /// Takes what is due; `None` if nothing was, and the caller should look again.
    async fn take(&mut self, lot: &mut Lot) -> Result<Option<InFlight>, DrainError> {
        let passed = self.pass_delivered().await;
        if !self.is_read(passed).await? {
            return Ok(None);
        }
        if self.reordering.is_some() {
            return self.take_from_window(lot).await;
        }
        let durable = self.queue.journal.durable.get();
        let available = durable - self.feed.position();
        if available == 0 {
            self.wait_for_records(None).await;
            return Ok(None);
        }
        let count = self.wait_until_due(available).await;
        if count == 0 {
            return Ok(None);
        }
        let bytes_max = self.shared.state().course.told.shaping.batch.bytes_max;
        let taken = lot.take(&mut self.feed, &self.queue, count, bytes_max, durable).await;
        Ok(self.is_read(taken).await?.then(InFlight::default))
    }

    /// Passes over records that an earlier life has delivered beyond the position, which has reached them: their segments
    /// may be gone any time.
    async fn pass_delivered(&mut self) -> Result<(), FeedError> {
        let through = self.shared.progress().through();
        if self.feed.position() >= through {
            return Ok(());
        }
        if through < self.queue.journal.durable.get() {
            self.feed.seek(through + 1).await?;
        } else {
            self.feed.skip_to(through + 1, self.queue.journal.durable_bytes.get());
        }
        self.outlet.drain.delivered_bytes.set(self.feed.position_bytes());
        Ok(())
    }

    /// Whether records could be read; `false` after a pause if they could not, and may be.
    async fn is_read(&mut self, read: Result<(), FeedError>) -> Result<bool, DrainError> {
        match read {
            Ok(()) => Ok(true),
            // A lane has moved the position meanwhile over what an earlier life had delivered, and its segment is gone.
            Err(FeedError::Missing(sequence)) if sequence <= self.shared.progress().through() => Ok(false),
            Err(error) if error.is_transient() => {
                self.waiter.pause_after(&error).await;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the rows of all lanes over, those of earlier lives too, and learns where to go on; `None` if a stop came first.
    async fn take_over(&mut self) -> Result<Option<Progress>, DrainError> {
        let count = self.lanes.len();
        let Self { lanes, open, shared, waiter, queue, outlet, .. } = self;
        let Some((first, others)) = lanes.split_first_mut() else { return Ok(None) };
        loop {
            // The first lane's row comes first and is looked at last: of two processes that start at the same time, one finds
            // the other's lanes, or is fenced itself.
            let Some(mut progress) = first.take_over().await? else { return Ok(None) };
            first.said = Arc::new(progress.clone());
            // At once: by the time that all lanes are asked, the journal may have come to the same number with other records.
            check_ahead(queue, &progress)?;
            let found = match first.sink.lanes().await {
                Ok(_) if is_planted(Bug::ForgetLanes) => Vec::new(),
                Ok(found) => found,
                Err(error) => {
                    if waiter.pause_after(&error).await {
                        continue;
                    }
                    return Ok(None);
                }
            };
            for lane in others.iter_mut() {
                let Some(said) = lane.take_over().await? else { return Ok(None) };
                check_ahead(queue, &said)?;
                progress.merge(&said);
                lane.said = Arc::new(said);
            }
            for number in found.iter().copied().filter(|number| *number as usize >= count) {
                let waiter = Waiter::new(shared, waiter.stop.clone());
                let mut former = Lane::new(number as usize, open(Subpart::Lane(number)), waiter);
                let Some(said) = former.take_over().await? else { return Ok(None) };
                check_ahead(queue, &said)?;
                progress.merge(&said);
            }
            // A sink that was added later begins behind what had been given up before.
            let begin = Progress::up_to(outlet.begins_after.get());
            let is_behind = progress.through() < begin.through();
            if is_behind {
                progress.merge(&begin);
            }
            if count == 1 && found.is_empty() && !is_behind {
                return Ok(Some(progress));
            }
            check_behind(queue, &progress)?;
            shared.state().progress = Arc::new(progress.clone());
            match first.speak_for_all().await? {
                Spoken::All => return Ok(Some(progress)),
                Spoken::Failed(error) => {
                    if !waiter.pause_after(&error).await {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Checks the sink's position against the journal and moves there.
    async fn begin_at(&mut self, progress: Progress) -> Result<(), DrainError> {
        let position = progress.through();
        while is_planted(Bug::WaitForJournal)
            && position > self.queue.journal.durable.get()
            && !self.waiter.is_stopping()
        {
            self.shared.follow();
            self.wait_for_records(None).await;
        }
        check_behind(&self.queue, &progress)?;
        let durable = self.queue.journal.durable.get();
        let bytes = if position == durable {
            let bytes = self.queue.journal.durable_bytes.get();
            self.feed.skip_to(durable + 1, bytes);
            bytes
        } else {
            loop {
                match self.feed.seek(position + 1).await {
                    Ok(bytes) => break bytes,
                    Err(error) if error.is_transient() && self.waiter.pause_after(&error).await => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let drain = &self.outlet.drain;
        drain.released.set(position);
        drain.delivered_bytes.set(bytes);
        let is_forgotten = is_planted(Bug::ForgetBeyond);
        let progress = Arc::new(if is_forgotten { Progress::up_to(position) } else { progress });
        drain.publish(&progress);
        if let [first] = self.lanes.as_mut_slice() {
            first.said = Arc::clone(&progress);
        }
        self.shared.state().progress = progress;
        drain.set_state(DrainState::Running);
        tracing::info!(
            queue = self.queue.name,
            position,
            backlog = durable - position,
            "delivering to the sink from here on"
        );
        Ok(())
    }

    async fn wait_while_paused(&mut self) {
        self.waiter.note_pause();
        let wait = self.admission_wait();
        tokio::select! {
            biased;
            done = self.dispatcher.next_done() => self.finish(done),
            () = Self::sleep_at_most(&self.platform, wait) => {}
            () = self.waiter.wait_while_paused() => {}
        }
    }

    /// Waits for records, or so long, or until there is something else to do.
    async fn wait_for_records(&mut self, wait: Option<Duration>) {
        let wait = self.redrive_wait().into_iter().chain(self.admission_wait()).chain(wait).min();
        // In a fixed order, so that nothing is left to chance that a simulation could not repeat.
        tokio::select! {
            biased;
            done = self.dispatcher.next_done() => self.finish(done),
            () = self.outlet.durable_moved.notified() => {}
            () = self.outlet.dead_letters.redrive_asked.notified() => {}
            () = Self::sleep_at_most(&self.platform, wait) => {}
            _ = self.waiter.instructions.changed() => {}
            _ = self.waiter.stop.changed() => {}
        }
        if self.dispatcher.in_flight().next().is_none() {
            self.shared.state().course.pacer.rest(self.platform.monotonic_ns());
        }
    }

    /// Waits until a batch is due and returns how many records may leave; 0 if the caller should look again.
    async fn wait_until_due(&mut self, available: u64) -> u64 {
        let now_ns = self.platform.monotonic_ns();
        let (records_max, due_ns) = {
            let course = &self.shared.state().course;
            let batch = &course.told.shaping.batch;
            let records_max = batch.records_max as u64;
            let lingered = course.pacer.records_in(batch.linger_ms_max.saturating_mul(1_000_000));
            let wanted = lingered.min(records_max).min(available).max(1);
            (records_max, course.pacer.when_due_ns(wanted, now_ns))
        };
        if due_ns > now_ns {
            let wait = Duration::from_nanos(due_ns - now_ns);
            let wait = self.redrive_wait().into_iter().chain(self.admission_wait()).fold(wait, Duration::min);
            let wait = self.waiter.until_look(wait);
            tokio::select! {
                biased;
                () = self.platform.sleep(wait) => {}
                () = self.outlet.dead_letters.redrive_asked.notified() => {}
                _ = self.waiter.instructions.changed() => {}
                _ = self.waiter.stop.changed() => {}
            }
            // Whoever was told something else meanwhile, or was waked early, looks again.
            let is_told_otherwise = self.shared.state().course.is_told_otherwise();
            if self.waiter.is_stopping() || is_told_otherwise || self.platform.monotonic_ns() < due_ns {
                return 0;
            }
        }
        self.shared.state().course.pacer.due(self.platform.monotonic_ns()).min(records_max)
    }
}

/// Whether the journal has whatever the sink has.
fn check_ahead(queue: &Queue, progress: &Progress) -> Result<(), DrainError> {
    let durable = queue.journal.durable.get();
    let position = progress.beyond().next_back().map_or(progress.through(), |range| *range.end());
    if position > durable && !is_planted(Bug::WaitForJournal) {
        return Err(DrainError::SinkAhead { position, durable });
    }
    Ok(())
}

/// Whether the journal still has what the sink lacks.
fn check_behind(queue: &Queue, progress: &Progress) -> Result<(), DrainError> {
    let (position, trimmed) = (progress.through(), queue.journal.trimmed.get());
    if position < trimmed {
        return Err(DrainError::SinkBehind { position, has_beyond: !progress.is_in_order(), first: trimmed + 1 });
    }
    Ok(())
}
