//! Repairs whose power is cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use forebay::journal::records::visit;
use forebay::journal::repair::{Options, repair_queue};
use forebay::journal::survey::QueuePlace;
use forebay::journal::verify::{Report, verify_queue};
use forebay::record::Sequence;

use crate::clients::Clients;
use crate::disk::Faults;
use crate::machine::{Machine, State};
use crate::model::Model;
use crate::process::Process;
use crate::random::Random;
use crate::sink::Database;
use crate::weather;

const SEEDS: u64 = if cfg!(debug_assertions) { 6 } else { 100 };
/// A repair of so few segments gets through before so many attempts.
const ATTEMPTS_MAX: usize = 1000;

/// A machine on which a queue has a backlog in several segments, and none of it is delivered.
fn with_backlog(seed: u64) -> Machine {
    let mut random = Random::new(seed);
    let machine = Machine::new(Random::new(random.next())).next_life();
    let database = Arc::new(Mutex::new(Database::new(1, Model::new(&[false], 4, 0))));
    let (sizes, config) = (weather::sizes(&mut random), weather::config(&mut random));
    let mut process = Process::start(&machine, 1, &[config], sizes, &database).ok().unwrap();
    let mut clients = Clients::new(4, 400, sizes.commit_bytes_max);
    for _ in 0..200 {
        let model = &mut database.lock().unwrap().model;
        let to = (process.queues.as_slice(), &*process.health, process.rings.as_mut_slice());
        clients.send(&mut random, model, to, (0, false));
        for _ in 0..4 {
            process.run_journal();
        }
        clients.collect(model, (process.queues.as_slice(), process.rings.as_mut_slice()));
        machine.state().monotonic_ns += 1_000_000;
    }
    process.run_maintenance();
    machine
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
