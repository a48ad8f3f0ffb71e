//! What would keep a PostgreSQL sink from working, found in a transaction that can only read.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::super::mapping::{Plan, StatementPlan, TablePlan};
use super::super::statement::quoted;
use super::session::{Session, describe};
use super::takeover::{ADD_BEYOND, POSITION_TABLE, created_table_sql, exists, has_beyond, owns_position_table};
use crate::config::Source;

/// Looks at a column in a way that also works before PostgreSQL 12, which has no attgenerated.
const COLUMNS: &str = "SELECT a.attname::text, \
        has_column_privilege(a.attrelid, a.attnum, 'INSERT'), \
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' \
            AND coalesce(to_jsonb(a) ->> 'attgenerated', '') = '', \
        coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '' \
    FROM pg_attribute a \
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";

/// Everything that is wrong, as sentences.
///
/// # Errors
///
/// What kept us from looking.
pub(super) async fn problems(session: &Session, plan: Option<&Plan>, reorders: bool) -> Result<Vec<String>, Error> {
    let client = &session.client;
    // Whatever is done wrong below, the server refuses to write; the connection's end ends the transaction.
    client.batch_execute("SET default_transaction_read_only = on").await?;
    let mut look = Look { client, problems: Vec::new(), role: String::new() };
    look.role = quoted(client.query_one("SELECT current_user::text", &[]).await?.try_get(0)?);
    look.position_table(reorders).await?;
    match plan {
        Some(Plan::Table(table)) => look.table(table).await?,
        Some(Plan::Statement(statement)) => look.statement(statement).await?,
        None => {}
    }
    Ok(look.problems)
}

struct Look<'c> {
    client: &'c Client,
    problems: Vec<String>,
    /// Who we are, quoted.
    role: String,
}

impl Look<'_> {
    async fn position_table(&mut self, reorders: bool) -> Result<(), Error> {
        if !exists(self.client, "forebay_position").await? {
            return self.may_create("forebay_position", POSITION_TABLE, "SELECT, INSERT, UPDATE").await;
        }
        for privilege in ["SELECT", "INSERT", "UPDATE"] {
            self.privilege("forebay_position", privilege).await?;
        }
        let sql = "SELECT part, epoch::bigint, position::bigint FROM forebay_position WHERE false";
        if let Err(error) = self.client.prepare(sql).await {
            self.problems.push(format!(
                "The table forebay_position is not forebay's: {}. Rename it: \
                 ALTER TABLE forebay_position RENAME TO forebay_position_old;",
                describe(&error)
            ));
        }
        if reorders && !has_beyond(self.client).await? && !owns_position_table(self.client).await? {
            self.problems.push(format!(
                "The table forebay_position has no column beyond, which a queue that delivers out of order needs, and \
                 the role {} does not own the table, so it may not add it. Let its owner run: {ADD_BEYOND};",
                self.role
            ));
        }
        Ok(())
    }

    async fn privilege(&mut self, table: &str, privilege: &str) -> Result<(), Error> {
        let sql = "SELECT has_table_privilege(to_regclass($1), $2)";
        if !self.client.query_one(sql, &[&table, &privilege]).await?.try_get::<_, bool>(0)? {
            self.problems.push(format!(
                "The role {0} may not {privilege} on {table}. Let it: GRANT {privilege} ON {table} TO {0};",
                self.role
            ));
        }
        Ok(())
    }

    async fn may_create(&mut self, table: &str, sql: &str, privileges: &str) -> Result<(), Error> {
        let may = "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)";
        if !self.client.query_one(may, &[]).await?.try_get::<_, bool>(0)? {
            self.problems.push(format!(
                "The table {table} does not exist and the role {0} may not create it. \
                 Create it for forebay: {sql}; GRANT {privileges} ON {table} TO {0};",
                self.role
            ));
        }
        Ok(())
    }

    async fn table(&mut self, table: &TablePlan) -> Result<(), Error> {
        let name = &table.quoted;
        match exists(self.client, name).await {
            Ok(true) => {}
            Ok(false) if table.created => {
                return self.may_create(name, &created_table_sql(table), "INSERT").await;
            }
            Ok(false) => {
                self.problems.push(format!(
                    "The table {name} does not exist. Create it, with the types that you want: {}",
                    create_sql(table)
                ));
                return Ok(());
            }
            Err(error) => {
                self.problems.push(format!("The table {name} cannot be looked at: {}.", describe(&error)));
                return Ok(());
            }
        }
        self.columns(table).await?;
        let row_security = self.client.query_one("SELECT row_security_active(to_regclass($1))", &[name]).await?;
        if row_security.try_get::<_, bool>(0)? {
            self.problems.push(format!(
                "Row security is active on {name} for the role {0}, and COPY doesn't work with it. \
                 Let the role pass it: ALTER ROLE {0} BYPASSRLS;",
                self.role
            ));
        }
        Ok(())
    }

    async fn columns(&mut self, table: &TablePlan) -> Result<(), Error> {
        let name = &table.quoted;
        let mut unmapped = Vec::new();
        let mut found = Vec::new();
        for row in self.client.query(COLUMNS, &[name]).await? {
            let (column, writable): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
            let (must_be_given, generated): (bool, bool) = (row.try_get(2)?, row.try_get(3)?);
            if table.columns.iter().any(|(given, _)| *given == column) {
                found.push((column, writable, generated));
            } else if must_be_given {
                unmapped.push(column);
            }
        }
        for (wanted, source) in &table.columns {
            let column = quoted(wanted);
            let problem = match found.iter().find(|(name, ..)| name == wanted) {
                None => format!(
                    "The table {name} has no column {column}. Add it: ALTER TABLE {name} ADD COLUMN {column} {};",
                    likely_type(source)
                ),
                Some((_, _, true)) => format!(
                    "The column {column} of {name} is generated and takes no value; leave it out of the columns."
                ),
                Some((_, false, _)) => format!(
                    "The role {0} may not insert into the column {column} of {name}. Let it: GRANT INSERT ON {name} TO {0};",
                    self.role
                ),
                Some(_) => continue,
            };
            self.problems.push(problem);
        }
        self.problems.extend(unmapped.iter().map(|column| {
            let column = quoted(column);
            format!(
                "The column {column} of {name} is NOT NULL, has no default, and nothing is mapped to it. Map it, or: \
                 ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL;"
            )
        }));
        Ok(())
    }

    async fn statement(&mut self, plan: &StatementPlan) -> Result<(), Error> {
        match self.client.prepare(&plan.sql).await {
            Err(error) => self.problems.push(format!("The statement does not prepare: {}.", describe(&error))),
            Ok(prepared) => {
                // Privileges are looked at when a statement starts; EXPLAIN starts it and stops there.
                let nulls = vec!["NULL"; prepared.params().len()].join(", ");
                let call = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
                let prepare = format!("PREPARE forebay_check AS {}", plan.sql);
                let explained = match self.client.batch_execute(&prepare).await {
                    Ok(()) => self.client.batch_execute(&format!("EXPLAIN EXECUTE forebay_check{call}")).await,
                    // What can't be prepared in SQL, such as CALL, can't be explained.
                    Err(_) => Ok(()),
                };
                if let Err(error) = explained
                    && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
                {
                    self.problems.push(format!(
                        "The role {} may not run the statement: {}.",
                        self.role,
                        describe(&error)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn create_sql(table: &TablePlan) -> String {
    let columns: Vec<_> =
        table.columns.iter().map(|(name, source)| format!("{} {}", quoted(name), likely_type(source))).collect();
    format!("CREATE TABLE {} ({});", table.quoted, columns.join(", "))
}

/// The type that a value most likely wants; its owner knows better.
fn likely_type(source: &Source) -> &'static str {
    match source {
        Source::Body => "bytea",
        Source::Sequence => "bigint",
        Source::ReceivedAt => "timestamptz",
        _ => "text",
    }
}
