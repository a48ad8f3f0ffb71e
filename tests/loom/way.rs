//! The way of a record through the real executor state, journal and drain, and the end of all three.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use forebay::journal::pool::Pool;
use forebay::journal::writer::Writer;
use forebay::progress::Progress;
use forebay::queue::Health;
use forebay::ring::{Bell, IngressEnd, Outcome, ring};
use forebay::server::recovered::{DrainParts, QueueStart, RecoveredQueue};
use forebay::sink::{Batch, Claim, Sink, SinkFuture, Subpart};
use forebay::sync::Notify;
use loom::future::block_on;
use loom::thread::JoinHandle;
use tokio::sync::watch;

use crate::executor::{CONFIG, core, run_until, submit};
use crate::machine::Machine;
use crate::random::Random;
use crate::{PREEMPTIONS_OF_STAGES_MAX, hold, shared, spawn};

const COMMIT_BYTES_MAX: usize = 8 * 1024;
const SEGMENT_BYTES: u64 = 32 * 1024;
/// How often a fault happens, in parts of 10,000.
const ALWAYS: u64 = 10_000;

/// A sink that keeps nothing but the position, and says when it has moved.
struct Position {
    position: u64,
    moved: Arc<Notify>,
}

impl Sink for Position {
    fn take_over(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(async { Ok(Progress::up_to(self.position)) })
    }

    fn lanes(&mut self) -> SinkFuture<'_, Vec<u32>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn claim(&self) -> Option<Claim> {
        None
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(async move {
            assert_eq!((batch.after, batch.beyond), (self.position, None));
            self.position = batch.through;
            self.moved.notify_one();
            Ok(())
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Journal and queue on a machine of their own.
struct Parts {
    machine: Machine,
    bell: Arc<Bell>,
    health: Arc<Health>,
    ring: IngressEnd,
    journal: JoinHandle<()>,
    drain: DrainParts<Machine>,
}

fn parts() -> Parts {
    let machine = Machine::new(Random::new(1));
    let (bell, health): (Arc<Bell>, Arc<Health>) = (shared(), shared());
    let start = QueueStart {
        index: 0,
        id: 7,
        name: "orders",
        config: &CONFIG.queues["orders"],
        directory: PathBuf::from("/data/queues/orders"),
        epoch: 1,
        ticket_secret: [7; 16],
        commit_bytes_max: COMMIT_BYTES_MAX,
    };
    let recovered = RecoveredQueue::recover(machine.clone(), start).unwrap();
    let pool = Pool::open(machine.clone(), &PathBuf::from("/data/pool"), SEGMENT_BYTES, 1).unwrap();
    pool.prepare().unwrap();
    let (log, mut drains) = recovered.split(COMMIT_BYTES_MAX);
    let drain = drains.remove(0);
    let (ring, journal_end) = ring(400, CONFIG.ingress.in_flight_max, Arc::clone(&bell));
    let journal = {
        let (machine, bell, health) = (machine.clone(), Arc::clone(&bell), Arc::clone(&health));
        spawn(move || {
            // Maintenance is not there; what the journal asks of it stays undone.
            let (chores, _) = mpsc::channel();
            let logs = vec![log];
            let writer = Writer::new(machine, 1, logs, vec![journal_end], bell, Arc::new(pool), health, chores);
            writer.unwrap().run();
        })
    };
    Parts { machine, bell, health, ring, journal, drain }
}

fn a_record_goes_all_the_way() {
    let Parts { machine, bell, health, ring, journal, drain } = parts();
    // A batch that the drain wants to read from there never comes.
    machine.state().disk.faults.read_error = ALWAYS;
    let queue = Arc::clone(&drain.queue);
    let moved: Arc<Notify> = shared();
    let (stop, stopped) = watch::channel(false);
    let drain = {
        let sink = Box::new(Position { position: 0, moved: Arc::clone(&moved) });
        let no_redrives = Box::new(|_: Subpart<'_>| panic!("nobody has asked for a redrive"));
        spawn(move || block_on(drain.runner(sink, no_redrives, stopped).run()))
    };
    let core = core(ring, &health, vec![Arc::clone(&queue)]);
    let answer = submit(&core);
    run_until(&core, || answer.get().is_some());
    let completion = answer.get().unwrap();
    assert_eq!((completion.outcome, completion.first_sequence), (Outcome::Stored, 1));
    assert_eq!(queue.journal.durable.get(), 1, "what is acknowledged is durable");
    drop(answer);
    block_on(moved.notified());
    // As `Server::stop` does.
    core.end();
    bell.ring();
    journal.join().unwrap();
    stop.send_replace(true);
    drain.join().unwrap();
    assert_eq!(queue.main.drain.delivered.get(), 1, "what is committed is delivered");
}

fn a_failed_sync_is_told() {
    let Parts { machine, bell, health, ring, journal, drain } = parts();
    let core = core(ring, &health, vec![Arc::clone(&drain.queue)]);
    for outcome in [Outcome::Stored, Outcome::Failed] {
        let answer = submit(&core);
        run_until(&core, || answer.get().is_some());
        assert_eq!(answer.get().unwrap().outcome, outcome);
        machine.state().disk.faults.sync_error = ALWAYS;
    }
    assert!(health.is_journal_failed(), "a failure is told and not known");
    assert_eq!(drain.queue.journal.durable.get(), 1, "nothing more is durable");
    core.end();
    bell.ring();
    journal.join().unwrap();
}

#[test]
fn a_failed_journal_is_known_to_whoever_was_told() {
    hold(PREEMPTIONS_OF_STAGES_MAX, a_failed_sync_is_told);
}

#[test]
fn a_record_goes_all_the_way_and_everything_ends() {
    hold(PREEMPTIONS_OF_STAGES_MAX, a_record_goes_all_the_way);
}
