//! The server's configuration file, written so that its reader can go on with it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use forebay_loadtest::verify::Sink;

use super::settings::{QUEUE, Settings};
use crate::limits::{IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_WINDOW_MS, KIB, MAX_BACKLOG_BYTES};

/// Time for which a client of the demo may retry, on top of the sale itself, in milliseconds.
const RETRIES_MS: u64 = 120_000;

/// Where the configuration is.
pub fn path(settings: &Settings) -> PathBuf {
    settings.directory.join("config.toml")
}

/// Writes the file. It may hold a database's password, so only its owner may read it.
pub fn write(settings: &Settings) -> anyhow::Result<()> {
    let path = path(settings);
    let text = text(settings)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn text(settings: &Settings) -> anyhow::Result<String> {
    let (kind, url) = match &settings.sink {
        Sink::Sqlite(path) => ("sqlite", path.to_str().context("the directory's name is not UTF-8")?.to_owned()),
        Sink::Postgres(url) => ("postgres", url.clone()),
    };
    let data_dir = settings.directory.join("data");
    let data_dir = data_dir.to_str().context("the directory's name is not UTF-8")?;
    Ok(format!(
        r#"# The configuration of a demo; `forebay serve --config` takes it as it is, and delivers what is left.
# config/forebay.toml in the sources explains every option that there is.

# The journal: every order that was acknowledged is here until it has been delivered.
data_dir = {data_dir}

[[listeners]]
# Orders go to http://{address}/v1/queues/{QUEUE}/records
address = "{address}"

[admin]
# http://{admin}/metrics shows the backlog and the position of the drain.
address = "{admin}"

[queues.{QUEUE}]
# The ceiling of the drain; the backlog grows while more comes in than this.
rate = "{rate}"
# A 202 is sent once the order is on disk, so no kill can lose it.
ack = "durable"
# Room for the whole sale; beyond it clients would get a 429.
max_backlog_bytes = {backlog}
# Clients that retry after a kill send the same key, and count once. No key may be forgotten before.
idempotency_window_ms = {window}
idempotency_keys_max = {keys}

[queues.{QUEUE}.sink]
type = "{kind}"
url = {url}
# The table was made beforehand. It stamps each row in `drained_at` by the database's own clock, and has
# no unique constraint, so that a duplicate would show.
table = "{table}"

[queues.{QUEUE}.sink.columns]
# On the left a column; on the right a JSON pointer into the order, or a value that forebay knows.
order_id = "/order_id"
user_id = "/user_id"
quantity = "/quantity"
price_cents = "/price_cents"
body = "$body"
ticket = "$ticket"
"#,
        data_dir = toml_string(data_dir),
        address = settings.address,
        admin = settings.admin,
        rate = settings.drain_rate,
        backlog = settings.records.saturating_mul(KIB).max(MAX_BACKLOG_BYTES),
        window = window_ms(settings),
        keys = settings.records.max(IDEMPOTENCY_KEYS_MAX),
        url = toml_string(&url),
        table = settings.table_name,
    ))
}

/// Longer than anybody retries, and no longer than the configuration allows.
fn window_ms(settings: &Settings) -> u64 {
    const WEEK_MS: u64 = 7 * 24 * 3_600_000;
    let sale_ms = settings.planned_ns() / 1_000_000;
    sale_ms.saturating_mul(2).saturating_add(RETRIES_MS).clamp(IDEMPOTENCY_WINDOW_MS, WEEK_MS)
}

/// A TOML string: its escapes are those of JSON, and `${` would name an environment variable.
fn toml_string(text: &str) -> String {
    let quoted = serde_json::Value::from(text.replace("${", "$${")).to_string();
    quoted.replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Ack, Target};
    use crate::rate::Rate;
    use forebay_loadtest::order::RunId;
    use forebay_loadtest::verify::OrdersTable;

    fn settings(directory: &str, sink: Sink) -> Settings {
        Settings {
            records: 2_000_000,
            offered_rate: "20000/s".parse().unwrap(),
            drain_rate: Rate::Unlimited,
            connections: 1,
            kills: 0,
            directory: directory.into(),
            is_tmpfs: false,
            json: None,
            run: RunId::new("r1").unwrap(),
            sink,
            table_name: "orders".to_owned(),
            table: OrdersTable::new("orders").unwrap(),
            address: ([127, 0, 0, 1], 4001).into(),
            admin: ([127, 0, 0, 1], 4002).into(),
        }
    }

    #[test]
    fn the_server_reads_what_was_meant() {
        let directory = "/a \"b\"/${HOME}/\\d\u{7f}";
        let database = format!("{directory}/orders.db");
        let text = text(&settings(directory, Sink::Sqlite(database.clone().into()))).unwrap();
        let config = config::parse(&text, "config.toml", &|_| None, &crate::sink::KINDS).unwrap();
        assert_eq!(config.data_dir, PathBuf::from(format!("{directory}/data")));
        let queue = &config.queues[QUEUE];
        assert_eq!((queue.shaping.rate, queue.ack), (Rate::Unlimited, Ack::Durable));
        assert_eq!(queue.idempotency_keys_max, 2_000_000);
        assert_eq!((queue.sink.kind.name, &queue.sink.url), ("sqlite", &database));
        assert!(matches!(&queue.sink.target, Target::Table { columns, .. } if columns.len() == 6));
    }

    #[test]
    fn a_database_elsewhere_is_taken_as_given() {
        let url = "postgres://u:p$${x}\"@h/d";
        let text = text(&settings("/d", Sink::Postgres(url.to_owned()))).unwrap();
        let config = config::parse(&text, "config.toml", &|_| None, &crate::sink::KINDS).unwrap();
        assert_eq!(config.queues[QUEUE].sink.url, url);
    }
}
