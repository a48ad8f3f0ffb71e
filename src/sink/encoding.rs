//! The rows of a batch as lines of text, encoded in chunks while the server works on those that it has.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::mpsc;
// One that only queued the task again would not let the runtime look at its sockets.
use tokio::task::yield_now;

use super::mapping::{TablePlan, Value};
use super::{Delivery, SinkError};

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

/// Encodes the rows of a batch when polled, and where the chunks of them come out. The future says how many rows they are;
/// `field` appends a value, given the number of its column. ///
/// # Errors
///
/// The future's is [`SinkError::Permanent`] if a record has no rows by its mapping, a value fits its column in no way, or the rows are
/// more than `bounds` allow.
pub(super) fn encoder<U: Display>(
    table: &TablePlan,
    deliveries: &[Delivery<'_>],
    bounds: Bounds,
    field: impl Fn(&Value<'_>, usize, &mut Vec<u8>) -> Result<(), U>,
) -> (impl Future<Output = Result<u64, SinkError>>, Chunks) {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
    let chunks_in = ChunksIn { sender, message_bytes_max: bounds.message_bytes_max.clamp(1, CHUNK_BYTES_MAX) };
    let encoding = async move {
        let encoded = encode_rows(table, deliveries, bounds.batch_bytes_max, field, &chunks_in).await;
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

async fn encode_rows<U: Display>(
    table: &TablePlan,
    deliveries: &[Delivery<'_>],
    batch_bytes_max: usize,
    field: impl Fn(&Value<'_>, usize, &mut Vec<u8>) -> Result<(), U>,
    chunks: &ChunksIn,
) -> Result<u64, SinkError> {
    // The request that all rows wait for should leave first; it may be another task that sends it.
    yield_now().await;
    let mut chunk = Vec::with_capacity(2 * CHUNK_BYTES);
    let (mut count, mut bytes) = (0, 0);
    for delivery in deliveries {
        let rows = table.mapping.rows(delivery)?;
        for index in 0..rows.len() {
            append_row(table, delivery, &rows.row(index)?, &field, &mut chunk)?;
            count += 1;
            if chunk.len() >= CHUNK_BYTES {
                bytes += chunk.len();
                refuse_large(bytes, batch_bytes_max, deliveries)?;
                chunks.send(std::mem::replace(&mut chunk, Vec::with_capacity(2 * CHUNK_BYTES))).await;
                yield_now().await;
            }
        }
    }
    chunks.send(chunk).await;
    Ok(count)
}

/// Appends a row as a line: fields with tabs between them.
///
/// # Errors
///
/// [`SinkError::Permanent`] if a value fits its column in no way.
pub(super) fn append_row<U: Display>(
    table: &TablePlan,
    delivery: &Delivery<'_>,
    row: &[Value<'_>],
    field: impl Fn(&Value<'_>, usize, &mut Vec<u8>) -> Result<(), U>,
    out: &mut Vec<u8>,
) -> Result<(), SinkError> {
    for (number, value) in row.iter().enumerate() {
        if number > 0 {
            out.push(b'\t');
        }
        field(value, number, out).map_err(|why| unfit(delivery, &table.columns[number].0, &why))?;
    }
    out.push(b'\n');
    Ok(())
}

/// Where the encoder puts its chunks.
struct ChunksIn {
    sender: mpsc::Sender<Result<Bytes, Abandoned>>,
    message_bytes_max: usize,
}

impl ChunksIn {
    /// A piece may end anywhere: servers join them. Whoever hears that nobody takes them any more is about to be dropped.
    async fn send(&self, chunk: Vec<u8>) {
        let mut rest = Bytes::from(chunk);
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
