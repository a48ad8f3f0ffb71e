//! Which segments of a queue exist. The journal adds, the maintenance thread removes,
//! the drain looks; each of them once a segment, so a lock is fine.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::format::SegmentIdentity;
use crate::record::Sequence;

/// A segment of a queue.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// Which life of the file it is.
    pub identity: SegmentIdentity,
    /// The sequence behind its last, once it is sealed.
    pub sealed_next: Option<Sequence>,
    /// Whether its idempotency keys are saved, so that it may go.
    pub keys_saved: bool,
}

/// The segments of one queue, oldest first; the last one may be open for appending.
#[derive(Default)]
pub struct Catalogue {
    segments: Mutex<VecDeque<Segment>>,
}

impl Catalogue {
    /// Adds a segment behind all others.
    pub fn push(&self, segment: Segment) {
        self.lock().push_back(segment);
    }

    /// Takes the last segment out: it is empty and another takes its place.
    pub fn pop_last(&self) {
        self.lock().pop_back();
    }

    /// Marks the last segment as sealed.
    pub fn seal_last(&self, next_sequence: Sequence) {
        if let Some(last) = self.lock().back_mut() {
            last.sealed_next = Some(next_sequence);
        }
    }

    /// Marks a segment's keys as saved.
    pub fn set_keys_saved(&self, first_sequence: Sequence) {
        let mut segments = self.lock();
        if let Some(segment) = segments.iter_mut().find(|s| s.identity.first_sequence == first_sequence) {
            segment.keys_saved = true;
        }
    }

    /// The segment that holds `sequence`, or would hold it.
    #[must_use]
    pub fn find(&self, sequence: Sequence) -> Option<Segment> {
        let segments = self.lock();
        let behind = segments.partition_point(|segment| segment.identity.first_sequence <= sequence);
        segments.get(behind.checked_sub(1)?).cloned()
    }

    /// Takes the oldest segment out if all of it is delivered and its keys are saved. The last one
    /// stays, sealed or not: its end is what says which sequence comes next.
    pub fn pop_delivered(&self, delivered: Sequence) -> Option<Segment> {
        let mut segments = self.lock();
        if segments.len() < 2 {
            return None;
        }
        let oldest = segments.front()?;
        let done = oldest.keys_saved && oldest.sealed_next.is_some_and(|next| next <= delivered.saturating_add(1));
        if done { segments.pop_front() } else { None }
    }

    /// Takes back what [`pop_delivered`](Self::pop_delivered) gave out last: its file is still there.
    pub fn put_back(&self, segment: Segment) {
        self.lock().push_front(segment);
    }

    /// The oldest segment.
    #[must_use]
    pub fn first(&self) -> Option<Segment> {
        self.lock().front().cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Segment>> {
        // A list that a panicking thread held is still a list: every change is one step.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
