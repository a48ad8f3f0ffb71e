//! From records to values: what a row's columns or a statement's parameters get.

mod pointer;
mod text;

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

pub use self::pointer::Lookup;
use self::pointer::Pointers;
pub use self::text::TextPlan;
use super::statement::{self, Dialect};
use super::{Delivery, SinkError};
use crate::config::{Source, Target};
use crate::record::Headers;

/// The last microsecond of the year 9999, behind which RFC 3339 has no notation.
const RECEIVED_AT_US_MAX: u64 = 253_402_300_799_999_999;

/// The columns of a table that forebay creates, in order.
const CREATED: [(&str, Source); 5] = [
    ("ticket", Source::Ticket),
    ("received_at", Source::ReceivedAt),
    ("key", Source::Key),
    ("content_type", Source::ContentType),
    ("body", Source::Body),
];

/// A value on its way into a database, which decides what it becomes in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL's NULL, for JSON's null and for what a record doesn't have.
    Null,
    /// JSON's true or false.
    Boolean(bool),
    /// A number as it was written.
    Number(Cow<'a, str>),
    /// Text.
    Text(Cow<'a, str>),
    /// What a client sent: mostly text, but nobody promised it.
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// The bytes that say this value, or `None` for NULL.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Null => None,
            Value::Boolean(true) => Some(b"true"),
            Value::Boolean(false) => Some(b"false"),
            Value::Number(text) | Value::Text(text) => Some(text.as_bytes()),
            Value::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Where the values of a row come from.
#[derive(Clone, Debug)]
pub struct Mapping {
    slots: Vec<Slot>,
    pointers: Pointers,
    queue: String,
}

#[derive(Clone, Debug)]
enum Slot {
    /// The number of a pointer in the set.
    Pointer(usize),
    /// Anything that is not a pointer.
    Other(Source),
}

impl Mapping {
    fn new<'s>(sources: impl IntoIterator<Item = &'s Source>, queue: &str) -> Self {
        let mut pointers = Pointers::default();
        let slots = sources
            .into_iter()
            .map(|source| match source {
                Source::Pointer(pointer) => Slot::Pointer(pointers.add(pointer)),
                other => Slot::Other(other.clone()),
            })
            .collect();
        Self { slots, pointers, queue: queue.to_owned() }
    }

    /// How many values a row has.
    pub(super) fn width(&self) -> usize {
        self.slots.len()
    }

    /// The values of one row, in the order of the sources.
    ///
    /// # Errors
    ///
    /// [`SinkError::Permanent`] if a pointer is asked for and the body isn't JSON.
    pub fn row<'a>(&'a self, delivery: &Delivery<'a>) -> Result<Vec<Value<'a>>, SinkError> {
        let body = delivery.record.body;
        let not_json = |why: String| SinkError::Permanent {
            message: format!("record {}: the body is not JSON: {why}", delivery.sequence),
        };
        let found = if self.pointers.is_empty() { Vec::new() } else { self.pointers.find(body).map_err(not_json)? };
        self.slots
            .iter()
            .map(|slot| match slot {
                Slot::Other(source) => Ok(self.value(source, delivery)),
                Slot::Pointer(number) => {
                    found.get(*number).copied().flatten().map_or(Ok(Value::Null), json_value).map_err(not_json)
                }
            })
            .collect()
    }

    fn value<'a>(&'a self, source: &Source, delivery: &Delivery<'a>) -> Value<'a> {
        let record = &delivery.record;
        let unless_empty = |bytes: &'a [u8]| if bytes.is_empty() { Value::Null } else { Value::Bytes(bytes) };
        match source {
            // Pointers have slots of their own.
            Source::Pointer(_) => Value::Null,
            Source::Ticket => Value::Text(Cow::Borrowed(delivery.ticket)),
            Source::Sequence => Value::Number(Cow::Owned(delivery.sequence.to_string())),
            Source::Queue => Value::Text(Cow::Borrowed(&self.queue)),
            Source::ReceivedAt => Value::Text(Cow::Owned(rfc3339(record.received_at_us))),
            Source::Key => unless_empty(record.key),
            Source::IdempotencyKey => unless_empty(record.idempotency_key),
            Source::ContentType => unless_empty(record.content_type),
            Source::Body => Value::Bytes(record.body),
            Source::Method => unless_empty(record.attributes.method()),
            Source::Path => unless_empty(record.attributes.target()),
            Source::Header(name) => header(record.attributes.headers(), name),
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
    match joined {
        Cow::Borrowed(bytes) => Value::Bytes(bytes),
        Cow::Owned(bytes) => Value::Text(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

fn json_value(text: &str) -> Result<Value<'_>, String> {
    Ok(match text.as_bytes().first() {
        None | Some(b'n') => Value::Null,
        Some(b'"') => Value::Text(pointer::string(text)?),
        Some(b't') => Value::Boolean(true),
        Some(b'f') => Value::Boolean(false),
        Some(b'{' | b'[') => Value::Text(pointer::compact(text)),
        Some(_) => Value::Number(Cow::Borrowed(text)),
    })
}

/// A time in UTC with microseconds; one behind the year 9999 becomes the last moment of that year.
fn rfc3339(unix_us: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_micros(unix_us.min(RECEIVED_AT_US_MAX));
    humantime::format_rfc3339_micros(time).to_string()
}

/// What a target asks a sink to do with each record.
#[derive(Clone, Debug)]
pub enum Plan {
    /// A row of a table.
    Table(TablePlan),
    /// A statement of the user's.
    Statement(StatementPlan),
}

/// A row of a table for each record.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// Its schema without quotes, if it was written.
    pub(super) schema: Option<String>,
    /// Its name without a schema and without quotes.
    pub(super) name: String,
    /// Its name, quoted, with its schema if there is one.
    pub(super) quoted: String,
    /// Names of the columns and where their values come from; not quoted.
    pub(super) columns: Vec<(String, Source)>,
    /// Whether forebay creates the table if it is missing.
    pub(super) created: bool,
    /// Whose quotes they are.
    dialect: Dialect,
    /// The values of the columns.
    pub mapping: Mapping,
}

/// A statement of the user's for each record.
#[derive(Clone, Debug)]
pub struct StatementPlan {
    /// The SQL with positional parameters.
    pub(super) sql: String,
    /// The names of the parameters and where their values come from, by position.
    pub(super) parameters: Vec<(String, Source)>,
    /// Where in `sql` the sign of each occurrence of a parameter stands.
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
                let columns = CREATED.map(|(name, source)| (name.to_owned(), source)).to_vec();
                // Its name is one name even if it holds a dot.
                Ok(Self::table((None, table), columns, queue, true, dialect))
            }
            Target::Table { table, columns } => {
                let name = table.split_once('.').map_or((None, table.as_str()), |(schema, name)| (Some(schema), name));
                Ok(Self::table(name, columns.clone(), queue, false, dialect))
            }
            Target::Own => Err("neither a table nor a statement is configured".to_owned()),
            Target::Statement { statement, parameters } => {
                let parsed = statement::parse(statement, parameters, dialect)?;
                let mapping = Mapping::new(parsed.parameters.iter().map(|(_, source)| source), queue);
                let statement::Parsed { sql, parameters, places } = parsed;
                Ok(Plan::Statement(StatementPlan { sql, parameters, places, mapping }))
            }
        }
    }

    /// That of a sink that has positions alone and gets no rows.
    pub(super) fn of_positions() -> Self {
        let mapping = Mapping::new([], "");
        let sql = "SELECT 1".to_owned();
        Plan::Statement(StatementPlan { sql, parameters: Vec::new(), places: Vec::new(), mapping })
    }

    fn table(
        (schema, name): (Option<&str>, &str),
        columns: Vec<(String, Source)>,
        queue: &str,
        created: bool,
        dialect: Dialect,
    ) -> Self {
        let mapping = Mapping::new(columns.iter().map(|(_, source)| source), queue);
        let quoted: Vec<_> = schema.into_iter().chain([name]).map(|name| dialect.quoted(name)).collect();
        Plan::Table(TablePlan {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
            quoted: quoted.join("."),
            columns,
            created,
            dialect,
            mapping,
        })
    }
}

impl TablePlan {
    /// The columns' names, quoted and separated by commas.
    pub(super) fn quoted_columns(&self) -> String {
        let quoted: Vec<_> = self.columns.iter().map(|(name, _)| self.dialect.quoted(name)).collect();
        quoted.join(", ")
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

    fn row<'a>(mapping: &'a Mapping, delivery: Delivery<'a>) -> Result<Vec<Value<'a>>, SinkError> {
        mapping.row(&delivery)
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
        let mapping = Mapping::new(&sources, "orders");
        let text = |text: &'static str| Value::Text(Cow::Borrowed(text));
        let wanted = vec![
            text("q-7-0"),
            Value::Number(Cow::Borrowed("7")),
            text("orders"),
            text("2023-11-14T22:13:20.000042Z"),
            Value::Bytes(b"k\xff"),
            Value::Null,
            Value::Bytes(b"text/plain"),
            Value::Bytes(b"not {json"),
        ];
        assert_eq!(row(&mapping, delivery(b"not {json", b"k\xff")), Ok(wanted));
    }

    #[test]
    fn json_values_become_what_they_say() {
        let sources = ["/s", "/n", "/t", "/z", "/o", "/missing"].map(|text| Source::Pointer(text.to_owned()));
        let mapping = Mapping::new(&sources, "q");
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
        let mapping = Mapping::new(&[Source::Pointer("/s".to_owned())], "q");
        for body in [&b"{"[..], b"\xff", br#"{"s":"\ud800"}"#] {
            let refused = row(&mapping, delivery(body, b"")).unwrap_err();
            assert!(matches!(&refused, SinkError::Permanent { message } if message.contains("the body is not JSON: ")));
        }
    }

    #[test]
    fn a_time_out_of_range_is_no_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999999Z");
    }
}
