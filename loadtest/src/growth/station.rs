//! One forebay under one load.

use super::figures::{Point, Round};
use super::room::disk_bytes;
use super::{Event, GrowthError, GrowthPlan, io_error};
use crate::engine::{Connections, EngineError, Load, Outcome, Payload, Plan, Progress, run_over};
use crate::peer::{Forebay, ServerProcess, Usage};
use crate::report::Machine;
use crate::results::LatencyFigures;
use crate::wire::Measured;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PER_MILLION: f64 = 1e6;

/// The load of a point.
pub struct Workload {
    /// The point's name.
    pub point: String,
    pub payload: Payload,
    pub connections: usize,
    /// The queues that take the requests in turns.
    pub queues: Vec<String>,
}

/// A forebay, its process, and connections that stay open from round to round.
pub struct Station {
    server: Forebay,
    process: ServerProcess,
    point: String,
    plan: Plan,
    connections: Connections,
    rounds: Vec<Round>,
}

impl Station {
    /// Opens the connections, has a request acknowledged on each, and warms the forebay up.
    pub fn start(server: Forebay, plan: &GrowthPlan, workload: Workload) -> Result<Self, GrowthError> {
        let Workload { point, payload, connections, queues } = workload;
        let url = server.url(queues.first().map_or("", String::as_str));
        let failed = engine_error(&point);
        let mut load = Plan::new(&url, Load::Closed { records: None, duration: None }).map_err(&failed)?;
        load.payload = payload;
        load.connections = connections;
        load.threads = plan.threads;
        load.pinned = true;
        load.paths = queues.iter().map(|queue| Forebay::records_path(queue)).collect();
        let opened = Connections::open(&load).map_err(&failed)?;
        let process = process(&server, &point)?;
        let rounds = Vec::with_capacity(plan.rounds);
        let mut station = Self { server, process, point, plan: load, connections: opened, rounds };
        station.warm_up(plan)?;
        Ok(station)
    }

    /// Loads the forebay without measuring.
    pub fn warm_up(&mut self, plan: &GrowthPlan) -> Result<(), GrowthError> {
        self.load(plan.warm_up).map(drop)
    }

    /// Opens connections beside those that are loaded; each has a request acknowledged.
    pub fn open_idle(&self, count: usize) -> Result<Connections, GrowthError> {
        let plan = Plan { connections: count, ..self.plan.clone() };
        Connections::open(&plan).map_err(engine_error(&self.point))
    }

    /// Has one more request acknowledged on each of those connections.
    pub fn check_idle(&self, connections: &mut Connections) -> Result<(), GrowthError> {
        connections.ask_each(&self.plan).map_err(engine_error(&self.point))
    }

    /// Measures one round.
    pub fn round(&mut self, duration: Duration, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), GrowthError> {
        let before = self.usage()?;
        let started = Instant::now();
        let measured = self.load(duration)?;
        let seconds = started.elapsed().as_secs_f64();
        let after = self.usage()?;
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        let round = Round {
            requests: measured.acknowledged,
            requests_per_second: measured.per_second(),
            latency: LatencyFigures::from_us(&measured.latency_us),
            cpu_seconds,
            cpu_seconds_per_million_requests: cpu_seconds * PER_MILLION / measured.acknowledged as f64,
            cpu_share: cpu_seconds / (seconds * Machine::from_proc().cores.max(1) as f64),
            rss_bytes: after.rss_bytes,
            rss_peak_bytes: after.rss_peak_bytes,
        };
        on_event(Event::Round { point: &self.point, number: self.rounds.len() + 1, round: &round });
        self.rounds.push(round);
        Ok(())
    }

    /// Measures all rounds of a plan.
    pub fn rounds(&mut self, plan: &GrowthPlan, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), GrowthError> {
        (0..plan.rounds).try_for_each(|_| self.round(plan.round, on_event))
    }

    pub fn server(&self) -> &Forebay {
        &self.server
    }

    /// Ends the forebay and sums up what it did.
    pub fn into_point(self, at: u64) -> Result<Point, GrowthError> {
        let disk_bytes = disk_bytes(&self.server.data_directory())?;
        Ok(Point::new(at, self.plan.connections, self.rounds, disk_bytes))
    }

    fn usage(&self) -> Result<Usage, GrowthError> {
        self.process.usage().map_err(io_error(format!("{}: the forebay's process", self.point)))
    }

    fn load(&mut self, duration: Duration) -> Result<Measured, GrowthError> {
        self.plan.load = Load::Closed { records: None, duration: Some(duration) };
        let outcome = run_over(&self.plan, &mut self.connections, &Arc::new(Progress::new()));
        acknowledged(outcome.map_err(engine_error(&self.point))?, &self.server, &self.point)
    }
}

/// The forebay's own process.
pub fn process(server: &Forebay, point: &str) -> Result<ServerProcess, GrowthError> {
    server.peer().process().ok_or_else(|| GrowthError::NoProcess { point: point.to_owned() })
}

/// What was measured, unless anything was not acknowledged.
pub fn acknowledged(outcome: Outcome, server: &Forebay, point: &str) -> Result<Measured, GrowthError> {
    let measured = Measured::from(outcome);
    match measured.complaint() {
        None => Ok(measured),
        Some(reason) => Err(GrowthError::BadRound { point: point.to_owned(), reason, log: server.peer().log_tail() }),
    }
}

/// Says which point a load was for.
pub fn engine_error(point: &str) -> impl Fn(EngineError) -> GrowthError + use<> {
    let point = point.to_owned();
    move |error| GrowthError::Engine { point: point.clone(), error }
}
