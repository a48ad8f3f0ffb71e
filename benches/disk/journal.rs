//! A journal without a server: segments of one queue, written by the appender and read back by the drain's feed.

#![allow(clippy::disallowed_methods, reason = "time is what a bench is about")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::drain::feed::{Feed, Taken};
use forebay::journal::catalogue::{Catalogue, Segment};
use forebay::journal::platform::{Mode, Platform as _, System};
use forebay::journal::segment_file::create_zeroed;
use forebay::journal::uring::{Disk, Write};
use forebay::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, SEGMENT_BYTES};
use forebay_loadtest::results::median;

use crate::stand::journal::Log;
use crate::stand::{ORDER_BYTES, encoded, frame_header};

/// Bytes of the records of large batches.
const RECORD_BYTES: usize = 1000;

/// Segment files that have been written once, so that writing them again allocates nothing.
pub struct Journal {
    files: Vec<PathBuf>,
}

/// A journal that was filled.
pub struct Written {
    /// Bytes of batches written in each second, with all syncs.
    pub bytes_per_second: f64,
    /// Its segments.
    pub catalogue: Arc<Catalogue>,
    /// Records in them.
    pub records: u64,
    /// Bytes of their batches, headers and padding included.
    pub bytes: u64,
}

impl Written {
    /// Reads all records as the drain does when they are not in its ring, and returns the bytes of batches that it went
    /// through for each second. The files are read around the page cache.
    pub fn read(&self) -> f64 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_, hot) = rtrb::RingBuffer::new(1);
        let mut feed = Feed::new(System, hot, Arc::clone(&self.catalogue));
        let mut taken = Taken::default();
        let taken_bytes_max = usize::try_from(BATCH_BYTES_MAX).unwrap();
        let started = Instant::now();
        let read = runtime.block_on(async {
            feed.seek(1).await.unwrap();
            let mut read = 0;
            while read < self.records {
                feed.take(BATCH_RECORDS_MAX, taken_bytes_max, self.records, &mut taken).await.unwrap();
                read += taken.len() as u64;
            }
            read
        });
        assert_eq!(read, self.records);
        self.bytes as f64 / started.elapsed().as_secs_f64()
    }
}

impl Journal {
    /// Makes the files.
    pub fn lay_out(directory: &Path, bytes: u64) -> Self {
        let make = |number| {
            let path = directory.join(format!("{number:04}.seg"));
            create_zeroed(&System, &path, SEGMENT_BYTES, Duration::ZERO).unwrap();
            path
        };
        Self { files: (0..bytes.div_ceil(SEGMENT_BYTES).max(2)).map(make).collect() }
    }

    /// Fills all segments with batches of about `batch_bytes`, each written and synced before the next one is begun.
    pub fn append(&self, batch_bytes: u64) -> Written {
        let record = encoded(RECORD_BYTES);
        let frame = frame_header(record.len());
        let records_a_batch = usize::try_from(batch_bytes).unwrap() / record.len();
        let mut log = Log::new(SEGMENT_BYTES, 0);
        let mut disk = Disk::new(1).unwrap();
        let catalogue = Arc::new(Catalogue::default());
        let (mut bytes, mut records) = (0, 0);
        let started = Instant::now();
        for path in &self.files {
            if records > 0 {
                log.next_segment();
            }
            let file = System.open(path, Mode::Segment { write: true }).unwrap();
            let identity = log.identity;
            catalogue.push(Segment { path: path.clone(), identity, sealed_next: None, keys_saved: false });
            while log.has_room(records_a_batch * record.len()) {
                for _ in 0..records_a_batch {
                    log.append(&frame, &record);
                }
                let sealed = log.seal();
                let batch = Write { file: &file, offset: sealed.offset, bytes: log.batch(&sealed) };
                disk.commit(std::iter::once(batch)).unwrap();
                log.committed(&sealed);
                bytes += sealed.padded_bytes as u64;
                records += records_a_batch as u64;
            }
            catalogue.seal_last(records + 1);
        }
        Written { bytes_per_second: bytes as f64 / started.elapsed().as_secs_f64(), catalogue, records, bytes }
    }

    /// Commits one order after the other and returns the median time of one, in microseconds.
    pub fn commit_orders(&self, orders: u64) -> f64 {
        let record = encoded(ORDER_BYTES);
        let frame = frame_header(record.len());
        let mut log = Log::new(SEGMENT_BYTES, 0);
        let mut disk = Disk::new(1).unwrap();
        let file = System.open(&self.files[0], Mode::Segment { write: true }).unwrap();
        let times: Vec<f64> = (0..orders)
            .map(|_| {
                let started = Instant::now();
                log.make_room(record.len());
                log.append(&frame, &record);
                let sealed = log.seal();
                disk.commit(std::iter::once(Write { file: &file, offset: sealed.offset, bytes: log.batch(&sealed) }))
                    .unwrap();
                log.committed(&sealed);
                started.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        median(&times)
    }
}
