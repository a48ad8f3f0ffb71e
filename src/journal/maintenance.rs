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
use crate::queue::{DrainState, Queue};
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
    /// Its segments.
    pub catalogue: Arc<Catalogue>,
}

/// The state of the maintenance thread.
pub struct Maintenance<P = System> {
    platform: P,
    pool: Arc<Pool<P>>,
    queues: Vec<Kept>,
    chores: Receiver<Chore>,
    cursors: Vec<Sequence>,
    /// Which queues the sink has told how far they are delivered. Before that the cursor of the last start says so,
    /// and a database that was set back needs more of the journal than that.
    have_position: Vec<bool>,
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
        let (cursors, have_position) = (vec![0; queues.len()], vec![false; queues.len()]);
        Self {
            platform,
            pool,
            queues,
            chores,
            cursors,
            have_position,
            unsaved: Vec::new(),
            wants_spares: false,
            replenish_failed: false,
        }
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
        for ((kept, cursor), has_position) in self.queues.iter().zip(&mut self.cursors).zip(&mut self.have_position) {
            // The state is published behind the position and is looked at before it.
            *has_position |=
                matches!(kept.queue.drain.state(), DrainState::Running | DrainState::Retrying | DrainState::Paused);
            if *has_position {
                give_back_delivered(&self.platform, &self.pool, kept, cursor);
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

/// Stores how far a queue is delivered, and gives the segments up to there back to the pool.
fn give_back_delivered<P: Platform>(platform: &P, pool: &Pool<P>, kept: &Kept, cursor: &mut Sequence) {
    let delivered = kept.queue.drain.delivered.get();
    if delivered != *cursor {
        match cursor::save(platform, &kept.directory, delivered) {
            Ok(()) => *cursor = delivered,
            Err(error) => tracing::warn!(queue = kept.queue.name, %error, "the cursor could not be stored"),
        }
    }
    let done = delivered + u64::from(is_planted(Bug::RecycleSegmentEarly));
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
