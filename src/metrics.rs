//! Every metric by name, in one place.
//!
//! Nothing is counted here: the stages count on cache lines of their own, and a scrape
//! adds up what they have.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::ingress::counters::{Counters, latency_histogram};
use crate::ingress::http::problem::Problem;
use crate::queue::{DrainState, Health, JournalMarks, Mark, Outlet, Queue};
use crate::rate::Rate;

/// What a scrape reads.
pub struct Sources {
    /// All queues.
    pub queues: Arc<[Arc<Queue>]>,
    /// The counters of every executor.
    pub executors: Vec<Arc<Counters>>,
    /// What the process can do.
    pub health: Arc<Health>,
}

/// The metrics as Prometheus (OpenMetrics) text.
///
/// # Errors
///
/// Never in practice: writing into a string cannot fail.
pub fn text(sources: &Arc<Sources>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(sources))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Scrape(Arc<Sources>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

/// A metric with one value for each label.
fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl Iterator<Item = (L, M)>,
) -> fmt::Result {
    let mut values = values.peekable();
    let kind = values.peek().map_or(MetricType::Unknown, |(_, metric)| metric.metric_type());
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn single<M: EncodeMetric>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: &M) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
    value.encode(metric)
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.ingress(&mut encoder)?;
        self.latency(&mut encoder)?;
        self.queues(&mut encoder)?;
        self.sink_counters(&mut encoder)?;
        self.sink_gauges(&mut encoder)?;
        self.sink_rates(&mut encoder)?;
        let failed = u64::from(self.0.health.is_journal_failed());
        single(&mut encoder, "forebay_journal_failed", "1 after a failed write or sync", &ConstGauge::new(failed))?;
        let full = u64::from(self.0.health.is_disk_full());
        single(&mut encoder, "forebay_disk_full", "1 while no segment can be added", &ConstGauge::new(full))
    }
}

impl Scrape {
    fn sum(&self, pick: impl Fn(&Counters) -> u64) -> u64 {
        self.0.executors.iter().map(|counters| pick(counters)).sum()
    }

    fn ingress(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counter = |encoder: &mut _, name, help, value| single(encoder, name, help, &ConstCounter::new(value));
        counter(encoder, "forebay_requests_accepted", "Requests answered 202", self.sum(|c| c.accepted.get()))?;
        counter(encoder, "forebay_records_accepted", "Records in them", self.sum(|c| c.records.get()))?;
        counter(encoder, "forebay_body_bytes_accepted", "Bytes of their bodies", self.sum(|c| c.bytes.get()))?;
        counter(encoder, "forebay_ticket_requests", "Requests for a ticket's status", self.sum(|c| c.statuses.get()))?;
        let turned_away = self.sum(|c| c.turned_away.get());
        counter(encoder, "forebay_connections_turned_away", "Connections beyond connections_max", turned_away)?;
        let timed_out = self.sum(|c| c.timed_out.get());
        counter(encoder, "forebay_connections_timed_out", "Connections closed for being slow or silent", timed_out)?;
        let open = ConstGauge::new(self.sum(|c| c.connections.get()));
        single(encoder, "forebay_connections_open", "Open connections", &open)?;
        let wakeups = self.0.health.executor_wakeups.get();
        counter(encoder, "forebay_executor_wakeups", "Signals to executors that did not tick", wakeups)?;
        let refused = Problem::ALL.into_iter().map(|problem| {
            let count = self.sum(|c| c.refused[problem as usize].get());
            ([("reason", problem.name().to_owned())], ConstCounter::new(count))
        });
        family(encoder, ("forebay_requests_refused", "Requests refused, by reason"), refused)
    }

    fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut all = latency_histogram();
        for counters in &self.0.executors {
            // The bounds are the same, so adding cannot fail.
            let _ = all.add(counters.latency());
        }
        let quantiles = ["0.5", "0.9", "0.99", "0.999", "1"].into_iter().map(|quantile| {
            let us = all.value_at_quantile(quantile.parse().unwrap_or(1.0));
            ([("quantile", quantile.to_owned())], ConstGauge::new(us as f64 / 1e6))
        });
        let help = "Seconds from a request's last byte to its acknowledgement, since the start";
        family(encoder, ("forebay_ack_latency_seconds", help), quantiles)
    }

    fn per_queue<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        pick: impl Fn(&Queue) -> M,
    ) -> fmt::Result {
        let values = self.0.queues.iter().map(|queue| ([("queue", queue.name.clone())], pick(queue)));
        family(encoder, (name, help), values)
    }

    /// One value for each sink. The main one has no label for itself, so that a queue with one sink reads as ever.
    fn per_sink<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        pick: impl Fn(&Outlet, &JournalMarks) -> M,
    ) -> fmt::Result {
        let outlets = self.0.queues.iter().flat_map(|queue| queue.outlets().map(move |outlet| (queue, outlet)));
        let values = outlets.map(|(queue, outlet)| {
            let sink = outlet.name.iter().map(|name| ("sink", name.clone()));
            let labels = std::iter::once(("queue", queue.name.clone())).chain(sink).collect();
            (labels, pick(outlet, &queue.journal))
        });
        family::<Vec<_>, _>(encoder, (name, help), values)
    }

    fn queues(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut counter = |name, help, pick: fn(&JournalMarks) -> &Mark| {
            self.per_queue(encoder, name, help, |queue| ConstCounter::new(pick(&queue.journal).get()))
        };
        counter("forebay_requests_replayed", "Requests answered with an earlier ticket", |j| &j.replayed)?;
        counter("forebay_idempotency_keys_evicted", "Keys forgotten before their window ended", |j| &j.keys_evicted)?;
        let mut gauge = |name, help, pick: fn(&JournalMarks) -> &Mark| {
            self.per_queue(encoder, name, help, |queue| ConstGauge::new(pick(&queue.journal).get()))
        };
        gauge("forebay_appended_sequence", "The last sequence given out", |j| &j.appended)?;
        gauge("forebay_durable_sequence", "The last sequence on disk", |j| &j.durable)?;
        gauge("forebay_trimmed_sequence", "The last sequence that left the journal", |j| &j.trimmed)
    }

    fn sink_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut counter = |name, help, pick: fn(&Outlet) -> u64| {
            self.per_sink(encoder, name, help, |outlet, _| ConstCounter::new(pick(outlet)))
        };
        counter("forebay_drain_batches", "Transactions that the sink committed", |s| s.drain.batches.get())?;
        counter("forebay_dead_letters_redriven", "Dead letters that were delivered after all", |s| {
            s.dead_letters.redriven()
        })?;
        counter("forebay_dead_letters_purged", "Dead letters that somebody gave up", |s| s.dead_letters.purged())?;
        counter("forebay_dead_letters_edited", "Bodies of dead letters that somebody replaced", |s| {
            s.dead_letters.edits()
        })?;
        counter("forebay_drain_expired_records", "Records dropped because nobody wanted them any more", |s| {
            s.dead_letters.expired()
        })?;
        counter("forebay_drain_retries", "Attempts that failed and were repeated", |s| s.drain.retries.get())
    }

    fn sink_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut backlog = |name, help, pick: fn(&Outlet, &JournalMarks) -> u64| {
            self.per_sink(encoder, name, help, |outlet, journal| ConstGauge::new(pick(outlet, journal)))
        };
        backlog("forebay_backlog_records", "Undelivered records", Outlet::backlog_records)?;
        backlog("forebay_backlog_bytes", "Bytes of undelivered records", Outlet::backlog_bytes)?;
        let mut gauge = |name, help, pick: fn(&Outlet) -> u64| {
            self.per_sink(encoder, name, help, |outlet, _| ConstGauge::new(pick(outlet)))
        };
        gauge("forebay_released_sequence", "The last sequence sent to the sink", |s| s.drain.released.get())?;
        gauge("forebay_delivered_sequence", "The last sequence committed in the sink", |s| s.drain.delivered.get())?;
        gauge("forebay_drain_beyond_records", "Records committed in the sink although an earlier one is not", |s| {
            s.drain.beyond_records.get()
        })?;
        gauge("forebay_drain_window_records", "Records that were read and wait for their turn", |s| {
            s.drain.window_records.get()
        })?;
        gauge("forebay_drain_window_bytes", "Bytes of the records that were read and wait for their turn", |s| {
            s.drain.window_bytes.get()
        })?;
        gauge("forebay_drain_in_flight", "Transactions that are on their way to the sink", |s| {
            s.drain.in_flight.get()
        })?;
        gauge("forebay_dead_letters", "Records that cannot be delivered", |s| s.dead_letters.count())?;
        gauge("forebay_dead_letters_redriving", "Of these, those to be delivered again", |s| {
            s.dead_letters.redriving()
        })?;
        gauge("forebay_drain_running", "1 while the drain delivers or waits for records", |s| {
            u64::from(s.drain.state() == DrainState::Running)
        })?;
        gauge("forebay_drain_paused", "1 while somebody has paused the drain", |s| {
            u64::from(s.drain.state() == DrainState::Paused)
        })?;
        gauge("forebay_drain_halted", "1 when the drain needs a person", |s| {
            u64::from(s.drain.state() == DrainState::Halted)
        })
    }

    fn sink_rates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, pick: fn(&Outlet) -> Rate| {
            self.per_sink(encoder, name, help, |outlet, _| ConstGauge::new(pick(outlet).per_second()))
        };
        let help = "Records a second that the configuration allows now; +Inf for no limit";
        gauge("forebay_drain_ceiling", help, Outlet::ceiling)?;
        gauge("forebay_drain_rate_limit", "Of these, as many as the sink bears now", Outlet::rate)
    }
}
