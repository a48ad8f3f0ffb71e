//! Reads the `[queues.NAME.sink]` sections.

use super::context::{Refused, Text};
use super::grammar::{IDENTIFIER_BYTES_MAX, is_column_name, is_parameter_name, is_postgres_url, is_table_name, source};
use super::load::HOUR_MS;
use super::reader::{Entries, Field, Section};
use super::wording::shown_key;
use super::{Sink, SinkKind, Source, Target};
use crate::limits;

/// Where the records of `queue` go.
pub(super) fn read_sink(mut section: Section<'_>, queue: &str) -> Sink {
    let s = &mut section;
    let kind = s.choice("type", SinkKind::Sqlite, &[("sqlite", SinkKind::Sqlite), ("postgres", SinkKind::Postgres)]);
    let sink = Sink {
        kind: kind.value,
        url: read_url(s, kind),
        target: read_target(s, kind, queue),
        connect_timeout_ms: s.integer("connect_timeout_ms", limits::SINK_CONNECT_TIMEOUT_MS, 1..=HOUR_MS).value,
        commit_timeout_ms: s.integer("commit_timeout_ms", limits::SINK_COMMIT_TIMEOUT_MS, 1..=HOUR_MS).value,
    };
    section.finish();
    sink
}

/// The URL is never shown, whatever is wrong with it: it may hold a password.
fn read_url(section: &mut Section<'_>, kind: Field<SinkKind>) -> String {
    let context = section.context();
    let (line, key) = (kind.line.unwrap_or(section.line()), section.key("url"));
    match section.text("url", "postgres://user@127.0.0.1/database") {
        Err(Refused) => String::new(),
        Ok(_) if !kind.sound => String::new(),
        Ok(None) => {
            if kind.value == SinkKind::Postgres {
                let message = format!(
                    "`{key}` is missing; write `url = \"postgres://user@127.0.0.1/database\"`, or `url = \
                     \"${{DATABASE_URL}}\"` to have it from the environment"
                );
                context.error(line, &key, message);
            }
            String::new()
        }
        Ok(Some(text)) => {
            if text.value.contains('\0') {
                context.wrong(&text, "must not hold a NUL; remove it");
            } else if kind.value == SinkKind::Postgres && !is_postgres_url(&text.value) {
                context.wrong(
                    &text,
                    "must start with `postgres://` or `postgresql://`; write `postgres://user@127.0.0.1/database`",
                );
            } else if kind.value == SinkKind::Sqlite && is_postgres_url(&text.value) {
                context.wrong(
                    &text,
                    "belongs to PostgreSQL, but `type` is `sqlite`; write `type = \"postgres\"`, or the path of a file",
                );
            }
            text.value
        }
    }
}

/// What the file says about rows; each part may be absent or refused.
struct Parts {
    table: Result<Option<Text>, Refused>,
    columns: Result<Option<Entries>, Refused>,
    statement: Result<Option<Text>, Refused>,
    parameters: Result<Option<Entries>, Refused>,
}

fn read_target(section: &mut Section<'_>, kind: Field<SinkKind>, queue: &str) -> Target {
    let parts = Parts {
        table: section.text("table", "orders"),
        columns: section.entries("columns"),
        statement: section.text("statement", "INSERT INTO orders (body) VALUES (:body)"),
        parameters: section.entries("parameters"),
    };
    check_combination(section, &parts);
    if matches!(parts, Parts { table: Ok(None), columns: Ok(None), statement: Ok(None), .. }) {
        check_created(section, kind, queue);
    }
    // Where a part has been refused the target no longer matters, but the other parts may have errors of their own.
    let table = parts.table.unwrap_or_default();
    let statement = parts.statement.unwrap_or_default();
    if let Some(text) = &table {
        check_table(section, text);
    }
    if let Some(text) = &statement {
        check_statement(section, text);
    }
    let columns = parts.columns.unwrap_or_default().map(|entries| read_columns(section, entries));
    let parameters = parts.parameters.unwrap_or_default().map(|entries| read_parameters(section, entries));
    match (table, columns, statement) {
        (Some(table), Some(columns), _) => Target::Table { table: table.value, columns },
        (_, _, Some(statement)) => {
            Target::Statement { statement: statement.value, parameters: parameters.unwrap_or_default() }
        }
        _ => Target::Created { table: format!("forebay_{}", queue.replace('-', "_")) },
    }
}

/// There is a table with columns, or a statement with or without parameters, or none of it.
fn check_combination(section: &Section<'_>, parts: &Parts) {
    let context = section.context();
    let (table, columns) = (section.key("table"), section.key("columns"));
    if let Ok(Some(statement)) = &parts.statement {
        let table = (!matches!(parts.table, Ok(None))).then_some("table");
        let other = table.or((!matches!(parts.columns, Ok(None))).then_some("columns"));
        if let Some(other) = other {
            let message = format!("cannot stand beside `{other}`; keep either `statement`, or `table` and `columns`");
            context.wrong(statement, &message);
            return;
        }
    }
    match (&parts.table, &parts.columns) {
        (Ok(Some(text)), Ok(None)) => {
            context.wrong(
                text,
                "needs `columns` beside it; write `columns = { order_id = \"/order_id\", body = \"$body\" }`",
            );
        }
        (Ok(None), Ok(Some(entries))) => {
            let message = format!("`{columns}` needs `{table}` beside it; write `table = \"orders\"`");
            context.error(entries.line, &columns, message);
        }
        _ => {}
    }
    if let (Ok(None), Ok(Some(entries))) = (&parts.statement, &parts.parameters) {
        let message = format!(
            "`{}` needs `{}` beside it; write the statement, or `columns` if these are columns",
            entries.key,
            section.key("statement")
        );
        context.error(entries.line, &entries.key, message);
    }
}

fn check_table(section: &Section<'_>, text: &Text) {
    if !is_table_name(&text.value) {
        let message = format!(
            "cannot be {}; write `name` or `schema.name`, each of up to {IDENTIFIER_BYTES_MAX} letters, digits, `_` \
             and `$`, starting with a letter or `_`",
            text.quoted()
        );
        section.context().wrong(text, &message);
    }
}

fn check_statement(section: &Section<'_>, text: &Text) {
    if text.value.trim().is_empty() || text.value.contains('\0') {
        let advice = "must be one SQL statement; write such as `INSERT INTO orders (body) VALUES (:body)`";
        section.context().wrong(text, advice);
    }
}

/// PostgreSQL cuts a long name, and then the table that it created is not the one that we look for.
fn check_created(section: &Section<'_>, kind: Field<SinkKind>, queue: &str) {
    if kind.value == SinkKind::Postgres && "forebay_".len() + queue.len() > IDENTIFIER_BYTES_MAX {
        let key = section.key("table");
        let message = format!(
            "`{key}` is missing, and the queue's name is too long to name a table of PostgreSQL; write `table` and \
             `columns`, or a queue's name of at most {} bytes",
            IDENTIFIER_BYTES_MAX - "forebay_".len()
        );
        section.context().error(section.line(), &key, message);
    }
}

fn read_columns(section: &Section<'_>, columns: Entries) -> Vec<(String, Source)> {
    if columns.list.is_empty() {
        let message = format!("`{}` is empty; write such as `columns = {{ body = \"$body\" }}`", columns.key);
        section.context().error(columns.line, &columns.key, message);
    }
    let advice = format!("write 1 to {IDENTIFIER_BYTES_MAX} bytes without NUL");
    read_sources(section, columns, is_column_name, &format!("cannot be a column's name; {advice}"))
}

fn read_parameters(section: &Section<'_>, parameters: Entries) -> Vec<(String, Source)> {
    let message = "cannot be a parameter's name; write letters, digits and `_`, without a colon and not starting \
                   with a digit";
    read_sources(section, parameters, is_parameter_name, message)
}

fn read_sources(
    section: &Section<'_>,
    entries: Entries,
    sound: fn(&str) -> bool,
    unsound: &str,
) -> Vec<(String, Source)> {
    let context = section.context();
    let mut sources = Vec::new();
    for entry in entries.list {
        if !sound(&entry.name) {
            let shown = shown_key(&entry.name);
            context.error(entry.line, &format!("{}.{shown}", entries.key), format!("`{shown}` {unsound}"));
        }
        match entry.text.as_ref().map(|text| (text, source(text))) {
            Some((_, Ok(source))) => sources.push((entry.name, source)),
            Some((text, Err(message))) => context.wrong(text, &message),
            None => {}
        }
    }
    sources
}
