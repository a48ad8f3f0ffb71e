//! Whether a request that was not acknowledged is sent again, and when: pure decisions.

use std::fmt;
use std::time::Duration;

/// How requests that were not acknowledged are retried.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// The most attempts for one request, the first included; `None` for no bound.
    pub attempts_max: Option<u32>,
    /// How long after its first attempt a request may still be retried, in milliseconds.
    pub deadline_ms: u64,
    /// The pause before the second attempt, in milliseconds; it doubles with each further attempt.
    pub backoff_first_ms: u64,
    /// The longest such pause, in milliseconds.
    pub backoff_max_ms: u64,
    /// The longest `Retry-After` that is honoured, in milliseconds; a longer one is cut to this.
    pub retry_after_max_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: None,
            deadline_ms: 120_000,
            backoff_first_ms: 10,
            backoff_max_ms: 500,
            retry_after_max_ms: 2_000,
        }
    }
}

/// Why an attempt was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The connection could not be opened.
    Connect,
    /// Opening the connection took too long.
    ConnectTimeout,
    /// The connection ended or broke before the response was complete.
    Disconnect,
    /// The response took too long.
    Timeout,
    /// What came back is not HTTP, or is larger than the bounds.
    Protocol,
    /// A response other than 2xx.
    Status {
        /// The status code.
        code: u16,
        /// The `Retry-After` of the response, in seconds.
        retry_after_seconds: Option<u32>,
    },
}

impl FailureKind {
    /// Says whether sending the request again can help: not when the server answered that the request itself is bad.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Status { code, .. } => code == 429 || code >= 500,
            _ => true,
        }
    }

    /// Says whether the server turned the request away for now: 429 or 503.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Status { code: 429 | 503, .. })
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => formatter.write_str("connection not opened"),
            Self::ConnectTimeout => formatter.write_str("connect timeout"),
            Self::Disconnect => formatter.write_str("connection lost"),
            Self::Timeout => formatter.write_str("request timeout"),
            Self::Protocol => formatter.write_str("bad response"),
            Self::Status { code, .. } => write!(formatter, "status {code}"),
        }
    }
}

impl RetryPolicy {
    /// Decides about a request that has failed `attempts` times, the first time-out or answer included, `elapsed`
    /// after its first attempt. `None` gives up; otherwise the request goes out again after the pause returned.
    ///
    /// `jitter` from 0 to 1 spreads the pauses over the upper half of the backoff, so that clients that failed
    /// together don't return together. A `Retry-After` is a lower bound of the pause.
    #[must_use]
    pub fn decide(&self, attempts: u32, failure: FailureKind, elapsed: Duration, jitter: f64) -> Option<Duration> {
        if !failure.is_retryable() || self.attempts_max.is_some_and(|max| attempts >= max) {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(32);
        let backoff_ms = self.backoff_first_ms.saturating_mul(1 << doublings).min(self.backoff_max_ms);
        let backoff = Duration::from_millis(backoff_ms).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let asked = match failure {
            FailureKind::Status { retry_after_seconds: Some(seconds), .. } => Duration::from_secs(seconds.into()),
            _ => Duration::ZERO,
        };
        let pause = backoff.max(asked.min(Duration::from_millis(self.retry_after_max_ms)));
        (elapsed + pause <= Duration::from_millis(self.deadline_ms)).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REFUSED: FailureKind = FailureKind::Connect;

    fn status(code: u16, retry_after_seconds: Option<u32>) -> FailureKind {
        FailureKind::Status { code, retry_after_seconds }
    }

    fn pause_ms(attempts: u32, failure: FailureKind) -> Option<u128> {
        RetryPolicy::default().decide(attempts, failure, Duration::ZERO, 1.0).map(|pause| pause.as_millis())
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let pauses: Vec<_> = (1..=8).map(|attempts| pause_ms(attempts, REFUSED).unwrap()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500]);
    }

    #[test]
    fn only_refusals_and_server_errors_are_retried() {
        for code in [429, 500, 502, 503, 599] {
            assert!(pause_ms(1, status(code, None)).is_some(), "{code}");
        }
        for code in [301, 400, 404, 413, 422] {
            assert!(pause_ms(1, status(code, None)).is_none(), "{code}");
        }
    }

    #[test]
    fn retry_after_is_honoured_and_capped() {
        assert_eq!(pause_ms(1, status(429, Some(1))), Some(1000));
        assert_eq!(pause_ms(1, status(503, Some(3600))), Some(2000));
        assert_eq!(pause_ms(5, status(503, Some(0))), Some(160));
    }

    #[test]
    fn attempts_and_deadline_bound_the_retries() {
        let policy = RetryPolicy { attempts_max: Some(3), deadline_ms: 100, ..RetryPolicy::default() };
        let decide = |attempts, elapsed_ms| policy.decide(attempts, REFUSED, Duration::from_millis(elapsed_ms), 1.0);
        assert!(decide(2, 0).is_some());
        assert!(decide(3, 0).is_none());
        assert!(decide(1, 90).is_some());
        assert!(decide(1, 91).is_none());
    }

    proptest! {
        #[test]
        fn jitter_stays_in_the_upper_half(attempts in 1u32.., jitter in 0.0f64..=1.0) {
            let policy = RetryPolicy::default();
            let most = policy.decide(attempts, REFUSED, Duration::ZERO, 1.0).unwrap();
            let pause = policy.decide(attempts, REFUSED, Duration::ZERO, jitter).unwrap();
            prop_assert!(pause <= most && pause >= most / 2);
        }
    }
}
