//! A segment as the tools see it: its bytes, read without touching the file, and what can be
//! known of them when parts are damaged.
//!
//! The file may be in use: a batch may be half written while it is read, and the journal may
//! take the file away when all of it is delivered. So what looks like damage is read again
//! before it is believed ([`read`]). That settles it, because the journal has one commit in
//! flight: a batch that something valid follows was on disk before the second look began.

use std::io;
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

use super::format::{BatchHeader, Footer, FormatError, SegmentIdentity};
use super::platform::{Mode, Platform, RandomAccessFile, is_unreadable};
use super::salvage::identity_without_header;
use super::scan::{DamagedRange, LogEnd, Piece, Pieces};
use super::segment_file::aligned_buffer;
use crate::limits::BLOCK_BYTES;
use crate::record::Sequence;

/// Bytes that are read at once.
const READ_STEP_BYTES: usize = 1 << 20;
/// Reads of one segment until two of them show the same.
const READS_MAX: usize = 8;

/// A segment's bytes and what they say.
pub struct SegmentImage {
    /// The file.
    pub path: PathBuf,
    /// The sequence in its name.
    pub named_sequence: Sequence,
    /// Which life of the file it is. If the header is damaged, this is what its batches say; if
    /// they say nothing either, the generation is 0, which no batch has.
    pub identity: SegmentIdentity,
    /// What is wrong with the header.
    pub header: Result<(), FormatError>,
    /// The footer; `None` if the segment is not sealed.
    pub footer: Result<Option<Footer>, FormatError>,
    /// Offsets of blocks that the disk does not give out.
    pub unreadable: Vec<usize>,
    /// What stands around it.
    pub neighbours: Neighbours,
    buffer: MmapMut,
    length: usize,
}

/// What the segments around one say about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Bytes of all the queue's records up to the end of the one before.
    pub end_byte_before: Option<u64>,
    /// The one behind it.
    pub behind: Option<Behind>,
}

/// The segment behind one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The sequence in its name.
    pub first_sequence: Sequence,
    /// Bytes of all the queue's records before it, if its header is intact.
    pub first_byte: Option<u64>,
    /// The start of the process that began it, if its header is intact.
    pub epoch: Option<u64>,
}

impl Behind {
    /// Looks at the header of the segment behind another one.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read<P: Platform>(platform: &P, first_sequence: Sequence, path: &Path) -> io::Result<Self> {
        let file = platform.open(path, Mode::Segment { write: false })?;
        let mut block = aligned_buffer(BLOCK_BYTES)?;
        let (bytes, _) = read_all(&file, &mut block)?;
        let header = &block[..bytes];
        let identity = SegmentIdentity::read_header(header).ok();
        let first_byte = identity.filter(|found| found.first_sequence == first_sequence).map(|found| found.first_byte);
        Ok(Self { first_sequence, first_byte, epoch: SegmentIdentity::epoch_of_header(header) })
    }
}

/// Reads a segment of the queue `queue_id`; `None` if the journal has taken it away meanwhile.
///
/// # Errors
///
/// The file cannot be read, or changed each time that it was.
pub fn read<P: Platform>(
    platform: &P,
    queue_id: u64,
    named_sequence: Sequence,
    path: &Path,
    neighbours: Neighbours,
) -> io::Result<Option<SegmentImage>> {
    let mut former = None;
    for _ in 0..READS_MAX {
        let Some(image) = read_once(platform, queue_id, named_sequence, path, neighbours)? else { return Ok(None) };
        let looks = (image.header, image.footer, image.damaged_ranges());
        let is_intact = image.header.is_ok() && image.footer.is_ok() && looks.2.is_empty();
        if is_intact || former.as_ref() == Some(&looks) {
            return Ok(Some(image));
        }
        former = Some(looks);
    }
    Err(io::Error::other("the segment changed each time that it was read; try again"))
}

fn read_once<P: Platform>(
    platform: &P,
    queue_id: u64,
    named_sequence: Sequence,
    path: &Path,
    neighbours: Neighbours,
) -> io::Result<Option<SegmentImage>> {
    let file = match platform.open(path, Mode::Segment { write: false }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let length = usize::try_from(file.bytes()?).map_err(io::Error::other)?;
    let mut buffer = aligned_buffer(length.max(BLOCK_BYTES))?;
    let (length, unreadable) = read_all(&file, &mut buffer)?;
    // A file that was given back begins another life elsewhere.
    let mut header_now = aligned_buffer(BLOCK_BYTES)?;
    read_all(&file, &mut header_now)?;
    let same_header = header_now[..] == buffer[..BLOCK_BYTES];
    let id = file.id()?;
    let same_file = platform.metadata(path).is_ok_and(|now| now.id == id);
    if !same_header || !same_file {
        return Ok(None);
    }
    Ok(Some(SegmentImage::new(queue_id, named_sequence, path, neighbours, buffer, length, unreadable)))
}

/// Reads as much as there is; returns how much that is, and the blocks that the disk does not give
/// out, which are left as zeros.
fn read_all<F: RandomAccessFile>(file: &F, buffer: &mut [u8]) -> io::Result<(usize, Vec<usize>)> {
    let mut unreadable = Vec::new();
    let mut offset = 0;
    let mut step = READ_STEP_BYTES;
    while offset < buffer.len() {
        let end = (offset + step).min(buffer.len());
        match file.read_at(&mut buffer[offset..end], offset as u64) {
            Ok(0) => break,
            Ok(bytes) => {
                offset += bytes;
                step = READ_STEP_BYTES;
                if !bytes.is_multiple_of(BLOCK_BYTES) {
                    // The end of a file that was cut off; what comes behind it is not aligned.
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_unreadable(&error) => {
                if step > BLOCK_BYTES {
                    step = BLOCK_BYTES;
                } else {
                    unreadable.push(offset);
                    offset = end;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok((offset, unreadable))
}

impl SegmentImage {
    /// The image of a segment whose bytes are already here.
    ///
    /// # Errors
    ///
    /// No memory for a copy of them.
    pub fn from_bytes(
        queue_id: u64,
        named_sequence: Sequence,
        path: &Path,
        neighbours: Neighbours,
        bytes: &[u8],
    ) -> io::Result<Self> {
        let mut buffer = aligned_buffer(bytes.len().max(BLOCK_BYTES))?;
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(Self::new(queue_id, named_sequence, path, neighbours, buffer, bytes.len(), Vec::new()))
    }

    fn new(
        queue_id: u64,
        named_sequence: Sequence,
        path: &Path,
        neighbours: Neighbours,
        buffer: MmapMut,
        length: usize,
        unreadable: Vec<usize>,
    ) -> Self {
        let bytes = &buffer[..length];
        let read = SegmentIdentity::read_header(bytes)
            .and_then(|found| if found.queue_id == queue_id { Ok(found) } else { Err(FormatError::Foreign) });
        let header = match read {
            Ok(found) if found.capacity > length as u64 => Err(FormatError::Short),
            Ok(found) if found.capacity < length as u64 => Err(FormatError::Foreign),
            Ok(_) => Ok(()),
            Err(cause) => Err(cause),
        };
        let nothing_known = || SegmentIdentity {
            queue_id,
            generation: 0,
            first_sequence: named_sequence,
            first_byte: neighbours.end_byte_before.unwrap_or(0),
            capacity: length as u64,
        };
        let by_batches = || identity_without_header(queue_id, named_sequence, neighbours.end_byte_before, bytes);
        let identity = read.ok().or_else(by_batches).unwrap_or_else(nothing_known);
        let footer_offset = usize::try_from(identity.footer_offset()).unwrap_or(usize::MAX);
        let footer = match identity.read_footer(bytes.get(footer_offset..).unwrap_or_default()) {
            Ok(footer) => Ok(Some(footer)),
            // No footer at all, or one of a former life.
            Err(FormatError::Magic | FormatError::Foreign) if neighbours.behind.is_none() => Ok(None),
            Err(cause) => Err(cause),
        };
        let path = path.to_owned();
        Self { path, named_sequence, identity, header, footer, unreadable, neighbours, buffer, length }
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Where the log must end: as the footer says, or the segment behind it.
    #[must_use]
    pub fn known_end(&self) -> Option<LogEnd> {
        let by_footer = self.footer.ok().flatten().map(|footer| LogEnd {
            end_offset: usize::try_from(footer.end_offset).unwrap_or(usize::MAX).min(self.length),
            next_sequence: footer.next_sequence,
            end_byte: Some(footer.end_byte),
        });
        by_footer.or_else(|| {
            let behind = self.neighbours.behind?;
            let end_offset = self.length.saturating_sub(BLOCK_BYTES);
            Some(LogEnd { end_offset, next_sequence: behind.first_sequence, end_byte: behind.first_byte })
        })
    }

    /// Walks over the log, over damage too.
    #[must_use]
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces::new(&self.identity, self.bytes(), self.known_end())
    }

    /// What of the log is damaged.
    #[must_use]
    pub fn damaged_ranges(&self) -> Vec<DamagedRange> {
        let damaged = |piece| match piece {
            Piece::Damaged(range) => Some(range),
            Piece::Batch { .. } => None,
        };
        self.pieces().filter_map(damaged).collect()
    }

    /// Where the log of a segment that is not sealed may go on, and with which sequence, if the disk does not give out the
    /// block that would say so, or not all of the batch that begins there.
    #[must_use]
    pub fn unreadable_end(&self) -> Option<(Sequence, usize)> {
        if self.known_end().is_some() {
            return None;
        }
        let mut pieces = self.pieces();
        pieces.by_ref().for_each(drop);
        let end = pieces.end();
        let ahead = self.bytes().get(end.end_offset..).unwrap_or_default();
        let bytes = BatchHeader::peek(&self.identity, ahead).map_or(BLOCK_BYTES, |header| header.padded_bytes());
        let footer_offset = usize::try_from(self.identity.footer_offset()).unwrap_or(usize::MAX);
        let next = end.end_offset..end.end_offset.saturating_add(bytes).min(footer_offset);
        self.unreadable.iter().any(|block| next.contains(block)).then_some((end.next_sequence, end.end_offset))
    }

    /// Bytes of all the queue's records up to the segment's end, as far as that is known.
    #[must_use]
    pub fn end_byte(&self) -> u64 {
        let mut pieces = self.pieces();
        pieces.by_ref().for_each(drop);
        pieces.end().end_byte
    }
}
