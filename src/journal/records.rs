//! All records of a queue that can be read, in order, over damage too.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::platform::Platform;
use super::salvage::{WholeRecord, records_of, salvage};
use super::scan::Piece;
use super::segment_image::SegmentImage;
use super::survey::QueuePlace;
use crate::record::Sequence;

/// Sequences that should be there and are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The first.
    pub first: Sequence,
    /// The last; the end of the range that was asked for if nobody knows.
    pub last: Sequence,
    /// In which file, and where, they should be.
    pub place: Option<(PathBuf, usize)>,
    /// Why they are not.
    pub cause: Cause,
}

/// Why records are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Their bytes are damaged.
    #[error("damaged")]
    Damaged,
    /// They were lost before, and a repair has noted that in their place.
    #[error("lost, as an earlier repair has noted")]
    Lost,
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    /// The disk gives out the file, but not these bytes.
    #[error("the disk does not give the bytes out")]
    UnreadableBytes,
    /// As [`UnreadableBytes`](Self::UnreadableBytes), at the end of the journal: nobody knows how many they are.
    #[error("if there were any: the journal may go on there, but the disk does not give the bytes out")]
    UnreadableEnd,
    /// No segment has them.
    #[error("no segment holds them")]
    NoSegment,
    /// They are older than the oldest segment.
    #[error("delivered, and no longer in the journal")]
    Trimmed,
    /// The journal took the segment away meanwhile, as it does with what is delivered.
    #[error("delivered meanwhile, and taken away by the running forebay")]
    Delivered,
}

impl Cause {
    /// Whether they were delivered, so that nothing is lost.
    #[must_use]
    pub fn is_delivery(&self) -> bool {
        matches!(self, Self::Trimmed | Self::Delivered)
    }
}

/// A batch or a damaged stretch, with the records in it that are whole.
pub struct Stretch<'a> {
    /// Where it begins.
    pub offset: usize,
    /// The records.
    pub whole: Vec<WholeRecord<'a>>,
    /// Whether there are bytes in it that the disk does not give out.
    pub unreadable: bool,
    /// The sequence behind the last that it held.
    pub next_sequence: Sequence,
}

/// Everything in a segment that can be read, in order.
pub fn stretches(image: &SegmentImage) -> impl Iterator<Item = Stretch<'_>> {
    image.pieces().map(move |piece| match piece {
        Piece::Batch { offset, header, records } => {
            let found = records_of(records, header.first_sequence.get(), u64::from(header.count.get()));
            Stretch { offset, whole: found.whole, unreadable: false, next_sequence: header.next_sequence() }
        }
        Piece::Damaged(range) => {
            let whole = salvage(&image.identity, image.bytes(), &range);
            let unreadable = image.unreadable.iter().any(|block| (range.offset..range.end_offset).contains(block));
            Stretch { offset: range.offset, whole, unreadable, next_sequence: range.next_sequence }
        }
    })
}

/// Hands every record of `range` that can be read to `on_record`, in order; returns which cannot be.
///
/// # Errors
///
/// The queue's directory cannot be read, or `on_record` failed.
pub fn visit<P: Platform>(
    queue: &QueuePlace<P>,
    range: &RangeInclusive<Sequence>,
    on_record: impl FnMut(&WholeRecord<'_>) -> io::Result<()>,
) -> io::Result<Vec<Missing>> {
    let files = queue.files()?;
    let first_on_disk = files.segments.first().map_or(1, |(first, _)| *first);
    let mut visit = Visit { range, next: 1, missing: Vec::new(), on_record };
    visit.skip_to(first_on_disk, None, &Cause::Trimmed);
    let mut end_byte = None;
    for (index, (first, path)) in files.segments.iter().enumerate() {
        let behind = files.segments.get(index + 1).map(|(first, _)| *first);
        if first > range.end() {
            break;
        }
        if behind.is_some_and(|behind| behind <= *range.start()) {
            visit.next = behind.unwrap_or(visit.next);
            end_byte = None;
            continue;
        }
        visit.skip_to(*first, None, &Cause::NoSegment);
        let next = behind.unwrap_or(*first);
        match queue.segment(&files, index, end_byte) {
            Ok(Some(image)) => {
                visit.segment(&image)?;
                end_byte = Some(image.end_byte());
            }
            Ok(None) => visit.skip_to(next, None, &Cause::Delivered),
            Err(error) => visit.skip_to(next, Some((path, 0)), &Cause::Unreadable(error.to_string())),
        }
    }
    Ok(visit.missing)
}

struct Visit<'a, F> {
    range: &'a RangeInclusive<Sequence>,
    /// The sequence that should come next.
    next: Sequence,
    missing: Vec<Missing>,
    on_record: F,
}

impl<F: FnMut(&WholeRecord<'_>) -> io::Result<()>> Visit<'_, F> {
    fn segment(&mut self, image: &SegmentImage) -> io::Result<()> {
        for Stretch { offset, whole, unreadable, next_sequence } in stretches(image) {
            let place = Some((&image.path, offset));
            let damaged = if unreadable { Cause::UnreadableBytes } else { Cause::Damaged };
            for found in &whole {
                self.skip_to(found.sequence, place, &damaged);
                if found.record.is_lost() {
                    self.skip_to(found.sequence + 1, place, &Cause::Lost);
                    continue;
                }
                self.next = found.sequence + 1;
                if self.range.contains(&found.sequence) {
                    (self.on_record)(found)?;
                }
            }
            self.skip_to(next_sequence, place, &damaged);
        }
        if let Some((next_sequence, offset)) = image.unreadable_end() {
            let first = next_sequence.max(*self.range.start());
            if first <= *self.range.end() {
                let place = Some((image.path.clone(), offset));
                self.missing.push(Missing { first, last: *self.range.end(), place, cause: Cause::UnreadableEnd });
            }
        }
        Ok(())
    }

    /// What lies before `sequence` and has not come is missing.
    fn skip_to(&mut self, sequence: Sequence, place: Option<(&PathBuf, usize)>, cause: &Cause) {
        let first = self.next.max(*self.range.start());
        let last = sequence.saturating_sub(1).min(*self.range.end());
        if let Some(before) =
            self.missing.last_mut().filter(|before| before.last + 1 == first && before.cause == *cause)
            && first <= last
        {
            before.last = last;
        } else if first <= last {
            let place = place.map(|(path, offset)| (path.clone(), offset));
            self.missing.push(Missing { first, last, place, cause: cause.clone() });
        }
        self.next = self.next.max(sequence);
    }
}
