//! Any text as a configuration: refused with errors that have their place in it, or taken and sound.
#![no_main]

use forebay::config::{Config, ConfigError, Order, parse};
use forebay::limits::{BLOCK_BYTES, SINKS_MAX};
use forebay::sink::mapping::Plan;
use forebay::sink::{Dialect, KINDS};
use libfuzzer_sys::fuzz_target;

/// What a message must never show.
const SECRET: &str = "hunter2";

fn variable(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(SECRET.to_owned()),
        "DATABASE_URL" => Some(format!("postgres://shop:{SECRET}@db/shop")),
        "NUMBER" => Some("12289".to_owned()),
        "RATE" => Some("5000/s".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
    parse(text, "forebay.toml", &variable, &KINDS).map_err(|errors| errors.errors().to_vec())
}

fuzz_target!(|text: &str| {
    match read(text) {
        Ok(config) => check_config(text, &config),
        Err(errors) => check_errors(text, &errors),
    }
});

fn check_errors(text: &str, errors: &[ConfigError]) {
    assert!(!errors.is_empty(), "refused without a word");
    let lines = text.split('\n').count();
    for error in errors {
        assert!((1..=lines).contains(&error.line), "line {} of {lines}", error.line);
        assert!(!error.message.is_empty() && !error.message.chars().any(char::is_control), "{:?}", error.message);
        let shown = format!("{error} {error:?}");
        assert!(text.contains(SECRET) || !shown.contains(SECRET), "{shown}");
    }
    assert!(errors.is_sorted_by_key(|error| error.line));
    // A byte order mark is one at the beginning only.
    if !text.starts_with('\u{feff}') {
        let moved = read(&format!("\n{text}")).expect_err("a blank line mends nothing");
        assert_eq!(places(&moved, 1), places(errors, 0), "a blank line moves all errors by one line");
    }
}

/// Lines and keys of the errors behind the first line of the text, which begins behind line `moved_by`. What is missing
/// from the whole file is in its first line.
fn places(errors: &[ConfigError], moved_by: usize) -> Vec<(usize, &str)> {
    let behind = errors.iter().filter(|error| error.line > 1 + moved_by);
    behind.map(|error| (error.line - moved_by, error.key.as_str())).collect()
}

fn check_config(text: &str, config: &Config) {
    assert_eq!(read(text).as_ref(), Ok(config), "the same text means the same");
    assert_eq!(read(&format!("{text}\n# The end.\n")).as_ref(), Ok(config), "a comment means nothing");
    assert!(!config.listeners.is_empty() && !config.queues.is_empty());
    let (journal, ingress) = (&config.journal, &config.ingress);
    let block = BLOCK_BYTES as u64;
    assert!(journal.commit_bytes_max.is_multiple_of(BLOCK_BYTES) && journal.segment_bytes.is_multiple_of(block));
    assert!(journal.commit_bytes_max >= 2 * ingress.record_bytes_max);
    assert!(journal.commit_bytes_max > ingress.batch_request_bytes_max);
    assert!(journal.ring_bytes >= journal.commit_bytes_max);
    assert!(journal.segment_bytes >= journal.commit_bytes_max as u64 + 2 * block);
    assert!(ingress.record_bytes_max > 0 && ingress.in_flight_max > 0 && ingress.connections_max > 0);
    for (name, queue) in &config.queues {
        assert!(!name.is_empty() && name.len() <= 64 && !name.starts_with(['-', '_']));
        assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')));
        assert!(queue.shaping.retry.backoff_ms_min <= queue.shaping.retry.backoff_ms_max);
        let ordering = &queue.ordering;
        let overtakes = ordering.fair_by.is_some() || ordering.throttle.is_some() || ordering.delay_ms_max > 0;
        assert!(ordering.order != Order::Strict || !overtakes, "a strict order that is none");
        assert!(ordering.fair_weights.is_empty() || ordering.fair_by.is_some());
        assert!(queue.sinks.len() < SINKS_MAX);
        for sink in std::iter::once(&queue.sink).chain(queue.sinks.values().map(|outlet| &outlet.sink)) {
            assert!(!sink.kind.url.is_required || !sink.url.is_empty());
            for dialect in [Dialect::Sqlite, Dialect::Postgres] {
                if let Err(message) = Plan::new(&sink.target, name, dialect) {
                    assert!(!message.is_empty());
                }
            }
        }
    }
}
