//! Records that cannot be delivered, in a file of their own, `dead-letters.ndjson`, and what is done with them.
//!
//! A dead letter is written and synced before the position moves past its record, so it
//! is in the file or still undelivered, never neither. If a crash comes between the two,
//! the next start finds the record in the file and does not offer it to the sink again.
//!
//! A record that nobody wanted any more when its turn came has **expired**. It is no letter: no body is kept, only that it
//! was dropped, one line for a whole batch, written and synced before the position moves past it.
//!
//! Nothing leaves silently: each action is a line of the file, synced before it counts, and what is left of a letter
//! that was delivered or given up is the line that says so. Every writer holds one lock, and the index changes under it.
//!
//! A letter that is to be delivered again has a number, and the sink's position counts numbers as it counts sequences
//! (`docs/decisions/0010-dead-letters-are-a-queue.md`). A number is never given twice for one position.
//!
//! `lines` has the format, `storage` the bytes on the disk, and this module what is kept of both under the lock. On it stand
//! `requests`, which is what somebody asks for, and `redelivery`, which is what the drain does with letters that are due again.

mod error;
mod lines;
mod redelivery;
mod requests;
mod storage;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dead_letter_index::{DeadLetterIndex, Entry};
use crate::journal::platform::{Platform, System};
use crate::limits::{DEAD_LETTERS_COMPACT_BYTES_MIN, EXPIRED_COMPACT_DIVISOR};
use crate::record::Sequence;
use crate::sequence_ranges::SequenceRanges;
use crate::sink::Delivery;

pub use self::error::{DeadLetterError, LetterError};
pub use self::lines::{Account, DeadLetter, Event, Line, path, read};
pub use self::redelivery::Redelivery;
pub use self::requests::{Changed, Request, Selection};
use self::storage::Storage;

/// The dead letters of one queue: the one place that writes their file.
pub struct DeadLetterFile<P: Platform = System> {
    path: PathBuf,
    bytes_max: u64,
    index: Arc<DeadLetterIndex>,
    inner: Mutex<Inner<P>>,
}

struct Inner<P: Platform> {
    storage: Storage<P>,
    /// Names the position of the redrives in the sink; none before the first of them.
    id: Option<String>,
    /// Redrives up to this number may be in the sink, or on their way there.
    sent_through: u64,
    /// A file of fewer bytes is not rewritten unless a line finds no room: the last attempt has failed.
    compact_from_bytes: u64,
}

impl<P: Platform> DeadLetterFile<P> {
    /// Opens the queue's file, or makes it, cuts a line that a crash left unfinished, and puts
    /// what it holds into `index`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a line in it is damaged ([`io::ErrorKind::InvalidData`]).
    pub fn open(
        platform: &P,
        directory: &Path,
        bytes_max: u64,
        index: &Arc<DeadLetterIndex>,
    ) -> Result<Self, DeadLetterError> {
        let path = path(directory);
        let (storage, id) = Storage::open(platform, directory, index)
            .map_err(|error| DeadLetterError::Io { path: path.clone(), error })?;
        // What was with the sink when the last process ended is for the sink's position to say.
        let inner = Mutex::new(Inner { storage, id, sent_through: index.last_number(), compact_from_bytes: 0 });
        Ok(Self { path, bytes_max, index: Arc::clone(index), inner })
    }

    /// Sets a record aside; when this returns, it is on disk and in the index.
    ///
    /// # Errors
    ///
    /// It could not be written; nothing changed.
    pub fn append(&self, delivery: &Delivery<'_>, reason: &str) -> Result<(), DeadLetterError> {
        let line = lines::letter_line(delivery, reason).map_err(self.io())?;
        let mut inner = self.lock();
        self.make_room(&mut inner, &line)?;
        let offset = inner.storage.append(&line).map_err(self.io())?;
        self.index.insert(delivery.sequence, lines::line_spot(&line, offset), lines::reason_spot(&line, offset));
        Ok(())
    }

    /// Drops records that nobody wants any more; when this returns, that they have expired is on disk and in the index.
    /// What is known already of one of them stays as it is.
    ///
    /// # Errors
    ///
    /// It could not be written; nothing changed.
    pub fn expire(&self, sequences: &[Sequence], at_us: u64) -> Result<(), DeadLetterError> {
        let mut inner = self.lock();
        let unknown = sequences.iter().filter(|sequence| !self.index.contains(**sequence));
        let ranges: SequenceRanges = unknown.map(|sequence| *sequence..=*sequence).collect();
        if ranges.count() == 0 {
            return Ok(());
        }
        let event = Event::Expired { ranges, at_us };
        let line = lines::to_line(&event).map_err(self.io())?;
        self.make_room(&mut inner, &line)?;
        self.write_line(&mut inner, &event, &line)?;
        self.tidy(&mut inner);
        Ok(())
    }

    /// A letter as it counts now: with its last reason and its last body.
    ///
    /// # Errors
    ///
    /// There is none, it is gone, or it cannot be read.
    pub fn letter(&self, sequence: Sequence) -> Result<(Entry, DeadLetter), LetterError> {
        let entry = self.here(sequence)?;
        Ok((entry, self.read_letter(sequence)?))
    }

    /// Dead letters behind a sequence, at most so many and not many more bytes than this of their lines.
    ///
    /// # Errors
    ///
    /// One cannot be read.
    pub fn page(&self, after: Sequence, limit: usize, bytes: u64) -> Result<Vec<(Entry, DeadLetter)>, LetterError> {
        let mut left = bytes;
        let mut letters = Vec::new();
        for (sequence, entry) in self.index.page(after, limit) {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(u64::from(entry.line.length));
            match self.read_letter(sequence) {
                Ok(letter) => letters.push((entry, letter)),
                // Redriven or purged since the page was made.
                Err(_) if self.here(sequence).is_err() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(letters)
    }

    /// A letter that is still here.
    fn here(&self, sequence: Sequence) -> Result<Entry, LetterError> {
        let entry = self.index.entry(sequence).ok_or(LetterError::Unknown(sequence))?;
        if entry.state.is_here() { Ok(entry) } else { Err(LetterError::Gone(sequence)) }
    }

    fn read_letter(&self, sequence: Sequence) -> Result<DeadLetter, DeadLetterError> {
        let read = || -> io::Result<DeadLetter> {
            let mut letter: DeadLetter =
                self.index.read_of(sequence, |entry| entry.line, |line| Ok(serde_json::from_slice(line)?))?;
            letter.reason =
                self.index.read_of(sequence, |entry| entry.reason, |text| Ok(serde_json::from_slice(text)?))?;
            if self.index.entry(sequence).is_some_and(|entry| entry.edited.is_some()) {
                let edited = |entry: &Entry| entry.edited.unwrap_or_default();
                let event = self.index.read_of(sequence, edited, |line| Ok(serde_json::from_slice(line)?))?;
                let Event::Edited { parts, .. } = event else { return Err(io::ErrorKind::InvalidData.into()) };
                (letter.parts.body, letter.parts.body_base64) = (parts.body, parts.body_base64);
            }
            Ok(letter)
        };
        read().map_err(self.io())
    }

    /// Writes an event, and does what it says once it is on disk.
    fn write(&self, inner: &mut Inner<P>, event: &Event) -> Result<(), DeadLetterError> {
        let line = lines::to_line(event).map_err(self.io())?;
        self.write_line(inner, event, &line)
    }

    fn write_line(&self, inner: &mut Inner<P>, event: &Event, line: &[u8]) -> Result<(), DeadLetterError> {
        let offset = inner.storage.append(line).map_err(self.io())?;
        storage::apply(&self.index, event, line, offset).map_err(self.io())
    }

    /// Sees to it that a line fits which has a body, or tells of what has expired. What is done with letters is noted
    /// beyond the bound, or nothing could be done any more with a file that is full.
    fn make_room(&self, inner: &mut Inner<P>, line: &[u8]) -> Result<(), DeadLetterError> {
        let fits = |inner: &Inner<P>| inner.storage.bytes() + line.len() as u64 <= self.bytes_max;
        let saves_enough =
            || self.index.expired_gone_bytes() >= (inner.storage.bytes() / EXPIRED_COMPACT_DIVISOR).max(1);
        if !fits(inner) && (self.index.gone_bytes() > 0 || saves_enough()) {
            self.compact(inner)?;
        }
        if fits(inner) {
            Ok(())
        } else {
            Err(DeadLetterError::Full { path: self.path.clone(), bytes_max: self.bytes_max })
        }
    }

    /// Rewrites the file once that is worth it. If it fails, everything stays as it is, and the room is missed when a
    /// line finds none.
    fn tidy(&self, inner: &mut Inner<P>) {
        let gone = self.index.gone_bytes() + self.index.expired_gone_bytes();
        let bytes = inner.storage.bytes();
        if gone < DEAD_LETTERS_COMPACT_BYTES_MIN || gone * 2 < bytes || bytes < inner.compact_from_bytes {
            return;
        }
        if let Err(error) = self.compact(inner) {
            // A disk that is full is not asked again for every batch that expires.
            inner.compact_from_bytes = bytes + DEAD_LETTERS_COMPACT_BYTES_MIN;
            tracing::warn!(path = %self.path.display(), %error, "the dead-letter file could not be made smaller");
        }
    }

    fn compact(&self, inner: &mut Inner<P>) -> Result<(), DeadLetterError> {
        let before = inner.storage.bytes();
        inner.storage.compact(&self.index, inner.id.as_deref()).map_err(self.io())?;
        inner.compact_from_bytes = 0;
        let after = inner.storage.bytes();
        tracing::info!(path = %self.path.display(), before, after, "the dead-letter file was rewritten without what has left it");
        Ok(())
    }

    fn io(&self) -> impl Fn(io::Error) -> DeadLetterError + '_ {
        |error| DeadLetterError::Io { path: self.path.clone(), error }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<P>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
