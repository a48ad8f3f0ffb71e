//! The result as tables and plots.

use super::arrivals::WINDOW_NS;
use super::{CONTENDERS, Pace, PaceRun, batch_records};
use crate::report::{Plot, Scale, Section, Series, Table};
use crate::results::grouped;

type Column = (&'static str, fn(&PaceRun) -> String);

const COLUMNS: [Column; 9] = [
    ("", |run| run.contender.to_owned()),
    ("round", |run| run.round.to_string()),
    ("records", |run| grouped(run.arrivals.records)),
    ("mean", |run| format!("{:.1}/s", run.arrivals.mean_per_second)),
    ("of the rate", |run| format!("{:.3} %", 100.0 + run.error_percent)),
    ("worst second", |run| grouped(run.arrivals.second_max)),
    ("released at most", |run| run.second_bound.map_or_else(|| "–".to_owned(), grouped)),
    ("100 ms, fewest", |run| grouped(run.arrivals.window_min)),
    ("most", |run| grouped(run.arrivals.window_max)),
];

impl Pace {
    /// A part for each rate, with a plot of its first round.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let mut rates: Vec<u32> = self.runs.iter().map(|run| run.rate_per_second).collect();
        rates.dedup();
        rates.into_iter().map(|rate| self.section(rate)).collect()
    }

    /// The tables as lines of text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = |section: Section| {
            let table = section.table.unwrap_or_default().to_text();
            format!("{}\n{}\n{table}", section.title, section.note)
        };
        self.sections().into_iter().map(text).collect::<Vec<_>>().join("\n")
    }

    fn section(&self, rate: u32) -> Section {
        let runs: Vec<&PaceRun> = self.runs.iter().filter(|run| run.rate_per_second == rate).collect();
        let series = runs.iter().filter(|run| run.round == 1).map(|run| series(run)).collect();
        let row = |run: &&PaceRun| COLUMNS.iter().map(|(_, cell)| cell(run)).collect();
        let used: Vec<String> = CONTENDERS
            .iter()
            .filter(|contender| runs.iter().any(|run| run.contender == contender.name))
            .map(|contender| format!("{}: {}", contender.name, contender.about))
            .collect();
        Section {
            title: format!("{}/s", grouped(rate.into())),
            note: format!(
                "In 100 ms {} records are due, of which forebay sends {} at once. {}.",
                grouped(u64::from(rate) / 10),
                grouped(batch_records(rate)),
                used.join("; ")
            ),
            table: Some(Table {
                head: COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect(),
                rows: runs.iter().map(row).collect(),
            }),
            plot: Some(Plot {
                x_label: "time from the first arrival (s)",
                y_label: "arrivals in 100 ms",
                x_scale: Scale::Linear,
                y_scale: Scale::Linear,
                series,
            }),
        }
    }
}

fn series(run: &PaceRun) -> Series {
    let at = |window: usize| window as f64 * WINDOW_NS as f64 / 1e9;
    let points = run.arrivals.per_100ms.iter().enumerate().map(|(window, count)| (at(window), *count as f64));
    Series { label: run.contender.to_owned(), points: points.collect() }
}
