//! Repairs whose power is cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use forebay::config::Ack;
use forebay::journal::records::visit;
use forebay::journal::repair::{Options, repair_queue};
use forebay::journal::survey::QueuePlace;
use forebay::journal::verify::{Report, verify_queue};
use forebay::record::Sequence;

use crate::disk::Faults;
use crate::machine::{Machine, State};
use crate::model::Model;
use crate::random::Random;
use crate::sink::Database;
use crate::site::Site;
use crate::weather;

const SEEDS: u64 = if cfg!(debug_assertions) { 6 } else { 100 };
/// A repair of so few segments gets through before so many attempts.
const ATTEMPTS_MAX: usize = 1000;

/// A machine on which a queue has a backlog in several segments, and none of it is delivered.
fn with_backlog(seed: u64) -> Machine {
    let mut random = Random::new(seed);
    let (mut sizes, mut config) = (weather::sizes(&mut random), weather::config(&mut random));
    (sizes.executors, config.ack) = (1, Ack::Durable);
    let configs = [config];
    let model = Model::new(&[weather::bounds(&configs[0], &sizes)], 0);
    let database = Arc::new(Mutex::new(Database::new(model)));
    let mut site = Site::new(0, Machine::new(Random::new(random.next())), 4, (400, 3), &sizes);
    site.pass(0, &database);
    site.start(&configs, &sizes, &database);
    for _ in 0..200 {
        site.send(&mut random, &database, false);
        for _ in 0..4 {
            site.run_journal(&database);
        }
        site.collect(&mut random, &database);
        site.pass(1_000_000, &database);
    }
    site.process.as_mut().unwrap().run_maintenance();
    site.machine
}

fn place(machine: &Machine) -> QueuePlace<Machine> {
    let directory = PathBuf::from("/data/queues/0");
    QueuePlace { platform: machine.next_life(), name: "orders".to_owned(), directory, id: 100, part: String::new() }
}

/// All records that can be read.
fn readable(machine: &Machine) -> BTreeMap<Sequence, Vec<u8>> {
    let mut found = BTreeMap::new();
    visit(&place(machine), &(1..=Sequence::MAX), |record| {
        found.insert(record.sequence, record.bytes.to_vec());
        Ok(())
    })
    .unwrap();
    found
}

#[test]
fn whenever_the_power_is_cut_a_repair_is_begun_again_and_loses_no_more() {
    let mut repaired = 0;
    for seed in 0..SEEDS {
        let machine = with_backlog(seed);
        for _ in 0..3 {
            let mut state = machine.state();
            let State { disk, random, .. } = &mut *state;
            disk.rot(random);
        }
        let before = readable(&machine);
        let mut cuts = 0;
        let is_done = (0..ATTEMPTS_MAX).any(|attempt| {
            let queue = place(&machine);
            machine.state().disk.faults =
                Faults { stop_at_operation: 100, sync_error: 50, write_error: 20, ..Faults::default() };
            let cut_directory = Path::new("/data/queues/0").join(format!("cut-{attempt}"));
            let options = Options { apply: true, segment: None, cut_directory: &cut_directory, epoch: 2, now_us: 1 };
            let ended = repair_queue(&queue, &options, |_| {
                repaired += 1;
                Ok(())
            });
            let mut state = machine.state();
            let State { disk, random, .. } = &mut *state;
            disk.faults = Faults::default();
            disk.has_stopped = false;
            if random.chance(7000) {
                cuts += 1;
                disk.cut_power(random);
            }
            drop(state);
            assert!(readable(&machine) == before, "seed {seed}: other records can be read behind {cuts} cuts");
            let mut report = Report::default();
            verify_queue(&place(&machine), &mut report, |_| {}).unwrap();
            ended.is_ok() && report.findings.is_empty()
        });
        assert!(is_done, "seed {seed}: the repair does not get through");
    }
    assert!(repaired > SEEDS, "{repaired} repairs");
}
