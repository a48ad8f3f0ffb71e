//! Segment files on disk: made, read and written with `O_DIRECT`, in whole blocks.
//!
//! `O_DIRECT` keeps the journal's writes out of the page cache, where they would push out
//! the database's pages on the same machine and be written again at fdatasync. File
//! systems without it (some FUSE and network ones) are used with the page cache instead.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use memmap2::{Advice, MmapMut};

use super::format::{BATCH_HEADER_BYTES, BatchHeader, Footer, FormatError, SegmentIdentity};
use super::platform::{Mode, Platform, RandomAccessFile};
use crate::limits::{BLOCK_BYTES, ZEROING_STEP_BYTES};
use crate::planted::{Bug, is_planted};
use crate::record::Sequence;

/// Memory from which on a buffer is worth huge pages: one of them.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Memory whose address is a multiple of the block size, zeroed, and not resident until touched. A large one is
/// made of huge pages if there are any: the kernel pins every page of a direct write or read, and hands each to the
/// device, which for 1 MiB costs as much as the disk does.
///
/// # Errors
///
/// The system has no memory to map.
pub fn aligned_buffer(bytes: usize) -> io::Result<MmapMut> {
    let buffer = MmapMut::map_anon(bytes.next_multiple_of(BLOCK_BYTES))?;
    if buffer.len() >= HUGE_PAGE_BYTES {
        // A kernel that has none goes on with small pages.
        let _ = buffer.advise(Advice::HugePage);
    }
    Ok(buffer)
}

/// Makes a file of `bytes`, every block of it written with zeros, and syncs it. Syncs of
/// later writes then have no metadata to write, which is what makes them fast. Rests for `pause`
/// behind each step, so that commits to other files get their turn.
///
/// # Errors
///
/// Any step failed; the file is removed again.
pub fn create_zeroed<P: Platform>(platform: &P, path: &Path, bytes: u64, pause: Duration) -> io::Result<P::File> {
    create(platform, path, |file| {
        let zeros = aligned_buffer(ZEROING_STEP_BYTES)?;
        let mut offset = 0;
        while offset < bytes {
            let length = usize::try_from((bytes - offset).min(ZEROING_STEP_BYTES as u64)).unwrap_or(zeros.len());
            file.write_all_at(&zeros[..length], offset)?;
            offset += length as u64;
            platform.rest(pause);
        }
        Ok(())
    })
}

/// Makes a file of `bytes` whose space is reserved but not written: at once, but every sync
/// of it is slower. For the moment when no zeroed segment is ready.
///
/// # Errors
///
/// Any step failed; the file is removed again.
pub fn create_reserved<P: Platform>(platform: &P, path: &Path, bytes: u64) -> io::Result<P::File> {
    create(platform, path, |file| file.reserve(bytes))
}

fn create<P: Platform>(
    platform: &P,
    path: &Path,
    write: impl FnOnce(&P::File) -> io::Result<()>,
) -> io::Result<P::File> {
    let file = platform.open(path, Mode::NewSegment)?;
    let written = write(&file).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // The file is of no use, and what removing it may fail with says nothing new.
        let _ = platform.remove(path);
        return Err(error);
    }
    Ok(file)
}

/// Reads block 0 and the last block.
///
/// # Errors
///
/// The file cannot be read.
pub fn read_ends<F: RandomAccessFile>(file: &F, capacity: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut buffer = aligned_buffer(BLOCK_BYTES)?;
    file.read_exact_at(&mut buffer, 0)?;
    let first = buffer.to_vec();
    file.read_exact_at(&mut buffer, capacity.saturating_sub(BLOCK_BYTES as u64))?;
    Ok((first, buffer.to_vec()))
}

/// Writes block 0 and syncs it.
///
/// # Errors
///
/// The write or the sync failed.
pub fn write_header<F: RandomAccessFile>(
    file: &F,
    identity: &SegmentIdentity,
    epoch: u64,
    now_us: u64,
) -> io::Result<()> {
    write_block(file, 0, |block| identity.write_header(epoch, now_us, block))
}

/// Writes the footer and syncs it.
///
/// # Errors
///
/// The write or the sync failed.
pub fn write_footer<F: RandomAccessFile>(file: &F, identity: &SegmentIdentity, footer: &Footer) -> io::Result<()> {
    write_block(file, identity.footer_offset(), |block| identity.write_footer(footer, block))
}

fn write_block<F: RandomAccessFile>(
    file: &F,
    offset: u64,
    make: impl FnOnce(&mut [u8; BLOCK_BYTES]),
) -> io::Result<()> {
    let mut buffer = aligned_buffer(BLOCK_BYTES)?;
    let mut block = [0; BLOCK_BYTES];
    make(&mut block);
    buffer.copy_from_slice(&block);
    file.write_all_at(&buffer, offset)?;
    file.sync_data()
}

/// Reads batches one after another, with a window of aligned memory.
pub struct BatchReader<F = File> {
    file: F,
    identity: SegmentIdentity,
    window: MmapMut,
    window_offset: u64,
    window_bytes: usize,
    offset: u64,
    /// The first sequence of the batch at `offset`.
    next_sequence: Sequence,
}

/// Why a batch that must be there could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk did not give the bytes.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It gave others than were written.
    #[error("damaged at byte {offset}: {cause}")]
    Corrupt {
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        cause: FormatError,
    },
}

impl<F: RandomAccessFile> BatchReader<F> {
    /// Bytes of the window unless a batch is larger.
    const WINDOW_BYTES: usize = HUGE_PAGE_BYTES;

    /// A reader that stands before the segment's first batch.
    ///
    /// # Errors
    ///
    /// No memory to map.
    pub fn new(file: F, identity: SegmentIdentity) -> io::Result<Self> {
        let window = aligned_buffer(Self::WINDOW_BYTES)?;
        let (offset, next_sequence) = (BLOCK_BYTES as u64, identity.first_sequence);
        Ok(Self { file, identity, window, window_offset: 0, window_bytes: 0, offset, next_sequence })
    }

    /// Reads the next batch, which the caller knows to be durable.
    ///
    /// # Errors
    ///
    /// It is not there or not whole: then the disk has lost it.
    pub fn next_batch(&mut self) -> Result<(BatchHeader, &[u8]), ReadError> {
        self.ensure(BLOCK_BYTES)?;
        let header = if let Ok(header) = self.decode() {
            header
        } else {
            // The window may have been read before the batch was written; if so, read it again.
            self.window_bytes = 0;
            self.ensure(BLOCK_BYTES)?;
            while is_planted(Bug::SkipBadBatch) && self.decode().is_err() {
                self.offset += BLOCK_BYTES as u64;
                self.ensure(BLOCK_BYTES)?;
            }
            let peeked = BatchHeader::peek(&self.identity, self.ahead());
            let whole = peeked.map_err(|cause| self.corrupt(cause))?.padded_bytes();
            self.ensure(whole)?;
            self.decode().map_err(|cause| self.corrupt(cause))?
        };
        let offset = self.offset;
        self.offset += header.padded_bytes() as u64;
        self.next_sequence = header.next_sequence();
        let start = usize::try_from(offset - self.window_offset).unwrap_or(0) + BATCH_HEADER_BYTES;
        Ok((header, &self.window[start..start + header.length.get() as usize]))
    }

    /// Checks the batch at the current offset, which costs a checksum of all of it. A write that the disk put
    /// into the wrong place leaves a batch there that is whole and not the next one.
    fn decode(&self) -> Result<BatchHeader, FormatError> {
        let (header, _) = BatchHeader::decode(&self.identity, self.ahead())?;
        let is_next = header.first_sequence.get() == self.next_sequence || is_planted(Bug::SkipBadBatch);
        if is_next { Ok(header) } else { Err(FormatError::Foreign) }
    }

    fn corrupt(&self, cause: FormatError) -> ReadError {
        ReadError::Corrupt { offset: self.offset, cause }
    }

    fn ahead(&self) -> &[u8] {
        let start = usize::try_from(self.offset - self.window_offset).unwrap_or(usize::MAX);
        self.window.get(start..self.window_bytes).unwrap_or_default()
    }

    /// Makes the window hold at least `bytes` from the current offset on.
    fn ensure(&mut self, bytes: usize) -> Result<(), ReadError> {
        if self.window_bytes > 0 && self.ahead().len() >= bytes {
            return Ok(());
        }
        if self.offset + bytes as u64 > self.identity.capacity {
            return Err(self.corrupt(FormatError::Short));
        }
        if self.window.len() < bytes {
            self.window = aligned_buffer(bytes)?;
        }
        let left = usize::try_from(self.identity.capacity - self.offset).unwrap_or(usize::MAX);
        let length = self.window.len().min(left);
        self.window_bytes = 0;
        self.file.read_exact_at(&mut self.window[..length], self.offset)?;
        self.window_offset = self.offset;
        self.window_bytes = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::super::format::BatchStart;
    use super::super::platform::System;
    use super::*;

    #[test]
    fn a_batch_that_the_disk_put_into_the_wrong_place_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        let file = create_zeroed(&System, &path, 16 * BLOCK_BYTES as u64, Duration::ZERO).unwrap();
        let capacity = 16 * BLOCK_BYTES as u64;
        let identity = SegmentIdentity { queue_id: 7, generation: 9, first_sequence: 1, first_byte: 0, capacity };
        let put = |block: u64, first_sequence| {
            let start = BatchStart { first_sequence, first_byte: 0, epoch: 1, written_at_us: 0 };
            let header = BatchHeader::seal(&identity, start, 2, b"records").unwrap();
            let mut bytes = aligned_buffer(BLOCK_BYTES).unwrap();
            bytes[..BATCH_HEADER_BYTES].copy_from_slice(header.as_bytes());
            bytes[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + 7].copy_from_slice(b"records");
            RandomAccessFile::write_all_at(&file, &bytes, block * BLOCK_BYTES as u64).unwrap();
        };
        put(1, 1);
        put(2, 5);
        let file = System.open(&path, Mode::Segment { write: false }).unwrap();
        let mut reader = BatchReader::new(file, identity).unwrap();
        assert_eq!(reader.next_batch().unwrap().0.first_sequence.get(), 1);
        let error = reader.next_batch().unwrap_err();
        assert!(matches!(error, ReadError::Corrupt { offset: 8192, cause: FormatError::Foreign }), "{error}");
    }
}
