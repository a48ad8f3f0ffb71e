//! The forebay whose drain is measured.

use super::destination::Destination;
use super::{BulkError, BulkPlan, PATIENCE, QUEUE};
use crate::peer::{
    RunningPeer, ServerProcess, ServerProgram, StartOptions, Stop, forebay_program, free_ports, queue_metric,
    write_file,
};
use crate::wire::Wire;
use std::path::Path;

/// `forebay serve`, killed when it is dropped.
pub(super) struct Server {
    peer: RunningPeer,
    url: String,
    admin_port: u16,
}

impl Server {
    /// Starts one that delivers nothing, but for a record or two.
    pub(super) fn start_filling(plan: &BulkPlan, data: &Path) -> Result<Self, BulkError> {
        let idle = plan.directory.join("idle.db").display().to_string();
        let queue = "rate = \"1/h\"\n".to_owned();
        Self::start(plan, data, &queue, &format!("type = \"sqlite\"\nurl = {idle:?}\n"))
    }

    /// Starts one that delivers at `rate`.
    pub(super) fn start_draining(
        plan: &BulkPlan,
        data: &Path,
        rate: &str,
        destination: &dyn Destination,
    ) -> Result<Self, BulkError> {
        let order = match plan.concurrency {
            Some(lanes) => format!("order = \"none\"\nconcurrency = {lanes}\n"),
            None if destination.is_unordered() => "order = \"none\"\n".to_owned(),
            None => String::new(),
        };
        let burst = plan.burst.map(|burst| format!("burst = {burst}\n")).unwrap_or_default();
        let queue = format!("rate = \"{rate}\"\n{burst}{order}batch = {{ records_max = {} }}\n", plan.batch_records);
        Self::start(plan, data, &queue, &destination.sink_toml())
    }

    fn start(plan: &BulkPlan, data: &Path, queue: &str, sink: &str) -> Result<Self, BulkError> {
        let [port, admin_port] = free_ports()?;
        let configuration = format!(
            "data_dir = {:?}\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n[admin]\n\
             address = \"127.0.0.1:{admin_port}\"\n[queues.{QUEUE}]\nmax_backlog_bytes = \"1TiB\"\n{queue}\
             [queues.{QUEUE}.sink]\n{sink}",
            data.display().to_string()
        );
        let options = StartOptions {
            parent_directory: Some(plan.directory.clone()),
            forebay_binary: Some(plan.forebay.clone()),
            load_threads: 0,
        };
        let program = forebay_program(&options)?;
        let directory = options.temporary_directory()?;
        let config = directory.path().join("forebay.toml");
        write_file(&config, &configuration)?;
        let url = format!("http://127.0.0.1:{port}/v1/queues/{QUEUE}/records");
        let peer = RunningPeer::spawn(ServerProgram {
            name: "forebay",
            keeps: "",
            wire: Wire::Http { url: url.clone() },
            program: &program,
            arguments: vec!["serve".to_owned(), "--config".to_owned(), config.display().to_string()],
            environment: Vec::new(),
            stop: Stop::Kill,
            account: None,
            cores: None,
            directory,
        })?
        .wait_until(PATIENCE, |_| {
            let told = queue_metric::<u64>(admin_port, "backlog_records", QUEUE);
            told.map(drop).ok_or_else(|| "its metrics cannot be read".to_owned())
        })?;
        Ok(Self { peer, url, admin_port })
    }

    /// Where records are posted.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Records that are not delivered yet, by the server's own metrics.
    pub(super) fn backlog(&self) -> Option<u64> {
        queue_metric(self.admin_port, "backlog_records", QUEUE)
    }

    /// Records that the destination has refused, which count as delivered.
    pub(super) fn dead_letters(&self) -> Option<u64> {
        queue_metric(self.admin_port, "dead_letters", QUEUE)
    }

    pub(super) fn process(&self) -> Option<ServerProcess> {
        self.peer.process()
    }
}
