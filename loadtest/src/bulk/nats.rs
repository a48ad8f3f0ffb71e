//! A stream of JetStream beside the client library used by itself, with as many messages in flight.

use super::destination::{Destination, Row, rows};
use super::{BulkError, BulkPlan, IN_FLIGHT_MAX};
use crate::peer::{Peer, RunningPeer, ServerProcess};
use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::{self, Context, stream};
use std::collections::VecDeque;
use std::time::Instant;
use tokio::runtime::Runtime;

/// The stream, and its one subject.
const STREAM: &str = "forebay_bulk";

pub(super) struct JetStream {
    url: String,
    plan: BulkPlan,
    server: Option<RunningPeer>,
    runtime: Runtime,
    context: Context,
    rows: Vec<Row>,
}

impl JetStream {
    pub(super) fn open(plan: &BulkPlan, url: Option<&str>) -> Result<Self, BulkError> {
        let (url, server) = plan.serve(url, |options| Peer::named("nats")?.start(options))?;
        let runtime = super::runtime()?;
        let connected = runtime.block_on(async { async_nats::connect(&url).await.map(jetstream::new) });
        let context = connected.map_err(failed)?;
        Ok(Self { url, plan: plan.clone(), server, runtime, context, rows: Vec::new() })
    }
}

impl Destination for JetStream {
    fn names(&self) -> (&'static str, &'static str) {
        ("drain into NATS", "async-nats")
    }

    fn sink_toml(&self) -> String {
        format!("type = \"nats\"\nurl = {:?}\nsubject = \"{STREAM}\"\nin_flight_max = {IN_FLIGHT_MAX}\n", self.url)
    }

    fn empty(&mut self) -> Result<(), BulkError> {
        self.runtime.block_on(async {
            // There is none before the first round.
            let _ = self.context.delete_stream(STREAM).await;
            let config = stream::Config {
                name: STREAM.to_owned(),
                subjects: vec![STREAM.to_owned()],
                ..stream::Config::default()
            };
            self.context.create_stream(config).await.map(drop).map_err(failed)
        })
    }

    fn load(&mut self, records: u64) -> Result<f64, BulkError> {
        self.empty()?;
        if self.rows.is_empty() {
            self.rows = rows(&self.plan)?;
        }
        let started = Instant::now();
        self.runtime.block_on(publish(&self.context, &self.rows))?;
        Ok(records as f64 / started.elapsed().as_secs_f64())
    }

    fn remove(&mut self) -> Result<(), BulkError> {
        self.runtime.block_on(self.context.delete_stream(STREAM)).map(drop).map_err(failed)
    }

    fn process(&self) -> Option<ServerProcess> {
        self.server.as_ref()?.process()
    }
}

async fn publish(context: &Context, rows: &[Row]) -> Result<(), BulkError> {
    let mut in_flight = VecDeque::<PublishAckFuture>::with_capacity(IN_FLIGHT_MAX);
    for row in rows {
        if in_flight.len() == IN_FLIGHT_MAX
            && let Some(oldest) = in_flight.pop_front()
        {
            oldest.await.map_err(failed)?;
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", row.ticket.as_str());
        let sent = context.publish_with_headers(STREAM, headers, row.body.clone().into()).await;
        in_flight.push_back(sent.map_err(failed)?);
    }
    for sent in in_flight {
        sent.await.map_err(failed)?;
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> BulkError {
    BulkError::Program { program: "async-nats".to_owned(), reason: error.to_string() }
}
