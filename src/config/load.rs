//! Reads a configuration file: the top level, and the bounds that sections share.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::context::{Context, Refused, Text};
use super::error::{ConfigError, ConfigErrors};
use super::grammar::{address, clash};
use super::queue::read_queues;
use super::reader::{Field, Section};
use super::wording::{bytes_text, listed};
use super::{Admin, Config, Ingress, Journal, Listener, Protocol, Shutdown, SinkKind};
use crate::limits::{self, BLOCK_BYTES, EXECUTORS_MAX, GIB, KIB, LISTENERS_MAX, MIB};

/// Bytes of a configuration file; beyond it the path was hardly meant.
const FILE_BYTES_MAX: u64 = MIB;
/// One hour in milliseconds: the longest that a connection or an attempt may be waited for.
pub(super) const HOUR_MS: u64 = 3_600_000;
/// The admin listener's default port.
const ADMIN_PORT: u16 = 8081;
/// What a segment needs besides one commit: a block for its header and one for its footer.
const SEGMENT_FRAME_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// Reads the configuration file at `path`, with variables from the process's environment and sinks of these kinds.
///
/// # Errors
///
/// All errors of the file, sorted by line; or the one that says why the file cannot be read.
pub fn load(path: &Path, kinds: &[&'static SinkKind]) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    let whole =
        |line, message| ConfigErrors::new(vec![ConfigError { file: file.clone(), line, key: String::new(), message }]);
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|open| open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(whole(0, format!("cannot be read ({error}); give the path of a readable configuration file")));
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let max = bytes_text(FILE_BYTES_MAX);
        return Err(whole(0, format!("is larger than {max}; give the path of a configuration file")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &file, &|name| std::env::var(name).ok(), kinds),
        Err(error) => {
            let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = sound.split(|byte| *byte == b'\n').count();
            Err(whole(line, "this line is not UTF-8; save the file as UTF-8".to_owned()))
        }
    }
}

/// Reads the configuration `text`; errors name it `file`. Variables are looked up with `env`, which returns
/// `None` for one that is not set. Of the kinds of sinks the first is the default.
///
/// # Errors
///
/// All errors of the text, sorted by line.
pub fn parse(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
    kinds: &[&'static SinkKind],
) -> Result<Config, ConfigErrors> {
    let (config, errors, _) = read(text, file, env, kinds);
    match (config, errors) {
        (Some(config), None) => Ok(config),
        (_, errors) => Err(errors.unwrap_or_else(|| ConfigErrors::new(Vec::new()))),
    }
}

/// Every option that a configuration may have, with its sections, such as `journal.ring_bytes`; `*` stands
/// for a queue's name. Those that only some sinks have are with their kinds. It is taken from the reading itself, so it
/// cannot be out of date.
#[must_use]
pub fn known_keys() -> BTreeSet<String> {
    let (_, _, asked) = read("", "", &|_| None, &[]);
    asked
}

type Outcome = (Option<Config>, Option<ConfigErrors>, BTreeSet<String>);

fn read(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>, kinds: &[&'static SinkKind]) -> Outcome {
    let context = Context::new(text, file, env, kinds);
    let config = match context.document(text) {
        Ok(document) => Some(read_config(Section::root(&context, &document))),
        Err(Refused) => None,
    };
    let (errors, asked) = context.finish();
    (config, errors, asked)
}

fn read_config(mut root: Section<'_>) -> Config {
    let data_dir = read_data_dir(&mut root);
    let mut taken = Taken::default();
    let (listeners, fed) = read_listeners(&mut root, &mut taken);
    let admin = read_admin(root.section("admin"), &mut taken);
    let (ingress, ingress_sizes) = read_ingress(root.section("ingress"));
    let journal = read_journal(root.section("journal"), &ingress_sizes);
    let mut section = root.section("shutdown");
    let shutdown = Shutdown { grace_ms: section.integer("grace_ms", limits::SHUTDOWN_GRACE_MS, 0..=HOUR_MS).value };
    section.finish();
    let queues = read_queues(&mut root);
    for text in fed.iter().filter(|text| !queues.contains_key(&text.value)) {
        let names: Vec<&str> = queues.keys().map(String::as_str).collect();
        let given = text.quoted();
        root.context().wrong(text, &format!("names no queue with {given}; write {}", listed(&names, "or")));
    }
    root.finish();
    Config { data_dir, listeners, admin, ingress, journal, shutdown, queues }
}

fn read_data_dir(root: &mut Section<'_>) -> PathBuf {
    match root.text("data_dir", "./data") {
        Ok(Some(text)) if text.value.is_empty() || text.value.contains('\0') => {
            root.context().wrong(&text, "must be the path of a directory; write `data_dir = \"./data\"`");
            PathBuf::new()
        }
        Ok(Some(text)) => PathBuf::from(text.value),
        Ok(None) | Err(Refused) => PathBuf::from("./data"),
    }
}

/// The addresses that lines of the file have taken so far.
#[derive(Default)]
struct Taken(Vec<(SocketAddr, usize)>);

impl Taken {
    /// The line that has taken this address.
    fn line_of(&self, address: SocketAddr) -> Option<usize> {
        self.0.iter().find(|(other, _)| clash(*other, address)).map(|(_, line)| *line)
    }

    /// Takes an address for the key on a line, or reports that it is taken.
    fn take(&mut self, context: &Context<'_>, address: SocketAddr, line: usize, key: &str) {
        if let Some(other) = self.line_of(address) {
            context.error(line, key, format!("`{key}` takes the address of line {other} again; write another port"));
        }
        self.0.push((address, line));
    }
}

/// The listeners, and the names of the queues that they feed.
fn read_listeners(root: &mut Section<'_>, taken: &mut Taken) -> (Vec<Listener>, Vec<Text>) {
    let context = root.context();
    let (mut listeners, mut fed) = (Vec::new(), Vec::new());
    let missing = "is missing; write `[[listeners]]` and below it `address = \"0.0.0.0:8080\"`";
    for (index, mut section) in root.list("listeners", missing).into_iter().enumerate() {
        if index == LISTENERS_MAX {
            let message = format!("`listeners` has more than {LISTENERS_MAX} entries; remove this one and those below");
            context.error(section.line(), "listeners", message);
        }
        let protocol = section.choice("protocol", Protocol::Http, &[("http", Protocol::Http)]).value;
        let named = section.text("queue", "orders").ok().flatten();
        let queue = named.as_ref().map(|text| text.value.clone());
        fed.extend(named);
        match read_address(&mut section, "0.0.0.0:8080") {
            Ok(Some((address, line))) => {
                taken.take(context, address, line, "listeners.address");
                listeners.push(Listener { protocol, queue, address });
            }
            Ok(None) if !section.is_absent() => {
                let message = "`listeners.address` is missing; write `address = \"0.0.0.0:8080\"`";
                context.error(section.line(), "listeners.address", message);
            }
            Ok(None) | Err(Refused) => {}
        }
        section.finish();
    }
    (listeners, fed)
}

fn read_admin(mut section: Section<'_>, taken: &mut Taken) -> Admin {
    let context = section.context();
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
    match read_address(&mut section, "127.0.0.1:8081") {
        Ok(Some((given, line))) => {
            taken.take(context, given, line, "admin.address");
            address = given;
        }
        Ok(None) => {
            // The default clashes with a line that does exist: the listener's.
            if let Some(line) = taken.line_of(address) {
                let message = "`listeners.address` takes the default of `admin.address`, 127.0.0.1:8081; write another \
                               port here or there";
                context.error(line, "listeners.address", message);
            }
        }
        Err(Refused) => {}
    }
    section.finish();
    Admin { address }
}

fn read_address(section: &mut Section<'_>, example: &str) -> Result<Option<(SocketAddr, usize)>, Refused> {
    let Some(text) = section.text("address", example)? else { return Ok(None) };
    match address(&text) {
        Ok(address) => Ok(Some((address, text.line))),
        Err(message) => {
            section.context().wrong(&text, &message);
            Err(Refused)
        }
    }
}

/// Sizes of the ingress that those of the journal depend on.
struct IngressSizes {
    record_bytes_max: Field<u64>,
    batch_request_bytes_max: Field<u64>,
}

fn read_ingress(mut section: Section<'_>) -> (Ingress, IngressSizes) {
    let s = &mut section;
    let sizes = IngressSizes {
        record_bytes_max: s.size("record_bytes_max", limits::RECORD_BYTES_MAX, 1..=GIB),
        batch_request_bytes_max: s.size("batch_request_bytes_max", limits::BATCH_REQUEST_BYTES_MAX, 1..=GIB),
    };
    let ingress = Ingress {
        executors: s.integer("executors", 0, 0..=EXECUTORS_MAX as u64).count(),
        connections_max: s.integer("connections_max", limits::CONNECTIONS_MAX as u64, 1..=1_000_000).count(),
        head_bytes_max: s.size("head_bytes_max", limits::HEAD_BYTES_MAX, 8 * KIB..=MIB).count(),
        head_timeout_ms: s.integer("head_timeout_ms", limits::HEAD_TIMEOUT_MS, 1..=HOUR_MS).value,
        body_timeout_ms: s.integer("body_timeout_ms", limits::BODY_TIMEOUT_MS, 1..=HOUR_MS).value,
        idle_timeout_ms: s.integer("idle_timeout_ms", limits::IDLE_TIMEOUT_MS, 1..=24 * HOUR_MS).value,
        record_bytes_max: sizes.record_bytes_max.count(),
        batch_request_bytes_max: sizes.batch_request_bytes_max.count(),
        batch_request_records_max: s
            .integer("batch_request_records_max", limits::BATCH_REQUEST_RECORDS_MAX, 1..=1_000_000)
            .count(),
        in_flight_max: s.integer("in_flight_max", limits::IN_FLIGHT_MAX, 1..=1_000_000).count(),
        body_bytes_in_flight_max: s
            .size("body_bytes_in_flight_max", limits::BODY_BYTES_IN_FLIGHT_MAX, 1..=64 * GIB)
            .count(),
    };
    section.finish();
    (ingress, sizes)
}

fn read_journal(mut section: Section<'_>, ingress: &IngressSizes) -> Journal {
    let s = &mut section;
    let ring = s.size("ring_bytes", limits::RING_BYTES, 8 * KIB..=GIB);
    let mut commit = s.size("commit_bytes_max", limits::COMMIT_BYTES_MAX, 8 * KIB..=GIB);
    let mut segment = s.size("segment_bytes", limits::SEGMENT_BYTES, 64 * KIB..=limits::SEGMENT_BYTES_MAX);
    let journal = Journal {
        ring_bytes: ring.count(),
        commit_bytes_max: commit.count(),
        segment_bytes: segment.value,
        spare_segments: s.integer("spare_segments", limits::SPARE_SEGMENTS, 0..=64).count(),
        hot_ring_bytes: s.size("hot_ring_bytes", limits::HOT_RING_BYTES, 4 * KIB..=GIB).count(),
    };
    commit.sound &= check_blocks(s, "commit_bytes_max", commit);
    segment.sound &= check_blocks(s, "segment_bytes", segment);
    let context = s.context();
    let named = |key, field| Named { key, field };
    let ring = named("journal.ring_bytes", ring);
    let commit = named("journal.commit_bytes_max", commit);
    let segment = named("journal.segment_bytes", segment);
    let record = named("ingress.record_bytes_max", ingress.record_bytes_max);
    let request = named("ingress.batch_request_bytes_max", ingress.batch_request_bytes_max);
    let least = |larger, smaller, need, words| require_least(context, larger, smaller, need, words);
    let record_need = record.field.value.saturating_mul(2);
    least(commit, record, record_need, "at least twice");
    least(commit, request, request.field.value.saturating_add(1), "more than");
    least(ring, commit, commit.field.value, "at least");
    least(segment, commit, commit.field.value.saturating_add(SEGMENT_FRAME_BYTES), "at least 8KiB more than");
    section.finish();
    journal
}

/// Whatever is written with `O_DIRECT` comes in whole blocks. Returns whether this does.
fn check_blocks(section: &Section<'_>, key: &str, field: Field<u64>) -> bool {
    let block = BLOCK_BYTES as u64;
    let Some(line) = field.line.filter(|_| field.sound && !field.value.is_multiple_of(block)) else {
        return true;
    };
    let near = if field.shown { format!(", such as {}", field.value.next_multiple_of(block)) } else { String::new() };
    let key = section.key(key);
    section.context().error(line, &key, format!("`{key}` must be a multiple of {block}; write one{near}"));
    false
}

/// A size and the key that it stands under.
#[derive(Clone, Copy)]
struct Named {
    key: &'static str,
    field: Field<u64>,
}

/// Reports that `larger` is below `need`, which follows from `smaller` as `words` say. The line is that of the
/// larger size, or of the smaller one if the larger is a default.
fn require_least(context: &Context<'_>, larger: Named, smaller: Named, need: u64, words: &str) {
    if !larger.field.sound || !smaller.field.sound || larger.field.value >= need {
        return;
    }
    let place = |named: Named| named.field.line.map(|line| (line, named.key));
    let Some((line, key)) = place(larger).or_else(|| place(smaller)) else { return };
    let amount =
        |named: Named| if named.field.shown { format!(" ({})", bytes_text(named.field.value)) } else { String::new() };
    let advice = if smaller.field.shown && larger.field.shown {
        // Whole blocks satisfy every bound at once.
        let (section, key) = larger.key.split_once('.').unwrap_or(("", larger.key));
        format!("write `{key} = \"{}\"` in `[{section}]`, or a smaller `{}`", whole_blocks(need), smaller.key)
    } else {
        format!("write a larger `{}` or a smaller `{}`", larger.key, smaller.key)
    };
    let message =
        format!("`{}`{} must be {words} `{}`{}; {advice}", larger.key, amount(larger), smaller.key, amount(smaller));
    context.error(line, key, message);
}

fn whole_blocks(bytes: u64) -> String {
    bytes_text(bytes.checked_next_multiple_of(BLOCK_BYTES as u64).unwrap_or(bytes))
}
