//! What would keep a SQLite sink from working, found without changing the file.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::super::mapping::{Plan, TablePlan, given_type};
use super::super::statement;
use super::describe;
use super::rows::{insert_sql, is_strict};
use crate::config::{Assignment, nearest};
use crate::value::ValueType;

/// A column as SQLite describes it.
struct Column {
    name: String,
    /// NOT NULL, without a default, and not the row's own number.
    must_be_given: bool,
    is_generated: bool,
    /// The type as its owner wrote it; empty for none.
    declared: String,
    /// Whether it is the row's own number, an INTEGER PRIMARY KEY.
    is_row_number: bool,
}

/// Everything that is wrong, as sentences.
pub(super) fn problems(path: &Path, plan: &Result<Arc<Plan>, String>, busy_timeout: Duration) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(why) = plan {
        problems.push(format!("The statement cannot be used: {why}."));
    }
    let connection = match open(path, &mut problems) {
        Ok(connection) => connection,
        Err(error) => {
            problems.push(format!("The database {} cannot be opened: {}.", path.display(), describe(&error)));
            return problems;
        }
    };
    let looked = connection.busy_timeout(busy_timeout).and_then(|()| {
        position_table(&connection, &mut problems)?;
        match plan.as_deref() {
            Ok(Plan::Table(table)) => user_table(&connection, table, &mut problems)?,
            Ok(Plan::Statement(plan)) => {
                if let Err(error) = connection.prepare(&plan.sql) {
                    problems.push(format!("The statement does not prepare: {}.", describe(&error)));
                }
            }
            Err(_) => {}
        }
        Ok(())
    });
    if let Err(error) = looked {
        problems.push(format!("The database {} cannot be read: {}.", path.display(), describe(&error)));
    }
    problems
}

/// Opens the file for reading. One that does not exist yet is looked at as the empty database that it will be.
fn open(path: &Path, problems: &mut Vec<String>) -> rusqlite::Result<Connection> {
    if path.exists() {
        if let Err(error) = OpenOptions::new().append(true).open(path) {
            problems.push(format!("The database {} cannot be written: {error}.", path.display()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        return Connection::open_with_flags(path, flags);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        problems.push(format!("The directory {} for the database does not exist.", directory.display()));
    }
    Connection::open_in_memory()
}

fn position_table(connection: &Connection, problems: &mut Vec<String>) -> rusqlite::Result<()> {
    let columns = columns(connection, "forebay_position")?;
    for wanted in ["part", "epoch", "position"] {
        if !columns.is_empty() && !columns.iter().any(|column| column.name.eq_ignore_ascii_case(wanted)) {
            problems.push(format!(
                "The table forebay_position is not forebay's: it has no column {wanted}. \
                 Rename it: ALTER TABLE forebay_position RENAME TO forebay_position_old;"
            ));
        }
    }
    Ok(())
}

fn user_table(connection: &Connection, table: &TablePlan, problems: &mut Vec<String>) -> rusqlite::Result<()> {
    let name = &table.quoted;
    let all = columns(connection, &table.name)?;
    if all.is_empty() {
        if !table.created {
            problems.push(format!(
                "The table {name} does not exist. Create it, with the types that you want: {}",
                create_sql(table)
            ));
        }
        return Ok(());
    }
    let before = problems.len();
    let is_strict = is_strict(connection, &table.name)?;
    let is_mapped = |column: &&Column| table.columns.iter().any(|(given, _)| given.eq_ignore_ascii_case(&column.name));
    let (mapped, unmapped): (Vec<&Column>, Vec<&Column>) = all.iter().partition(is_mapped);
    for (wanted, assignment) in &table.columns {
        let column = statement::quoted(wanted);
        let found = mapped.iter().find(|column| column.name.eq_ignore_ascii_case(wanted));
        let problem = match (found, given_type(assignment)) {
            (None, _) => {
                let near = nearest(wanted, unmapped.iter().map(|column| column.name.as_str()));
                let near = near.map_or(String::new(), |near| format!(" Did you mean {}?", statement::quoted(near)));
                format!(
                    "The table {name} has no column {column}.{near} Add it: ALTER TABLE {name} ADD COLUMN {column};"
                )
            }
            (Some(found), _) if found.is_generated => {
                format!("The column {column} of {name} is generated and takes no value; leave it out of the columns.")
            }
            (Some(found), Some(given)) if !found.takes(given, is_strict) => format!(
                "The column {column} of {name} is {}, which cannot take what is mapped to it as {}; map another type, or \
                 make the table anew with another.",
                found.declared,
                given.word()
            ),
            _ => continue,
        };
        problems.push(problem);
    }
    for column in unmapped.iter().filter(|column| column.must_be_given) {
        problems.push(format!(
            "The column {} of {name} is NOT NULL, has no default, and nothing is mapped to it; map it or give it a default.",
            statement::quoted(&column.name)
        ));
    }
    // SQLite looks for the index when it prepares the insert, which can only be said of columns that are there.
    if problems.len() == before
        && let Err(error) = connection.prepare(&insert_sql(table))
    {
        let (why, keys) = (describe(&error), statement::named(table.conflict_columns()));
        problems.push(if why.contains("ON CONFLICT clause does not match") {
            format!(
                "The table {name} has no primary key or unique index of just {keys}, which `conflict_columns` needs. \
                 Make one: CREATE UNIQUE INDEX forebay_conflict ON {name} ({keys});"
            )
        } else {
            format!("The insert into {name} does not prepare: {why}.")
        });
    }
    Ok(())
}

/// What makes a table that takes what is mapped.
fn create_sql(table: &TablePlan) -> String {
    let column = |(name, assignment): &(String, Assignment)| {
        let kind = match given_type(assignment) {
            None => "",
            Some(ValueType::Integer | ValueType::Boolean) => " INTEGER",
            Some(ValueType::Number) => " NUMERIC",
            Some(ValueType::Bytes) => " BLOB",
            Some(_) => " TEXT",
        };
        format!("{}{kind}{}", statement::quoted(name), if assignment.is_required { " NOT NULL" } else { "" })
    };
    let mut parts: Vec<_> = table.columns.iter().map(column).collect();
    if !table.conflict_columns().is_empty() {
        parts.push(format!("PRIMARY KEY ({})", statement::named(table.conflict_columns())));
    }
    format!("CREATE TABLE {} ({});", table.quoted, parts.join(", "))
}

impl Column {
    /// Whether it can take what is of this type. Nearly every column of SQLite takes everything.
    fn takes(&self, given: ValueType, is_strict: bool) -> bool {
        use ValueType::{Boolean, Bytes, Integer, Number};
        match self.declared.to_ascii_uppercase().as_str() {
            _ if self.is_row_number => matches!(given, Integer | Boolean),
            "INT" | "INTEGER" if is_strict => matches!(given, Integer | Boolean),
            "REAL" if is_strict => matches!(given, Integer | Number | Boolean),
            "TEXT" if is_strict => given != Bytes,
            _ => true,
        }
    }
}

/// The columns of a table; none if there is no such table.
fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = connection
        .prepare("SELECT name, \"notnull\", dflt_value IS NULL, pk, type, hidden FROM pragma_table_xinfo(?1)")?;
    let rows = statement.query_map([table], |row| {
        let (not_null, no_default, key): (bool, bool, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let declared: String = row.get(4)?;
        // An INTEGER PRIMARY KEY is the row's own number, which SQLite gives out.
        let is_row_number = key == 1 && declared.eq_ignore_ascii_case("integer");
        Ok(Column {
            name: row.get(0)?,
            must_be_given: not_null && no_default && !is_row_number,
            is_generated: row.get::<_, i64>(5)? >= 2,
            declared,
            is_row_number,
        })
    })?;
    rows.collect()
}
