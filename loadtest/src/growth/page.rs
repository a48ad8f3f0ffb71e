//! The result as sections of a page, and as text.

use super::axes::{QUEUES_CONNECTIONS, RECORD_SIZE_CONNECTIONS};
use super::backlog::RECORD_BYTES;
use super::figures::{BacklogPoint, Growth, IdleComparison, Point};
use super::{Axis, table};
use crate::report::{Plot, Scale, Section, Series, Table};
use crate::results::grouped;

const BYTES_PER_MIB: f64 = 1_048_576.0;
const BYTES_PER_GIB: f64 = 1_073_741_824.0;

impl Growth {
    /// The result as the sections of a page: for each axis its rate, latency, memory and processor time.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        for axis in [Axis::Connections, Axis::RecordSize, Axis::Backlog, Axis::Queues] {
            let points = self.points(axis);
            if !points.is_empty() {
                sections.extend(axis_sections(axis, &points));
            }
            match axis {
                Axis::Connections => sections.extend(self.idle.as_ref().map(idle_section)),
                Axis::Backlog if !self.backlog.is_empty() => sections.extend(backlog_sections(&self.backlog)),
                Axis::RecordSize | Axis::Backlog | Axis::Queues => {}
            }
        }
        sections
    }

    /// The tables as lines of text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let with_table = |section: Section| Some((section.title, section.note, section.table?));
        let text = |(title, note, table): (String, String, Table)| format!("{title}\n{note}\n{}", table.to_text());
        self.sections().into_iter().filter_map(with_table).map(text).collect::<Vec<_>>().join("\n")
    }
}

fn axis_sections(axis: Axis, points: &[&Point]) -> Vec<Section> {
    // From the smallest record to the largest, rate and processor time differ by orders of magnitude.
    let cost_scale = if axis == Axis::RecordSize { Scale::Log } else { Scale::Linear };
    let plot =
        |y_label, y_scale, series| Some(Plot { x_label: x_label(axis), y_label, x_scale: Scale::Log, y_scale, series });
    let line = |label, figure: fn(&Point) -> f64| line(label, points.iter().copied(), |point| point.at, figure);
    let part = |part, plot| Section { title: format!("{}: {part}", title(axis)), plot, ..Section::default() };
    let rate = vec![line("requests", |point| point.requests_per_second)];
    let latency = vec![line("p50", |point| point.p50_ms), line("p99", |point| point.p99_ms)];
    let memory = vec![
        line("resident", |point| point.rss_bytes as f64 / BYTES_PER_MIB),
        line("peak", |point| point.rss_peak_bytes as f64 / BYTES_PER_MIB),
    ];
    let cpu = vec![line("CPU", |point| point.cpu_seconds_per_million_requests)];
    vec![
        Section {
            title: title(axis).to_owned(),
            note: note(axis),
            table: Some(table::points(axis, points)),
            plot: plot("requests per second", cost_scale, rate),
        },
        part("latency", plot("latency (ms)", Scale::Log, latency)),
        part("memory", plot("memory (MiB)", Scale::Linear, memory)),
        part("processor time", plot("CPU seconds per million requests", cost_scale, cpu)),
    ]
}

fn title(axis: Axis) -> &'static str {
    match axis {
        Axis::Connections => "Connections",
        Axis::RecordSize => "Record size",
        Axis::Backlog => "Backlog",
        Axis::Queues => "Queues",
    }
}

fn x_label(axis: Axis) -> &'static str {
    match axis {
        Axis::Connections => "connections",
        Axis::RecordSize => "record size (bytes)",
        Axis::Backlog => "backlog (records)",
        Axis::Queues => "queues",
    }
}

fn note(axis: Axis) -> String {
    match axis {
        Axis::Connections => "One 270-byte order in flight on each connection.".to_owned(),
        Axis::RecordSize => format!(
            "One record in flight on each of {RECORD_SIZE_CONNECTIONS} connections. ring_bytes is forebay's default, \
             or as much as is in flight where that is more."
        ),
        Axis::Backlog => format!(
            "One record of {} bytes in flight on each of {RECORD_SIZE_CONNECTIONS} connections, to a forebay that was \
             restarted with the backlog. The rounds add to it. Plots leave the empty backlog out.",
            grouped(RECORD_BYTES as u64)
        ),
        Axis::Queues => format!(
            "One 270-byte order in flight on each of {QUEUES_CONNECTIONS} connections, for each queue in turns. Every \
             queue has a segment of its own on the disk."
        ),
    }
}

fn idle_section(idle: &IdleComparison) -> Section {
    let note = format!(
        "Two forebays in turns, {} busy connections on each; one has idle connections besides. Rate of that one over \
         the other: {}.",
        grouped(idle.alone.connections as u64),
        table::ratio(&idle.ratio)
    );
    Section { title: "Idle connections".to_owned(), note, table: Some(table::idle(idle)), plot: None }
}

fn backlog_sections(levels: &[BacklogPoint]) -> Vec<Section> {
    let plot = |y_label, series| {
        let x_label = x_label(Axis::Backlog);
        Some(Plot { x_label, y_label, x_scale: Scale::Log, y_scale: Scale::Linear, series: vec![series] })
    };
    let at = |level: &BacklogPoint| level.point.at;
    let ready = line("ready", levels, at, |level| level.median_ready_seconds);
    let disk = line("on disk", levels, at, |level| level.filled_disk_bytes as f64 / BYTES_PER_GIB);
    vec![
        Section {
            title: "Backlog: start".to_owned(),
            note: "From the start of the process after kill -9 until /readyz, which is asked every 5 ms, answers 200. \
                   The journal is written past the page cache, to which nothing is done."
                .to_owned(),
            table: Some(table::backlog(levels)),
            plot: plot("time until ready (s)", ready),
        },
        Section {
            title: "Backlog: disk".to_owned(),
            note: "The data directory with the backlog alone, reserved space included.".to_owned(),
            table: None,
            plot: plot("size on disk (GiB)", disk),
        },
    ]
}

fn line<'a, T: 'a>(
    label: &str,
    points: impl IntoIterator<Item = &'a T>,
    at: fn(&T) -> u64,
    figure: fn(&T) -> f64,
) -> Series {
    let points = points.into_iter().map(|point| (at(point) as f64, figure(point))).collect();
    Series { label: label.to_owned(), points }
}
