//! What would keep a sink from working, found without changing anything.
//!
//! Statements that write are prepared and never run: the server looks at names and privileges when it prepares. It
//! prepares none of them in a session that can only read.

use super::super::mapping::{Plan, StatementPlan, TablePlan, given_type};
use super::super::statement::Dialect;
use super::columns::{
    Column, columns, engine_problem, engine_without_transactions, find, other_key, other_key_problem,
    tables_without_transactions, unique_keys,
};
use super::session::{Failure, Session};
use super::takeover::{ADD_BEYOND, POSITION_TABLE, created_table_sql};
use crate::config::{Assignment, Conflict, Source, nearest};
use crate::limits::BEYOND_BYTES_MAX;
use crate::value::ValueType;

/// The least `max_allowed_packet`: what is beyond a position, and a large record, each as a literal.
const PACKET_BYTES_MIN: usize = 4 * BEYOND_BYTES_MAX;
const NO_SUCH_VARIABLE: u16 = 1193;
/// Errors of a missing privilege: on a database, a table, a column, a routine.
const DENIED: [u16; 4] = [1044, 1142, 1143, 1370];

/// Everything that is wrong, as sentences.
///
/// # Errors
///
/// What kept us from looking.
pub(super) async fn problems(
    session: &mut Session,
    plan: Option<&Plan>,
    reorders: bool,
) -> Result<Vec<String>, Failure> {
    let account: String = session.one("SELECT CURRENT_USER()").await?;
    let account = account.rsplit_once('@').map_or_else(
        || Dialect::Mysql.quoted(&account),
        |(user, host)| format!("{}@{}", Dialect::Mysql.quoted(user), Dialect::Mysql.quoted(host)),
    );
    let mut look = Look { session, problems: Vec::new(), account };
    look.server().await?;
    look.position_table(reorders).await?;
    match plan {
        Some(Plan::Table(table)) => look.table(table).await?,
        Some(Plan::Statement(statement)) => look.statement(statement).await?,
        None => {}
    }
    Ok(look.problems)
}

struct Look<'s> {
    session: &'s mut Session,
    problems: Vec<String>,
    /// Who we are, quoted.
    account: String,
}

impl Look<'_> {
    async fn server(&mut self) -> Result<(), Failure> {
        if self.session.packet_bytes_max < PACKET_BYTES_MIN {
            self.problems.push(format!(
                "The server's max_allowed_packet is {}, and {PACKET_BYTES_MIN} are needed at least. Run, and write it into the \
                 server's configuration: SET GLOBAL max_allowed_packet = 16777216;",
                self.session.packet_bytes_max
            ));
        }
        let log: (bool, String) = match self.session.one("SELECT @@log_bin, @@binlog_format").await {
            // Versions in which the format is no choice any more.
            Err(failure) if failure.code() == Some(NO_SUCH_VARIABLE) => (false, String::new()),
            answered => answered?,
        };
        if log == (true, "STATEMENT".to_owned()) {
            self.problems.push(
                "The server's binlog_format is STATEMENT, with which InnoDB takes no rows at READ COMMITTED. Run, and write it \
                 into the server's configuration: SET GLOBAL binlog_format = 'ROW';"
                    .to_owned(),
            );
        }
        Ok(())
    }

    async fn position_table(&mut self, reorders: bool) -> Result<(), Failure> {
        let table = "forebay_position";
        let Some(found) = columns(self.session, table).await? else {
            return self.may_create(table, POSITION_TABLE, "SELECT, INSERT, UPDATE").await;
        };
        self.engine(None, table, table).await?;
        for column in ["part", "epoch", "position"] {
            let Some(column) = find(&found, column) else {
                self.problems.push(format!(
                    "The table {table} is not forebay's: it has no column {column}. Rename it: \
                     RENAME TABLE {table} TO forebay_position_old;"
                ));
                return Ok(());
            };
            for privilege in ["SELECT", "INSERT", "UPDATE"] {
                if !may(column, privilege) {
                    self.denied(privilege, table);
                }
            }
        }
        if reorders && find(&found, "beyond").is_none() {
            match self.session.try_prepare(ADD_BEYOND).await {
                Err(failure) if is_denied(&failure) => self.problems.push(format!(
                    "The table {table} has no column beyond, which a queue that delivers out of order needs, and the account \
                     {} may not add it. Let whoever may run: {ADD_BEYOND};",
                    self.account
                )),
                // The server may look at privileges only when it runs it; then the take-over says so.
                _ => {}
            }
        }
        Ok(())
    }

    fn denied(&mut self, privilege: &str, table: &str) {
        let problem = format!(
            "The account {0} may not {privilege} on {table}. Let it: GRANT {privilege} ON {table} TO {0};",
            self.account
        );
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    async fn may_create(&mut self, table: &str, sql: &str, privileges: &str) -> Result<(), Failure> {
        match self.session.try_prepare(sql).await {
            Err(failure) if is_denied(&failure) => {
                self.problems.push(format!(
                    "The table {table} does not exist, or is not to be seen, and the account {0} may not create it. \
                     Create it for forebay: {sql}; GRANT {privileges} ON {table} TO {0};",
                    self.account
                ));
                Ok(())
            }
            prepared => prepared,
        }
    }

    async fn engine(&mut self, schema: Option<&str>, name: &str, quoted: &str) -> Result<(), Failure> {
        if let Some(engine) = engine_without_transactions(self.session, schema, name).await? {
            self.problems.push(capitalised(&engine_problem(quoted, &engine)));
        }
        Ok(())
    }

    async fn table(&mut self, table: &TablePlan) -> Result<(), Failure> {
        let name = &table.quoted;
        match columns(self.session, name).await? {
            Some(found) => {
                self.engine(table.schema.as_deref(), &table.name, name).await?;
                self.table_columns(table, &found);
                // An index over a column that is missing cannot be there either.
                let has_all = table.conflict_columns().iter().all(|key| find(&found, key).is_some());
                let is_complete = table.columns.iter().all(|(name, _)| find(&found, name).is_some());
                if table.conflict != Conflict::Error && has_all && is_complete {
                    self.conflict(table, &found).await?;
                }
            }
            None if table.created => return self.may_create(name, &created_table_sql(table), "INSERT").await,
            None => self.problems.push(format!(
                "The table {name} does not exist, or the account {0} may do nothing with it. Create it, with the types that \
                 you want: {1} GRANT INSERT ON {name} TO {0};",
                self.account,
                create_sql(table)
            )),
        }
        Ok(())
    }

    /// Whether what says that a row is there already can say so, and whether that row may be changed.
    async fn conflict(&mut self, table: &TablePlan, found: &[Column]) -> Result<(), Failure> {
        let (name, keys) = (&table.quoted, table.conflict_columns());
        let sorted = |names: &[String]| {
            let mut names: Vec<_> = names.iter().map(|name| name.to_lowercase()).collect();
            names.sort_unstable();
            names
        };
        let unique = unique_keys(self.session, table.schema.as_deref(), &table.name).await?;
        if !unique.iter().any(|key| sorted(key) == sorted(keys)) {
            let index = Dialect::Mysql.quoted(&format!("forebay_{}", keys.join("_")));
            let keys: Vec<_> = keys.iter().map(|key| Dialect::Mysql.quoted(key)).collect();
            let keys = keys.join(", ");
            self.problems.push(format!(
                "The table {name} has no primary key or unique index of just {keys}, which `conflict_columns` needs. Make one: \
                 CREATE UNIQUE INDEX {index} ON {name} ({keys});"
            ));
        }
        if let Some(key) = other_key(table, &unique) {
            self.problems.push(format!("{}.", capitalised(&other_key_problem(name, key))));
        }
        if found.iter().any(|column| is_mapped(table, column) && !may(column, "UPDATE")) {
            self.denied("UPDATE", name);
        }
        Ok(())
    }

    fn table_columns(&mut self, table: &TablePlan, found: &[Column]) {
        let name = &table.quoted;
        for (wanted, source) in &table.columns {
            let column = Dialect::Mysql.quoted(wanted);
            match find(found, wanted) {
                None => {
                    let names = found.iter().map(|column| column.name.as_str());
                    let near = nearest(wanted, names).map(|near| Dialect::Mysql.quoted(near));
                    let near = near.map_or(String::new(), |near| format!(" Did you mean {near}?"));
                    self.problems.push(format!(
                        "The table {name} has no column {column}.{near} Add it: ALTER TABLE {name} ADD COLUMN {column} {};",
                        likely_type(source)
                    ));
                }
                Some(found) if found.generated => self.problems.push(format!(
                    "The column {column} of {name} is generated and takes no value; leave it out of the columns."
                )),
                Some(found) if !may(found, "INSERT") => self.denied("INSERT", name),
                Some(found) if given_type(source).is_some_and(|given| !found.takes(given)) => {
                    let given = given_type(source).map_or("", ValueType::word);
                    self.problems.push(format!(
                        "The column {column} of {name} is {}, which cannot take what is mapped to it as {given}; map another \
                         type, or change the column's.",
                        found.kind()
                    ));
                }
                Some(_) => {}
            }
        }
        self.problems.extend(found.iter().filter(|column| column.must_be_given && !is_mapped(table, column)).map(|column| {
            format!(
                "The column {} of {name} is NOT NULL, has no default, and nothing is mapped to it. Map it, or give it a \
                 default.",
                Dialect::Mysql.quoted(&column.name)
            )
        }));
    }

    async fn statement(&mut self, plan: &StatementPlan) -> Result<(), Failure> {
        match self.session.try_prepare(&plan.sql).await {
            Ok(()) => {}
            Err(failure) if is_denied(&failure) => {
                self.problems.push(format!("The account {} may not run the statement: {failure}.", self.account));
            }
            Err(failure) => self.problems.push(format!("The statement does not prepare: {failure}.")),
        }
        for (table, engine) in tables_without_transactions(self.session, &plan.sql).await? {
            self.problems.push(capitalised(&engine_problem(&table, &engine)));
        }
        Ok(())
    }
}

fn is_mapped(table: &TablePlan, column: &Column) -> bool {
    let name = column.name.to_lowercase();
    table.columns.iter().any(|(wanted, _)| wanted.to_lowercase() == name)
}

fn may(column: &Column, privilege: &str) -> bool {
    column.privileges.split(',').any(|known| known.trim().eq_ignore_ascii_case(privilege))
}

fn is_denied(failure: &Failure) -> bool {
    failure.code().is_some_and(|code| DENIED.contains(&code))
}

/// A problem as a sentence of its own.
fn capitalised(problem: &str) -> String {
    let mut letters = problem.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

fn create_sql(table: &TablePlan) -> String {
    let keys = table.conflict_columns();
    let column = |(name, assignment): &(String, Assignment)| {
        // A key cannot have all of a text in it.
        let kind = match likely_type(assignment) {
            "text" if keys.contains(name) => "varchar(255)",
            kind => kind,
        };
        let required = if assignment.is_required { " NOT NULL" } else { "" };
        format!("{} {kind}{required}", Dialect::Mysql.quoted(name))
    };
    let mut parts: Vec<_> = table.columns.iter().map(column).collect();
    if !keys.is_empty() {
        let keys: Vec<_> = keys.iter().map(|key| Dialect::Mysql.quoted(key)).collect();
        parts.push(format!("PRIMARY KEY ({})", keys.join(", ")));
    }
    format!("CREATE TABLE {} ({}) CHARACTER SET utf8mb4;", table.quoted, parts.join(", "))
}

/// The type that a value most likely wants; its owner knows better.
fn likely_type(assignment: &Assignment) -> &'static str {
    match given_type(assignment) {
        Some(ValueType::Integer) => "bigint",
        Some(ValueType::Number) => "decimal(38,10)",
        Some(ValueType::Boolean) => "boolean",
        Some(ValueType::Timestamp | ValueType::UnixS | ValueType::UnixMs) => "datetime(6)",
        Some(ValueType::Json) => "json",
        Some(ValueType::Bytes) => "longblob",
        None if assignment.source == Source::Body => "longblob",
        None | Some(ValueType::Text) => "text",
    }
}
