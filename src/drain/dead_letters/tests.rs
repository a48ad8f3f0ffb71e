//! Tests of the file of dead letters as a whole: what is on the disk, and what another start makes of it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::dead_letter_index::Fate;
use crate::limits::EXPIRED_RANGES_MAX;
use crate::rate::Rate;
use crate::record::{Attributes, Record};

fn delivery(sequence: Sequence, body: &[u8]) -> Delivery<'_> {
    let record = Record {
        received_at_us: 1,
        idempotency_hash: [0; 16],
        group_count: 1,
        key: b"k\xff",
        idempotency_key: b"",
        content_type: b"text/plain",
        attributes: Attributes::NONE,
        body,
    };
    Delivery { sequence, record, ticket: "orders-1-0" }
}

proptest! {
    #[test]
    fn reasons_and_sequences_survive_a_restart_and_a_torn_line(
        letters in prop::collection::vec((".{1,60}", prop::collection::vec(any::<u8>(), 0..80)), 1..8),
        cut in 1_usize..30,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let index = Arc::<DeadLetterIndex>::default();
        let file = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).unwrap();
        for (sequence, (reason, body)) in letters.iter().enumerate() {
            file.append(&delivery(sequence as u64, body), reason).unwrap();
        }
        drop(file);
        let path = path(directory.path());
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let index = Arc::<DeadLetterIndex>::default();
        let file = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).unwrap();
        prop_assert_eq!(index.count(), letters.len() as u64 - 1);
        let (last_reason, last_body) = letters.last().unwrap();
        file.append(&delivery(letters.len() as u64 - 1, last_body), last_reason).unwrap();
        prop_assert_eq!(std::fs::read(&path).unwrap(), whole);
        for (sequence, (expected, _)) in letters.iter().enumerate() {
            prop_assert_eq!(index.reason(sequence as u64).unwrap(), Some(expected.clone()));
        }
    }
}

#[test]
fn only_the_last_line_may_have_blocks_that_were_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(directory.path());
    let open = |index: &Arc<DeadLetterIndex>| DeadLetterFile::open(&System, directory.path(), 1 << 20, index);
    let index = Arc::<DeadLetterIndex>::default();
    let file = open(&index).unwrap();
    for sequence in [1, 2] {
        file.append(&delivery(sequence, b"x"), "why").unwrap();
    }
    drop(file);
    let whole = std::fs::read(&path).unwrap();
    let second = whole.len() / 2;
    let zeroed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at..at + 10].fill(0);
        std::fs::write(&path, bytes).unwrap();
        let index = Arc::<DeadLetterIndex>::default();
        let mut whole_lines = 0;
        let (end, _) = read(directory.path(), |_, line| {
            whole_lines += u64::from(line.is_ok());
            Ok(())
        })
        .unwrap();
        open(&index).map(|_| (index.count(), whole_lines, end))
    };
    assert_eq!(zeroed(second + 20).unwrap(), (1, 1, second as u64));
    assert!(matches!(zeroed(20), Err(DeadLetterError::Io { .. })));
}

#[test]
fn the_bound_holds_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let index = Arc::<DeadLetterIndex>::default();
    let file = DeadLetterFile::open(&System, directory.path(), 300, &index).unwrap();
    file.append(&delivery(1, b"x"), "why").unwrap();
    let error = file.append(&delivery(2, &[b'x'; 300]), "why").unwrap_err();
    assert!(error.to_string().contains("dead_letters_bytes_max = 300"), "{error}");
    assert_eq!(index.count(), 1);
}

fn open(directory: &Path, bytes_max: u64) -> (DeadLetterFile, Arc<DeadLetterIndex>) {
    let index = Arc::<DeadLetterIndex>::default();
    let file = DeadLetterFile::open(&System, directory, bytes_max, &index).unwrap();
    (file, index)
}

/// What can be seen of each letter, and what the sink's position must be compared with.
fn state(file: &DeadLetterFile, index: &DeadLetterIndex) -> impl PartialEq + std::fmt::Debug + use<> {
    let letters: Vec<_> = (0..9).map(|n| (index.entry(n).map(|e| e.state), file.letter(n).ok().map(|l| l.1))).collect();
    let counts = [index.count(), index.redriving(), index.redriven(), index.purged(), index.last_number()];
    let expired = (index.expired(), index.expired_page(0, usize::MAX));
    (letters, counts, index.redrives(), index.redrive_rate(), file.redrive_id(), expired)
}

const BY: Request<'static> = Request { by: "ann", at_us: 7 };
const RATE: Rate = Rate::Limited { records: 1, period_ns: 20 };

proptest! {
    /// Whatever is done, another start and a rewrite of the file know the same; numbers are never given twice.
    #[test]
    fn what_was_done_survives_a_restart_and_a_rewrite(steps in prop::collection::vec((0_u8..10, 1_u64..9), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let (mut file, mut index) = open(directory.path(), 1 << 20);
        let mut expired = BTreeSet::new();
        for (at_us, (step, n)) in (1..).zip(steps) {
            let these = Selection::These(vec![n]);
            let last_number = index.last_number();
            match step {
                0 | 1 if !index.contains(n) => file.append(&delivery(n, b"body"), "why").unwrap(),
                2 => drop(file.edit(n, &n.to_le_bytes(), BY)),
                3 => drop(file.redrive(&these, RATE, BY)),
                4 => drop(file.purge(&these, BY)),
                5 => drop(file.cancel(BY)),
                6 | 7 => {
                    if let Some((number, sequence)) = index.next_redrive() {
                        prop_assert!(file.send(number, sequence).unwrap().is_some());
                        if step == 6 {
                            file.redriven(number, sequence, 7).unwrap();
                        } else {
                            file.refused(number, sequence, "why again", 7).unwrap();
                        }
                    }
                }
                8 => {
                    // A letter stays one, whatever is asked for, and what has expired never becomes one.
                    let asked: Vec<_> = (n..n + 3).collect();
                    expired.extend(asked.iter().filter(|sequence| index.entry(**sequence).is_none()));
                    file.expire(&asked, at_us).unwrap();
                }
                _ => file.compact(&mut file.lock()).unwrap(),
            }
            let says = |n: &u64| matches!(index.fate(*n), Ok(Some(Fate::Expired)));
            prop_assert_eq!((1..12).filter(says).collect::<Vec<_>>(), expired.iter().copied().collect::<Vec<_>>());
            prop_assert!(expired.iter().all(|n| index.contains(*n) && index.entry(*n).is_none()));
            prop_assert!(index.last_number() >= last_number);
            let before = state(&file, &index);
            (file, index) = open(directory.path(), 1 << 20);
            prop_assert!(state(&file, &index) == before, "{:?}, then {before:?}", state(&file, &index));
            // As after a take-over: nothing is on its way.
            file.decided(0);
        }
    }
}

#[test]
fn what_has_expired_is_no_letter_and_costs_one_range_however_much_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (file, index) = open(directory.path(), 1 << 30);
    file.append(&delivery(3, b"x"), "why").unwrap();
    file.expire(&[1, 2, 3], 7).unwrap();
    let text = std::fs::read_to_string(path(directory.path())).unwrap();
    assert!(text.ends_with("{\"event\":\"expired\",\"ranges\":[[1,2]],\"at_us\":7}\n"), "{text}");
    // What is known is not written again.
    file.expire(&[2, 3], 8).unwrap();
    assert_eq!(std::fs::read_to_string(path(directory.path())).unwrap(), text);
    assert_eq!((index.expired(), index.count(), index.page(0, 9).len()), (2, 1, 1));
    assert!(matches!(file.letter(1), Err(LetterError::Unknown(1))));
    for refused in [file.redrive(&Selection::These(vec![1]), RATE, BY), file.purge(&Selection::These(vec![1]), BY)] {
        assert!(matches!(refused, Err(LetterError::Unknown(1))), "{refused:?}");
    }
    assert_eq!((index.fate(1).unwrap(), index.reason(1).unwrap()), (Some(Fate::Expired), None));
    for first in (4..1_000_004).step_by(5000) {
        file.expire(&(first..first + 5000).collect::<Vec<_>>(), 9).unwrap();
    }
    assert_eq!((index.expired(), index.expired_page(0, 9).0.ranges_count()), (1_000_002, 2));
    assert!(index.expired_gone_bytes() > 0);
    file.compact(&mut file.lock()).unwrap();
    let (_, index) = open(directory.path(), 1 << 20);
    let text = std::fs::read_to_string(path(directory.path())).unwrap();
    assert!(text.starts_with("{\"event\":\"expired\",\"ranges\":[[1,2],[4,1000003]],\"at_us\":9}\n"), "{text}");
    assert_eq!((text.lines().count(), index.expired(), index.expired_gone_bytes()), (2, 1_000_002, 0));
}

/// A line for each record, none beside another: the worst that a queue can do.
#[test]
fn lines_about_what_has_expired_make_room_by_becoming_few() {
    const RECORDS: u64 = 300;
    const BYTES_MAX: u64 = 6000;
    let directory = tempfile::tempdir().unwrap();
    let (file, index) = open(directory.path(), BYTES_MAX);
    for sequence in (1..=RECORDS).map(|n| 2 * n) {
        file.expire(&[sequence], sequence).unwrap();
        assert!(file.lock().storage.bytes() <= BYTES_MAX);
    }
    drop(file);
    let (file, again) = open(directory.path(), BYTES_MAX);
    assert_eq!((index.expired(), again.expired_page(0, usize::MAX)), (RECORDS, index.expired_page(0, usize::MAX)));
    // The bound holds all the same: what can be made no smaller is refused, and nothing changes.
    let beyond =
        (1..=BYTES_MAX).map(|n| 2 * RECORDS + 2 * n).find(|sequence| file.expire(&[*sequence], 7).is_err()).unwrap();
    assert!(matches!(file.expire(&[beyond], 7), Err(DeadLetterError::Full { .. })));
    assert!(!again.contains(beyond) && std::fs::metadata(path(directory.path())).unwrap().len() <= BYTES_MAX);
}

#[test]
fn many_ranges_are_rewritten_as_lines_of_bounded_length() {
    let directory = tempfile::tempdir().unwrap();
    let (file, index) = open(directory.path(), 1 << 20);
    let apart: Vec<_> = (0..=2 * EXPIRED_RANGES_MAX as u64).map(|n| 2 * n).collect();
    file.expire(&apart, 7).unwrap();
    file.compact(&mut file.lock()).unwrap();
    let text = std::fs::read_to_string(path(directory.path())).unwrap();
    let ranges: Vec<_> = text.lines().map(|line| line.matches("],").count()).collect();
    assert_eq!(ranges, [EXPIRED_RANGES_MAX, EXPIRED_RANGES_MAX, 1]);
    let (_, again) = open(directory.path(), 1 << 20);
    assert_eq!(again.expired_page(0, usize::MAX), index.expired_page(0, usize::MAX));
    assert_eq!((again.expired(), again.expired_gone_bytes()), (apart.len() as u64, 0));
}

#[test]
fn a_rewrite_that_fails_waits_for_more_or_for_somebody() {
    let directory = tempfile::tempdir().unwrap();
    let (file, index) = open(directory.path(), 1 << 30);
    let in_the_way = directory.path().join("dead-letters-new");
    std::fs::create_dir(&in_the_way).unwrap();
    let bytes = || file.lock().storage.bytes();
    let mut first = 1_000_000;
    let mut expire_apart_and_then_between = || {
        for offset in [0, 1] {
            file.expire(&(0..5000).map(|n| first + 2 * n + offset).collect::<Vec<_>>(), 7).unwrap();
        }
        first += 10_000;
    };
    while index.expired_gone_bytes() < DEAD_LETTERS_COMPACT_BYTES_MIN {
        expire_apart_and_then_between();
    }
    let from_bytes = file.lock().compact_from_bytes;
    assert!(from_bytes > bytes(), "{from_bytes}");
    std::fs::remove_dir(&in_the_way).unwrap();
    while bytes() < from_bytes - 400_000 {
        expire_apart_and_then_between();
    }
    assert_eq!(file.lock().compact_from_bytes, from_bytes, "it was not waited for");
    file.append(&delivery(1, b"x"), "why").unwrap();
    file.purge(&Selection::These(vec![1]), BY).unwrap();
    assert!(bytes() < 1000 && file.lock().compact_from_bytes == 0, "{}", bytes());
    let expired = index.expired();
    while index.expired_gone_bytes() > 0 || index.expired() == expired {
        assert!(bytes() < 2 * DEAD_LETTERS_COMPACT_BYTES_MIN, "nothing was rewritten");
        expire_apart_and_then_between();
    }
    assert_eq!(open(directory.path(), 1 << 20).1.expired(), index.expired());
}

#[test]
fn a_range_that_ends_before_it_begins_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(path(directory.path()), "{\"event\":\"expired\",\"ranges\":[[9,4]],\"at_us\":1}\n").unwrap();
    let index = Arc::<DeadLetterIndex>::default();
    let error = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).err().unwrap().to_string();
    assert!(error.contains("the line at byte 0 is damaged: the range 9 to 4"), "{error}");
}

#[test]
fn a_rewrite_drops_the_bodies_of_what_has_left_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (file, index) = open(directory.path(), 1 << 20);
    for sequence in 1..=3 {
        file.append(&delivery(sequence, &[b'a' + u8::try_from(sequence).unwrap(); 500]), "why").unwrap();
    }
    file.redrive(&Selection::These(vec![1]), RATE, BY).unwrap();
    file.redriven(1, 1, 7).unwrap();
    file.purge(&Selection::These(vec![2]), BY).unwrap();
    let before = file.letter(3).unwrap();
    file.compact(&mut file.lock()).unwrap();
    let text = std::fs::read_to_string(path(directory.path())).unwrap();
    assert!(!text.contains("bbb") && !text.contains("ccc") && text.contains("ddd"), "{text}");
    assert!(text.contains("\"purged\"") && text.contains("\"redriven\"") && text.contains("ann"), "{text}");
    assert_eq!((file.letter(3).unwrap().1, index.gone_bytes()), (before.1, 0));
    // Their bodies are gone, so a database that was set back cannot have them again; what is here still can.
    assert_eq!(file.revive(0, 7).unwrap(), 1);
    file.append(&delivery(4, b"x"), "why").unwrap();
    let (file, index) = open(directory.path(), 1 << 20);
    assert_eq!((index.count(), file.letter(4).unwrap().1.reason.as_str()), (2, "why"));
    assert!(matches!(file.letter(2), Err(LetterError::Gone(2))));
}

#[test]
fn what_is_on_its_way_can_neither_be_cancelled_nor_purged() {
    let directory = tempfile::tempdir().unwrap();
    let (file, index) = open(directory.path(), 1 << 20);
    file.append(&delivery(1, b"x"), "why").unwrap();
    file.append(&delivery(2, b""), "lost").unwrap();
    assert!(matches!(file.redrive(&Selection::These(vec![2]), RATE, BY), Err(LetterError::NoBody(2))));
    assert_eq!(file.redrive(&Selection::All, RATE, BY).unwrap(), Changed { count: 1, skipped: 1 });
    let letter = file.send(1, 1).unwrap().unwrap();
    assert_eq!((letter.delivery().record.body, letter.delivery().ticket), (&b"x"[..], "orders-1-0"));
    assert_eq!(file.cancel(BY).unwrap(), Changed { count: 0, skipped: 1 });
    assert!(matches!(file.purge(&Selection::These(vec![1]), BY), Err(LetterError::Redriving(1))));
    // After a crash nobody knows, until the sink has said it.
    let (again, _) = open(directory.path(), 1 << 20);
    assert_eq!(again.cancel(BY).unwrap().count, 0);
    again.decided(0);
    assert_eq!(again.cancel(BY).unwrap().count, 1);
    drop((file, index));
}

#[test]
fn a_letter_whose_line_is_gone_without_a_word_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let event = r#"{"event":"cancelled","sequences":[4],"at_us":1,"by":"ann"}"#;
    std::fs::write(path(directory.path()), format!("{event}\n")).unwrap();
    let index = Arc::<DeadLetterIndex>::default();
    let error = DeadLetterFile::open(&System, directory.path(), 1 << 20, &index).err().unwrap();
    assert!(error.to_string().contains("sequence 4 is not in the file"), "{error}");
}
