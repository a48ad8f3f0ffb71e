//! An HTTP service for tests: notes every request as it came, and answers as the test says. It is hyper's server, on a thread and a
//! port of its own.

#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::disallowed_methods, reason = "what it notes is when requests came, by a clock that is not forebay's")]

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use futures_lite::stream::{self, Stream, StreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, watch};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How many others were without an answer when it came.
    pub others: usize,
    pub at: Instant,
}

/// What it is answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Only once the test has let one more answer go.
    pub is_held: bool,
    /// With a body that does not end.
    pub is_endless: bool,
}

/// A running service; dropping it closes its port and its connections.
pub struct UpstreamServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

type Answer = dyn Fn(&Arrival) -> Reply + Send + Sync;

struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    in_flight: AtomicUsize,
    gate: Semaphore,
    answer: Box<Answer>,
}

impl Arrival {
    /// The value of a header that stands there at most once; empty if it does not.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(given, _)| given == name);
        let value = values.next().map_or("", |(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice: {self:?}");
        value
    }

    /// The key by which it can be known again.
    #[must_use]
    pub fn key(&self) -> &str {
        self.header("idempotency-key")
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Reply {
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn saying(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    #[must_use]
    pub fn held(self) -> Self {
        Self { is_held: true, ..self }
    }
}

impl UpstreamServer {
    /// Starts a service on a free port.
    pub fn start(answer: impl Fn(&Arrival) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), answer)
    }

    /// Starts a service that takes everything.
    #[must_use]
    pub fn willing() -> Self {
        Self::start(|_| Reply::status(200))
    }

    /// Starts a service at this address.
    pub fn start_at(address: SocketAddr, answer: impl Fn(&Arrival) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            arrivals: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            answer: Box::new(answer),
        });
        let (stop, stopped) = watch::channel(false);
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, serving, stopped));
        });
        Self { address, shared, stop, thread: Some(thread) }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far, in the order in which they came.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.lock().unwrap().clone()
    }

    /// Lets so many of the answers go that are held.
    pub fn let_go(&self, answers: usize) {
        self.shared.gate.add_permits(answers);
    }
}

impl Drop for UpstreamServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The connections end with the runtime.
async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = stopped.changed() => return,
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            // Whoever cuts a connection is a part of the test.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    let value = |value: &hyper::header::HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
    let _in_flight = InFlight::new(&shared.in_flight);
    let arrival = Arrival {
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers.iter().map(|(name, given)| (name.to_string(), value(given))).collect(),
        body,
        others: shared.in_flight.load(Ordering::SeqCst) - 1,
        at: Instant::now(),
    };
    shared.arrivals.lock().unwrap().push(arrival.clone());
    let reply = (shared.answer)(&arrival);
    if reply.is_held {
        shared.gate.acquire().await.unwrap().forget();
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let body = if reply.is_endless { BodyExt::boxed(endless()) } else { Full::new(Bytes::from(reply.body)).boxed() };
    Ok(response.body(body).unwrap())
}

/// A request without an answer; a connection that is cut ends it too.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A beginning, and nothing behind it for ever.
fn endless() -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    let beginning = stream::once(Ok(Frame::data(Bytes::from_static(b"and so on"))));
    StreamBody::new(beginning.chain(stream::pending()))
}
