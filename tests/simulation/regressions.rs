//! What the simulation has found, without the chance that it took.

use std::path::Path;
use std::sync::{Arc, Mutex};

use forebay::config::Ack;
use forebay::dead_letter_index::DeadLetterIndex;
use forebay::drain::dead_letters::DeadLetterFile;
use forebay::journal::cursor;
use forebay::journal::directory::{begin_epoch, read_epochs};
use forebay::rate::Rate;
use forebay::record::{Attributes, NO_KEY, Record};
use forebay::sink::Delivery;
use forebay::ticket::EpochStart;

use crate::disk::Faults;
use crate::machine::{Machine, State};
use crate::model::{Answer, Model, Request};
use crate::random::Random;
use crate::sink::Database;
use crate::site::{Site, Start};
use crate::weather;

fn delivery(sequence: u64) -> Delivery<'static> {
    let record = Record {
        received_at_us: 1,
        idempotency_hash: NO_KEY,
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"",
        attributes: Attributes::NONE,
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
    let (mut sizes, configs) = (weather::sizes(&mut random), [weather::config(&mut random)]);
    sizes.spare_segments = 0;
    let model = Model::new(&[weather::bounds(&configs[0], &sizes)], 0);
    let database = Arc::new(Mutex::new(Database::new(model)));
    let mut site = Site::new(0, Machine::new(Random::new(2)), 4, (40, 3), &sizes);
    site.pass(0, &database);
    site.start(&configs, &sizes, &database);
    site.machine.state().disk.faults.full = true;
    let mut acknowledged = [0; 2];
    for turn in 0..200 {
        if turn == 100 {
            site.machine.state().disk.faults.full = false;
        }
        site.send(&mut random, &database, false);
        for _ in 0..4 {
            site.run_journal(&database);
        }
        site.collect(&mut random, &database);
        let is_acknowledged = |request: &&Request| matches!(request.answer, Answer::Acknowledged(..));
        acknowledged[turn / 100] = database.lock().unwrap().model.requests.iter().filter(is_acknowledged).count();
        site.pass(10_000_000, &database);
    }
    assert_eq!(acknowledged[0], 0, "the disk is full");
    assert!(acknowledged[1] > 20, "{acknowledged:?}");
}

/// A start that could not come up on a full disk could not deliver either, and the disk would stay full.
#[test]
fn a_start_on_a_full_disk_comes_up() {
    let mut random = Random::new(1);
    let (sizes, configs) = (weather::sizes(&mut random), [weather::config(&mut random)]);
    let model = Model::new(&[weather::bounds(&configs[0], &sizes)], 0);
    let database = Arc::new(Mutex::new(Database::new(model)));
    let mut site = Site::new(0, Machine::new(Random::new(2)), 4, (400, 3), &sizes);
    for epoch in 1..5 {
        site.machine.state().disk.faults.full = epoch > 1;
        assert!(matches!(site.start(&configs, &sizes, &database), Start::Up), "start {epoch}");
        site.crash(false, &database);
    }
}

/// Kills and power cuts between any two operations: what is read is what one of the starts has written, and all that
/// was said to be written.
#[test]
fn epochs_are_whole_whenever_the_power_is_cut() {
    let directory = Path::new("/data/queues/0");
    for seed in 0..5000 {
        let machine = Machine::new(Random::new(seed));
        let mut noted = Vec::new();
        for epoch in 1..8 {
            let life = machine.next_life();
            life.state().disk.faults = Faults { stop_at_operation: 500, sync_error: 500, ..Faults::default() };
            let begun = begin_epoch(&life, directory, epoch, epoch * 10);
            let mut state = machine.state();
            let State { disk, random, .. } = &mut *state;
            disk.faults = Faults::default();
            disk.has_stopped = false;
            if random.chance(5000) {
                disk.cut_power(random);
            }
            drop(state);
            let now = read_epochs(&life, directory).map_err(|error| format!("seed {seed}: {error}")).unwrap();
            let is_noted = |start: &EpochStart| now.iter().any(|now| now.epoch == start.epoch);
            if let Ok(begun) = begun {
                noted = begun;
            }
            assert!(noted.iter().all(is_noted), "seed {seed}, epoch {epoch}");
        }
    }
}

/// A segment that is delivered between the news of its seal and the news of the spare that was taken is used again, and
/// no new one is made.
#[test]
fn delivered_segments_are_used_again() {
    let mut random = Random::new(1);
    let (mut sizes, mut config) = (weather::sizes(&mut random), weather::config(&mut random));
    (sizes.executors, sizes.spare_segments) = (1, 1);
    (config.shaping.rate, config.ack) = (Rate::Unlimited, Ack::Durable);
    let configs = [config];
    let model = Model::new(&[weather::bounds(&configs[0], &sizes)], 0);
    let database = Arc::new(Mutex::new(Database::new(model)));
    let mut site = Site::new(0, Machine::new(Random::new(2)), 4, (2000, 3), &sizes);
    site.pass(0, &database);
    site.start(&configs, &sizes, &database);
    let mut lives = 0;
    let mut former = None;
    for _ in 0..600 {
        for _ in 0..4 {
            site.send(&mut random, &database, false);
            site.run_journal(&database);
            site.collect(&mut random, &database);
        }
        site.process.as_mut().unwrap().run_maintenance();
        for _ in 0..10 {
            site.process.as_mut().unwrap().run_drain(0);
            database.lock().unwrap().decide_one(&site.machine);
            site.pass(10_000_000, &database);
        }
        let process = site.process.as_mut().unwrap();
        for _ in 0..3 {
            process.run_maintenance();
        }
        let newest = process.catalogues[0].find(u64::MAX).map(|segment| segment.identity.generation);
        lives += u64::from(std::mem::replace(&mut former, newest) != newest);
    }
    let made = site.machine.state().disk.segments_made;
    assert!(lives > 50 && made < 6, "{made} files for {lives} segments");
}

/// What the last life had delivered and the database has not any more must not be given back to the pool before the
/// database was asked.
#[test]
fn a_database_that_was_set_back_gets_what_the_journal_still_has() {
    let mut random = Random::new(1);
    let (mut sizes, mut config) = (weather::sizes(&mut random), weather::config(&mut random));
    (sizes.executors, config.shaping.rate, config.ack) = (1, Rate::Unlimited, Ack::Durable);
    config.max_backlog_bytes = 10_000_000;
    let configs = [config];
    let model = Model::new(&[weather::bounds(&configs[0], &sizes)], 0);
    let database = Arc::new(Mutex::new(Database::new(model)));
    let mut site = Site::new(0, Machine::new(Random::new(2)), 4, (2000, 3), &sizes);
    site.pass(0, &database);
    site.start(&configs, &sizes, &database);
    database.lock().unwrap().keep();
    for _ in 0..200 {
        site.send(&mut random, &database, false);
        site.run_journal(&database);
        site.collect(&mut random, &database);
        site.pass(10_000_000, &database);
        site.process.as_mut().unwrap().run_drain(0);
    }
    // The last tick of the maintenance thread stores the cursor, and the segments are all still there.
    let delivered = site.process.as_ref().unwrap().queues[0].main.drain.delivered.get();
    assert!(site.process.as_ref().unwrap().catalogues[0].len() > 2, "several segments are delivered");
    cursor::save(&site.machine, Path::new("/data/queues/0"), delivered).unwrap();
    site.crash(false, &database);
    database.lock().unwrap().set_back();
    site.start(&configs, &sizes, &database);
    // More than before: a start asks for the lanes of its queue as well, and whoever reads ahead gives a turn away first.
    for _ in 0..420 {
        site.process.as_mut().unwrap().run_maintenance();
        site.process.as_mut().unwrap().run_drain(0);
        site.pass(10_000_000, &database);
    }
    assert!(!site.is_halted(0), "the queue has halted");
    let mut database = database.lock().unwrap();
    assert_eq!(database.model.complaint.take(), None);
    assert!(database.position(0) >= delivered);
    assert_eq!(database.model.missing(0, 0), None);
}
