//! An executor that sleeps: completions and a stop wake it.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Poll, Waker};

use forebay::config::{self, Config};
use forebay::ingress::core::{Answer, Core, Shared, announce_stop};
use forebay::ingress::net::{Companion, sleep_until};
use forebay::queue::{Health, Queue};
use forebay::record::{Attributes, NO_KEY, Record};
use forebay::ring::{Bell, Completion, IngressEnd, Outcome, ring};
use forebay::sync::AtomicUsize;
use loom::future::block_on;

use crate::{PATIENCE, PREEMPTIONS_MAX, frame, hold, shared, spawn};

/// Read once, since every execution of a model begins anew.
pub static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[queues.orders]\nrate = \"unlimited\"\n";
    config::parse(text, "models", &|_| None, &forebay::sink::KINDS).unwrap()
});

static RECORD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let record = Record {
        received_at_us: 1_700_000_000_000_042,
        idempotency_hash: NO_KEY,
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"",
        attributes: Attributes::NONE,
        body: b"an order",
    };
    let mut bytes = Vec::new();
    record.encode(&mut bytes).unwrap();
    bytes
});

/// An executor's state.
pub fn core(ring: IngressEnd, health: &Arc<Health>, queues: Vec<Arc<Queue>>) -> Rc<Core> {
    let shared = Shared {
        queues: queues.into(),
        limits: CONFIG.ingress.clone(),
        frame_bytes_max: 200,
        secret: [0; 16],
        health: Arc::clone(health),
        connections: Arc::new(AtomicUsize::new(0)),
        grace_ms: 0,
    };
    Core::new(shared, Arc::default(), ring)
}

/// Sends a record.
pub fn submit(core: &Rc<Core>) -> Answer {
    let sent: Result<_, ()> = core.submit(|slot, bytes| {
        bytes.extend(frame(slot, &RECORD));
        Ok(())
    });
    sent.unwrap().unwrap()
}

/// What stands between sockets and completions, without sockets.
pub struct NoSockets(pub Rc<Core>);

impl Companion for NoSockets {
    fn begin_turn(&self) {
        self.0.look_for_stop();
    }

    fn socket_ready(&self, _key: usize) {}

    fn is_busy(&self) -> bool {
        false
    }

    fn work(&self) -> bool {
        self.0.hand_out(usize::MAX, &mut Vec::new())
    }

    fn arm(&self, waker: &Waker) -> bool {
        self.0.arm(waker)
    }

    fn disarm(&self) {
        self.0.disarm();
    }
}

/// Takes turns as `Net::run` does, asleep in between, until `is_done`.
pub fn run_until(core: &Rc<Core>, is_done: impl Fn() -> bool) {
    let executor = NoSockets(Rc::clone(core));
    block_on(async {
        loop {
            executor.begin_turn();
            let worked = executor.work();
            if is_done() {
                return;
            }
            if !worked {
                sleep_until(&executor, |_| Poll::Pending).await;
            }
        }
    });
}

fn an_answer_comes() {
    let (bell, health): (Arc<Bell>, Arc<Health>) = (shared(), shared());
    let (ingress, mut journal) = ring(400, CONFIG.ingress.in_flight_max, Arc::clone(&bell));
    let executor = spawn(move || {
        let core = core(ingress, &health, Vec::new());
        for _ in 0..2 {
            let answer = submit(&core);
            run_until(&core, || answer.get().is_some());
            assert_eq!(answer.get().unwrap().outcome, Outcome::Stored);
        }
    });
    for _ in 0..2 {
        while journal.is_empty() {
            bell.sleep_unless(PATIENCE, || !journal.is_empty());
        }
        let slot = journal.peek().unwrap().slot.get();
        journal.skip();
        journal.complete(Completion { slot, count: 1, first_sequence: 1, outcome: Outcome::Stored });
        journal.wake();
    }
    executor.join().unwrap();
}

fn a_stop_comes() {
    let (bell, health): (Arc<Bell>, Arc<Health>) = (shared(), shared());
    let (ingress, _journal) = ring(400, CONFIG.ingress.in_flight_max, bell);
    let waker = ingress.waker();
    let executor = {
        let health = Arc::clone(&health);
        spawn(move || {
            let core = core(ingress, &health, Vec::new());
            run_until(&core, || core.is_stopping());
        })
    };
    announce_stop(&health, &[waker]);
    executor.join().unwrap();
}

#[test]
fn an_executor_sleeps_through_no_answer() {
    hold(PREEMPTIONS_MAX, an_answer_comes);
}

#[test]
fn an_executor_sleeps_through_no_stop() {
    hold(PREEMPTIONS_MAX, a_stop_comes);
}
