//! The lines of a dead-letter file: letters, what was done with them, and which records have expired.
//!
//! A letter is `{"sequence":…,"reason":"…","ticket":"…", …}`, with the body as `body` if it is UTF-8 text and as
//! `body_base64` if not. An event is `{"event":"…", …}`. One action is one line, whatever it is about: what a power cut
//! leaves half written is then the last line, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dead_letter_index::Spot;
use crate::record::Sequence;
use crate::record_text::RecordText;
use crate::sequence_ranges::SequenceRanges;
use crate::sink::Delivery;

/// Where a queue's dead letters are.
#[must_use]
pub fn path(directory: &Path) -> PathBuf {
    directory.join("dead-letters.ndjson")
}

/// A letter as it is written. `reason` comes early so that it can be found without reading the body.
#[derive(Serialize)]
struct NewLetter<'a> {
    sequence: Sequence,
    reason: &'a str,
    ticket: &'a str,
    received_at_us: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shares_idempotency_key: bool,
    #[serde(flatten)]
    parts: RecordText,
}

/// What the index needs of a letter.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) sequence: Sequence,
    /// Without one the line is damaged.
    #[serde(rename = "reason")]
    _reason: serde::de::IgnoredAny,
}

/// A letter as it is read back.
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
    /// Whether other records came in the same request, under the same idempotency key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_idempotency_key: bool,
    /// What the client sent, as text.
    #[serde(flatten)]
    pub parts: RecordText,
}

/// What was done with letters, by whom, and when (microseconds since the Unix epoch).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the file, which docs/segment-format.md describes")]
pub enum Event {
    /// Names the position of this file's redrives in the sink, and the last number that was given to one.
    File { id: String, last_number: u64 },
    /// Another body counts from here on.
    Edited {
        sequence: Sequence,
        at_us: u64,
        by: String,
        #[serde(flatten)]
        parts: Box<RecordText>,
    },
    /// Letters are to be delivered again, in this order, under numbers without a gap.
    Redrive { first_number: u64, sequences: Vec<Sequence>, rate: String, at_us: u64, by: String },
    /// Letters are not to be delivered again after all.
    Cancelled { sequences: Vec<Sequence>, at_us: u64, by: String },
    /// The sink has refused a letter again.
    Refused { sequence: Sequence, reason: String, number: u64, at_us: u64 },
    /// The sink has committed a letter.
    Redriven { sequence: Sequence, number: u64, at_us: u64 },
    /// Letters were given up.
    Purged { sequences: Vec<Sequence>, at_us: u64, by: String },
    /// Records were dropped when their turn came, since nobody wanted them any more. They never were letters.
    Expired { ranges: SequenceRanges, at_us: u64 },
}

/// A line of the file as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A record that was set aside.
    Letter(Box<DeadLetter>),
    /// What was done with letters.
    Event(Event),
}

const EVENT: &[u8] = b"{\"event\":";

/// Whether a line is an event.
pub(super) fn is_event(line: &[u8]) -> bool {
    line.starts_with(EVENT)
}

pub(super) fn letter_line(delivery: &Delivery<'_>, reason: &str) -> io::Result<Vec<u8>> {
    let record = &delivery.record;
    let letter = NewLetter {
        sequence: delivery.sequence,
        reason,
        ticket: delivery.ticket,
        received_at_us: record.received_at_us,
        shares_idempotency_key: !record.idempotency_key.is_empty() && !record.is_alone(),
        parts: RecordText::of(record),
    };
    to_line(&letter)
}

/// A value as a line of the file.
pub(super) fn to_line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a line.
///
/// # Errors
///
/// It is damaged.
pub fn parse(line: &[u8]) -> Result<Line, serde_json::Error> {
    if is_event(line) {
        serde_json::from_slice(line).map(Line::Event)
    } else {
        serde_json::from_slice(line).map(|letter| Line::Letter(Box::new(letter)))
    }
}

/// Reads the lines of a queue's file without touching it, which may be in use: each line's offset, and the line or what
/// is wrong with it. A last line that is not finished is left out; returns where the whole lines end, and the file's bytes.
///
/// # Errors
///
/// The file cannot be read. A file that is not there has no lines.
pub fn read(
    directory: &Path,
    mut on_line: impl FnMut(u64, Result<Line, serde_json::Error>) -> io::Result<()>,
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
        let read = parse(&line);
        if read.is_err() && is_torn(&line, &mut reader)? {
            return Ok((offset, offset + length));
        }
        on_line(offset, read)?;
        offset += length;
    }
}

/// What has become of the letters of a file that may be in use.
#[derive(Debug, Default)]
pub struct Account {
    /// Letters that were delivered or given up.
    pub gone: BTreeSet<Sequence>,
    /// All letters that there ever were: the drain has nothing to do with them any more.
    pub known: BTreeSet<Sequence>,
    /// Records that were dropped since nobody wanted them any more, with which it has nothing to do either.
    pub expired: SequenceRanges,
    /// What counts instead of a letter's own reason and body.
    reasons: BTreeMap<Sequence, String>,
    bodies: BTreeMap<Sequence, RecordText>,
}

impl Account {
    /// Reads a queue's file once.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut account = Self::default();
        account.read(directory).map(|()| account)
    }

    /// Takes over what a queue's file says. What was read before an error counts.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read(&mut self, directory: &Path) -> io::Result<()> {
        read(directory, |_, line| {
            match line {
                Ok(Line::Letter(letter)) => drop(self.known.insert(letter.sequence)),
                Ok(Line::Event(event)) => self.note(event),
                Err(_) => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Edited { sequence, parts, .. } => drop(self.bodies.insert(sequence, *parts)),
            Event::Refused { sequence, reason, .. } => drop(self.reasons.insert(sequence, reason)),
            Event::Redriven { sequence, .. } => self.leave(sequence),
            Event::Purged { sequences, .. } => sequences.into_iter().for_each(|sequence| self.leave(sequence)),
            Event::Expired { ranges, .. } => self.expired.extend(ranges.iter()),
            Event::File { .. } | Event::Redrive { .. } | Event::Cancelled { .. } => {}
        }
    }

    fn leave(&mut self, sequence: Sequence) {
        self.known.insert(sequence);
        self.gone.insert(sequence);
        self.bodies.remove(&sequence);
        self.reasons.remove(&sequence);
    }

    /// The letter as it counts now; `None` if it is gone.
    #[must_use]
    pub fn current(&self, mut letter: DeadLetter) -> Option<DeadLetter> {
        if self.gone.contains(&letter.sequence) {
            return None;
        }
        if let Some(reason) = self.reasons.get(&letter.sequence) {
            letter.reason.clone_from(reason);
        }
        if let Some(RecordText { body, body_base64, .. }) = self.bodies.get(&letter.sequence) {
            letter.parts.body.clone_from(body);
            letter.parts.body_base64.clone_from(body_base64);
        }
        Some(letter)
    }
}

/// Whether a line that cannot be read was not synced yet when the power went: it is the last one, and some of its
/// blocks were never written. A line of ours holds no zero byte.
pub(super) fn is_torn(line: &[u8], behind: &mut impl BufRead) -> io::Result<bool> {
    Ok(line.contains(&0) && behind.fill_buf()?.is_empty())
}

/// Where a line stands.
pub(super) fn line_spot(line: &[u8], offset: u64) -> Spot {
    Spot { offset, length: u32::try_from(line.len()).unwrap_or(u32::MAX) }
}

/// Finds the reason's JSON string in a line of ours.
pub(super) fn reason_spot(line: &[u8], line_offset: u64) -> Spot {
    const BEFORE: &[u8] = b",\"reason\":";
    let start = line.windows(BEFORE.len()).position(|window| window == BEFORE).map_or(0, |at| at + BEFORE.len());
    let mut escaped = false;
    let end = line[start..].iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    let length = u32::try_from(end.map_or(0, |end| end + 2)).unwrap_or(0);
    Spot { offset: line_offset + start as u64, length }
}
