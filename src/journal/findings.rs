//! What `forebay verify` can find, in words.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::format::FormatError;
use super::scan::DamagedRange;
use crate::record::{RecordError, Sequence};

/// Something that is not as forebay wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: Option<u64>,
    /// What it is.
    pub damage: Damage,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file system or the disk does not give the bytes.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A small file is not what was written.
    #[error("the file is damaged")]
    SmallFile,
    /// Block 0 of a segment.
    #[error("the segment's header: {0}")]
    Header(FormatError),
    /// The name of a segment is not its first sequence.
    #[error("the segment begins with sequence {0}, which is not its name")]
    Name(Sequence),
    /// Segments are missing, or overlap.
    #[error("the segment begins with sequence {found}, but the one before it ends with {}", expected.saturating_sub(1))]
    Gap {
        /// The sequence behind the one before.
        expected: Sequence,
        /// The first of this one.
        found: Sequence,
    },
    /// The count of bytes does not go on where the segment before ended.
    #[error("the segment begins at byte {found} of the queue, but the one before it ends at byte {expected}")]
    ByteCount {
        /// Where the one before ends.
        expected: u64,
        /// Where this one begins.
        found: u64,
    },
    /// Bytes that are no batch.
    #[error(
        "damaged up to byte {} ({}); sequences {} to {} lay there; records of them that can still be read: {whole}",
        range.end_offset, range.cause, range.first_sequence, range.next_sequence.saturating_sub(1)
    )]
    Batch {
        /// Which bytes, and what they held.
        range: DamagedRange,
        /// Records in them that are whole.
        whole: u64,
        /// Whether the segment is sealed: then a start does not read it.
        sealed: bool,
    },
    /// A record in a whole batch.
    #[error("record {sequence}, in a batch whose checksum is right: {error}")]
    Record {
        /// Which.
        sequence: Sequence,
        /// What is wrong.
        error: RecordError,
    },
    /// Bytes that were written as zeros.
    #[error("a byte that was written as zero, behind the {0}, is none")]
    Padding(&'static str),
    /// The last block of a segment.
    #[error("the segment's footer: {0}")]
    Footer(FormatError),
    /// The footer and the batches disagree.
    #[error("the footer says that the log ends with sequence {footer}, but it ends with {found}")]
    FooterDisagrees {
        /// The last sequence by the footer.
        footer: Sequence,
        /// By the batches.
        found: Sequence,
    },
    /// The file `epochs` and a batch disagree.
    #[error("the batch with sequence {sequence} was written in start {batch}, but the file epochs says {file}")]
    Epoch {
        /// The batch's first sequence.
        sequence: Sequence,
        /// The start that it names.
        batch: u64,
        /// The start that the file names.
        file: u64,
    },
    /// A file of idempotency keys.
    #[error("the file of idempotency keys is damaged")]
    Keys {
        /// Whether the segment is there to make it anew.
        has_segment: bool,
    },
    /// The cursor.
    #[error("the cursor is damaged")]
    Cursor,
    /// The cursor, a dead letter or what has expired is beyond the journal's end.
    #[error("sequence {sequence} was delivered, set aside or dropped, but the journal ends with {end}")]
    BeyondEnd {
        /// Which.
        sequence: Sequence,
        /// The journal's last sequence.
        end: Sequence,
    },
    /// A line of the dead-letter file.
    #[error("the line is damaged: {0}")]
    DeadLetter(String),
}

impl Damage {
    /// One word for it, which stays as it is from version to version.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::SmallFile => "small-file",
            Self::Header(_) => "header",
            Self::Name(_) => "name",
            Self::Gap { .. } => "gap",
            Self::ByteCount { .. } => "byte-count",
            Self::Batch { .. } => "batch",
            Self::Record { .. } => "record",
            Self::Padding(_) => "padding",
            Self::Footer(_) => "footer",
            Self::FooterDisagrees { .. } => "footer-disagrees",
            Self::Epoch { .. } => "epoch",
            Self::Keys { .. } => "keys",
            Self::Cursor => "cursor",
            Self::BeyondEnd { .. } => "beyond-end",
            Self::DeadLetter(_) => "dead-letter",
        }
    }

    /// The records of which it says that they are damaged or missing, if it says so of any. Some of a batch's may be whole.
    #[must_use]
    pub fn sequences(&self) -> Option<RangeInclusive<Sequence>> {
        let found = match self {
            Self::Gap { expected, found } => *expected..=found.saturating_sub(1),
            Self::Batch { range, .. } => range.first_sequence..=range.next_sequence.saturating_sub(1),
            Self::Record { sequence, .. } => *sequence..=*sequence,
            Self::FooterDisagrees { footer, found } => found.saturating_add(1)..=*footer,
            Self::BeyondEnd { sequence, end } => end.saturating_add(1)..=*sequence,
            _ => return None,
        };
        (!found.is_empty()).then_some(found)
    }

    /// What follows from it, and what to do.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => {
                "The disk or the permissions. Look into the kernel's log, and copy the directory to another disk while it can be read. \
                 In a segment, `forebay repair` gives up these bytes and keeps what is around them."
            }
            Self::SmallFile => {
                "The next start is refused. Restore the file from a copy of the directory: made anew, it would let old tickets name \
                 new records, or count deliveries from another position."
            }
            Self::Header(FormatError::Version(_) | FormatError::BlockBytes(_)) => {
                "The next start is refused. The file is whole: use the forebay that wrote it, and drain it there. `docs/segment-format.md`, \
                 Versions."
            }
            Self::Header(_) => {
                "The next start is refused. What the batches hold can be read: `forebay repair` writes the header anew, `forebay \
                 export` gets the records."
            }
            Self::Name(_) => {
                "The next start is refused. Give the file its name back: the first sequence in 20 digits, and `.seg`."
            }
            Self::Gap { .. } => {
                "The next start is refused. Restore the missing segment from a copy; if there is none, `forebay repair` marks its \
                 sequences as lost."
            }
            Self::ByteCount { .. } => "Figures of the backlog in bytes are wrong by as much. No record is affected.",
            Self::Batch { sealed: true, .. } => {
                "The delivery of this queue stops before it, and nothing behind it is delivered. `forebay repair` marks what is lost and \
                 keeps the rest; `forebay export` gets what can be read."
            }
            Self::Batch { sealed: false, .. } => {
                "The next start is refused. `forebay repair` marks what is lost and keeps the rest; `forebay export` gets what can be \
                 read."
            }
            Self::Record { .. } => {
                "It was damaged before it was written, in memory most likely. The delivery of this queue stops before it. `forebay \
                 repair` marks it as lost and keeps the rest."
            }
            Self::Padding(_) => {
                "No record is affected, and nothing reads the byte. But the disk has changed it, and may change others."
            }
            Self::Footer(_) => {
                "The next start reads the whole segment instead, and goes on if its batches are intact. `forebay repair` writes the footer \
                 anew."
            }
            Self::FooterDisagrees { .. } => {
                "The delivery of this queue stops there. `forebay repair` marks what is lost and keeps the rest."
            }
            Self::Epoch { .. } => {
                "Tickets of these records get a 404. Restore the file epochs from a copy of the directory. Delivery is not affected."
            }
            Self::Keys { has_segment: true } => {
                "The next start is refused. Its segment is still there: remove the file, with forebay stopped, and the start makes it anew."
            }
            Self::Keys { has_segment: false } => {
                "The next start is refused. Its segment is gone: removing the file, with forebay stopped, forgets its keys, and \
                 repetitions of those requests are stored again."
            }
            Self::Cursor => {
                "It reads as 0, which is harmless: the sink's own position is what counts, and the next delivery writes it anew."
            }
            Self::BeyondEnd { .. } => {
                "The end of the journal is lost: the last batch was damaged, or the directory was set back to an earlier copy. The \
                 delivery of this queue will halt. `docs/operating.md`, A halted drain, says what to do."
            }
            Self::DeadLetter(_) => {
                "The next start is refused. Mend the line, or move the file away, with forebay stopped; the tickets of its letters and of \
                 what has expired read `delivered` from then on."
            }
        }
    }
}
