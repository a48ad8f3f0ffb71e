//! The growth of cost with tiny points, measured on the real forebay program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

use forebay_loadtest::growth::{Axis, Event, Growth, GrowthError, GrowthPlan, IdlePlan, Point, measure};
use forebay_loadtest::peer::PeerError;
use forebay_loadtest::report::{Document, Machine};
use std::time::Duration;

mod program;

const ROUNDS: usize = 1;

fn tiny_plan() -> GrowthPlan {
    GrowthPlan {
        rounds: ROUNDS,
        connections: vec![1, 10],
        idle: Some(IdlePlan { open: 300, busy: 5 }),
        record_bytes: vec![64, 64 << 10],
        backlog_records: vec![0, 2_500],
        queues: vec![1, 3],
        ..GrowthPlan::new(program::forebay()).with_round(Duration::from_millis(300))
    }
}

/// Every point has its rounds, and every round its figures.
fn check_points(points: &[&Point], at: &[u64]) {
    assert_eq!(points.iter().map(|point| point.at).collect::<Vec<_>>(), at);
    for point in points {
        assert_eq!(point.rounds.len(), ROUNDS, "{point:?}");
        assert!(point.rounds.iter().all(|round| round.requests > 0), "{point:?}");
        assert!(point.requests_per_second > 0.0, "{point:?}");
        assert!(point.p50_ms > 0.0 && point.p99_ms >= point.p50_ms, "{point:?}");
        assert!(point.rss_bytes > 0 && point.rss_peak_bytes >= point.rss_bytes, "{point:?}");
        assert!(point.disk_bytes > 0, "{point:?}");
    }
    // The kernel counts in hundredths of a second, of which a single round on a busy machine may have none.
    let cpu_seconds: f64 = points.iter().flat_map(|point| &point.rounds).map(|round| round.cpu_seconds).sum();
    assert!(cpu_seconds > 0.0 && points.iter().any(|point| point.cpu_share > 0.0), "{points:?}");
}

fn check_backlog(growth: &Growth) {
    let [empty, filled] = &growth.backlog[..] else { panic!("{growth:?}") };
    assert!(empty.filled_per_second.is_none() && filled.filled_per_second.unwrap() > 0.0, "{growth:?}");
    for level in [empty, filled] {
        assert_eq!(level.ready_seconds.len(), ROUNDS);
        assert!(level.median_ready_seconds > 0.0, "{level:?}");
        assert!(level.filled_rss_peak_bytes >= level.filled_rss_bytes && level.filled_rss_bytes > 0, "{level:?}");
        // What was acknowledged is there, but for what a drain of one an hour delivers after each of two starts.
        let acknowledged = level.point.at + level.point.rounds.iter().map(|round| round.requests).sum::<u64>();
        assert!(level.backlog_end_records + 2 >= acknowledged, "{level:?}");
    }
    assert!(filled.filled_disk_bytes >= 2_500_000, "{filled:?}");
}

fn check_page(growth: &Growth) {
    let machine = Machine::from_proc();
    let sections = growth.sections();
    let document = Document {
        title: "Growth",
        summary: "",
        command_line: "growth",
        machine: &machine,
        sections: sections.clone(),
    };
    let page = document.to_html().unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    // Four of each axis, and two more of the backlog.
    assert_eq!(page.matches("<svg").count(), 4 * 4 + 2);
    let tables: Vec<_> = sections.iter().filter_map(|section| section.table.as_ref()).collect();
    assert_eq!(tables.len(), 4 + 2);
    assert!(tables.iter().all(|table| table.rows.len() == 2));
    assert!(tables.iter().all(|table| table.rows.iter().all(|row| row.len() == table.head.len())));
    let text = growth.to_text();
    for name in ["Connections", "Idle connections", "Record size", "64 KiB", "Backlog: start", "2,500", "Queues"] {
        assert!(page.contains(name) && text.contains(name), "{name} in {text}");
    }
}

#[test]
fn every_axis_has_its_points_with_memory_and_cpu() {
    let (mut rounds, mut filled, mut ready, mut idle) = (Vec::new(), Vec::new(), 0, 0);
    let growth = measure(&tiny_plan(), |event| match event {
        Event::Round { point, .. } => rounds.push(point.to_owned()),
        Event::Filled { records, of } => filled.push((records, of)),
        Event::Ready { .. } => ready += 1,
        Event::Idle { connections } => idle += connections,
    });
    let growth = growth.unwrap_or_else(|error| panic!("{error}"));
    let names =
        ["connections 1", "connections 10", "5 alone", "5 of 300 busy", "record size 64 B", "record size 64 KiB"];
    assert_eq!(rounds, [&names[..], &["backlog 0", "backlog 2,500", "queues 1", "queues 3"]].concat());
    assert_eq!((filled, ready, idle), (vec![(2_500, 2_500)], 2, 295));
    check_points(&growth.points(Axis::Connections), &[1, 10]);
    check_points(&growth.points(Axis::RecordSize), &[64, 64 << 10]);
    check_points(&growth.points(Axis::Backlog), &[0, 2_500]);
    check_points(&growth.points(Axis::Queues), &[1, 3]);
    let among = growth.idle.as_ref().unwrap();
    check_points(&[&among.alone, &among.among_idle], &[5, 300]);
    assert!(among.ratio.of_medians > 0.0 && among.ratio.min <= among.ratio.max);
    check_backlog(&growth);
    check_page(&growth);
    let json = serde_json::to_value(&growth).unwrap();
    assert_eq!(json["backlog"][1]["at"], 2_500);
    assert!(json["queues"][1]["rounds"][0]["latency"]["p99_ms"].is_number(), "{json}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is() {
    let none = |_: Event<'_>| panic!("nothing should be measured");
    let plan = GrowthPlan { connections: vec![usize::MAX / 2], idle: None, ..tiny_plan() };
    let refused = measure(&plan, none).unwrap_err();
    assert!(matches!(refused, GrowthError::OpenFiles { .. }) && refused.to_string().contains("ulimit -n"), "{refused}");
    let refused = measure(&tiny_plan().with_backlog_max(u64::MAX), none).unwrap_err();
    assert!(matches!(refused, GrowthError::DiskSpace { axis: Axis::Backlog, .. }), "{refused}");
    let refused = measure(&GrowthPlan { forebay: "/nonexistent/forebay".into(), ..tiny_plan() }, none).unwrap_err();
    assert!(matches!(refused, GrowthError::Peer(PeerError::Missing { .. })), "{refused}");
}
