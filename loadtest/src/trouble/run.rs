//! One run: alone, with forebay, in trouble, well again.

use super::competing::{Cause, Competing};
use super::probe::{self, Probe, Trips};
use super::{Phase, Sample, TroubleError, TroublePlan, TroubleRun, client_error};
use crate::engine::{self, Load, Plan, Progress, latency_histogram, whole_us};
use crate::pace::fill;
use crate::peer::{Forebay, ForebayConfiguration};
use crate::results::LatencyFigures;
use crate::schedule::Schedule;
use crate::verify::{self, OrdersTable, Sink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const QUEUE: &str = "orders";
const TABLE: &str = "troubled";
const SAMPLE_PERIOD: Duration = Duration::from_millis(100);
/// The backlog that forebay begins with, in seconds of its rate: what drains is then never short of records.
const BACKLOG_SECONDS: u32 = 5;
const CONNECTIONS: usize = 32;
const BUCKET_US: i64 = 100_000;

/// The moments of a run, from its beginning on.
struct Times {
    began: Instant,
    began_unix_us: i64,
    /// Where phases begin, and the end of the last one.
    marks: Vec<Duration>,
}

impl Times {
    fn mark(&mut self) {
        self.marks.push(self.began.elapsed());
    }
}

pub fn run(plan: &TroublePlan, url: &str, cause: Cause, mode: Option<&str>) -> Result<TroubleRun, TroubleError> {
    let (sink, table) = (Sink::Postgres(url.to_owned()), OrdersTable::new(TABLE)?);
    verify::execute(url, &format!("DROP TABLE IF EXISTS {TABLE}"))?;
    verify::create_orders_table(&sink, &table)?;
    probe::sell_from(url, TABLE)?;
    // What the runs before have left to be written should not be written during this one.
    verify::execute(url, "CHECKPOINT")?;
    let forebay = mode.map(|mode| start(plan, url, mode)).transpose()?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let began_unix_us = i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX);
    let mut times = Times { began: Instant::now(), began_unix_us, marks: vec![Duration::ZERO] };
    let probe = Probe::start(url.to_owned(), times.began)?;
    thread::sleep(plan.before);
    times.mark();
    let samples = if let Some(forebay) = &forebay {
        beside(plan, forebay, &mut times, |times| trouble(plan, url, cause, times))?
    } else {
        trouble(plan, url, cause, &mut times)?;
        Vec::new()
    };
    let trips = probe.finish()?;
    drop(forebay);
    let stamps_us = verify::stamps_us(&sink, &table)?;
    summed(cause, mode, &times, &trips, samples, &stamps_us)
}

fn start(plan: &TroublePlan, url: &str, mode: &str) -> Result<Forebay, TroubleError> {
    let columns = "columns = { order_id = \"/order_id\", body = \"$body\", ticket = \"$ticket\" }";
    let configuration = ForebayConfiguration {
        rate: format!("{}/s", plan.rate_per_second),
        adaptive: Some(format!("mode = {mode:?}, share_min_percent = {}", plan.share_min_percent)),
        sink: Some(format!("type = \"postgres\"\nurl = {url:?}\ntable = \"{TABLE}\"\n{columns}\n")),
        ..ForebayConfiguration::default()
    };
    Ok(Forebay::start(&configuration, &plan.start_options())?)
}

/// The time before the trouble, the trouble, and the time after it.
fn trouble(plan: &TroublePlan, url: &str, cause: Cause, times: &mut Times) -> Result<(), TroubleError> {
    thread::sleep(plan.before);
    times.mark();
    let competing = Competing::start(cause, url.to_owned())?;
    thread::sleep(plan.trouble);
    competing.finish()?;
    times.mark();
    thread::sleep(plan.after);
    times.mark();
    Ok(())
}

/// Does something while clients send at the rate, on top of a backlog; returns what forebay said of itself meanwhile.
fn beside(
    plan: &TroublePlan,
    forebay: &Forebay,
    times: &mut Times,
    work: impl FnOnce(&mut Times) -> Result<(), TroubleError>,
) -> Result<Vec<Sample>, TroubleError> {
    fill(forebay, u64::from(plan.rate_per_second) * u64::from(BACKLOG_SECONDS))?;
    let seconds = (plan.before + plan.trouble + plan.after).as_secs() + 60;
    let schedule = Schedule::constant(u64::from(plan.rate_per_second) * seconds, plan.rate_per_second.into());
    let schedule = schedule.map_err(|error| TroubleError::Client { client: "load", reason: error.to_string() })?;
    let mut load = Plan::new(&forebay.url(QUEUE), Load::Open(schedule))?;
    load.connections = CONNECTIONS;
    let progress = Arc::new(Progress::new());
    let (ended, began) = (AtomicBool::new(false), times.began);
    thread::scope(|scope| {
        let loading = scope.spawn(|| engine::run(&load, &progress));
        let sampling = scope.spawn(|| {
            let mut samples = Vec::new();
            while !ended.load(Relaxed) {
                samples.push(sample(forebay, began)?);
                thread::sleep(SAMPLE_PERIOD);
            }
            Ok::<_, TroubleError>(samples)
        });
        let worked = work(times);
        ended.store(true, Relaxed);
        progress.cancel();
        let panicked = || client_error("load")(std::io::Error::other("it panicked"));
        let loaded = loading.join().map_err(|_| panicked())?;
        let samples = sampling.join().map_err(|_| panicked())?;
        worked?;
        loaded?;
        samples
    })
}

fn sample(forebay: &Forebay, began: Instant) -> Result<Sample, TroubleError> {
    Ok(Sample {
        at_seconds: began.elapsed().as_secs_f64(),
        rate_limit: forebay.queue_rate("drain_rate_limit", QUEUE)?,
        ceiling: forebay.queue_rate("drain_ceiling", QUEUE)?,
        backlog_records: forebay.queue_metric("backlog_records", QUEUE)?,
    })
}

fn summed(
    cause: Cause,
    mode: Option<&str>,
    times: &Times,
    trips: &Trips,
    samples: Vec<Sample>,
    stamps_us: &[i64],
) -> Result<TroubleRun, TroubleError> {
    let arrived: Vec<Duration> = stamps_us
        .iter()
        .map(|stamp| Duration::from_micros(stamp.saturating_sub(times.began_unix_us).max(0).unsigned_abs()))
        .collect();
    let names = ["alone", "before", "during", "after"];
    let mut phases = Vec::with_capacity(names.len());
    for (name, marks) in names.into_iter().zip(times.marks.windows(2)) {
        let [from, to] = [marks[0], marks[1]];
        let mut probe_us = latency_histogram().map_err(engine::EngineError::from)?;
        for (_, took) in trips.iter().filter(|(due, _)| (from..to).contains(due)) {
            probe_us.saturating_record(whole_us(*took));
        }
        let rows = arrived.iter().filter(|at| (from..to).contains(*at)).count();
        let last = samples.iter().rfind(|sample| sample.at_seconds <= to.as_secs_f64());
        phases.push(Phase {
            name,
            from_seconds: from.as_secs_f64(),
            to_seconds: to.as_secs_f64(),
            probe: LatencyFigures::from_us(&probe_us),
            arrivals_per_second: rows as f64 / to.saturating_sub(from).as_secs_f64(),
            backlog_end_records: last.map_or(0, |sample| sample.backlog_records),
        });
    }
    let second = |mark: usize| times.marks.get(mark).map_or(0.0, Duration::as_secs_f64);
    let (trouble, over) = (second(2), second(3));
    let is_back = |sample: &&Sample| sample.at_seconds >= over && sample.rate_limit >= sample.ceiling;
    Ok(TroubleRun {
        cause,
        mode: mode.map(str::to_owned),
        phases,
        rate_limit_min: samples.iter().filter(|s| s.at_seconds >= trouble).map(|s| s.rate_limit).reduce(f64::min),
        back_seconds: samples.iter().find(is_back).map(|sample| sample.at_seconds - over),
        probes: trips.iter().map(|(due, took)| (due.as_secs_f64(), took.as_secs_f64() * 1000.0)).collect(),
        arrivals_per_100ms: per_100ms(stamps_us, times.began_unix_us, second(4)),
        samples,
    })
}

fn per_100ms(stamps_us: &[i64], began_unix_us: i64, seconds: f64) -> Vec<u64> {
    let mut counts = vec![0; Duration::from_secs_f64(seconds).as_millis().div_ceil(100).try_into().unwrap_or(0)];
    for stamp in stamps_us {
        let bucket = usize::try_from((stamp - began_unix_us) / BUCKET_US).unwrap_or(usize::MAX);
        if let Some(count) = counts.get_mut(bucket) {
            *count += 1;
        }
    }
    counts
}
