//! The rows of one batch in the form that SQLite takes, detached from the journal's
//! memory, because a blocking thread cannot borrow.

use std::collections::HashMap;
use std::ops::Range;

use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
use rusqlite::{Connection, Transaction};

use super::super::mapping::{Plan, TablePlan, Value};
use super::super::{Delivery, SinkError};
use crate::config::Source;

/// How each value of a row is bound.
#[derive(Clone, Debug)]
pub(super) struct Shape(Vec<Bind>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bind {
    /// As a literal in SQL would be: 1 as an integer, 1.5 as a real, true as 1.
    Literal,
    /// As it was written: a column for text keeps `19.90` as it is.
    Text,
    /// As a BLOB, whatever the bytes are.
    Blob,
}

/// The values of one batch, row after row.
#[derive(Debug)]
pub(super) struct Rows {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    width: usize,
    count: usize,
}

#[derive(Clone, Debug)]
enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(Range<usize>),
    Blob(Range<usize>),
}

/// The statement that writes one row.
pub(super) fn insert_sql(plan: &Plan) -> String {
    match plan {
        Plan::Statement(statement) => statement.sql.clone(),
        Plan::Table(table) => {
            let places: Vec<_> = (1..=table.columns.len()).map(|number| format!("?{number}")).collect();
            format!("INSERT INTO {} ({}) VALUES ({})", table.quoted, table.quoted_columns(), places.join(", "))
        }
    }
}

/// The statement that creates a table of forebay's own.
pub(super) fn created_table_sql(table: &TablePlan) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (ticket TEXT PRIMARY KEY, received_at TEXT NOT NULL, \
         key TEXT, content_type TEXT, body BLOB NOT NULL)",
        table.quoted
    )
}

impl Shape {
    /// Looks at the columns that the plan writes. A table that is missing has none yet;
    /// the first insert will say so.
    pub(super) fn new(connection: &Connection, plan: &Plan) -> rusqlite::Result<Self> {
        let table = match plan {
            Plan::Statement(statement) => return Ok(Self(vec![Bind::Literal; statement.parameters.len()])),
            Plan::Table(table) => table,
        };
        let mut types = connection.prepare("SELECT lower(name), type FROM pragma_table_xinfo(?1)")?;
        let types = types.query_map([&table.name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let types = types.collect::<rusqlite::Result<HashMap<String, String>>>()?;
        let bind = |(column, source): &(String, Source)| {
            if table.created && *source == Source::Body {
                Bind::Blob
            } else if types.get(&column.to_ascii_lowercase()).is_some_and(|declared| is_text(declared)) {
                Bind::Text
            } else {
                Bind::Literal
            }
        };
        Ok(Self(table.columns.iter().map(bind).collect()))
    }
}

/// Whether a column of this declared type has TEXT affinity, by SQLite's own rules.
fn is_text(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    !declared.contains("INT") && ["CHAR", "CLOB", "TEXT"].iter().any(|text| declared.contains(text))
}

impl Rows {
    /// Evaluates a batch.
    ///
    /// # Errors
    ///
    /// [`SinkError::Permanent`] if a record has no row.
    pub(super) fn new(plan: &Plan, shape: &Shape, deliveries: &[Delivery<'_>]) -> Result<Self, SinkError> {
        let mapping = match plan {
            Plan::Table(table) => &table.mapping,
            Plan::Statement(statement) => &statement.mapping,
        };
        let width = mapping.width();
        let mut rows = Self {
            bytes: Vec::with_capacity(deliveries.iter().map(|delivery| 2 * delivery.record.body.len()).sum()),
            cells: Vec::with_capacity(deliveries.len() * width),
            width,
            count: deliveries.len(),
        };
        for delivery in deliveries {
            for (value, bind) in mapping.row(delivery)?.iter().zip(&shape.0) {
                rows.push(value, *bind);
            }
        }
        Ok(rows)
    }

    fn push(&mut self, value: &Value<'_>, bind: Bind) {
        let cell = match (value, bind) {
            (Value::Null, _) => Cell::Null,
            (Value::Boolean(truth), Bind::Literal) => Cell::Integer(i64::from(*truth)),
            (Value::Number(text), Bind::Literal) => match (text.parse(), text.parse()) {
                (Ok(integer), _) => Cell::Integer(integer),
                (Err(_), Ok(real)) => Cell::Real(real),
                (Err(_), Err(_)) => Cell::Text(self.append(text.as_bytes())),
            },
            (value, Bind::Blob) => Cell::Blob(self.append(value.bytes().unwrap_or_default())),
            (Value::Bytes(bytes), _) if std::str::from_utf8(bytes).is_err() => Cell::Blob(self.append(bytes)),
            (value, _) => Cell::Text(self.append(value.bytes().unwrap_or_default())),
        };
        self.cells.push(cell);
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Runs `sql` once for each row.
    pub(super) fn insert(&self, transaction: &Transaction<'_>, sql: &str) -> rusqlite::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let mut statement = transaction.prepare_cached(sql)?;
        for row in 0..self.count {
            let cells = &self.cells[row * self.width..(row + 1) * self.width];
            for (number, cell) in cells.iter().enumerate() {
                statement.raw_bind_parameter(number + 1, self.output(cell))?;
            }
            // A statement may return rows (RETURNING); it has run when the last one was fetched.
            let mut returned = statement.raw_query();
            while returned.next()?.is_some() {}
        }
        Ok(())
    }

    fn output(&self, cell: &Cell) -> ToSqlOutput<'_> {
        let bytes = |range: &Range<usize>| &self.bytes[range.clone()];
        match cell {
            Cell::Null => ToSqlOutput::Owned(Owned::Null),
            Cell::Integer(integer) => ToSqlOutput::Owned(Owned::Integer(*integer)),
            Cell::Real(real) => ToSqlOutput::Owned(Owned::Real(*real)),
            Cell::Text(range) => ToSqlOutput::Borrowed(ValueRef::Text(bytes(range))),
            Cell::Blob(range) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes(range))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_follows_the_declared_type() {
        for (declared, text) in
            [("TEXT", true), ("varchar(20)", true), ("CHARINT", false), ("NUMERIC", false), ("", false)]
        {
            assert_eq!(is_text(declared), text, "{declared:?}");
        }
    }
}
