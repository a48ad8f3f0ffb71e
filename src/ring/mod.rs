//! The ring between one executor and the journal: frames one way, completions back.
//!
//! A frame is what one request submitted: one record, or all records of an NDJSON
//! body, which the journal writes in one batch or not at all. The executor names the
//! slot in which the request waits; the completion carries it back. A frame is pushed
//! whole, so whoever sees its header sees all of it.
//!
//! Invariant: an executor never has more requests in flight than the completion ring
//! has places, so the journal can always complete.

mod bell;

use std::sync::Arc;
use std::time::Duration;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::planted::{Bug, is_planted};
use crate::record::Sequence;
use crate::sync::{AtomicU64, AtomicWaker, Consumer, Ordering, Producer, RingBuffer, fence};

pub use bell::Bell;

/// What precedes the records of a frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// Bytes of the records behind this header.
    pub length: U32,
    /// How many records they are; at least 1.
    pub count: U32,
    /// Where the request waits, in the executor's own terms.
    pub slot: U32,
    /// Which queue, by index.
    pub queue: U16,
    /// Connections of this executor that have sent requests lately, this one included.
    pub senders: U16,
    /// Keyed hash of the idempotency key, all zero for none.
    pub idempotency_hash: [u8; 16],
}

/// Bytes of a [`FrameHeader`].
pub const FRAME_HEADER_BYTES: usize = size_of::<FrameHeader>();

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The slot that the frame named.
    pub slot: u32,
    /// Records of the frame, or of the first frame with the same idempotency key.
    pub count: u32,
    /// Sequence of the first of them.
    pub first_sequence: Sequence,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Taken: on disk, or in the journal's memory for a queue that asks for no more.
    Stored,
    /// The idempotency key was known; the sequences are the first request's.
    Replayed,
    /// There is no room for another segment; nothing was stored.
    DiskFull,
    /// The journal has failed; nothing may be believed or acknowledged.
    Failed,
}

/// How many frames were pushed, and at how many the journal wants to be woken from a pause.
/// Each number lies on cache lines of its own: the executor writes the first and only reads the second,
/// which the journal writes once a pause.
#[derive(Default)]
struct Tally {
    pushed: Line<AtomicU64>,
    enough_at: Line<AtomicU64>,
}

/// Keeps what others write off its cache lines (two, as processors fetch them in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

/// The executor's end of the ring.
pub struct IngressEnd {
    frames: Producer<u8>,
    pushed: u64,
    tally: Arc<Tally>,
    completions: Consumer<Completion>,
    bell: Arc<Bell>,
    waker: Arc<AtomicWaker>,
}

/// The journal's end of the ring.
pub struct JournalEnd {
    frames: Consumer<u8>,
    taken: u64,
    tally: Arc<Tally>,
    completions: Producer<Completion>,
    waker: Arc<AtomicWaker>,
    /// A frame whose header has been taken off the ring and whose records have not.
    pending: Option<FrameHeader>,
    completed: bool,
}

/// The ring has no room for the frame now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring to the journal is full")]
pub struct RingFull;

/// Makes a ring of `bytes` for frames and `in_flight_max` completions.
#[must_use]
pub fn ring(bytes: usize, in_flight_max: usize, bell: Arc<Bell>) -> (IngressEnd, JournalEnd) {
    let (frames_in, frames_out) = RingBuffer::new(bytes);
    let (completions_in, completions_out) = RingBuffer::new(in_flight_max);
    let waker = Arc::new(AtomicWaker::new());
    let tally = Arc::new(Tally::default());
    tally.enough_at.0.store(u64::MAX, Ordering::Relaxed);
    let ingress = IngressEnd {
        frames: frames_in,
        pushed: 0,
        tally: Arc::clone(&tally),
        completions: completions_out,
        bell,
        waker: Arc::clone(&waker),
    };
    let journal = JournalEnd {
        frames: frames_out,
        taken: 0,
        tally,
        completions: completions_in,
        waker,
        pending: None,
        completed: false,
    };
    (ingress, journal)
}

/// Sleeps until one of the rings has as many more frames than were peeked at as stand beside it, or `patience`
/// ends. Only the thread that sleeps on the bell may call this. May return early.
pub fn wait_for_frames<'a>(
    bell: &Bell,
    patience: Duration,
    wanted: impl Iterator<Item = (&'a JournalEnd, u64)> + Clone,
) {
    wanted.clone().for_each(|(ring, frames)| ring.call_at(frames));
    bell.pause_unless(patience, || wanted.clone().any(|(ring, frames)| ring.has(frames)));
    wanted.for_each(|(ring, _)| ring.call_off());
}

impl IngressEnd {
    /// Pushes a frame, header and records, and wakes the journal if it sleeps.
    ///
    /// # Errors
    ///
    /// [`RingFull`] if it does not fit now; nothing was pushed.
    pub fn submit(&mut self, frame: &[u8]) -> Result<(), RingFull> {
        if self.frames.push_entire_slice(frame).is_err() {
            self.hurry();
            return Err(RingFull);
        }
        self.pushed += 1;
        self.tally.pushed.0.store(self.pushed, Ordering::Release);
        self.bell.ring();
        // Behind the fence in `ring`, so that either this sees what the journal wants or the journal sees the push.
        if self.pushed >= self.tally.enough_at.0.load(Ordering::Relaxed) {
            self.tally.enough_at.0.store(u64::MAX, Ordering::Relaxed);
            self.bell.wake();
        }
        Ok(())
    }

    /// Ends a pause of the journal: something here is full.
    pub fn hurry(&self) {
        self.bell.wake();
    }

    /// The next completion, if there is one.
    pub fn completion(&mut self) -> Option<Completion> {
        self.completions.pop().ok()
    }

    /// Whether a completion has come.
    #[must_use]
    pub fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// Woken after completions were pushed. Register first, look again, then sleep.
    #[must_use]
    pub fn waker(&self) -> Arc<AtomicWaker> {
        Arc::clone(&self.waker)
    }
}

impl JournalEnd {
    /// The header of the next frame, if there is one. It stays the next one until
    /// [`take`](Self::take) or [`skip`](Self::skip).
    pub fn peek(&mut self) -> Option<FrameHeader> {
        if self.pending.is_none() {
            let mut header = FrameHeader::new_zeroed();
            self.frames.pop_entire_slice(header.as_mut_bytes()).ok()?;
            self.pending = Some(header);
            self.taken += 1;
        }
        self.pending
    }

    /// Copies the records of the frame that was peeked at into `out`, which must be
    /// exactly as long as its header says.
    pub fn take(&mut self, out: &mut [u8]) {
        let header = self.pending.take();
        debug_assert_eq!(header.map(|header| header.length.get() as usize), Some(out.len()));
        let taken = self.frames.pop_entire_slice(out);
        debug_assert!(taken.is_ok(), "a frame is pushed whole");
    }

    /// Throws away the records of the frame that was peeked at.
    pub fn skip(&mut self) {
        if let Some(header) = self.pending.take()
            && let Ok(chunk) = self.frames.read_chunk(header.length.get() as usize)
        {
            chunk.commit_all();
        }
    }

    /// Tells the executor what became of a frame; it learns of it at the next [`wake`](Self::wake).
    pub fn complete(&mut self, completion: Completion) {
        let pushed = self.completions.push(completion);
        debug_assert!(pushed.is_ok(), "requests in flight are bounded by the completion ring");
        self.completed = true;
    }

    /// Wakes the executor if anything was completed since the last call.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.completed) {
            self.waker.wake();
        }
    }

    /// Asks to be woken once `frames` more than were peeked at have come; [`has`](Self::has) is to be asked
    /// afterwards, behind a sequentially consistent fence.
    fn call_at(&self, frames: u64) {
        self.tally.enough_at.0.store(self.taken.saturating_add(frames), Ordering::Relaxed);
    }

    /// No longer.
    fn call_off(&self) {
        self.tally.enough_at.0.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether so many frames more than were peeked at have come.
    fn has(&self, frames: u64) -> bool {
        self.tally.pushed.0.load(Ordering::Acquire) >= self.taken.saturating_add(frames)
    }

    /// Nothing to peek at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_none() && self.frames.is_empty()
    }

    /// The executor is gone and everything that it sent was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        if !self.frames.is_abandoned() {
            return false;
        }
        // rtrb reads that the other end is gone without any order; with the fence, what was pushed before is visible.
        if !is_planted(Bug::EndWithoutFence) {
            fence(Ordering::Acquire);
        }
        self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(slot: u32, records: &[u8]) -> Vec<u8> {
        let mut header = FrameHeader::new_zeroed();
        header.length = U32::new(u32::try_from(records.len()).unwrap());
        header.count = U32::new(1);
        header.slot = U32::new(slot);
        [header.as_bytes(), records].concat()
    }

    #[test]
    fn frames_arrive_whole_and_in_order_across_the_wrap() {
        let (mut ingress, mut journal) = ring(100, 4, Arc::default());
        for slot in 0..50_u32 {
            let records = vec![u8::try_from(slot).unwrap(); 20 + slot as usize % 40];
            ingress.submit(&frame(slot, &records)).unwrap();
            let header = journal.peek().unwrap();
            assert_eq!(header.slot.get(), slot);
            assert_eq!(journal.peek().unwrap().slot.get(), slot, "peeking takes nothing");
            if slot % 3 == 0 {
                journal.skip();
            } else {
                let mut out = vec![0; header.length.get() as usize];
                journal.take(&mut out);
                assert_eq!(out, records);
            }
            assert!(journal.is_empty());
        }
    }

    #[test]
    fn a_full_ring_refuses_and_loses_nothing() {
        let (mut ingress, mut journal) = ring(100, 4, Arc::default());
        ingress.submit(&frame(1, &[7; 30])).unwrap();
        assert_eq!(ingress.submit(&frame(2, &[8; 30])), Err(RingFull));
        journal.peek().unwrap();
        journal.skip();
        ingress.submit(&frame(3, &[9; 30])).unwrap();
        assert_eq!(journal.peek().unwrap().slot.get(), 3);
    }

    #[test]
    fn the_journal_learns_that_an_executor_is_gone() {
        let (mut ingress, mut journal) = ring(100, 4, Arc::default());
        ingress.submit(&frame(1, &[7; 30])).unwrap();
        assert!(!journal.is_finished());
        drop(ingress);
        assert!(!journal.is_finished(), "there is still a frame");
        journal.peek().unwrap();
        journal.skip();
        assert!(journal.is_finished());
    }

    #[test]
    fn completions_come_back() {
        let (mut ingress, mut journal) = ring(100, 2, Arc::default());
        let completion = Completion { slot: 5, count: 1, first_sequence: 9, outcome: Outcome::Stored };
        journal.complete(completion);
        journal.wake();
        assert_eq!(ingress.completion(), Some(completion));
        assert_eq!(ingress.completion(), None);
    }
}
