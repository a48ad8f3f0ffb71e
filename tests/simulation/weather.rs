//! What a seed is like: which faults there are, how large everything is, how the queues are configured.

use std::sync::OnceLock;

use forebay::config::{self, Ack};
use forebay::rate::Rate;

use crate::process::Sizes;
use crate::random::Random;
use crate::{disk, sink};

const BLOCK_BYTES: usize = 4096;

/// What may go wrong under this seed. Each seed has some of it, so that none hides the others.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub struct Weather {
    pub disk: disk::Faults,
    pub sink: sink::Faults,
    pub fills_up: bool,
    pub sink_goes_down: bool,
    pub clock_jumps: bool,
    pub rates_change: bool,
    /// The step at which the disk is damaged.
    pub damage_at: Option<u64>,
    /// Crashes in 10,000 steps.
    pub crashes: u64,
    /// Of 10,000 crashes so many cut the power.
    pub power_cuts: u64,
}

impl Weather {
    pub fn new(random: &mut Random, steps: u64) -> Self {
        let mut some = |part: u64| if random.chance(4000) { part } else { 0 };
        let disk = disk::Faults {
            read_error: some(40),
            write_error: some(8),
            short_write: some(8),
            sync_error: some(15),
            streak_max: some(4),
            misdirected_write: 0,
            stop_at_operation: some(15),
            full: false,
        };
        let sink = sink::Faults {
            is_down: false,
            deadlock: some(500),
            reply_lost: some(1000),
            connection_lost: some(1000),
            latency_us_max: 1 + some(8000),
        };
        Self {
            disk,
            sink,
            fills_up: some(1) > 0,
            sink_goes_down: some(1) > 0,
            clock_jumps: some(1) > 0,
            rates_change: some(1) > 0,
            crashes: 5 + some(40),
            power_cuts: 3000 + some(4000),
            damage_at: random.chance(1500).then(|| random.below(steps)),
        }
    }
}

/// Small, so that everything is full before long.
pub fn sizes(random: &mut Random) -> Sizes {
    let commit_blocks = 3 + random.index(3);
    let segment_blocks = commit_blocks + 2 + random.index(6);
    Sizes {
        commit_bytes_max: commit_blocks * BLOCK_BYTES,
        segment_bytes: (segment_blocks * BLOCK_BYTES) as u64,
        hot_ring_bytes: [64, 4096, 64 * 1024][random.index(3)],
        ring_bytes: 32 * 1024,
        executors: 1 + random.index(2),
        spare_segments: random.index(3),
    }
}

fn base() -> &'static config::Queue {
    static BASE: OnceLock<config::Queue> = OnceLock::new();
    BASE.get_or_init(|| {
        let text = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[queues.orders]\n";
        config::parse(text, "simulation", &|_| None).unwrap().queues["orders"].clone()
    })
}

pub fn rate(random: &mut Random) -> Rate {
    match random.below(4) {
        0 => Rate::Unlimited,
        1 => Rate::Limited { records: 1, period_ns: 1_000_000 },
        2 => Rate::Limited { records: 7, period_ns: 3_000_000 },
        _ => Rate::Limited { records: 1, period_ns: 200_000 + random.below(2_000_000) },
    }
}

pub fn config(random: &mut Random) -> config::Queue {
    let mut config = base().clone();
    config.shaping.rate = rate(random);
    config.ack = if random.chance(1500) { Ack::Memory } else { Ack::Durable };
    config.max_backlog_bytes = [20_000, 100_000, 10_000_000][random.index(3)];
    config.idempotency_window_ms = 1_000_000_000;
    config.shaping.batch.records_max = [1, 5, 100][random.index(3)];
    config.shaping.batch.bytes_max = [100, 5000, 100_000][random.index(3)];
    config.shaping.batch.linger_ms_max = random.below(6);
    config.shaping.retry.backoff_ms_min = 1;
    config.shaping.retry.backoff_ms_max = 20;
    config
}
