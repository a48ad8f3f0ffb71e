//! Connections that are open before a run and after it.

use super::connection::Connection;
use super::request::RequestTemplate;
use super::{EngineError, Plan};
use crate::order::RunId;
use std::net::TcpStream;
use std::thread;
use tokio::task::JoinSet;

/// How many connections are opened at once. More would overflow the server's queue of connections to accept, where
/// the kernel makes it short, and each that is dropped there costs a second.
const OPENED_AT_ONCE: usize = 256;

/// Open keep-alive connections, each of which the server has served at least once. Dropping them closes them.
#[derive(Debug, Default)]
pub struct Connections {
    pub(super) streams: Vec<TcpStream>,
}

impl Connections {
    /// Opens as many connections as the plan has, and has one of the plan's requests acknowledged on each, so that
    /// none of them is still waiting to be accepted. Blocks; may be called from any thread.
    ///
    /// # Errors
    /// The plan is not valid, a connection cannot be opened, or a request is not acknowledged.
    pub fn open(plan: &Plan) -> Result<Self, EngineError> {
        plan.validate()?;
        let streams = ask_each(plan, (0..plan.connections).map(|_| None).collect())?;
        Ok(Self { streams })
    }

    /// Has one more of the plan's requests acknowledged on each connection: so it is proved that all were open up to
    /// now. Blocks; may be called from any thread.
    ///
    /// # Errors
    /// The plan is not valid, or a connection was closed meanwhile or brings no acknowledgement. All are closed then.
    pub fn ask_each(&mut self, plan: &Plan) -> Result<(), EngineError> {
        plan.validate()?;
        let streams = std::mem::take(&mut self.streams);
        self.streams = ask_each(plan, streams.into_iter().map(Some).collect())?;
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

/// Does so on a thread and runtime of its own, so that the caller may itself be in a runtime.
fn ask_each(plan: &Plan, streams: Vec<Option<TcpStream>>) -> Result<Vec<TcpStream>, EngineError> {
    let on_thread = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(ask_each_now(plan, streams))
    };
    thread::scope(|scope| scope.spawn(on_thread).join().unwrap_or(Err(EngineError::WorkerPanicked)))
}

async fn ask_each_now(plan: &Plan, streams: Vec<Option<TcpStream>>) -> Result<Vec<TcpStream>, EngineError> {
    let addresses = plan.target.resolve()?;
    // Under another name: the requests of the run itself must not be taken for repetitions of these.
    let template = RequestTemplate::new(&Plan { run: RunId::random(), ..plan.clone() });
    let wanted = streams.len();
    let mut served = Vec::with_capacity(wanted);
    let mut unasked = (0..).zip(streams);
    while served.len() < wanted {
        let mut exchanges = JoinSet::new();
        for (index, stream) in unasked.by_ref().take(OPENED_AT_ONCE) {
            let connection = Connection::new(addresses.clone(), plan, stream)?;
            let (mut body, mut request) = (Vec::new(), Vec::new());
            template.write(index, &mut body, &mut request);
            exchanges.spawn(ask(connection, request));
        }
        while let Some(joined) = exchanges.join_next().await {
            let asked = joined.map_err(|_| EngineError::WorkerPanicked)?;
            let stream = asked.map_err(|reason| EngineError::Connections { served: served.len(), wanted, reason })?;
            served.push(stream);
        }
    }
    Ok(served)
}

/// One request; returns the connection, or why it is of no use.
async fn ask(mut connection: Connection, request: Vec<u8>) -> Result<TcpStream, String> {
    let exchanged = connection.exchange(&request).await;
    let response = exchanged.map_err(|failure| format!("{}: {}", failure.kind, failure.detail))?;
    if !(200..300).contains(&response.status) {
        return Err(format!("the server answered with status {}", response.status));
    }
    connection.into_stream().ok_or_else(|| "the server closed the connection after its answer".to_owned())
}
