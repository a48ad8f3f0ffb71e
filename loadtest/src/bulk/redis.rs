//! A stream of Redis beside `redis-cli --pipe` of the same commands.

use super::destination::{Destination, output, rows};
use super::{BulkError, BulkPlan, io_error};
use crate::peer::{Peer, RunningPeer, ServerProcess};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// The stream, and the hash tag that parts our position from those of others.
const STREAM: &str = "forebay_bulk";
const FIELDS: [&str; 5] = ["ticket", "received_at", "key", "content_type", "body"];

pub(super) struct Stream {
    url: String,
    plan: BulkPlan,
    server: Option<RunningPeer>,
    /// The commands, once they were written.
    commands: Option<PathBuf>,
}

impl Stream {
    pub(super) fn open(plan: &BulkPlan, url: Option<&str>) -> Result<Self, BulkError> {
        let (url, server) = plan.serve(url, |options| Peer::named("redis")?.start(options))?;
        Ok(Self { url, plan: plan.clone(), server, commands: None })
    }

    fn redis_cli(&self) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-e", "-u", &self.url]);
        command
    }

    fn commands(&mut self) -> Result<PathBuf, BulkError> {
        if let Some(path) = &self.commands {
            return Ok(path.clone());
        }
        let path = self.plan.directory.join("commands");
        let failed = || io_error(path.display().to_string());
        let mut file = BufWriter::new(File::create(&path).map_err(failed())?);
        let key = format!("{{{STREAM}}}");
        for row in rows(&self.plan)? {
            let values = [&row.ticket, &row.received_at, &row.key, &row.content_type, &row.body];
            let pairs = FIELDS.into_iter().zip(values).flat_map(|(name, value)| [name, value.as_str()]);
            let words: Vec<&str> = ["XADD", &key, "*"].into_iter().chain(pairs).collect();
            write!(file, "*{}\r\n", words.len()).map_err(failed())?;
            for word in words {
                write!(file, "${}\r\n{word}\r\n", word.len()).map_err(failed())?;
            }
        }
        file.into_inner().map_err(|error| failed()(error.into_error()))?.sync_all().map_err(failed())?;
        self.commands = Some(path.clone());
        Ok(path)
    }
}

impl Destination for Stream {
    fn names(&self) -> (&'static str, &'static str) {
        ("drain into Redis", "redis-cli --pipe")
    }

    fn sink_toml(&self) -> String {
        let fields: String = FIELDS.iter().map(|name| format!(" {name} {{${name}}}")).collect();
        format!(
            "type = \"redis\"\nurl = {:?}\nhash_tag = \"{STREAM}\"\ncommands = \"XADD {{{{{STREAM}}}}} *{fields}\"\n",
            self.url
        )
    }

    fn empty(&mut self) -> Result<(), BulkError> {
        let pattern = format!("forebay:{{{STREAM}}}:position:*");
        let positions = output(self.redis_cli().args(["--scan", "--pattern", &pattern]))?;
        let stream = format!("{{{STREAM}}}");
        output(self.redis_cli().arg("DEL").arg(stream).args(positions.lines())).map(drop)
    }

    fn load(&mut self, records: u64) -> Result<f64, BulkError> {
        let path = self.commands()?;
        self.empty()?;
        let commands = File::open(&path).map_err(io_error(path.display().to_string()))?;
        let started = Instant::now();
        output(self.redis_cli().arg("--pipe").stdin(commands))?;
        Ok(records as f64 / started.elapsed().as_secs_f64())
    }

    fn remove(&mut self) -> Result<(), BulkError> {
        self.empty()
    }

    fn process(&self) -> Option<ServerProcess> {
        self.server.as_ref()?.process()
    }
}
