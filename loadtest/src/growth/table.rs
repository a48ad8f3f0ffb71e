//! The figures as tables, for people.

use super::Axis;
use super::figures::{BacklogPoint, IdleComparison, Point};
use crate::compare::Ratio;
use crate::report::Table;
use crate::results::{bytes, grouped, rate};

/// What stands where there is nothing to say.
const NOTHING: &str = "–";

type Column<T> = (&'static str, fn(&T) -> String);

const POINT_COLUMNS: [Column<Point>; 9] = [
    ("requests per second", |point| rate(point.requests_per_second)),
    ("range", |point| range(&point.rates(), rate)),
    ("p50", |point| ms(point.p50_ms)),
    ("p99", |point| ms(point.p99_ms)),
    ("resident", |point| bytes(point.rss_bytes)),
    ("peak", |point| bytes(point.rss_peak_bytes)),
    ("CPU per million", |point| format!("{:.1} s", point.cpu_seconds_per_million_requests)),
    ("CPU share", |point| format!("{:.0} %", point.cpu_share * 100.0)),
    ("on disk", |point| bytes(point.disk_bytes)),
];

const BACKLOG_COLUMNS: [Column<BacklogPoint>; 7] = [
    ("filled at", |level| level.filled_per_second.map_or_else(|| NOTHING.to_owned(), rate)),
    ("then resident", |level| bytes(level.filled_rss_bytes)),
    ("peak", |level| bytes(level.filled_rss_peak_bytes)),
    ("on disk", |level| bytes(level.filled_disk_bytes)),
    ("ready after", |level| seconds(level.median_ready_seconds)),
    ("range", |level| range(&level.ready_seconds, seconds)),
    ("backlog after the rounds", |level| grouped(level.backlog_end_records)),
];

/// The figures that every axis has.
pub fn points(axis: Axis, points: &[&Point]) -> Table {
    let name = |point: &&Point| match axis {
        Axis::RecordSize => bytes(point.at),
        Axis::Connections | Axis::Backlog | Axis::Queues => grouped(point.at),
    };
    let mut table = rows(&axis.to_string(), &POINT_COLUMNS, points.iter().map(|point| (name(point), *point)));
    if axis == Axis::RecordSize {
        table.head.push("bodies per second".to_owned());
        for (row, point) in table.rows.iter_mut().zip(points) {
            row.push(format!("{}/s", bytes(whole(point.requests_per_second * point.at as f64))));
        }
    }
    table
}

/// What the backlog alone has.
pub fn backlog(levels: &[BacklogPoint]) -> Table {
    let named = levels.iter().map(|level| (grouped(level.point.at), level));
    rows(&Axis::Backlog.to_string(), &BACKLOG_COLUMNS, named)
}

/// The two forebays beside each other.
pub fn idle(idle: &IdleComparison) -> Table {
    let named = [&idle.alone, &idle.among_idle].map(|point| (grouped(point.at), point));
    rows("open connections", &POINT_COLUMNS, named.into_iter())
}

/// A ratio in words.
pub fn ratio(ratio: &Ratio) -> String {
    ratio.to_string()
}

fn rows<'a, T: 'a>(name: &str, columns: &[Column<T>], named: impl Iterator<Item = (String, &'a T)>) -> Table {
    let head = [name].into_iter().chain(columns.iter().map(|(head, _)| *head)).map(str::to_owned).collect();
    let row = |(name, value): (String, &'a T)| {
        let cells = columns.iter().map(|(_, cell)| cell(value));
        [name].into_iter().chain(cells).collect()
    };
    Table { head, rows: named.map(row).collect() }
}

/// The smallest and the largest value.
fn range(values: &[f64], shown: fn(f64) -> String) -> String {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(0.0, f64::max);
    if values.is_empty() { NOTHING.to_owned() } else { format!("{} – {}", shown(min), shown(max)) }
}

fn ms(value_ms: f64) -> String {
    format!("{value_ms:.3} ms")
}

fn seconds(value: f64) -> String {
    format!("{value:.3} s")
}

/// Truncates; the cast saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_its_bodies_per_second() {
        let point = Point { requests_per_second: 512.0, ..Point::new(1 << 20, 64, Vec::new(), 0) };
        let table = points(Axis::RecordSize, &[&point]);
        assert_eq!(table.rows[0].first().map(String::as_str), Some("1 MiB"));
        assert_eq!(table.rows[0].last().map(String::as_str), Some("512 MiB/s"));
        assert_eq!(table.head.len(), table.rows[0].len());
        assert_eq!(table.rows[0][2], NOTHING);
    }
}
