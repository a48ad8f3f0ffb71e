//! The maintenance thread: everything about segments that can be done beside the way of
//! a record. It keeps zeroed spares ready, saves the idempotency keys of sealed segments,
//! gives delivered segments back to the pool, and stores how far each queue is delivered.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::catalogue::Catalogue;
use super::cursor;
use super::idempotency::KeyEntry;
use super::keys_file;
use super::platform::{Platform, System};
use super::pool::Pool;
use crate::planted::{Bug, is_planted};
use crate::queue::{DrainState, Outlet, Queue};
use crate::record::Sequence;

/// How often delivered segments are looked for, and how far delivery is stored.
const TICK: Duration = Duration::from_millis(500);

/// Something to do soon.
pub enum Chore {
    /// A spare was taken.
    Replenish,
    /// A segment was sealed.
    SaveKeys(Unsaved),
}

/// The idempotency keys of a sealed segment.
pub struct Unsaved {
    /// Whose.
    pub queue: u16,
    /// Which segment.
    pub first_sequence: Sequence,
    /// The keys of its requests.
    pub keys: Vec<KeyEntry>,
}

/// A queue as the maintenance thread sees it.
pub struct Kept {
    /// The queue.
    pub queue: Arc<Queue>,
    /// Its directory.
    pub directory: PathBuf,
    /// Its outlets as the maintenance thread sees them.
    pub outlets: Vec<KeptOutlet>,
    /// Its segments.
    pub catalogue: Arc<Catalogue>,
}

/// One of a queue's outlets.
pub struct KeptOutlet {
    /// What all threads see of it.
    pub outlet: Arc<Outlet>,
    /// Its directory; the main one's is the queue's.
    pub directory: PathBuf,
    /// How far it was delivered when that was last stored.
    cursor: Sequence,
    /// Whether the sink has told how far it is delivered. Before that the cursor of the last start says so,
    /// and a database that was set back needs more of the journal than that.
    has_position: bool,
}

/// The state of the maintenance thread.
pub struct Maintenance<P = System> {
    platform: P,
    pool: Arc<Pool<P>>,
    queues: Vec<Kept>,
    chores: Receiver<Chore>,
    /// Keys that could not be saved yet; their segments stay until they are.
    unsaved: Vec<Unsaved>,
    /// Whether spares are missing.
    wants_spares: bool,
    replenish_failed: bool,
}

impl<P: Platform> Maintenance<P> {
    /// Prepares the thread's state.
    #[must_use]
    pub fn new(platform: P, pool: Arc<Pool<P>>, queues: Vec<Kept>, chores: Receiver<Chore>) -> Self {
        Self { platform, pool, queues, chores, unsaved: Vec::new(), wants_spares: false, replenish_failed: false }
    }

    /// Runs until nobody is left who could send a chore, and stores the cursors at the end.
    pub fn run(mut self) {
        self.replenish();
        loop {
            match self.chores.recv_timeout(TICK) {
                Ok(chore) => self.attend_to(chore),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tidy();
        }
        self.tidy();
    }

    /// One turn of [`run`](Self::run), without waiting for a chore.
    pub fn turn(&mut self) {
        if let Ok(chore) = self.chores.try_recv() {
            self.attend_to(chore);
        }
        self.tidy();
    }

    fn attend_to(&mut self, chore: Chore) {
        match chore {
            // Not yet: a delivered segment may come back, and then nothing need be zeroed.
            Chore::Replenish => self.wants_spares = true,
            Chore::SaveKeys(unsaved) => self.unsaved.push(unsaved),
        }
    }

    fn replenish(&mut self) {
        self.wants_spares = false;
        loop {
            match self.pool.replenish() {
                Ok(true) => {}
                Ok(false) => {
                    self.replenish_failed = false;
                    return;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.replenish_failed, true) {
                        tracing::warn!(%error, "no spare segment could be prepared");
                    }
                    return;
                }
            }
        }
    }

    fn save_keys(&mut self) {
        let (queues, platform) = (&self.queues, &self.platform);
        self.unsaved.retain(|unsaved| {
            let Some(kept) = queues.get(usize::from(unsaved.queue)) else { return false };
            if !unsaved.keys.is_empty()
                && !is_planted(Bug::ForgetKeys)
                && let Err(error) = keys_file::save(platform, &kept.directory, unsaved.first_sequence, &unsaved.keys)
            {
                // The segment stays, since its keys are nowhere else.
                tracing::warn!(queue = kept.queue.name, %error, "idempotency keys could not be saved; trying again");
                return true;
            }
            kept.catalogue.set_keys_saved(unsaved.first_sequence);
            false
        });
    }

    fn tidy(&mut self) {
        self.save_keys();
        for kept in &mut self.queues {
            for outlet in &mut kept.outlets {
                outlet.look(&self.platform, &kept.queue.name);
            }
            if kept.outlets.iter().all(|outlet| outlet.has_position) {
                give_back_delivered(&self.pool, kept);
            }
            if let Err(error) = expire_keys(&self.platform, kept) {
                tracing::warn!(queue = kept.queue.name, %error, "old idempotency keys could not be removed");
            }
        }
        // Only now, when what is delivered has come back.
        if self.wants_spares || self.replenish_failed {
            self.replenish();
        }
    }
}

impl KeptOutlet {
    /// An outlet of whose sink nothing is known yet.
    #[must_use]
    pub fn new(outlet: Arc<Outlet>, directory: PathBuf) -> Self {
        Self { outlet, directory, cursor: 0, has_position: false }
    }

    /// Stores how far it is delivered, once its sink has told.
    fn look<P: Platform>(&mut self, platform: &P, queue: &str) {
        // The state is published behind the position and is looked at before it.
        self.has_position |=
            matches!(self.outlet.drain.state(), DrainState::Running | DrainState::Retrying | DrainState::Paused);
        let delivered = self.outlet.drain.delivered.get();
        if !self.has_position || delivered == self.cursor {
            return;
        }
        match cursor::save(platform, &self.directory, delivered) {
            Ok(()) => self.cursor = delivered,
            Err(error) => {
                tracing::warn!(queue, sink = self.outlet.name, %error, "the cursor could not be stored");
            }
        }
    }
}

/// Gives the segments that every sink has back to the pool.
fn give_back_delivered<P: Platform>(pool: &Pool<P>, kept: &Kept) {
    let done = kept.queue.delivered_to_all() + u64::from(is_planted(Bug::RecycleSegmentEarly));
    while let Some(segment) = kept.catalogue.pop_delivered(done) {
        kept.queue.journal.trimmed.set(segment.sealed_next.unwrap_or(1) - 1);
        if let Err(error) = pool.give_back(&segment.path) {
            tracing::warn!(path = %segment.path.display(), %error, "a delivered segment could not be removed; trying again");
            // No later one may go before it: the next start would find a gap.
            kept.catalogue.put_back(segment);
            break;
        }
    }
}

/// Removes files of keys whose window has ended. A file's modification time is that of its
/// segment's sealing, so its youngest key is at most that young.
fn expire_keys<P: Platform>(platform: &P, kept: &Kept) -> io::Result<()> {
    let now_us = platform.unix_us();
    let window_us = kept.queue.config.idempotency_window_ms.saturating_mul(1000);
    let oldest_segment = kept.catalogue.first().map_or(0, |segment| segment.identity.first_sequence);
    for path in platform.list(&kept.directory)? {
        let Some(first) = key_file_sequence(&path) else { continue };
        let written_us = platform.metadata(&path)?.modified_us;
        let expired = now_us > written_us.saturating_add(window_us);
        // As long as the segment is there, its file of keys saves the next start a scan.
        if expired && first < oldest_segment {
            platform.remove(&path)?;
        }
    }
    Ok(())
}

fn key_file_sequence(path: &Path) -> Option<Sequence> {
    let is_keys = path.extension().is_some_and(|extension| extension == "keys");
    path.file_stem()?.to_str()?.parse().ok().filter(|_| is_keys)
}
