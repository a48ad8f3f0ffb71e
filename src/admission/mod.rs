//! Admission: accept a request, or shed it. Pure: everything it needs is an argument.

use crate::planted::{Bug, is_planted};
use crate::rate::Rate;

/// What a queue has to carry at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Undelivered records.
    pub backlog_records: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// Bytes beyond which requests are shed.
    pub max_backlog_bytes: u64,
    /// The ceiling of the drain.
    pub rate: Rate,
    /// Records a second that were measured last; 0 while unknown.
    pub rate_measured: u64,
}

/// A request was shed because the backlog is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed {
    /// When to try again, in seconds.
    pub retry_after_s: u64,
}

/// The longest that a client is asked to wait, in seconds.
const RETRY_AFTER_S_MAX: u64 = 3600;

/// Decides about a request of `bytes`.
///
/// # Errors
///
/// [`Shed`] if the backlog would exceed its bound.
pub fn admit(load: &Load, bytes: u64) -> Result<(), Shed> {
    let free = load.max_backlog_bytes.saturating_sub(load.backlog_bytes);
    if bytes <= free || is_planted(Bug::AdmitEverything) {
        Ok(())
    } else {
        Err(Shed { retry_after_s: retry_after_s(load, bytes) })
    }
}

/// How long the drain takes to make room for the request and a tenth of the bound besides, so
/// that those who were told to come back do not find the last place taken again.
fn retry_after_s(load: &Load, bytes: u64) -> u64 {
    let goal = (load.max_backlog_bytes - load.max_backlog_bytes / 10).saturating_sub(bytes);
    let surplus = load.backlog_bytes.saturating_sub(goal);
    let records = u128::from(load.backlog_records) * u128::from(surplus) / u128::from(load.backlog_bytes.max(1));
    let records = u64::try_from(records).unwrap_or(u64::MAX).max(1);
    let seconds = match load.rate {
        Rate::Unlimited => records.div_ceil(load.rate_measured.max(1)),
        limited @ Rate::Limited { .. } => limited.time_for_ns(records).div_ceil(1_000_000_000),
    };
    seconds.clamp(1, RETRY_AFTER_S_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        backlog_records: 1000,
        backlog_bytes: 1_000_000,
        max_backlog_bytes: 1_000_000,
        rate: Rate::Limited { records: 1, period_ns: 100_000_000 },
        rate_measured: 0,
    };

    #[test]
    fn a_request_is_taken_up_to_the_last_byte() {
        let load = Load { backlog_bytes: 999_000, ..LOAD };
        assert_eq!(admit(&load, 1000), Ok(()));
        assert!(admit(&load, 1001).is_err());
    }

    #[test]
    fn the_wait_is_what_the_drain_needs_for_a_tenth_and_the_request() {
        // A tenth of 1,000 records and one more at 10/s.
        assert_eq!(admit(&LOAD, 1000), Err(Shed { retry_after_s: 11 }));
        let faster = Load { rate: Rate::Unlimited, rate_measured: 50, ..LOAD };
        assert_eq!(admit(&faster, 1000), Err(Shed { retry_after_s: 3 }));
    }

    #[test]
    fn the_wait_has_bounds() {
        let slow = Load { rate: "1/h".parse().unwrap(), ..LOAD };
        assert_eq!(admit(&slow, 1000), Err(Shed { retry_after_s: 3600 }));
        let empty = Load { backlog_records: 0, backlog_bytes: 0, ..LOAD };
        assert_eq!(admit(&empty, 2_000_000), Err(Shed { retry_after_s: 1 }));
        let unknown = Load { rate: Rate::Unlimited, max_backlog_bytes: 0, ..LOAD };
        assert!(admit(&unknown, 1).is_err());
    }
}
