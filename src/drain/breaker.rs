//! The circuit breaker: when so many attempts in a row have failed, the next ones are probes of a single record.
//!
//! Closed, batches go as they come. After `failures_max` failures in a row it is open: the drain waits, as long as the
//! backoff says. Then it is half open: one record is tried, so that a database that comes up is not met with
//! a whole batch. If that goes through, the breaker is closed. (M. Nygard, "Release It!", 2007.)

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// A single record, to see whether the sink works again.
    HalfOpen,
}

/// Counts the failures of one queue's sink.
#[derive(Clone, Debug)]
pub struct Breaker {
    failures_max: u32,
    failures: u32,
}

impl Breaker {
    /// A closed breaker that opens after so many failures in a row.
    #[must_use]
    pub fn new(failures_max: u32) -> Self {
        Self { failures_max, failures: 0 }
    }

    /// Opens after another number of failures from here on.
    pub fn change(&mut self, failures_max: u32) {
        self.failures_max = failures_max;
    }

    /// The sink works.
    pub fn close(&mut self) {
        self.failures = 0;
    }

    /// Another attempt failed. Returns whether that has opened the breaker.
    pub fn fail(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures == self.failures_max
    }

    /// What the next attempt may be.
    #[must_use]
    pub fn state(&self) -> State {
        if self.failures >= self.failures_max { State::HalfOpen } else { State::Closed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_a_success() {
        let mut breaker = Breaker::new(3);
        assert!(!breaker.fail() && !breaker.fail());
        breaker.close();
        assert!(!breaker.fail() && !breaker.fail());
        assert_eq!(breaker.state(), State::Closed);
        assert!(breaker.fail());
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(!breaker.fail(), "it is open already");
        assert_eq!(breaker.state(), State::HalfOpen);
        breaker.close();
        assert_eq!(breaker.state(), State::Closed);
    }
}
