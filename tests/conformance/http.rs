//! The row of HTTP services: a real nginx that hands on to one that notes what comes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::nginx_server::NginxServer;
use crate::station::{Arrival, Refusing, Served, Server, Station};
use crate::upstream_server::{Reply, UpstreamServer};

const NO_STOCK: &str = "422 Unprocessable Entity: no stock";

pub struct Http {
    nginx: NginxServer,
    service: UpstreamServer,
    refused: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Http {
    fn section(url: &str) -> String {
        format!("type = \"http\"\nurl = \"{url}\"\nheaders = {{ X-Ticket = \"{{$ticket}}\" }}\n")
    }
}

impl Station for Http {
    const KIND: &'static str = "http";
    const EXACTLY_ONCE: bool = false;

    fn start(_: Server) -> Self {
        let refused = Arc::new(Mutex::new(None));
        let poison = Arc::clone(&refused);
        let service = UpstreamServer::start(move |arrival| {
            let is_refused = poison.lock().unwrap().as_ref() == Some(&arrival.body);
            if is_refused { Reply::status(422).saying("no stock") } else { Reply::status(200) }
        });
        let location = format!("client_max_body_size 16m;\nlocation / {{ proxy_pass {}; }}", service.url());
        Self { nginx: NginxServer::start(false, "", &location), service, refused }
    }

    fn sink(&self) -> String {
        self.sink_at(self.address())
    }

    fn arrived(&self) -> Vec<Arrival> {
        let taken = |body: &Vec<u8>| self.refused.lock().unwrap().as_ref() != Some(body);
        let arrivals = self.service.arrivals().into_iter().filter(|arrival| taken(&arrival.body));
        arrivals
            .map(|arrival| Arrival { ticket: arrival.header("x-ticket").to_owned(), body: arrival.body.clone() })
            .collect()
    }

    fn take_away(&mut self) {
        self.nginx.kill9();
    }

    fn bring_back(&mut self) {
        self.nginx.restart();
    }
}

impl Served for Http {
    fn address(&self) -> SocketAddr {
        self.nginx.address()
    }

    fn sink_at(&self, address: SocketAddr) -> String {
        Self::section(&format!("http://{address}"))
    }

    /// Nobody is asked: a password in the URL is refused by forebay itself.
    fn sink_refused(&self, password: &str) -> String {
        Self::section(&format!("http://nobody:{password}@{}", self.address()))
    }

    fn sink_unreachable(address: SocketAddr, password: &str) -> String {
        let headers = format!("headers = {{ Authorization = \"Bearer {password}\" }}");
        format!("type = \"http\"\nurl = \"http://{address}/?key={password}\"\n{headers}\n")
    }
}

impl Refusing for Http {
    fn refuse(&self, body: &str) -> &'static str {
        *self.refused.lock().unwrap() = Some(body.as_bytes().to_vec());
        NO_STOCK
    }
}
