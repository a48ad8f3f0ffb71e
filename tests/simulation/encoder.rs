//! What the simulated sink encodes ahead of a batch: the numbers and bodies of its records. It commits what is encoded and not what it is told
//! again, so that rows that belong to another batch show.

use std::sync::Arc;

use forebay::sink::encoded::Encode;
use forebay::sink::{Batch, Delivery, SinkError};

use crate::model::Body;

/// Bytes of a row.
const ROW_BYTES: usize = 16;
/// One in so many requests has records that cannot be encoded ahead.
const UNFIT: u32 = 16;

/// A connection's encoder.
#[derive(Debug)]
pub struct Rows;

impl Encode for Rows {
    fn append(&self, delivery: &Delivery<'_>, _: usize, out: &mut Vec<u8>) -> Result<u64, SinkError> {
        let body = Body::read(delivery.record.body);
        out.extend_from_slice(&delivery.sequence.to_le_bytes());
        out.extend_from_slice(&body.request.to_le_bytes());
        if body.request.is_multiple_of(UNFIT) {
            return Err(SinkError::Permanent { message: "it cannot be encoded ahead".to_owned() });
        }
        out.extend_from_slice(&body.index.to_le_bytes());
        Ok(1)
    }
}

/// The rows of a batch, and whether some of them were encoded ahead.
pub fn rows_of(encoder: &Arc<Rows>, batch: &Batch<'_>) -> (Vec<(u64, Body)>, bool) {
    let ahead = batch.ahead.filter(|ahead| ahead.is_by(encoder));
    let bytes = ahead.map(|ahead| ahead.bytes()).unwrap_or_default();
    let mut rows: Vec<_> = bytes.chunks_exact(ROW_BYTES).map(row).collect();
    assert_eq!(rows.len() as u64, ahead.map_or(0, |ahead| ahead.rows()));
    assert_eq!(rows.len(), ahead.map_or(0, |ahead| ahead.records()));
    let rest = &batch.deliveries[rows.len()..];
    rows.extend(rest.iter().map(|delivery| (delivery.sequence, Body::read(delivery.record.body))));
    (rows, ahead.is_some())
}

fn row(bytes: &[u8]) -> (u64, Body) {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let sequence = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    (sequence, Body { request: number(8), index: number(12) })
}
