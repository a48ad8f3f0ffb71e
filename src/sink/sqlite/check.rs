//! What would keep a SQLite sink from working, found without changing the file.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::super::mapping::{Plan, TablePlan};
use super::super::statement;
use super::describe;

/// A column as SQLite describes it.
struct Column {
    name: String,
    /// NOT NULL, without a default, and not the row's own number.
    must_be_given: bool,
    generated: bool,
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
    let columns = columns(connection, &table.name)?;
    if columns.is_empty() {
        if !table.created {
            let list: Vec<_> = table.columns.iter().map(|(column, _)| statement::quoted(column)).collect();
            problems.push(format!(
                "The table {name} does not exist. Create it, with the types that you want: CREATE TABLE {name} ({});",
                list.join(", ")
            ));
        }
        return Ok(());
    }
    for (wanted, _) in &table.columns {
        match columns.iter().find(|column| column.name.eq_ignore_ascii_case(wanted)) {
            None => problems.push(format!(
                "The table {name} has no column {0}. Add it: ALTER TABLE {name} ADD COLUMN {0};",
                statement::quoted(wanted)
            )),
            Some(column) if column.generated => problems.push(format!(
                "The column {} of {name} is generated and takes no value; leave it out of the columns.",
                statement::quoted(wanted)
            )),
            Some(_) => {}
        }
    }
    for column in columns.iter().filter(|column| column.must_be_given) {
        if !table.columns.iter().any(|(given, _)| given.eq_ignore_ascii_case(&column.name)) {
            problems.push(format!(
                "The column {} of {name} is NOT NULL, has no default, and nothing is mapped to it; map it or give it a default.",
                statement::quoted(&column.name)
            ));
        }
    }
    Ok(())
}

/// The columns of a table; none if there is no such table.
fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = connection
        .prepare("SELECT name, \"notnull\", dflt_value IS NULL, pk, type, hidden FROM pragma_table_xinfo(?1)")?;
    let rows = statement.query_map([table], |row| {
        let (not_null, no_default, key): (bool, bool, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let declared: String = row.get(4)?;
        // An INTEGER PRIMARY KEY is the row's own number, which SQLite gives out.
        let row_number = key == 1 && declared.eq_ignore_ascii_case("integer");
        Ok(Column {
            name: row.get(0)?,
            must_be_given: not_null && no_default && !row_number,
            generated: row.get::<_, i64>(5)? >= 2,
        })
    })?;
    rows.collect()
}
