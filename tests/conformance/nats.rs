//! The row of NATS JetStream.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_nats::jetstream::stream;

use crate::nats_server::NatsServer;
use crate::station::{Arrival, Served, Server, Station};

pub struct Nats {
    server: Arc<NatsServer>,
    name: String,
}

/// The last of those who share it stops it.
static SHARED: Mutex<Weak<NatsServer>> = Mutex::new(Weak::new());
static STREAMS: AtomicUsize = AtomicUsize::new(0);

impl Nats {
    fn section(&self, url: &str) -> String {
        format!("type = \"nats\"\nurl = \"{url}\"\nsubject = \"{}.{{$queue}}\"\n", self.name)
    }

    fn server(&mut self) -> &mut NatsServer {
        Arc::get_mut(&mut self.server).expect("a server of this station's own")
    }
}

impl Station for Nats {
    const KIND: &'static str = "nats";
    const EXACTLY_ONCE: bool = false;

    fn start(server: Server) -> Self {
        let server = if server == Server::Own {
            Arc::new(NatsServer::start())
        } else {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(|| Arc::new(NatsServer::start()));
            *shared = Arc::downgrade(&server);
            server
        };
        let name = format!("station{}", STREAMS.fetch_add(1, Ordering::Relaxed));
        server.set_stream(&stream::Config {
            name: name.clone(),
            subjects: vec![format!("{name}.>")],
            // What comes again is to be seen; the server allows no shorter one.
            duplicate_window: Duration::from_millis(100),
            ..stream::Config::default()
        });
        Self { server, name }
    }

    fn sink(&self) -> String {
        self.sink_at(self.address())
    }

    fn arrived(&self) -> Vec<Arrival> {
        let stored = self.server.stored(&self.name).into_iter();
        stored
            .map(|message| {
                let ticket = message.header("Nats-Msg-Id").unwrap().to_owned();
                Arrival { ticket, body: message.body }
            })
            .collect()
    }

    fn take_away(&mut self) {
        self.server().kill9();
    }

    fn bring_back(&mut self) {
        self.server().restart();
    }
}

impl Served for Nats {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn sink_at(&self, address: SocketAddr) -> String {
        self.section(&NatsServer::url_at(address))
    }

    fn sink_refused(&self, password: &str) -> String {
        self.section(&format!("nats://forebay:{password}@{}", self.address()))
    }

    fn sink_unreachable(address: SocketAddr, password: &str) -> String {
        format!("type = \"nats\"\nurl = \"nats://forebay:{password}@{address}\"\n")
    }
}
