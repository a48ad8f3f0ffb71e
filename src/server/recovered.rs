//! One queue between its recovery and the threads that will share it.

use std::path::PathBuf;
use std::sync::Arc;

use super::{StartError, system};
use crate::config;
use crate::control::Controlled;
use crate::drain::dead_letters::DeadLetterFile;
use crate::drain::feed::Feed;
use crate::drain::pause;
use crate::drain::runner::{Runner, SinkOpener};
use crate::drain::scheduler::Scheduler;
use crate::journal::append::Appender;
use crate::journal::catalogue::Catalogue;
use crate::journal::cursor;
use crate::journal::directory::begin_epoch;
use crate::journal::idempotency::IdempotencyIndex;
use crate::journal::maintenance::Kept;
use crate::journal::platform::System;
use crate::journal::recovery::recover;
use crate::journal::segment_file::aligned_buffer;
use crate::journal::writer::QueueLog;
use crate::planted::{Bug, is_planted};
use crate::queue::Queue;
use crate::sink::Sink;
use crate::sync::{Consumer, RingBuffer};
use crate::ticket::TicketCodec;
use tokio::sync::watch;

/// What must be known of a queue to recover it.
pub struct QueueStart<'a> {
    /// Its place in the configuration.
    pub index: u16,
    /// Identifies it within its data directory.
    pub id: u64,
    /// Its name.
    pub name: &'a str,
    /// Its settings.
    pub config: &'a config::Queue,
    /// Its directory, which exists.
    pub directory: PathBuf,
    /// Counts the starts of the process.
    pub epoch: u64,
    /// Key of the tickets' checks.
    pub ticket_secret: [u8; 16],
    /// Bytes of one commit.
    pub commit_bytes_max: usize,
}

/// What recovery makes of one queue, on its way to the threads.
pub struct RecoveredQueue<P: Scheduler = System> {
    platform: P,
    /// What all threads see of it.
    pub queue: Arc<Queue>,
    directory: PathBuf,
    /// Its segments.
    pub catalogue: Arc<Catalogue>,
    appender: Appender,
    file: Option<P::File>,
    dead_letters: Arc<DeadLetterFile<P>>,
}

/// What the drain thread gets for one queue.
pub struct DrainParts<P: Scheduler = System> {
    platform: P,
    /// What all threads see of it.
    pub queue: Arc<Queue>,
    hot: Consumer<u8>,
    catalogue: Arc<Catalogue>,
    dead_letters: Arc<DeadLetterFile<P>>,
}

impl<P: Scheduler> RecoveredQueue<P> {
    /// Recovers a queue and sets its watermarks.
    ///
    /// # Errors
    ///
    /// The queue cannot be used. No segment has been changed.
    pub fn recover(platform: P, start: QueueStart<'_>) -> Result<Self, StartError> {
        let QueueStart { index, id, name, config, directory: path, epoch, ticket_secret, commit_bytes_max } = start;
        let keys = IdempotencyIndex::new(config.idempotency_window_ms, config.idempotency_keys_max);
        let mut found = recover(&platform, &path, id, keys, platform.unix_us() / 1_000_000)?;
        if is_planted(Bug::ReuseSequence) && found.next_sequence > 1 {
            found.next_sequence -= 1;
        }
        let epochs = begin_epoch(&platform, &path, epoch, found.next_sequence)?;
        let tickets = TicketCodec::new(name, ticket_secret, epochs);
        let queue = Arc::new(Queue::new(index, id, name, config.clone(), tickets));
        let dead_letters = DeadLetterFile::open(&platform, &path, config.dead_letters_bytes_max, &queue.dead_letters)?;
        let dead_letters = Arc::new(dead_letters);
        let failed = |error| StartError::System { what: "the mark of a paused queue", error };
        if pause::is_marked(&platform, &path).map_err(failed)? {
            queue.instructions.send_modify(|told| told.is_paused = true);
            tracing::warn!(queue = name, "the queue is paused, as it was before; `forebay resume` lets it deliver");
        }
        let durable = found.next_sequence - 1;
        let first = found.catalogue.first().map(|segment| segment.identity);
        let (trimmed, first_byte) = first.map_or((0, 0), |first| (first.first_sequence - 1, first.first_byte));
        queue.journal.appended.set(durable);
        queue.journal.durable_bytes.set(found.end_byte);
        queue.journal.durable.set(durable);
        queue.journal.trimmed.set(trimmed);
        // Until the sink has answered, this much is certain; the bytes are then too many rather than too few.
        queue.drain.delivered_bytes.set(first_byte);
        let delivered = cursor::load(&platform, &path).clamp(trimmed, durable);
        queue.drain.released.set(delivered);
        queue.drain.delivered.set(delivered);
        tracing::info!(
            queue = name,
            durable,
            segments = found.catalogue.len(),
            idempotency_keys = found.keys.len(),
            torn = found.torn,
            "recovered"
        );
        let buffer = aligned_buffer(commit_bytes_max).map_err(system("memory for a commit"))?;
        let mut appender = Appender::new(epoch, found.next_sequence, found.end_byte, found.keys, buffer);
        let file = found.open.map(|open| {
            appender.open_segment(open.identity, open.offset, open.key_count);
            open.file
        });
        let catalogue = Arc::new(found.catalogue);
        Ok(Self { platform, queue, directory: path, catalogue, appender, file, dead_letters })
    }

    /// What changes it while it runs.
    #[must_use]
    pub fn controlled(&self) -> Controlled<P> {
        let dead_letters = Arc::clone(&self.dead_letters);
        Controlled { queue: Arc::clone(&self.queue), directory: self.directory.clone(), dead_letters }
    }

    /// What the maintenance thread gets.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept {
            queue: Arc::clone(&self.queue),
            directory: self.directory.clone(),
            catalogue: Arc::clone(&self.catalogue),
        }
    }

    /// What the journal's and the drain's thread get, with a ring of so many bytes between them.
    #[must_use]
    pub fn split(self, hot_ring_bytes: usize) -> (QueueLog<P>, DrainParts<P>) {
        let (hot_in, hot) = RingBuffer::new(hot_ring_bytes);
        let Self { platform, queue, directory, catalogue, appender, file, dead_letters } = self;
        let drain =
            DrainParts { platform, queue: Arc::clone(&queue), hot, catalogue: Arc::clone(&catalogue), dead_letters };
        (QueueLog::new(queue, directory, catalogue, appender, file, hot_in), drain)
    }
}

impl<P: Scheduler> DrainParts<P> {
    /// The drain of this queue into `sink`; `open` opens it once more, for other lanes and for dead letters.
    #[must_use]
    pub fn runner(self, sink: Box<dyn Sink>, open: SinkOpener, stop: watch::Receiver<bool>) -> Runner<P> {
        let feed = Feed::new(self.platform.clone(), self.hot, self.catalogue);
        Runner::new(self.platform, self.queue, feed, sink, self.dead_letters, open, stop)
    }
}
