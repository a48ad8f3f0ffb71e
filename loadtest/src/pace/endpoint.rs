//! An HTTP server of the load test's own, which answers 200 at once and does something for each request.

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const HEADERS_MAX: usize = 64;
/// The largest request, in bytes: an order with what a proxy adds.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A server on one thread. Dropping it ends it.
#[derive(Debug)]
pub struct Endpoint {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Starts it on a free port; `on_request` is called when a request has arrived as a whole.
    pub fn start(on_request: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    // Whoever loads it notices that nothing answers.
                    _ = accept(listener, Arc::new(on_request)) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("endpoint".to_owned()).spawn(serve)?;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by itself.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: StdListener, on_request: Arc<impl Fn() + Send + Sync + 'static>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks is the client's to notice.
        tokio::spawn(serve(stream, on_request.clone()));
    }
}

async fn serve(mut stream: TcpStream, on_request: Arc<impl Fn()>) -> io::Result<()> {
    let mut received = Vec::with_capacity(REQUEST_BYTES_MAX);
    let mut answers = Vec::new();
    while received.len() < REQUEST_BYTES_MAX && stream.read_buf(&mut received).await? > 0 {
        let mut used = 0;
        while let Some(bytes) = request_bytes(&received[used..])? {
            on_request();
            used += bytes;
            answers.extend_from_slice(ANSWER);
        }
        received.drain(..used);
        stream.write_all(&answers).await?;
        answers.clear();
    }
    Ok(())
}

/// How long the first request is, with its body; `None` while it is not there as a whole.
fn request_bytes(received: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(received).map_err(io::Error::other)?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    let named = |name: &str| request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if named("transfer-encoding").is_some() {
        return Err(io::Error::other("a body without a length"));
    }
    let length = named("content-length").map(|header| std::str::from_utf8(header.value));
    let body_bytes = match length {
        None => 0,
        Some(text) => text.map_err(io::Error::other)?.trim().parse().map_err(io::Error::other)?,
    };
    let all = head_bytes.checked_add(body_bytes).filter(|all| *all <= REQUEST_BYTES_MAX);
    let all = all.ok_or_else(|| io::Error::other("a request that is too large"))?;
    Ok((received.len() >= all).then_some(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn a_request_is_counted_when_it_is_whole() {
        let request = b"POST / HTTP/1.1\r\nContent-length: 3\r\n\r\nabc";
        for cut in 0..request.len() {
            assert_eq!(request_bytes(&request[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(request_bytes(&[request, &b"GET"[..]].concat()).unwrap(), Some(request.len()));
        assert_eq!(request_bytes(b"GET / HTTP/1.1\r\n\r\n").unwrap(), Some(18));
        for bad in ["Content-Length: -1", "Content-Length: 18446744073709551615", "Transfer-Encoding: chunked"] {
            assert!(request_bytes(format!("POST / HTTP/1.1\r\n{bad}\r\n\r\n").as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_in_one_packet_are_answered_one_by_one() {
        let counted = Arc::new(AtomicU64::new(0));
        let requests = counted.clone();
        let endpoint = Endpoint::start(move || {
            requests.fetch_add(1, Relaxed);
        })
        .unwrap();
        let mut stream = net::TcpStream::connect((Ipv4Addr::LOCALHOST, endpoint.port())).unwrap();
        stream.write_all(&b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx".repeat(3)).unwrap();
        let mut answers = vec![0; 3 * ANSWER.len()];
        stream.read_exact(&mut answers).unwrap();
        assert_eq!((answers, counted.load(Relaxed)), (ANSWER.repeat(3), 3));
    }
}
