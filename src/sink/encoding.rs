//! The rows of a batch as lines of text, encoded in chunks while the server works on those that it has.

use std::fmt::{Debug, Display};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::mpsc;
// One that only queued the task again would not let the runtime look at its sockets.
use tokio::task::yield_now;

use super::encoded::{Ahead, Encode};
use super::mapping::{TablePlan, Value};
use super::{Batch, Delivery, SinkError};

/// Bytes of a chunk with which it is sent. The server begins with the first one, so that should not be long in coming.
const CHUNK_BYTES: usize = 16 * 1024;
/// The longest message of a chunk, unless the server takes less.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Chunks that are encoded before the server takes them.
const CHUNKS_AHEAD_MAX: usize = 64;

/// What comes in a chunk's place if a record has no rows by its mapping or a value fits its column in no way: no row of the
/// batch may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abandoned;

/// What a server takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of a chunk.
    pub(super) message_bytes_max: usize,
    /// Bytes of all rows of several records, which are halved beyond it.
    pub(super) batch_bytes_max: usize,
}

impl Bounds {
    /// Those of a server that takes everything.
    pub(super) const NONE: Self = Self { message_bytes_max: usize::MAX, batch_bytes_max: usize::MAX };
}

/// Chunks on their way from the encoder to whoever sends them.
pub(super) type Chunks = mpsc::Receiver<Result<Bytes, Abandoned>>;

/// How the rows of a table are written.
pub(super) trait RowFormat: Debug + Send + Sync {
    /// What keeps a value from being written.
    type Unfit: Display;

    /// Appends a row.
    ///
    /// # Errors
    ///
    /// The number of the first column whose value cannot be written, and why; `out` then ends anywhere.
    fn append(&self, row: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), (usize, Self::Unfit)>;
}

/// Appends a row as a line: fields with tabs between them.
///
/// # Errors
///
/// Those of `field`, with the number of the column.
pub(super) fn append_line<U>(
    row: &[Value<'_>],
    field: impl Fn(&Value<'_>, usize, &mut Vec<u8>) -> Result<(), U>,
    out: &mut Vec<u8>,
) -> Result<(), (usize, U)> {
    for (number, value) in row.iter().enumerate() {
        if number > 0 {
            out.push(b'\t');
        }
        field(value, number, out).map_err(|why| (number, why))?;
    }
    out.push(b'\n');
    Ok(())
}

/// The first byte that means something, of which there are few. A step's bytes are looked at together, which compilers make a few
/// instructions of.
pub(super) fn find_special(bytes: &[u8], is_special: impl Fn(u8) -> bool) -> Option<usize> {
    const STEP_BYTES: usize = 32;
    let find = |bytes: &[u8]| bytes.iter().position(|byte| is_special(*byte));
    let (steps, rest) = bytes.as_chunks::<STEP_BYTES>();
    for (number, step) in steps.iter().enumerate() {
        if step.iter().fold(false, |any, byte| any | is_special(*byte)) {
            return find(step).map(|place| number * STEP_BYTES + place);
        }
    }
    find(rest).map(|place| bytes.len() - rest.len() + place)
}

/// Encodes the rows of records for a table.
#[derive(Debug)]
pub(super) struct TableEncoder<F> {
    table: Arc<TablePlan>,
    format: F,
}

impl<F: RowFormat> TableEncoder<F> {
    pub(super) fn new(table: Arc<TablePlan>, format: F) -> Self {
        Self { table, format }
    }

    fn append_row(&self, delivery: &Delivery<'_>, row: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), SinkError> {
        let appended = self.format.append(row, out);
        appended.map_err(|(column, why)| {
            let name = self.table.columns.get(column).map_or("", |(name, _)| name);
            unfit(delivery, name, &why)
        })
    }
}

impl<F: RowFormat> Encode for TableEncoder<F> {
    fn append(&self, delivery: &Delivery<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Result<u64, SinkError> {
        let rows = self.table.mapping.rows(delivery)?;
        for index in 0..rows.len() {
            self.append_row(delivery, &rows.row(index)?, out)?;
            if out.len() > bytes_max {
                let sequence = delivery.sequence;
                return Err(SinkError::Permanent { message: format!("record {sequence}: its rows are too much") });
            }
        }
        Ok(rows.len() as u64)
    }
}

/// Encodes the rows of a batch when polled, but for those that there are already, and where the chunks of all of them come out. The
/// future says how many rows they are.
///
/// # Errors
///
/// The future's is [`SinkError::Permanent`] if a record has no rows by its mapping, a value fits its column in no way, or the rows are
/// more than `bounds` allow.
pub(super) fn encoder<F: RowFormat>(
    by: &Arc<TableEncoder<F>>,
    batch: &Batch<'_>,
    bounds: Bounds,
) -> (impl Future<Output = Result<u64, SinkError>>, Chunks) {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
    let chunks_in = ChunksIn { sender, message_bytes_max: bounds.message_bytes_max.clamp(1, CHUNK_BYTES_MAX) };
    let ahead = batch.ahead.filter(|ahead| ahead.is_by(by));
    let deliveries = batch.deliveries;
    let encoding = async move {
        let encoded = encode_rows(by, deliveries, ahead, bounds.batch_bytes_max, &chunks_in).await;
        if encoded.is_err() {
            // Whoever takes nothing any more needs no word.
            let _ = chunks_in.sender.send(Err(Abandoned)).await;
        }
        encoded
    };
    (encoding, chunks)
}

/// Encodes and sends by turns, until the latter has ended. What was encoded is unknown if that was before the last row.
pub(super) async fn beside<T>(
    encoding: impl Future<Output = Result<u64, SinkError>>,
    sending: impl Future<Output = T>,
) -> (Option<Result<u64, SinkError>>, T) {
    let (mut encoding, mut sending) = (pin!(encoding), pin!(sending));
    let mut encoded = None;
    poll_fn(|context| {
        // What it asks of the server first takes a while, in which there is something to encode.
        if let Poll::Ready(sent) = sending.as_mut().poll(context) {
            return Poll::Ready((encoded.take(), sent));
        }
        if encoded.is_none()
            && let Poll::Ready(result) = encoding.as_mut().poll(context)
        {
            encoded = Some(result);
        }
        Poll::Pending
    })
    .await
}

async fn encode_rows<F: RowFormat>(
    by: &TableEncoder<F>,
    deliveries: &[Delivery<'_>],
    ahead: Option<Ahead<'_>>,
    batch_bytes_max: usize,
    chunks: &ChunksIn,
) -> Result<u64, SinkError> {
    // The request that all rows wait for should leave first; it may be another task that sends it.
    yield_now().await;
    let (mut rest, mut count, mut bytes) = (deliveries, 0, 0);
    let mut chunk = Vec::with_capacity(2 * CHUNK_BYTES);
    if let Some(ahead) = ahead {
        rest = deliveries.get(ahead.records()..).unwrap_or_default();
        count = ahead.rows();
        bytes = ahead.bytes().len();
        refuse_large(bytes, batch_bytes_max, deliveries)?;
        chunks.send(ahead.bytes()).await;
    }
    for delivery in rest {
        let rows = by.table.mapping.rows(delivery)?;
        for index in 0..rows.len() {
            by.append_row(delivery, &rows.row(index)?, &mut chunk)?;
            count += 1;
            if chunk.len() >= CHUNK_BYTES {
                bytes += chunk.len();
                refuse_large(bytes, batch_bytes_max, deliveries)?;
                chunks.send(std::mem::replace(&mut chunk, Vec::with_capacity(2 * CHUNK_BYTES)).into()).await;
                yield_now().await;
            }
        }
    }
    chunks.send(chunk.into()).await;
    Ok(count)
}

/// Where the encoder puts its chunks.
struct ChunksIn {
    sender: mpsc::Sender<Result<Bytes, Abandoned>>,
    message_bytes_max: usize,
}

impl ChunksIn {
    /// A piece may end anywhere: servers join them. Whoever hears that nobody takes them any more is about to be dropped.
    async fn send(&self, mut rest: Bytes) {
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(self.message_bytes_max));
            if self.sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    }
}

/// Refuses a batch of several records whose rows become more bytes than that, so that it is halved.
pub(super) fn refuse_large(bytes: usize, bytes_max: usize, deliveries: &[Delivery<'_>]) -> Result<(), SinkError> {
    if bytes <= bytes_max || deliveries.len() < 2 {
        return Ok(());
    }
    Err(SinkError::Permanent { message: format!("the rows of these records take more than {bytes_max} bytes") })
}

/// Says that a value fits its column, or parameter, in no way.
pub(super) fn unfit(delivery: &Delivery<'_>, name: &str, why: &impl Display) -> SinkError {
    SinkError::Permanent { message: format!("record {}, value of {name}: {why}", delivery.sequence) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Most bytes mean nothing, so that what is found is in any step, or behind the last.
        #[test]
        fn the_first_special_byte_is_found_wherever_it_is(
            bytes in prop::collection::vec(prop_oneof![40 => b'a'..=b'z', 1 => any::<u8>()], 0..100),
        ) {
            let is_special = |byte: u8| byte <= b'\n' || byte == b'\\' || byte >= 0x80;
            prop_assert_eq!(find_special(&bytes, is_special), bytes.iter().position(|byte| is_special(*byte)));
        }
    }

    #[test]
    fn a_special_byte_is_found_in_every_place_of_every_length() {
        for length in 0..100 {
            assert_eq!(find_special(&vec![b'a'; length], |byte| byte == 0), None);
            for place in 0..length {
                let mut bytes = vec![b'a'; length];
                bytes[place] = 0;
                bytes[length - 1] = 0;
                assert_eq!(find_special(&bytes, |byte| byte == 0), Some(place), "of {length}");
            }
        }
    }
}
