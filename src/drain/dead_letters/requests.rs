//! What somebody asks for: that letters are edited, delivered again, left where they are after all, or given up.
//!
//! Of letters that are named, all are changed or none. One that waits to be delivered again can neither be edited nor
//! given up.

use std::io;

use super::lines::{self, DeadLetter, Event};
use super::{DeadLetterFile, LetterError};
use crate::dead_letter_index::{Entry, LetterState};
use crate::journal::platform::Platform;
use crate::rate::Rate;
use crate::record::{Record, Sequence};
use crate::record_text::RecordText;

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

impl<P: Platform> DeadLetterFile<P> {
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
}

/// Whether a letter has something to deliver. Only a request that was taken as it came can be without a body, and then its
/// record has the method; any other letter without one is of a record that is lost.
fn has_body(line: &[u8]) -> io::Result<bool> {
    let parts = serde_json::from_slice::<DeadLetter>(line)?.parts;
    Ok(parts.method.is_some() || parts.body.is_none_or(|body| !body.is_empty()))
}
