//! The result as tables and plots.

use super::{Cause, Trouble, TroubleRun};
use crate::report::{Plot, Scale, Section, Series, Table};
use crate::results::{grouped, rate};

const NOTHING: &str = "–";
/// Seconds that one point of a plot stands for.
const POINT_SECONDS: f64 = 0.5;

/// What a run is called.
pub fn name(run: &TroubleRun) -> &str {
    run.mode.as_deref().unwrap_or("no forebay")
}

impl Trouble {
    /// For each cause the figures and four plots.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let causes = [Cause::Load, Cause::Lock].into_iter();
        let of = |cause| self.runs.iter().filter(|run| run.cause == cause).collect::<Vec<_>>();
        causes.map(|cause| (cause, of(cause))).filter(|(_, runs)| !runs.is_empty()).flat_map(sections).collect()
    }

    /// The tables as lines of text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let with_table = |section: Section| Some((section.title, section.note, section.table?));
        let text = |(title, note, table): (String, String, Table)| format!("{title}\n{note}\n{}", table.to_text());
        self.sections().into_iter().filter_map(with_table).map(text).collect::<Vec<_>>().join("\n")
    }
}

fn sections((cause, runs): (Cause, Vec<&TroubleRun>)) -> Vec<Section> {
    let plot = |y_label, y_scale, series: Vec<Series>| {
        let series = series.into_iter().filter(|series| !series.points.is_empty()).collect();
        Some(Plot { x_label: "time (s)", y_label, x_scale: Scale::Linear, y_scale, series })
    };
    let lines = |points: fn(&TroubleRun) -> Vec<(f64, f64)>| {
        let line = |run: &&TroubleRun| Series { label: name(run).to_owned(), points: worst_of_each(points(run)) };
        runs.iter().map(line).collect::<Vec<_>>()
    };
    let part = |part: &str, plot| Section { title: format!("{cause} {part}"), plot, ..Section::default() };
    let limits = |run: &TroubleRun| run.samples.iter().map(|s| (s.at_seconds, s.rate_limit)).collect();
    let backlogs = |run: &TroubleRun| run.samples.iter().map(|s| (s.at_seconds, s.backlog_records as f64)).collect();
    let arrivals = |run: &TroubleRun| {
        let half_seconds = run.arrivals_per_100ms.chunks(5).enumerate();
        half_seconds.map(|(at, counts)| (at as f64 / 2.0, counts.iter().sum::<u64>() as f64 * 2.0)).collect()
    };
    let trouble = match cause {
        Cause::Load => "Trouble: sessions sort on all cores",
        Cause::Lock => {
            "Trouble: a job holds the campaign's row for 100 ms again and again, which forebay's transactions need last and \
             the probe never"
        }
    };
    let phase = runs.first().and_then(|run| run.phases.get(2));
    let when = phase
        .map_or_else(String::new, |phase| format!(", from {:.0} s to {:.0} s", phase.from_seconds, phase.to_seconds));
    vec![
        Section { title: cause.to_string(), note: format!("{trouble}{when}."), table: Some(table(&runs)), plot: None },
        part("probe", plot("longest round trip (ms)", Scale::Log, lines(|run| run.probes.clone()))),
        part("rate limit", plot("rate limit (records/s)", Scale::Linear, lines(limits))),
        part("arrivals", plot("arrivals (records/s)", Scale::Linear, lines(arrivals))),
        part("backlog", plot("backlog (records)", Scale::Linear, lines(backlogs))),
    ]
}

/// The largest value of each half second.
fn worst_of_each(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mut worst: Vec<(f64, f64)> = Vec::new();
    for (at, value) in points {
        let at = (at / POINT_SECONDS).floor() * POINT_SECONDS;
        match worst.last_mut() {
            Some(last) if last.0 >= at => last.1 = last.1.max(value),
            _ => worst.push((at, value)),
        }
    }
    worst
}

fn table(runs: &[&TroubleRun]) -> Table {
    let mut head: Vec<String> = vec![String::new()];
    for name in ["alone", "before", "during", "after"] {
        head.push(format!("probe p99 {name}"));
    }
    head.extend(
        ["during / alone", "arrivals during", "backlog before", "after", "lowest limit", "back in"].map(String::from),
    );
    Table { head, rows: runs.iter().map(|run| row(run)).collect() }
}

fn row(run: &TroubleRun) -> Vec<String> {
    let p99 = |phase: usize| run.phases.get(phase).map_or(0.0, |phase| phase.probe.p99_ms);
    let with_forebay = |text: String| if run.mode.is_some() { text } else { NOTHING.to_owned() };
    let backlog = |phase: usize| run.phases.get(phase).map_or(0, |phase| phase.backlog_end_records);
    let arrivals = run.phases.get(2).map_or(0.0, |phase| phase.arrivals_per_second);
    let mut cells = vec![name(run).to_owned()];
    cells.extend((0..4).map(|phase| format!("{:.1} ms", p99(phase))));
    cells.push(format!("{:.2}", p99(2) / p99(0)));
    cells.push(with_forebay(format!("{arrivals:.0}/s")));
    cells.push(with_forebay(grouped(backlog(1))));
    cells.push(with_forebay(grouped(backlog(2))));
    cells.push(run.rate_limit_min.map_or_else(|| NOTHING.to_owned(), rate));
    cells.push(with_forebay(
        run.back_seconds.map_or_else(|| "not back".to_owned(), |seconds| format!("{seconds:.1} s")),
    ));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_the_worst_of_its_half_second() {
        let points = vec![(0.0, 1.0), (0.1, 5.0), (0.4, 2.0), (0.6, 3.0), (2.2, 9.0), (2.4, 1.0)];
        assert_eq!(worst_of_each(points), [(0.0, 5.0), (0.5, 3.0), (2.0, 9.0)]);
    }
}
