//! RabbitMQ's row.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lapin::types::FieldTable;

use crate::rabbitmq_server::RabbitMqServer;
use crate::station::{Arrival, Served, Server, Station};

pub struct RabbitMq {
    server: Arc<RabbitMqServer>,
    queue: String,
}

/// The last of those who share it stops it.
static SHARED: Mutex<Weak<RabbitMqServer>> = Mutex::new(Weak::new());
static QUEUES: AtomicUsize = AtomicUsize::new(0);

impl RabbitMq {
    fn section(&self, url: &str) -> String {
        format!("type = \"rabbitmq\"\nurl = \"{url}\"\nrouting_key = \"{}\"\n", self.queue)
    }

    fn server(&mut self) -> &mut RabbitMqServer {
        Arc::get_mut(&mut self.server).expect("a server of this station's own")
    }
}

impl Station for RabbitMq {
    const KIND: &'static str = "rabbitmq";
    const EXACTLY_ONCE: bool = false;

    fn start(server: Server) -> Self {
        let server = if server == Server::Own {
            Arc::new(RabbitMqServer::start())
        } else {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(|| Arc::new(RabbitMqServer::start()));
            *shared = Arc::downgrade(&server);
            server
        };
        let queue = format!("station{}", QUEUES.fetch_add(1, Ordering::Relaxed));
        server.make_queue(&queue, &FieldTable::default());
        Self { server, queue }
    }

    fn sink(&self) -> String {
        self.sink_at(self.address())
    }

    fn arrived(&self) -> Vec<Arrival> {
        let arrival = |message: crate::rabbitmq_server::Stored| Arrival {
            ticket: message.properties.message_id().as_ref().unwrap().to_string(),
            body: message.body,
        };
        self.server.stored(&self.queue).into_iter().map(arrival).collect()
    }

    fn take_away(&mut self) {
        self.server().kill9();
    }

    fn bring_back(&mut self) {
        self.server().restart();
        // A broker that is killed a moment after it has said yes to a queue may not have written it down.
        self.server.make_queue(&self.queue, &FieldTable::default());
    }
}

impl Served for RabbitMq {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn sink_at(&self, address: SocketAddr) -> String {
        self.section(&RabbitMqServer::url_at(address))
    }

    fn sink_refused(&self, password: &str) -> String {
        self.section(&format!("amqp://forebay:{password}@{}", self.address()))
    }

    fn sink_unreachable(address: SocketAddr, password: &str) -> String {
        format!("type = \"rabbitmq\"\nurl = \"amqp://forebay:{password}@{address}\"\n")
    }
}
