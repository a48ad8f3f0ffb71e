//! The shop and its own work, at a fixed slow rate: a look at an item, and a sale of it at the counter.

use super::{TroubleError, client_error};
use crate::verify;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_postgres::NoTls;

/// Between two round trips, of which each is one query and one sale with its commit.
const PERIOD: Duration = Duration::from_millis(50);
/// Items of the sale. An order is for one of them, and a transaction of 45 orders, which are the 9 ms that leave at once at
/// 5,000/s, holds as many: the probe meets such a one at every twenty-second sale, and one of a single order at every thousandth.
const ITEMS: i32 = 1000;

/// When each was due after the probe's start, and how long it took from then.
pub type Trips = Vec<(Duration, Duration)>;

/// A client that works until it is stopped.
pub struct Probe {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<Trips>>,
}

/// Makes the shop's tables.
pub fn prepare(url: &str) -> Result<(), TroubleError> {
    // Room in each page for the rows' next versions, as for any table that is updated all the time.
    let sql = format!(
        "CREATE TABLE stock (id integer PRIMARY KEY, quantity integer) WITH (fillfactor = 50);
         CREATE TABLE campaign (orders bigint) WITH (fillfactor = 50); INSERT INTO campaign VALUES (0);
         CREATE TABLE sales (id integer, at timestamptz);
         INSERT INTO stock SELECT n, 1000000 FROM generate_series(0, {}) n; ANALYZE stock",
        ITEMS - 1
    );
    Ok(verify::execute(url, &sql)?)
}

/// Lets each order that forebay inserts into `table` take its item out of stock, and each transaction add its orders to
/// those of the campaign. So it holds the rows of its items until it has got the campaign's.
pub fn sell_from(url: &str, table: &str) -> Result<(), TroubleError> {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION take_item() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE stock SET quantity = quantity - 1 WHERE id = abs(hashtext(NEW.ticket) % {ITEMS}); RETURN NEW;
         END $$;
         CREATE OR REPLACE FUNCTION count_orders() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE campaign SET orders = orders + (SELECT count(*) FROM inserted); RETURN NULL;
         END $$;
         CREATE TRIGGER take_item BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION take_item();
         CREATE TRIGGER count_orders AFTER INSERT ON {table} REFERENCING NEW TABLE AS inserted
             FOR EACH STATEMENT EXECUTE FUNCTION count_orders()"
    );
    Ok(verify::execute(url, &sql)?)
}

impl Probe {
    /// Starts it; `began` is what its trips are counted from.
    pub fn start(url: String, began: Instant) -> Result<Self, TroubleError> {
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(ask(&url, began, stopped)).map_err(io::Error::other)
        };
        let thread = thread::Builder::new().name("probe".to_owned()).spawn(work).map_err(client_error("probe"))?;
        Ok(Self { stop, thread })
    }

    /// Ends it, and returns what it has seen.
    pub fn finish(self) -> Result<Trips, TroubleError> {
        let Self { stop, thread } = self;
        // It may have ended by itself, and says why then.
        let _ = stop.send(());
        let joined = thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        joined.map_err(client_error("probe"))
    }
}

async fn ask(url: &str, began: Instant, mut stopped: oneshot::Receiver<()>) -> Result<Trips, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // A failure of the connection reaches the client through its next call.
    tokio::spawn(connection);
    let look = client.prepare("SELECT quantity FROM stock WHERE id = $1").await?;
    let sell = "WITH sold AS (UPDATE stock SET quantity = quantity - 1 WHERE id = $1 RETURNING id)
        INSERT INTO sales SELECT id, now() FROM sold";
    let sell = client.prepare(sell).await?;
    let mut trips = Trips::new();
    let mut id = 0;
    // One that is late does not put off those behind it: they are due all the same.
    let mut due = began.elapsed();
    while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        tokio::time::sleep_until((began + due).into()).await;
        client.query_opt(&look, &[&id]).await?;
        client.execute(&sell, &[&id]).await?;
        trips.push((due, began.elapsed().saturating_sub(due)));
        due += PERIOD;
        // Steps that are prime to their number come by all of the items.
        id = (id + 7919) % ITEMS;
    }
    Ok(trips)
}
