//! Figures of a run: as text, as JSON and as the percentile text that HdrHistogram plotters read.

use crate::engine::Outcome;
use hdrhistogram::Histogram;
use hdrhistogram::iterators::IterationValue;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Reported steps per halving of the distance to 100 %, as is usual for `.hgrm` files.
const HGRM_TICKS_PER_HALF_DISTANCE: u32 = 5;
const US_PER_MS: f64 = 1000.0;

/// Percentiles of a latency, in milliseconds, with three significant digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// The median.
    pub p50_ms: f64,
    /// The 90th percentile.
    pub p90_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The 99.9th percentile.
    pub p99_9_ms: f64,
    /// The largest.
    pub max_ms: f64,
    /// The arithmetic mean.
    pub mean_ms: f64,
}

impl LatencyFigures {
    /// Reads the percentiles from a histogram of microseconds; all are 0 when it is empty.
    #[must_use]
    pub fn from_us(histogram: &Histogram<u64>) -> Self {
        let at_ms = |quantile| histogram.value_at_quantile(quantile) as f64 / US_PER_MS;
        Self {
            p50_ms: at_ms(0.5),
            p90_ms: at_ms(0.9),
            p99_ms: at_ms(0.99),
            p99_9_ms: at_ms(0.999),
            max_ms: histogram.max() as f64 / US_PER_MS,
            mean_ms: histogram.mean() / US_PER_MS,
        }
    }
}

/// The figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Requests started.
    pub offered: u64,
    /// Requests answered with 2xx.
    pub acknowledged: u64,
    /// Requests that ended with 429 or 503.
    pub refused: u64,
    /// Requests that ended in any other way.
    pub errors: u64,
    /// Attempts beyond the first of each request.
    pub retries: u64,
    /// Requests abandoned because the run was cancelled.
    pub unfinished: u64,
    /// From the first due time to the last acknowledgement.
    pub accept_seconds: f64,
    /// Acknowledged requests over `accept_seconds`; 0 when that is 0.
    pub acknowledged_per_second: f64,
    /// Due time (open loop) or sending (closed loop) to acknowledgement.
    pub latency: LatencyFigures,
    /// Due time to sending.
    pub start_lag: LatencyFigures,
    /// Responses by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Attempts without a response, by what happened.
    pub failures: BTreeMap<String, u64>,
    /// The first such failure in words.
    pub first_failure: Option<String>,
}

impl Figures {
    /// Reads the figures from an outcome.
    #[must_use]
    pub fn from_outcome(outcome: &Outcome) -> Self {
        let seconds = outcome.accept_seconds;
        Self {
            offered: outcome.offered,
            acknowledged: outcome.acknowledged,
            refused: outcome.refused,
            errors: outcome.errors,
            retries: outcome.retries,
            unfinished: outcome.unfinished,
            accept_seconds: seconds,
            acknowledged_per_second: if seconds > 0.0 { outcome.acknowledged as f64 / seconds } else { 0.0 },
            latency: LatencyFigures::from_us(&outcome.latency_us),
            start_lag: LatencyFigures::from_us(&outcome.start_lag_us),
            statuses: outcome.statuses.clone(),
            failures: outcome.failures.clone(),
            first_failure: outcome.first_failure.clone(),
        }
    }

    /// The figures as rows of a name and a value with its unit, for a table of any kind.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("offered", grouped(self.offered));
        row("acknowledged", grouped(self.acknowledged));
        row("refused (429, 503)", grouped(self.refused));
        row("errors", grouped(self.errors));
        row("retries", grouped(self.retries));
        if self.unfinished > 0 {
            row("unfinished", grouped(self.unfinished));
        }
        row("accepted in", format!("{:.3} s", self.accept_seconds));
        row("acknowledged per second", rate(self.acknowledged_per_second));
        for (name, value_ms) in [
            ("latency p50", self.latency.p50_ms),
            ("latency p90", self.latency.p90_ms),
            ("latency p99", self.latency.p99_ms),
            ("latency p99.9", self.latency.p99_9_ms),
            ("latency max", self.latency.max_ms),
            ("start lag p99", self.start_lag.p99_ms),
        ] {
            row(name, format!("{value_ms:.3} ms"));
        }
        for (status, count) in &self.statuses {
            row(&format!("status {status}"), grouped(*count));
        }
        for (kind, count) in &self.failures {
            row(kind, grouped(*count));
        }
        if let Some(failure) = &self.first_failure {
            row("first failure", failure.clone());
        }
        rows
    }

    /// The rows as text, names to the left and values aligned after them.
    #[must_use]
    pub fn to_text(&self) -> String {
        aligned(&self.rows())
    }
}

/// The middle value, or the mean of the two middle ones; 0 of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// Lays rows out in two columns, a line each.
#[must_use]
pub fn aligned(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<width$}  {value}");
        text
    })
}

/// Writes a number with a thin separator between thousands: `12,345,678`.
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a rate per second: whole when it is large, with one digit after the point when it is not.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn rate(per_second: f64) -> String {
    if per_second >= 1000.0 {
        format!("{}/s", grouped(per_second.round() as u64))
    } else {
        format!("{per_second:.1}/s")
    }
}

/// Writes a number of bytes in the largest unit that it fills: `64 KiB`, `1.5 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = units.into_iter().find(|(unit, _)| count >= *unit) else { return format!("{count} B") };
    let text = format!("{:.1}", count as f64 / unit as f64);
    format!("{} {name}", text.trim_end_matches(".0"))
}

/// Writes a histogram of microseconds in the percentile format of HdrHistogram (`.hgrm`), in milliseconds.
#[must_use]
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(HGRM_TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", hgrm_line(&step, total));
    }
    let max_ms = histogram.max() as f64 / US_PER_MS;
    let (mean_ms, deviation_ms) = (histogram.mean() / US_PER_MS, histogram.stdev() / US_PER_MS);
    let _ = writeln!(text, "#[Mean    = {mean_ms:>12.3}, StdDeviation   = {deviation_ms:>12.3}]");
    let _ = writeln!(text, "#[Max     = {max_ms:>12.3}, Total count    = {:>12}]", histogram.len());
    let sub_buckets = sub_buckets(histogram.sigfig());
    let _ = writeln!(text, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", histogram.buckets());
    text
}

fn hgrm_line(step: &IterationValue<u64>, total: u64) -> String {
    let value_ms = step.value_iterated_to() as f64 / US_PER_MS;
    let quantile = step.quantile_iterated_to();
    let line = format!("{value_ms:>12.3} {quantile:>14.12} {total:>10}");
    // The last line has no finite distance to 100 %.
    if quantile < 1.0 { format!("{line} {:>14.2}", 1.0 / (1.0 - quantile)) } else { line }
}

/// How many values a bucket tells apart: the power of two above twice the precision.
fn sub_buckets(significant_digits: u8) -> u64 {
    (2 * 10u64.pow(u32::from(significant_digits))).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values_us: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        values_us.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn percentiles_come_in_milliseconds() {
        let figures = LatencyFigures::from_us(&histogram(1..=1000));
        assert!((figures.p50_ms - 0.5).abs() < 0.002, "{figures:?}");
        assert!((figures.p99_ms - 0.99).abs() < 0.002, "{figures:?}");
        assert!((figures.max_ms - 1.0).abs() < 0.002, "{figures:?}");
        assert_eq!(LatencyFigures::from_us(&histogram([])), LatencyFigures::default());
    }

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(value), text);
        }
        assert_eq!(rate(12_345.6), "12,346/s");
        assert_eq!(rate(99.94), "99.9/s");
    }

    #[test]
    fn sizes_have_units() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (64 << 10, "64 KiB"), (3 << 19, "1.5 MiB"), (10 << 30, "10 GiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [("a", "1"), ("long", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(aligned(&rows), "a     1\nlong  2\n");
    }

    #[test]
    fn the_percentile_text_has_the_usual_form() {
        let text = hgrm(&histogram([1000, 2000, 3000, 4000]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[2], "       1.000 0.000000000000          1           1.00");
        assert!(text.contains("       2.000 0.500000000000          2           2.00\n"), "{text}");
        assert!(text.contains("1.000000000000          4\n"), "{text}");
        assert!(text.contains("Total count    =            4]"), "{text}");
        assert!(text.ends_with("SubBuckets     =         2048]\n"), "{text}");
        assert!(hgrm(&histogram([])).contains("Total count    =            0]"));
    }

    #[test]
    fn medians_are_in_the_middle() {
        for (values, expected) in [(&[][..], 0.0), (&[3.0], 3.0), (&[3.0, 1.0], 2.0), (&[9.0, 1.0, 2.0], 2.0)] {
            assert!((median(values) - expected).abs() < f64::EPSILON);
        }
    }
}
