//! Bugs that can be planted, to prove that the simulation, the cuts of the power and loom's models find them.
//!
//! Without the feature `planted-bugs`, which nothing but those three is built with,
//! [`is_planted`] is a constant and every bug is compiled away. With it a thread still has to
//! [`plant`] one, which no code outside `tests/simulation/` and `tests/loom/` does, or the environment has to name one.

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
    /// Batches are written and not synced.
    SkipSync,
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
    /// A drain that another process has taken over meanwhile takes the position over again when its connection is lost.
    TakeOverAgain,
    /// A producer looks at the bell without a fence behind its push.
    RingWithoutFence,
    /// The journal looks at the rings without a fence behind the arming of the bell.
    ArmWithoutFence,
    /// A restart does not read what is delivered beyond the position.
    ForgetBeyond,
    /// Records with one key do not wait for each other.
    OvertakeKey,
    /// A restart does not ask which lanes there were before it.
    ForgetLanes,
    /// Records with one key are on their way in several lanes.
    ShareKey,
    /// Keys of what is on its way are held only where there were several lanes at the start.
    HoldKeysFromStart,
    /// A segment goes back to the pool when the main sink has it, whether or not the others have.
    RecycleForMain,
    /// A restart takes each sink but the main one for a new one.
    BeginAnew,
    /// What is encoded of a lot is sent from its beginning, whatever of it was to be sent.
    SendFromStart,
    /// The bell is armed before producers can see whom it wakes.
    ArmWithoutRelease,
    /// The journal looks at the rings, and then arms the bell.
    LookBeforeArming,
    /// The journal counts frames without a fence behind saying how many it waits for.
    PauseWithoutFence,
    /// That the last executor has ended is no news for a journal that is about to sleep.
    IgnoreEnds,
    /// The journal takes a ring whose executor is gone for empty without having seen all of it.
    EndWithoutFence,
    /// An executor looks at its completions, and then registers its waker.
    LookBeforeRegistering,
    /// Executors are woken for a stop, and then the stop is announced.
    WakeBeforeStop,
    /// A batch is counted as durable before the drain finds it in the hot ring.
    DurableBeforeHot,
    /// A ticket's status is read in the order in which it is published.
    FateBeforePosition,
}

impl Bug {
    /// Those that the simulation must find.
    pub const SIMULATED: [Self; 32] = [
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
        Self::SkipSync,
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
        Self::TakeOverAgain,
        Self::ForgetBeyond,
        Self::OvertakeKey,
        Self::ForgetLanes,
        Self::ShareKey,
        Self::HoldKeysFromStart,
        Self::RecycleForMain,
        Self::BeginAnew,
        Self::SendFromStart,
    ];

    /// Those that loom's models must find.
    pub const BETWEEN_THREADS: [Self; 12] = [
        Self::LoseWakeUp,
        Self::RingWithoutFence,
        Self::ArmWithoutFence,
        Self::ArmWithoutRelease,
        Self::LookBeforeArming,
        Self::PauseWithoutFence,
        Self::IgnoreEnds,
        Self::EndWithoutFence,
        Self::LookBeforeRegistering,
        Self::WakeBeforeStop,
        Self::DurableBeforeHot,
        Self::FateBeforePosition,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = std::cell::Cell::new(planted_everywhere());
}

/// The bug that the environment plants into every thread of the process: a server is another process than its test.
#[cfg(feature = "planted-bugs")]
fn planted_everywhere() -> Option<Bug> {
    let name = std::env::var("FOREBAY_PLANTED_BUG").ok()?;
    let bug = Bug::SIMULATED.into_iter().find(|bug| format!("{bug:?}") == name);
    assert!(bug.is_some(), "FOREBAY_PLANTED_BUG={name}: there is no such bug");
    bug
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
