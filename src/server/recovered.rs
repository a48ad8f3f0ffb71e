//! One queue between its recovery and the threads that will share it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{StartError, system};
use crate::config;
use crate::control::Controlled;
use crate::drain::begin;
use crate::drain::dead_letters::DeadLetterFile;
use crate::drain::feed::Feed;
use crate::drain::pause;
use crate::drain::runner::{Runner, SinkOpener};
use crate::drain::scheduler::Scheduler;
use crate::journal::append::Appender;
use crate::journal::catalogue::Catalogue;
use crate::journal::cursor;
use crate::journal::directory::{begin_epoch, known_sinks, sink_directory};
use crate::journal::idempotency::IdempotencyIndex;
use crate::journal::maintenance::{Kept, KeptOutlet};
use crate::journal::platform::System;
use crate::journal::recovery::recover;
use crate::journal::segment_file::aligned_buffer;
use crate::journal::writer::QueueLog;
use crate::planted::{Bug, is_planted};
use crate::queue::{Outlet, Queue};
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
    outlets: Vec<RecoveredOutlet<P>>,
}

/// What recovery makes of one of a queue's outlets.
struct RecoveredOutlet<P: Scheduler> {
    outlet: Arc<Outlet>,
    /// The main one's is the queue's.
    directory: PathBuf,
    dead_letters: Arc<DeadLetterFile<P>>,
}

/// What the drain thread gets for one outlet of a queue.
pub struct DrainParts<P: Scheduler = System> {
    platform: P,
    /// What all threads see of the queue.
    pub queue: Arc<Queue>,
    /// What they see of the outlet.
    pub outlet: Arc<Outlet>,
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
        let durable = found.next_sequence - 1;
        let first = found.catalogue.first().map(|segment| segment.identity);
        let (trimmed, first_byte) = first.map_or((0, 0), |first| (first.first_sequence - 1, first.first_byte));
        queue.journal.appended.set(durable);
        queue.journal.durable_bytes.set(found.end_byte);
        queue.journal.durable.set(durable);
        queue.journal.trimmed.set(trimmed);
        let outlet = |outlet| RecoveredOutlet::recover(&platform, &queue, outlet, &path, first_byte);
        let outlets = queue.outlets().map(outlet).collect::<Result<Vec<_>, _>>()?;
        let known = known_sinks(&platform, &path).map_err(system("the directory of a queue's sinks"))?;
        for sink in known.iter().filter(|sink| !config.sinks.contains_key(*sink)) {
            tracing::warn!(
                queue = name,
                sink,
                "this sink is no longer configured: nothing is delivered to it, and what it has not got is not kept for it. Its                  dead letters stay in its directory"
            );
        }
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
        Ok(Self { platform, queue, directory: path, catalogue, appender, file, outlets })
    }

    /// What changes its outlets while they run.
    pub fn controlled(&self) -> impl Iterator<Item = Controlled<P>> {
        self.outlets.iter().map(|of| Controlled {
            queue: Arc::clone(&self.queue),
            outlet: Arc::clone(&of.outlet),
            directory: of.directory.clone(),
            dead_letters: Arc::clone(&of.dead_letters),
        })
    }

    /// What the maintenance thread gets.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let outlet = |of: &RecoveredOutlet<P>| KeptOutlet::new(Arc::clone(&of.outlet), of.directory.clone());
        Kept {
            queue: Arc::clone(&self.queue),
            directory: self.directory.clone(),
            outlets: self.outlets.iter().map(outlet).collect(),
            catalogue: Arc::clone(&self.catalogue),
        }
    }

    /// What the journal's thread gets, and the drain's for each outlet, the main one first; between the two is a ring of so
    /// many bytes for each.
    #[must_use]
    pub fn split(self, hot_ring_bytes: usize) -> (QueueLog<P>, Vec<DrainParts<P>>) {
        let Self { platform, queue, directory, catalogue, appender, file, outlets } = self;
        let pair = |RecoveredOutlet { outlet, dead_letters, .. }: RecoveredOutlet<P>| {
            let (hot_in, hot) = RingBuffer::new(hot_ring_bytes);
            let (platform, queue, catalogue) = (platform.clone(), Arc::clone(&queue), Arc::clone(&catalogue));
            let outlet_in = Arc::clone(&outlet);
            ((outlet_in, hot_in), DrainParts { platform, queue, outlet, hot, catalogue, dead_letters })
        };
        let (hot_in, drains) = outlets.into_iter().map(pair).unzip();
        (QueueLog::new(queue, directory, catalogue, appender, file, hot_in), drains)
    }
}

impl<P: Scheduler> RecoveredOutlet<P> {
    /// Opens the outlet's files and sets its watermarks. The journal begins behind `first_byte` of the queue's bytes.
    fn recover(
        platform: &P,
        queue: &Queue,
        outlet: &Arc<Outlet>,
        queue_directory: &Path,
        first_byte: u64,
    ) -> Result<Self, StartError> {
        let (durable, trimmed) = (queue.journal.durable.get(), queue.journal.trimmed.get());
        let directory = match &outlet.name {
            None => queue_directory.to_owned(),
            Some(name) => sink_directory(queue_directory, name),
        };
        if outlet.name.is_some() {
            let begins_after = begin::load_or_store(platform, &directory, trimmed);
            outlet.begins_after.set(begins_after.map_err(system("where a sink begins"))?);
        }
        let bytes_max = outlet.config.dead_letters_bytes_max;
        let dead_letters = DeadLetterFile::open(platform, &directory, bytes_max, &outlet.dead_letters)?;
        if pause::is_marked(platform, &directory).map_err(system("the mark of a paused queue"))? {
            outlet.instructions.send_modify(|told| told.is_paused = true);
            let (queue, sink) = (&queue.name, &outlet.name);
            tracing::warn!(queue, sink, "the queue is paused, as it was before; `forebay resume` lets it deliver");
        }
        // Until the sink has answered, this much is certain; the bytes are then too many rather than too few.
        outlet.drain.delivered_bytes.set(first_byte);
        let known = cursor::load(platform, &directory).max(outlet.begins_after.get());
        let delivered = known.clamp(trimmed, durable);
        outlet.drain.released.set(delivered);
        outlet.drain.delivered.set(delivered);
        Ok(Self { outlet: Arc::clone(outlet), directory, dead_letters: Arc::new(dead_letters) })
    }
}

impl<P: Scheduler> DrainParts<P> {
    /// The drain of this outlet into `sink`; `open` opens it once more, for other lanes and for dead letters.
    #[must_use]
    pub fn runner(self, sink: Box<dyn Sink>, open: SinkOpener, stop: watch::Receiver<bool>) -> Runner<P> {
        let feed = Feed::new(self.platform.clone(), self.hot, self.catalogue);
        Runner::new(self.platform, (self.queue, self.outlet), feed, sink, self.dead_letters, open, stop)
    }
}
