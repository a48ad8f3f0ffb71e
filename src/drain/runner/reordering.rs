//! How a runner delivers out of order: it reads ahead into a window, and takes from there what is to go next.

use std::time::Duration;

use super::dispatch::InFlight;
use super::{DrainError, Runner};
use crate::config::Ordering;
use crate::drain::feed::{FeedError, Taken};
use crate::drain::lot::Lot;
use crate::drain::scheduler::Scheduler;
use crate::drain::window::selectors::{Selectors, limit};
use crate::drain::window::{Now, Picked, Waiting, Window};
use crate::limits::{WINDOW_FILL_BYTES_MAX, WINDOW_FILL_RECORDS_MAX};
use crate::planted::{Bug, is_planted};
use crate::record::Record;

/// What a queue needs whose records may overtake others.
pub(super) struct Reordering {
    window: Window,
    selectors: Selectors,
    /// What is being read, with its memory.
    read: Taken,
}

impl Reordering {
    /// `None` where no record overtakes another. `kept` is the ordering that says what a record keeps.
    pub(super) fn new<S: Scheduler>(platform: &S, ordering: &Ordering, kept: &Ordering, lanes: usize) -> Option<Self> {
        if !ordering.is_reordering() {
            return None;
        }
        // With one lane too: another one may be admitted while its lot is on its way.
        let holds_keys = !is_planted(Bug::ShareKey) && (lanes > 1 || !is_planted(Bug::HoldKeysFromStart));
        let random = || platform.random().unwrap_or_default();
        Some(Self {
            window: Window::new(limit(ordering), holds_keys, now(platform)),
            selectors: Selectors::new(ordering, kept, (random(), random())),
            read: Taken::default(),
        })
    }
}

fn now<S: Scheduler>(platform: &S) -> Now {
    Now { monotonic_ns: platform.monotonic_ns(), unix_us: platform.unix_us() }
}

impl<S: Scheduler> Runner<S> {
    /// Takes what is due from the window; `None` if nothing was, and the caller should look again.
    pub(super) async fn take_from_window(&mut self, lot: &mut Lot) -> Result<Option<InFlight>, DrainError> {
        let filled = self.fill_window().await;
        // Also while nothing of it may leave.
        self.publish_window();
        let now_here = now(&self.platform);
        let Some(reordering) = &mut self.reordering else { return Ok(None) };
        let ready = reordering.window.ready(now_here);
        if ready == 0 {
            let wait = reordering.window.next_due_ns(now_here).map(Duration::from_nanos);
            // What has been read goes on its way before an error counts, which is found again.
            if !self.is_read(filled).await? {
                return Ok(None);
            }
            let has_more = self.queue.journal.durable.get() > self.feed.position();
            if !has_more || self.room().is_none() {
                self.wait_for_records(wait).await;
            }
            return Ok(None);
        }
        let count = self.wait_until_due(ready).await;
        if count == 0 {
            return Ok(None);
        }
        // What has come meanwhile may be more urgent than what was there. An error is found again.
        let _ = self.fill_window().await;
        let (bytes_max, now_here) = (self.shared.state().course.told.shaping.batch.bytes_max, now(&self.platform));
        let Some(reordering) = &mut self.reordering else { return Ok(None) };
        let Picked { records, keys } = reordering.window.pick(count, bytes_max, now_here);
        lot.fill(&self.queue, &records);
        let in_flight = InFlight {
            keys,
            records: records.len(),
            bytes: records.iter().map(|waiting| waiting.bytes.len()).sum(),
            start_byte: records.iter().map(|waiting| waiting.start_byte).min(),
        };
        Ok((!records.is_empty()).then_some(in_flight))
    }

    /// Records with these keys are no longer on their way.
    pub(super) fn release(&mut self, keys: &[u64]) {
        if let Some(reordering) = &mut self.reordering {
            reordering.window.release(keys);
        }
    }

    /// How many more records, and bytes of them, may be read; `None` for none. What is on its way counts as well: it is not
    /// delivered, and what is delivered behind it has to be noted.
    fn room(&self) -> Option<(u64, usize)> {
        let (bounds, window) = (&self.outlet.config.ordering.window, &self.reordering.as_ref()?.window);
        let in_flight = |of: fn(&InFlight) -> usize| self.dispatcher.in_flight().map(of).sum::<usize>();
        let records = bounds.records_max.saturating_sub(window.len() + in_flight(|lot| lot.records));
        let bytes = bounds.bytes_max.saturating_sub(window.bytes() + in_flight(|lot| lot.bytes));
        (records > 0 && bytes > 0).then_some((records as u64, bytes))
    }

    /// Reads some of what is durable into the window, as far as it has room. It is read in pieces, so that what is due does not
    /// wait for all of a long backlog.
    async fn fill_window(&mut self) -> Result<(), FeedError> {
        let (room, durable) = (self.room(), self.queue.journal.durable.get());
        let (Some((records_max, bytes_max)), Some(reordering)) = (room, &mut self.reordering) else { return Ok(()) };
        if durable == self.feed.position() {
            return Ok(());
        }
        let (count, bytes_max) = (records_max.min(WINDOW_FILL_RECORDS_MAX), bytes_max.min(WINDOW_FILL_BYTES_MAX));
        self.feed.take(count, bytes_max, durable, &mut reordering.read).await?;
        let progress = self.shared.progress();
        let now = now(&self.platform);
        for (sequence, bytes, end_byte) in reordering.read.encoded() {
            if progress.contains(sequence) {
                continue;
            }
            let (record, _) = Record::decode(bytes).map_err(|error| FeedError::Record { sequence, error })?;
            let waiting = Waiting { sequence, bytes: bytes.into(), start_byte: end_byte - bytes.len() as u64 };
            reordering.window.add(reordering.selectors.traits(&record), waiting, now);
        }
        reordering.read.clear();
        Ok(())
    }

    /// Publishes what waits in the window, and that what is on its way is not delivered.
    pub(super) fn publish_window(&mut self) {
        let Some(reordering) = &self.reordering else { return };
        let drain = &self.outlet.drain;
        let position_bytes = self.feed.position_bytes();
        let in_flight = self.dispatcher.in_flight().filter_map(|lot| lot.start_byte);
        let start_byte = in_flight.chain(reordering.window.start_byte()).min();
        drain.delivered_bytes.set(start_byte.unwrap_or(position_bytes));
        drain.window_records.set(reordering.window.len() as u64);
        drain.window_bytes.set(reordering.window.bytes() as u64);
    }
}
