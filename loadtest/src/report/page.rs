//! The page itself, and the series that its plots show.

use super::plot::{Plot, Series};
use super::{Drain, Report, ReportError};
use hdrhistogram::Histogram;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::style::RGBColor;

// Hues that keep their contrast on white and on black, and that differ in lightness for those who don't tell hues.
const BLUE: RGBColor = RGBColor(46, 134, 222);
const ORANGE: RGBColor = RGBColor(230, 126, 34);
const RED: RGBColor = RGBColor(214, 69, 80);
const SLOT_SECONDS: f64 = 0.1;
const SLOT_US: i64 = 100_000;
/// Points that a plot of 900 pixels can show.
const POINTS_MAX: usize = 1800;
const TICKS_PER_HALF_DISTANCE: u32 = 10;
const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 940px; margin: 2rem auto; padding: 0 1rem;
       color: #1c2329; background: #ffffff; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p.note { margin: .2rem 0 .6rem; opacity: .75; font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; } td { padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid #8884; }
td:last-child { font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; padding: .6rem .8rem; border: 1px solid #8884; border-radius: 4px; }
@media (prefers-color-scheme: dark) { body { color: #dfe5ea; background: #14181c; } }
";

/// Lays a report out as one HTML page that needs no other file.
///
/// # Errors
/// A plot cannot be drawn.
pub fn html(report: &Report<'_>) -> Result<String, ReportError> {
    let mut plots = vec![section(
        "Latency by percentile",
        "Time to acknowledgement. Each step to the right along the axis is ten times closer to the slowest request.",
        &latency_plot(report.latency_us).draw_percentiles()?,
    )];
    let arrivals = "Records per second, over each 100 ms.";
    plots.push(section("Arrivals and drain", arrivals, &flow_plot(report).draw_linear()?));
    if let Some(drain) = &report.drain {
        let note = "Acknowledged and not yet in the database.";
        plots.push(section("Backlog", note, &backlog_plot(report, drain).draw_linear()?));
        let note = "Rows stamped by the database, in each second from the first row on; the last second is not whole.";
        plots.push(section("Drained records per second", note, &drain_plot(report, drain).draw_linear()?));
    }
    Ok(page(report, &plots).into_string())
}

fn page(report: &Report<'_>, plots: &[Markup]) -> Markup {
    let machine = report.machine;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (report.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (report.title) }
                p { (report.summary) }
                table {
                    @for (name, value) in report.figures {
                        tr { td { (name) } td { (value) } }
                    }
                }
                @for plot in plots { (plot) }
                h2 { "Machine and command" }
                table {
                    tr { td { "cores" } td { (machine.cores) } }
                    tr { td { "processor" } td { (machine.cpu) } }
                    tr { td { "memory" } td { (machine.memory_mib) " MiB" } }
                    tr { td { "kernel" } td { (machine.kernel) } }
                }
                pre { (report.command_line) }
            }
        }
    }
}

fn section(title: &str, note: &str, svg: &str) -> Markup {
    html! {
        section {
            h2 { (title) }
            p.note { (note) }
            (PreEscaped(svg))
        }
    }
}

fn latency_plot(latency_us: &Histogram<u64>) -> Plot {
    let points = latency_us
        .iter_quantiles(TICKS_PER_HALF_DISTANCE)
        .filter(|step| step.quantile_iterated_to() < 1.0)
        .map(|step| ((1.0 / (1.0 - step.quantile_iterated_to())).log10(), step.value_iterated_to() as f64 / 1000.0))
        .collect();
    let series = Series { label: "latency".to_owned(), color: BLUE, points, filled: false };
    Plot { x_label: "percentile", y_label: "latency (ms)", series: vec![series] }
}

fn flow_plot(report: &Report<'_>) -> Plot {
    let mut series = vec![Series {
        label: "acknowledged".to_owned(),
        color: BLUE,
        points: rates(&zero_ended(report.acknowledged_per_100ms), 0.0),
        filled: true,
    }];
    if let Some(drain) = &report.drain {
        series.push(Series {
            label: "drained".to_owned(),
            color: ORANGE,
            points: rates(drain.per_100ms, offset_seconds(report, drain)),
            filled: false,
        });
    }
    Plot { x_label: "time since start (s)", y_label: "records per second", series }
}

/// What was acknowledged and not drained at the end of each 100 ms. The slots of the database's rows are shifted to
/// the nearest slot of the run, and a row that overtook its own acknowledgement does not count below zero.
fn backlog_plot(report: &Report<'_>, drain: &Drain<'_>) -> Plot {
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
    let series = Series { label: "backlog".to_owned(), color: BLUE, points, filled: true };
    Plot { x_label: "time since start (s)", y_label: "records", series: vec![series] }
}

fn drain_plot(report: &Report<'_>, drain: &Drain<'_>) -> Plot {
    let offset = offset_seconds(report, drain);
    let mut points = Vec::new();
    for (second, slots) in drain.per_100ms.chunks(10).enumerate() {
        // Each second is drawn as a step, since the rate within it is what the other plot shows.
        let rows = slots.iter().sum::<u64>() as f64;
        let start = offset + second as f64;
        points.extend([(start, rows), (start + slots.len() as f64 * SLOT_SECONDS, rows)]);
    }
    let end = points.last().map_or(offset, |point| point.0);
    let mut series = vec![Series { label: "drained".to_owned(), color: ORANGE, points, filled: true }];
    if let Some(rate) = drain.configured_per_second {
        let points = vec![(0.0, rate), (end, rate)];
        series.push(Series { label: "configured rate".to_owned(), color: RED, points, filled: false });
    }
    Plot { x_label: "time since start (s)", y_label: "records per second", series }
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
        let plot = with_report(Some(drain), |report| backlog_plot(report, &drain));
        let backlog: Vec<f64> = plot.series[0].points.iter().map(|point| point.1).collect();
        assert_eq!(backlog, [0.0, 10.0, 25.0, 20.0, 15.0, 10.0, 5.0, 0.0]);
    }

    #[test]
    fn long_runs_are_thinned_without_changing_their_rate() {
        let points = rates(&vec![7; 10_000], 0.0);
        assert!(points.len() <= POINTS_MAX);
        assert!(points.iter().all(|point| (point.1 - 70.0).abs() < 1e-9));
    }
}
