//! A queue's segments in figures, for `forebay inspect`: sealed segments by their header and
//! footer, only the open one and the one with the oldest record are read.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::cursor;
use super::format::{Footer, SegmentIdentity};
use super::keys_file;
use super::listing::QueueFiles;
use super::platform::{Mode, Platform, RandomAccessFile, is_unreadable};
use super::salvage::records_of;
use super::scan::Piece;
use super::segment_file;
use super::segment_image::SegmentImage;
use super::survey::{LISTINGS_MAX, QueuePlace};
use crate::record::{Record, Sequence};
use crate::record_text::RecordText;

/// A queue as its directory shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueSummary {
    /// Its name.
    pub queue: String,
    /// Names it in its sink's table `forebay_position`.
    pub part: String,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentSummary>,
    /// Everything up to here has left the journal.
    pub trimmed_sequence: Sequence,
    /// The last sequence that is on disk.
    pub durable_sequence: Sequence,
    /// The lower bound of what is delivered to the main sink: its cursor. The sink's database may be further.
    pub delivered_sequence_min: Sequence,
    /// Records behind it. As many are undelivered at most.
    pub backlog_records_max: u64,
    /// Their bytes, record headers included; `None` if the first of them cannot be read.
    pub backlog_bytes_max: Option<u64>,
    /// When the first of them was received, microseconds since the Unix epoch.
    pub oldest_received_at_us: Option<u64>,
    /// What else the client asked for it, in words such as `priority 7`; empty for nothing.
    pub oldest_attributes: Vec<String>,
    /// Files of idempotency keys.
    pub key_files: usize,
    /// Keys in them.
    pub saved_keys: usize,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentSummary {
    /// The file's name.
    pub file: String,
    /// What it is.
    pub state: SegmentState,
    /// The first sequence that it may hold.
    pub first_sequence: Sequence,
    /// The sequence behind its last.
    pub next_sequence: Sequence,
    /// Bytes of its records, record headers included.
    pub record_bytes: u64,
    /// Bytes of its log in the file, with header and padding.
    pub used_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentState {
    /// It is full, and its footer says what it holds.
    Sealed,
    /// The next batch goes into it.
    Open,
    /// `forebay verify` says what is wrong with it. Sealed segments are not read here, so one that is
    /// said to be sealed may be damaged all the same.
    Damaged,
}

/// Sums a queue up.
///
/// # Errors
///
/// A file cannot be read.
pub fn summarize<P: Platform>(queue: &QueuePlace<P>) -> io::Result<QueueSummary> {
    let delivered = cursor::load(&queue.platform, &queue.directory);
    let (files, segments) = summarize_segments(queue)?;
    let trimmed = segments.first().map_or(0, |first| first.first_sequence.saturating_sub(1));
    let durable = segments.last().map_or(0, |last| last.next_sequence.saturating_sub(1));
    let delivered = delivered.clamp(trimmed, durable.max(trimmed));
    let oldest = if delivered < durable { find_oldest(queue, &files, &segments, delivered + 1)? } else { None };
    let bytes_behind = |first: &Oldest| {
        let segments = segments.iter().skip_while(|segment| segment.next_sequence <= delivered + 1);
        segments.map(|segment| segment.record_bytes).sum::<u64>().saturating_sub(first.bytes_before)
    };
    let saved_keys = files
        .keys
        .iter()
        .filter_map(|(_, path)| keys_file::load(&queue.platform, path).ok())
        .map(|keys| keys.len())
        .sum();
    Ok(QueueSummary {
        queue: queue.name.clone(),
        part: queue.part.clone(),
        trimmed_sequence: trimmed,
        durable_sequence: durable,
        delivered_sequence_min: delivered,
        backlog_records_max: durable.saturating_sub(delivered),
        backlog_bytes_max: if delivered < durable { oldest.as_ref().map(bytes_behind) } else { Some(0) },
        oldest_received_at_us: oldest.as_ref().map(|oldest| oldest.received_at_us),
        oldest_attributes: oldest.map_or_else(Vec::new, |oldest| oldest.attributes),
        key_files: files.keys.len(),
        saved_keys,
        segments,
    })
}

/// The queue's files at one moment, and its segments. The journal takes the oldest away first, so if the last
/// one of a listing has gone, that listing is of no use.
fn summarize_segments<P: Platform>(queue: &QueuePlace<P>) -> io::Result<(QueueFiles, Vec<SegmentSummary>)> {
    for _ in 0..LISTINGS_MAX {
        let files = queue.files()?;
        let mut segments = Vec::new();
        let mut last_is_there = true;
        for index in 0..files.segments.len() {
            let segment = summarize_segment(queue, &files, index)?;
            last_is_there = segment.is_some();
            segments.extend(segment);
        }
        if last_is_there {
            return Ok((files, segments));
        }
    }
    Err(io::Error::other("segments came and went faster than they could be read; try again"))
}

/// `None` if the journal has taken the segment away meanwhile.
fn summarize_segment<P: Platform>(
    queue: &QueuePlace<P>,
    files: &QueueFiles,
    index: usize,
) -> io::Result<Option<SegmentSummary>> {
    let Some((first_sequence, path)) = files.segments.get(index) else { return Ok(None) };
    let sealed = match read_sealed(&queue.platform, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || is_unreadable(&error) => None,
        read => read?,
    };
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    if let Some((identity, footer)) = sealed
        && (identity.queue_id, identity.first_sequence) == (queue.id, *first_sequence)
    {
        return Ok(Some(SegmentSummary {
            file,
            state: SegmentState::Sealed,
            first_sequence: *first_sequence,
            next_sequence: footer.next_sequence,
            record_bytes: footer.end_byte.saturating_sub(identity.first_byte),
            used_bytes: footer.end_offset,
            file_bytes: identity.capacity,
        }));
    }
    let Some(image) = queue.segment(files, index, None)? else { return Ok(None) };
    Ok(Some(summarize_image(file, &image)))
}

fn read_sealed<P: Platform>(platform: &P, path: &Path) -> io::Result<Option<(SegmentIdentity, Footer)>> {
    let file = platform.open(path, Mode::Segment { write: false })?;
    let capacity = file.bytes()?;
    let (first, last) = segment_file::read_ends(&file, capacity)?;
    let identity = SegmentIdentity::read_header(&first).ok().filter(|identity| identity.capacity == capacity);
    let sealed = identity.and_then(|identity| Some((identity, identity.read_footer(&last).ok()?)));
    // It may have gone, and begun another life, between its name and its header.
    platform.metadata(path)?;
    Ok(sealed)
}

fn summarize_image(file: String, image: &SegmentImage) -> SegmentSummary {
    let mut pieces = image.pieces();
    let is_damaged = pieces.by_ref().any(|piece| matches!(piece, Piece::Damaged(_)))
        || image.header.is_err()
        || image.footer.is_err()
        || image.identity.first_sequence != image.named_sequence;
    pieces.by_ref().for_each(drop);
    let end = pieces.end();
    let sealed =
        if image.footer.is_ok_and(|footer| footer.is_some()) { SegmentState::Sealed } else { SegmentState::Open };
    SegmentSummary {
        file,
        state: if is_damaged { SegmentState::Damaged } else { sealed },
        first_sequence: image.named_sequence,
        next_sequence: end.next_sequence,
        record_bytes: end.end_byte.saturating_sub(image.identity.first_byte),
        used_bytes: end.end_offset as u64,
        file_bytes: image.bytes().len() as u64,
    }
}

/// The oldest record that may be undelivered.
struct Oldest {
    received_at_us: u64,
    attributes: Vec<String>,
    /// Bytes of its segment's records before it.
    bytes_before: u64,
}

fn find_oldest<P: Platform>(
    queue: &QueuePlace<P>,
    files: &QueueFiles,
    segments: &[SegmentSummary],
    wanted: Sequence,
) -> io::Result<Option<Oldest>> {
    let holds = |segment: &&SegmentSummary| (segment.first_sequence..segment.next_sequence).contains(&wanted);
    let Some(holder) = segments.iter().find(holds) else { return Ok(None) };
    let index = files.segments.iter().position(|(first, _)| *first == holder.first_sequence);
    let Some(index) = index else { return Ok(None) };
    let Some(image) = queue.segment(files, index, None)? else { return Ok(None) };
    for piece in image.pieces() {
        let Piece::Batch { header, records, .. } = piece else { continue };
        if header.next_sequence() <= wanted {
            continue;
        }
        let mut bytes_before = header.first_byte.get().saturating_sub(image.identity.first_byte);
        for found in records_of(records, header.first_sequence.get(), u64::from(header.count.get())).whole {
            if found.sequence == wanted {
                let attributes = RecordText::of(&Record { body: b"", ..found.record }).attributes_in_words();
                return Ok(Some(Oldest { received_at_us: found.record.received_at_us, attributes, bytes_before }));
            }
            bytes_before += found.bytes.len() as u64;
        }
        return Ok(None);
    }
    Ok(None)
}
