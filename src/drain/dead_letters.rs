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

mod lines;
mod storage;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dead_letter_index::{DeadLetterIndex, Entry, LetterState, Spot};
use crate::journal::platform::{Platform, System};
use crate::limits::{DEAD_LETTERS_COMPACT_BYTES_MIN, EXPIRED_COMPACT_DIVISOR, REDRIVE_RATE};
use crate::rate::Rate;
use crate::record::{AttributeValues, Attributes, Headers, NO_KEY, Record, Sequence};
use crate::record_text::RecordText;
use crate::sequence_ranges::SequenceRanges;
use crate::sink::Delivery;

pub use self::lines::{Account, DeadLetter, Event, Line, path, read};
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

/// Which letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that nobody has decided about.
    All,
    /// These.
    These(Vec<Sequence>),
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who.
    pub by: &'a str,
    /// Microseconds since the Unix epoch.
    pub at_us: u64,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Letters that it was about.
    pub count: u64,
    /// Letters that had to stay as they were.
    pub skipped: u64,
}

/// Why something cannot be done with a letter. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// There is none.
    #[error("there is no dead letter with the sequence {0}")]
    Unknown(Sequence),
    /// It was delivered or given up.
    #[error("the dead letter {0} is gone: it was redriven or purged")]
    Gone(Sequence),
    /// It is on its way.
    #[error("the dead letter {0} is being redriven; cancel the redrive first")]
    Redriving(Sequence),
    /// It stands for a record that was lost.
    #[error("the dead letter {0} has no body, since its record was lost; give it one first")]
    NoBody(Sequence),
    /// The file cannot take it.
    #[error(transparent)]
    File(#[from] DeadLetterError),
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The file has reached its bound.
    #[error(
        "the dead-letter file {} has reached dead_letters_bytes_max = {bytes_max}; redrive or purge letters, \
         or raise the bound and restart", path.display()
    )]
    Full {
        /// Which file.
        path: PathBuf,
        /// The bound in bytes.
        bytes_max: u64,
    },
    /// The disk said no.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// A letter on its way to the sink once more.
#[derive(Debug)]
pub struct Redelivery {
    letter: DeadLetter,
    /// What of its request is delivered with it; when it was due, and to whose share it belonged, counts no more.
    attributes: Vec<u8>,
    body: Vec<u8>,
}

fn text(part: Option<&String>) -> &[u8] {
    part.map_or(b"", |part| part.as_bytes())
}

impl Redelivery {
    fn new(letter: DeadLetter) -> io::Result<Self> {
        let body = letter.parts.body()?;
        let headers = letter.parts.encoded_headers();
        let values = AttributeValues {
            method: text(letter.parts.method.as_ref()),
            target: text(letter.parts.path.as_ref()),
            headers: Headers::read(&headers).unwrap_or_default(),
            ..AttributeValues::default()
        };
        let mut attributes = Vec::new();
        values.encode(&mut attributes).map_err(io::Error::other)?;
        Ok(Self { letter, attributes, body })
    }

    /// As the sink takes it: under its own sequence and ticket. No key stands in its way, since it does not pass the
    /// journal again.
    #[must_use]
    pub fn delivery(&self) -> Delivery<'_> {
        let parts = &self.letter.parts;
        let record = Record {
            received_at_us: self.letter.received_at_us,
            idempotency_hash: NO_KEY,
            group_count: u32::from(!self.letter.shares_idempotency_key),
            key: text(parts.key.as_ref()),
            idempotency_key: text(parts.idempotency_key.as_ref()),
            content_type: text(parts.content_type.as_ref()),
            attributes: Attributes::read(&self.attributes).unwrap_or_default(),
            body: &self.body,
        };
        Delivery { sequence: self.letter.sequence, record, ticket: &self.letter.ticket }
    }
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
        self.index.insert(delivery.sequence, whole(&line, offset), lines::reason_spot(&line, offset));
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

    /// Puts another body in the place of a letter's; the line with its own stays in the file.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn edit(&self, sequence: Sequence, body: &[u8], request: Request<'_>) -> Result<(), LetterError> {
        let mut inner = self.lock();
        self.undecided(sequence)?;
        let record = Record { body, ..Record::lost(0, b"") };
        let (by, at_us) = (request.by.to_owned(), request.at_us);
        let event = Event::Edited { sequence, at_us, by, parts: Box::new(RecordText::of(&record)) };
        let line = lines::to_line(&event).map_err(self.io())?;
        self.make_room(&mut inner, &line)?;
        self.write_line(&mut inner, &event, &line)?;
        self.index.note_edit();
        Ok(())
    }

    /// Has letters delivered again, at this rate, which counts for all that wait. They count as dead letters until they are.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn redrive(&self, which: &Selection, rate: Rate, request: Request<'_>) -> Result<Changed, LetterError> {
        let mut inner = self.lock();
        let mut sequences = self.select(which)?;
        let before = sequences.len();
        let mut refused = None;
        sequences.retain(|sequence| {
            let entry = self.index.entry(*sequence).unwrap_or_default();
            let has_body =
                entry.edited.is_some() || self.index.read_of(*sequence, |entry| entry.line, has_body).unwrap_or(true);
            if !has_body {
                refused = Some(*sequence);
            }
            has_body
        });
        if let (Selection::These(_), Some(sequence)) = (which, refused) {
            return Err(LetterError::NoBody(sequence));
        }
        let changed = Changed { count: sequences.len() as u64, skipped: (before - sequences.len()) as u64 };
        if sequences.is_empty() {
            return Ok(changed);
        }
        if inner.id.is_none() {
            let id = format!("{:016x}", inner.storage.platform.random().map_err(self.io())?);
            self.write(&mut inner, &Event::File { id: id.clone(), last_number: self.index.last_number() })?;
            inner.id = Some(id);
        }
        let first_number = self.index.last_number() + 1;
        let (by, at_us) = (request.by.to_owned(), request.at_us);
        self.write(&mut inner, &Event::Redrive { first_number, sequences, rate: rate.to_string(), at_us, by })?;
        Ok(changed)
    }

    /// Leaves the letters where they are that wait to be delivered again and are not on their way yet.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn cancel(&self, request: Request<'_>) -> Result<Changed, LetterError> {
        let mut inner = self.lock();
        let waiting = self.index.redrives();
        let all = waiting.len();
        let waiting = waiting.into_iter().filter(|(number, _)| *number > inner.sent_through);
        let sequences: Vec<_> = waiting.map(|(_, sequence)| sequence).collect();
        let changed = Changed { count: sequences.len() as u64, skipped: (all - sequences.len()) as u64 };
        if !sequences.is_empty() {
            let (by, at_us) = (request.by.to_owned(), request.at_us);
            self.write(&mut inner, &Event::Cancelled { sequences, at_us, by })?;
        }
        Ok(changed)
    }

    /// Gives letters up. Their bodies leave the file when it is worth it, the line about them never does.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn purge(&self, which: &Selection, request: Request<'_>) -> Result<Changed, LetterError> {
        let mut inner = self.lock();
        let sequences = self.select(which)?;
        let changed = Changed { count: sequences.len() as u64, skipped: self.skipped(which) };
        if sequences.is_empty() {
            return Ok(changed);
        }
        let (by, at_us) = (request.by.to_owned(), request.at_us);
        self.write(&mut inner, &Event::Purged { sequences, at_us, by })?;
        // Somebody may have made room on the disk.
        inner.compact_from_bytes = 0;
        self.tidy(&mut inner);
        Ok(changed)
    }

    /// What names the position of the redrives in the sink; `None` as long as there was none.
    #[must_use]
    pub fn redrive_id(&self) -> Option<String> {
        self.lock().id.clone()
    }

    /// The sink's position of the redrives is known: what is behind it has not been sent.
    pub fn decided(&self, position: u64) {
        self.lock().sent_through = position;
    }

    /// The letter with this number is about to be sent; `None` if somebody has cancelled it.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn send(&self, number: u64, sequence: Sequence) -> Result<Option<Redelivery>, DeadLetterError> {
        let mut inner = self.lock();
        if self.index.next_redrive() != Some((number, sequence)) {
            return Ok(None);
        }
        let letter = Redelivery::new(self.read_letter(sequence)?).map_err(self.io())?;
        inner.sent_through = number;
        Ok(Some(letter))
    }

    /// The sink has committed this letter.
    ///
    /// # Errors
    ///
    /// It could not be noted; the sink's position says it all the same.
    pub fn redriven(&self, number: u64, sequence: Sequence, at_us: u64) -> Result<(), DeadLetterError> {
        self.write(&mut self.lock(), &Event::Redriven { sequence, number, at_us })
    }

    /// The sink has refused this letter again.
    ///
    /// # Errors
    ///
    /// It could not be noted; it will be tried again then.
    pub fn refused(&self, number: u64, sequence: Sequence, reason: &str, at_us: u64) -> Result<(), DeadLetterError> {
        let reason = reason.to_owned();
        self.write(&mut self.lock(), &Event::Refused { sequence, reason, number, at_us })
    }

    /// Has letters delivered once more that the sink had committed, and no longer has. Returns how many of them cannot
    /// be, since their bodies have left the file.
    ///
    /// # Errors
    ///
    /// It could not be noted.
    pub fn revive(&self, position: u64, at_us: u64) -> Result<usize, DeadLetterError> {
        let mut inner = self.lock();
        let lost = self.index.redriven_behind(position);
        let (whole, gone): (Vec<_>, Vec<_>) = lost.into_iter().partition(|(_, _, entry)| entry.line.length > 0);
        for (first_number, sequence, _) in whole {
            let rate = self.index.redrive_rate().unwrap_or(REDRIVE_RATE).to_string();
            let by = "forebay: the database was set back".to_owned();
            self.write(&mut inner, &Event::Redrive { first_number, sequences: vec![sequence], rate, at_us, by })?;
        }
        Ok(gone.len())
    }

    /// A letter that is still here.
    fn here(&self, sequence: Sequence) -> Result<Entry, LetterError> {
        let entry = self.index.entry(sequence).ok_or(LetterError::Unknown(sequence))?;
        if entry.state.is_here() { Ok(entry) } else { Err(LetterError::Gone(sequence)) }
    }

    /// A letter that nobody has decided about.
    fn undecided(&self, sequence: Sequence) -> Result<Entry, LetterError> {
        let entry = self.here(sequence)?;
        if entry.state == LetterState::Dead { Ok(entry) } else { Err(LetterError::Redriving(sequence)) }
    }

    fn select(&self, which: &Selection) -> Result<Vec<Sequence>, LetterError> {
        let mut sequences = match which {
            Selection::All => {
                let all = self.index.page(0, usize::MAX);
                all.into_iter()
                    .filter(|(_, entry)| entry.state == LetterState::Dead)
                    .map(|(sequence, _)| sequence)
                    .collect()
            }
            Selection::These(sequences) => {
                sequences.iter().try_for_each(|sequence| self.undecided(*sequence).map(drop))?;
                sequences.clone()
            }
        };
        sequences.sort_unstable();
        sequences.dedup();
        Ok(sequences)
    }

    fn skipped(&self, which: &Selection) -> u64 {
        if *which == Selection::All { self.index.redriving() } else { 0 }
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

fn whole(line: &[u8], offset: u64) -> Spot {
    Spot { offset, length: u32::try_from(line.len()).unwrap_or(u32::MAX) }
}

/// Whether a letter has something to deliver. Only a request that was taken as it came can be without a body, and then its
/// record has the method; any other letter without one is of a record that is lost.
fn has_body(line: &[u8]) -> io::Result<bool> {
    let parts = serde_json::from_slice::<DeadLetter>(line)?.parts;
    Ok(parts.method.is_some() || parts.body.is_none_or(|body| !body.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter_index::Fate;
    use crate::limits::EXPIRED_RANGES_MAX;
    use crate::record::{Attributes, Record};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn delivery(sequence: Sequence, body: &[u8]) -> Delivery<'_> {
        let record = Record {
            received_at_us: 1,
            idempotency_hash: [0; 16],
            group_count: 1,
            key: b"k\xff",
            idempotency_key: b"",
            content_type: b"text/plain",
            attributes: Attributes::NONE,
            body,
        };
        Delivery { sequence, record, ticket: "orders-1-0" }
    }

    proptest! {
        #[test]
        fn reasons_and_sequences_survive_a_restart_and_a_torn_line(
            letters in prop::collection::vec((".{1,60}", prop::collection::vec(any::<u8>(), 0..80)), 1..8),
            cut in 1_usize..30,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let index = Arc::<DeadLetterIndex>::default();
            let file = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).unwrap();
            for (sequence, (reason, body)) in letters.iter().enumerate() {
                file.append(&delivery(sequence as u64, body), reason).unwrap();
            }
            drop(file);
            let path = path(directory.path());
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let index = Arc::<DeadLetterIndex>::default();
            let file = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).unwrap();
            prop_assert_eq!(index.count(), letters.len() as u64 - 1);
            let (last_reason, last_body) = letters.last().unwrap();
            file.append(&delivery(letters.len() as u64 - 1, last_body), last_reason).unwrap();
            prop_assert_eq!(std::fs::read(&path).unwrap(), whole);
            for (sequence, (expected, _)) in letters.iter().enumerate() {
                prop_assert_eq!(index.reason(sequence as u64).unwrap(), Some(expected.clone()));
            }
        }
    }

    #[test]
    fn only_the_last_line_may_have_blocks_that_were_never_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path());
        let open = |index: &Arc<DeadLetterIndex>| DeadLetterFile::open(&System, directory.path(), 1 << 20, index);
        let index = Arc::<DeadLetterIndex>::default();
        let file = open(&index).unwrap();
        for sequence in [1, 2] {
            file.append(&delivery(sequence, b"x"), "why").unwrap();
        }
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        let second = whole.len() / 2;
        let zeroed = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at..at + 10].fill(0);
            std::fs::write(&path, bytes).unwrap();
            let index = Arc::<DeadLetterIndex>::default();
            let mut whole_lines = 0;
            let (end, _) = read(directory.path(), |_, line| {
                whole_lines += u64::from(line.is_ok());
                Ok(())
            })
            .unwrap();
            open(&index).map(|_| (index.count(), whole_lines, end))
        };
        assert_eq!(zeroed(second + 20).unwrap(), (1, 1, second as u64));
        assert!(matches!(zeroed(20), Err(DeadLetterError::Io { .. })));
    }

    #[test]
    fn the_bound_holds_and_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let index = Arc::<DeadLetterIndex>::default();
        let file = DeadLetterFile::open(&System, directory.path(), 300, &index).unwrap();
        file.append(&delivery(1, b"x"), "why").unwrap();
        let error = file.append(&delivery(2, &[b'x'; 300]), "why").unwrap_err();
        assert!(error.to_string().contains("dead_letters_bytes_max = 300"), "{error}");
        assert_eq!(index.count(), 1);
    }

    fn open(directory: &Path, bytes_max: u64) -> (DeadLetterFile, Arc<DeadLetterIndex>) {
        let index = Arc::<DeadLetterIndex>::default();
        let file = DeadLetterFile::open(&System, directory, bytes_max, &index).unwrap();
        (file, index)
    }

    /// What can be seen of each letter, and what the sink's position must be compared with.
    fn state(file: &DeadLetterFile, index: &DeadLetterIndex) -> impl PartialEq + std::fmt::Debug + use<> {
        let letters: Vec<_> =
            (0..9).map(|n| (index.entry(n).map(|e| e.state), file.letter(n).ok().map(|l| l.1))).collect();
        let counts = [index.count(), index.redriving(), index.redriven(), index.purged(), index.last_number()];
        let expired = (index.expired(), index.expired_page(0, usize::MAX));
        (letters, counts, index.redrives(), index.redrive_rate(), file.redrive_id(), expired)
    }

    const BY: Request<'static> = Request { by: "ann", at_us: 7 };
    const RATE: Rate = Rate::Limited { records: 1, period_ns: 20 };

    proptest! {
        /// Whatever is done, another start and a rewrite of the file know the same; numbers are never given twice.
        #[test]
        fn what_was_done_survives_a_restart_and_a_rewrite(steps in prop::collection::vec((0_u8..10, 1_u64..9), 1..40)) {
            let directory = tempfile::tempdir().unwrap();
            let (mut file, mut index) = open(directory.path(), 1 << 20);
            let mut expired = BTreeSet::new();
            for (at_us, (step, n)) in (1..).zip(steps) {
                let these = Selection::These(vec![n]);
                let last_number = index.last_number();
                match step {
                    0 | 1 if !index.contains(n) => file.append(&delivery(n, b"body"), "why").unwrap(),
                    2 => drop(file.edit(n, &n.to_le_bytes(), BY)),
                    3 => drop(file.redrive(&these, RATE, BY)),
                    4 => drop(file.purge(&these, BY)),
                    5 => drop(file.cancel(BY)),
                    6 | 7 => {
                        if let Some((number, sequence)) = index.next_redrive() {
                            prop_assert!(file.send(number, sequence).unwrap().is_some());
                            if step == 6 {
                                file.redriven(number, sequence, 7).unwrap();
                            } else {
                                file.refused(number, sequence, "why again", 7).unwrap();
                            }
                        }
                    }
                    8 => {
                        // A letter stays one, whatever is asked for, and what has expired never becomes one.
                        let asked: Vec<_> = (n..n + 3).collect();
                        expired.extend(asked.iter().filter(|sequence| index.entry(**sequence).is_none()));
                        file.expire(&asked, at_us).unwrap();
                    }
                    _ => file.compact(&mut file.lock()).unwrap(),
                }
                let says = |n: &u64| matches!(index.fate(*n), Ok(Some(Fate::Expired)));
                prop_assert_eq!((1..12).filter(says).collect::<Vec<_>>(), expired.iter().copied().collect::<Vec<_>>());
                prop_assert!(expired.iter().all(|n| index.contains(*n) && index.entry(*n).is_none()));
                prop_assert!(index.last_number() >= last_number);
                let before = state(&file, &index);
                (file, index) = open(directory.path(), 1 << 20);
                prop_assert!(state(&file, &index) == before, "{:?}, then {before:?}", state(&file, &index));
                // As after a take-over: nothing is on its way.
                file.decided(0);
            }
        }
    }

    #[test]
    fn what_has_expired_is_no_letter_and_costs_one_range_however_much_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (file, index) = open(directory.path(), 1 << 30);
        file.append(&delivery(3, b"x"), "why").unwrap();
        file.expire(&[1, 2, 3], 7).unwrap();
        let text = std::fs::read_to_string(path(directory.path())).unwrap();
        assert!(text.ends_with("{\"event\":\"expired\",\"ranges\":[[1,2]],\"at_us\":7}\n"), "{text}");
        // What is known is not written again.
        file.expire(&[2, 3], 8).unwrap();
        assert_eq!(std::fs::read_to_string(path(directory.path())).unwrap(), text);
        assert_eq!((index.expired(), index.count(), index.page(0, 9).len()), (2, 1, 1));
        assert!(matches!(file.letter(1), Err(LetterError::Unknown(1))));
        for refused in [file.redrive(&Selection::These(vec![1]), RATE, BY), file.purge(&Selection::These(vec![1]), BY)]
        {
            assert!(matches!(refused, Err(LetterError::Unknown(1))), "{refused:?}");
        }
        assert_eq!((index.fate(1).unwrap(), index.reason(1).unwrap()), (Some(Fate::Expired), None));
        for first in (4..1_000_004).step_by(5000) {
            file.expire(&(first..first + 5000).collect::<Vec<_>>(), 9).unwrap();
        }
        assert_eq!((index.expired(), index.expired_page(0, 9).0.ranges_count()), (1_000_002, 2));
        assert!(index.expired_gone_bytes() > 0);
        file.compact(&mut file.lock()).unwrap();
        let (_, index) = open(directory.path(), 1 << 20);
        let text = std::fs::read_to_string(path(directory.path())).unwrap();
        assert!(text.starts_with("{\"event\":\"expired\",\"ranges\":[[1,2],[4,1000003]],\"at_us\":9}\n"), "{text}");
        assert_eq!((text.lines().count(), index.expired(), index.expired_gone_bytes()), (2, 1_000_002, 0));
    }

    /// A line for each record, none beside another: the worst that a queue can do.
    #[test]
    fn lines_about_what_has_expired_make_room_by_becoming_few() {
        const RECORDS: u64 = 300;
        const BYTES_MAX: u64 = 6000;
        let directory = tempfile::tempdir().unwrap();
        let (file, index) = open(directory.path(), BYTES_MAX);
        for sequence in (1..=RECORDS).map(|n| 2 * n) {
            file.expire(&[sequence], sequence).unwrap();
            assert!(file.lock().storage.bytes() <= BYTES_MAX);
        }
        drop(file);
        let (file, again) = open(directory.path(), BYTES_MAX);
        assert_eq!((index.expired(), again.expired_page(0, usize::MAX)), (RECORDS, index.expired_page(0, usize::MAX)));
        // The bound holds all the same: what can be made no smaller is refused, and nothing changes.
        let beyond = (1..=BYTES_MAX)
            .map(|n| 2 * RECORDS + 2 * n)
            .find(|sequence| file.expire(&[*sequence], 7).is_err())
            .unwrap();
        assert!(matches!(file.expire(&[beyond], 7), Err(DeadLetterError::Full { .. })));
        assert!(!again.contains(beyond) && std::fs::metadata(path(directory.path())).unwrap().len() <= BYTES_MAX);
    }

    #[test]
    fn many_ranges_are_rewritten_as_lines_of_bounded_length() {
        let directory = tempfile::tempdir().unwrap();
        let (file, index) = open(directory.path(), 1 << 20);
        let apart: Vec<_> = (0..=2 * EXPIRED_RANGES_MAX as u64).map(|n| 2 * n).collect();
        file.expire(&apart, 7).unwrap();
        file.compact(&mut file.lock()).unwrap();
        let text = std::fs::read_to_string(path(directory.path())).unwrap();
        let ranges: Vec<_> = text.lines().map(|line| line.matches("],").count()).collect();
        assert_eq!(ranges, [EXPIRED_RANGES_MAX, EXPIRED_RANGES_MAX, 1]);
        let (_, again) = open(directory.path(), 1 << 20);
        assert_eq!(again.expired_page(0, usize::MAX), index.expired_page(0, usize::MAX));
        assert_eq!((again.expired(), again.expired_gone_bytes()), (apart.len() as u64, 0));
    }

    #[test]
    fn a_rewrite_that_fails_waits_for_more_or_for_somebody() {
        let directory = tempfile::tempdir().unwrap();
        let (file, index) = open(directory.path(), 1 << 30);
        let in_the_way = directory.path().join("dead-letters-new");
        std::fs::create_dir(&in_the_way).unwrap();
        let bytes = || file.lock().storage.bytes();
        let mut first = 1_000_000;
        let mut expire_apart_and_then_between = || {
            for offset in [0, 1] {
                file.expire(&(0..5000).map(|n| first + 2 * n + offset).collect::<Vec<_>>(), 7).unwrap();
            }
            first += 10_000;
        };
        while index.expired_gone_bytes() < DEAD_LETTERS_COMPACT_BYTES_MIN {
            expire_apart_and_then_between();
        }
        let from_bytes = file.lock().compact_from_bytes;
        assert!(from_bytes > bytes(), "{from_bytes}");
        std::fs::remove_dir(&in_the_way).unwrap();
        while bytes() < from_bytes - 400_000 {
            expire_apart_and_then_between();
        }
        assert_eq!(file.lock().compact_from_bytes, from_bytes, "it was not waited for");
        file.append(&delivery(1, b"x"), "why").unwrap();
        file.purge(&Selection::These(vec![1]), BY).unwrap();
        assert!(bytes() < 1000 && file.lock().compact_from_bytes == 0, "{}", bytes());
        let expired = index.expired();
        while index.expired_gone_bytes() > 0 || index.expired() == expired {
            assert!(bytes() < 2 * DEAD_LETTERS_COMPACT_BYTES_MIN, "nothing was rewritten");
            expire_apart_and_then_between();
        }
        assert_eq!(open(directory.path(), 1 << 20).1.expired(), index.expired());
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(path(directory.path()), "{\"event\":\"expired\",\"ranges\":[[9,4]],\"at_us\":1}\n").unwrap();
        let index = Arc::<DeadLetterIndex>::default();
        let error = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).err().unwrap().to_string();
        assert!(error.contains("the line at byte 0 is damaged: the range 9 to 4"), "{error}");
    }

    #[test]
    fn a_rewrite_drops_the_bodies_of_what_has_left_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (file, index) = open(directory.path(), 1 << 20);
        for sequence in 1..=3 {
            file.append(&delivery(sequence, &[b'a' + u8::try_from(sequence).unwrap(); 500]), "why").unwrap();
        }
        file.redrive(&Selection::These(vec![1]), RATE, BY).unwrap();
        file.redriven(1, 1, 7).unwrap();
        file.purge(&Selection::These(vec![2]), BY).unwrap();
        let before = file.letter(3).unwrap();
        file.compact(&mut file.lock()).unwrap();
        let text = std::fs::read_to_string(path(directory.path())).unwrap();
        assert!(!text.contains("bbb") && !text.contains("ccc") && text.contains("ddd"), "{text}");
        assert!(text.contains("\"purged\"") && text.contains("\"redriven\"") && text.contains("ann"), "{text}");
        assert_eq!((file.letter(3).unwrap().1, index.gone_bytes()), (before.1, 0));
        // Their bodies are gone, so a database that was set back cannot have them again; what is here still can.
        assert_eq!(file.revive(0, 7).unwrap(), 1);
        file.append(&delivery(4, b"x"), "why").unwrap();
        let (file, index) = open(directory.path(), 1 << 20);
        assert_eq!((index.count(), file.letter(4).unwrap().1.reason.as_str()), (2, "why"));
        assert!(matches!(file.letter(2), Err(LetterError::Gone(2))));
    }

    #[test]
    fn what_is_on_its_way_can_neither_be_cancelled_nor_purged() {
        let directory = tempfile::tempdir().unwrap();
        let (file, index) = open(directory.path(), 1 << 20);
        file.append(&delivery(1, b"x"), "why").unwrap();
        file.append(&delivery(2, b""), "lost").unwrap();
        assert!(matches!(file.redrive(&Selection::These(vec![2]), RATE, BY), Err(LetterError::NoBody(2))));
        assert_eq!(file.redrive(&Selection::All, RATE, BY).unwrap(), Changed { count: 1, skipped: 1 });
        let letter = file.send(1, 1).unwrap().unwrap();
        assert_eq!((letter.delivery().record.body, letter.delivery().ticket), (&b"x"[..], "orders-1-0"));
        assert_eq!(file.cancel(BY).unwrap(), Changed { count: 0, skipped: 1 });
        assert!(matches!(file.purge(&Selection::These(vec![1]), BY), Err(LetterError::Redriving(1))));
        // After a crash nobody knows, until the sink has said it.
        let (again, _) = open(directory.path(), 1 << 20);
        assert_eq!(again.cancel(BY).unwrap().count, 0);
        again.decided(0);
        assert_eq!(again.cancel(BY).unwrap().count, 1);
        drop((file, index));
    }

    #[test]
    fn a_letter_whose_line_is_gone_without_a_word_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let event = r#"{"event":"cancelled","sequences":[4],"at_us":1,"by":"ann"}"#;
        std::fs::write(path(directory.path()), format!("{event}\n")).unwrap();
        let index = Arc::<DeadLetterIndex>::default();
        let error = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).err().unwrap();
        assert!(error.to_string().contains("sequence 4 is not in the file"), "{error}");
    }
}
