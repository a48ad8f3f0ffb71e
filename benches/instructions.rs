//! How many instructions each stage without I/O takes, counted by valgrind's callgrind.
//!
//! `cargo bench --bench instructions`. A count does not depend on who else uses the machine, so each has a limit
//! here, about a tenth above what was measured, and more is an error. Whoever makes a stage faster lowers its
//! limit; whoever has a reason to make it slower raises it and says why. Other compilers and processors count a
//! little differently, which the tenth has to cover.
//!
//! What a stage needs is made in a `setup`, which is not counted; there each stage runs once beforehand, so that
//! what happens once in a process (looking for the processor's abilities, a first page) is not counted either.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench that cannot go on should panic")]

mod stand;

use std::hint::black_box;

use forebay::drain::pacer::{Pace, Pacer, Tolerance};
use forebay::ingress::http::fast_path::request::{Bounds, Look, look};
use forebay::ingress::http::fast_path::response::ResponseWriter;
use forebay::journal::append::SealedBatch;
use forebay::journal::format::SegmentIdentity;
use forebay::journal::scan::{Scan, scan};
use forebay::queue::Queue;
use forebay::record::Record;
use forebay::ring::{Completion, FrameHeader, Outcome};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use stand::journal::{Log, full_segment};
use stand::rows::{Table, delivery};
use stand::way::{InFlight, Way, queue};
use stand::{NOW_US, ORDER_BYTES, encoded, frame_header, order, record, request};

/// How often a short stage is repeated, so that what surrounds it does not count.
const TIMES: usize = 64;

/// At most so many instructions.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--cache-sim=no"]);
    callgrind.hard_limits([(EventKind::Ir, instructions)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn body_and_room(bytes: usize) -> (Vec<u8>, Vec<u8>) {
    (order(bytes), encoded(bytes))
}

#[library_benchmark]
#[bench::order(args = (ORDER_BYTES), setup = body_and_room, config = at_most(64_400))]
#[bench::four_kib(args = (4096), setup = body_and_room, config = at_most(218_400))]
fn encode((body, mut out): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    for _ in 0..TIMES {
        out.clear();
        record(black_box(&body)).encode(&mut out).unwrap();
        black_box(&out);
    }
    (body, out)
}

#[library_benchmark]
#[bench::order(args = (ORDER_BYTES), setup = encoded, config = at_most(20_500))]
#[bench::four_kib(args = (4096), setup = encoded, config = at_most(151_300))]
fn decode(bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..TIMES {
        black_box(Record::decode(black_box(&bytes)).unwrap());
    }
    bytes
}

/// A log whose buffer has been used, and what is appended to it.
fn log() -> (Log, FrameHeader, Vec<u8>) {
    let mut log = Log::new(64 << 20, 0);
    let record = encoded(ORDER_BYTES);
    let frame = frame_header(record.len());
    fill(&mut log, &frame, &record);
    let sealed = log.seal();
    log.committed(&sealed);
    (log, frame, record)
}

fn fill(log: &mut Log, frame: &FrameHeader, record: &[u8]) {
    for _ in 0..TIMES {
        log.append(black_box(frame), black_box(record));
    }
}

fn full_batch() -> Log {
    let (mut log, frame, record) = log();
    fill(&mut log, &frame, &record);
    log
}

#[library_benchmark]
#[bench::records_64(setup = log, config = at_most(12_900))]
fn append((mut log, frame, record): (Log, FrameHeader, Vec<u8>)) -> (Log, Vec<u8>) {
    fill(&mut log, &frame, &record);
    (log, record)
}

#[library_benchmark]
#[bench::records_64(setup = full_batch, config = at_most(15_200))]
fn seal(mut log: Log) -> (Log, SealedBatch) {
    let sealed = log.seal();
    (log, sealed)
}

fn segment() -> (SegmentIdentity, Vec<u8>) {
    full_segment(1 << 20, TIMES)
}

#[library_benchmark]
#[bench::one_mib(setup = segment, config = at_most(488_500))]
fn recovery_scan((identity, bytes): (SegmentIdentity, Vec<u8>)) -> (Scan, Vec<u8>) {
    let end = scan(&identity, black_box(&bytes), |header, _| {
        black_box(header);
    });
    (end.unwrap(), bytes)
}

fn pacer() -> Pacer {
    Pacer::new(
        Pace {
            rate: "5000/s".parse().unwrap(),
            tolerance: Tolerance::Gradual { at_once_ns: 9_000_000, in_all_ns: 109_000_000 },
        },
        0,
    )
}

#[library_benchmark]
#[bench::looks_64(setup = pacer, config = at_most(10_700))]
fn pacing(mut pacer: Pacer) -> Pacer {
    let mut now_ns = 0;
    for _ in 0..TIMES {
        now_ns += 100_000;
        let due = black_box(pacer.due(black_box(now_ns)));
        pacer.take(due, now_ns);
    }
    pacer
}

const BOUNDS: Bounds = Bounds { head_bytes_max: 16 * 1024, record_bytes_max: 1 << 20 };

fn whole_request() -> Vec<u8> {
    let bytes = request(&order(ORDER_BYTES), "");
    assert!(matches!(look(&bytes, BOUNDS), Look::Taken(_)));
    bytes
}

#[library_benchmark]
#[bench::times_64(setup = whole_request, config = at_most(147_900))]
fn looking(bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..TIMES {
        black_box(look(black_box(&bytes), BOUNDS));
    }
    bytes
}

const STORED: Completion = Completion { slot: 0, count: 1, first_sequence: 1_000_000, outcome: Outcome::Stored };

fn used_writer() -> (ResponseWriter, Queue) {
    let (mut writer, queue) = (ResponseWriter::default(), queue());
    writer.accepted(&queue, &STORED, NOW_US, false);
    (writer, queue)
}

#[library_benchmark]
#[bench::times_64(setup = used_writer, config = at_most(281_000))]
fn response((mut writer, queue): (ResponseWriter, Queue)) -> (ResponseWriter, Queue) {
    for _ in 0..TIMES {
        black_box(writer.accepted(&queue, black_box(&STORED), NOW_US, false));
    }
    (writer, queue)
}

fn used(table: Table) -> (Table, Vec<u8>) {
    let body = order(ORDER_BYTES);
    black_box(table.encode(&[delivery(record(&body))]));
    (table, body)
}

fn created_table() -> (Table, Vec<u8>) {
    used(Table::created())
}

fn table_of_pointers() -> (Table, Vec<u8>) {
    used(Table::of_pointers())
}

#[library_benchmark]
#[bench::created_table(setup = created_table, config = at_most(191_000))]
#[bench::table_of_pointers(setup = table_of_pointers, config = at_most(692_600))]
fn mapping((table, body): (Table, Vec<u8>)) -> (Table, Vec<u8>) {
    for _ in 0..TIMES {
        black_box(table.plan.mapping.rows(black_box(&delivery(record(&body)))).unwrap());
    }
    (table, body)
}

#[library_benchmark]
#[bench::created_table(setup = created_table, config = at_most(659_000))]
#[bench::table_of_pointers(setup = table_of_pointers, config = at_most(946_900))]
fn copy_text((table, body): (Table, Vec<u8>)) -> (Table, Vec<u8>) {
    for _ in 0..TIMES {
        black_box(table.encode(black_box(&[delivery(record(&body))])));
    }
    (table, body)
}

struct Prepared {
    way: Way,
    request: Vec<u8>,
    table: Table,
    in_flight: Vec<InFlight>,
}

fn used_way() -> Prepared {
    let (way, request, table) = (Way::new(0), whole_request(), Table::created());
    let mut prepared = Prepared { way, request, table, in_flight: Vec::with_capacity(TIMES) };
    go(&mut prepared);
    prepared
}

/// From the bytes of requests that share a batch to their responses and their rows.
fn go(prepared: &mut Prepared) {
    let Prepared { way, request, table, in_flight } = prepared;
    in_flight.extend((0..TIMES).map(|_| way.submit(black_box(request))));
    way.gather();
    let sealed = way.seal();
    black_box(way.deliver(&sealed, table));
    way.complete(&sealed);
    way.hand_out();
    for one in in_flight.drain(..) {
        black_box(way.respond(one));
    }
}

#[library_benchmark]
#[bench::requests_64(setup = used_way, config = at_most(1_420_000))]
fn whole_way(mut prepared: Prepared) -> Prepared {
    go(&mut prepared);
    prepared
}

library_benchmark_group!(
    name = stages,
    benchmarks =
        [encode, decode, append, seal, recovery_scan, pacing, looking, response, mapping, copy_text, whole_way]
);
main!(library_benchmark_groups = stages);
