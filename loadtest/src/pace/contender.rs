//! What limits a rate, and how its arrivals are seen.

use super::endpoint::Endpoint;
use super::{CATCH_UP_MS, PaceError, PacePlan, Stage, TOLERANCE_MS, governed, io_error, records_in};
use crate::engine::{self, Load, Outcome, Payload, Plan, Progress, RetryPolicy};
use crate::order::{RunId, write_order};
use crate::peer::{
    Forebay, ForebayConfiguration, PeerError, RunningPeer, StartOptions, start_limiting_haproxy, start_limiting_nginx,
};
use crate::verify::{self, OrdersTable, Sink};
use crate::wire::Wire;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const QUEUE: &str = "orders";
const TABLE: &str = "paced";
const COLUMNS: &str = "columns = { order_id = \"/order_id\", body = \"$body\", ticket = \"$ticket\" }";
/// Far more than any run fills.
const BACKLOG_BYTES_MAX: u64 = 1 << 40;
const FILLING_CONNECTIONS: usize = 4;
const FILLING_RECORDS: u64 = 1_000;
/// How soon a client that was refused repeats: as eager as clients of a sale are, and no more than half the machine.
const REPEAT: RetryPolicy = RetryPolicy {
    attempts_max: None,
    deadline_ms: 600_000,
    backoff_first_ms: 1,
    backoff_max_ms: 20,
    retry_after_max_ms: 20,
};

/// What takes turns.
pub const CONTENDERS: [Contender; 7] = [
    Contender {
        name: "forebay",
        about: "into PostgreSQL, from a pause on",
        kind: Kind::Forebay { is_postgres: true, burst_ms: None },
    },
    Contender {
        name: "forebay-50ms",
        about: "the same with a burst of 50 ms",
        kind: Kind::Forebay { is_postgres: true, burst_ms: Some(50) },
    },
    Contender {
        name: "forebay-sqlite",
        about: "into SQLite, from a pause on",
        kind: Kind::Forebay { is_postgres: false, burst_ms: None },
    },
    Contender {
        name: "nginx",
        about: "limit_req with delay; clients wait",
        kind: Kind::Proxy(start_limiting_nginx, None),
    },
    Contender {
        name: "haproxy",
        about: "a counter of the last second; 429 above it, and clients repeat after 1 to 20 ms",
        kind: Kind::Proxy(start_limiting_haproxy, Some(REPEAT)),
    },
    Contender {
        name: "governor",
        about: "a loop over until_ready, with the bucket that Quota::per_second makes",
        kind: Kind::Governor { has_small_bucket: false },
    },
    Contender {
        name: "governor-9ms",
        about: "the same with a bucket of 9 ms, which is forebay's tolerance",
        kind: Kind::Governor { has_small_bucket: true },
    },
];

type StartLimiting = fn(&StartOptions, u32, u16) -> Result<RunningPeer, PeerError>;

/// Something that limits a rate.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name on the command line.
    pub name: &'static str,
    /// How it is used here.
    pub about: &'static str,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Forebay { is_postgres: bool, burst_ms: Option<u32> },
    Proxy(StartLimiting, Option<RetryPolicy>),
    Governor { has_small_bucket: bool },
}

impl Contender {
    /// Finds one by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CONTENDERS.iter().find(|contender| contender.name == name).cloned()
    }

    pub(super) fn wants_database(&self) -> bool {
        matches!(self.kind, Kind::Forebay { is_postgres: true, .. })
    }

    /// The most records that a forebay releases in any second at a rate; `None` for what is no forebay.
    #[must_use]
    pub fn second_bound(&self, rate_per_second: u32) -> Option<u64> {
        let Kind::Forebay { burst_ms, .. } = self.kind else { return None };
        let above = match burst_ms {
            Some(ms) => records_in(rate_per_second, ms).max(1),
            // A hundredth of the second is what a stall is made good with.
            None => records_in(rate_per_second, TOLERANCE_MS + CATCH_UP_MS) + 1,
        };
        Some(u64::from(rate_per_second) + above)
    }

    /// Lets it limit a burst, and returns when each record arrived behind it, in nanoseconds.
    pub(super) fn run(&self, stage: &Stage<'_>) -> Result<Vec<u64>, PaceError> {
        let (arrived, outcome) = match &self.kind {
            Kind::Forebay { is_postgres, burst_ms } => forebay(stage, *is_postgres, *burst_ms)?,
            Kind::Proxy(start, repeat) => proxy(stage, *start, repeat.clone())?,
            Kind::Governor { has_small_bucket } => governor(stage, *has_small_bucket)?,
        };
        if arrived.is_empty() {
            return Err(PaceError::Nothing { contender: self.name, reason: outcome.first_failure });
        }
        Ok(arrived)
    }
}

/// Moments of arrivals at a server of our own.
struct Stamps {
    began: Instant,
    at_ns: Arc<Mutex<Vec<u64>>>,
}

impl Stamps {
    fn new() -> Self {
        Self { began: Instant::now(), at_ns: Arc::default() }
    }

    fn endpoint(&self) -> Result<Endpoint, PaceError> {
        let (began, at_ns) = (self.began, self.at_ns.clone());
        let stamp = move || {
            let at = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            at_ns.lock().unwrap_or_else(PoisonError::into_inner).push(at);
        };
        Endpoint::start(stamp).map_err(io_error("cannot start the sink"))
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.at_ns.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn proxy(
    stage: &Stage<'_>,
    start: StartLimiting,
    repeat: Option<RetryPolicy>,
) -> Result<(Vec<u64>, Outcome), PaceError> {
    let stamps = Stamps::new();
    let sink = stamps.endpoint()?;
    let peer = start(&stage.plan.start_options(), stage.rate_per_second, sink.port())?;
    let Wire::Http { url } = &peer.wire else { return Err(PaceError::Nothing { contender: peer.name, reason: None }) };
    let outcome = burst(stage.plan, url, repeat)?;
    Ok((stamps.take(), outcome))
}

fn governor(stage: &Stage<'_>, has_small_bucket: bool) -> Result<(Vec<u64>, Outcome), PaceError> {
    let stamps = Stamps::new();
    let sink = stamps.endpoint()?;
    let bucket = if has_small_bucket { governed::small_bucket(stage.rate_per_second) } else { stage.rate_per_second };
    let governed = governed::Governed::start(stage.rate_per_second, bucket, sink.port(), backlog_records(stage))?;
    let outcome = burst(stage.plan, &format!("http://127.0.0.1:{}/", governed.port()), None)?;
    Ok((stamps.take(), outcome))
}

fn forebay(stage: &Stage<'_>, is_postgres: bool, burst_ms: Option<u32>) -> Result<(Vec<u64>, Outcome), PaceError> {
    let table = OrdersTable::new(TABLE)?;
    let files = stage.plan.start_options().temporary_directory()?;
    let (sink, kind, url) = if let Some(database) = stage.database.filter(|_| is_postgres) {
        let url = database.wire.to_string();
        verify::execute(&url, &format!("DROP TABLE IF EXISTS {TABLE}"))?;
        // What the runs before have left to be written should not be written during this one.
        verify::execute(&url, "CHECKPOINT")?;
        (Sink::Postgres(url.clone()), "postgres", url)
    } else {
        let path = files.path().join("orders.db");
        (Sink::Sqlite(path.clone()), "sqlite", path.display().to_string())
    };
    verify::create_orders_table(&sink, &table)?;
    let configuration = ForebayConfiguration {
        rate: format!("{}/s", stage.rate_per_second),
        burst: burst_ms.map(|ms| records_in(stage.rate_per_second, ms).max(1)),
        sink: Some(format!("type = \"{kind}\"\nurl = {url:?}\ntable = \"{TABLE}\"\n{COLUMNS}\n")),
        max_backlog_bytes: Some(BACKLOG_BYTES_MAX),
        ..ForebayConfiguration::default()
    };
    let forebay = Forebay::start(&configuration, &stage.plan.start_options())?;
    forebay.pause(QUEUE)?;
    fill(&forebay, backlog_records(stage))?;
    forebay.resume(QUEUE)?;
    let outcome = burst(stage.plan, &forebay.url(QUEUE), None)?;
    drop(forebay);
    let at_us = verify::stamps_us(&sink, &table)?;
    Ok((at_us.into_iter().map(|us| us.unsigned_abs().saturating_mul(1000)).collect(), outcome))
}

/// What has to be there when the burst begins, so that the rate is the limit even if the front door is slow.
fn backlog_records(stage: &Stage<'_>) -> u64 {
    let milliseconds = u64::try_from(stage.plan.load_time().as_millis()).unwrap_or(u64::MAX);
    u64::from(stage.rate_per_second).saturating_mul(milliseconds).div_ceil(1000)
}

/// Sends records in large requests.
pub fn fill(forebay: &Forebay, records: u64) -> Result<(), PaceError> {
    let requests = records.div_ceil(FILLING_RECORDS);
    let mut plan = Plan::new(&forebay.url(QUEUE), Load::Closed { records: Some(requests), duration: None })?;
    let mut order = Vec::new();
    write_order(&RunId::random(), 1, 0, &mut order);
    order.push(b'\n');
    plan.payload = Payload::Fixed(order.repeat(usize::try_from(FILLING_RECORDS).unwrap_or(usize::MAX)).into());
    "application/x-ndjson".clone_into(&mut plan.content_type);
    plan.connections = FILLING_CONNECTIONS;
    let acknowledged = engine::run(&plan, &Arc::new(Progress::new()))?.acknowledged;
    if acknowledged < requests {
        return Err(PaceError::NotFilled { acknowledged: acknowledged * FILLING_RECORDS, wanted: records });
    }
    Ok(())
}

/// As many requests as are answered, for as long as a run takes.
fn burst(plan: &PacePlan, url: &str, repeat: Option<RetryPolicy>) -> Result<Outcome, PaceError> {
    let time = plan.load_time();
    let mut load = Plan::new(url, Load::Closed { records: None, duration: Some(time) })?;
    load.connections = plan.connections;
    load.retry = repeat;
    let progress = Arc::new(Progress::new());
    let watched = progress.clone();
    // Whoever still waits then would only be waited for.
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let watch = move || {
        if end.recv_timeout(time + Duration::from_secs(1)).is_err() {
            watched.cancel();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(watch);
        let outcome = engine::run(&load, &progress);
        drop(ended);
        Ok(outcome?)
    })
}
