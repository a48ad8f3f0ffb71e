//! Reads what can be changed while the server runs: rates, batches, retries. The same reading checks the
//! configuration file and what the admin API is sent.

use serde_json::{Map, Value, json};

use super::context::{Context, Refused};
use super::load::HOUR_MS;
use super::ordering::refuse_strict;
use super::reader::Section;
use super::{Adaptive, AdaptiveMode, Batch, Order, Retry, Shaping};
use crate::limits::{self, GIB, SCHEDULE_ENTRIES_MAX};
use crate::rate::Rate;
use crate::schedule::{Entry, LOCAL, Schedule, Zone};

/// The rate of a queue that asks for none: what a small PostgreSQL takes without effort.
const RATE: Rate = Rate::Limited { records: 1, period_ns: 1_000_000 };
/// Keys of a queue that take effect with a restart only.
const FIXED: [&str; 13] = [
    "ack",
    "order",
    "fair_by",
    "fair_weights",
    "delay_ms_max",
    "throttle",
    "window",
    "max_backlog_bytes",
    "idempotency_window_ms",
    "idempotency_keys_max",
    "dead_letters_bytes_max",
    "sink",
    "sinks",
];

/// The rules of the adaptive limit; the first is the default.
const MODES: [(&str, AdaptiveMode); 3] =
    [("aimd", AdaptiveMode::Aimd), ("gradient2", AdaptiveMode::Gradient2), ("off", AdaptiveMode::Off)];

/// What it says, and the line that asks for more than one transaction at a time, if one does: a strict order has no use for them.
pub(super) fn read_shaping(section: &mut Section<'_>) -> (Shaping, Option<usize>) {
    let rate = read_rate(section, "1000/s").unwrap_or(RATE);
    let burst = section.optional_integer("burst", 1..=limits::BURST_MAX).value;
    let schedule = read_schedule(section);
    let concurrency = section.integer("concurrency", limits::CONCURRENCY, 1..=u64::from(limits::CONCURRENCY_MAX));
    let shaping = Shaping {
        rate,
        burst,
        schedule,
        concurrency: u32::try_from(concurrency.value).unwrap_or(limits::CONCURRENCY_MAX),
        batch: read_batch(section.section("batch")),
        adaptive: read_adaptive(section.section("adaptive")),
        retry: read_retry(section.section("retry")),
    };
    (shaping, concurrency.line.filter(|_| concurrency.value > 1))
}

/// The shaping that follows if `patch` (a JSON merge patch, RFC 7396) is applied to `current`, in a queue that keeps this order.
///
/// # Errors
///
/// Everything that is wrong with it, in sentences.
pub fn patch(current: &Shaping, order: Order, patch: &Value) -> Result<Shaping, Vec<String>> {
    let Value::Object(changes) = patch else {
        return Err(vec!["must be a JSON object such as {\"rate\": \"8000/s\"}".to_owned()]);
    };
    if let Some(key) = changes.keys().find(|key| FIXED.contains(&key.as_str())) {
        return Err(vec![format!(
            "`{key}` cannot be changed while the server runs; write it into the configuration and restart"
        )]);
    }
    let mut merged = written(current);
    merge(&mut merged, patch);
    let text = toml::to_string(&merged).map_err(|error| vec![format!("cannot be read: {error}")])?;
    // The environment is none of the caller's business.
    let environment = |_: &str| None;
    let context = Context::new(&text, "", &environment, &[]);
    let shaping = context.document(&text).ok().map(|document| {
        let mut root = Section::root(&context, &document);
        let (shaping, several_lanes) = read_shaping(&mut root);
        if order == Order::Strict {
            refuse_strict(&root, &[("concurrency", several_lanes)]);
        }
        root.finish();
        shaping
    });
    match (shaping, context.finish()) {
        (Some(shaping), (None, _)) => Ok(shaping),
        (_, (errors, _)) => {
            let errors = errors.iter().flat_map(super::error::ConfigErrors::errors);
            Err(errors.map(|error| error.message.clone()).collect())
        }
    }
}

/// A shaping as a configuration would have it, under the same names.
#[must_use]
pub fn written(shaping: &Shaping) -> Value {
    let Shaping { rate, burst, schedule, concurrency, batch, adaptive, retry } = shaping;
    let mode = MODES.iter().find(|(_, mode)| *mode == adaptive.mode).map_or("", |(word, _)| word);
    let mut value = json!({
        "rate": rate.to_string(),
        "time_zone": schedule.zone.name,
        "concurrency": concurrency,
        "batch": {
            "records_max": batch.records_max,
            "bytes_max": batch.bytes_max,
            "linger_ms_max": batch.linger_ms_max,
        },
        "adaptive": { "mode": mode, "share_min_percent": adaptive.share_min_percent },
        "retry": {
            "backoff_ms_min": retry.backoff_ms_min,
            "backoff_ms_max": retry.backoff_ms_max,
            "failures_max": retry.failures_max,
        },
    });
    for (key, bound) in [("attempts_max", retry.attempts_max), ("age_ms_max", retry.age_ms_max)] {
        if let Some(bound) = bound {
            value["retry"][key] = json!(bound);
        }
    }
    if let Some(burst) = burst {
        value["burst"] = json!(burst);
    }
    if !schedule.entries.is_empty() {
        let of = |time: jiff::civil::Time| time.strftime("%H:%M").to_string();
        let entries = schedule.entries.iter();
        let entries = entries.map(|e| json!({ "from": of(e.from), "to": of(e.to), "rate": e.rate.to_string() }));
        value["schedule"] = entries.collect();
    }
    value
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), change);
        }
    }
}

fn read_rate(section: &mut Section<'_>, example: &str) -> Option<Rate> {
    let Ok(Some(text)) = section.text("rate", example) else { return None };
    let rate = text.value.parse();
    if rate.is_err() {
        // The error's own text shows the value, which may come from the environment.
        let advice = "write records per time such as \"5000/s\", \"0.1/s\", \"300/min\" or \"10/h\", at most \
                      1000000000/s, or \"unlimited\"";
        section.context().wrong(&text, &format!("cannot be {}; {advice}", text.quoted()));
    }
    rate.ok()
}

fn read_schedule(section: &mut Section<'_>) -> Schedule {
    let zone = match section.text("time_zone", "Europe/Berlin") {
        Ok(Some(text)) => Zone::named(&text.value).or_else(|| {
            let advice = "write a name of the IANA database such as \"Europe/Berlin\" or \"UTC\", or \"local\" for \
                          the machine's own";
            section.context().wrong(&text, &format!("cannot be {}; {advice}", text.quoted()));
            None
        }),
        Ok(None) => Zone::named(LOCAL),
        Err(Refused) => None,
    };
    let mut entries = Vec::new();
    for (index, mut entry) in section.optional_list("schedule").into_iter().enumerate() {
        if index == SCHEDULE_ENTRIES_MAX {
            let key = section.key("schedule");
            let message =
                format!("`{key}` has more than {SCHEDULE_ENTRIES_MAX} entries; remove this one and those below");
            section.context().error(entry.line(), &key, message);
        }
        entries.extend(read_entry(&mut entry));
        entry.finish();
    }
    Schedule { zone: zone.unwrap_or_else(|| Schedule::default().zone), entries }
}

fn read_entry(entry: &mut Section<'_>) -> Option<Entry> {
    let (from, to) = (read_time(entry, "from"), read_time(entry, "to"));
    let rate = read_rate(entry, "500/s");
    for (key, example) in [("from", "20:00"), ("to", "23:00"), ("rate", "500/s")] {
        if !entry.is_absent() && !entry.has(key) {
            let key_path = entry.key(key);
            let message = format!("`{key_path}` is missing; write such as `{key} = \"{example}\"`");
            entry.context().error(entry.line(), &key_path, message);
        }
    }
    let (from, to, rate) = (from?, to?, rate?);
    if from == to {
        let key = entry.key("to");
        let message = format!("`{key}` is the same as `from`; for the whole day write `rate` of the queue instead");
        entry.context().error(entry.line(), &key, message);
    }
    Some(Entry { from, to, rate })
}

fn read_time(entry: &mut Section<'_>, key: &'static str) -> Option<jiff::civil::Time> {
    let Ok(Some(text)) = entry.text(key, "20:00") else { return None };
    let bytes = text.value.as_bytes();
    let shaped = bytes.len() == 5 && bytes[2] == b':';
    let time = text.value.parse().ok().filter(|_| shaped);
    if time.is_none() {
        let advice = "write hours and minutes from \"00:00\" to \"23:59\"";
        entry.context().wrong(&text, &format!("cannot be {}; {advice}", text.quoted()));
    }
    time
}

fn read_batch(mut section: Section<'_>) -> Batch {
    let batch = Batch {
        records_max: section.integer("records_max", limits::BATCH_RECORDS_MAX, 1..=1_000_000).count(),
        bytes_max: section.size("bytes_max", limits::BATCH_BYTES_MAX, 1..=GIB).count(),
        linger_ms_max: section.integer("linger_ms_max", limits::BATCH_LINGER_MS_MAX, 0..=60_000).value,
    };
    section.finish();
    batch
}

fn read_adaptive(mut section: Section<'_>) -> Adaptive {
    let adaptive = Adaptive {
        mode: section.choice("mode", AdaptiveMode::Aimd, &MODES).value,
        share_min_percent: section.integer("share_min_percent", limits::ADAPTIVE_SHARE_MIN_PERCENT, 1..=100).value,
    };
    section.finish();
    adaptive
}

fn read_retry(mut section: Section<'_>) -> Retry {
    let min = section.integer("backoff_ms_min", limits::RETRY_BACKOFF_MS_MIN, 1..=HOUR_MS);
    let max = section.integer("backoff_ms_max", limits::RETRY_BACKOFF_MS_MAX, 1..=HOUR_MS);
    if let Some(line) = max.line.or(min.line).filter(|_| min.sound && max.sound && min.value > max.value) {
        let (low, high) = (section.key("backoff_ms_min"), section.key("backoff_ms_max"));
        let key = if max.line.is_some() { &high } else { &low };
        let message = format!(
            "`{high}` ({}) must be at least `{low}` ({}); write `backoff_ms_max = {}` or a smaller `backoff_ms_min`",
            max.value, min.value, min.value
        );
        section.context().error(line, key, message);
    }
    let failures_max = section.integer("failures_max", limits::RETRY_FAILURES_MAX, 1..=1_000_000).value;
    let attempts_max = section.optional_integer("attempts_max", 1..=limits::RETRY_ATTEMPTS_MAX).value;
    let age_ms_max = section.optional_integer("age_ms_max", 1..=limits::RETRY_AGE_MS_MAX).value;
    section.finish();
    Retry { backoff_ms_min: min.value, backoff_ms_max: max.value, failures_max, attempts_max, age_ms_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> Shaping {
        patch(&patch_base(), Order::Strict, &json!({})).unwrap()
    }

    fn patch_base() -> Shaping {
        Shaping {
            rate: RATE,
            burst: None,
            schedule: Schedule::default(),
            concurrency: 1,
            batch: Batch { records_max: 10, bytes_max: 1000, linger_ms_max: 5 },
            adaptive: Adaptive { mode: AdaptiveMode::Gradient2, share_min_percent: 3 },
            retry: Retry {
                backoff_ms_min: 100,
                backoff_ms_max: 1000,
                failures_max: 4,
                attempts_max: Some(9),
                age_ms_max: None,
            },
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(usual(), patch_base());
        let wanted = json!({
            "rate": "0.1/s", "burst": 7, "time_zone": "Europe/Berlin", "batch": { "records_max": 3 },
            "schedule": [{ "from": "20:00", "to": "06:00", "rate": "unlimited" }],
        });
        let changed = patch(&usual(), Order::Strict, &wanted).unwrap();
        assert_eq!(changed.rate.to_string(), "6/min");
        assert_eq!((changed.burst, changed.batch.records_max, changed.batch.bytes_max), (Some(7), 3, 1000));
        assert_eq!(changed.schedule.entries.len(), 1);
        assert_eq!(patch(&changed, Order::Strict, &json!({})).unwrap(), changed);
        let patient =
            patch(&changed, Order::Strict, &json!({ "retry": { "attempts_max": null, "age_ms_max": 5000 } })).unwrap();
        assert_eq!((patient.retry.attempts_max, patient.retry.age_ms_max), (None, Some(5000)));
        // Null takes a key away, and the default is back.
        let back =
            patch(&changed, Order::Strict, &json!({ "burst": null, "schedule": null, "time_zone": null })).unwrap();
        assert_eq!((back.burst, back.schedule), (None, Schedule::default()));
        let wide = patch(&usual(), Order::Key, &json!({ "concurrency": 16 })).unwrap();
        assert_eq!((wide.concurrency, written(&wide)["concurrency"].clone()), (16, json!(16)));
        assert_eq!(patch(&wide, Order::None, &json!({ "concurrency": null })).unwrap(), usual());
    }

    #[test]
    fn what_is_wrong_is_said_and_changes_nothing() {
        for (changes, expected) in [
            (json!({ "rate": "fast" }), "`rate` cannot be \"fast\"; write records per time"),
            (json!({ "rate": 5 }), "`rate` must be a string"),
            (json!({ "rat": "5/s" }), "unknown key `rat`; did you mean `rate`?"),
            (json!({ "batch": { "records_max": 0 } }), "`batch.records_max` cannot be 0"),
            (json!({ "batch": 3 }), "`batch` is a section"),
            (json!({ "burst": 0 }), "`burst` cannot be 0"),
            (json!({ "ack": "memory" }), "`ack` cannot be changed while the server runs"),
            (json!({ "order": "none" }), "`order` cannot be changed while the server runs"),
            (json!({ "throttle": { "limit": 5 } }), "`throttle` cannot be changed while the server runs"),
            (json!({ "concurrency": 2 }), "`concurrency` lets records leave before others"),
            (json!({ "concurrency": 17 }), "from 1 to 16"),
            (json!({ "retry": { "backoff_ms_min": 2000 } }), "must be at least"),
            (json!({ "retry": { "attempts_max": 0 } }), "`retry.attempts_max` cannot be 0"),
            (json!({ "schedule": [{ "from": "8", "to": "25:00", "rate": "1/s" }] }), "`schedule.from` cannot be \"8\""),
            (json!({ "schedule": [{ "from": "08:00", "rate": "1/s" }] }), "`schedule.to` is missing"),
            (json!({ "schedule": [{ "from": "08:00", "to": "08:00", "rate": "1/s" }] }), "is the same as `from`"),
            (json!({ "time_zone": "Mars" }), "`time_zone` cannot be \"Mars\""),
            (json!({ "rate": "${HOME}" }), "HOME"),
            (json!([]), "must be a JSON object"),
        ] {
            let errors = patch(&usual(), Order::Strict, &changes).unwrap_err();
            assert!(errors.iter().any(|error| error.contains(expected)), "{changes}: {errors:?}");
        }
    }
}
