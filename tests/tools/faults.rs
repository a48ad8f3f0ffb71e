//! Repairs that do not come to their end, and disks that do not give out what they hold.

use forebay::journal::directory::DataDirectory;
use forebay::journal::findings::Damage;
use forebay::journal::idempotency::IdempotencyIndex;
use forebay::journal::platform::{Platform, System};
use forebay::journal::records::{Cause, Missing, visit};
use forebay::journal::recovery::{RecoveryError, recover};
use forebay::journal::repair::{Action, Options, RepairError, repair_queue};
use forebay::journal::survey::{QueuePlace, Survey};
use forebay::journal::verify::{Report, verify_queue};
use forebay::limits::BLOCK_BYTES;
use forebay::record::{RECORD_HEADER_BYTES, Record, Sequence};

use super::export::{batches, flip};
use super::faulty::{Fault, Faulty};
use super::repair::assert_delivers_all_but;
use super::*;

const NOW_US: u64 = 1_750_000_000_000_000;
/// Threads that try operations; they mostly wait for syncs.
const THREADS: usize = 8;
const FOOTER: usize = 64 * 1024 - BLOCK_BYTES;

/// What a repair did: what it lost, and from where on nobody knows.
type Outcome = (Vec<Sequence>, Option<Sequence>);

fn queue(data: &Path) -> QueuePlace {
    Survey::open(data).unwrap().queue("orders")
}

fn repair_on<P: Platform>(queue: &QueuePlace<P>, epoch: u64, cut: &str) -> Result<Outcome, RepairError> {
    let cut_directory = queue.directory.join(cut);
    let options = Options { apply: true, segment: None, cut_directory: &cut_directory, epoch, now_us: NOW_US };
    let (mut all_lost, mut unknown) = (Vec::new(), None);
    repair_queue(queue, &options, |repair| {
        match &repair.action {
            Action::Rewrite { lost, unknown_from, .. } => {
                all_lost.extend(lost.iter().cloned().flatten());
                unknown = unknown.or(*unknown_from);
            }
            Action::FillGap { lost } => all_lost.extend(lost.clone()),
            Action::CutKeys { .. } => {}
        }
        Ok(())
    })?;
    Ok((all_lost, unknown))
}

fn start(queue: &QueuePlace) -> Result<Sequence, RecoveryError> {
    let keys = IdempotencyIndex::new(600_000, 1000);
    Ok(recover(&System, &queue.directory, queue.id, keys, NOW_US / 1_000_000)?.next_sequence)
}

/// All records that can be read, with their bodies, and what is missing.
fn contents<P: Platform>(queue: &QueuePlace<P>) -> (BTreeMap<Sequence, Vec<u8>>, Vec<Missing>) {
    let mut found = BTreeMap::new();
    let missing = visit(queue, &(1..=Sequence::MAX), |record| {
        found.insert(record.sequence, record.record.body.to_vec());
        Ok(())
    });
    (found, missing.unwrap())
}

fn put(files: &BTreeMap<PathBuf, Vec<u8>>, from: &Path, to: &Path) {
    for (path, bytes) in files {
        let path = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A site with every kind of damage that a repair mends, and the sequences that are lost.
fn damaged_site() -> (Site, Vec<Sequence>) {
    let site = site_with_backlog();
    let files = site.files("orders", "seg");
    flip(&files[0], 20);
    let (offset, header) = batches(&files[1])[1];
    flip(&files[1], offset + 64 + 300);
    let gone = batches(&files[2]);
    let lost = std::iter::once(header.first_sequence.get())
        .chain(gone[0].1.first_sequence.get()..gone.last().unwrap().1.next_sequence())
        .collect();
    fs::remove_file(&files[2]).unwrap();
    flip(&files[3], FOOTER + 30);
    flip(&site.files("orders", "keys")[0], 20);
    (site, lost)
}

#[test]
fn a_repair_that_ends_in_any_of_its_operations_is_repeated_and_loses_no_more() {
    let (site, lost) = damaged_site();
    let before = everything(&site.data());
    let epoch = DataDirectory::open_existing(&site.data()).unwrap().epoch;
    let (readable, _) = contents(&queue(&site.data()));
    let segments = |files: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<Vec<u8>> {
        let is_segment = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "seg" || ending == "keys");
        files.iter().filter(|(path, _)| is_segment(path)).map(|(_, bytes)| bytes.clone()).collect()
    };
    let originals = segments(&before);
    let machine = Faulty::default();
    let counted = tempfile::tempdir().unwrap();
    put(&before, &site.data(), counted.path());
    assert_eq!(repair_on(&queue(counted.path()).on(machine.clone()), epoch, "cut-1").unwrap(), (lost.clone(), None));
    let operations = machine.operations();
    assert!(operations > 100, "{operations}");
    let check = |fault: Fault| {
        let directory = tempfile::tempdir().unwrap();
        put(&before, &site.data(), directory.path());
        let queue = queue(directory.path());
        let ended = repair_on(&queue.clone().on(Faulty::with_fault(fault)), epoch, "cut-1");
        assert!(ended.is_err() || matches!(fault, Fault::Fails(_)), "{fault:?}");
        // A start is refused for the damage that is left, or goes on with all that is whole; it changes nothing of that.
        let before_start = contents(&queue).0;
        assert_eq!(before_start, readable, "{fault:?}");
        if let Err(error) = start(&queue) {
            let is_damage = matches!(error, RecoveryError::Header { .. } | RecoveryError::Gap { .. })
                || error.to_string().contains("idempotency keys is damaged");
            assert!(is_damage, "{fault:?}: {error}");
        }
        repair_on(&queue, epoch, "cut-2").unwrap();
        let (now, missing) = contents(&queue);
        assert_eq!(now, readable, "{fault:?}");
        let now_missing: Vec<_> = missing.iter().flat_map(|run| run.first..=run.last).collect();
        assert_eq!(now_missing, lost, "{fault:?}");
        assert!(missing.iter().all(|missing| missing.cause == Cause::Lost), "{fault:?}: {missing:?}");
        let mut report = Report::default();
        verify_queue(&queue, &mut report, |_| {}).unwrap();
        assert_eq!(report.findings, [], "{fault:?}");
        assert_eq!(start(&queue).unwrap(), 241, "{fault:?}");
        let after = everything(directory.path());
        assert!(after.keys().all(|path| path.extension().is_none_or(|ending| ending != "repaired")), "{fault:?}");
        let kept = segments(&after);
        assert!(originals.iter().all(|bytes| kept.contains(bytes)), "{fault:?}: a file as it was is gone");
        ended.is_err()
    };
    let failures: usize = thread::scope(|scope| {
        let check = &check;
        let each = |thread: usize| {
            let numbers = (thread..operations).step_by(THREADS);
            numbers
                .flat_map(|number| [Fault::Fails(number), Fault::Kills(number)])
                .filter(|fault| check(*fault))
                .count()
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || each(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(failures > operations, "{failures} of {operations}");
}

#[test]
fn what_a_repair_has_not_finished_is_removed_by_a_start() {
    let (site, _) = damaged_site();
    let (code, out, err) = site.tool("repair", &["--queue", "orders", "--cut-damaged", "--yes"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let unfinished = site.queue("orders").join("00000000000000000001.repaired");
    fs::write(&unfinished, "half of it").unwrap();
    assert_intact(&site);
    site.start().stop();
    assert!(!unfinished.exists());
}

#[test]
fn a_full_disk_ends_a_repair_and_leaves_no_half_of_a_segment() {
    let (site, _) = damaged_site();
    let epoch = DataDirectory::open_existing(&site.data()).unwrap().epoch;
    let before = everything(&site.data());
    let mut seen = 0;
    // The first segment is rewritten before so many operations.
    for number in 0..200 {
        let directory = tempfile::tempdir().unwrap();
        put(&before, &site.data(), directory.path());
        let queue = queue(directory.path());
        let repaired = queue.directory.join("00000000000000000001.repaired");
        let ended = repair_on(&queue.on(Faulty::with_fault(Fault::Fails(number))), epoch, "cut-1");
        if matches!(ended, Err(RepairError::Io { path, .. }) if path == repaired) {
            seen += 1;
            assert!(!repaired.exists());
            let left = everything(directory.path()).into_values();
            assert!(left.eq(before.values().cloned()), "something is left");
        }
    }
    // To make it, to write it, and to sync it.
    assert_eq!(seen, 3);
}

/// The sequences of a segment's records of which some byte lies in this block, and of those behind them in their batch:
/// without a record nobody knows where the next one begins.
fn lost_with(path: &Path, block: usize) -> Vec<Sequence> {
    let bytes = fs::read(path).unwrap();
    let mut lost = Vec::new();
    for (offset, header) in batches(path) {
        let mut at = offset + 64;
        let mut is_lost = (offset..offset + 64).any(|byte| (block..block + BLOCK_BYTES).contains(&byte));
        for sequence in header.first_sequence.get()..header.next_sequence() {
            let (_, length) = Record::decode(&bytes[at..]).unwrap();
            is_lost |= at < block + BLOCK_BYTES && block < at + length;
            if is_lost {
                lost.push(sequence);
            }
            at += length;
        }
    }
    lost
}

#[test]
fn blocks_that_the_disk_does_not_give_out_cost_what_is_in_them_and_are_said() {
    const { assert!(RECORD_HEADER_BYTES + 1100 < BLOCK_BYTES) };
    let site = site_with_backlog();
    let before = everything(&site.data());
    let segment = site.files("orders", "seg")[1].clone();
    let batches = batches(&segment);
    let free = batches.last().unwrap().0 + batches.last().unwrap().1.padded_bytes();
    assert!(free < FOOTER, "a block that nothing was written to");
    for block in [0, batches[0].0, batches[0].0 + 2 * BLOCK_BYTES, batches[1].0, free, FOOTER] {
        let directory = tempfile::tempdir().unwrap();
        put(&before, &site.data(), directory.path());
        let epoch = DataDirectory::open_existing(directory.path()).unwrap().epoch;
        let expected = lost_with(&segment, block);
        assert_eq!(expected.is_empty(), [0, free, FOOTER].contains(&block));
        let machine = Faulty::with_unreadable(&[(&segment, block)]);
        let queue = queue(directory.path());
        let unreadable = queue.clone().on(machine);

        let mut report = Report::default();
        verify_queue(&unreadable, &mut report, |_| {}).unwrap();
        let said = |damage: &Damage| matches!(damage, Damage::Unreadable(_));
        let said: Vec<_> = report.findings.iter().filter(|finding| said(&finding.damage)).collect();
        assert_eq!((said.len(), said[0].offset), (1, Some(block as u64)), "{:?}", report.findings);

        let (readable, missing) = contents(&unreadable);
        assert_eq!(missing.iter().flat_map(|run| run.first..=run.last).collect::<Vec<_>>(), expected, "block {block}");
        assert!(missing.iter().all(|run| run.cause == Cause::UnreadableBytes), "{missing:?}");
        assert_eq!(readable.len(), 240 - expected.len());

        assert_eq!(repair_on(&unreadable, epoch, "cut-1").unwrap(), (expected, None), "block {block}");
        // The new file lies elsewhere on the disk.
        let mut report = Report::default();
        verify_queue(&queue, &mut report, |_| {}).unwrap();
        assert_eq!(report.findings, [], "block {block}");
        assert_eq!(contents(&queue).0, readable, "block {block}");
    }
    // And what is whole is delivered.
    let block = batches[0].0 + 2 * BLOCK_BYTES;
    let epoch = DataDirectory::open_existing(&site.data()).unwrap().epoch;
    let unreadable = queue(&site.data()).on(Faulty::with_unreadable(&[(&segment, block)]));
    let (lost, _) = repair_on(&unreadable, epoch, "cut-1").unwrap();
    assert_delivers_all_but(&site, &lost);
}

#[test]
fn an_end_of_the_journal_that_cannot_be_read_is_said_and_not_passed_over() {
    let site = site_with_backlog();
    let before = everything(&site.data());
    let segment = site.files("orders", "seg").pop().unwrap();
    let batches = batches(&segment);
    let (offset, last) = *batches.last().unwrap();
    let first = last.first_sequence.get();
    let end = offset + last.padded_bytes();
    // In its first block, in another, and where the next one would be.
    for (block, from) in [(offset, first), (offset + BLOCK_BYTES, first), (end, last.next_sequence())] {
        let directory = tempfile::tempdir().unwrap();
        put(&before, &site.data(), directory.path());
        let epoch = DataDirectory::open_existing(directory.path()).unwrap().epoch;
        let unreadable = queue(directory.path()).on(Faulty::with_unreadable(&[(&segment, block)]));
        let (_, missing) = contents(&unreadable);
        let run = missing.last().unwrap();
        assert_eq!((run.first, run.last, &run.cause), (from, Sequence::MAX, &Cause::UnreadableEnd), "block {block}");
        assert_eq!(repair_on(&unreadable, epoch, "cut-1").unwrap(), (vec![], Some(from)), "block {block}");
        assert_eq!(start(&queue(directory.path())).unwrap(), from);
    }
}

#[test]
fn a_file_of_keys_that_cannot_be_read_is_taken_away() {
    let site = site_with_backlog();
    let epoch = DataDirectory::open_existing(&site.data()).unwrap().epoch;
    let keys = site.files("orders", "keys")[0].clone();
    let unreadable = queue(&site.data()).on(Faulty::with_unreadable(&[(&keys, 0)]));
    let mut report = Report::default();
    verify_queue(&unreadable, &mut report, |_| {}).unwrap();
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    repair_on(&unreadable, epoch, "cut-1").unwrap();
    assert!(!keys.exists());
    assert!(site.queue("orders").join("cut-1").join(keys.file_name().unwrap()).exists());
    assert_delivers_all_but(&site, &[]);
}
