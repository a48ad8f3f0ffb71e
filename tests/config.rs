//! Configuration files: what they may say, and that every error is found, placed and worded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

#[path = "config/ordering.rs"]
mod ordering;
#[path = "config/values.rs"]
mod values;
#[path = "config/variables.rs"]
mod variables;

use std::collections::BTreeSet;
use std::path::Path;

use forebay::config::{self, Ack, Config, ConfigError, ConfigErrors, Listener, Protocol, Source, Target, known_keys};
use forebay::sink::KINDS;
use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

const FULL: &str = include_str!("../config/forebay.toml");
const FLASH_SALE: &str = include_str!("../config/flash-sale.toml");
const SIDECAR: &str = include_str!("../config/sidecar.toml");
const SMALLEST: &str = "[[listeners]]\naddress = \"0.0.0.0:8080\"\n[queues.orders]\n";

fn parse(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigErrors> {
    config::parse(text, file, env, &KINDS)
}

fn load(path: &Path) -> Result<Config, ConfigErrors> {
    config::load(path, &KINDS)
}

fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
    parse(text, "test.toml", &|_| None).map_err(|errors| errors.errors().to_vec())
}

fn sound(text: &str) -> Config {
    read(text).unwrap_or_else(|errors| panic!("{errors:#?}\nin\n{text}"))
}

/// The errors of the smallest file with `rest` behind it; line 1 is the first of `rest`.
fn errors(rest: &str) -> Vec<(usize, String)> {
    let errors = read(&format!("{SMALLEST}{rest}")).expect_err(rest);
    errors.into_iter().map(|error| (error.line - 3, error.message)).collect()
}

/// Asserts that there is just one error, and that its message has all of `parts` in it.
fn one_error(rest: &str, line: usize, parts: &[&str]) {
    let errors = errors(rest);
    assert_eq!(errors.len(), 1, "{rest}: {errors:#?}");
    assert_eq!(errors[0].0, line, "{rest}: {errors:#?}");
    for part in parts {
        assert!(errors[0].1.contains(part), "{rest}: {part:?} is not in {:?}", errors[0].1);
    }
}

fn accepted(rest: &str) -> Config {
    sound(&format!("{SMALLEST}{rest}"))
}

/// The reference file with its examples switched on.
fn uncommented() -> String {
    let example = |line: &str| {
        line.starts_with("#[") || (line.starts_with('#') && !line.starts_with("# ") && line.contains(" = "))
    };
    FULL.lines().map(|line| if example(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

fn leaves(table: &DeTable<'_>, path: &str, found: &mut BTreeSet<String>) {
    for (name, value) in table {
        let name = if path == "queues" { "*" } else { name.get_ref() };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value.get_ref() {
            DeValue::Table(_) if ["columns", "parameters", "fair_weights"].contains(&name) => {
                found.insert(path);
            }
            DeValue::Table(table) => leaves(table, &path, found),
            DeValue::Array(array) => {
                array.iter().filter_map(|item| item.get_ref().as_table()).for_each(|table| leaves(table, &path, found));
            }
            _ => {
                found.insert(path);
            }
        }
    }
}

#[test]
fn the_reference_file_says_what_the_smallest_file_means() {
    assert_eq!(sound(FULL), sound(SMALLEST));
}

#[test]
fn the_reference_file_shows_every_option_and_no_other() {
    let text = uncommented();
    let mut shown = BTreeSet::new();
    leaves(DeTable::parse(&text).unwrap().get_ref(), "", &mut shown);
    assert_eq!(shown, known_keys());
}

#[test]
fn each_option_of_the_reference_file_has_one_line_of_comment() {
    let lines: Vec<&str> = FULL.lines().collect();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with("# ")) {
        assert!(lines[index - 1].starts_with("# "), "no comment above {line:?}");
        assert!(!lines[index - 2].starts_with("# "), "more than one line above {line:?}");
    }
}

#[test]
fn the_examples_of_the_reference_file_work() {
    let without = |keys: &[&str]| {
        let text = uncommented().replace("type = \"sqlite\"", "type = \"postgres\"");
        let text = text.replace("order = \"strict\"", "order = \"key\"");
        let kept = text.lines().filter(|line| !keys.iter().any(|key| line.starts_with(&format!("{key} = "))));
        sound(&kept.collect::<Vec<_>>().join("\n")).queues["orders"].sink.target.clone()
    };
    assert!(matches!(without(&["statement", "parameters"]), Target::Table { columns, .. } if columns.len() == 4));
    assert!(matches!(without(&["table", "columns"]), Target::Statement { parameters, .. } if parameters.len() == 1));
}

#[test]
fn the_flash_sale_file_works_with_and_without_its_variable() {
    let sink = &sound(FLASH_SALE).queues["orders"].sink;
    assert_eq!((sink.kind.name, sink.url.as_str()), ("postgres", "postgres://shop@127.0.0.1/shop"));
    let Target::Table { table, columns } = &sink.target else { panic!("{:?}", sink.target) };
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(table, "orders");
    let order = ["order_id", "customer_id", "first_sku", "total_cents", "ticket", "placed_at", "document"];
    assert_eq!(names, order, "the order is that of the file");
    assert_eq!(columns[4].1, Source::Ticket);
    let config =
        parse(FLASH_SALE, "f", &|name| (name == "DATABASE_URL").then(|| "postgres://db/x".to_owned())).unwrap();
    assert_eq!(config.queues["orders"].sink.url, "postgres://db/x");
    assert_eq!(config.queues["orders"].shaping.rate.to_string(), "5000/s");
}

#[test]
fn the_sidecar_file_works_with_and_without_its_variable() {
    let config = sound(SIDECAR);
    assert_eq!(config.listeners[0].queue.as_deref(), Some("requests"));
    let queue = &config.queues["requests"];
    assert_eq!((queue.sink.kind.name, queue.sink.url.as_str()), ("http", "http://127.0.0.1:3000"));
    assert_eq!(queue.shaping.retry.age_ms_max, Some(3_600_000));
    let config =
        parse(SIDECAR, "f", &|name| (name == "SERVICE_URL").then(|| "https://shop.example".to_owned())).unwrap();
    assert_eq!(config.queues["requests"].sink.url, "https://shop.example");
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = sound(SMALLEST);
    let listener = Listener { protocol: Protocol::Http, queue: None, address: "0.0.0.0:8080".parse().unwrap() };
    assert_eq!(config.listeners, [listener]);
    assert_eq!(config.admin.address, "127.0.0.1:8081".parse().unwrap());
    assert_eq!(config.data_dir.to_str(), Some("./data"));
    assert_eq!(config.ingress.executors, 0);
    let queue = &config.queues["orders"];
    assert_eq!((queue.ack, queue.shaping.rate.to_string().as_str()), (Ack::Durable, "1000/s"));
    assert_eq!((queue.sink.kind.name, queue.sink.url.as_str()), ("sqlite", ""));
    assert_eq!(queue.sink.target, Target::Created { table: "forebay_orders".to_owned() });
    let dashed = accepted("[queues.a-b]").queues["a-b"].sink.target.clone();
    assert_eq!(dashed, Target::Created { table: "forebay_a_b".to_owned() });
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    let text = "data_dir = 7\nlistners = 1\n\n[[listeners]]\naddress = \"localhost:80\"\n[[listeners]]\n[ingress]\nexecutors = -1\n\
                record_bytes_max = \"much\"\n[journal]\nring_bytes = 1.5\n[queues.Orders]\nrat = \"1/s\"\nrate = \"1/day\"\n\
                ack = \"durible\"\n[queues.Orders.sink]\ntype = \"postgres\"\ntable = \"a.b.c\"\n";
    let errors = parse(text, "my.toml", &|_| None).unwrap_err();
    let lines: Vec<usize> = errors.errors().iter().map(|error| error.line).collect();
    assert_eq!(lines, [1, 2, 5, 6, 8, 9, 11, 12, 13, 14, 15, 17, 18, 18], "{errors}");
    let shown = errors.to_string();
    assert_eq!(shown.lines().count(), 14);
    assert!(
        shown.starts_with("my.toml:1: `data_dir` must be a string, not an integer; write `data_dir = \"./data\"`\n")
    );
    assert!(shown.contains("\nmy.toml:13: unknown key `rat`; did you mean `rate`?\n"), "{shown}");
    assert_eq!(errors.errors()[2].key, "listeners.address");
    assert_eq!(errors.errors()[9].key, "queues.Orders.rate");
}

#[test]
fn what_is_not_toml_is_placed_too() {
    let errors = read("a = 1\nb = \nc = 2\nd = 'x\n").unwrap_err();
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 4], "{errors:#?}");
    assert!(errors[0].message.starts_with("this is not TOML ("));
    one_error("rate = \"1/s\"\nrate = \"2/s\"", 2, &["twice"]);
    one_error("[queues.orders]", 1, &["twice"]);
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.toml");
    let missing = load(&path).unwrap_err();
    assert_eq!(missing.errors()[0].line, 0);
    assert!(missing.to_string().starts_with(&format!("{}: cannot be read (", path.display())), "{missing}");
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert_eq!(load(&path).unwrap_err().errors()[0].line, 2);
    std::fs::write(&path, vec![b'\n'; 2 << 20]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("larger than 1MiB"));
    std::fs::write(&path, SMALLEST).unwrap();
    assert_eq!(load(&path).unwrap(), sound(SMALLEST));
}

#[test]
fn an_unknown_key_names_the_nearest_or_all() {
    one_error("rat = \"1/s\"", 1, &["unknown key `rat`; did you mean `rate`?"]);
    one_error("[queues.orders.sink]\nurll = \"postgres://u:hunter2@h/d\"", 2, &["did you mean `url`?"]);
    one_error("[shutdown]\nzzz = 1", 2, &["unknown key `zzz`; the keys here are `grace_ms`"]);
    one_error("[ingres]\n", 1, &["did you mean `ingress`?"]);
    one_error("\"a\\nb\" = 1", 1, &["unknown key `\"a\\nb\"`; the keys here are `rate`, `burst`"]);
    one_error(&format!("{} = 1", "k".repeat(5000)), 1, &["unknown key `kkk"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), toml_like in "([a-z\\[\\]{}=\"'.,#$\n ]|queues|= 1\n|\\[\\[listeners\\]\\]){0,60}") {
        let _ = parse(&text, "f", &|_| None);
        let _ = parse(&toml_like, "f", &|_| None);
    }

    #[test]
    fn no_change_to_a_sound_file_makes_it_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        swaps in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..8),
    ) {
        let text = uncommented();
        let mut lines: Vec<&str> = text.lines().collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        let mut bytes = lines.join("\n").into_bytes();
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let start = cut.0.index(bytes.len());
        bytes.drain(start..(start + cut.1.index(60)).min(bytes.len()));
        let changed = String::from_utf8_lossy(&bytes);
        if let Err(errors) = parse(&changed, "f", &|_| None) {
            prop_assert!(!errors.errors().is_empty());
            prop_assert!(errors.errors().iter().all(|error| (1..=changed.lines().count() + 1).contains(&error.line)));
            prop_assert_eq!(errors.to_string().lines().count(), errors.errors().len());
        }
    }
}
