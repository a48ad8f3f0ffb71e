//! What of a processor a drain takes at a fixed rate.

use super::{BulkError, BulkPlan, Server, destination, failed, fill, io_error, wait_for_backlog};
use crate::peer::ServerProcess;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// What stays in the backlog behind a measurement, and what is delivered before it, in seconds of the rate.
const MARGIN_SECONDS: u64 = 3;
/// A thread of each executor has this before its number.
const INGRESS: &str = "ingress-";

/// Processor time of a drain at a fixed rate, in per cent of one core.
#[derive(Clone, Debug, Serialize)]
pub struct CpuFigures {
    /// What was measured.
    pub what: &'static str,
    /// Records delivered in each second.
    pub delivered_per_second: f64,
    /// How long that was, in seconds.
    pub seconds: f64,
    /// Forebay's threads by their names, and `others` for those that are not named here.
    pub threads_percent: BTreeMap<&'static str, f64>,
    /// Forebay's process.
    pub forebay_percent: f64,
    /// The process of the sink's server, if this program has started it.
    pub server_percent: Option<f64>,
}

impl fmt::Display for CpuFigures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, delivered_per_second, seconds, .. } = self;
        writeln!(formatter, "{what}, {delivered_per_second:.0} records/s for {seconds:.0} s, in per cent of a core:")?;
        let sums = [("forebay", Some(self.forebay_percent)), ("server", self.server_percent)];
        let sums = sums.into_iter().filter_map(|(name, percent)| Some((name, percent?)));
        for (name, percent) in self.threads_percent.iter().map(|(name, percent)| (*name, *percent)).chain(sums) {
            writeln!(formatter, "  {name:<10} {percent:>6.1}")?;
        }
        Ok(())
    }
}

/// Fills a journal, lets it drain into `sink` at `rate_per_second`, and reads the processor time of `duration` of that.
/// Meanwhile nothing comes in. Blocks.
///
/// # Errors
/// As for [`compare_bulk`](super::compare_bulk), or the sink does not take as much.
pub fn measure_cpu(
    plan: &BulkPlan,
    sink: &str,
    rate_per_second: u64,
    duration: Duration,
) -> Result<CpuFigures, BulkError> {
    let margin = rate_per_second * MARGIN_SECONDS;
    let records = rate_per_second * duration.as_secs().saturating_add(1) + 2 * margin;
    let plan = BulkPlan { records, ..plan.clone() };
    let mut destination = destination::open(&plan, sink)?;
    fill(&plan)?;
    destination.empty()?;
    let server = Server::start_draining(&plan, &plan.filled(), &format!("{rate_per_second}/s"), destination.as_ref())?;
    let (backlog, began) = wait_for_backlog(&server, records, |backlog| backlog < records - margin)?;
    let forebay = server.process().ok_or_else(|| failed("its process has ended".to_owned()))?;
    let before = Taken::by(forebay, destination.process())?;
    thread::sleep(duration);
    let after = Taken::by(forebay, destination.process())?;
    let (left, ended) = wait_for_backlog(&server, backlog, |_| true)?;
    if left == 0 || server.dead_letters() != Some(0) {
        return Err(failed("it had nothing left to deliver, or the sink has refused records".to_owned()));
    }
    let figures = after.since(&before, destination.names().0, (backlog - left) as f64, ended.duration_since(began));
    drop(server);
    destination.remove()?;
    Ok(figures)
}

/// Processor time so far, in seconds.
struct Taken {
    at: Instant,
    threads: BTreeMap<&'static str, f64>,
    forebay: f64,
    server: Option<f64>,
}

impl Taken {
    fn by(forebay: ServerProcess, server: Option<ServerProcess>) -> Result<Self, BulkError> {
        let unreadable = || io_error("cannot read processor time");
        let total = |process: ServerProcess| process.usage().map(|usage| usage.cpu_seconds).map_err(unreadable());
        let mut threads = BTreeMap::from(["drain", "ingress", "journal"].map(|name| (name, 0.0)));
        for (name, seconds) in forebay.thread_cpu_seconds().map_err(unreadable())? {
            let name = if name.starts_with(INGRESS) { "ingress" } else { &name };
            if let Some(sum) = threads.get_mut(name) {
                *sum += seconds;
            }
        }
        Ok(Self { at: Instant::now(), threads, forebay: total(forebay)?, server: server.map(total).transpose()? })
    }

    fn since(&self, before: &Self, what: &'static str, delivered: f64, took: Duration) -> CpuFigures {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let percent = |after: f64, before: f64| (after - before) / seconds * 100.0;
        let forebay_percent = percent(self.forebay, before.forebay);
        let of_thread = |(name, after): (&&'static str, &f64)| (*name, percent(*after, before.threads[name]));
        let mut threads_percent: BTreeMap<_, _> = self.threads.iter().map(of_thread).collect();
        // Threads that have ended count too, of which only the process knows.
        threads_percent.insert("others", (forebay_percent - threads_percent.values().sum::<f64>()).max(0.0));
        CpuFigures {
            what,
            delivered_per_second: delivered / took.as_secs_f64(),
            seconds,
            threads_percent,
            forebay_percent,
            server_percent: self.server.zip(before.server).map(|(after, before)| percent(after, before)),
        }
    }
}
