//! How a runner delivers out of order: it reads ahead into a window, and takes from there what is to go next.

use std::time::Duration;

use super::{DrainError, Runner};
use crate::config::Ordering;
use crate::drain::feed::{FeedError, Taken};
use crate::drain::lot::Lot;
use crate::drain::scheduler::Scheduler;
use crate::drain::window::selectors::{Selectors, limit};
use crate::drain::window::{Now, Waiting, Window};
use crate::limits::{WINDOW_FILL_BYTES_MAX, WINDOW_FILL_RECORDS_MAX};
use crate::queue::Queue;
use crate::record::Record;

/// What a queue needs whose records may overtake others.
pub(super) struct Reordering {
    window: Window,
    selectors: Selectors,
    /// What is being read, with its memory.
    read: Taken,
}

impl Reordering {
    /// `None` for a queue in which no record overtakes another.
    pub(super) fn new<S: Scheduler>(platform: &S, ordering: &Ordering) -> Option<Self> {
        if !ordering.is_reordering() {
            return None;
        }
        let random = || platform.random().unwrap_or_default();
        Some(Self {
            window: Window::new(limit(ordering), now(platform)),
            selectors: Selectors::new(ordering, (random(), random())),
            read: Taken::default(),
        })
    }

    fn has_room(&self, bounds: &crate::config::Window) -> bool {
        self.window.len() < bounds.records_max && self.window.bytes() < bounds.bytes_max
    }
}

fn now<S: Scheduler>(platform: &S) -> Now {
    Now { monotonic_ns: platform.monotonic_ns(), unix_us: platform.unix_us() }
}

impl<S: Scheduler> Runner<S> {
    /// Takes what is due from the window; `false` if nothing was, and the caller should look again.
    pub(super) async fn take_from_window(&mut self, lot: &mut Lot) -> Result<bool, DrainError> {
        let filled = self.fill_window().await;
        // Also while nothing of it may leave.
        self.publish_window();
        let now_here = now(&self.platform);
        let Some(reordering) = &mut self.reordering else { return Ok(false) };
        let ready = reordering.window.ready(now_here);
        if ready == 0 {
            // What has been read goes on its way before an error counts, which is found again.
            if !self.is_read(filled).await? {
                return Ok(false);
            }
            let Some(reordering) = &self.reordering else { return Ok(false) };
            let bounds = &self.queue.config.ordering.window;
            let has_more = self.queue.journal.durable.get() > self.feed.position();
            if !has_more || !reordering.has_room(bounds) {
                let wait = reordering.window.next_due_ns(now_here).map(Duration::from_nanos);
                self.wait_for_records(wait).await;
            }
            return Ok(false);
        }
        let count = self.wait_until_due(ready).await;
        if count == 0 {
            return Ok(false);
        }
        // What has come meanwhile may be more urgent than what was there. An error is found again.
        let _ = self.fill_window().await;
        let (bytes_max, now_here) = (self.course.told.shaping.batch.bytes_max, now(&self.platform));
        let Some(reordering) = &mut self.reordering else { return Ok(false) };
        lot.fill(&self.queue, &reordering.window.pick(count, bytes_max, now_here));
        Ok(!lot.taken.is_empty())
    }

    /// Reads some of what is durable into the window, as far as it has room. It is read in pieces, so that what is due does not
    /// wait for all of a long backlog.
    async fn fill_window(&mut self) -> Result<(), FeedError> {
        let (bounds, durable) = (&self.queue.config.ordering.window, self.queue.journal.durable.get());
        let Some(reordering) = &mut self.reordering else { return Ok(()) };
        if durable == self.feed.position() || !reordering.has_room(bounds) {
            return Ok(());
        }
        let records_max = (bounds.records_max - reordering.window.len()) as u64;
        let bytes_max = (bounds.bytes_max - reordering.window.bytes()).min(WINDOW_FILL_BYTES_MAX);
        let count = records_max.min(WINDOW_FILL_RECORDS_MAX);
        self.feed.take(count, bytes_max, durable, &mut reordering.read).await?;
        let now = now(&self.platform);
        for (sequence, bytes, end_byte) in reordering.read.encoded() {
            if self.progress.contains(sequence) {
                continue;
            }
            let (record, _) = Record::decode(bytes).map_err(|error| FeedError::Record { sequence, error })?;
            let waiting = Waiting { sequence, bytes: bytes.into(), start_byte: end_byte - bytes.len() as u64 };
            reordering.window.add(reordering.selectors.traits(&record), waiting, now);
        }
        reordering.read.clear();
        Ok(())
    }

    /// Publishes what waits in the window, once nothing of what was taken from it is undecided.
    pub(super) fn publish_window(&mut self) {
        let Some(reordering) = &self.reordering else { return };
        let Queue { drain, .. } = &*self.queue;
        let position_bytes = self.feed.position_bytes();
        drain.delivered_bytes.set(reordering.window.start_byte().unwrap_or(position_bytes));
        drain.window_records.set(reordering.window.len() as u64);
        drain.window_bytes.set(reordering.window.bytes() as u64);
    }
}
