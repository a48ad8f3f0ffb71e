//! How long each stage takes by itself, and all of them in a row.
//!
//! `cargo bench --bench stages`. The stage with a disk works in `FOREBAY_BENCH_DIR`, by default in the target directory.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench that cannot go on should panic")]

mod stand;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::drain::pacer::{Pace, Pacer, Tolerance};
use forebay::ingress::http::fast_path::request::{Bounds, look};
use forebay::ingress::http::fast_path::response::ResponseWriter;
use forebay::journal::platform::{Platform as _, System};
use forebay::journal::scan::scan;
use forebay::journal::segment_file::create_zeroed;
use forebay::journal::uring::{Disk, Write};
use forebay::limits::{HEAD_BYTES_MAX, IN_FLIGHT_MAX, RECORD_BYTES_MAX, RING_BYTES, SEGMENT_BYTES};
use forebay::record::Record;
use forebay::ring::{Bell, Completion, IngressEnd, JournalEnd, Outcome, ring};
use stand::journal::{Log, full_segment};
use stand::rows::{Table, delivery};
use stand::way::{Way, queue};
use stand::{NOW_US, ORDER_BYTES, encoded, frame, frame_header, order, record, request};

const BODIES: [usize; 2] = [ORDER_BYTES, 4096];

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    for bytes in BODIES {
        let body = order(bytes);
        let encoded = encoded(bytes);
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        let mut out = Vec::with_capacity(encoded.len());
        group.bench_function(format!("encode/{bytes}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                record(black_box(&body)).encode(&mut out).unwrap();
                black_box(out.len())
            });
        });
        group.bench_function(format!("decode/{bytes}"), |bencher| {
            bencher.iter(|| black_box(Record::decode(black_box(&encoded)).unwrap()));
        });
    }
    group.finish();
}

/// Wakes a thread, where the server wakes an executor.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The journal's side of a ring, which completes whatever comes and sleeps on its bell as the journal does.
fn completer(mut journal: JournalEnd, bell: Arc<Bell>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut records = vec![0; ORDER_BYTES * 2];
        loop {
            while let Some(frame) = journal.peek() {
                journal.take(&mut records[..frame.length.get() as usize]);
                let (slot, count) = (frame.slot.get(), frame.count.get());
                journal.complete(Completion { slot, count, first_sequence: 1, outcome: Outcome::Stored });
            }
            journal.wake();
            if journal.is_finished() {
                return;
            }
            bell.sleep_unless(Duration::from_hours(1), || !journal.is_empty() || journal.is_finished());
        }
    })
}

/// Sends frames and sleeps until all of them are completed.
fn send_and_wait(ingress: &mut IngressEnd, frame: &[u8], frames: usize, waker: &Waker) {
    for _ in 0..frames {
        ingress.submit(frame).unwrap();
    }
    let mut waiting = frames;
    while waiting > 0 {
        if ingress.completion().is_some() {
            waiting -= 1;
            continue;
        }
        ingress.waker().register(waker);
        if !ingress.has_completions() {
            thread::park();
        }
    }
}

fn hand_over(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    let frame = frame();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    for frames in [1, 64] {
        let bell = Arc::new(Bell::default());
        let ring_bytes = usize::try_from(RING_BYTES).unwrap();
        let (mut ingress, journal) = ring(ring_bytes, usize::try_from(IN_FLIGHT_MAX).unwrap(), Arc::clone(&bell));
        let other = completer(journal, Arc::clone(&bell));
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(format!("there_and_back/{frames}"), |bencher| {
            bencher.iter(|| send_and_wait(&mut ingress, &frame, frames, &waker));
        });
        drop(ingress);
        bell.ring();
        other.join().unwrap();
    }
    group.finish();
}

fn bench_directory() -> PathBuf {
    std::env::var_os("FOREBAY_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    let record = encoded(ORDER_BYTES);
    let frame = frame_header(record.len());
    let parent = bench_directory();
    let directory = tempfile::tempdir_in(&parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
    let file = create_zeroed(&System, &directory.path().join("segment"), SEGMENT_BYTES, Duration::ZERO).unwrap();
    System.sync_directory(directory.path()).unwrap();
    let mut disk = Disk::new(1).unwrap();
    for records in [1, 64, 1024] {
        // Another segment is the same file from its beginning again: all of its blocks have been written.
        let mut log = Log::new(SEGMENT_BYTES, 0);
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(format!("append_and_sync/{records}"), |bencher| {
            bencher.iter(|| {
                log.make_room(records * record.len());
                for _ in 0..records {
                    log.append(&frame, &record);
                }
                let sealed = log.seal();
                let write = Write { file: &file, offset: sealed.offset, bytes: log.batch(&sealed) };
                disk.commit(std::iter::once(write)).unwrap();
                log.committed(&sealed);
            });
        });
    }
    group.finish();
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    let capacity = usize::try_from(SEGMENT_BYTES).unwrap();
    let (identity, bytes) = full_segment(capacity, 64);
    group.throughput(Throughput::Bytes(SEGMENT_BYTES));
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            let mut batches = 0_u64;
            let end = scan(&identity, black_box(&bytes), |_, _| batches += 1).unwrap();
            black_box((end, batches))
        });
    });
    group.finish();
}

fn pacing(criterion: &mut Criterion) {
    const LOOKS: u64 = 1000;
    let mut group = criterion.benchmark_group("pacer");
    group.throughput(Throughput::Elements(LOOKS));
    group.bench_function("due", |bencher| {
        let mut pacer = Pacer::new(
            Pace {
                rate: "5000/s".parse().unwrap(),
                tolerance: Tolerance::Gradual { at_once_ns: 9_000_000, in_all_ns: 109_000_000 },
            },
            0,
        );
        let mut now_ns = 0;
        bencher.iter(|| {
            for _ in 0..LOOKS {
                now_ns += 100_000;
                let due = black_box(pacer.due(black_box(now_ns)));
                pacer.take(due, now_ns);
            }
        });
    });
    group.finish();
}

fn sinks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy_text");
    group.throughput(Throughput::Elements(1));
    let body = order(ORDER_BYTES);
    let row = [delivery(record(&body))];
    for (name, table) in [("created_table", Table::created()), ("table_of_pointers", Table::of_pointers())] {
        group.bench_function(name, |bencher| bencher.iter(|| black_box(table.encode(black_box(&row)))));
    }
    group.finish();
}

fn front_door(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fast_path");
    group.throughput(Throughput::Elements(1));
    let bytes = request(&order(ORDER_BYTES), "");
    let bounds = Bounds {
        head_bytes_max: usize::try_from(HEAD_BYTES_MAX).unwrap(),
        record_bytes_max: usize::try_from(RECORD_BYTES_MAX).unwrap(),
    };
    group.bench_function("look", |bencher| bencher.iter(|| black_box(look(black_box(&bytes), bounds))));
    group.bench_function("response", |bencher| {
        let mut writer = ResponseWriter::default();
        let queue = queue();
        let stored = Completion { slot: 0, count: 1, first_sequence: 1_000_000, outcome: Outcome::Stored };
        bencher.iter(|| black_box(writer.accepted(&queue, black_box(&stored), NOW_US, false).len()));
    });
    group.finish();
}

fn whole_way(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole_way");
    let bytes = request(&order(ORDER_BYTES), "");
    let table = Table::created();
    let mut way = Way::new(0);
    for requests in [1, 64] {
        let mut in_flight = Vec::with_capacity(requests);
        group.throughput(Throughput::Elements(requests as u64));
        group.bench_function(format!("in_memory/{requests}"), |bencher| {
            bencher.iter(|| {
                way.begin_turn();
                in_flight.extend((0..requests).map(|_| way.submit(black_box(&bytes))));
                way.gather();
                let sealed = way.seal();
                black_box(way.deliver(&sealed, &table));
                way.complete(&sealed);
                way.hand_out();
                for one in in_flight.drain(..) {
                    black_box(way.respond(one));
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = stages;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = records, hand_over, commit, recovery, pacing, sinks, front_door, whole_way
}
criterion_main!(stages);
