//! Bugs that can be planted, to prove that the simulation finds them.
//!
//! Without the feature `planted-bugs`, which nothing but the simulation is built with,
//! [`is_planted`] is a constant and every bug is compiled away. With it a thread still has to
//! [`plant`] one, which no code outside `tests/simulation/` does.

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Requests are completed before their batch is written and synced.
    AcknowledgeBeforeSync,
    /// A sync that failed is tried again, and believed if it succeeds then.
    RetryFailedSync,
    /// Recovery takes batches of a former life of the file.
    AcceptStaleBatch,
    /// A reader that finds a damaged batch goes on behind it.
    SkipBadBatch,
    /// A segment goes back to the pool while one record of it is undelivered.
    RecycleSegmentEarly,
    /// The sink stores the position before the rows and not with them.
    PositionBeforeRows,
    /// A restart does not read which records are dead letters.
    ForgetDeadLetters,
    /// The first second after a pause makes all of the pause's last second good.
    DoubleFirstSecond,
    /// The journal does not tell the drain that records have become durable.
    LoseWakeUp,
    /// Recovery gives the last sequence out once more.
    ReuseSequence,
    /// After an error that may have come behind the commit, the batch counts as not committed.
    AssumeNotCommitted,
    /// The idempotency keys of sealed segments are not saved.
    ForgetKeys,
    /// A key is forgotten when half its window has passed.
    ForgetKeyEarly,
    /// The oldest key makes room when half as many as configured are remembered.
    EvictKeysEarly,
    /// No key makes room for another.
    KeepAllKeys,
    /// A request with a known key is answered before the commit that holds the first one is on disk.
    ReplayBeforeSync,
    /// A ticket's check does not cover the start in which its sequence was given out.
    TicketWithoutEpoch,
    /// Batches of a queue that answers from memory are written and not synced.
    SkipMemorySync,
    /// Requests are let in however large the backlog is.
    AdmitEverything,
    /// An executor sends more requests to the journal than it may have in flight.
    IgnoreInFlightMax,
    /// A drain whose journal ends before the sink's position waits for it to grow.
    WaitForJournal,
    /// A drain that was fenced takes the position over again.
    TakeBackWhenFenced,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::AcknowledgeBeforeSync,
        Self::RetryFailedSync,
        Self::AcceptStaleBatch,
        Self::SkipBadBatch,
        Self::RecycleSegmentEarly,
        Self::PositionBeforeRows,
        Self::ForgetDeadLetters,
        Self::DoubleFirstSecond,
        Self::LoseWakeUp,
        Self::ReuseSequence,
        Self::AssumeNotCommitted,
        Self::ForgetKeys,
        Self::ForgetKeyEarly,
        Self::EvictKeysEarly,
        Self::KeepAllKeys,
        Self::ReplayBeforeSync,
        Self::TicketWithoutEpoch,
        Self::SkipMemorySync,
        Self::AdmitEverything,
        Self::IgnoreInFlightMax,
        Self::WaitForJournal,
        Self::TakeBackWhenFenced,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug into everything that this thread runs, or takes it out again.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is to be made.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is to be made: never.
#[cfg(not(feature = "planted-bugs"))]
#[inline]
#[must_use]
pub const fn is_planted(_: Bug) -> bool {
    false
}
