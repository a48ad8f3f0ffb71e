//! Live progress on standard error: one line that changes on a terminal, a line a second elsewhere.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use forebay_loadtest::engine::ProgressCounts;
use forebay_loadtest::results::grouped;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::Gauges;
use crate::rate::Rate;

const PLAIN_PERIOD_NS: u64 = 1_000_000_000;

/// Everything that the line shows.
pub struct Moment {
    /// Since the start of the sale.
    pub elapsed_ns: u64,
    /// What the clients have seen.
    pub counts: ProgressCounts,
    /// What the server says.
    pub gauges: Gauges,
    /// The drain's rate.
    pub rate: Rate,
    /// Kills done, and kills to do in all.
    pub kills: (usize, usize),
}

/// Shows the progress until it is dropped.
pub struct Display {
    bar: Option<ProgressBar>,
    next_line_ns: u64,
}

impl Display {
    /// Finds out what standard error is.
    pub fn start(records: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:20} {msg}");
        let bar = style
            .ok()
            .filter(|_| std::io::stderr().is_terminal())
            .map(|style| ProgressBar::with_draw_target(Some(records), ProgressDrawTarget::stderr()).with_style(style));
        Self { bar, next_line_ns: 0 }
    }

    /// Shows how things stand.
    pub fn show(&mut self, moment: &Moment) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(moment.gauges.delivered);
                bar.set_message(moment.line());
            }
            None if moment.elapsed_ns >= self.next_line_ns => {
                eprintln!("{}", moment.line());
                self.next_line_ns = moment.elapsed_ns + PLAIN_PERIOD_NS;
            }
            None => {}
        }
    }

    /// Says something that stays.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Moment {
    fn line(&self) -> String {
        let mut line = format!(
            "{:>5.1} s  offered {}  acknowledged {}  backlog {}  drained {}  {}",
            seconds(self.elapsed_ns),
            grouped(self.counts.offered),
            grouped(self.counts.acknowledged),
            grouped(self.gauges.backlog),
            grouped(self.gauges.delivered),
            self.eta()
        );
        for (name, count) in [("refused", self.counts.refused), ("errors", self.counts.errors)] {
            if count > 0 {
                // Writing to a String cannot fail.
                let _ = write!(line, "  {name} {}", grouped(count));
            }
        }
        if self.kills.1 > 0 {
            let _ = write!(line, "  killed {} of {}", self.kills.0, self.kills.1);
        }
        line
    }

    /// How long the backlog takes at the configured rate.
    fn eta(&self) -> String {
        match self.rate {
            Rate::Unlimited => "ETA -".to_owned(),
            Rate::Limited { .. } => format!("ETA {:.1} s", seconds(self.rate.time_for_ns(self.gauges.backlog))),
        }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_things_stand() {
        let mut moment = Moment {
            elapsed_ns: 1_500_000_000,
            counts: ProgressCounts { offered: 30_000, acknowledged: 29_900, ..ProgressCounts::default() },
            gauges: Gauges { backlog: 15_000, delivered: 14_900, ..Gauges::default() },
            rate: "10000/s".parse().unwrap(),
            kills: (0, 0),
        };
        let line = "  1.5 s  offered 30,000  acknowledged 29,900  backlog 15,000  drained 14,900  ETA 1.5 s";
        assert_eq!(moment.line(), line);
        (moment.counts.errors, moment.kills) = (7, (1, 2));
        assert_eq!(moment.line(), format!("{line}  errors 7  killed 1 of 2"));
    }
}
