//! What the simulation has found, without the chance that it took.

use std::path::Path;
use std::sync::{Arc, Mutex};

use forebay::dead_letter_index::DeadLetterIndex;
use forebay::drain::dead_letters::DeadLetterFile;
use forebay::record::{NO_KEY, Record};
use forebay::sink::Delivery;

use crate::clients::Clients;
use crate::disk::Faults;
use crate::machine::Machine;
use crate::model::{Answer, Model};
use crate::process::Process;
use crate::random::Random;
use crate::sink::Database;
use crate::weather;

fn delivery(sequence: u64) -> Delivery<'static> {
    let record = Record {
        received_at_us: 1,
        idempotency_hash: NO_KEY,
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"",
        body: b"refused",
    };
    Delivery { sequence, record, ticket: "orders-1-0" }
}

/// The cut of half a line may fail as well as the line did.
#[test]
fn half_a_dead_letter_does_not_stand_in_the_way_of_the_next() {
    for seed in 0..50 {
        let machine = Machine::new(Random::new(seed)).next_life();
        let index = Arc::new(DeadLetterIndex::default());
        let file = DeadLetterFile::open(&machine, Path::new("/data"), 1 << 20, &index).unwrap();
        machine.state().disk.faults = Faults { write_error: 10_000, ..Faults::default() };
        assert!(file.append(&delivery(1), "why").is_err());
        machine.state().disk.faults = Faults::default();
        file.append(&delivery(1), "why").unwrap();
        let again = Arc::new(DeadLetterIndex::default());
        DeadLetterFile::open(&machine, Path::new("/data"), 1 << 20, &again).unwrap();
        assert_eq!(again.reason(1).unwrap().as_deref(), Some("why"), "seed {seed}");
    }
}

/// A request every 10 ms, each of which is refused, must not put off the next look at the disk.
#[test]
fn a_full_disk_is_looked_at_again_under_load() {
    let mut random = Random::new(1);
    let machine = Machine::new(Random::new(2)).next_life();
    let database = Arc::new(Mutex::new(Database::new(1, Model::new(&[false], 4, 0))));
    let (mut sizes, configs) = (weather::sizes(&mut random), [weather::config(&mut random)]);
    sizes.spare_segments = 0;
    let mut process = Process::start(&machine, 1, &configs, sizes, &database).ok().unwrap();
    let mut clients = Clients::new(4, 40, sizes.commit_bytes_max);
    machine.state().disk.faults.full = true;
    let mut acknowledged = [0; 2];
    for turn in 0..200 {
        if turn == 100 {
            machine.state().disk.faults.full = false;
        }
        let model = &mut database.lock().unwrap().model;
        let to = (process.queues.as_slice(), &*process.health, process.rings.as_mut_slice());
        clients.send(&mut random, model, to, (0, false));
        for _ in 0..4 {
            process.run_journal();
        }
        clients.collect(model, (process.queues.as_slice(), process.rings.as_mut_slice()));
        let is_acknowledged = |answer| matches!(answer, Answer::Acknowledged(_));
        acknowledged[turn / 100] = model.requests.iter().filter(|request| is_acknowledged(request.answer)).count();
        machine.state().monotonic_ns += 10_000_000;
    }
    assert_eq!(acknowledged[0], 0, "the disk is full");
    assert!(acknowledged[1] > 20, "{acknowledged:?}");
}
