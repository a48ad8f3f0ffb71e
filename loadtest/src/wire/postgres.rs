//! PostgreSQL: each order is a row, inserted by a prepared statement that is a transaction of its own.

use super::WireError;
use super::clients::Client;
use tokio_postgres::{Client as Session, NoTls, Statement};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS orders (order_id text PRIMARY KEY, user_id text, body text)";
const INSERT: &str = "INSERT INTO orders (order_id, user_id, body) VALUES ($1, $2, $3)";

pub struct Postgres {
    session: Session,
    insert: Statement,
}

/// Where the harness's server has the orders.
pub fn url(port: u16) -> String {
    format!("postgres://forebay@127.0.0.1:{port}/postgres")
}

async fn connect(port: u16) -> Result<Session, WireError> {
    let (session, connection) = tokio_postgres::connect(&url(port), NoTls).await?;
    // A failure of the connection reaches the session through its next call.
    tokio::spawn(connection);
    Ok(session)
}

impl Client for Postgres {
    async fn open(port: u16, count: usize) -> Result<Vec<Self>, WireError> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let session = connect(port).await?;
            let insert = session.prepare(INSERT).await?;
            clients.push(Self { session, insert });
        }
        Ok(clients)
    }

    async fn publish(&mut self, order: &[u8]) -> Result<(), WireError> {
        let (order_id, user_id, body) = fields(order).ok_or(WireError::Protocol("nothing: the order is not one"))?;
        self.session.execute(&self.insert, &[&order_id, &user_id, &body]).await?;
        Ok(())
    }

    async fn prepare(port: u16) -> Result<(), WireError> {
        Ok(connect(port).await?.batch_execute(CREATE).await?)
    }

    async fn held(port: u16) -> Result<u64, WireError> {
        let row = connect(port).await?.query_one("SELECT count(*) FROM orders", &[]).await?;
        Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
    }
}

/// The values of the columns. The first two members of an order are its id and its user, and nothing in them is escaped,
/// so they need no parser.
fn fields(order: &[u8]) -> Option<(&str, &str, &str)> {
    let body = std::str::from_utf8(order).ok()?;
    let mut strings = body.split('"');
    Some((strings.nth(3)?, strings.nth(3)?, body))
}

impl From<tokio_postgres::Error> for WireError {
    fn from(error: tokio_postgres::Error) -> Self {
        // The client's own text for it is "db error".
        match error.as_db_error() {
            Some(said) => Self::Refused(said.to_string()),
            None => Self::Postgres(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{RunId, write_order};

    #[test]
    fn the_columns_are_those_of_the_order() {
        let mut order = Vec::new();
        write_order(&RunId::new("a-1").unwrap(), 1, 42, &mut order);
        let (order_id, user_id, body) = fields(&order).unwrap();
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((json["order_id"].as_str(), json["user_id"].as_str()), (Some(order_id), Some(user_id)));
        assert!(fields(b"{}").is_none() && fields(b"\xff").is_none());
    }
}
