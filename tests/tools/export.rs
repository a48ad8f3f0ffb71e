//! What is exported is what was sent, over damage too.

use super::*;
use forebay::journal::format::{BatchHeader, SegmentIdentity};
use zerocopy::FromBytes;

/// Exports; returns the exit code, the lines, and what was said beside them.
pub fn export(site: &Site, arguments: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let arguments = [&["--queue", "orders"], arguments].concat();
    let (code, out, err) = site.tool("export", &arguments);
    (code, out.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), err)
}

/// Where the batches of a segment file begin.
pub fn batches(path: &Path) -> Vec<(usize, BatchHeader)> {
    let bytes = fs::read(path).unwrap();
    let identity = SegmentIdentity::read_header(&bytes).unwrap();
    let mut offset = 4096;
    let mut found = Vec::new();
    while let Ok((header, _)) = BatchHeader::decode(&identity, &bytes[offset..]) {
        found.push((offset, header));
        offset += header.padded_bytes();
    }
    found
}

fn header_of(path: &Path, offset: usize) -> BatchHeader {
    let bytes = fs::read(path).unwrap();
    BatchHeader::read_from_prefix(&bytes[offset..]).unwrap().0
}

pub fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn all_that_is_undelivered_is_exported_as_it_was_sent() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    let first = client.accept("orders", "first");
    let headers = [("forebay-key", "k1"), ("idempotency-key", "i1"), ("content-type", "application/json")];
    let second = client.post("orders", &headers, "{\"a\":\"é\"}").text("ticket");
    let third = client.post("orders", &[], [0xff, 0xfe, 0].as_slice()).text("ticket");
    server.stop();
    let (code, lines, said) = export(&site, &["--from", "1"]);
    assert_eq!((code, lines.len()), (Some(0), 3), "{said}");
    assert!(said.contains("3 records of queue orders written"), "{said}");
    for (line, ticket) in lines.iter().zip([&first, &second, &third]) {
        assert_eq!(line["ticket"], **ticket);
        let received_at = line["received_at"].as_str().unwrap();
        assert!(received_at.starts_with("20") && received_at.ends_with('Z'), "{received_at}");
    }
    assert_eq!((&lines[0]["sequence"], &lines[0]["body"]), (&1.into(), &"first".into()));
    for (field, value) in
        [("key", "k1"), ("idempotency_key", "i1"), ("content_type", "application/json"), ("body", "{\"a\":\"é\"}")]
    {
        assert_eq!(lines[1][field], value);
    }
    assert_eq!(lines[2]["body_base64"], "//4A");
    assert!(lines[2].get("body").is_none() && lines[2].get("key").is_none(), "{}", lines[2]);
    let (_, lines, _) = export(&site, &["--from", "2", "--to", "2"]);
    assert_eq!((lines.len(), &lines[0]["sequence"]), (1, &2.into()));
    // Without --from, the cursor is the beginning, and the text says what that means.
    let (code, _, said) = export(&site, &[]);
    assert_eq!(code, Some(0));
    assert!(said.contains("lower bound") && said.contains("SELECT position FROM forebay_position"), "{said}");
}

#[test]
fn an_export_goes_into_a_new_file_and_never_over_one() {
    let site = site_with_backlog();
    let file = site.path().join("out.ndjson");
    let arguments = ["--from", "1", "--output", file.to_str().unwrap()];
    assert_eq!(export(&site, &arguments).0, Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 240);
    let (code, _, said) = export(&site, &arguments);
    assert_eq!(code, Some(1));
    assert!(said.contains("out.ndjson"), "{said}");
}

#[test]
fn behind_damage_the_export_goes_on() {
    let site = site_with_backlog();
    let files = site.files("orders", "seg");
    let (offset, header) = batches(&files[1])[0];
    // In the body of the batch's first record.
    flip(&files[1], offset + 64 + 200);
    // And a segment whose header is gone.
    flip(&files[2], 30);
    let (code, lines, said) = export(&site, &["--from", "1"]);
    let lost = header.first_sequence.get();
    assert_eq!((code, lines.len()), (Some(1), 239), "{said}");
    assert!(said.contains(&format!("not written: sequence {lost}: damaged")), "{said}");
    assert!(lines.iter().all(|line| line["sequence"] != lost));
    let (code, out, _) = site.tool("verify", &[]);
    assert_eq!(code, Some(1));
    for part in [
        format!("{}: byte {offset}: damaged up to byte", files[1].display()),
        format!("{}: byte 0: the segment's header", files[2].display()),
        "2 findings".to_owned(),
    ] {
        assert!(out.contains(&part), "{part:?} is not in\n{out}");
    }
    assert_eq!(inspect(&site)["queues"][0]["segments"][2]["state"], "damaged");
    let (code, out, _) = site.tool("verify", &["--json"]);
    assert_eq!(code, Some(1));
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&document["intact"], &document["records"], &document["marks"]),
        (&false.into(), &239.into(), &0.into())
    );
    let [batch, header] = &document["findings"].as_array().unwrap()[..] else { panic!("{out}") };
    assert_eq!((&batch["kind"], &batch["offset"]), (&"batch".into(), &offset.into()), "{out}");
    let end = header_of(&files[1], offset).next_sequence() - 1;
    assert_eq!((&batch["first_sequence"], &batch["last_sequence"]), (&lost.into(), &end.into()), "{out}");
    assert_eq!((&header["kind"], &header["first_sequence"]), (&"header".into(), &Value::Null), "{out}");
    assert_eq!(header["file"], *files[2].display().to_string());
}

#[test]
fn findings_of_several_queues_are_each_said_once() {
    let site = Site::new(&format!("{SMALL_JOURNAL}{STANDSTILL}[queues.payments]\nrate = \"1/h\"\n"));
    let server = site.start();
    let mut client = server.client();
    for queue in ["orders", "payments"] {
        client.accept(queue, "one");
    }
    server.stop();
    for queue in ["orders", "payments"] {
        flip(&site.files(queue, "seg")[0], 30);
    }
    fs::write(site.data().join("epoch"), "many\n").unwrap();
    let (code, out, _) = site.tool("verify", &[]);
    assert_eq!((code, out.matches("the segment's header").count()), (Some(1), 2), "{out}");
    assert!(out.contains("epoch: the file is damaged") && out.contains("3 findings"), "{out}");
    let (_, out, _) = site.tool("verify", &["--json", "--queue", "payments"]);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["findings"].as_array().unwrap().len(), 2, "{out}");
}

#[test]
fn a_missing_segment_is_said() {
    let site = site_with_backlog();
    let files = site.files("orders", "seg");
    let first = batches(&files[1])[0].1.first_sequence.get();
    fs::remove_file(&files[1]).unwrap();
    let (code, _, said) = export(&site, &["--from", "1"]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("not written: sequences {first} to")), "{said}");
    let (code, out, _) = site.tool("verify", &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("but the one before it ends with"), "{out}");
}

#[test]
fn small_files_are_checked_too() {
    let site = site_with_backlog();
    let keys = site.files("orders", "keys").remove(0);
    let (cursor, epochs) = (site.queue("orders").join("cursor"), site.queue("orders").join("epochs"));
    fs::write(&cursor, "7 00000000\n").unwrap();
    flip(&keys, 20);
    fs::write(&epochs, "2 1\n").unwrap();
    fs::write(site.queue("orders").join("dead-letters.ndjson"), "{\"sequence\":1\n").unwrap();
    let (code, out, _) = site.tool("verify", &[]);
    assert_eq!(code, Some(1), "{out}");
    for part in ["the cursor is damaged", "idempotency keys is damaged", "in start 1, but", "the line is damaged"] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    fs::write(site.data().join("identity"), "00\n").unwrap();
    let (code, out, _) = site.tool("verify", &[]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("identity: the file is damaged"), "{out}");
}

#[test]
fn dead_letters_are_exported_and_left_out_of_the_undelivered() {
    let site = site_with_dead_letter();
    let (code, lines, said) = export(&site, &["--dead"]);
    assert_eq!((code, lines.len()), (Some(0), 1), "{said}");
    assert_eq!((&lines[0]["sequence"], &lines[0]["body"]), (&2.into(), &"bad".into()));
    assert!(lines[0]["reason"].as_str().unwrap().contains("CHECK"), "{}", lines[0]);
    let (_, lines, said) = export(&site, &["--from", "1"]);
    assert_eq!((lines.len(), &lines[0]["body"]), (1, &"good".into()));
    assert!(said.contains("1 left out because they are dead letters"), "{said}");
}
