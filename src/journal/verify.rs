//! Reads everything that a queue has on disk and says what is not as forebay wrote it.
//!
//! Nothing is touched, and the queue may be in use: see [`segment_image`](super::segment_image).
//! What a crash may leave is no finding: an incomplete batch at the end of the log, and
//! whatever lies between the end of the log and the footer's block, which nothing reads.

use std::io;
use std::path::{Path, PathBuf};

use super::cursor;
use super::directory::{DirectoryError, read_epoch, read_epochs};
use super::findings::{Damage, Finding};
use super::format::{BATCH_HEADER_BYTES, BatchHeader, FOOTER_BYTES, SEGMENT_HEADER_BYTES};
use super::keys_file;
use super::listing::QueueFiles;
use super::platform::Platform;
use super::salvage::{records_of, salvage};
use super::scan::{Piece, Scan};
use super::segment_image::SegmentImage;
use super::survey::{QueuePlace, SinkPlace};
use crate::limits::BLOCK_BYTES;
use crate::record::Sequence;

/// What a disk writes at once at least; a crash may leave some of a batch's and not others.
const SECTOR_BYTES: usize = 512;

/// What was read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// Segments that were read.
    pub segments: u64,
    /// Batches that are whole.
    pub batches: u64,
    /// Records that are whole.
    pub records: u64,
    /// Marks that a repair has put in the place of lost records.
    pub lost: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Where a segment's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The sequence behind its last.
    pub next_sequence: Sequence,
    /// Bytes of all the queue's records up to there.
    pub end_byte: u64,
}

/// In which start each batch was written, as far as it changes from one to the next.
type Epochs = Vec<(Sequence, u64, PathBuf, u64)>;

impl Report {
    /// Notes something that is wrong.
    pub fn find(&mut self, path: &Path, offset: Option<u64>, damage: Damage) {
        self.findings.push(Finding { path: path.to_owned(), offset, damage });
    }

    fn find_failure(&mut self, path: &Path, error: &DirectoryError) {
        let damage = match error {
            DirectoryError::Io { error, .. } => Damage::Unreadable(error.to_string()),
            _ => Damage::SmallFile,
        };
        self.find(path, None, damage);
    }
}

/// Checks what belongs to no queue.
pub fn verify_directory(path: &Path, report: &mut Report) {
    if let Err(error) = read_epoch(path) {
        report.find_failure(&path.join("epoch"), &error);
    }
}

/// Checks all of a queue's files but its dead letters, which the journal does not know. Returns where the
/// journal ends, if it could be read up to there. `on_bytes` hears of the progress.
///
/// # Errors
///
/// The queue's directory cannot be read.
pub fn verify_queue<P: Platform>(
    queue: &QueuePlace<P>,
    report: &mut Report,
    mut on_bytes: impl FnMut(u64),
) -> io::Result<Option<End>> {
    let platform = &queue.platform;
    // First, because the journal and the cursor may both move on meanwhile.
    let cursor = |sink: SinkPlace| (cursor::read(platform, &sink.directory), sink.directory);
    let cursors: Vec<_> = queue.sinks()?.into_iter().map(cursor).collect();
    let files = queue.files()?;
    let mut epochs = Epochs::new();
    let mut end: Option<End> = None;
    for (index, (_, path)) in files.segments.iter().enumerate() {
        let before = report.bytes;
        end = match queue.segment(&files, index, end.map(|end| end.end_byte)) {
            Ok(Some(image)) => {
                note_epochs(&image, &mut epochs);
                Some(verify_segment(&image, end, report))
            }
            Ok(None) => {
                let name = path.display();
                report.notes.push(format!("{name}: was delivered and taken away before it was read"));
                None
            }
            Err(error) => {
                report.find(path, None, Damage::Unreadable(error.to_string()));
                None
            }
        };
        on_bytes(report.bytes - before);
    }
    verify_keys(platform, &files, report);
    verify_epochs(platform, &queue.directory, &epochs, report);
    for (cursor, directory) in cursors {
        verify_cursor(&directory, cursor, end, report);
    }
    Ok(end)
}

/// Checks a segment, which should go on where the one before it ended. Returns where it ends.
pub fn verify_segment(image: &SegmentImage, before: Option<End>, report: &mut Report) -> End {
    report.segments += 1;
    report.bytes += image.bytes().len() as u64;
    for offset in &image.unreadable {
        let damage = Damage::Unreadable("an error of the disk".to_owned());
        report.find(&image.path, Some(*offset as u64), damage);
    }
    verify_header(image, before, report);
    let end = verify_log(image, report);
    verify_footer(image, &end, report);
    End { next_sequence: end.next_sequence, end_byte: end.end_byte }
}

fn verify_header(image: &SegmentImage, before: Option<End>, report: &mut Report) {
    let path = &image.path;
    let identity = &image.identity;
    if let Err(cause) = image.header {
        report.find(path, Some(0), Damage::Header(cause));
    } else {
        verify_zeros(image, SEGMENT_HEADER_BYTES, BLOCK_BYTES, "segment's header", report);
        if identity.first_sequence != image.named_sequence {
            report.find(path, Some(0), Damage::Name(identity.first_sequence));
        }
    }
    let Some(before) = before else { return };
    if before.next_sequence != image.named_sequence {
        let damage = Damage::Gap { expected: before.next_sequence, found: image.named_sequence };
        report.find(path, Some(0), damage);
    } else if before.end_byte != identity.first_byte && image.header.is_ok() {
        let damage = Damage::ByteCount { expected: before.end_byte, found: identity.first_byte };
        report.find(path, Some(0), damage);
    }
}

fn verify_log(image: &SegmentImage, report: &mut Report) -> Scan {
    let sealed = image.neighbours.behind.is_some() || image.footer.is_ok_and(|footer| footer.is_some());
    let mut pieces = image.pieces();
    let mut next = pieces.next();
    while let Some(piece) = next {
        next = pieces.next();
        match piece {
            Piece::Batch { offset, header, records } => {
                let found = records_of(records, header.first_sequence.get(), u64::from(header.count.get()));
                report.batches += 1;
                let lost = found.whole.iter().filter(|found| found.record.is_lost()).count() as u64;
                report.records += found.whole.len() as u64 - lost;
                report.lost += lost;
                if let Some((sequence, error)) = found.broken {
                    report.find(&image.path, Some(offset as u64), Damage::Record { sequence, error });
                }
                verify_padding(image, offset, &header, next.as_ref(), report);
            }
            Piece::Damaged(range) => {
                let whole = salvage(&image.identity, image.bytes(), &range).len() as u64;
                report.records += whole;
                report.find(&image.path, Some(range.offset as u64), Damage::Batch { range, whole, sealed });
            }
        }
    }
    let end = pieces.end();
    if end.torn && !sealed {
        report.notes.push(format!(
            "{}: byte {}: the log ends here, with an incomplete batch behind it, as a crash or a write in progress leaves. \
             It was not acknowledged, unless the disk has damaged the very last batch, which looks the same",
            image.path.display(),
            end.end_offset
        ));
    }
    end
}

/// The bytes behind a batch, up to its last block's end, are zeros. Only of the last batch before a crash
/// may sectors be missing that hold nothing else, and then what a former life wrote shows through.
fn verify_padding(
    image: &SegmentImage,
    offset: usize,
    header: &BatchHeader,
    next: Option<&Piece<'_>>,
    report: &mut Report,
) {
    let end = offset + BATCH_HEADER_BYTES + header.length.get() as usize;
    let padded_end = (offset + header.padded_bytes()).min(image.bytes().len());
    let next_epoch = match next {
        Some(Piece::Batch { header, .. }) => Some(header.epoch.get()),
        Some(Piece::Damaged(_)) => None,
        None => image.neighbours.behind.and_then(|behind| behind.epoch),
    };
    let crash_possible = next_epoch != Some(header.epoch.get());
    let certain_end = if crash_possible { padded_end.min(end.next_multiple_of(SECTOR_BYTES)) } else { padded_end };
    verify_zeros(image, end, certain_end, "batch", report);
    if let Some(at) = find_nonzero(image, certain_end, padded_end) {
        report.notes.push(format!(
            "{}: byte {at}: padding that is not zero, behind the last batch of a start. A crash may leave this; nothing reads it",
            image.path.display()
        ));
    }
}

fn verify_footer(image: &SegmentImage, end: &Scan, report: &mut Report) {
    let offset = image.identity.footer_offset();
    match image.footer {
        Err(cause) => report.find(&image.path, Some(offset), Damage::Footer(cause)),
        Ok(None) => {}
        Ok(Some(footer)) => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            verify_zeros(image, start.saturating_add(FOOTER_BYTES), image.bytes().len(), "segment's footer", report);
            let by_footer = (footer.next_sequence, footer.end_offset, footer.end_byte);
            if by_footer != (end.next_sequence, end.end_offset as u64, end.end_byte) {
                let damage = Damage::FooterDisagrees {
                    footer: footer.next_sequence.saturating_sub(1),
                    found: end.next_sequence.saturating_sub(1),
                };
                report.find(&image.path, Some(offset), damage);
            }
        }
    }
}

fn verify_zeros(image: &SegmentImage, from: usize, to: usize, behind: &'static str, report: &mut Report) {
    if let Some(at) = find_nonzero(image, from, to) {
        report.find(&image.path, Some(at as u64), Damage::Padding(behind));
    }
}

fn find_nonzero(image: &SegmentImage, from: usize, to: usize) -> Option<usize> {
    let zeros = image.bytes().get(from..to)?;
    zeros.iter().position(|byte| *byte != 0).map(|at| from + at)
}

fn note_epochs(image: &SegmentImage, epochs: &mut Epochs) {
    for piece in image.pieces() {
        let Piece::Batch { offset, header, .. } = piece else { continue };
        let (sequence, epoch) = (header.first_sequence.get(), header.epoch.get());
        if epochs.last().is_none_or(|(_, last, ..)| *last != epoch) {
            epochs.push((sequence, epoch, image.path.clone(), offset as u64));
        }
    }
}

fn verify_epochs<P: Platform>(platform: &P, directory: &Path, seen: &Epochs, report: &mut Report) {
    let starts = match read_epochs(platform, directory) {
        Ok(starts) => starts,
        Err(error) => return report.find_failure(&directory.join("epochs"), &error),
    };
    let ascends = starts.windows(2).all(|w| w[0].epoch < w[1].epoch && w[0].first_sequence < w[1].first_sequence);
    if !ascends {
        return report.find(&directory.join("epochs"), None, Damage::SmallFile);
    }
    for (sequence, batch, path, offset) in seen {
        let index = starts.partition_point(|start| start.first_sequence <= *sequence);
        let file = index.checked_sub(1).map_or(0, |index| starts[index].epoch);
        if file != *batch {
            report.find(path, Some(*offset), Damage::Epoch { sequence: *sequence, batch: *batch, file });
        }
    }
}

fn verify_keys<P: Platform>(platform: &P, files: &QueueFiles, report: &mut Report) {
    for (first, path) in &files.keys {
        match keys_file::load(platform, path) {
            Ok(_) => {}
            // Its window has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let has_segment = files.segments.iter().any(|(segment, _)| segment == first);
                report.find(path, None, Damage::Keys { has_segment });
            }
            Err(error) => report.find(path, None, Damage::Unreadable(error.to_string())),
        }
    }
}

fn verify_cursor(directory: &Path, cursor: io::Result<Option<Sequence>>, end: Option<End>, report: &mut Report) {
    let path = cursor::path(directory);
    match (cursor, end) {
        (Err(error), _) if error.kind() == io::ErrorKind::InvalidData => report.find(&path, None, Damage::Cursor),
        (Err(error), _) => report.find(&path, None, Damage::Unreadable(error.to_string())),
        (Ok(Some(sequence)), Some(end)) if sequence >= end.next_sequence => {
            report.find(&path, None, Damage::BeyondEnd { sequence, end: end.next_sequence.saturating_sub(1) });
        }
        (Ok(_), _) => {}
    }
}
