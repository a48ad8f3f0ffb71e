//! What a seed is like: which faults there are, how large everything is, how the queues are configured.

use std::sync::OnceLock;

use forebay::config::{self, Ack, Config, Order, Selector, Throttle};
use forebay::rate::Rate;

use crate::ledger::Bounds;
use crate::process::Sizes;
use crate::random::Random;
use crate::{disk, sink};

const BLOCK_BYTES: usize = 4096;

/// What happens to a seed at most once, and what is then not promised any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// A bit flips.
    Rot,
    /// The disk puts a write into the wrong place.
    MisdirectedWrite,
    /// The database is restored from a backup.
    DatabaseSetBack,
    /// The data directory is restored from a backup.
    DirectorySetBack,
    /// A second process starts on a backup of the data directory, with the same database.
    Copied,
}

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
    /// Rates change, and queues are paused, while the process runs.
    pub is_instructed: bool,
    /// What happens, at which step, and at which step before that the backup is made.
    pub mishap: Option<(Mishap, u64, u64)>,
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
            is_instructed: some(1) > 0,
            crashes: 5 + some(40),
            power_cuts: 3000 + some(4000),
            mishap: random.chance(4500).then(|| mishap(random, steps)),
        }
    }
}

impl Mishap {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rot => "rot",
            Self::MisdirectedWrite => "misdirected write",
            Self::DatabaseSetBack => "database set back",
            Self::DirectorySetBack => "directory set back",
            Self::Copied => "directory copied",
        }
    }
}

fn mishap(random: &mut Random, steps: u64) -> (Mishap, u64, u64) {
    let mishap = match random.below(9) {
        0 | 1 => Mishap::Rot,
        2 => Mishap::MisdirectedWrite,
        3 | 4 => Mishap::DatabaseSetBack,
        5 | 6 => Mishap::DirectorySetBack,
        _ => Mishap::Copied,
    };
    let at = random.below(steps);
    let kept_at = if random.chance(3000) { at } else { at - random.below(at + 1).min(random.below(600)) };
    (mishap, at, kept_at)
}

/// Small, so that everything is full before long.
pub fn sizes(random: &mut Random) -> Sizes {
    let commit_blocks = 3 + random.index(3);
    let segment_blocks = commit_blocks + 2 + random.index(6);
    let mut limits = base().ingress.clone();
    limits.in_flight_max = [3, 8, 32][random.index(3)];
    limits.record_bytes_max = 2400;
    // No less than the largest body, which would never get in.
    limits.body_bytes_in_flight_max = [24 * 1024, 1024 * 1024][random.index(2)];
    Sizes {
        limits,
        commit_bytes_max: commit_blocks * BLOCK_BYTES,
        segment_bytes: (segment_blocks * BLOCK_BYTES) as u64,
        hot_ring_bytes: [64, 4096, 64 * 1024][random.index(3)],
        // No less than the largest frame.
        ring_bytes: [commit_blocks * BLOCK_BYTES, 64 * 1024][random.index(2)],
        executors: 1 + random.index(2),
        spare_segments: random.index(3),
    }
}

fn base() -> &'static Config {
    static BASE: OnceLock<Config> = OnceLock::new();
    BASE.get_or_init(|| {
        let text = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[queues.orders]\n";
        config::parse(text, "simulation", &|_| None, &forebay::sink::KINDS).unwrap()
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

/// Lets records overtake others.
pub fn reorder(random: &mut Random, ordering: &mut config::Ordering, shaping: &mut config::Shaping) {
    ordering.order = [Order::Key, Order::None][random.index(2)];
    ordering.fair_by = random.chance(5000).then_some(Selector::Key);
    ordering.fair_weights = (0..3).map(|client| (format!("c{client}"), 3)).collect();
    ordering.throttle = random.chance(3000).then(|| Throttle {
        by: Selector::Key,
        limit: 1 + random.below(3),
        period_ms: 1 + random.below(20),
        burst: 1 + random.below(3),
        keys_max: [1, 100][random.index(2)],
    });
    shaping.concurrency = concurrency(random);
    ordering.window.records_max = [1, 7, 1000][random.index(3)];
    ordering.window.bytes_max = [2000, 1_000_000][random.index(2)];
}

/// Transactions at a time of a queue whose records may overtake others.
pub fn concurrency(random: &mut Random) -> u32 {
    [1, 2, 3][random.index(3)]
}

/// The second sink of a queue, if it has one, and the start from which on it does.
pub fn second(random: &mut Random, queue: &config::Queue) -> Option<(u64, config::Outlet)> {
    if !random.chance(3500) {
        return None;
    }
    let mut outlet = queue.main_outlet();
    outlet.shaping.rate = rate(random);
    outlet.shaping.batch.records_max = [1, 5, 100][random.index(3)];
    outlet.ordering.order = Order::Strict;
    outlet.ordering.throttle = None;
    outlet.shaping.concurrency = 1;
    if random.chance(3000) {
        reorder(random, &mut outlet.ordering, &mut outlet.shaping);
    }
    Some(([1, 1, 2, 4][random.index(4)], outlet))
}

/// What a queue's configuration promises.
pub fn bounds(config: &config::Queue, sizes: &Sizes) -> Bounds {
    Bounds {
        order: config.ordering.order,
        answers_early: config.ack == Ack::Memory,
        commit_bytes_max: sizes.commit_bytes_max as u64,
        window_us: config.idempotency_window_ms * 1000,
        keys_max: config.idempotency_keys_max as u64,
    }
}

pub fn config(random: &mut Random) -> config::Queue {
    let mut config = base().queues["orders"].clone();
    config.shaping.rate = rate(random);
    config.ack = if random.chance(1500) { Ack::Memory } else { Ack::Durable };
    // No less than the largest request.
    config.max_backlog_bytes = [24_000, 100_000, 10_000_000][random.index(3)];
    config.idempotency_window_ms = [1_000_000_000, 1_000_000_000, 400_000, 2_000][random.index(4)];
    config.idempotency_keys_max = [1_000_000, 1_000_000, 40, 3][random.index(4)];
    config.shaping.batch.records_max = [1, 5, 100][random.index(3)];
    config.shaping.batch.bytes_max = [100, 5000, 100_000][random.index(3)];
    config.shaping.batch.linger_ms_max = random.below(6);
    config.shaping.retry.backoff_ms_min = 1;
    config.shaping.retry.backoff_ms_max = 20;
    config
}
