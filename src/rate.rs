//! A drain rate as an exact fraction, so that pacing never rounds.

use std::fmt;
use std::str::FromStr;

/// How many records a queue may hand to its sink in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the sink takes them.
    Unlimited,
    /// `records` in every `period_ns` nanoseconds, spread evenly; both are at least 1.
    Limited {
        /// Records in one period.
        records: u64,
        /// Length of the period in nanoseconds.
        period_ns: u64,
    },
}

/// Why a rate could not be read; the text says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rate: write records per time such as \"5000/s\", \"0.1/s\", \"300/min\", \"10/h\", or \"unlimited\""
)]
pub struct RateError(String);

const SECOND_NS: u64 = 1_000_000_000;
/// Above this a period between two records would be shorter than a nanosecond.
const RECORDS_PER_SECOND_MAX: u64 = SECOND_NS;

impl Rate {
    /// Records per second; infinite for [`Rate::Unlimited`].
    #[must_use]
    pub fn per_second(self) -> f64 {
        match self {
            Rate::Unlimited => f64::INFINITY,
            Rate::Limited { records, period_ns } => records as f64 * SECOND_NS as f64 / period_ns as f64,
        }
    }

    /// Picoseconds between two records, rounded down; 0 for [`Rate::Unlimited`].
    #[must_use]
    pub fn interval_ps(self) -> u64 {
        match self {
            Rate::Unlimited => 0,
            Rate::Limited { records, period_ns } => {
                u64::try_from(u128::from(period_ns) * 1000 / u128::from(records)).unwrap_or(u64::MAX)
            }
        }
    }

    /// The rate with so many picoseconds between two records; 0 for [`Rate::Unlimited`].
    #[must_use]
    pub fn from_interval_ps(interval_ps: u64) -> Self {
        match interval_ps {
            0 => Self::Unlimited,
            // A thousand records take as many nanoseconds as one takes picoseconds.
            interval_ps => Self::Limited { records: 1000, period_ns: interval_ps },
        }
    }

    /// Time that `records` take at this rate, in nanoseconds, rounded up; 0 for [`Rate::Unlimited`].
    #[must_use]
    pub fn time_for_ns(self, count: u64) -> u64 {
        match self {
            Rate::Unlimited => 0,
            Rate::Limited { records, period_ns } => {
                let ns = (u128::from(count) * u128::from(period_ns)).div_ceil(u128::from(records));
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
        }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let error = || RateError(text.to_owned());
        if text == "unlimited" {
            return Ok(Rate::Unlimited);
        }
        let (number, unit) = text.split_once('/').ok_or_else(error)?;
        let unit_ns = match unit.trim() {
            "s" | "sec" | "second" => SECOND_NS,
            "m" | "min" | "minute" => 60 * SECOND_NS,
            "h" | "hour" => 3600 * SECOND_NS,
            _ => return Err(error()),
        };
        let (whole, fraction) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
        let digits_only = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits_only(whole) || !digits_only(fraction) || fraction.len() > 6 {
            return Err(error());
        }
        // "0.25/s" becomes 25 records in 100 s: exact, where a float would not be.
        let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
        let records: u64 = format!("{whole}{fraction}").parse().map_err(|_| error())?;
        let period_ns = unit_ns.checked_mul(scale).ok_or_else(error)?;
        let divisor = gcd(records, period_ns);
        if records == 0
            || u128::from(records) * u128::from(SECOND_NS) > u128::from(RECORDS_PER_SECOND_MAX) * u128::from(period_ns)
        {
            return Err(error());
        }
        Ok(Rate::Limited { records: records / divisor, period_ns: period_ns / divisor })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Rate::Unlimited => f.write_str("unlimited"),
            Rate::Limited { records, period_ns } => {
                let unit = [("s", SECOND_NS), ("min", 60 * SECOND_NS), ("h", 3600 * SECOND_NS)]
                    .into_iter()
                    .find(|(_, ns)| (u128::from(records) * u128::from(*ns)).is_multiple_of(u128::from(period_ns)));
                match unit {
                    Some((name, ns)) => {
                        write!(f, "{}/{name}", u128::from(records) * u128::from(ns) / u128::from(period_ns))
                    }
                    None => write!(f, "{}/s", self.per_second()),
                }
            }
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_exact_fractions() {
        let limited = |records, period_ns| Ok(Rate::Limited { records, period_ns });
        assert_eq!("5000/s".parse(), limited(1, 200_000));
        assert_eq!("0.1/s".parse(), limited(1, 10_000_000_000));
        assert_eq!("300/min".parse(), limited(1, 200_000_000));
        assert_eq!("3/s".parse(), limited(3, 1_000_000_000));
        assert_eq!("unlimited".parse(), Ok(Rate::Unlimited));
    }

    #[test]
    fn what_is_not_a_rate_is_refused() {
        for text in [
            "",
            "5000",
            "0/s",
            "-1/s",
            "1e3/s",
            "5/d",
            "1.2345678/s",
            "/s",
            ".5/s",
            "2000000000/s",
            "99999999999999999999/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn display_reads_back() {
        for text in ["5000/s", "7/min", "1/h", "unlimited", "500000/s"] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!("0.1/s".parse::<Rate>().unwrap().to_string(), "6/min");
    }

    #[test]
    fn time_rounds_up() {
        let rate: Rate = "3/s".parse().unwrap();
        assert_eq!(rate.time_for_ns(1), 333_333_334);
        assert_eq!(rate.time_for_ns(3), 1_000_000_000);
        assert_eq!(Rate::Unlimited.time_for_ns(10), 0);
    }
}
