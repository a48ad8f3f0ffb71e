//! Records that the sink refuses for good, in a file of their own: `dead-letters.ndjson`.
//!
//! A dead letter is written and synced before the position moves past its record, so it
//! is in the file or still undelivered, never neither. If a crash comes between the two,
//! the next start finds the record in the file and does not offer it to the sink again.
//!
//! One line is one record: `{"sequence":…,"reason":"…","ticket":"…", …}`, with the body as
//! `body` if it is UTF-8 text and as `body_base64` if not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dead_letter_index::{DeadLetterIndex, ReasonSpot};
use crate::journal::platform::{Mode, Platform, RandomAccessFile, System};
use crate::planted::{Bug, is_planted};
use crate::record::Sequence;
use crate::record_text::RecordText;
use crate::sink::Delivery;

/// Where a queue's dead letters are.
#[must_use]
pub fn path(directory: &Path) -> PathBuf {
    directory.join("dead-letters.ndjson")
}

/// One line of the file, as it is written. `reason` comes early so that it can be found without
/// reading the body.
#[derive(Serialize)]
struct Line<'a> {
    sequence: Sequence,
    reason: &'a str,
    ticket: &'a str,
    received_at_us: u64,
    #[serde(flatten)]
    parts: RecordText,
}

/// What is read back of a line at the start.
#[derive(Deserialize)]
struct Head {
    sequence: Sequence,
    reason: String,
}

/// A line of the file as it is read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The record's sequence.
    pub sequence: Sequence,
    /// Why it is here.
    pub reason: String,
    /// Its ticket.
    pub ticket: String,
    /// Microseconds since the Unix epoch.
    pub received_at_us: u64,
    /// What the client sent, as text.
    #[serde(flatten)]
    pub parts: RecordText,
}

/// Writes the dead letters of one queue.
pub struct DeadLetterFile<P: Platform = System> {
    path: PathBuf,
    file: P::File,
    bytes: u64,
    bytes_max: u64,
    /// Whether something that is not whole stands behind those bytes.
    has_half_line: bool,
}

/// Why a dead letter could not be set aside. It stays undelivered until it can.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The file has reached its bound.
    #[error(
        "the dead-letter file {} has reached dead_letters_bytes_max = {bytes_max}; move it away or raise the bound, \
         then restart", path.display()
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
        index: &DeadLetterIndex,
    ) -> Result<Self, DeadLetterError> {
        let path = path(directory);
        let failed = |error| DeadLetterError::Io { path: path.clone(), error };
        let open = || -> io::Result<(P::File, u64)> {
            let file = platform.open(&path, Mode::Append)?;
            platform.sync_directory(directory)?;
            let bytes = load(&file, index)?;
            file.set_bytes(bytes)?;
            let reader = file.duplicate()?;
            index.attach(Box::new(move |out, offset| reader.read_exact_at(out, offset)));
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(failed)?;
        Ok(Self { path, file, bytes, bytes_max, has_half_line: false })
    }

    /// Sets a record aside; when this returns, it is on disk and in `index`.
    ///
    /// # Errors
    ///
    /// It could not be written; nothing changed.
    pub fn append(
        &mut self,
        delivery: &Delivery<'_>,
        reason: &str,
        index: &DeadLetterIndex,
    ) -> Result<(), DeadLetterError> {
        let failed = |path: &Path, error| DeadLetterError::Io { path: path.to_owned(), error };
        let line = line(delivery, reason).map_err(|error| failed(&self.path, error))?;
        if self.bytes + line.len() as u64 > self.bytes_max {
            return Err(DeadLetterError::Full { path: self.path.clone(), bytes_max: self.bytes_max });
        }
        if self.has_half_line {
            // Behind it the next line would not be one.
            self.file.set_bytes(self.bytes).map_err(|error| failed(&self.path, error))?;
            self.has_half_line = false;
        }
        let written = self.file.write_all_at(&line, self.bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a line must not stay; if it does, it is cut before the next one, or at the next start.
            self.has_half_line = self.file.set_bytes(self.bytes).is_err();
            return Err(failed(&self.path, error));
        }
        index.insert(delivery.sequence, spot(&line, self.bytes));
        self.bytes += line.len() as u64;
        Ok(())
    }
}

fn line(delivery: &Delivery<'_>, reason: &str) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Line {
        sequence: delivery.sequence,
        reason,
        ticket: delivery.ticket,
        received_at_us: delivery.record.received_at_us,
        parts: RecordText::of(&delivery.record),
    })?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a queue's dead letters without touching the file, which may be in use: each line's offset, and the
/// letter or what is wrong with the line. A last line that is not finished is left out; returns
/// where the whole lines end, and the file's bytes.
///
/// # Errors
///
/// The file cannot be read. A file that is not there has no letters.
pub fn read(
    directory: &Path,
    mut on_line: impl FnMut(u64, Result<DeadLetter, serde_json::Error>) -> io::Result<()>,
) -> io::Result<(u64, u64)> {
    let mut reader = match File::open(path(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        opened => BufReader::new(opened?),
    };
    let mut offset = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        if line.last() != Some(&b'\n') {
            return Ok((offset, offset + length));
        }
        let letter = serde_json::from_slice(&line);
        if letter.is_err() && is_torn(&line, &mut reader)? {
            return Ok((offset, offset + length));
        }
        on_line(offset, letter)?;
        offset += length;
    }
}

/// Whether a line that cannot be read was not synced yet when the power went: it is the last one, and some of its
/// blocks were never written. A line of ours holds no zero byte.
fn is_torn(line: &[u8], behind: &mut impl BufRead) -> io::Result<bool> {
    Ok(line.contains(&0) && behind.fill_buf()?.is_empty())
}

/// Finds the reason's JSON string in a line of ours.
fn spot(line: &[u8], line_offset: u64) -> ReasonSpot {
    const BEFORE: &[u8] = b",\"reason\":";
    let start = line.windows(BEFORE.len()).position(|window| window == BEFORE).map_or(0, |at| at + BEFORE.len());
    let mut escaped = false;
    let end = line[start..].iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    let length = u32::try_from(end.map_or(0, |end| end + 2)).unwrap_or(0);
    ReasonSpot { offset: line_offset + start as u64, length }
}

/// Reads a file from its beginning to its end.
struct FromStart<'a, F> {
    file: &'a F,
    offset: u64,
}

impl<F: RandomAccessFile> Read for FromStart<'_, F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(out, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Reads all lines into `index`; returns the bytes of the whole ones.
fn load<F: RandomAccessFile>(file: &F, index: &DeadLetterIndex) -> io::Result<u64> {
    let mut reader = BufReader::new(FromStart { file, offset: 0 });
    let mut offset = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 || line.last() != Some(&b'\n') {
            return Ok(offset);
        }
        let head: Head = match serde_json::from_slice(&line) {
            Ok(head) => head,
            Err(_) if is_torn(&line, &mut reader)? => return Ok(offset),
            Err(error) => {
                let damaged = format!("the line at byte {offset} is damaged: {error}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
            }
        };
        debug_assert!(!head.reason.is_empty());
        if !is_planted(Bug::ForgetDeadLetters) {
            index.insert(head.sequence, spot(&line, offset));
        }
        offset += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Attributes, Record};
    use proptest::prelude::*;

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
            let index = DeadLetterIndex::default();
            let mut file = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).unwrap();
            for (sequence, (reason, body)) in letters.iter().enumerate() {
                file.append(&delivery(sequence as u64, body), reason, &index).unwrap();
            }
            drop(file);
            let path = path(directory.path());
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let index = DeadLetterIndex::default();
            let mut file = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).unwrap();
            prop_assert_eq!(index.count(), letters.len() as u64 - 1);
            let (last_reason, last_body) = letters.last().unwrap();
            file.append(&delivery(letters.len() as u64 - 1, last_body), last_reason, &index).unwrap();
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
        let open = |index: &DeadLetterIndex| DeadLetterFile::open(&System, directory.path(), 1 << 20, index);
        let index = DeadLetterIndex::default();
        let mut file = open(&index).unwrap();
        for sequence in [1, 2] {
            file.append(&delivery(sequence, b"x"), "why", &index).unwrap();
        }
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        let second = whole.len() / 2;
        let zeroed = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at..at + 10].fill(0);
            std::fs::write(&path, bytes).unwrap();
            let index = DeadLetterIndex::default();
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
        let index = DeadLetterIndex::default();
        let mut file = DeadLetterFile::open(&System, directory.path(), 300, &index).unwrap();
        file.append(&delivery(1, b"x"), "why", &index).unwrap();
        let error = file.append(&delivery(2, &[b'x'; 300]), "why", &index).unwrap_err();
        assert!(error.to_string().contains("dead_letters_bytes_max = 300"), "{error}");
        assert_eq!(index.count(), 1);
    }
}
