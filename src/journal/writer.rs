//! The journal thread: gathers all rings into one batch a queue, writes and syncs them
//! together, and only then lets anybody hear of it.
//!
//! There is one commit in flight. While it is, requests gather in the rings; the more
//! there are, the more one sync carries. Under load the journal also pauses before a commit
//! ([`Gathering`] decides), because a commit costs the processor as much as many requests do.
//!
//! Invariant: nothing is completed, shown to a drain or counted as durable before the
//! sync of its batch has succeeded. After a failed write or sync nothing is acknowledged
//! any more, by anybody, until a restart has looked at what the disk really holds.

mod next_segment;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use self::next_segment::NextSegmentError;
use super::append::{Appender, Place, SealedBatch};
use super::catalogue::Catalogue;
use super::gathering::{Gathering, Pause};
use super::idempotency::KeyEntry;
use super::idle::IdleCores;
use super::maintenance::Chore;
use super::platform::{Commit, Platform, RandomAccessFile, System};
use super::pool::Pool;
use super::uring::{CommitError, Write};
use crate::config::Ack;
use crate::planted::{Bug, is_planted};
use crate::queue::{Health, Outlet, Queue};
use crate::ring::{Bell, Completion, FrameHeader, JournalEnd, Outcome, wait_for_frames};
use crate::sync::Producer;

/// How long the thread sleeps when the bell stays silent. Only a bound: a ring wakes it at once.
const PATIENCE: Duration = Duration::from_hours(1);

/// One queue as the journal thread holds it.
pub struct QueueLog<P: Platform = System> {
    queue: Arc<Queue>,
    directory: PathBuf,
    catalogue: Arc<Catalogue>,
    appender: Appender,
    file: Option<P::File>,
    /// Leads to the drain of each of the queue's outlets.
    hot: Vec<(Arc<Outlet>, Producer<u8>)>,
    sealed: Option<SealedBatch>,
}

impl<P: Platform> QueueLog<P> {
    /// Goes on where recovery ended; `hot` has a ring to the drain of each of the queue's outlets.
    #[must_use]
    pub fn new(
        queue: Arc<Queue>,
        directory: PathBuf,
        catalogue: Arc<Catalogue>,
        appender: Appender,
        file: Option<P::File>,
        hot: Vec<(Arc<Outlet>, Producer<u8>)>,
    ) -> Self {
        Self { queue, directory, catalogue, appender, file, hot, sealed: None }
    }
}

/// The state of the journal thread.
pub struct Writer<P: Platform = System> {
    platform: P,
    epoch: u64,
    logs: Vec<QueueLog<P>>,
    rings: Vec<JournalEnd>,
    bell: Arc<Bell>,
    pool: Arc<Pool<P>>,
    health: Arc<Health>,
    chores: Sender<Chore>,
    disk: P::Disk,
    /// What to complete when the commit that is being gathered is durable: ring and completion.
    gathered: Vec<(usize, Completion)>,
    gathering: Gathering,
    /// `None` if the kernel does not tell: then it gathers as if there were none.
    idle_cores: Option<IdleCores>,
    /// Connections that have sent requests lately, for each ring that a frame of this commit came from.
    senders: Vec<u16>,
    /// The ring that is looked at first, so that none is always last.
    first_ring: usize,
    disk_full_until_ns: u64,
}

/// What the journal thread has to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Take the next turn at once: there is more to do.
    Again,
    /// Let requests collect for a while first.
    Pause(Pause),
    /// Sleep until there is news; so many executors had ended before it.
    Sleep(usize),
    /// Every executor is gone and everything that they sent is committed.
    Finished,
}

impl<P: Platform> Writer<P> {
    /// Prepares the thread's state. Call it on the thread itself: the ring belongs to its thread.
    ///
    /// # Errors
    ///
    /// The kernel refuses an `io_uring`.
    #[expect(clippy::too_many_arguments, reason = "each is what another thread shares with this one")]
    pub fn new(
        platform: P,
        epoch: u64,
        logs: Vec<QueueLog<P>>,
        rings: Vec<JournalEnd>,
        bell: Arc<Bell>,
        pool: Arc<Pool<P>>,
        health: Arc<Health>,
        chores: Sender<Chore>,
    ) -> io::Result<Self> {
        let disk = platform.disk(logs.len())?;
        let senders = vec![0; rings.len()];
        let answers_early = logs.iter().any(|log| log.queue.config.ack == Ack::Memory);
        Ok(Self {
            platform,
            epoch,
            logs,
            rings,
            bell,
            pool,
            health,
            chores,
            disk,
            gathered: Vec::new(),
            gathering: Gathering::new(answers_early),
            idle_cores: None,
            senders,
            first_ring: 0,
            disk_full_until_ns: 0,
        })
    }

    /// Runs until every executor is gone and everything that they sent is committed.
    pub fn run(mut self) {
        self.idle_cores = IdleCores::of_this_thread();
        loop {
            match self.turn() {
                Turn::Again => {}
                Turn::Pause(pause) => self.pause(&pause),
                Turn::Sleep(finished) => self.bell.sleep_unless(PATIENCE, || self.has_news(finished)),
                Turn::Finished => break,
            }
        }
        tracing::debug!("the journal has committed everything and stops");
    }

    /// Gathers, and unless more is to be waited for, commits.
    pub fn turn(&mut self) -> Turn {
        if let Some(pause) = self.gather_enough() {
            return Turn::Pause(pause);
        }
        let wrote = self.commit();
        self.wake_all();
        // An executor that sends nothing any more must not be waited for.
        self.senders.fill(0);
        if wrote {
            // Now that nobody waits for it.
            self.look_for_idle_cores();
        }
        if wrote || self.rings.iter().any(|ring| !ring.is_empty()) {
            return Turn::Again;
        }
        // Counted once: an executor that ends behind this line is news for the look before the sleep.
        let finished = self.finished();
        if finished == self.rings.len() { Turn::Finished } else { Turn::Sleep(finished) }
    }

    /// Whether there is anything to do for a thread that is about to sleep.
    #[must_use]
    pub fn has_news(&self, finished: usize) -> bool {
        self.rings.iter().any(|ring| !ring.is_empty()) || (self.finished() != finished && !is_planted(Bug::IgnoreEnds))
    }

    fn finished(&self) -> usize {
        self.rings.iter().filter(|ring| ring.is_finished()).count()
    }

    fn look_for_idle_cores(&mut self) {
        let Some(cores) = &mut self.idle_cores else { return };
        match cores.share(self.platform.monotonic_ns()) {
            Ok(None) => {}
            Ok(Some(share)) => self.gathering.cores_were_idle(share),
            Err(_) => {
                tracing::debug!("the kernel no longer tells how idle the cores are; gathering as if they were not");
                self.idle_cores = None;
                self.gathering.cores_are_unknown();
            }
        }
    }

    fn wake_all(&mut self) {
        self.rings.iter_mut().for_each(JournalEnd::wake);
    }

    /// Gathers; `None` once it is time to commit.
    fn gather_enough(&mut self) -> Option<Pause> {
        let (requests, is_full) = self.gather();
        // Whoever asked for no more than memory need not wait for the sync.
        self.wake_all();
        let now_ns = self.platform.monotonic_ns();
        self.gathering.gathered(now_ns, requests);
        let pause = self.gathering.pause(now_ns, self.senders_now()).filter(|_| !is_full);
        if pause.is_none() {
            self.gathering.begin_commit(now_ns);
        }
        pause
    }

    fn senders_now(&self) -> u64 {
        self.senders.iter().copied().map(u64::from).sum()
    }

    /// Lets requests collect in the rings. To be woken for each of them would cost what the pause is to save.
    fn pause(&self, pause: &Pause) {
        let (rings, senders) = (&self.rings, self.senders_now());
        // Each executor is waited for as far as it has senders.
        let share = |senders_here: u16| (pause.requests * u64::from(senders_here)).div_ceil(senders.max(1)).max(1);
        let wanted = rings.iter().zip(&self.senders).map(|(ring, senders_here)| (ring, share(*senders_here)));
        wait_for_frames(&self.bell, pause.longest, wanted);
    }

    /// Takes frames off the rings until they are empty or the batches full. Returns how many, and whether
    /// one has to wait for the next commit.
    fn gather(&mut self) -> (u64, bool) {
        let now_s = self.platform.unix_us() / 1_000_000;
        let rings = self.rings.len();
        let (mut requests, mut is_full) = (0, false);
        for turn in 0..rings {
            let ring = (self.first_ring + turn) % rings;
            while let Some(frame) = self.rings[ring].peek() {
                if !self.take_frame(ring, &frame, now_s) {
                    is_full = true;
                    break;
                }
                self.senders[ring] = frame.senders.get();
                requests += 1;
            }
        }
        self.first_ring = (self.first_ring + 1) % rings.max(1);
        (requests, is_full)
    }

    /// Deals with one frame; `false` if it must wait for the next commit.
    fn take_frame(&mut self, ring: usize, frame: &FrameHeader, now_s: u64) -> bool {
        let refusal = |outcome| Completion { slot: frame.slot.get(), count: 0, first_sequence: 0, outcome };
        if self.health.is_journal_failed() {
            self.rings[ring].skip();
            self.rings[ring].complete(refusal(Outcome::Failed));
            return true;
        }
        let index = usize::from(frame.queue.get());
        let Some(log) = self.logs.get_mut(index) else {
            // Only our own code writes frames; a queue that does not exist is a bug, and is refused.
            self.rings[ring].skip();
            self.rings[ring].complete(refusal(Outcome::Failed));
            return true;
        };
        match log.appender.place(frame, now_s) {
            Place::Append => self.append(ring, index, frame, now_s),
            Place::Replay(known) => self.replay(ring, index, frame, known),
            Place::AfterCommit => return false,
            Place::AfterNewSegment => {
                match self.next_segment(index) {
                    Ok(()) => {}
                    Err(NextSegmentError::Unavailable(error)) => {
                        self.note_disk_full(&error);
                        self.rings[ring].skip();
                        self.rings[ring].complete(refusal(Outcome::DiskFull));
                    }
                    // The next turn refuses the frame.
                    Err(NextSegmentError::Broken(error)) => self.fail(&error),
                }
            }
            Place::TooLarge => {
                self.rings[ring].skip();
                self.rings[ring].complete(refusal(Outcome::Failed));
            }
        }
        true
    }

    fn append(&mut self, ring: usize, index: usize, frame: &FrameHeader, now_s: u64) {
        let log = &mut self.logs[index];
        let (first_sequence, room) = log.appender.append(frame, now_s);
        self.rings[ring].take(room);
        log.queue.journal.appended.set(log.appender.last_sequence());
        let slot = frame.slot.get();
        let completion = Completion { slot, count: frame.count.get(), first_sequence, outcome: Outcome::Stored };
        match log.queue.config.ack {
            Ack::Durable => self.gathered.push((ring, completion)),
            Ack::Memory => self.rings[ring].complete(completion),
        }
    }

    /// The first request with this key may still be in the open batch, so the answer waits for its commit.
    fn replay(&mut self, ring: usize, index: usize, frame: &FrameHeader, known: KeyEntry) {
        self.rings[ring].skip();
        self.logs[index].queue.journal.replayed.add(1);
        let completion = Completion {
            slot: frame.slot.get(),
            count: known.count.get(),
            first_sequence: known.first_sequence.get(),
            outcome: Outcome::Replayed,
        };
        if is_planted(Bug::ReplayBeforeSync) {
            return self.rings[ring].complete(completion);
        }
        self.gathered.push((ring, completion));
    }

    /// Writes and syncs what was gathered, then publishes it. Returns whether there was anything.
    fn commit(&mut self) -> bool {
        if is_planted(Bug::AcknowledgeBeforeSync) {
            for (ring, completion) in &self.gathered {
                self.rings[*ring].complete(*completion);
            }
            let any = !self.gathered.is_empty();
            self.gathered.clear();
            self.write_and_publish();
            return any;
        }
        // What a failed commit left in the batches must never be written again, or shown to a drain.
        if !self.health.is_journal_failed() {
            self.write_and_publish();
        }
        if self.health.is_journal_failed() {
            for (_, completion) in &mut self.gathered {
                completion.outcome = Outcome::Failed;
            }
        }
        let any = !self.gathered.is_empty();
        for (ring, completion) in self.gathered.drain(..) {
            self.rings[ring].complete(completion);
        }
        any
    }

    fn write_and_publish(&mut self) {
        let now_us = self.platform.unix_us();
        for log in &mut self.logs {
            // Without a file nothing would be written, and then nothing may be published either.
            log.sealed = log.file.as_ref().and_then(|_| log.appender.seal_batch(now_us));
        }
        let mut committed = if is_planted(Bug::SkipSync) || is_planted(Bug::SkipMemorySync) {
            self.write_without_sync()
        } else {
            self.disk.commit(self.logs.iter().filter_map(QueueLog::write))
        };
        if is_planted(Bug::RetryFailedSync) && matches!(committed, Err(CommitError::Sync(_))) {
            let again = self.logs.iter().filter_map(QueueLog::write).try_for_each(|write| write.file.sync_data());
            committed = again.map_err(CommitError::Sync);
        }
        match committed {
            Ok(()) => self.logs.iter_mut().for_each(QueueLog::publish),
            Err(error) => self.fail(&error),
        }
    }

    /// What [`Bug::SkipSync`] and [`Bug::SkipMemorySync`] do in the place of a commit.
    fn write_without_sync(&mut self) -> Result<(), CommitError> {
        let skips = |log: &&QueueLog<P>| is_planted(Bug::SkipSync) || log.queue.config.ack == Ack::Memory;
        for write in self.logs.iter().filter(skips).filter_map(QueueLog::write) {
            write.file.write_all_at(write.bytes, write.offset).map_err(CommitError::Sync)?;
        }
        self.disk.commit(self.logs.iter().filter(|log| !skips(log)).filter_map(QueueLog::write))
    }

    /// The end of acknowledging. What the disk holds is for the next start to find out.
    fn fail(&mut self, error: &dyn std::error::Error) {
        tracing::error!(
            %error,
            "the journal could not be written; nothing more is accepted or acknowledged. What was acknowledged \
             before is on disk and still being delivered. Mend the disk, then restart forebay"
        );
        self.health.set_journal_failed();
    }
}

impl<P: Platform> QueueLog<P> {
    fn write(&self) -> Option<Write<'_, P::File>> {
        let sealed = self.sealed.as_ref()?;
        Some(Write { file: self.file.as_ref()?, offset: sealed.offset, bytes: self.appender.batch(sealed) })
    }

    /// The batch is on disk: says so, and hands it to each drain that keeps up.
    fn publish(&mut self) {
        let Some(sealed) = self.sealed.take() else { return };
        if is_planted(Bug::DurableBeforeHot) {
            self.queue.journal.durable.set(sealed.next_sequence - 1);
        }
        let batch = &self.appender.batch(&sealed)[..sealed.bytes];
        for (_, hot) in &mut self.hot {
            // If it does not fit, the drain reads it from the segment when it gets there.
            let _ = hot.push_entire_slice(batch);
        }
        self.appender.committed(&sealed);
        self.queue.journal.keys_evicted.set(self.appender.keys_evicted());
        self.queue.journal.durable_bytes.set(sealed.end_byte);
        self.queue.journal.durable.set(sealed.next_sequence - 1);
        if !is_planted(Bug::LoseWakeUp) {
            self.hot.iter().for_each(|(outlet, _)| outlet.durable_moved.notify_one());
        }
    }
}
