//! Whether a table's columns can take what is mapped to them.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row};

use super::super::mapping::{TablePlan, given_type};
use super::super::statement::{literal, named, quoted};
use super::check::Look;
use super::session::{describe, is_permanent};
use crate::config::{Assignment, Conflict, Source, nearest};
use crate::value::{Value, ValueType};

/// Looks at columns in a way that also works before PostgreSQL 12, which has no attgenerated. A domain counts as what it is over.
const COLUMNS: &str = "SELECT a.attname::text, \
        has_column_privilege(a.attrelid, a.attnum, 'INSERT'), \
        has_column_privilege(a.attrelid, a.attnum, 'UPDATE'), \
        has_column_privilege(a.attrelid, a.attnum, 'SELECT'), \
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' \
            AND coalesce(to_jsonb(a) ->> 'attgenerated', '') = '', \
        coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '', \
        format_type(a.atttypid, a.atttypmod), b.typname::text, b.typcategory::text, \
        CASE WHEN a.atthasdef AND a.attidentity = '' THEN pg_get_serial_sequence($1, a.attname) END \
    FROM pg_attribute a \
    JOIN pg_type t ON t.oid = a.atttypid \
    JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// What may be needed of a column, in the order in which the query above asks for it.
const PRIVILEGES: [&str; 3] = ["INSERT", "UPDATE", "SELECT"];

struct Column {
    name: String,
    /// The privileges on it that we do not have.
    lacking: Vec<&'static str>,
    must_be_given: bool,
    is_generated: bool,
    /// The type as its owner wrote it.
    declared: String,
    base: String,
    category: String,
    /// What gives out its values by default.
    sequence: Option<String>,
}

impl Column {
    fn read(row: &Row) -> Result<Self, Error> {
        let mut lacking = Vec::new();
        for (number, privilege) in PRIVILEGES.into_iter().enumerate() {
            if !row.try_get::<_, bool>(number + 1)? {
                lacking.push(privilege);
            }
        }
        Ok(Self {
            name: row.try_get(0)?,
            lacking,
            must_be_given: row.try_get(4)?,
            is_generated: row.try_get(5)?,
            declared: row.try_get(6)?,
            base: row.try_get(7)?,
            category: row.try_get(8)?,
            sequence: row.try_get(9)?,
        })
    }

    /// Whether it can take what is of this type. Types that nobody here knows take everything.
    fn takes(&self, given: ValueType) -> bool {
        use ValueType::{Boolean, Bytes, Integer, Json, Number, Text, Timestamp, UnixMs, UnixS};
        match (self.category.as_str(), self.base.as_str()) {
            (_, "bytea") => true,
            ("S", _) => given != Bytes,
            ("N", "int2" | "int4" | "int8" | "oid") => given == Integer,
            ("N", _) => matches!(given, Integer | Number),
            ("B", _) => given == Boolean,
            ("D", _) => matches!(given, Timestamp | UnixS | UnixMs | Text),
            ("U", "json" | "jsonb") => matches!(given, Json | Integer | Number | Boolean),
            ("U", "uuid" | "xml") | ("A" | "G" | "I" | "R" | "T", _) => given == Text,
            _ => true,
        }
    }
}

impl Look<'_> {
    /// The columns of a table that exists.
    pub(super) async fn columns(&mut self, table: &TablePlan) -> Result<(), Error> {
        let name = &table.quoted;
        let rows = self.client.query(COLUMNS, &[name]).await?;
        let all = rows.iter().map(Column::read).collect::<Result<Vec<_>, _>>()?;
        let before = self.problems.len();
        let is_mapped = |column: &&Column| table.columns.iter().any(|(given, _)| *given == column.name);
        let (mapped, unmapped): (Vec<&Column>, Vec<&Column>) = all.iter().partition(is_mapped);
        for (wanted, assignment) in &table.columns {
            let column = quoted(wanted);
            let found = mapped.iter().find(|column| column.name == *wanted);
            let problem = match (found, given_type(assignment)) {
                (None, _) => {
                    let near = nearest(wanted, unmapped.iter().map(|column| column.name.as_str()));
                    let near = near.map_or(String::new(), |near| format!(" Did you mean {}?", quoted(near)));
                    format!(
                        "The table {name} has no column {column}.{near} Add it: ALTER TABLE {name} ADD COLUMN {};",
                        column_sql(wanted, assignment)
                    )
                }
                (Some(found), _) if found.is_generated => format!(
                    "The column {column} of {name} is generated and takes no value; leave it out of the columns."
                ),
                // A constant is tried out below.
                (Some(_), _) if matches!(assignment.source, Source::Constant(_)) => continue,
                (Some(found), Some(given)) if !found.takes(given) => format!(
                    "The column {column} of {name} is {}, which cannot take what is mapped to it as {}. Map another type, \
                     or: ALTER TABLE {name} ALTER COLUMN {column} TYPE {};",
                    found.declared,
                    given.word(),
                    type_of(given)
                ),
                _ => continue,
            };
            self.problems.push(problem);
        }
        let not_given = unmapped.iter().filter(|column| column.must_be_given).map(|column| {
            let column = quoted(&column.name);
            format!(
                "The column {column} of {name} is NOT NULL, has no default, and nothing is mapped to it. Map it, or: \
                 ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL;"
            )
        });
        self.problems.extend(not_given);
        for sequence in unmapped.iter().filter_map(|column| column.sequence.as_ref()) {
            self.sequence(sequence).await?;
        }
        self.constants(table, &mapped).await?;
        self.column_privileges(table, &mapped);
        // What is wrong with a conflict can only be said of a table that is sound but for it.
        if self.problems.len() == before && table.conflict != Conflict::Error {
            self.conflict(table).await?;
        }
        Ok(())
    }

    /// Whether columns take the constants and defaults that the mapping has for them.
    async fn constants(&mut self, table: &TablePlan, mapped: &[&Column]) -> Result<(), Error> {
        for (name, assignment) in &table.columns {
            let constant = match &assignment.source {
                Source::Constant(value) => Some(value),
                _ => assignment.default.as_ref(),
            };
            // Whatever it is, a bytea takes its bytes.
            let column = mapped.iter().find(|column| column.name == *name && column.base != "bytea");
            let text = constant.and_then(Value::bytes).map(String::from_utf8_lossy);
            let (Some(column), Some(text)) = (column, text) else { continue };
            // The server reads it as it reads a column's text.
            let sql = format!("SELECT {}::{}", literal(&text), column.declared);
            if let Err(error) = self.client.simple_query(&sql).await
                && is_permanent(&error)
            {
                self.problems.push(format!(
                    "The column {} of {} is {} and cannot take the constant or default of the mapping: {}.",
                    quoted(name),
                    table.quoted,
                    column.declared,
                    describe(&error)
                ));
            }
        }
        Ok(())
    }

    fn column_privileges(&mut self, table: &TablePlan, mapped: &[&Column]) {
        let keys = table.conflict_columns();
        let is_update = matches!(table.conflict, Conflict::Update(_));
        // An update reads the new values under the names of the old ones, which asks for the right to read these.
        let needs = |privilege: &str, column: &Column| match privilege {
            "INSERT" => true,
            "UPDATE" => is_update && !keys.contains(&column.name),
            _ => is_update || keys.contains(&column.name),
        };
        for privilege in PRIVILEGES {
            let lacks = |column: &Column| column.lacking.contains(&privilege) && needs(privilege, column);
            let lacking = mapped.iter().filter(|column| !column.is_generated && lacks(column));
            let lacking: Vec<_> = lacking.map(|column| quoted(&column.name)).collect();
            if !lacking.is_empty() {
                self.problems.push(format!(
                    "The role {0} may not {privilege} {2} of {1}. Let it: GRANT {privilege} ON {1} TO {0};",
                    self.role,
                    table.quoted,
                    lacking.join(", ")
                ));
            }
        }
    }

    async fn sequence(&mut self, sequence: &str) -> Result<(), Error> {
        let sql = "SELECT has_sequence_privilege($1, 'USAGE, UPDATE')";
        if !self.client.query_one(sql, &[&sequence]).await?.try_get::<_, bool>(0)? {
            self.problems.push(format!(
                "The role {0} may not use the sequence {sequence}, which gives a column its default. \
                 Let it: GRANT USAGE ON SEQUENCE {sequence} TO {0};",
                self.role
            ));
        }
        Ok(())
    }

    /// Whether an upsert would work: EXPLAIN plans it and stops there.
    async fn conflict(&mut self, table: &TablePlan) -> Result<(), Error> {
        let may = "SELECT has_database_privilege(current_database(), 'TEMPORARY'), quote_ident(current_database())";
        let row = self.client.query_one(may, &[]).await?;
        if !row.try_get::<_, bool>(0)? {
            self.problems.push(format!(
                "The role {0} may not make temporary tables, which `on_conflict` needs for the rows of a batch. \
                 Let it: GRANT TEMPORARY ON DATABASE {1} TO {0};",
                self.role,
                row.try_get::<_, String>(1)?
            ));
        }
        let (name, keys) = (&table.quoted, named(table.conflict_columns()));
        let nulls = vec!["NULL"; table.columns.len()].join(", ");
        let sql = format!(
            "EXPLAIN INSERT INTO {name} ({}) VALUES ({nulls}){}",
            table.quoted_columns(),
            table.conflict_clause()
        );
        let problem = match self.client.batch_execute(&sql).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == Some(&SqlState::INVALID_COLUMN_REFERENCE) => format!(
                "The table {name} has no primary key or unique index of just {keys}, which `conflict_columns` needs. \
                 Make one: CREATE UNIQUE INDEX ON {name} ({keys});"
            ),
            Err(error) => format!("What `on_conflict` asks of {name} cannot be done: {}.", describe(&error)),
        };
        self.problems.push(problem);
        Ok(())
    }
}

/// What makes a table that takes what is mapped.
pub(super) fn create_sql(table: &TablePlan) -> String {
    let mut parts: Vec<_> = table.columns.iter().map(|(name, assignment)| column_sql(name, assignment)).collect();
    if !table.conflict_columns().is_empty() {
        parts.push(format!("PRIMARY KEY ({})", named(table.conflict_columns())));
    }
    format!("CREATE TABLE {} ({});", table.quoted, parts.join(", "))
}

fn column_sql(name: &str, assignment: &Assignment) -> String {
    let kind = match (&assignment.source, given_type(assignment)) {
        (Source::Body, None) => "bytea",
        (_, None) => "text",
        (_, Some(given)) => type_of(given),
    };
    format!("{} {kind}{}", quoted(name), if assignment.is_required { " NOT NULL" } else { "" })
}

/// The type that such values most likely want; its owner knows better.
fn type_of(given: ValueType) -> &'static str {
    match given {
        ValueType::Integer => "bigint",
        ValueType::Number => "numeric",
        ValueType::Text => "text",
        ValueType::Boolean => "boolean",
        ValueType::Timestamp | ValueType::UnixS | ValueType::UnixMs => "timestamptz",
        ValueType::Json => "jsonb",
        ValueType::Bytes => "bytea",
    }
}
