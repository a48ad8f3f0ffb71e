//! The axes whose points differ in nothing but the load and a few settings.

use super::figures::Point;
use super::station::{Station, Workload};
use super::{Axis, Event, GrowthError, GrowthPlan};
use crate::engine::Payload;
use crate::peer::{Forebay, ForebayConfiguration};

/// Connections that load records of each size.
pub const RECORD_SIZE_CONNECTIONS: usize = 64;
/// Connections that load the queues.
pub const QUEUES_CONNECTIONS: usize = 100;
/// Flash-sale orders, as in a comparison with other servers.
pub const ORDERS: Payload = Payload::Orders { seed: 1 };
/// Forebay's own defaults, below which nothing is set.
const RING_BYTES: u64 = 16 << 20;
const BODY_BYTES_IN_FLIGHT_MAX: u64 = 64 << 20;
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// More than what stands before a record in the ring.
const RECORD_HEADER_BYTES: u64 = 512;

pub fn connections(plan: &GrowthPlan, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Vec<Point>, GrowthError> {
    let point = |connections: &usize| {
        let workload = Workload {
            point: Axis::Connections.point(*connections as u64),
            payload: ORDERS,
            connections: *connections,
            queues: plan.configuration().queues,
        };
        measure(plan, &plan.configuration(), workload, *connections as u64, on_event)
    };
    plan.connections.iter().map(point).collect()
}

pub fn record_size(plan: &GrowthPlan, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Vec<Point>, GrowthError> {
    let point = |record_bytes: &usize| {
        // The ring has to hold what comes during a commit, which may be all that is in flight.
        let in_flight_bytes = (*record_bytes as u64 + RECORD_HEADER_BYTES) * RECORD_SIZE_CONNECTIONS as u64;
        let configuration = ForebayConfiguration {
            record_bytes_max: Some(RECORD_BYTES_MAX.max(*record_bytes as u64)),
            ring_bytes: Some(RING_BYTES.max(in_flight_bytes)),
            body_bytes_in_flight_max: Some(BODY_BYTES_IN_FLIGHT_MAX.max(in_flight_bytes)),
            ..plan.configuration()
        };
        let workload = Workload {
            point: Axis::RecordSize.point(*record_bytes as u64),
            payload: Payload::Fixed(record(*record_bytes).into()),
            connections: RECORD_SIZE_CONNECTIONS,
            queues: configuration.queues.clone(),
        };
        measure(plan, &configuration, workload, *record_bytes as u64, on_event)
    };
    plan.record_bytes.iter().map(point).collect()
}

pub fn queues(plan: &GrowthPlan, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Vec<Point>, GrowthError> {
    let point = |count: &usize| {
        let queues: Vec<String> = (1..=*count).map(|number| format!("orders-{number}")).collect();
        let configuration = ForebayConfiguration { queues: queues.clone(), ..plan.configuration() };
        let workload = Workload {
            point: Axis::Queues.point(*count as u64),
            payload: ORDERS,
            connections: QUEUES_CONNECTIONS,
            queues,
        };
        measure(plan, &configuration, workload, *count as u64, on_event)
    };
    plan.queues.iter().map(point).collect()
}

fn measure(
    plan: &GrowthPlan,
    configuration: &ForebayConfiguration,
    workload: Workload,
    at: u64,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Point, GrowthError> {
    let server = Forebay::start(configuration, &plan.start_options())?;
    let mut station = Station::start(server, plan, workload)?;
    station.rounds(plan, on_event)?;
    station.into_point(at)
}

/// A JSON string of exactly so many bytes, if that is at least two.
pub fn record(record_bytes: usize) -> Vec<u8> {
    let mut record = vec![b'x'; record_bytes];
    if let [first, .., last] = &mut record[..] {
        (*first, *last) = (b'"', b'"');
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_json_of_their_size() {
        for record_bytes in [2, 64, 1 << 20] {
            let record = record(record_bytes);
            assert_eq!(record.len(), record_bytes);
            assert!(serde_json::from_slice::<String>(&record).is_ok());
        }
    }
}
