//! After a repair the next start succeeds, and everything that was whole is delivered.

use super::export::{batches, export, flip};
use super::*;
use forebay::journal::format::SegmentIdentity;
use forebay::limits::BLOCK_BYTES;
use server::database::{sqlite_column, until_sqlite_has};

const BODIES: &str = "SELECT substr(body, 1, instr(body, '-x') - 1) FROM forebay_orders ORDER BY rowid";

/// Repairs, and returns what was said; nothing changes without `--yes`.
fn repair(site: &Site) -> String {
    let before = everything(&site.data());
    let arguments = ["--queue", "orders", "--cut-damaged"];
    let (code, planned, err) = site.tool("repair", &arguments);
    assert_eq!(code, Some(1), "{planned}{err}");
    assert!(planned.contains("Nothing was changed"), "{planned}");
    assert!(everything(&site.data()) == before, "something on disk was changed");
    let (code, done, err) = site.tool("repair", &[&arguments[..], &["--yes"]].concat());
    assert_eq!(code, Some(0), "{done}{err}");
    let lost = |text: &str| text.lines().filter(|line| line.contains("LOST")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lost(&planned), lost(&done));
    // What was there before is there still, in the directory of what was cut.
    let after = everything(&site.data());
    for (path, bytes) in &before {
        let kept = after.get(path) == Some(bytes)
            || after.iter().any(|(other, now)| {
                other.file_name() == path.file_name() && other.display().to_string().contains("/cut-") && now == bytes
            });
        assert!(kept, "{} is gone", path.display());
    }
    let (code, again, _) = site.tool("repair", &arguments);
    assert_eq!((code, again.as_str()), (Some(0), "nothing to repair\n"));
    assert_intact(site);
    done
}

/// Starts with an unlimited rate, and waits until all but the lost sequences are delivered, in order.
pub fn assert_delivers_all_but(site: &Site, lost: &[u64]) {
    site.configure(&format!("{SMALL_JOURNAL}{UNLIMITED}"));
    let server = site.start();
    let all = (0..12).flat_map(|batch| (0..20).map(move |n| format!("{batch}-{n}")));
    let mut wanted: Vec<_> = (1..).zip(all).filter(|(s, _)| !lost.contains(s)).map(|(_, body)| body).collect();
    assert_eq!(until_sqlite_has(&site.database("orders"), wanted.len(), BODIES), wanted);
    let next = server.client().accept("orders", "next-x");
    assert!(next.starts_with("orders-f1-"), "{next}");
    wanted.push("next".to_owned());
    assert_eq!(until_sqlite_has(&site.database("orders"), wanted.len(), BODIES), wanted);
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), lost.len() as u64);
    server.stop();
    assert_intact(site);
}

fn ticket_of(site: &Site, sequence: u64) -> String {
    let number = sequence.to_string();
    let (_, lines, _) = export(site, &["--from", &number, "--to", &number]);
    lines[0]["ticket"].as_str().unwrap().to_owned()
}

#[test]
fn a_damaged_batch_in_a_sealed_segment_costs_the_records_that_are_damaged() {
    let site = site_with_backlog();
    let file = &site.files("orders", "seg")[1];
    let (offset, header) = batches(file)[1];
    let first = header.first_sequence.get();
    let ticket = ticket_of(&site, first);
    // Two neighbours among the batch's records.
    for n in [0, 1] {
        flip(file, offset + 64 + n * 1080 + 300);
    }
    let said = repair(&site);
    assert!(said.contains(&format!("LOST: sequences {first} to {} (2 records)", first + 1)), "{said}");
    assert_delivers_all_but(&site, &[first, first + 1]);
    let server = site.start();
    let status = server.client().ticket(&ticket);
    assert_eq!(status["state"], "dead", "{status}");
    assert!(status.to_string().contains("forebay repair"), "{status}");
    server.stop();
}

#[test]
fn damaged_headers_and_footers_cost_nothing() {
    let site = site_with_backlog();
    let files = site.files("orders", "seg");
    flip(&files[0], 20);
    flip(&files[1], 64 * 1024 - 4096 + 30);
    // The header of a batch.
    let (offset, _) = batches(&files[2])[1];
    flip(&files[2], offset + 13);
    flip(files.last().unwrap(), 0);
    let said = repair(&site);
    assert_eq!(said.matches("no record is lost").count(), 4, "{said}");
    assert_delivers_all_but(&site, &[]);
}

#[test]
fn damage_in_the_open_segment_before_its_end_is_cut() {
    let site = site_with_backlog();
    let file = site.files("orders", "seg").pop().unwrap();
    let (offset, header) = batches(&file)[0];
    assert!(batches(&file).len() > 1);
    flip(&file, offset + 64 + 300);
    let (code, log) = site.start_refused();
    assert_eq!(code, Some(1), "{log}");
    let said = repair(&site);
    let lost = header.first_sequence.get();
    assert!(said.contains(&format!("LOST: sequence {lost}\n")), "{said}");
    assert_delivers_all_but(&site, &[lost]);
}

#[test]
fn a_segment_of_which_nothing_is_left_and_one_that_is_gone_are_marked_as_lost() {
    let site = site_with_backlog();
    let files = site.files("orders", "seg");
    let held = |file: &Path| {
        let batches = batches(file);
        batches[0].1.first_sequence.get()..batches.last().unwrap().1.next_sequence()
    };
    let lost: Vec<_> = held(&files[1]).chain(held(&files[3])).collect();
    fs::write(&files[1], vec![0xa5; 64 * 1024]).unwrap();
    fs::remove_file(&files[3]).unwrap();
    let said = repair(&site);
    assert_eq!(said.matches("LOST: sequences").count(), 2, "{said}");
    let (code, lines, said) = export(&site, &["--from", "1"]);
    assert_eq!((code, lines.len()), (Some(1), 240 - lost.len()), "{said}");
    assert!(said.contains("lost, as an earlier repair has noted"), "{said}");
    assert_delivers_all_but(&site, &lost);
}

#[test]
fn of_a_segment_that_was_cut_short_the_beginning_is_kept() {
    let site = site_with_backlog();
    let file = &site.files("orders", "seg")[1];
    let batches = batches(file);
    let (offset, header) = batches[1];
    // No whole number of blocks or sectors, and in the middle of the second batch.
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(offset as u64 + 9000).unwrap();
    let (code, lines, said) = export(&site, &["--from", "1"]);
    assert_eq!(code, Some(1), "{said}");
    let kept: Vec<_> = lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert!(kept.contains(&(header.first_sequence.get() - 1)), "{kept:?}");
    let lost: Vec<_> = (1..=240).filter(|sequence| !kept.contains(sequence)).collect();
    assert!(lost.len() < batches.len() * 20, "{lost:?}");
    repair(&site);
    assert_delivers_all_but(&site, &lost);
}

#[test]
fn a_damaged_file_of_keys_is_taken_away() {
    let site = site_with_backlog();
    flip(&site.files("orders", "keys")[0], 20);
    let said = repair(&site);
    assert!(said.contains("makes it anew from its segment"), "{said}");
    let server = site.start();
    let again = server.client().post("orders", &[NDJSON, ("idempotency-key", "k0")], "x\n");
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again:?}");
    server.stop();
    assert_intact(&site);
}

#[test]
fn a_file_that_cannot_belong_there_is_not_repaired_around() {
    let site = site_with_backlog();
    fs::write(site.queue("orders").join(format!("{}.seg", u64::MAX)), "not ours").unwrap();
    let (code, out, _) = site.tool("verify", &[]);
    assert_eq!(code, Some(1), "{out}");
    let (code, lines, said) = export(&site, &["--from", "1"]);
    assert_eq!((code, lines.len()), (Some(1), 240), "{said}");
    let (code, _, said) = site.tool("repair", &["--queue", "orders", "--cut-damaged", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("more than these bytes can have held"), "{said}");
}

/// Its sequence could be the next one, but its count of bytes is that of a much older queue.
#[test]
fn a_segment_of_another_queue_is_not_repaired_around() {
    let site = site_with_backlog();
    let stranger =
        SegmentIdentity { queue_id: 1, generation: 2, first_sequence: 300, first_byte: 1 << 50, capacity: 64 * 1024 };
    let mut block = [0; BLOCK_BYTES];
    stranger.write_header(1, 0, &mut block);
    let mut file = block.to_vec();
    file.resize(64 * 1024, 0);
    fs::write(site.queue("orders").join(format!("{:020}.seg", stranger.first_sequence)), file).unwrap();
    let (code, lines, said) = export(&site, &["--from", "1"]);
    assert_eq!((code, lines.len()), (Some(1), 240), "{said}");
    let before = everything(&site.data());
    let (code, _, said) = site.tool("repair", &["--queue", "orders", "--cut-damaged", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("more than these bytes can have held"), "{said}");
    assert!(everything(&site.data()) == before, "something on disk was changed");
}

#[test]
fn a_live_directory_and_a_repair_without_a_choice_are_refused() {
    let site = site_with_backlog();
    let server = site.start();
    let (code, _, said) = site.tool("repair", &["--queue", "orders", "--cut-damaged"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use by another forebay"), "{said}");
    server.stop();
    let (code, _, said) = site.tool("repair", &["--queue", "orders", "--yes"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--cut-damaged"), "{said}");
    let (code, out, _) = site.tool("repair", &["--queue", "orders", "--cut-damaged", "--yes"]);
    assert_eq!((code, out.as_str()), (Some(0), "nothing to repair\n"));
}

#[test]
fn what_was_delivered_before_is_not_touched_by_a_repair() {
    let site = Site::new(&format!("{SMALL_JOURNAL}{UNLIMITED}"));
    let server = site.start();
    let mut client = server.client();
    let tickets: Vec<_> = (0..5).map(|n| client.accept("orders", format!("{n}-x"))).collect();
    server.until_delivered(&tickets[4]);
    server.stop();
    let file = site.files("orders", "seg").pop().unwrap();
    flip(&file, batches(&file)[1].0 + 64 + 50);
    let said = repair(&site);
    assert!(said.contains("LOST: sequence 2\n"), "{said}");
    let server = site.start();
    let mut client = server.client();
    for ticket in &tickets {
        assert_eq!(client.ticket(ticket)["state"], "delivered");
    }
    let last = client.accept("orders", "5-x");
    server.until_delivered(&last);
    assert_eq!(sqlite_column(&site.database("orders"), BODIES), ["0", "1", "2", "3", "4", "5"]);
    server.stop();
}
