//! From records to values: what a row's columns or a statement's parameters get.

mod pointer;
mod text;

use std::borrow::Cow;

pub use self::pointer::Lookup;
use self::pointer::Pointers;
pub use self::text::TextPlan;
use super::statement::{self, Dialect};
use super::{Delivery, SinkError};
use crate::config::{Assignment, Conflict, Source, Target, Unnest};
use crate::limits::{ROWS_PER_RECORD_MAX, SHARED_BYTES_PER_RECORD_MAX};
use crate::record::{Headers, Sequence};
pub use crate::value::Value;
use crate::value::{ConversionError, ValueType, rfc3339};

/// The columns of a table that forebay creates, in order.
const CREATED: [(&str, Source); 5] = [
    ("ticket", Source::Ticket),
    ("received_at", Source::ReceivedAt),
    ("key", Source::Key),
    ("content_type", Source::ContentType),
    ("body", Source::Body),
];

/// Where the values of a record's rows come from.
#[derive(Clone, Debug)]
pub struct Mapping {
    slots: Vec<Slot>,
    pointers: Pointers,
    elements: Option<Elements>,
    queue: String,
}

/// One value of a row.
#[derive(Clone, Debug)]
struct Slot {
    place: Place,
    /// What it is called in a message.
    name: String,
    value_type: Option<ValueType>,
    default: Option<Value<'static>>,
    is_required: bool,
}

#[derive(Clone, Debug)]
enum Place {
    /// The number of a pointer in the set of the body's.
    Pointer(usize),
    /// The number of a pointer in the set of the element's.
    Element(usize),
    /// The element's own number.
    Index,
    /// Anything that is neither.
    Other(Source),
}

/// The array whose elements are the rows.
#[derive(Clone, Debug)]
struct Elements {
    /// Its number in the set of the body's pointers.
    pointer: usize,
    /// The pointer itself.
    text: String,
    is_required: bool,
    /// What is looked for in each element.
    relative: Pointers,
}

/// The rows of one record.
#[derive(Debug)]
pub struct Rows<'a> {
    mapping: &'a Mapping,
    sequence: Sequence,
    /// A whole row, but for what depends on the element.
    shared: Vec<Value<'a>>,
    /// What the rows are made from; `None` if the record is one row.
    elements: Option<Vec<&'a str>>,
}

impl Mapping {
    fn new<'s>(
        assignments: impl IntoIterator<Item = (String, &'s Assignment)>,
        rows: Option<&Unnest>,
        queue: &str,
    ) -> Self {
        let mut pointers = Pointers::default();
        let mut elements = rows.map(|rows| Elements {
            pointer: pointers.add(&rows.pointer),
            text: rows.pointer.clone(),
            is_required: rows.is_required,
            relative: Pointers::default(),
        });
        let slots = assignments
            .into_iter()
            .map(|(name, assignment)| {
                let place = match (&assignment.source, &mut elements) {
                    (Source::Pointer(pointer), _) => Place::Pointer(pointers.add(pointer)),
                    (Source::Element(pointer), Some(elements)) => Place::Element(elements.relative.add(pointer)),
                    (Source::Index, Some(_)) => Place::Index,
                    (other, _) => Place::Other(other.clone()),
                };
                let Assignment { value_type, default, is_required, .. } = assignment.clone();
                Slot { place, name, value_type, default, is_required }
            })
            .collect();
        Self { slots, pointers, elements, queue: queue.to_owned() }
    }

    /// The mapping of values that may be anything and have no names.
    fn of_sources<'s>(sources: impl IntoIterator<Item = &'s Source>, queue: &str) -> Self {
        let assignments: Vec<Assignment> = sources.into_iter().map(|source| source.clone().into()).collect();
        Self::new(assignments.iter().map(|assignment| (String::new(), assignment)), None, queue)
    }

    /// How many values a row has.
    pub(super) fn width(&self) -> usize {
        self.slots.len()
    }

    /// Whether a value may differ from row to row of one record.
    pub(super) fn is_of_element(&self, number: usize) -> bool {
        self.slots.get(number).is_some_and(|slot| matches!(slot.place, Place::Element(_) | Place::Index))
    }

    /// The rows of a record, at most [`ROWS_PER_RECORD_MAX`]; one if it is no array that they come from.
    ///
    /// # Errors
    ///
    /// [`SinkError::Permanent`] if a pointer is asked for and the body isn't JSON, if a value is not of its type or missing and
    /// required, and if what should be an array is none or has too many elements.
    pub fn rows<'a>(&'a self, delivery: &Delivery<'a>) -> Result<Rows<'a>, SinkError> {
        let sequence = delivery.sequence;
        let permanent = |why: String| SinkError::Permanent { message: format!("record {sequence}: {why}") };
        let body = delivery.record.body;
        let found = if self.pointers.is_empty() {
            Vec::new()
        } else {
            self.pointers.find(body).map_err(|why| permanent(not_json(&why)))?
        };
        let find = |number: usize| found.get(number).copied().flatten();
        let value = |slot: &'a Slot| match &slot.place {
            Place::Pointer(number) => slot.of_json(find(*number)),
            Place::Element(_) | Place::Index => Ok(Value::Null),
            Place::Other(source) => slot.of_value(self.value(source, delivery)),
        };
        let shared = self.slots.iter().map(value).collect::<Result<_, _>>().map_err(permanent)?;
        let elements = self.elements.as_ref().map(|elements| elements.of(find(elements.pointer)));
        let rows = Rows { mapping: self, sequence, shared, elements: elements.transpose().map_err(permanent)? };
        if rows.len() > 1 && rows.shared_bytes() > SHARED_BYTES_PER_RECORD_MAX {
            return Err(permanent(format!(
                "its {} rows would have more than {SHARED_BYTES_PER_RECORD_MAX} bytes of what is the same in each of them",
                rows.len()
            )));
        }
        Ok(rows)
    }

    fn value<'a>(&'a self, source: &'a Source, delivery: &Delivery<'a>) -> Value<'a> {
        let record = &delivery.record;
        let bytes = |bytes: &'a [u8]| Value::Bytes(Cow::Borrowed(bytes));
        let unless_empty = |text: &'a [u8]| if text.is_empty() { Value::Null } else { bytes(text) };
        match source {
            // These have places of their own.
            Source::Pointer(_) | Source::Element(_) | Source::Index => Value::Null,
            Source::Ticket => Value::Text(Cow::Borrowed(delivery.ticket)),
            Source::Sequence => Value::Number(Cow::Owned(delivery.sequence.to_string())),
            Source::Queue => Value::Text(Cow::Borrowed(&self.queue)),
            Source::ReceivedAt => Value::Text(Cow::Owned(rfc3339(record.received_at_us))),
            Source::Key => unless_empty(record.key),
            Source::IdempotencyKey => unless_empty(record.idempotency_key),
            Source::ContentType => unless_empty(record.content_type),
            Source::Body => bytes(record.body),
            Source::Method => unless_empty(record.attributes.method()),
            Source::Path => unless_empty(record.attributes.target()),
            Source::Header(name) => header(record.attributes.headers(), name),
            Source::Constant(value) => value.clone(),
        }
    }
}

/// The value of a header. One that was there several times is a list with commas, as in RFC 9110, section 5.3.
fn header<'a>(headers: Headers<'a>, name: &str) -> Value<'a> {
    let mut values = headers.values(name);
    let Some(first) = values.next() else { return Value::Null };
    let mut joined = Cow::Borrowed(first);
    for value in values {
        joined.to_mut().extend_from_slice(b", ");
        joined.to_mut().extend_from_slice(value);
    }
    Value::Bytes(joined)
}

fn not_json(why: &str) -> String {
    format!("the body is not JSON: {why}")
}

impl Slot {
    /// What a pointer found, as a value.
    fn of_json<'a>(&'a self, found: Option<&'a str>) -> Result<Value<'a>, String> {
        // Null says that there is nothing, and so does a member that is not there.
        let Some(json) = found.filter(|json| *json != "null") else { return self.missing() };
        let value = self.value_type.map_or_else(|| Value::of_json(json), |kind| kind.of_json(json));
        value.map_err(|why| self.unfit(&why))
    }

    fn of_value<'a>(&'a self, value: Value<'a>) -> Result<Value<'a>, String> {
        match (value, self.value_type) {
            (Value::Null, _) => self.missing(),
            (value, None) => Ok(value),
            (value, Some(kind)) => kind.of_value(value).map_err(|why| self.unfit(&why)),
        }
    }

    fn missing(&self) -> Result<Value<'_>, String> {
        match &self.default {
            Some(default) => Ok(default.clone()),
            None if self.is_required => Err(format!("{} is required, and there is nothing", self.name)),
            None => Ok(Value::Null),
        }
    }

    fn unfit(&self, why: &ConversionError) -> String {
        match why {
            ConversionError::NotJson(why) => not_json(why),
            why => format!("{} {why}", self.name),
        }
    }
}

impl Elements {
    /// The elements of what the pointer found.
    fn of<'a>(&self, found: Option<&'a str>) -> Result<Vec<&'a str>, String> {
        let pointer = &self.text;
        let elements = match found.filter(|json| *json != "null") {
            None => Vec::new(),
            Some(array) if array.starts_with('[') => {
                pointer::elements(array, ROWS_PER_RECORD_MAX).ok_or_else(|| {
                    format!(
                        "the array at {pointer:?} has more than {ROWS_PER_RECORD_MAX} elements, and each would be a row"
                    )
                })?
            }
            Some(_) => return Err(format!("what is at {pointer:?} is no array, and its elements should be rows")),
        };
        if elements.is_empty() && self.is_required {
            return Err(format!("the array at {pointer:?} is required, and has no element"));
        }
        Ok(elements)
    }
}

impl Rows<'_> {
    /// How many rows there are; 0 for a record whose array is empty or missing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.as_ref().map_or(1, Vec::len)
    }

    /// Bytes of what does not depend on the element, in all rows together.
    fn shared_bytes(&self) -> usize {
        let bytes: usize = self.shared.iter().filter_map(Value::bytes).map(<[u8]>::len).sum();
        bytes.saturating_mul(self.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of one row, in the order of the assignments.
    ///
    /// # Errors
    ///
    /// [`SinkError::Permanent`] if a value of its element is not of its type, or missing and required.
    pub fn row(&self, index: usize) -> Result<Cow<'_, [Value<'_>]>, SinkError> {
        let (Some(elements), Some(of_elements)) = (&self.elements, &self.mapping.elements) else {
            return Ok(Cow::Borrowed(&self.shared));
        };
        let mut row: Vec<Value<'_>> = self.shared.iter().map(Value::borrowed).collect();
        let element = elements.get(index).copied().unwrap_or("null");
        let found = of_elements.relative.find_in(element);
        for (slot, value) in self.mapping.slots.iter().zip(&mut row) {
            let own = match &slot.place {
                Place::Element(number) => slot.of_json(found.get(*number).copied().flatten()),
                Place::Index => slot.of_value(Value::Number(Cow::Owned(index.to_string()))),
                Place::Pointer(_) | Place::Other(_) => continue,
            };
            *value = own.map_err(|why| SinkError::Permanent {
                message: format!("record {}, element {index}: {why}", self.sequence),
            })?;
        }
        Ok(Cow::Owned(row))
    }
}

/// What a target asks a sink to do with each record.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Rows of a table.
    Table(TablePlan),
    /// A statement of the user's.
    Statement(StatementPlan),
}

/// A row of a table for each record, or for each element of its array.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// Its schema without quotes, if it was written. MySQL asks for it apart from the name.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "only MySQL asks for it"))]
    pub(super) schema: Option<String>,
    /// Its name without a schema and without quotes.
    pub(super) name: String,
    /// Its name, quoted, with its schema if there is one.
    pub(super) quoted: String,
    /// Names of the columns and what they get; not quoted.
    pub(super) columns: Vec<(String, Assignment)>,
    /// What happens where a row is there already.
    pub(super) conflict: Conflict,
    /// Whether forebay creates the table if it is missing.
    pub(super) created: bool,
    /// Whose quotes they are.
    dialect: Dialect,
    /// The values of the columns.
    pub mapping: Mapping,
}

/// A statement of the user's for each record, or for each element of its array.
#[derive(Clone, Debug)]
pub struct StatementPlan {
    /// The SQL with positional parameters.
    pub(super) sql: String,
    /// The names of the parameters and what they get, by position.
    pub(super) parameters: Vec<(String, Assignment)>,
    /// Where in `sql` the sign of each occurrence of a parameter stands.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "only MySQL asks for it"))]
    pub(super) places: Vec<usize>,
    /// The values of the parameters.
    pub(super) mapping: Mapping,
}

impl Plan {
    /// What `target` asks for.
    ///
    /// # Errors
    ///
    /// What is wrong with a statement's text.
    pub fn new(target: &Target, queue: &str, dialect: Dialect) -> Result<Self, String> {
        match target {
            Target::Created { table } => {
                let columns = CREATED.map(|(name, source)| (name.to_owned(), source.into())).to_vec();
                let mapping = column_mapping(&columns, None, queue);
                // Its name is one name even if it holds a dot.
                let plan = TablePlan::new((None, table), columns, dialect, mapping);
                Ok(Plan::Table(TablePlan { created: true, ..plan }))
            }
            Target::Table { table, columns, rows, conflict } => {
                let name = table.split_once('.').map_or((None, table.as_str()), |(schema, name)| (Some(schema), name));
                let mapping = column_mapping(columns, rows.as_ref(), queue);
                let plan = TablePlan::new(name, columns.clone(), dialect, mapping);
                Ok(Plan::Table(TablePlan { conflict: conflict.clone(), ..plan }))
            }
            Target::Own => Err("neither a table nor a statement is configured".to_owned()),
            Target::Statement { statement, parameters, rows } => {
                let parsed = statement::parse(statement, parameters, dialect)?;
                let assigned = parsed.parameters.iter().map(|(name, to)| (described("parameter", name, to), to));
                let mapping = Mapping::new(assigned, rows.as_ref(), queue);
                let statement::Parsed { sql, parameters, places } = parsed;
                Ok(Plan::Statement(StatementPlan { sql, parameters, places, mapping }))
            }
        }
    }

    /// That of a sink that has positions alone and gets no rows.
    pub(super) fn of_positions() -> Self {
        let mapping = Mapping::of_sources([], "");
        let sql = "SELECT 1".to_owned();
        Plan::Statement(StatementPlan { sql, parameters: Vec::new(), places: Vec::new(), mapping })
    }
}

fn column_mapping(columns: &[(String, Assignment)], rows: Option<&Unnest>, queue: &str) -> Mapping {
    Mapping::new(columns.iter().map(|(name, to)| (described("column", name, to), to)), rows, queue)
}

/// The type that values will have, as far as the mapping says so.
pub(super) fn given_type(assignment: &Assignment) -> Option<ValueType> {
    let of_source = match &assignment.source {
        Source::Sequence | Source::Index => Some(ValueType::Integer),
        Source::ReceivedAt => Some(ValueType::Timestamp),
        Source::Ticket => Some(ValueType::Text),
        Source::Constant(Value::Boolean(_)) => Some(ValueType::Boolean),
        Source::Constant(Value::Number(text) | Value::Text(text)) => {
            // A database reads digits in quotes as a number too.
            let types = [ValueType::Integer, ValueType::Number];
            let fits = |kind: &ValueType| kind.of_value(Value::Text(Cow::Borrowed(text))).is_ok();
            Some(types.into_iter().find(fits).unwrap_or(ValueType::Text))
        }
        _ => None,
    };
    assignment.value_type.or(of_source)
}

/// What a value is called in a message: what gets it, and where it is from.
fn described(what: &str, name: &str, assignment: &Assignment) -> String {
    match &assignment.source {
        Source::Pointer(pointer) => format!("{what} {name:?} from \"{pointer}\""),
        Source::Element(pointer) => format!("{what} {name:?} from \"@{pointer}\""),
        _ => format!("{what} {name:?}"),
    }
}

impl TablePlan {
    /// A table of the user's in which a row that is there already is an error.
    fn new(
        (schema, name): (Option<&str>, &str),
        columns: Vec<(String, Assignment)>,
        dialect: Dialect,
        mapping: Mapping,
    ) -> Self {
        let quoted: Vec<_> = schema.into_iter().chain([name]).map(|name| dialect.quoted(name)).collect();
        Self {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
            quoted: quoted.join("."),
            columns,
            conflict: Conflict::Error,
            created: false,
            dialect,
            mapping,
        }
    }

    /// The columns' names, quoted and separated by commas.
    pub(super) fn quoted_columns(&self) -> String {
        let quoted: Vec<_> = self.columns.iter().map(|(name, _)| self.dialect.quoted(name)).collect();
        quoted.join(", ")
    }

    /// What an INSERT of these columns says of conflicts; empty if nothing.
    pub(super) fn conflict_clause(&self) -> String {
        let named = |keys: &[String]| keys.iter().map(|key| self.dialect.quoted(key)).collect::<Vec<_>>().join(", ");
        let others = |keys: &[String], set: &dyn Fn(String) -> String| {
            let others = self.columns.iter().filter(|(name, _)| !keys.contains(name));
            others.map(|(name, _)| set(self.dialect.quoted(name))).collect::<Vec<_>>().join(", ")
        };
        match (&self.conflict, self.dialect) {
            (Conflict::Error, _) => String::new(),
            (Conflict::Ignore(keys), Dialect::Sqlite | Dialect::Postgres) => {
                format!(" ON CONFLICT ({}) DO NOTHING", named(keys))
            }
            (Conflict::Update(keys), Dialect::Sqlite | Dialect::Postgres) => {
                let set = others(keys, &|name| format!("{name} = excluded.{name}"));
                format!(" ON CONFLICT ({}) DO UPDATE SET {set}", named(keys))
            }
            // IGNORE would also bend values that do not fit. A row that is set to what it is stays as it is.
            (Conflict::Ignore(keys), Dialect::Mysql) => {
                let same =
                    keys.iter().map(|key| self.dialect.quoted(key)).map(|key| format!("{key} = {}.{key}", self.quoted));
                format!(" ON DUPLICATE KEY UPDATE {}", same.collect::<Vec<_>>().join(", "))
            }
            (Conflict::Update(keys), Dialect::Mysql) => {
                let set = others(keys, &|name| format!("{name} = VALUES({name})"));
                format!(" ON DUPLICATE KEY UPDATE {set}")
            }
        }
    }

    /// The columns whose values say which row is meant; none if a row that is there already is an error.
    pub(super) fn conflict_columns(&self) -> &[String] {
        match &self.conflict {
            Conflict::Error => &[],
            Conflict::Ignore(keys) | Conflict::Update(keys) => keys,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Attributes, Record};

    fn delivery<'a>(body: &'a [u8], key: &'a [u8]) -> Delivery<'a> {
        let record = Record {
            received_at_us: 1_700_000_000_000_042,
            idempotency_hash: [0; 16],
            group_count: 1,
            key,
            idempotency_key: b"",
            content_type: b"text/plain",
            attributes: Attributes::NONE,
            body,
        };
        Delivery { sequence: 7, record, ticket: "q-7-0" }
    }

    /// The only row, on its own.
    fn row(mapping: &Mapping, delivery: Delivery<'_>) -> Result<Vec<Value<'static>>, SinkError> {
        let owned = |value: &Value<'_>| match value {
            Value::Null => Value::Null,
            Value::Boolean(truth) => Value::Boolean(*truth),
            Value::Number(text) => Value::Number(Cow::Owned(text.to_string())),
            Value::Text(text) => Value::Text(Cow::Owned(text.to_string())),
            Value::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.to_vec())),
        };
        Ok(mapping.rows(&delivery)?.row(0)?.iter().map(owned).collect())
    }

    #[test]
    fn every_source_has_its_value() {
        let sources = [
            Source::Ticket,
            Source::Sequence,
            Source::Queue,
            Source::ReceivedAt,
            Source::Key,
            Source::IdempotencyKey,
            Source::ContentType,
            Source::Body,
        ];
        let mapping = Mapping::of_sources(&sources, "orders");
        let text = |text: &'static str| Value::Text(Cow::Borrowed(text));
        let bytes = |bytes: &'static [u8]| Value::Bytes(Cow::Borrowed(bytes));
        let wanted = vec![
            text("q-7-0"),
            Value::Number(Cow::Borrowed("7")),
            text("orders"),
            text("2023-11-14T22:13:20.000042Z"),
            bytes(b"k\xff"),
            Value::Null,
            bytes(b"text/plain"),
            bytes(b"not {json"),
        ];
        assert_eq!(row(&mapping, delivery(b"not {json", b"k\xff")), Ok(wanted));
    }

    #[test]
    fn json_values_become_what_they_say() {
        let sources = ["/s", "/n", "/t", "/z", "/o", "/missing"].map(|text| Source::Pointer(text.to_owned()));
        let mapping = Mapping::of_sources(&sources, "q");
        let body = br#"{"s":"a\n\u00e9","n":19.90,"t":true,"z":null,"o":{ "x": [1, 2] }}"#;
        let wanted = vec![
            Value::Text(Cow::Borrowed("a\né")),
            Value::Number(Cow::Borrowed("19.90")),
            Value::Boolean(true),
            Value::Null,
            Value::Text(Cow::Borrowed(r#"{"x":[1,2]}"#)),
            Value::Null,
        ];
        assert_eq!(row(&mapping, delivery(body, b"")), Ok(wanted));
    }

    #[test]
    fn a_body_that_is_not_json_is_refused_for_good() {
        let mapping = Mapping::of_sources(&[Source::Pointer("/s".to_owned())], "q");
        for body in [&b"{"[..], b"\xff", br#"{"s":"\ud800"}"#] {
            let refused = row(&mapping, delivery(body, b"")).unwrap_err();
            assert!(matches!(&refused, SinkError::Permanent { message } if message.contains("the body is not JSON: ")));
        }
    }
}
