//! The bytes of a dead-letter file: appended and synced line by line, and rewritten without what nobody needs any more.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lines::{self, Event, Head, path};
use crate::dead_letter_index::{DeadLetterIndex, LetterState};
use crate::journal::platform::{Mode, Platform, RandomAccessFile};
use crate::limits::EXPIRED_RANGES_MAX;
use crate::planted::{Bug, is_planted};
use crate::rate::Rate;
use crate::record::Sequence;

/// Bytes that a rewrite gathers before it writes them.
const REWRITE_BYTES: usize = 1024 * 1024;

/// A dead-letter file that is open.
pub(super) struct Storage<P: Platform> {
    pub(super) platform: P,
    directory: PathBuf,
    file: P::File,
    bytes: u64,
    /// Whether something that is not whole stands behind those bytes.
    has_half_line: bool,
    /// Whether a crash could still bring the file back that this one has replaced.
    has_unsynced_name: bool,
}

/// What a file says of itself.
struct Loaded {
    bytes: u64,
    id: Option<String>,
}

impl<P: Platform> Storage<P> {
    pub(super) fn open(
        platform: &P,
        directory: &Path,
        index: &Arc<DeadLetterIndex>,
    ) -> io::Result<(Self, Option<String>)> {
        let file = platform.open(&path(directory), Mode::Append)?;
        platform.sync_directory(directory)?;
        let Loaded { bytes, id } = load(&file, index)?;
        file.set_bytes(bytes)?;
        attach(&file, index)?;
        let (platform, directory) = (platform.clone(), directory.to_owned());
        Ok((Self { platform, directory, file, bytes, has_half_line: false, has_unsynced_name: false }, id))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a line and syncs it; returns its offset. If it fails, nothing has changed.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<u64> {
        if self.has_unsynced_name {
            self.platform.sync_directory(&self.directory)?;
            self.has_unsynced_name = false;
        }
        if self.has_half_line {
            // Behind it the next line would not be one.
            self.file.set_bytes(self.bytes)?;
            self.has_half_line = false;
        }
        if let Err(error) = self.file.write_all_at(line, self.bytes).and_then(|()| self.file.sync_data()) {
            // Half a line must not stay; if it does, it is cut before the next one, or at the next start.
            self.has_half_line = self.file.set_bytes(self.bytes).is_err();
            return Err(error);
        }
        let offset = self.bytes;
        self.bytes += line.len() as u64;
        Ok(offset)
    }

    /// Writes the file anew without the bodies of letters that have left it, with what has expired in few lines,
    /// and puts it into the old one's place. A crash leaves the one or the other.
    pub(super) fn compact(&mut self, index: &DeadLetterIndex, id: Option<&str>) -> io::Result<()> {
        let growing = self.directory.join("dead-letters-new");
        let file = self.platform.open(&growing, Mode::Append)?;
        // A crash may have left one.
        file.set_bytes(0)?;
        let mut rewrite = Rewrite { file: &file, gathered: Vec::new(), bytes: 0 };
        if let Some(id) = id {
            rewrite.push(&lines::to_line(&Event::File { id: id.to_owned(), last_number: index.last_number() })?)?;
        }
        rewrite.push_expired(index)?;
        each_line(&self.file, |offset, line, _| {
            if offset < self.bytes && is_needed(index, offset, line)? {
                rewrite.push(line)?;
            }
            Ok(true)
        })?;
        rewrite.write()?;
        file.sync_all()?;
        // Read back, so that nothing takes the old one's place that the next start would not take.
        let renewed = DeadLetterIndex::default();
        let Loaded { bytes, .. } = load(&file, &renewed)?;
        attach(&file, &renewed)?;
        self.platform.rename(&growing, &path(&self.directory))?;
        self.has_unsynced_name = true;
        (self.file, self.bytes, self.has_half_line) = (file, bytes, false);
        index.replace(renewed);
        Ok(())
    }
}

/// A file that grows beside the one whose place it is to take.
struct Rewrite<'a, F> {
    file: &'a F,
    gathered: Vec<u8>,
    /// Bytes that are in the file.
    bytes: u64,
}

impl<F: RandomAccessFile> Rewrite<'_, F> {
    fn push(&mut self, line: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(line);
        if self.gathered.len() >= REWRITE_BYTES { self.write() } else { Ok(()) }
    }

    /// All that is known of expired records, in as few lines as there can be.
    fn push_expired(&mut self, index: &DeadLetterIndex) -> io::Result<()> {
        let mut from = Some(0);
        while let Some(first) = from {
            let (ranges, at_us) = index.expired_page(first, EXPIRED_RANGES_MAX);
            let Some(last) = ranges.last() else { break };
            self.push(&lines::to_line(&Event::Expired { ranges, at_us })?)?;
            from = last.checked_add(1);
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.gathered, self.bytes)?;
        self.bytes += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }
}

fn attach<F: RandomAccessFile>(file: &F, index: &DeadLetterIndex) -> io::Result<()> {
    let reader = file.duplicate()?;
    index.attach(Box::new(move |out, offset| reader.read_exact_at(out, offset)));
    Ok(())
}

/// Whether a line says something that still counts, or that must be known of letters that have left.
fn is_needed(index: &DeadLetterIndex, offset: u64, line: &[u8]) -> io::Result<bool> {
    let entry = |sequence: Sequence| index.entry(sequence).unwrap_or_default();
    if !lines::is_event(line) {
        let head: Head = serde_json::from_slice(line)?;
        let entry = entry(head.sequence);
        return Ok(entry.state.is_here() && entry.line.offset == offset);
    }
    Ok(match serde_json::from_slice(line)? {
        // What they say is at the beginning of the rewritten file.
        Event::File { .. } | Event::Expired { .. } => false,
        Event::Edited { sequence, .. } => {
            let entry = entry(sequence);
            entry.state.is_here() && entry.edited.is_some_and(|spot| spot.offset == offset)
        }
        Event::Refused { sequence, .. } => entry(sequence).state.is_here(),
        Event::Redrive { .. } | Event::Cancelled { .. } | Event::Redriven { .. } | Event::Purged { .. } => true,
    })
}

/// Does to the index what an event says.
pub(super) fn apply(index: &DeadLetterIndex, event: &Event, line: &[u8], offset: u64) -> io::Result<()> {
    match event {
        Event::File { last_number, .. } => index.take_numbers(*last_number),
        Event::Edited { sequence, .. } => index.edit(*sequence, lines::line_spot(line, offset)),
        Event::Redrive { first_number, sequences, rate, .. } => {
            let rate: Rate = rate.parse().map_err(|_| io::Error::other("a redrive has a rate that cannot be read"))?;
            index.redrive(*first_number, sequences, rate);
        }
        Event::Cancelled { sequences, .. } => index.settle(sequences, LetterState::Dead),
        Event::Refused { sequence, .. } => index.refuse(*sequence, lines::reason_spot(line, offset)),
        Event::Redriven { sequence, number, .. } => index.settle(&[*sequence], LetterState::Redriven(*number)),
        Event::Purged { sequences, .. } => index.settle(sequences, LetterState::Purged),
        Event::Expired { ranges, at_us } => index.expire(ranges, *at_us, line.len() as u64),
    }
    Ok(())
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

type FileReader<'a, F> = BufReader<FromStart<'a, F>>;

/// Calls `on_line` with the offset of each line that is whole, and with what is behind it, until it says `false`; returns where it ended.
fn each_line<F: RandomAccessFile>(
    file: &F,
    mut on_line: impl FnMut(u64, &[u8], &mut FileReader<'_, F>) -> io::Result<bool>,
) -> io::Result<u64> {
    let mut reader = BufReader::new(FromStart { file, offset: 0 });
    let mut offset = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 || line.last() != Some(&b'\n') || !on_line(offset, &line, &mut reader)? {
            return Ok(offset);
        }
        offset += length as u64;
    }
}

/// Reads all lines into `index`.
fn load<F: RandomAccessFile>(file: &F, index: &DeadLetterIndex) -> io::Result<Loaded> {
    let mut id = None;
    let bytes = each_line(file, |offset, line, behind| {
        let taken = if lines::is_event(line) {
            serde_json::from_slice(line).map(|event| {
                if let Event::File { id: found, .. } = &event {
                    id = Some(found.clone());
                }
                apply(index, &event, line, offset)
            })
        } else {
            serde_json::from_slice(line).map(|head: Head| {
                if !is_planted(Bug::ForgetDeadLetters) {
                    index.insert(head.sequence, lines::line_spot(line, offset), lines::reason_spot(line, offset));
                }
                Ok(())
            })
        };
        match taken {
            Ok(applied) => applied.map(|()| true),
            Err(_) if lines::is_torn(line, behind)? => Ok(false),
            Err(error) => {
                let damaged = format!("the line at byte {offset} is damaged: {error}");
                Err(io::Error::new(io::ErrorKind::InvalidData, damaged))
            }
        }
    })?;
    if let Some(sequence) = index.without_line() {
        let damaged =
            format!("the letter of sequence {sequence} is not in the file, and nothing says that it has left");
        return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
    }
    Ok(Loaded { bytes, id })
}
