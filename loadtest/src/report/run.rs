//! The page about one run, and the lines that its plots show.

use super::axis::Axis;
use super::page::{Frame, section};
use super::plot::{BLUE, Chart, HEADROOM, Line, Mark, ORANGE, RED, values};
use super::{Drain, Report, ReportError};
use hdrhistogram::Histogram;
use maud::html;

const SLOT_SECONDS: f64 = 0.1;
const SLOT_US: i64 = 100_000;
/// Points that a plot of 900 pixels can show.
const POINTS_MAX: usize = 1800;
const TICKS_PER_HALF_DISTANCE: u32 = 10;

/// Lays a report out as one HTML page that needs no other file.
///
/// # Errors
/// A plot cannot be drawn.
pub fn html(report: &Report<'_>) -> Result<String, ReportError> {
    let mut sections = vec![section(
        "Latency by percentile",
        "Time to acknowledgement. Each step to the right along the axis is ten times closer to the slowest request.",
        &latency_chart(report.latency_us).to_markup()?,
    )];
    let arrivals = "Records per second, over each 100 ms.";
    sections.push(section("Arrivals and drain", arrivals, &flow_chart(report).to_markup()?));
    if let Some(drain) = &report.drain {
        let note = "Acknowledged and not yet in the database.";
        sections.push(section("Backlog", note, &backlog_chart(report, drain).to_markup()?));
        let note = "Rows stamped by the database, in each second from the first row on; the last second is not whole.";
        sections.push(section("Drained records per second", note, &drain_chart(report, drain).to_markup()?));
    }
    let content = html! {
        table {
            @for (name, value) in report.figures {
                tr { td { (name) } td { (value) } }
            }
        }
        @for section in &sections { (section) }
    };
    let Report { title, summary, command_line, machine, .. } = *report;
    Ok(Frame { title, summary, command_line, machine }.around(&content).into_string())
}

/// Lines over the time since the run's start.
fn over_time(y_label: &'static str, lines: Vec<Line>) -> Chart {
    Chart {
        x_label: "time since start (s)",
        y_label,
        x_axis: Axis::linear(values(&lines, |point| point.0), 1.0),
        y_axis: Axis::linear(values(&lines, |point| point.1), HEADROOM),
        lines,
    }
}

fn latency_chart(latency_us: &Histogram<u64>) -> Chart {
    let points = latency_us
        .iter_quantiles(TICKS_PER_HALF_DISTANCE)
        .filter(|step| step.quantile_iterated_to() < 1.0)
        .map(|step| ((1.0 / (1.0 - step.quantile_iterated_to())).log10(), step.value_iterated_to() as f64 / 1000.0))
        .collect();
    let line = Line { label: "latency".to_owned(), color: BLUE, points, mark: Mark::Line };
    let lines = vec![line];
    Chart {
        x_label: "percentile",
        y_label: "latency (ms)",
        x_axis: Axis::percentile(values(&lines, |point| point.0)),
        y_axis: Axis::log(values(&lines, |point| point.1)),
        lines,
    }
}

fn flow_chart(report: &Report<'_>) -> Chart {
    let mut lines = vec![Line {
        label: "acknowledged".to_owned(),
        color: BLUE,
        points: rates(&zero_ended(report.acknowledged_per_100ms), 0.0),
        mark: Mark::Area,
    }];
    if let Some(drain) = &report.drain {
        lines.push(Line {
            label: "drained".to_owned(),
            color: ORANGE,
            points: rates(drain.per_100ms, offset_seconds(report, drain)),
            mark: Mark::Line,
        });
    }
    over_time("records per second", lines)
}

/// What was acknowledged and not drained at the end of each 100 ms. The slots of the database's rows are shifted to
/// the nearest slot of the run, and a row that overtook its own acknowledgement does not count below zero.
fn backlog_chart(report: &Report<'_>, drain: &Drain<'_>) -> Chart {
    let shift = usize::try_from((drain.first_unix_us - report.started_unix_us + SLOT_US / 2) / SLOT_US).unwrap_or(0);
    let slots = report.acknowledged_per_100ms.len().max(shift + drain.per_100ms.len());
    let (mut acknowledged, mut drained) = (0u64, 0u64);
    let backlog: Vec<u64> = (0..slots)
        .map(|slot| {
            acknowledged += report.acknowledged_per_100ms.get(slot).copied().unwrap_or(0);
            drained += slot.checked_sub(shift).and_then(|slot| drain.per_100ms.get(slot)).copied().unwrap_or(0);
            acknowledged.saturating_sub(drained)
        })
        .collect();
    let points = std::iter::once((0.0, 0.0))
        .chain(thinned(&backlog).map(|(slot, width, sum)| ((slot + width) as f64 * SLOT_SECONDS, sum / width as f64)))
        .collect();
    let line = Line { label: "backlog".to_owned(), color: BLUE, points, mark: Mark::Area };
    over_time("records", vec![line])
}

fn drain_chart(report: &Report<'_>, drain: &Drain<'_>) -> Chart {
    let offset = offset_seconds(report, drain);
    let mut points = Vec::new();
    for (second, slots) in drain.per_100ms.chunks(10).enumerate() {
        // Each second is drawn as a step, since the rate within it is what the other plot shows.
        let rows = slots.iter().sum::<u64>() as f64;
        let start = offset + second as f64;
        points.extend([(start, rows), (start + slots.len() as f64 * SLOT_SECONDS, rows)]);
    }
    let end = points.last().map_or(offset, |point| point.0);
    let mut lines = vec![Line { label: "drained".to_owned(), color: ORANGE, points, mark: Mark::Area }];
    if let Some(rate) = drain.configured_per_second {
        let points = vec![(0.0, rate), (end, rate)];
        lines.push(Line { label: "configured rate".to_owned(), color: RED, points, mark: Mark::Line });
    }
    over_time("records per second", lines)
}

fn offset_seconds(report: &Report<'_>, drain: &Drain<'_>) -> f64 {
    ((drain.first_unix_us - report.started_unix_us) as f64 / 1e6).max(0.0)
}

/// The counts with an empty slot after them, so that their line comes back down to zero.
fn zero_ended(per_100ms: &[u64]) -> Vec<u64> {
    per_100ms.iter().copied().chain([0]).collect()
}

/// Counts per 100 ms as rates per second, each at the middle of its time.
fn rates(per_100ms: &[u64], offset: f64) -> Vec<(f64, f64)> {
    thinned(per_100ms)
        .map(|(slot, width, sum)| {
            let seconds = width as f64 * SLOT_SECONDS;
            (offset + slot as f64 * SLOT_SECONDS + seconds / 2.0, sum / seconds)
        })
        .collect()
}

/// Joins neighbouring slots until a plot can show them; yields the first slot, how many were joined, and their sum.
fn thinned(slots: &[u64]) -> impl Iterator<Item = (usize, usize, f64)> + '_ {
    let width = slots.len().div_ceil(POINTS_MAX).max(1);
    slots
        .chunks(width)
        .enumerate()
        .map(move |(chunk, counts)| (chunk * width, counts.len(), counts.iter().sum::<u64>() as f64))
}

#[cfg(test)]
mod tests {
    use super::super::Machine;
    use super::*;

    fn with_report<T>(drain: Option<Drain<'_>>, read: impl FnOnce(&Report<'_>) -> T) -> T {
        let mut latency_us = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        (1..=1000u64).for_each(|value| latency_us.record(value * 37).unwrap());
        read(&Report {
            title: "<b>run</b>",
            summary: "",
            command_line: "a && b",
            machine: &Machine::from_proc(),
            figures: &[("p50".to_owned(), "1 ms".to_owned())],
            latency_us: &latency_us,
            started_unix_us: 1_000_000,
            acknowledged_per_100ms: &[10, 20],
            drain,
        })
    }

    #[test]
    fn a_page_is_whole_and_escaped() {
        let drain = Drain { per_100ms: &[5; 6], first_unix_us: 1_050_000, configured_per_second: Some(50.0) };
        let page = with_report(Some(drain), html).unwrap();
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("&lt;b&gt;run") && page.contains("a &amp;&amp; b"));
        assert!(!page.contains("http-equiv") && !page.contains("src="));
        assert_eq!(with_report(None, html).unwrap().matches("<svg").count(), 2);
    }

    #[test]
    fn the_backlog_is_what_came_minus_what_went() {
        let drain = Drain { per_100ms: &[5; 6], first_unix_us: 1_100_000, configured_per_second: None };
        let chart = with_report(Some(drain), |report| backlog_chart(report, &drain));
        let backlog: Vec<f64> = chart.lines[0].points.iter().map(|point| point.1).collect();
        assert_eq!(backlog, [0.0, 10.0, 25.0, 20.0, 15.0, 10.0, 5.0, 0.0]);
    }

    #[test]
    fn long_runs_are_thinned_without_changing_their_rate() {
        let points = rates(&vec![7; 10_000], 0.0);
        assert!(points.len() <= POINTS_MAX);
        assert!(points.iter().all(|point| (point.1 - 70.0).abs() < 1e-9));
    }
}
