//! What would keep a PostgreSQL sink from working, found in a transaction that can only read.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::super::mapping::{Plan, StatementPlan, TablePlan};
use super::super::statement::quoted;
use super::columns::create_sql;
use super::session::{Session, describe};
use super::takeover::{ADD_BEYOND, POSITION_TABLE, created_table_sql, exists, has_beyond, owns_position_table};
use crate::config::Conflict;

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

/// What is looked at, and what was found so far.
pub(super) struct Look<'c> {
    pub(super) client: &'c Client,
    pub(super) problems: Vec<String>,
    /// Who we are, quoted.
    pub(super) role: String,
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
        if table.conflict != Conflict::Error {
            // Rows go in by an INSERT, which row security does not stand in the way of.
            return Ok(());
        }
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
