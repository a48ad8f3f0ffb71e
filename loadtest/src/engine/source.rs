//! Where the requests of a run come from: each has a number and a time at which it is due.

use super::Load;
use crate::order::MAX_RECORDS;
use crate::schedule::Schedule;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Gives out each request once, to whichever connection asks next.
pub enum Source {
    /// Requests are due when the schedule says so.
    Open(Mutex<(u32, Schedule)>),
    /// Requests are due when a connection asks for one.
    Closed { next: AtomicU64, records: u64, duration: Duration },
}

/// The next request, and when it is due, from the start of the run.
pub struct Job {
    pub index: u32,
    pub due: Duration,
}

impl Source {
    pub fn new(load: &Load) -> Self {
        match load {
            Load::Open(schedule) => Self::Open(Mutex::new((0, schedule.clone()))),
            Load::Closed { records, duration } => Self::Closed {
                next: AtomicU64::new(0),
                records: records.unwrap_or(MAX_RECORDS),
                duration: duration.unwrap_or(Duration::MAX),
            },
        }
    }

    /// The next request of a run that began at `start`; `None` once there are no more.
    pub fn next(&self, start: Instant) -> Option<Job> {
        match self {
            Self::Open(schedule) => {
                let mut schedule = lock(schedule);
                let due = Duration::from_nanos(schedule.1.next()?);
                let index = schedule.0;
                schedule.0 += 1;
                Some(Job { index, due })
            }
            Self::Closed { next, records, duration } => {
                let due = start.elapsed();
                let index = next.fetch_add(1, Relaxed);
                // A busy machine may let a short run begin only when its time is over; one request is made even so.
                if due >= *duration && index > 0 {
                    return None;
                }
                let index = u32::try_from(index).ok().filter(|_| index < *records)?;
                Some(Job { index, due })
            }
        }
    }
}

/// A thread that panicked is reported by its join; what it had counted is still there to read.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(load: &Load) -> Vec<u32> {
        let (source, start) = (Source::new(load), Instant::now());
        std::iter::from_fn(|| source.next(start)).map(|job| job.index).collect()
    }

    #[test]
    fn every_request_of_a_schedule_is_given_out_once() {
        let source = Source::new(&Load::Open(Schedule::constant(3, 1000.0).unwrap()));
        let jobs = std::iter::from_fn(|| source.next(Instant::now()));
        let jobs: Vec<_> = jobs.map(|job| (job.index, job.due.as_millis())).collect();
        assert_eq!(jobs, [(0, 0), (1, 1), (2, 2)]);
    }

    #[test]
    fn a_closed_loop_ends_by_number_or_by_time_and_has_a_request_even_without_time() {
        let closed = |records, duration| Load::Closed { records, duration };
        assert_eq!(numbers(&closed(Some(2), None)), [0, 1]);
        assert_eq!(numbers(&closed(None, Some(Duration::ZERO))), [0]);
        assert!(numbers(&closed(Some(0), Some(Duration::ZERO))).is_empty());
    }
}
