//! Asks the admin address of a running forebay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::{config, sink};

/// How long a running server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer: a dead letter of the largest body, with every byte escaped, and 256 queues many times over.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Which forebay to ask.
#[derive(clap::Args)]
pub struct Target {
    /// The admin address of the running forebay
    #[arg(long, value_name = "IP:PORT", env = "FOREBAY_ADMIN", default_value = "127.0.0.1:8081")]
    admin: SocketAddr,
    /// Take the admin address from this configuration instead
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Target {
    fn address(&self) -> anyhow::Result<SocketAddr> {
        match &self.config {
            None => Ok(self.admin),
            Some(path) => {
                let mut address = config::load(path, &sink::KINDS)?.admin.address;
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                Ok(address)
            }
        }
    }

    /// Asks, and returns the answer if it is a good one.
    ///
    /// # Errors
    ///
    /// Nobody answers, or what was asked for is refused; the text says why.
    pub fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.send(method, path, body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())))
    }

    /// As [`ask`](Self::ask), with a body that need not be JSON.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let address = self.address()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a tokio runtime")?;
        let asked = async { tokio::time::timeout(PATIENCE, exchange(address, method, path, body)).await };
        let (status, value) = runtime.block_on(asked).with_context(|| format!("{address} does not answer"))??;
        if status.is_success() {
            return Ok(value);
        }
        let detail = value["detail"].as_str().map_or_else(|| value.to_string(), str::to_owned);
        bail!("{detail}");
    }
}

async fn exchange(address: SocketAddr, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Value)> {
    let stream = tokio::net::TcpStream::connect(address).await.with_context(|| {
        format!("no forebay answers on {address}; --admin or --config say where its admin address is")
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .header("forebay-actor", actor())
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
    drop(sender);
    // It ends because nobody sends any more.
    let _ = connection.await;
    let value = serde_json::from_slice(&body).with_context(|| format!("{address} does not answer like a forebay"))?;
    Ok((status, value))
}

/// Who asks, for the server's log.
fn actor() -> String {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    let user = user.unwrap_or_else(|_| format!("user {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    format!("{user}@{host}").chars().map(printable).collect()
}
