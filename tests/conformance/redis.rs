//! Redis' row.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::redis_server::{RedisServer, ask};
use crate::station::{Arrival, Moment, Refusing, Served, Server, Station, Transactional};

pub struct Redis {
    server: Arc<RedisServer>,
    /// The number of the database.
    database: usize,
}

/// Databases of one server, and so stations that may share it.
const DATABASES_MAX: &str = "256";

/// The last of those who share it stops it.
static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
static DATABASES: AtomicUsize = AtomicUsize::new(0);

impl Redis {
    fn section(url: &str) -> String {
        format!(
            "type = \"redis\"\nurl = \"{url}\"\n\
             commands = [\"INCR count:{{$body}}\", \"XADD arrivals * ticket {{$ticket}} body {{$body}}\"]\n"
        )
    }

    fn connection(&self) -> redis::Connection {
        let mut connection = self.server.connection();
        let () = ask(&mut connection, &["SELECT", &self.database.to_string()]);
        connection
    }

    fn server(&mut self) -> &mut RedisServer {
        Arc::get_mut(&mut self.server).expect("a server of this station's own")
    }
}

impl Station for Redis {
    const KIND: &'static str = "redis";
    const EXACTLY_ONCE: bool = true;

    fn start(server: Server) -> Self {
        let start = || Arc::new(RedisServer::start_with(&["--databases", DATABASES_MAX]));
        let server = if server == Server::Own {
            start()
        } else {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(start);
            *shared = Arc::downgrade(&server);
            server
        };
        Self { server, database: DATABASES.fetch_add(1, Ordering::Relaxed) }
    }

    fn sink(&self) -> String {
        self.sink_at(self.address())
    }

    fn arrived(&self) -> Vec<Arrival> {
        let entries: Vec<(String, Vec<Vec<u8>>)> = ask(&mut self.connection(), &["XRANGE", "arrivals", "-", "+"]);
        let arrival = |(_, fields): (String, Vec<Vec<u8>>)| Arrival {
            ticket: String::from_utf8(fields[1].clone()).unwrap(),
            body: fields[3].clone(),
        };
        entries.into_iter().map(arrival).collect()
    }

    fn take_away(&mut self) {
        self.server().kill9();
    }

    fn bring_back(&mut self) {
        self.server().restart();
    }
}

impl Served for Redis {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn sink_at(&self, address: SocketAddr) -> String {
        Self::section(&format!("redis://{address}/{}", self.database))
    }

    fn sink_refused(&self, password: &str) -> String {
        Self::section(&format!("redis://nobody:{password}@{}", self.address()))
    }

    fn sink_unreachable(address: SocketAddr, password: &str) -> String {
        Self::section(&format!("redis://:{password}@{address}"))
    }
}

/// A batch is one request: fence, rows and position cannot be parted. What can be parted from them is the answer.
impl Transactional for Redis {
    const BEGIN: Moment = Moment { request: b"EVALSHA", answer: None };
    const FENCED: Moment = Self::BEGIN;
    const COMMIT: Moment = Self::BEGIN;
    const COMMITTED: Moment = Moment { request: b"EVALSHA", answer: Some(b"*1\r\n:0") };
}

impl Refusing for Redis {
    fn refuse(&self, body: &str) -> &'static str {
        let () = ask(&mut self.connection(), &["SET", &format!("count:{body}"), "text"]);
        "command 1 (INCR): ERR value is not an integer"
    }
}
