//! What a run did, counted while it goes on by each thread for itself and merged at the end.

use super::retry::FailureKind;
use crate::bitset::IndexSet;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// The largest latency that is told apart, in microseconds: 10 minutes. Longer ones count as this.
const LATENCY_MAX_US: u64 = 600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// The width of one slot of [`Outcome::acknowledged_per_100ms`], in milliseconds.
const SLOT_MS: u128 = 100;
/// Slots after this many are not kept one by one: they would be further than 11 days from the start.
const SLOTS_MAX: usize = 10_000_000;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests started, each counted once however often it was retried.
    pub offered: u64,
    /// Requests answered with 2xx.
    pub acknowledged: u64,
    /// Requests that ended with 429 or 503.
    pub refused: u64,
    /// Requests that ended with another status, a broken connection or a timeout.
    pub errors: u64,
    /// Attempts beyond the first of each request.
    pub retries: u64,
    /// Requests abandoned in flight because the run was cancelled: the server may or may not have taken them.
    pub unfinished: u64,
    /// Responses by status code, those of retried attempts included.
    pub statuses: BTreeMap<u16, u64>,
    /// Attempts that brought no response, by what happened.
    pub failures: BTreeMap<String, u64>,
    /// The first failure in words, to say more than a count can.
    pub first_failure: Option<String>,
    /// The indices of the requests that were acknowledged.
    pub acknowledged_indices: IndexSet,
    /// Microseconds from due time (open loop) or from sending (closed loop) to acknowledgement, retries included.
    pub latency_us: Histogram<u64>,
    /// Microseconds from due time to the first byte sent. Requests go in ticks of 0.1 ms; more means that
    /// every connection was still busy with earlier requests, or that the load generator is behind.
    pub start_lag_us: Histogram<u64>,
    /// From the first due time to the last acknowledgement, in seconds; 0 when nothing was acknowledged.
    pub accept_seconds: f64,
    /// From the start of the run to its end, in seconds.
    pub elapsed_seconds: f64,
    /// When the run started by the wall clock, in microseconds since 1970, to align it with a database's stamps.
    pub started_unix_us: i64,
    /// Acknowledgements in each 100 ms since the start of the run.
    pub acknowledged_per_100ms: Vec<u64>,
}

/// An empty histogram for latencies in microseconds.
pub(crate) fn latency_histogram() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, SIGNIFICANT_DIGITS)
}

/// One thread's share of an outcome. Times are since the start of the run.
pub struct Tally {
    statuses: Box<[u64; 1000]>,
    failures: BTreeMap<String, u64>,
    first_failure: Option<String>,
    acknowledged_indices: IndexSet,
    latency_us: Histogram<u64>,
    start_lag_us: Histogram<u64>,
    first_due: Option<Duration>,
    last_acknowledged: Duration,
    acknowledged_per_100ms: Vec<u64>,
}

impl Tally {
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = latency_histogram()?;
        Ok(Self {
            statuses: Box::new([0; 1000]),
            failures: BTreeMap::new(),
            first_failure: None,
            acknowledged_indices: IndexSet::new(),
            latency_us: histogram.clone(),
            start_lag_us: histogram,
            first_due: None,
            last_acknowledged: Duration::ZERO,
            acknowledged_per_100ms: Vec::new(),
        })
    }

    /// Counts a request that goes out for the first time `lag` after it was due.
    pub fn started(&mut self, due: Duration, lag: Duration) {
        self.first_due = Some(self.first_due.map_or(due, |first| first.min(due)));
        self.start_lag_us.saturating_record(whole_us(lag));
    }

    pub fn status(&mut self, code: u16) {
        if let Some(count) = self.statuses.get_mut(usize::from(code)) {
            *count += 1;
        }
    }

    pub fn failed(&mut self, kind: FailureKind, detail: &str) {
        *self.failures.entry(kind.to_string()).or_default() += 1;
        if self.first_failure.is_none() {
            self.first_failure = Some(format!("{kind}: {detail}"));
        }
    }

    pub fn acknowledged(&mut self, index: u32, at: Duration, latency: Duration) {
        self.acknowledged_indices.insert(index);
        self.latency_us.saturating_record(whole_us(latency));
        self.last_acknowledged = self.last_acknowledged.max(at);
        let slot = usize::try_from(at.as_millis() / SLOT_MS).unwrap_or(SLOTS_MAX).min(SLOTS_MAX);
        if slot >= self.acknowledged_per_100ms.len() {
            self.acknowledged_per_100ms.resize(slot + 1, 0);
        }
        self.acknowledged_per_100ms[slot] += 1;
    }

    pub fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.statuses.iter_mut().zip(other.statuses.iter()) {
            *mine += theirs;
        }
        for (kind, count) in other.failures {
            *self.failures.entry(kind).or_default() += count;
        }
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.acknowledged_indices.union_with(&other.acknowledged_indices);
        // Both have the same bounds, so adding them cannot fail.
        self.latency_us += other.latency_us;
        self.start_lag_us += other.start_lag_us;
        self.first_due = match (self.first_due, other.first_due) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
        self.last_acknowledged = self.last_acknowledged.max(other.last_acknowledged);
        if other.acknowledged_per_100ms.len() > self.acknowledged_per_100ms.len() {
            self.acknowledged_per_100ms.resize(other.acknowledged_per_100ms.len(), 0);
        }
        for (mine, theirs) in self.acknowledged_per_100ms.iter_mut().zip(other.acknowledged_per_100ms) {
            *mine += theirs;
        }
    }

    pub fn into_outcome(self, counts: super::ProgressCounts, elapsed: Duration, started_unix_us: i64) -> Outcome {
        let statuses = (0u16..).zip(self.statuses.iter().copied()).filter(|(_, count)| *count > 0).collect();
        Outcome {
            offered: counts.offered,
            acknowledged: counts.acknowledged,
            refused: counts.refused,
            errors: counts.errors,
            retries: counts.retries,
            unfinished: counts.in_flight,
            statuses,
            failures: self.failures,
            first_failure: self.first_failure,
            acknowledged_indices: self.acknowledged_indices,
            latency_us: self.latency_us,
            start_lag_us: self.start_lag_us,
            accept_seconds: self
                .first_due
                .map_or(0.0, |first| self.last_acknowledged.saturating_sub(first).as_secs_f64()),
            elapsed_seconds: elapsed.as_secs_f64(),
            started_unix_us,
            acknowledged_per_100ms: self.acknowledged_per_100ms,
        }
    }
}

pub fn whole_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_everything_up() {
        let ms = Duration::from_millis;
        let (mut left, mut right) = (Tally::new().unwrap(), Tally::new().unwrap());
        left.started(ms(50), ms(1));
        left.acknowledged(3, ms(250), ms(200));
        left.status(202);
        right.started(ms(20), ms(1));
        right.acknowledged(4, ms(1020), ms(1000));
        right.status(202);
        right.failed(FailureKind::Timeout, "slow");
        left.merge(right);
        let outcome = left.into_outcome(super::super::ProgressCounts::default(), ms(2000), 0);
        assert_eq!(outcome.statuses, BTreeMap::from([(202, 2)]));
        assert_eq!(outcome.acknowledged_indices, [3, 4].into_iter().collect());
        assert_eq!(outcome.latency_us.len(), 2);
        assert!((outcome.accept_seconds - 1.0).abs() < 1e-9);
        assert_eq!(outcome.acknowledged_per_100ms, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(outcome.failures["request timeout"], 1);
        assert_eq!(outcome.first_failure.as_deref(), Some("request timeout: slow"));
    }
}
