//! A further sink whose position is kept in the data directory: a file.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::server::{SMALL_JOURNAL, Server, Site, eventually};
use crate::stage::{analytics, ask, fill, names, until_analysed};

const FAST: &str = "rate = \"unlimited\"\nretry = { backoff_ms_min = 10, backoff_ms_max = 50 }\n";

/// A site whose queue delivers into a SQLite file, and with another sink into `archive`.
struct Archived {
    site: Site,
}

impl Archived {
    fn new() -> Self {
        Self { site: Site::new("") }
    }

    fn path(&self) -> PathBuf {
        self.site.path().join("orders.ndjson")
    }

    fn configure(&self, has_archive: bool) {
        let archive = format!(
            "[queues.orders.sinks.analytics]\n{FAST}type = \"file\"\nurl = \"file:{}\"\n",
            self.path().display()
        );
        let archive = if has_archive { archive.as_str() } else { "" };
        self.site.configure(&format!("{SMALL_JOURNAL}[queues.orders]\n{FAST}{archive}"));
    }

    /// Without the padding, in order.
    fn archived(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path()).unwrap();
        let body = |line: &str| serde_json::from_str::<Value>(line).unwrap()["body"].as_str().unwrap().to_owned();
        text.lines().map(|line| body(line).trim_end_matches('.').to_owned()).collect()
    }

    fn segments(&self) -> usize {
        self.site.files("orders", "seg").len()
    }
}

fn trimmed(server: &Server) -> usize {
    usize::try_from(server.metric("forebay_trimmed_sequence{queue=\"orders\"}")).unwrap()
}

fn until_delivered_to_main(server: &Server, ticket: &str) {
    let mut client = server.client();
    eventually("delivery to the main sink", || (client.ticket(ticket)["state"] == "delivered").then_some(()));
}

/// Its position is a file beside the journal, which must not be lifted over what it has not got.
#[test]
fn a_kept_sink_that_was_out_goes_on_where_it_was_or_says_what_is_gone() {
    let stage = Archived::new();
    stage.configure(true);
    let server = stage.site.start();
    let (first, last) = fill(&server, 0, 1);
    until_analysed(&server, &last);
    server.stop();
    // Nothing is given back while one segment is not full, so all that it has not got is there when it is back.
    stage.configure(false);
    let server = stage.site.start();
    server.until_said("this sink is no longer configured");
    let (second, last) = fill(&server, first, 1);
    until_delivered_to_main(&server, &last);
    assert_eq!((trimmed(&server), ask(&server, "GET", "/sinks/analytics", &json!(null)).status), (0, 404));
    server.stop();
    stage.configure(true);
    let server = stage.site.start();
    until_analysed(&server, &last);
    assert_eq!(stage.archived(), names(0..second));
    server.stop();
    // Now segments go.
    stage.configure(false);
    let server = stage.site.start();
    let (third, last) = fill(&server, second, 20);
    until_delivered_to_main(&server, &last);
    eventually("the way back to the pool", || (stage.segments() <= 1).then_some(()));
    server.stop();
    stage.configure(true);
    let server = stage.site.start();
    server.until_said("this sink was out of the configuration for a while");
    eventually("the halt", || (analytics(&server)["now"]["state"] == "halted").then_some(()));
    let (end, last) = fill(&server, third, 1);
    until_delivered_to_main(&server, &last);
    let begin = trimmed(&server);
    assert!(begin > second, "{begin}");
    assert_eq!(stage.archived(), names(0..second), "nothing is passed over in silence");
    server.stop();
    // A person has said that what is gone is not wanted: it begins like a new one.
    fs::remove_dir_all(stage.site.queue("orders").join("sinks").join("analytics")).unwrap();
    let server = stage.site.start();
    until_analysed(&server, &last);
    assert_eq!(stage.archived(), [names(0..second), names(begin..end)].concat());
    server.stop();
}
