//! Reads what columns and parameters get, the array that gives rows, and what a conflict does.

use super::context::{Context, Refused, Text};
use super::grammar::{element_source, pointer_fault, source};
use super::reader::{Entries, Entry, Given, Section};
use super::wording::{listed, shown_key};
use super::{Assignment, Conflict, Source, Unnest};
use crate::value::ValueType;

/// The words of `on_conflict`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnConflict {
    Error,
    Ignore,
    Update,
}

/// The array that gives rows; it is a pointer, or a table with a pointer and `required`.
pub(super) fn read_unnest(section: &mut Section<'_>) -> Result<Option<Unnest>, Refused> {
    let Some(given) = section.given("rows", "/items")? else { return Ok(None) };
    let (text, is_required) = match given {
        Given::Text(text) => (text, false),
        Given::Section(mut inner) => {
            let (from, is_required) = (inner.text("from", "/items"), inner.boolean("required", false));
            let (line, key) = (inner.line(), inner.path().to_owned());
            let context = inner.context();
            inner.finish();
            let Some(text) = from? else {
                context.error(line, &key, format!("`{key}` needs `from`; write `rows = {{ from = \"/items\" }}`"));
                return Err(Refused);
            };
            (text, is_required)
        }
    };
    let fault = if text.value.is_empty() || text.value.starts_with('/') {
        pointer_fault(&text.value)
    } else {
        Some("write a JSON pointer to an array such as \"/items\", or \"\" for a body that is one")
    };
    if let Some(fault) = fault {
        section.context().wrong(&text, &format!("cannot be {}; {fault}", text.quoted()));
        return Err(Refused);
    }
    Ok(Some(Unnest { pointer: text.value, is_required }))
}

/// What columns or parameters get. `sound` says whether a name can be one, `unsound` what to say if not.
pub(super) fn read_assignments(
    context: &Context<'_>,
    entries: Entries<Given<'_>>,
    sound: fn(&str) -> bool,
    unsound: &str,
    has_rows: bool,
) -> Vec<(String, Assignment)> {
    let mut assignments = Vec::new();
    for Entry { name, line, value } in entries.list {
        if !sound(&name) {
            let shown = shown_key(&name);
            context.error(line, &format!("{}.{shown}", entries.key), format!("`{shown}` {unsound}"));
        }
        let read = match value {
            Some(Given::Text(text)) => read_source(context, &text, has_rows).map(Assignment::from),
            Some(Given::Section(section)) => read_assignment(section, has_rows),
            None => Err(Refused),
        };
        if let Ok(assignment) = read {
            assignments.push((name, assignment));
        }
    }
    assignments
}

fn read_source(context: &Context<'_>, text: &Text, has_rows: bool) -> Result<Source, Refused> {
    let found = match element_source(&text.value) {
        Some(_) if !has_rows => Err(format!(
            "cannot be {}; what an element of an array holds needs `rows` beside it, such as `rows = \"/items\"`",
            text.quoted()
        )),
        Some(source) => source.map_err(|fault| format!("cannot be {}; {fault}", text.quoted())),
        None => source(text),
    };
    found.map_err(|message| context.wrong(text, &message)).map_err(|()| Refused)
}

/// A table that says more than where a value comes from.
fn read_assignment(mut section: Section<'_>, has_rows: bool) -> Result<Assignment, Refused> {
    let context = section.context();
    let (line, path) = (section.line(), section.path().to_owned());
    let from = section.text("from", "/order_id");
    let constant = section.constant("value");
    let words: Vec<_> = ValueType::WORDS.iter().map(|(word, kind)| (*word, Some(*kind))).collect();
    let value_type = section.choice("type", None, &words);
    let default = section.constant("default");
    let is_required = section.boolean("required", false);
    let beside = ["type", "default", "required"].into_iter().find(|key| section.has(key));
    section.finish();
    let refuse = |message: String| {
        context.error(line, &path, format!("`{path}` {message}"));
        Err(Refused)
    };
    match (from?, constant?) {
        (None, None) => {
            refuse("needs `from`; write `{ from = \"/order_id\" }`, or a constant as `{ value = \"new\" }`".to_owned())
        }
        (Some(_), Some(_)) => refuse("cannot have `from` and `value`; keep one of them".to_owned()),
        (None, Some(constant)) => match beside {
            Some(key) => refuse(format!("is a constant, for which `{key}` means nothing; remove it")),
            None => Ok(Source::Constant(constant).into()),
        },
        (Some(text), None) => {
            let source = read_source(context, &text, has_rows);
            let default = default?;
            if default.is_some() && is_required {
                return refuse("cannot have `default` and `required`; keep one of them".to_owned());
            }
            let default = match (default, value_type.value) {
                (Some(value), Some(kind)) => match kind.of_value(value) {
                    Ok(value) => Some(value),
                    Err(why) => return refuse(format!("has a `default` that is not of its `type`: it {why}")),
                },
                (default, _) => default,
            };
            Ok(Assignment { source: source?, value_type: value_type.value, default, is_required })
        }
    }
}

/// What happens where a row is there already. `columns` are the names of the table's, `None` if there is no table of the user's,
/// and an error if that has been refused.
pub(super) fn read_conflict(section: &mut Section<'_>, columns: Result<Option<Vec<String>>, Refused>) -> Conflict {
    let words = [("error", OnConflict::Error), ("ignore", OnConflict::Ignore), ("update", OnConflict::Update)];
    let action = section.choice("on_conflict", OnConflict::Error, &words);
    let keys = section.texts("conflict_columns", "id");
    let (Ok(keys), Ok(columns), true) = (keys, columns, action.sound) else { return Conflict::Error };
    let context = section.context();
    let wrong = |line: usize, key: &str, message: &str| {
        let key = section.key(key);
        context.error(line, &key, format!("`{key}` {message}"));
        Conflict::Error
    };
    let line = |key: &str| section.line_of(key);
    let Some(columns) = columns else {
        return match ["on_conflict", "conflict_columns"].into_iter().find(|key| section.has(key)) {
            Some(key) => wrong(
                line(key),
                key,
                "needs `table` and `columns` beside it; a statement says what it does by itself, as `ON CONFLICT`",
            ),
            None => Conflict::Error,
        };
    };
    let keys = match keys {
        Some(_) if action.value == OnConflict::Error => {
            return wrong(
                line("conflict_columns"),
                "conflict_columns",
                "is of no use without `on_conflict = \"update\"` or `\"ignore\"`",
            );
        }
        None if action.value == OnConflict::Error => return Conflict::Error,
        Some(keys) if !keys.is_empty() => keys,
        _ => {
            let message =
                "needs `conflict_columns`, those of a primary key or unique index; write `conflict_columns = [\"id\"]`";
            return wrong(line("on_conflict"), "on_conflict", message);
        }
    };
    let is_key = |name: &str| keys.iter().any(|key| key.value == name);
    if let Some(absent) = keys.iter().find(|key| !columns.contains(&key.value)) {
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        context.wrong(
            absent,
            &format!(
                "cannot have {}, which is not among `columns`; those are {}",
                absent.quoted(),
                listed(&names, "and")
            ),
        );
        return Conflict::Error;
    }
    if action.value == OnConflict::Update && columns.iter().all(|name| is_key(name)) {
        let message =
            "has nothing to update, since all `columns` are `conflict_columns`; write `on_conflict = \"ignore\"`";
        return wrong(line("on_conflict"), "on_conflict", message);
    }
    let keys: Vec<String> = keys.into_iter().map(|key| key.value).collect();
    if action.value == OnConflict::Update { Conflict::Update(keys) } else { Conflict::Ignore(keys) }
}
