//! Reads the `[queues.NAME]` sections.

use std::collections::{BTreeMap, BTreeSet};

use super::grammar::is_queue_name;
use super::load::HOUR_MS;
use super::ordering::read_ordering;
use super::reader::Section;
use super::shaping::read_shaping;
use super::sink::read_sink;
use super::wording::shown_key;
use super::{Ack, Queue, Sink, Source, Target};
use crate::limits::{self, GIB, QUEUE_NAME_BYTES_MAX, QUEUES_MAX};

/// Bytes of the largest backlog that can be meant.
const BACKLOG_BYTES_MAX: u64 = 1024 * 1024 * GIB;

/// All queues of the file by name.
pub(super) fn read_queues(root: &mut Section<'_>) -> BTreeMap<String, Queue> {
    let context = root.context();
    let missing = "has no queue; write `[queues.orders]`, with a name of your own for `orders`";
    let mut queues: BTreeMap<String, Queue> = BTreeMap::new();
    for (index, (name, mut section)) in root.named("queues", missing).into_iter().enumerate() {
        let line = section.line();
        let key = section.path().to_owned();
        if index == QUEUES_MAX {
            context.error(
                line,
                &key,
                format!("`queues` has more than {QUEUES_MAX} entries; remove this one and those below"),
            );
        }
        if !section.is_absent() && !is_queue_name(&name) {
            let message = format!(
                "`{}` cannot be a queue's name; write 1 to {QUEUE_NAME_BYTES_MAX} of the characters a-z, 0-9, `_` and \
                 `-`, starting with a letter or digit",
                shown_key(&name)
            );
            context.error(line, &key, message);
        }
        let queue = read_queue(&mut section, &name);
        section.finish();
        if let Some((other, _)) = queues.iter().find(|(_, other)| same_table(&other.sink, &queue.sink)) {
            let message = format!(
                "`{key}` would have the same table as `queues.{other}`; write `table` and `columns` for one of them, \
                 or another name"
            );
            context.error(line, &key, message);
        }
        queues.insert(name, queue);
    }
    queues
}

/// `a-b` and `a_b` have one name once a dash is an underscore.
fn same_table(a: &Sink, b: &Sink) -> bool {
    let created = matches!(a.target, Target::Created { .. }) && a.target == b.target;
    created && !a.url.is_empty() && a.kind == b.kind && a.url == b.url
}

fn read_queue(section: &mut Section<'_>, name: &str) -> Queue {
    let s = section;
    let mut queue = Queue {
        shaping: read_shaping(s),
        ordering: read_ordering(s),
        ack: s.choice("ack", Ack::Durable, &[("durable", Ack::Durable), ("memory", Ack::Memory)]).value,
        max_backlog_bytes: s.size("max_backlog_bytes", limits::MAX_BACKLOG_BYTES, 1..=BACKLOG_BYTES_MAX).value,
        idempotency_window_ms: s
            .integer("idempotency_window_ms", limits::IDEMPOTENCY_WINDOW_MS, 0..=7 * 24 * HOUR_MS)
            .value,
        idempotency_keys_max: s.integer("idempotency_keys_max", limits::IDEMPOTENCY_KEYS_MAX, 1..=100_000_000).count(),
        dead_letters_bytes_max: s.size("dead_letters_bytes_max", limits::DEAD_LETTERS_BYTES_MAX, 1..=1024 * GIB).value,
        kept_headers: BTreeSet::new(),
        sink: read_sink(s.section("sink"), name),
    };
    let header = |source: &Source| if let Source::Header(name) = source { Some(name.clone()) } else { None };
    queue.kept_headers = queue.sink.sources().filter_map(header).collect();
    queue
}
