//! The axis of the backlog: how a forebay does with many records that are not delivered, and how soon it is back.

use super::axes::{RECORD_SIZE_CONNECTIONS, record};
use super::figures::BacklogPoint;
use super::room::disk_bytes;
use super::station::{Station, Workload, acknowledged, engine_error, process};
use super::{Axis, Event, GrowthError, GrowthPlan, io_error};
use crate::engine::{self, Load, Payload, Plan, Progress};
use crate::peer::Forebay;
use crate::results::median;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of a record, in the backlog and in the rounds.
pub const RECORD_BYTES: usize = 1_000;
/// Records of one request that fills.
const BATCH_RECORDS: u64 = 1_000;
const FILLING_CONNECTIONS: usize = 8;
/// Records after which it is told how far the filling is.
const TOLD_RECORDS: u64 = 1_000_000;
const QUEUE: &str = "orders";

pub fn measure(plan: &GrowthPlan, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Vec<BacklogPoint>, GrowthError> {
    plan.backlog_records.iter().map(|records| level(plan, *records, on_event)).collect()
}

/// Each level begins with an empty directory, since the rounds of the one before have added to its backlog.
fn level(plan: &GrowthPlan, records: u64, on_event: &mut dyn FnMut(Event<'_>)) -> Result<BacklogPoint, GrowthError> {
    let point = Axis::Backlog.point(records);
    let mut server = Forebay::start(&plan.configuration(), &plan.start_options())?;
    let filled_per_second = fill(&server, records, on_event)?;
    let usage = process(&server, &point)?.usage();
    let filled = usage.map_err(io_error(format!("{point}: the forebay's process")))?;
    let filled_disk_bytes = disk_bytes(&server.data_directory())?;
    let mut ready_seconds = Vec::with_capacity(plan.rounds);
    for _ in 0..plan.rounds {
        let (restarted, took) = server.kill_and_restart()?;
        server = restarted;
        let held = server.queue_metric("durable_sequence", QUEUE)?;
        if held < records {
            return Err(GrowthError::Lost { acknowledged: records, held });
        }
        ready_seconds.push(took.as_secs_f64());
        on_event(Event::Ready { backlog_records: records, seconds: took.as_secs_f64() });
    }
    let workload = Workload {
        point,
        payload: Payload::Fixed(record(RECORD_BYTES).into()),
        connections: RECORD_SIZE_CONNECTIONS,
        queues: vec![QUEUE.to_owned()],
    };
    let mut station = Station::start(server, plan, workload)?;
    station.rounds(plan, on_event)?;
    let backlog_end_records = station.server().queue_metric("backlog_records", QUEUE)?;
    Ok(BacklogPoint {
        point: station.into_point(records)?,
        backlog_end_records,
        filled_per_second,
        filled_rss_bytes: filled.rss_bytes,
        filled_rss_peak_bytes: filled.rss_peak_bytes,
        filled_disk_bytes,
        median_ready_seconds: median(&ready_seconds),
        ready_seconds,
    })
}

/// Sends so many records, in large batches; returns how many were acknowledged in a second.
fn fill(server: &Forebay, records: u64, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Option<f64>, GrowthError> {
    let started = Instant::now();
    let mut filled = 0;
    while filled < records {
        let part = TOLD_RECORDS.min(records - filled);
        send(server, BATCH_RECORDS, part / BATCH_RECORDS)?;
        send(server, part % BATCH_RECORDS, 1)?;
        filled += part;
        on_event(Event::Filled { records: filled, of: records });
    }
    Ok((records > 0).then(|| records as f64 / started.elapsed().as_secs_f64()))
}

/// Sends so many requests of so many records each.
fn send(server: &Forebay, batch_records: u64, requests: u64) -> Result<(), GrowthError> {
    if batch_records == 0 || requests == 0 {
        return Ok(());
    }
    let point = "filling the backlog";
    let load = Load::Closed { records: Some(requests), duration: None };
    let mut plan = Plan::new(&server.url(QUEUE), load).map_err(engine_error(point))?;
    let line = [&record(RECORD_BYTES)[..], b"\n"].concat();
    plan.payload = Payload::Fixed((0..batch_records).flat_map(|_| line.iter().copied()).collect());
    "application/x-ndjson".clone_into(&mut plan.content_type);
    plan.connections = FILLING_CONNECTIONS;
    let outcome = engine::run(&plan, &Arc::new(Progress::new())).map_err(engine_error(point))?;
    acknowledged(outcome, server, point).map(drop)
}
