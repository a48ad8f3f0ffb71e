//! Open-loop arrival schedules: when each request is due, whatever the server does.
//!
//! A schedule is an iterator of due times in nanoseconds from the start. It is computed as it is consumed, so ten
//! million arrivals take no memory, and a schedule with the same seed always yields the same times.

use crate::order::MAX_RECORDS;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::Exp1;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

const NANOSECONDS_PER_SECOND: f64 = 1e9;
const NANOSECONDS_PER_MINUTE: f64 = 60e9;
const MINUTES_PER_DAY: usize = 24 * 60;

/// Why a schedule cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// A rate, a speed-up or a scale is zero, negative, infinite or not a number.
    #[error("the {name} must be a positive number, not {value}")]
    NotPositive {
        /// Which setting it is.
        name: &'static str,
        /// The value given.
        value: f64,
    },
    /// More records than an order id can number.
    #[error("{records} records are too many: a run numbers at most {MAX_RECORDS}")]
    TooManyRecords {
        /// The number asked for.
        records: u64,
    },
    /// A line of a replay file does not say what it should.
    #[error("line {line} of the replay: {problem}")]
    Csv {
        /// The line's number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A replay file has no arrivals at all.
    #[error("the replay holds no requests")]
    NothingToReplay,
}

/// The due times of an open-loop load, in nanoseconds from its start, in ascending order.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    records: u64,
    yielded: u64,
}

#[derive(Clone, Debug)]
enum Arrivals {
    Constant { rate_per_second: f64 },
    Poisson { rate_per_second: f64, at_ns: f64, random: Box<StdRng> },
    Burst,
    Replay(Box<Replay>),
}

#[derive(Clone, Debug)]
struct Replay {
    counts: Arc<[u64]>,
    minute: usize,
    left_in_minute: u64,
    minute_ns: f64,
    at_ns: f64,
    random: StdRng,
}

impl Schedule {
    /// Spaces `records` arrivals evenly at `rate_per_second`, the first one at 0.
    ///
    /// # Errors
    /// The rate is not a positive number, or there are more records than a run can number.
    pub fn constant(records: u64, rate_per_second: f64) -> Result<Self, ScheduleError> {
        require_positive("rate", rate_per_second)?;
        Self::new(records, Arrivals::Constant { rate_per_second })
    }

    /// Draws `records` independent arrivals with a mean of `rate_per_second` (exponential gaps).
    ///
    /// # Errors
    /// The rate is not a positive number, or there are more records than a run can number.
    pub fn poisson(records: u64, rate_per_second: f64, seed: u64) -> Result<Self, ScheduleError> {
        require_positive("rate", rate_per_second)?;
        let random = Box::new(StdRng::seed_from_u64(seed));
        Self::new(records, Arrivals::Poisson { rate_per_second, at_ns: 0.0, random })
    }

    /// Makes all `records` due at 0: the whole crowd arrives at once.
    ///
    /// # Errors
    /// There are more records than a run can number.
    pub fn burst(records: u64) -> Result<Self, ScheduleError> {
        Self::new(records, Arrivals::Burst)
    }

    /// Replays recorded requests per minute, `speed_up` times as fast, with the counts multiplied by `scale`.
    ///
    /// `source` is CSV with the columns `minute` (HH:MM, ascending; a minute left out had no requests) and
    /// `requests`. Within its minute each arrival falls at a uniformly random time, which is what a Poisson process
    /// does once its count is known. Scaled counts are rounded so that their total is right.
    ///
    /// # Errors
    /// A bad line (with its number), no requests at all, a speed-up or scale that is not positive, or more records
    /// than a run can number.
    pub fn replay(source: impl Read, speed_up: f64, scale: f64, seed: u64) -> Result<Self, ScheduleError> {
        require_positive("speed-up", speed_up)?;
        require_positive("scale", scale)?;
        let counts = scaled(&read_counts(source)?, scale)?;
        let records = counts.iter().fold(0u64, |total, count| total.saturating_add(*count));
        if records == 0 {
            return Err(ScheduleError::NothingToReplay);
        }
        let replay = Replay {
            left_in_minute: counts.first().copied().unwrap_or(0),
            counts: counts.into(),
            minute: 0,
            minute_ns: NANOSECONDS_PER_MINUTE / speed_up,
            at_ns: 0.0,
            random: StdRng::seed_from_u64(seed),
        };
        Self::new(records, Arrivals::Replay(Box::new(replay)))
    }

    /// The number of arrivals that the whole schedule has, those already yielded included.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    fn new(records: u64, arrivals: Arrivals) -> Result<Self, ScheduleError> {
        if records > MAX_RECORDS {
            return Err(ScheduleError::TooManyRecords { records });
        }
        Ok(Self { arrivals, records, yielded: 0 })
    }
}

impl Iterator for Schedule {
    /// Nanoseconds from the start.
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.yielded == self.records {
            return None;
        }
        let due_ns = match &mut self.arrivals {
            Arrivals::Burst => 0.0,
            Arrivals::Constant { rate_per_second } => self.yielded as f64 * NANOSECONDS_PER_SECOND / *rate_per_second,
            Arrivals::Poisson { rate_per_second, at_ns, random } => {
                let gap: f64 = random.sample(Exp1);
                *at_ns += gap * NANOSECONDS_PER_SECOND / *rate_per_second;
                *at_ns
            }
            Arrivals::Replay(replay) => replay.next_ns()?,
        };
        self.yielded += 1;
        Some(whole(due_ns))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.records - self.yielded).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl Replay {
    /// Draws the smallest of the arrivals left in the current minute, so that they come out sorted: the smallest of
    /// k uniform times in what is left of the minute lies at the fraction `1 − u^(1/k)` of it.
    fn next_ns(&mut self) -> Option<f64> {
        while self.left_in_minute == 0 {
            self.minute += 1;
            self.left_in_minute = *self.counts.get(self.minute)?;
            self.at_ns = self.minute as f64 * self.minute_ns;
        }
        let end_ns = (self.minute + 1) as f64 * self.minute_ns;
        let uniform: f64 = self.random.random();
        let fraction = 1.0 - uniform.powf(1.0 / self.left_in_minute as f64);
        self.at_ns += (end_ns - self.at_ns) * fraction;
        self.left_in_minute -= 1;
        Some(self.at_ns)
    }
}

/// Truncates to a whole number; the cast saturates, and nothing here is negative.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(due_ns: f64) -> u64 {
    due_ns as u64
}

fn require_positive(name: &'static str, value: f64) -> Result<(), ScheduleError> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(ScheduleError::NotPositive { name, value }) }
}

/// Reads requests per minute, from the first minute of the file on.
fn read_counts(source: impl Read) -> Result<Vec<u64>, ScheduleError> {
    let mut counts: Vec<u64> = Vec::new();
    let mut columns = None;
    let mut first_minute = None;
    for (line, text) in (1..).zip(BufReader::new(source).lines()) {
        let problem = |problem| ScheduleError::Csv { line, problem };
        let text = text.map_err(|error| problem(error.to_string()))?;
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let Some((minute_column, requests_column)) = columns else {
            columns = Some(find_columns(&fields).map_err(problem)?);
            continue;
        };
        if text.trim().is_empty() {
            continue;
        }
        let field = |column: usize| fields.get(column).copied().unwrap_or("");
        let minute = parse_minute(field(minute_column)).map_err(problem)?;
        let requests = parse_requests(field(requests_column)).map_err(problem)?;
        let position = minute.checked_sub(*first_minute.get_or_insert(minute)).filter(|at| *at >= counts.len());
        let Some(position) = position else {
            return Err(problem("the minutes must ascend within one day".to_owned()));
        };
        counts.resize(position, 0);
        counts.push(requests);
    }
    Ok(counts)
}

/// Where the columns `minute` and `requests` are in the header.
fn find_columns(header: &[&str]) -> Result<(usize, usize), String> {
    let column = |name: &str| {
        let position = header.iter().position(|field| *field == name);
        position.ok_or_else(|| format!("the header has no column `{name}`; it needs `minute` and `requests`"))
    };
    Ok((column("minute")?, column("requests")?))
}

fn parse_minute(text: &str) -> Result<usize, String> {
    let parsed = text.split_once(':').and_then(|(hours, minutes)| {
        let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        if !two_digits(hours) || !two_digits(minutes) {
            return None;
        }
        let (hours, minutes): (usize, usize) = (hours.parse().ok()?, minutes.parse().ok()?);
        (minutes < 60).then_some(hours * 60 + minutes)
    });
    parsed.filter(|minute| *minute < MINUTES_PER_DAY).ok_or_else(|| format!("`{text}` is not a minute as HH:MM"))
}

fn parse_requests(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number of requests"))
}

/// Multiplies the counts, carrying what rounding drops into the next minute.
fn scaled(counts: &[u64], scale: f64) -> Result<Vec<u64>, ScheduleError> {
    let mut exact = 0.0;
    let mut given = 0;
    let mut result = Vec::with_capacity(counts.len());
    for count in counts {
        exact += *count as f64 * scale;
        let upto = whole(exact.round());
        if upto > MAX_RECORDS {
            return Err(ScheduleError::TooManyRecords { records: upto });
        }
        result.push(upto - given);
        given = upto;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: &[u8] = include_bytes!("../data/worldcup98-1998-06-30.csv");

    proptest! {
        #[test]
        fn counts_are_exact_and_times_ascend(records in 0u64..2000, rate in 0.1f64..1e6, seed: u64) {
            for schedule in [
                Schedule::constant(records, rate).unwrap(),
                Schedule::poisson(records, rate, seed).unwrap(),
                Schedule::burst(records).unwrap(),
            ] {
                let times: Vec<u64> = schedule.collect();
                prop_assert_eq!(times.len() as u64, records);
                prop_assert!(times.is_sorted());
            }
        }

        #[test]
        fn replayed_arrivals_stay_in_their_minute(counts in prop::collection::vec(0u64..50, 1..60), seed: u64,
                                                  speed_up in 0.5f64..5000.0) {
            use std::fmt::Write;
            prop_assume!(counts.iter().sum::<u64>() > 0);
            let mut text = String::from("minute,requests\n");
            for (minute, count) in counts.iter().enumerate() {
                writeln!(text, "00:{minute:02},{count}").unwrap();
            }
            let times: Vec<u64> = Schedule::replay(text.as_bytes(), speed_up, 1.0, seed).unwrap().collect();
            prop_assert!(times.is_sorted());
            let minute_ns = NANOSECONDS_PER_MINUTE / speed_up;
            let mut seen = vec![0u64; counts.len() + 1];
            // Half a nanosecond makes up for the truncation at the very start of a minute.
            for at in times {
                seen[usize::try_from(whole((at as f64 + 0.5) / minute_ns)).unwrap()] += 1;
            }
            prop_assert_eq!(&seen[..counts.len()], &counts[..]);
        }
    }

    #[test]
    fn a_constant_rate_is_exact() {
        let times: Vec<u64> = Schedule::constant(4, 4.0).unwrap().collect();
        assert_eq!(times, [0, 250_000_000, 500_000_000, 750_000_000]);
    }

    #[test]
    fn poisson_keeps_its_mean_rate_and_its_seed() {
        let records = 200_000;
        let last = Schedule::poisson(records, 5000.0, 7).unwrap().last().unwrap();
        let rate = records as f64 / (last as f64 / 1e9);
        assert!((rate - 5000.0).abs() < 50.0, "{rate}");
        let again = |seed| Schedule::poisson(100, 5000.0, seed).unwrap().collect::<Vec<_>>();
        assert_eq!(again(7), again(7));
        assert_ne!(again(7), again(8));
    }

    #[test]
    fn the_recorded_day_replays_to_its_scaled_total() {
        let day = Schedule::replay(DAY, 1440.0, 1.0, 1).unwrap().records();
        let scaled = Schedule::replay(DAY, 1440.0, 0.001, 1).unwrap();
        assert_eq!(scaled.records(), whole((day as f64 * 0.001).round()));
        let times: Vec<u64> = scaled.clone().collect();
        assert_eq!(times.len() as u64, scaled.records());
        assert!(*times.last().unwrap() <= 60_000_000_000);
        assert!(times.into_iter().eq(scaled));
    }

    #[test]
    fn bad_csv_names_its_line() {
        for (text, line) in [
            ("minute,requests\n00:00,1\n00:01,x\n", 3),
            ("minute,requests\n00:00,1\n\n24:00,1\n", 4),
            ("minute,requests\n00:00,1\n00:60,1\n", 3),
            ("minute,requests\n00:05,1\n00:05,1\n", 3),
            ("minute,requests\n00:05,1\n00:04,1\n", 3),
            ("minute,requests\n00:05\n", 2),
            ("minute,requests\n+1:05,3\n", 2),
            ("minute,hits\n00:05,1\n", 1),
        ] {
            match Schedule::replay(text.as_bytes(), 1.0, 1.0, 0) {
                Err(ScheduleError::Csv { line: found, .. }) => assert_eq!(found, line, "{text:?}"),
                other => panic!("{text:?} gave {other:?}"),
            }
        }
        let invalid = b"minute,requests\n00:00,\xff\n";
        assert!(matches!(Schedule::replay(&invalid[..], 1.0, 1.0, 0), Err(ScheduleError::Csv { line: 2, .. })));
    }

    #[test]
    fn impossible_settings_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(Schedule::constant(1, rate), Err(ScheduleError::NotPositive { .. })));
            assert!(Schedule::replay(DAY, rate, 1.0, 0).is_err());
            assert!(Schedule::replay(DAY, 1.0, rate, 0).is_err());
        }
        assert!(Schedule::burst(MAX_RECORDS + 1).is_err());
        assert!(Schedule::replay(DAY, 1.0, 1e9, 0).is_err());
        assert!(matches!(
            Schedule::replay(&b"minute,requests\n"[..], 1.0, 1.0, 0),
            Err(ScheduleError::NothingToReplay)
        ));
        assert!(matches!(Schedule::replay(&b""[..], 1.0, 1.0, 0), Err(ScheduleError::NothingToReplay)));
    }
}
