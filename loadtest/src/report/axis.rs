//! The axes of a plot: how far they go, where they put a value, and what is written along them.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use std::ops::Range;

/// What is labelled within each power of ten while these are few, and where a logarithmic axis may end.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];
/// Above as many powers of ten, only the powers are labelled.
const POWERS_WITH_STEPS_MAX: u32 = 3;
/// Above as many, not even each of them.
const POWERS_LABELLED_MAX: u32 = 10;
/// How far a value may be from a step and still be that step, relative to it: more than rounding ever adds.
const TOLERANCE: f64 = 1e-9;

/// One axis, for the values that it has to show.
#[derive(Clone, Debug)]
pub enum Axis {
    /// The same difference has the same length.
    Linear(Range<f64>),
    /// The same ratio has the same length. The range is positive.
    Log(Range<f64>),
    /// From the median's side of a distribution to its tail, one unit for each further nine: log10 of 1/(1 − p).
    Percentile(Range<f64>),
    /// A column for each name, one unit wide.
    Categorical(Vec<String>),
}

impl Axis {
    /// An axis from zero to the largest value times `stretch`; it begins below zero when there are negative values.
    pub fn linear(values: impl Iterator<Item = f64>, stretch: f64) -> Self {
        let (min, max) = values.fold((0.0f64, 0.0f64), |(min, max), value| (min.min(value), max.max(value)));
        // Something must lie between the ends even when all values are zero.
        Self::Linear(min..(max * stretch).max(min + 1e-3))
    }

    /// An axis between the steps around the values, where those that are not positive have no place.
    pub fn log(values: impl Iterator<Item = f64>) -> Self {
        let positive = values.filter(|value| *value > 0.0);
        let (min, max) = positive.fold((f64::INFINITY, 0.0f64), |(min, max), value| (min.min(value), max.max(value)));
        if min > max {
            return Self::Log(1.0..10.0);
        }
        let start = step_at_most(min);
        Self::Log(start..step_at_least(max).max(2.0 * start))
    }

    /// An axis over distances from 100 %, which goes at least to the slowest tenth.
    pub fn percentile(values: impl Iterator<Item = f64>) -> Self {
        Self::Percentile(0.0..values.fold(1.0, f64::max) + 0.05)
    }

    /// Where bars stand on the axis.
    pub fn base(&self) -> f64 {
        if let Self::Log(range) = self { range.start } else { 0.0 }
    }

    /// Whether the value has a place on the axis.
    pub fn has(&self, value: f64) -> bool {
        value.is_finite() && (value > 0.0 || !matches!(self, Self::Log(_)))
    }

    /// Where on the axis a value is: 0 at its start, 1 at its end.
    fn share(&self, value: f64) -> f64 {
        let Range { start, end } = self.range();
        match self {
            Self::Log(_) => (value.ln() - start.ln()) / (end.ln() - start.ln()),
            _ => (value - start) / (end - start),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    /// An axis is a few thousand pixels long at most, so the cast loses nothing.
    #[allow(clippy::cast_possible_truncation)]
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (f64::from(limit.1 - limit.0) * self.share(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match self {
            Self::Linear(range) => RangedCoordf64::from(range.clone()).key_points(hint),
            Self::Log(range) => log_key_points(range),
            Self::Percentile(range) => {
                let nines = (1u8..).map(f64::from).take_while(|nines| *nines <= range.end);
                [0.0, 2f64.log10()].into_iter().chain(nines).collect()
            }
            Self::Categorical(names) => (0..names.len()).map(|column| column as f64 + 0.5).collect(),
        }
    }

    fn range(&self) -> Range<f64> {
        match self {
            Self::Linear(range) | Self::Log(range) | Self::Percentile(range) => range.clone(),
            Self::Categorical(names) => 0.0..names.len().max(1) as f64,
        }
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        match self {
            Self::Linear(_) | Self::Log(_) => number(*value),
            Self::Percentile(_) => format!("{}%", number(100.0 - 100.0 / 10f64.powf(*value))),
            Self::Categorical(names) => name_at(names, *value).to_owned(),
        }
    }
}

/// The name of the column that a place on the axis lies in. Key points are in the middle of theirs.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the casts saturate")]
fn name_at(names: &[String], value: f64) -> &str {
    names.get(value as usize).map_or("", String::as_str)
}

/// The exponent of the largest power of ten that is not above a positive value.
#[allow(clippy::cast_possible_truncation, reason = "the exponents of a float are between -324 and 308")]
fn exponent(value: f64) -> i32 {
    (value.log10() + TOLERANCE).floor() as i32
}

fn step_at_most(value: f64) -> f64 {
    let power = 10f64.powi(exponent(value));
    let steps = STEPS.iter().rev().map(|step| step * power);
    steps.into_iter().find(|step| *step <= value * (1.0 + TOLERANCE)).unwrap_or(power)
}

fn step_at_least(value: f64) -> f64 {
    let power = 10f64.powi(exponent(value));
    let steps = STEPS.iter().map(|step| step * power);
    steps.into_iter().find(|step| *step >= value * (1.0 - TOLERANCE)).unwrap_or(10.0 * power)
}

fn log_key_points(range: &Range<f64>) -> Vec<f64> {
    let (first, last) = (exponent(range.start), exponent(range.end));
    let powers = first.abs_diff(last);
    let steps = if powers > POWERS_WITH_STEPS_MAX { &STEPS[..1] } else { &STEPS[..] };
    let stride = powers.div_ceil(POWERS_LABELLED_MAX).max(1);
    (first..=last)
        .step_by(stride as usize)
        .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
        .filter(|at| *at >= range.start * (1.0 - TOLERANCE) && *at <= range.end * (1.0 + TOLERANCE))
        .collect()
}

/// Writes a number as short as it can be: `250`, `1.5`, `20k`, `3M`.
fn number(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size > 0.0 && size < 1e-5 || size >= 1e15 => return format!("{value:.1e}"),
        size if size >= 999_999_999.5 => (value / 1e9, "G"),
        size if size >= 999_999.5 => (value / 1e6, "M"),
        size if size >= 10_000.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // Six digits hide what binary fractions leave over, and no axis here needs more.
    let text = format!("{scaled:.6}");
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.key_points(10).iter().map(|at| axis.format_ext(at)).collect()
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (250.0, "250"),
            (1500.0, "1500"),
            (20_000.0, "20k"),
            (12_500.0, "12.5k"),
            (3e6, "3M"),
            (999_999.9, "1M"),
            (2e9, "2G"),
            (1e-7, "1.0e-7"),
            (1e18, "1.0e18"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn percentiles_are_labelled_by_nines() {
        let axis = Axis::percentile([4.0].into_iter());
        assert_eq!(labels(&axis), ["0%", "50%", "90%", "99%", "99.9%", "99.99%"]);
    }

    #[test]
    fn a_logarithmic_axis_is_labelled_by_steps_while_it_is_short_and_by_powers_when_it_is_long() {
        for (values, expected) in [
            (&[64.0, 256.0][..], &["50", "100", "200", "500"][..]),
            (&[1.0, 1000.0], &["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000"]),
            (&[0.3, 9000.0], &["1", "10", "100", "1000", "10k"]),
            (&[1e-3, 1e9], &["0.001", "0.1", "10", "1000", "100k", "10M", "1G"]),
            (&[100.0], &["100", "200"]),
            (&[0.0, -3.0], &["1", "2", "5", "10"]),
            (&[], &["1", "2", "5", "10"]),
        ] {
            assert_eq!(labels(&Axis::log(values.iter().copied())), expected, "{values:?}");
        }
    }

    #[test]
    fn every_value_lies_within_its_axis() {
        for values in [&[0.0][..], &[-5.0, 3.0], &[0.02, 7e4], &[1e-300, 1e300], &[999.999_999_9], &[5.0, 5.0]] {
            for axis in [Axis::linear(values.iter().copied(), 1.08), Axis::log(values.iter().copied())] {
                for value in values.iter().filter(|value| axis.has(**value)) {
                    assert!((0..=800).contains(&axis.map(value, (0, 800))), "{value} on {axis:?}");
                }
            }
        }
    }
}
