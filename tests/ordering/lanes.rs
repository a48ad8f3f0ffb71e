//! Several transactions at a time: what one of them waits for does not hold up the others.

use tokio_postgres::{Client, NoTls};

use crate::server::eventually;
use crate::stage::{Kind, Stage, admin, metric, send, send_all, ticket};

const KEYS: usize = 40;
const RECORDS_OF_KEY: usize = 25;

/// A session that is in a transaction.
struct Session {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Session {
    fn begin(url: &str, sql: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
            client
        });
        Self { runtime, client }
    }

    fn end(self) {
        self.runtime.block_on(self.client.batch_execute("ROLLBACK")).unwrap();
    }
}

/// The second timeout lets the lane fail and try again while the row is locked.
pub fn a_row_that_another_session_has_locked_stops_its_key_alone() {
    for sink in ["", "commit_timeout_ms = 1000"] {
        let stage = Stage::new(Kind::Postgres, "");
        stage.execute("CREATE TABLE stock (key text PRIMARY KEY, taken integer)");
        stage.configure_statement(
            "rate = \"unlimited\"\norder = \"key\"\nconcurrency = 3\nbatch = { records_max = 20 }",
            sink,
            "INSERT INTO stock VALUES (:key, 1) ON CONFLICT (key) DO UPDATE SET taken = stock.taken + 1",
        );
        let taken = |condition: &str| {
            let sql = format!("SELECT coalesce(sum(taken), 0) FROM stock WHERE key {condition}");
            stage.rows(&sql)[0][0].parse::<usize>().unwrap()
        };
        let server = stage.site.start();
        assert_eq!(admin(&server, "GET", "", &serde_json::Value::Null)["now"]["lanes"], 3);
        server.until_delivered(&send(&server, &[("forebay-key", "hot")], "{}"));
        let session = Session::begin(stage.postgres_url(), "SELECT FROM stock WHERE key = 'hot' FOR UPDATE");
        let hot = send(&server, &[("forebay-key", "hot")], "{}");
        eventually("the transaction that waits", || (metric(&server, "drain_in_flight") == 1).then_some(()));
        for number in 0..KEYS {
            let key = format!("key-{number}");
            let bodies = (0..RECORDS_OF_KEY).map(|_| "{}".to_owned());
            send_all(&server, &[("forebay-key", &key)], bodies);
            // Behind the one that waits.
            send(&server, &[("forebay-key", "hot")], "{}");
        }
        eventually("everything else", || (taken("<> 'hot'") == KEYS * RECORDS_OF_KEY).then_some(()));
        assert_eq!((taken("= 'hot'"), ticket(&server, &hot).0.as_str()), (1, "queued"));
        session.end();
        eventually("the hot key", || (taken("= 'hot'") == KEYS + 2).then_some(()));
        server.stop();
        stage.assert_all_in_order((KEYS * (RECORDS_OF_KEY + 1) + 2) as u64);
        assert_eq!(taken("<> ''"), KEYS * (RECORDS_OF_KEY + 1) + 2);
    }
}
