//! Reads in which order a queue's records may leave, and what holds single keys back.

use std::collections::BTreeMap;

use super::context::{Refused, Text};
use super::grammar::{is_header_name, pointer_fault};
use super::load::HOUR_MS;
use super::reader::{Field, Section};
use super::{Order, Ordering, Selector, Throttle, Window};
use crate::limits::{self, FAIR_KEY_BYTES_MAX, FAIR_WEIGHTS_MAX, GIB, KIB, SELECTOR_HEADER_BYTES_MAX};

const DAY_MS: u64 = 24 * HOUR_MS;
/// The longest delay that a queue can be told to take.
const DELAY_MS_MAX: u64 = 30 * DAY_MS;
/// The most turns that a key can get where the others get one.
const WEIGHT_MAX: u64 = 1000;
const ORDERS: [(&str, Order); 3] = [("strict", Order::Strict), ("key", Order::Key), ("none", Order::None)];
/// What a selector may be, for messages.
const SELECTORS: &str = "write \"key\" for Forebay-Key, a header such as \"header:X-Tenant\", or a JSON pointer into the \
                         body such as \"pointer:/tenant\"";

/// `several_lanes` is the line that asks for more than one transaction at a time, if one does.
pub(super) fn read_ordering(s: &mut Section<'_>, several_lanes: Option<usize>) -> Ordering {
    let order = s.choice("order", Order::Strict, &ORDERS);
    let fair_by = read_selector(s, "fair_by");
    let fair_weights = read_weights(s, fair_by.line.is_none());
    let delay = s.integer("delay_ms_max", limits::DELAY_MS_MAX, 0..=DELAY_MS_MAX);
    let mut section = s.section("throttle");
    let throttle_line = (!section.is_absent()).then(|| section.line());
    let throttle = read_throttle(&mut section);
    section.finish();
    let window = read_window(s.section("window"));
    if order.sound && order.value == Order::Strict {
        let delay_line = delay.line.filter(|_| delay.value > 0);
        refuse_strict(
            s,
            &[
                ("fair_by", fair_by.line),
                ("delay_ms_max", delay_line),
                ("throttle", throttle_line),
                ("concurrency", several_lanes),
            ],
        );
    }
    let delay_ms_max = delay.value;
    Ordering { order: order.value, fair_by: fair_by.value, fair_weights, throttle, delay_ms_max, window }
}

/// Reports what lets records overtake others, which a strict order does not allow.
pub(super) fn refuse_strict(s: &Section<'_>, given: &[(&str, Option<usize>)]) {
    for &(key, line) in given {
        let Some(line) = line else { continue };
        let key = s.key(key);
        let message = format!(
            "`{key}` lets records leave before others, and with `order = \"strict\"`, the default, none does; write \
             `order = \"key\"` to keep the order within each Forebay-Key, or `order = \"none\"`"
        );
        s.context().error(line, &key, message);
    }
}

fn read_selector(s: &mut Section<'_>, key: &'static str) -> Field<Option<Selector>> {
    match s.text(key, "header:X-Tenant") {
        Ok(None) => Field { value: None, line: None, sound: true, shown: true },
        Err(Refused) => Field { value: None, line: Some(s.line()), sound: false, shown: false },
        Ok(Some(text)) => {
            let selector = selector(&text);
            if let Err(message) = &selector {
                s.context().wrong(&text, message);
            }
            Field { sound: selector.is_ok(), value: selector.ok(), line: Some(text.line), shown: !text.secret }
        }
    }
}

/// `key`, `header:NAME` or `pointer:/PATH`.
fn selector(text: &Text) -> Result<Selector, String> {
    let value = text.value.as_str();
    let given = text.quoted();
    if value == "key" {
        return Ok(Selector::Key);
    }
    if let Some(name) = value.strip_prefix("header:") {
        return if is_header_name(name) {
            Ok(Selector::Header(name.to_ascii_lowercase()))
        } else {
            Err(format!(
                "cannot be {given}; behind `header:` write the name of an HTTP header, of at most \
                 {SELECTOR_HEADER_BYTES_MAX} bytes"
            ))
        };
    }
    match value.strip_prefix("pointer:") {
        Some(pointer) if pointer.starts_with('/') => pointer_fault(pointer).map_or_else(
            || Ok(Selector::Pointer(pointer.to_owned())),
            |fault| Err(format!("cannot be {given}; {fault}")),
        ),
        Some(_) => Err(format!("cannot be {given}; a JSON pointer begins with `/`, such as \"pointer:/tenant\"")),
        None => Err(format!("cannot be {given}; {SELECTORS}")),
    }
}

fn read_weights(s: &mut Section<'_>, is_unfair: bool) -> BTreeMap<String, u32> {
    let Ok(Some(weights)) = s.integers("fair_weights", 1..=WEIGHT_MAX) else { return BTreeMap::new() };
    let context = s.context();
    let key = s.key("fair_weights");
    if is_unfair {
        context.error(
            weights.line,
            &key,
            format!("`{key}` needs `fair_by` beside it, which says whose weights these are"),
        );
    }
    if weights.list.len() > FAIR_WEIGHTS_MAX {
        let message = format!("`{key}` has more than {FAIR_WEIGHTS_MAX} entries; keep those that are not 1");
        context.error(weights.line, &key, message);
    }
    let mut read = BTreeMap::new();
    for (name, line, weight) in weights.list {
        if name.len() > FAIR_KEY_BYTES_MAX {
            let message = format!("`{key}` has a name of {} bytes; at most {FAIR_KEY_BYTES_MAX} are taken", name.len());
            context.error(line, &key, message);
        }
        read.insert(name, u32::try_from(weight).unwrap_or(u32::MAX));
    }
    read
}

fn read_throttle(s: &mut Section<'_>) -> Option<Throttle> {
    let by = read_selector(s, "by");
    let throttle = Throttle {
        by: by.value.clone().unwrap_or(Selector::Key),
        limit: s.integer("limit", 1, 1..=limits::BURST_MAX).value,
        period_ms: s.integer("period_ms", limits::THROTTLE_PERIOD_MS, 1..=DAY_MS).value,
        burst: s.integer("burst", limits::THROTTLE_BURST, 1..=limits::BURST_MAX).value,
        keys_max: s.integer("keys_max", limits::THROTTLE_KEYS_MAX, 1..=10_000_000).count(),
    };
    if s.is_absent() {
        return None;
    }
    for (key, advice) in [("by", "by = \"header:X-Tenant\""), ("limit", "limit = 100")] {
        if !s.has(key) {
            let key = s.key(key);
            s.context().error(s.line(), &key, format!("`{key}` is missing; write such as `{advice}`"));
        }
    }
    Some(throttle)
}

fn read_window(mut s: Section<'_>) -> Window {
    let window = Window {
        records_max: s.integer("records_max", limits::WINDOW_RECORDS_MAX, 1..=limits::WINDOW_RECORDS_BOUND).count(),
        bytes_max: s.size("bytes_max", limits::WINDOW_BYTES_MAX, 4 * KIB..=64 * GIB).count(),
    };
    s.finish();
    window
}
