//! Figures over the rows of one run, and their comparison with what the server acknowledged.

use crate::bitset::IndexSet;
use crate::order::RunId;
use serde::Serialize;

const SECOND_US: i64 = 1_000_000;
/// Rows stamped less than this after the first row count as its batch: stamps are as coarse as 1 ms.
const FIRST_INSTANT_US: i64 = 1_000;
/// Rows in buckets beyond these, a week of 100 ms, are counted into the last one.
const BUCKETS_MAX: usize = 7 * 24 * 3600 * 10;

/// What the database holds of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Delivered {
    /// Rows of the run.
    pub rows: u64,
    /// Different orders among them.
    pub distinct: u64,
    /// Rows beyond the first of each order.
    pub duplicated: u64,
    /// The orders by index.
    #[serde(skip)]
    pub seen: IndexSet,
    /// When the first row arrived, in microseconds since 1970 by the database's clock.
    pub first_unix_us: Option<i64>,
    /// When the last row arrived, likewise.
    pub last_unix_us: Option<i64>,
    /// Rows in each second, counted from the first row.
    pub per_second: Vec<u64>,
    /// Rows in each 100 ms, counted from the first row.
    pub per_100ms: Vec<u64>,
    /// The most rows in any second of `per_second`.
    pub per_second_max: u64,
    /// The most rows in any window of one second, wherever it starts.
    pub per_second_max_sliding: u64,
    /// Rows per second: those after the first instant, over the time from the first row to the last. The first
    /// batch is left out because the time that it took to come is not in there. `None` when no time passed.
    pub measured_rate: Option<f64>,
}

/// Acknowledged orders against delivered ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Acknowledged and not in the database, by index in ascending order: there must be none once it is drained.
    pub lost: Vec<u32>,
    /// Rows beyond the first of each order.
    pub duplicated: u64,
    /// In the database without an acknowledgement that reached the client, as happens when a server is killed after
    /// it wrote a record and before its answer went out.
    pub unacknowledged_but_delivered: Vec<u32>,
}

impl Verdict {
    /// Says whether every acknowledged order was delivered exactly once.
    #[must_use]
    pub fn is_exactly_once(&self) -> bool {
        self.lost.is_empty() && self.duplicated == 0
    }
}

/// Compares the orders that were acknowledged, by index, with those delivered.
#[must_use]
pub fn compare(acknowledged: &IndexSet, delivered: &Delivered) -> Verdict {
    Verdict {
        lost: acknowledged.difference(&delivered.seen).collect(),
        duplicated: delivered.duplicated,
        unacknowledged_but_delivered: delivered.seen.difference(acknowledged).collect(),
    }
}

/// Takes rows one by one, in any order.
pub struct Collector<'a> {
    run: &'a RunId,
    seen: IndexSet,
    stamps_us: Vec<i64>,
}

impl<'a> Collector<'a> {
    pub fn new(run: &'a RunId) -> Self {
        Self { run, seen: IndexSet::new(), stamps_us: Vec::new() }
    }

    /// Counts a row, unless its order id only looks like one of the run.
    pub fn row(&mut self, order_id: &str, stamp_us: i64) {
        if let Some(index) = self.run.order_index(order_id) {
            self.seen.insert(index);
            self.stamps_us.push(stamp_us);
        }
    }

    pub fn finish(self) -> Delivered {
        let mut stamps_us = self.stamps_us;
        stamps_us.sort_unstable();
        let (Some(first), Some(last)) = (stamps_us.first().copied(), stamps_us.last().copied()) else {
            return Delivered::default();
        };
        let rows = stamps_us.len() as u64;
        let first_batch = stamps_us.partition_point(|stamp| *stamp < first.saturating_add(FIRST_INSTANT_US)) as u64;
        let span_seconds = last.saturating_sub(first) as f64 / SECOND_US as f64;
        let per_second = buckets(&stamps_us, first, SECOND_US);
        Delivered {
            rows,
            distinct: self.seen.len(),
            duplicated: rows - self.seen.len(),
            seen: self.seen,
            first_unix_us: Some(first),
            last_unix_us: Some(last),
            per_second_max: per_second.iter().copied().max().unwrap_or(0),
            per_second,
            per_100ms: buckets(&stamps_us, first, SECOND_US / 10),
            per_second_max_sliding: sliding_max(&stamps_us),
            measured_rate: (rows > first_batch).then(|| (rows - first_batch) as f64 / span_seconds),
        }
    }
}

fn buckets(stamps_us: &[i64], first: i64, width_us: i64) -> Vec<u64> {
    let mut counts = Vec::new();
    for stamp in stamps_us {
        let bucket = usize::try_from(stamp.saturating_sub(first) / width_us).unwrap_or(0).min(BUCKETS_MAX - 1);
        if bucket >= counts.len() {
            counts.resize(bucket + 1, 0);
        }
        counts[bucket] += 1;
    }
    counts
}

/// The most of the sorted stamps within any half-open window of one second.
fn sliding_max(stamps_us: &[i64]) -> u64 {
    let (mut start, mut most) = (0, 0);
    for (end, stamp) in stamps_us.iter().enumerate() {
        while stamp.saturating_sub(stamps_us[start]) >= SECOND_US {
            start += 1;
        }
        most = most.max(end + 1 - start);
    }
    most as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(rows: &[(&str, i64)]) -> Delivered {
        let run = RunId::new("r").unwrap();
        let mut collector = Collector::new(&run);
        for (id, stamp_ms) in rows {
            collector.row(id, stamp_ms * 1000);
        }
        collector.finish()
    }

    #[test]
    fn rows_of_other_runs_and_duplicates_are_told_apart() {
        let found = delivered(&[("r-000000001", 5), ("r-000000003", 6), ("r-000000001", 7), ("q-000000009", 1)]);
        assert_eq!((found.rows, found.distinct, found.duplicated), (3, 2, 1));
        let verdict = compare(&[1, 2].into_iter().collect(), &found);
        assert_eq!(verdict, Verdict { lost: vec![2], duplicated: 1, unacknowledged_but_delivered: vec![3] });
        assert!(!verdict.is_exactly_once());
        assert!(compare(&IndexSet::new(), &Delivered::default()).is_exactly_once());
    }

    #[test]
    fn the_rate_leaves_the_first_batch_out() {
        // Batches of 10 every 100 ms are 100 a second, however many batches there are.
        for batches in [2i64, 3, 50] {
            let ids: Vec<String> = (0..batches * 10).map(|index| format!("r-{index:09}")).collect();
            let rows: Vec<(&str, i64)> =
                (0i64..).zip(&ids).map(|(index, id)| (id.as_str(), 5000 + index / 10 * 100)).collect();
            let found = delivered(&rows);
            assert!((found.measured_rate.unwrap() - 100.0).abs() < 1e-6);
            assert_eq!(found.per_100ms, vec![10; usize::try_from(batches).unwrap()]);
            assert_eq!(found.per_second_max_sliding, (batches.min(10) * 10).unsigned_abs());
        }
        assert_eq!(delivered(&[("r-000000001", 5)]).measured_rate, None);
        assert_eq!(delivered(&[]).measured_rate, None);
    }

    #[test]
    fn a_worst_second_between_buckets_is_found() {
        let ids: Vec<String> = (0..11).map(|index| format!("r-{index:09}")).collect();
        // One row at 0 aligns the buckets, then five late in its second and five early in the next.
        let times = [0, 900, 910, 920, 930, 940, 1000, 1010, 1020, 1030, 1899];
        let rows: Vec<(&str, i64)> = ids.iter().map(String::as_str).zip(times).collect();
        let found = delivered(&rows);
        assert_eq!(found.per_second, [6, 5]);
        assert_eq!((found.per_second_max, found.per_second_max_sliding), (6, 10));
    }

    #[test]
    fn absurd_stamps_do_not_overflow() {
        let run = RunId::new("r").unwrap();
        let mut collector = Collector::new(&run);
        collector.row("r-000000001", i64::MIN);
        collector.row("r-000000002", i64::MAX);
        assert_eq!(collector.finish().rows, 2);
    }
}
