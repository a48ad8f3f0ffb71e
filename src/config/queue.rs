//! Reads the `[queues.NAME]` sections and the sinks in them.

use std::collections::{BTreeMap, BTreeSet};

use super::context::Context;
use super::grammar::is_queue_name;
use super::load::HOUR_MS;
use super::ordering::read_ordering;
use super::reader::Section;
use super::shaping::read_shaping;
use super::sink::read_sink;
use super::wording::shown_key;
use super::{Ack, Ordering, Outlet, Queue, Sink, Source, Target};
use crate::limits::{self, GIB, QUEUE_NAME_BYTES_MAX, QUEUES_MAX, SINKS_MAX};

/// Bytes of the largest backlog that can be meant.
const BACKLOG_BYTES_MAX: u64 = 1024 * 1024 * GIB;

/// All queues of the file by name.
pub(super) fn read_queues(root: &mut Section<'_>) -> BTreeMap<String, Queue> {
    let context = root.context();
    let missing = "has no queue; write `[queues.orders]`, with a name of your own for `orders`";
    let (mut queues, mut tables) = (BTreeMap::new(), Tables::default());
    for (index, (name, mut section)) in root.named("queues", missing).into_iter().enumerate() {
        if index == QUEUES_MAX {
            let message = format!("`queues` has more than {QUEUES_MAX} entries; remove this one and those below");
            context.error(section.line(), section.path(), message);
        }
        check_name(&section, &name, "a queue's name");
        let queue = read_queue(&mut section, &name, &mut tables);
        section.finish();
        queues.insert(name, queue);
    }
    queues
}

/// A name is one of a directory, and part of what stands in a database.
fn check_name(section: &Section<'_>, name: &str, what: &str) {
    if !section.is_absent() && !is_queue_name(name) {
        let message = format!(
            "`{}` cannot be {what}; write 1 to {QUEUE_NAME_BYTES_MAX} of the characters a-z, 0-9, `_` and `-`, starting with \
             a letter or digit",
            shown_key(name)
        );
        section.context().error(section.line(), section.path(), message);
    }
}

/// The tables that forebay is to create, with the sections that say so.
#[derive(Default)]
struct Tables(Vec<(String, Sink)>);

impl Tables {
    /// Takes the table of the sink that this section asks for, or reports that it is taken.
    fn take(&mut self, context: &Context<'_>, (key, line): (&str, usize), sink: &Sink) {
        if let Some((other, _)) = self.0.iter().find(|(_, other)| same_table(other, sink)) {
            let message = format!(
                "`{key}` would have the same table as `{other}`; write `table` and `columns` for one of them, or another name"
            );
            context.error(line, key, message);
        }
        self.0.push((key.to_owned(), sink.clone()));
    }
}

/// `a-b` and `a_b` have one name once a dash is an underscore.
fn same_table(a: &Sink, b: &Sink) -> bool {
    let created = matches!(a.target, Target::Created { .. }) && a.target == b.target;
    created && !a.url.is_empty() && a.kind == b.kind && a.url == b.url
}

fn read_queue(section: &mut Section<'_>, name: &str, tables: &mut Tables) -> Queue {
    let s = section;
    let (shaping, several_lanes) = read_shaping(s);
    let mut queue = Queue {
        shaping,
        ordering: read_ordering(s, several_lanes),
        ack: s.choice("ack", Ack::Durable, &[("durable", Ack::Durable), ("memory", Ack::Memory)]).value,
        max_backlog_bytes: s.size("max_backlog_bytes", limits::MAX_BACKLOG_BYTES, 1..=BACKLOG_BYTES_MAX).value,
        idempotency_window_ms: s
            .integer("idempotency_window_ms", limits::IDEMPOTENCY_WINDOW_MS, 0..=7 * 24 * HOUR_MS)
            .value,
        idempotency_keys_max: s.integer("idempotency_keys_max", limits::IDEMPOTENCY_KEYS_MAX, 1..=100_000_000).count(),
        dead_letters_bytes_max: read_dead_letters_bytes_max(s),
        sink: read_sink(s.section("sink"), name),
        sinks: BTreeMap::new(),
        kept_headers: BTreeSet::new(),
    };
    tables.take(s.context(), (s.path(), s.line()), &queue.sink);
    queue.sinks = read_sinks(s, name, &queue.ordering, tables);
    let header = |source: &Source| if let Source::Header(name) = source { Some(name.clone()) } else { None };
    let sinks = std::iter::once(&queue.sink).chain(queue.sinks.values().map(|outlet| &outlet.sink));
    queue.kept_headers = sinks.flat_map(Sink::sources).filter_map(header).collect();
    queue
}

fn read_dead_letters_bytes_max(section: &mut Section<'_>) -> u64 {
    section.size("dead_letters_bytes_max", limits::DEAD_LETTERS_BYTES_MAX, 1..=1024 * GIB).value
}

/// The `[queues.NAME.sinks.NAME]` sections. Each has the keys of the queue that say how records leave, and beside them those of
/// `[queues.NAME.sink]`.
fn read_sinks(
    section: &mut Section<'_>,
    queue: &str,
    kept: &Ordering,
    tables: &mut Tables,
) -> BTreeMap<String, Outlet> {
    let (context, key) = (section.context(), section.key("sinks"));
    let mut sinks = BTreeMap::new();
    for (index, (name, mut section)) in section.optional_named("sinks").into_iter().enumerate() {
        let (line, path) = (section.line(), section.path().to_owned());
        // The main one counts as well.
        if index + 1 == SINKS_MAX {
            let message = format!(
                "`{key}` has more than {} entries, and with its main one a queue may have {SINKS_MAX} sinks; remove this one and \
                 those below",
                SINKS_MAX - 1
            );
            context.error(line, &path, message);
        }
        check_name(&section, &name, "a sink's name");
        let (shaping, several_lanes) = read_shaping(&mut section);
        let ordering = read_ordering(&mut section, several_lanes);
        check_admission(&section, &ordering, kept);
        let dead_letters_bytes_max = read_dead_letters_bytes_max(&mut section);
        let sink = read_sink(section, &format!("{queue}-{name}"));
        tables.take(context, (&path, line), &sink);
        sinks.insert(name, Outlet { shaping, ordering, dead_letters_bytes_max, sink });
    }
    sinks
}

/// What is kept of a request is decided once, by the queue, and before any sink is asked.
fn check_admission(section: &Section<'_>, ordering: &Ordering, kept: &Ordering) {
    let wrong = |key: &str, what: &str| {
        let key = section.key(key);
        section.context().error(section.line(), &key, format!("`{key}` {what}"));
    };
    if section.has("delay_ms_max") {
        wrong(
            "delay_ms_max",
            "says what clients may ask for, which counts for all sinks; write it in the queue's own section",
        );
    }
    let is_kept =
        |header: Option<&str>| header.is_none() || [kept.fair_header(), kept.throttle_header()].contains(&header);
    for (key, header) in [("fair_by", ordering.fair_header()), ("throttle.by", ordering.throttle_header())] {
        if !is_kept(header) {
            wrong(
                key,
                "names a header of which records keep nothing; name it in `fair_by` or `throttle.by` of the queue's own section \
                 too, or write \"key\" or a pointer into the body",
            );
        }
    }
}
