//! An HTTP service beside wrk, over as many connections, with a body of the same size.

use super::destination::{Destination, output, rows};
use super::{BulkError, BulkPlan, io_error};
use crate::peer::{RunningPeer, ServerProcess, start_answering_nginx};
use std::fs;
use std::process::Command;

/// What the sink has for each lane if it is told nothing.
const CONNECTIONS_MAX: u32 = 16;
const WRK_SECONDS: u32 = 3;
/// What nginx answers: nothing to read but the head.
const NO_CONTENT: u16 = 204;

pub(super) struct Service {
    url: String,
    plan: BulkPlan,
    server: Option<RunningPeer>,
}

impl Service {
    pub(super) fn open(plan: &BulkPlan, url: Option<&str>) -> Result<Self, BulkError> {
        let (url, server) = plan.serve(url, |options| start_answering_nginx(options, NO_CONTENT))?;
        Ok(Self { url, plan: plan.clone(), server })
    }

    /// A request like those of the drain, of which wrk makes all of its own.
    fn script(&self) -> Result<String, BulkError> {
        let rows = rows(&self.plan)?;
        let row = rows.first().ok_or_else(|| failed("there is no record"))?;
        let long = |text: &str| format!("[==[{text}]==]");
        Ok(format!(
            "wrk.method = \"POST\"\nwrk.body = {}\nwrk.headers[\"Content-Type\"] = {}\n\
             wrk.headers[\"Idempotency-Key\"] = {}\nwrk.headers[\"User-Agent\"] = \"forebay/0.1.0\"\n",
            long(&row.body),
            long(&row.content_type),
            long(&row.ticket)
        ))
    }
}

impl Destination for Service {
    fn names(&self) -> (&'static str, &'static str) {
        ("drain into nginx", "wrk")
    }

    fn sink_toml(&self) -> String {
        format!("type = \"http\"\nurl = {:?}\nconnections_max = {CONNECTIONS_MAX}\n", self.url)
    }

    fn is_unordered(&self) -> bool {
        true
    }

    fn empty(&mut self) -> Result<(), BulkError> {
        Ok(())
    }

    /// Answers a second, whatever their number.
    fn load(&mut self, _records: u64) -> Result<f64, BulkError> {
        let script = self.plan.directory.join("request.lua");
        if !script.exists() {
            fs::write(&script, self.script()?).map_err(io_error(script.display().to_string()))?;
        }
        let connections = CONNECTIONS_MAX * self.plan.concurrency.unwrap_or(1);
        let mut command = Command::new("wrk");
        command.args(["--threads", "1", "--connections", &connections.to_string()]);
        command.args(["--duration", &format!("{WRK_SECONDS}s"), "--script"]).arg(&script).arg(&self.url);
        requests_per_second(&output(&mut command)?).map_err(failed)
    }

    fn remove(&mut self) -> Result<(), BulkError> {
        Ok(())
    }

    fn process(&self) -> Option<ServerProcess> {
        self.server.as_ref()?.process()
    }
}

fn failed(reason: impl Into<String>) -> BulkError {
    BulkError::Program { program: "wrk".to_owned(), reason: reason.into() }
}

/// Reads the rate out of what wrk says, unless something went wrong.
fn requests_per_second(said: &str) -> Result<f64, String> {
    let bad = |line: &&str| ["Socket errors", "Non-2xx"].iter().any(|word| line.trim().starts_with(word));
    if let Some(line) = said.lines().find(bad) {
        return Err(line.trim().to_owned());
    }
    let rate = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.ok_or_else(|| format!("it says no rate: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_errors_is_none() {
        let said = "  100 requests in 1.00s\n{}Requests/sec: 52123.45\nTransfer/sec:  1.00MB\n";
        assert_eq!(requests_per_second(&said.replace("{}", "")), Ok(52_123.45));
        let refused = requests_per_second(&said.replace("{}", "  Non-2xx or 3xx responses: 100\n"));
        assert_eq!(refused, Err("Non-2xx or 3xx responses: 100".to_owned()));
        assert!(requests_per_second("").is_err());
    }
}
