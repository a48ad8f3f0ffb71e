//! Many open connections of which few are busy.

use super::axes::ORDERS;
use super::figures::IdleComparison;
use super::station::{Station, Workload};
use super::{Event, GrowthError, GrowthPlan, IdlePlan};
use crate::compare::Ratio;
use crate::peer::Forebay;
use crate::results::grouped;

/// Loads two forebays in turns, of which only the second has the idle connections. That they are served before and
/// after the rounds shows that all were open in between.
pub fn compare(
    plan: &GrowthPlan,
    idle: IdlePlan,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<IdleComparison, GrowthError> {
    let IdlePlan { open, busy } = idle;
    let start = |point: String| {
        let configuration = plan.configuration();
        let server = Forebay::start(&configuration, &plan.start_options())?;
        let workload = Workload { point, payload: ORDERS, connections: busy, queues: configuration.queues };
        Station::start(server, plan, workload)
    };
    let mut alone = start(format!("{} alone", grouped(busy as u64)))?;
    let mut among_idle = start(format!("{} of {} busy", grouped(busy as u64), grouped(open as u64)))?;
    let mut connections = among_idle.open_idle(open.saturating_sub(busy))?;
    on_event(Event::Idle { connections: connections.len() });
    for _ in 0..plan.rounds {
        for station in [&mut alone, &mut among_idle] {
            // It has rested while the other one was measured, which its caches show for a while.
            station.warm_up(plan)?;
            station.round(plan.round, on_event)?;
        }
    }
    among_idle.check_idle(&mut connections)?;
    let (alone, among_idle) = (alone.into_point(busy as u64)?, among_idle.into_point(open as u64)?);
    let ratio = Ratio::of(&among_idle.rates(), &alone.rates());
    Ok(IdleComparison { alone, among_idle, ratio })
}
