//! Reads the `[queues.NAME.sink]` sections.

use super::context::{Refused, Text};
use super::grammar::{IDENTIFIER_BYTES_MAX, is_column_name, is_parameter_name, is_table_name, source};
use super::load::HOUR_MS;
use super::reader::{Entries, Entry, Field, Section};
use super::sink_kind::{OptionRule, OptionValue, OptionValues, Options, Takes, UrlRule};
use super::wording::{listed, shown_key};
use super::{Sink, SinkKind, Source, Target, Template};
use crate::limits;

/// What a sink is if there are no kinds of sinks.
static NO_KIND: SinkKind = SinkKind {
    name: "",
    title: "",
    url: UrlRule { prefixes: &[], example: "", is_required: false },
    takes: Takes::Rows { name_bytes_max: usize::MAX, has_statement: true },
    options: &[],
};

/// Where the records of `queue` go.
pub(super) fn read_sink(mut section: Section<'_>, queue: &str) -> Sink {
    let s = &mut section;
    let kinds = s.context().kinds();
    let words: Vec<_> = kinds.iter().map(|kind| (kind.name, *kind)).collect();
    let kind = s.choice("type", kinds.first().copied().unwrap_or(&NO_KIND), &words);
    let sink = Sink {
        kind: kind.value,
        url: read_url(s, &kind),
        target: read_target(s, &kind, queue),
        options: read_options(s, &kind),
        connect_timeout_ms: s.integer("connect_timeout_ms", limits::SINK_CONNECT_TIMEOUT_MS, 1..=HOUR_MS).value,
        commit_timeout_ms: s.integer("commit_timeout_ms", limits::SINK_COMMIT_TIMEOUT_MS, 1..=HOUR_MS).value,
    };
    section.finish();
    sink
}

/// The URL is never shown, whatever is wrong with it: it may hold a password.
fn read_url(section: &mut Section<'_>, kind: &Field<&'static SinkKind>) -> String {
    let context = section.context();
    let (line, key) = (kind.line.unwrap_or(section.line()), section.key("url"));
    let rule = &kind.value.url;
    match section.text("url", rule.example) {
        Err(Refused) => String::new(),
        Ok(_) if !kind.sound => String::new(),
        Ok(None) => {
            if rule.is_required {
                let example = rule.example;
                let message = format!(
                    "`{key}` is missing; write `url = \"{example}\"`, or `url = \"${{DATABASE_URL}}\"` to have it from \
                     the environment"
                );
                context.error(line, &key, message);
            }
            String::new()
        }
        Ok(Some(text)) => {
            let starts = |kind: &SinkKind| kind.url.prefixes.iter().any(|prefix| text.value.starts_with(prefix));
            let (name, example) = (kind.value.name, rule.example);
            if text.value.contains('\0') {
                context.wrong(&text, "must not hold a NUL; remove it");
            } else if rule.is_required && !starts(kind.value) {
                let prefixes: Vec<_> = rule.prefixes.to_vec();
                let message = format!("must start with {}; write `{example}`", listed(&prefixes, "or"));
                context.wrong(&text, &message);
            } else if let Some(other) = context.kinds().iter().find(|other| **other != kind.value && starts(other))
                && !starts(kind.value)
            {
                let (title, other) = (other.title, other.name);
                let message =
                    format!("belongs to {title}, but `type` is `{name}`; write `type = \"{other}\"`, or `{example}`");
                context.wrong(&text, &message);
            }
            text.value
        }
    }
}

/// The options that only this kind has; those of other kinds are refused in words of their own.
fn read_options(section: &mut Section<'_>, kind: &Field<&'static SinkKind>) -> Options {
    let mut options = Options::default();
    for rule in kind.value.options {
        match read_option(section, rule) {
            Ok(Some(value)) => options.set(rule.key, value),
            Ok(None) => {
                let key = section.key(rule.key);
                let message = format!("`{key}` is missing; write `{} = \"{}\"`", rule.key, example(&rule.values));
                section.context().error(kind.line.unwrap_or(section.line()), &key, message);
            }
            Err(Refused) => {}
        }
    }
    refuse_others(section, kind);
    options
}

/// Refuses the options of other kinds, each once, however many have it.
fn refuse_others(section: &mut Section<'_>, kind: &Field<&'static SinkKind>) {
    let kinds = section.context().kinds();
    let has = |kind: &SinkKind, key: &str| kind.options.iter().any(|rule| rule.key == key);
    let mut keys: Vec<_> = kinds.iter().flat_map(|other| other.options).map(|rule| rule.key).collect();
    keys.retain(|key| !has(kind.value, key));
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        if let Some(line) = section.note(key)
            && kind.sound
        {
            let owners = kinds.iter().filter(|other| has(other, key)).map(|other| format!("type = \"{}\"", other.name));
            let owners: Vec<_> = owners.collect();
            let owners = listed(&owners.iter().map(String::as_str).collect::<Vec<_>>(), "or");
            let (path, name) = (section.key(key), kind.value.name);
            let message = format!("`{path}` belongs to {owners}, but `type` is `{name}`; remove it");
            section.context().error(line, &path, message);
        }
    }
}

fn example(values: &OptionValues) -> &'static str {
    match values {
        OptionValues::Text { example, .. }
        | OptionValues::Template { example, .. }
        | OptionValues::Templates { example, .. } => example,
        OptionValues::Choice { words } => words.first().copied().unwrap_or_default(),
        OptionValues::Integer { .. } | OptionValues::TemplateTable => "",
    }
}

/// The value of an option, or its default; `None` if it has none.
fn read_option(section: &mut Section<'_>, rule: &OptionRule) -> Result<Option<OptionValue>, Refused> {
    let key = rule.key;
    let given = match &rule.values {
        OptionValues::Text { example, .. } => section.text(key, example)?.map(|text| OptionValue::Text(text.value)),
        OptionValues::Choice { words } => {
            let choices: Vec<_> = words.iter().map(|word| (*word, *word)).collect();
            let word = section.choice(key, words.first().copied().unwrap_or_default(), &choices);
            Some(OptionValue::Text(word.value.to_owned()))
        }
        OptionValues::Integer { default, min, max } => {
            Some(OptionValue::Integer(section.integer(key, *default, *min..=*max).value))
        }
        OptionValues::Template { example, .. } => match section.text(key, example)? {
            Some(text) => Some(OptionValue::Templates(vec![template(section, &text)?])),
            None => None,
        },
        OptionValues::Templates { example, .. } => match section.texts(key, example)? {
            Some(texts) => {
                let templates = texts.iter().map(|text| template(section, text)).collect::<Result<Vec<_>, _>>()?;
                Some(OptionValue::Templates(templates))
            }
            None => None,
        },
        OptionValues::TemplateTable => {
            let entries = section.entries(key)?.map(|entries| entries.list).unwrap_or_default();
            let read = |entry: Entry| Some((entry.name, template(section, &entry.text?).ok()?));
            Some(OptionValue::Table(entries.into_iter().filter_map(read).collect()))
        }
    };
    Ok(given.or_else(|| rule.values.default()))
}

fn template(section: &Section<'_>, text: &Text) -> Result<Template, Refused> {
    Template::parse(&text.value).map_err(|message| {
        section.context().wrong(text, &message);
        Refused
    })
}

/// What the file says about rows; each part may be absent or refused.
struct Parts {
    table: Result<Option<Text>, Refused>,
    columns: Result<Option<Entries>, Refused>,
    statement: Result<Option<Text>, Refused>,
    parameters: Result<Option<Entries>, Refused>,
}

fn read_target(section: &mut Section<'_>, kind: &Field<&'static SinkKind>, queue: &str) -> Target {
    let parts = Parts {
        table: section.text("table", "orders"),
        columns: section.entries("columns"),
        statement: section.text("statement", "INSERT INTO orders (body) VALUES (:body)"),
        parameters: section.entries("parameters"),
    };
    let Takes::Rows { name_bytes_max, has_statement } = kind.value.takes else {
        refuse_rows(section, kind.value, &parts);
        return Target::Own;
    };
    check_combination(section, &parts);
    if let Ok(Some(text)) = &parts.statement
        && !has_statement
    {
        let message = format!("is of no use to {}; write `table` and `columns`", kind.value.title);
        section.context().wrong(text, &message);
    }
    if matches!(parts, Parts { table: Ok(None), columns: Ok(None), statement: Ok(None), .. }) {
        check_created(section, kind.value, name_bytes_max, queue);
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

/// A database may cut a long name, and then the table that it created is not the one that we look for.
fn check_created(section: &Section<'_>, kind: &SinkKind, name_bytes_max: usize, queue: &str) {
    if "forebay_".len() + queue.len() > name_bytes_max {
        let key = section.key("table");
        let message = format!(
            "`{key}` is missing, and the queue's name is too long to name a table of {}; write `table` and `columns`, or a \
             queue's name of at most {} bytes",
            kind.title,
            name_bytes_max - "forebay_".len()
        );
        section.context().error(section.line(), &key, message);
    }
}

/// What is said about rows to a sink that has none.
fn refuse_rows(section: &Section<'_>, kind: &SinkKind, parts: &Parts) {
    let texts = [&parts.table, &parts.statement].map(|text| text.as_ref().ok().and_then(Option::as_ref));
    let texts = texts.into_iter().flatten().map(|text| (text.line, text.key.clone()));
    let entries = [&parts.columns, &parts.parameters].map(|entries| entries.as_ref().ok().and_then(Option::as_ref));
    let entries = entries.into_iter().flatten().map(|entries| (entries.line, entries.key.clone()));
    let keys: Vec<&str> = kind.options.iter().map(|rule| rule.key).collect();
    for (line, key) in texts.chain(entries) {
        let own = if keys.is_empty() { String::new() } else { format!("; what it has is {}", listed(&keys, "and")) };
        let message = format!("`{key}` is of no use to {}, which has no tables{own}", kind.title);
        section.context().error(line, &key, message);
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
