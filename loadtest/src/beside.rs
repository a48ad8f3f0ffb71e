//! One figure of forebay's beside the same figure of another program, measured in turns.

use crate::compare::Ratio;
use crate::report::{Document, Machine, Plot, ReportError, Scale, Section, Series, Table};
use crate::results::median;
use serde::Serialize;
use std::fmt;

/// The rounds of both, in pairs that followed each other.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    /// What is measured.
    pub what: &'static str,
    /// The unit of every figure.
    pub unit: &'static str,
    /// What of forebay is measured.
    pub ours: &'static str,
    /// What it is held against.
    pub theirs: &'static str,
    /// Forebay's figure and the other one's, round by round.
    pub rounds: Vec<(f64, f64)>,
}

impl Beside {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(what: &'static str, unit: &'static str, ours: &'static str, theirs: &'static str) -> Self {
        Self { what, unit, ours, theirs, rounds: Vec::new() }
    }

    /// Adds a round and returns a line about it.
    pub fn add(&mut self, ours: f64, theirs: f64) -> String {
        self.rounds.push((ours, theirs));
        let round = self.rounds.len();
        format!("{}, round {round}: {}", self.what, self.pair(ours, theirs, ours / theirs))
    }

    /// Forebay's figures over the others.
    #[must_use]
    pub fn ratio(&self) -> Ratio {
        let (ours, theirs) = self.columns();
        Ratio::of(&ours, &theirs)
    }

    fn columns(&self) -> (Vec<f64>, Vec<f64>) {
        self.rounds.iter().copied().unzip()
    }

    fn medians(&self) -> (f64, f64) {
        let (ours, theirs) = self.columns();
        (median(&ours), median(&theirs))
    }

    fn pair(&self, ours: f64, theirs: f64, ratio: f64) -> String {
        let Self { unit, ours: our_name, theirs: their_name, .. } = self;
        format!("{our_name} {} {unit}, {their_name} {} {unit}, ratio {ratio:.3}", figure(ours), figure(theirs))
    }

    /// A part of a page: a bar for each, with a dot for each round, and the figures.
    #[must_use]
    pub fn to_section(&self) -> Section {
        let (ours, theirs) = self.columns();
        let bar = |label: &str, values: &[f64]| Series {
            label: label.to_owned(),
            points: values.iter().map(|value| (0.0, *value)).collect(),
        };
        let row = |name: &str, values: &[f64]| {
            let rounds: Vec<String> = values.iter().map(|value| figure(*value)).collect();
            vec![name.to_owned(), figure(median(values)), rounds.join(", ")]
        };
        Section {
            title: self.what.to_owned(),
            note: format!("Bars are medians, dots the rounds. {} / {}: {}.", self.ours, self.theirs, self.ratio()),
            table: Some(Table {
                head: vec![String::new(), format!("median ({})", self.unit), "rounds".to_owned()],
                rows: vec![row(self.ours, &ours), row(self.theirs, &theirs)],
            }),
            plot: Some(Plot {
                x_label: "",
                y_label: self.unit,
                x_scale: Scale::Categorical,
                y_scale: Scale::Linear,
                series: vec![bar(self.ours, &ours), bar(self.theirs, &theirs)],
            }),
        }
    }
}

/// The medians and their ratio.
impl fmt::Display for Beside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((ours, theirs), Ratio { of_medians, min, max }) = (self.medians(), self.ratio());
        write!(formatter, "{}: {} [{min:.3}–{max:.3}]", self.what, self.pair(ours, theirs, of_medians))
    }
}

/// All of them as JSON, with where they were measured.
#[must_use]
pub fn to_json(measured: &[Beside], machine: &Machine) -> String {
    let each = |one: &Beside| serde_json::json!({ "measured": one, "ratio": one.ratio() });
    let all: Vec<serde_json::Value> = measured.iter().map(each).collect();
    format!("{:#}\n", serde_json::json!({ "machine": machine, "beside": all }))
}

/// All of them as one HTML page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn to_html(measured: &[Beside], title: &str, command_line: &str, machine: &Machine) -> Result<String, ReportError> {
    let summary = "Measured in turns, so that what disturbs the machine disturbs both alike.";
    let sections = measured.iter().map(Beside::to_section).collect();
    Document { title, summary, command_line, machine, sections }.to_html()
}

/// A figure with as many digits as anybody reads.
fn figure(value: f64) -> String {
    match value {
        value if value >= 1000.0 => crate::results::grouped(rounded(value)),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// The cast saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    #[test]
    fn the_ratio_is_of_medians_and_the_page_is_whole() {
        let mut beside = Beside::new("writing", "MiB/s", "journal", "fio <b>");
        beside.add(900.0, 1000.0);
        beside.add(2000.0, 1000.0);
        let line = beside.add(950.0, 1000.0);
        assert_eq!(line, "writing, round 3: journal 950 MiB/s, fio <b> 1,000 MiB/s, ratio 0.950");
        assert_eq!(beside.ratio(), Ratio { of_medians: 0.95, min: 0.9, max: 2.0 });
        assert!(beside.to_string().ends_with("ratio 0.950 [0.900–2.000]"), "{beside}");
        let machine = Machine::from_proc();
        let page = to_html(std::slice::from_ref(&beside), "Disk", "cmd", &machine).unwrap();
        assert!(page.contains("fio &lt;b&gt;") && page.matches("<svg").count() == 1);
        assert!(to_json(&[beside], &machine).contains("\"of_medians\": 0.95"));
    }
}
