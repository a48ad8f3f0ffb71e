//! Pointers into bodies: what a column gets is what `serde_json` finds in a tree, with numbers as they were written.
#![no_main]

use std::collections::HashMap;

use forebay::config::{Conflict, Source, Target};
use forebay::record::{Attributes, NO_KEY, Record};
use forebay::sink::mapping::{Plan, Value};
use forebay::sink::{Delivery, Dialect, SinkError};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const POINTERS_MAX: usize = 16;

fuzz_target!(|data: &[u8]| {
    // The first line holds the pointers, with blanks between them.
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(line) = std::str::from_utf8(&data[..end]) else { return };
    let pointers: Vec<&str> = line.split(' ').filter(|pointer| is_pointer(pointer)).take(POINTERS_MAX).collect();
    if pointers.is_empty() {
        return;
    }
    let body = &data[end + 1..];
    let column = |pointer: &&str| (format!("column{pointer}"), Source::Pointer((*pointer).to_owned()).into());
    let target = Target::Table {
        table: "orders".to_owned(),
        columns: pointers.iter().map(column).collect(),
        rows: None,
        conflict: Conflict::Error,
    };
    let Ok(Plan::Table(plan)) = Plan::new(&target, "orders", Dialect::Sqlite) else { panic!("a table of columns") };
    let record = Record {
        received_at_us: 1,
        idempotency_hash: NO_KEY,
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"",
        attributes: Attributes::NONE,
        body,
    };
    let delivery = Delivery { sequence: 1, record, ticket: "orders-1-0" };
    let rows = plan.mapping.rows(&delivery);
    let row = rows.as_ref().map_err(Clone::clone).and_then(|rows| rows.row(0));
    let tree =
        std::str::from_utf8(body).map_err(drop).and_then(|text| Ok((text, serde_json::from_str(text).map_err(drop)?)));
    match tree {
        Ok((text, tree)) => check_row(&pointers, text, &tree, &row.expect("a body that is JSON")),
        // A tree can hold less than text: the range of numbers, halves of surrogate pairs, depth.
        Err(()) if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => drop(row),
        Err(()) => assert!(matches!(row, Err(SinkError::Permanent { message }) if message.contains("not JSON"))),
    }
});

/// Whether the configuration lets it through.
fn is_pointer(text: &str) -> bool {
    text.starts_with('/') && text.replace("~0", "").replace("~1", "").find('~').is_none()
}

fn check_row(pointers: &[&str], text: &str, tree: &serde_json::Value, row: &[Value<'_>]) {
    assert_eq!(row.len(), pointers.len());
    for (pointer, value) in pointers.iter().zip(row) {
        let wanted = tree.pointer(pointer);
        match (value, wanted) {
            (Value::Null, None | Some(serde_json::Value::Null)) => {}
            (Value::Boolean(found), Some(serde_json::Value::Bool(wanted))) => assert_eq!(found, wanted),
            (Value::Text(found), Some(serde_json::Value::String(wanted))) => assert_eq!(found, wanted),
            (Value::Number(found), Some(serde_json::Value::Number(_))) => {
                assert_eq!(Some(found.as_ref()), written(text, pointer), "{pointer}");
            }
            (Value::Text(found), Some(wanted @ (serde_json::Value::Array(_) | serde_json::Value::Object(_)))) => {
                assert_eq!(serde_json::from_str::<serde_json::Value>(found).as_ref().ok(), Some(wanted));
                assert_eq!(Some(found.as_ref()), written(text, pointer).map(without_blanks).as_deref(), "{pointer}");
            }
            (found, wanted) => panic!("{pointer}: {found:?} instead of {wanted:?}"),
        }
    }
}

/// The text of a value as it stands in the body, found level by level.
fn written<'a>(text: &'a str, pointer: &str) -> Option<&'a str> {
    let mut value = text;
    for token in pointer.split('/').skip(1) {
        let name = token.replace("~1", "/").replace("~0", "~");
        value = if let Ok(mut members) = serde_json::from_str::<HashMap<String, &RawValue>>(value) {
            members.remove(&name)?.get()
        } else {
            let elements = serde_json::from_str::<Vec<&RawValue>>(value).ok()?;
            elements.get(name.parse::<usize>().ok()?)?.get()
        };
    }
    Some(value.trim_matches([' ', '\t', '\n', '\r']))
}

fn without_blanks(json: &str) -> String {
    let mut is_string = false;
    let mut is_escape = false;
    let mut kept = String::new();
    for character in json.chars() {
        if is_string {
            is_string = is_escape || character != '"';
            is_escape = !is_escape && character == '\\';
        } else if matches!(character, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            is_string = character == '"';
        }
        kept.push(character);
    }
    kept
}
