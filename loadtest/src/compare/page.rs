//! A comparison as sections of an HTML page.

use super::{Comparison, OpenLoopStep, PeerFigures};
use crate::report::{Plot, Scale, Section, Series, Table};
use crate::results::{LatencyFigures, rate};

/// A latency that is plotted: its name, what that means, and which one it is.
type Percentile = (&'static str, &'static str, fn(&LatencyFigures) -> f64);

const PERCENTILES: [Percentile; 4] = [
    ("p50", "Half of the requests were faster.", |latency| latency.p50_ms),
    ("p99", "One request of a hundred was slower.", |latency| latency.p99_ms),
    ("p99.9", "One request of a thousand was slower.", |latency| latency.p99_9_ms),
    ("max", "The slowest request.", |latency| latency.max_ms),
];

impl Comparison {
    /// The comparison as sections of a [`Document`](crate::report::Document): the closed loop and, where it was run,
    /// the open loop.
    #[must_use]
    pub fn to_sections(&self) -> Vec<Section> {
        let mut sections = vec![self.closed_loop_section()];
        if !self.open_loop.is_empty() {
            sections.push(self.arrivals_section());
            sections.extend(PERCENTILES.iter().map(|percentile| self.latency_section(percentile)));
        }
        sections
    }

    fn closed_loop_section(&self) -> Section {
        let bar = |peer: &PeerFigures| Series {
            label: peer.peer.to_owned(),
            points: peer.per_second.iter().map(|per_second| (0.0, *per_second)).collect(),
        };
        let base = self.peers.first().map_or("", |peer| peer.peer);
        let ratio = format!("ratio to {base}");
        Section {
            title: format!("{} connections, closed loop", self.connections),
            note: format!(
                "As many requests are in flight as there are connections. A bar ends at the median of a server's \
                 rounds, and each dot is a round, the first one on the left. Ratios to {base} are of the medians, \
                 with the range over rounds that followed each other in brackets."
            ),
            table: Some(Table {
                head: texts(["server", "median", "rounds", "median of p99", &ratio, "keeps"]),
                rows: self.peers.iter().map(closed_loop_row).collect(),
            }),
            plot: Some(Plot {
                x_label: "",
                y_label: "acknowledged per second",
                x_scale: Scale::Categorical,
                y_scale: Scale::Linear,
                series: self.peers.iter().map(bar).collect(),
            }),
        }
    }

    fn arrivals_section(&self) -> Section {
        let steps = self.open_loop.iter().flat_map(|peer| peer.steps.iter().map(|step| (peer.peer, step)));
        let row = |(peer, step): (&str, &OpenLoopStep)| {
            let OpenLoopStep { percent_of_peak, due_per_second, acknowledged_per_second, start_lag_p99_ms, .. } = step;
            let (share, lag) = (format!("{percent_of_peak} %"), format!("{start_lag_p99_ms:.3} ms"));
            texts([peer, &share, &rate(*due_per_second), &rate(*acknowledged_per_second), &lag])
        };
        Section {
            title: format!("{} connections, open loop", self.connections),
            note: "Requests are due at a constant rate, a share of the server's own median above, whether or not \
                   earlier ones are acknowledged. Latencies below count from when a request was due. The start lag is within \
                   them: requests go in ticks of 0.1 ms, and wait while every connection is busy."
                .to_owned(),
            table: Some(Table {
                head: texts(["server", "share of its peak", "due", "acknowledged", "start lag p99"]),
                rows: steps.map(row).collect(),
            }),
            plot: None,
        }
    }

    fn latency_section(&self, (name, meaning, read): &Percentile) -> Section {
        let percents = self.open_loop.first().map_or(&[][..], |peer| &peer.steps);
        let mut head = vec!["server".to_owned()];
        head.extend(percents.iter().map(|step| format!("{} %", step.percent_of_peak)));
        let (mut rows, mut series) = (Vec::new(), Vec::new());
        for peer in &self.open_loop {
            let mut row = vec![peer.peer.to_owned()];
            row.extend(peer.steps.iter().map(|step| format!("{:.3} ms", read(&step.latency))));
            rows.push(row);
            let point = |step: &OpenLoopStep| (f64::from(step.percent_of_peak), read(&step.latency));
            series.push(Series { label: peer.peer.to_owned(), points: peer.steps.iter().map(point).collect() });
        }
        Section {
            title: format!("{} connections, open loop: {name}", self.connections),
            note: (*meaning).to_owned(),
            table: Some(Table { head, rows }),
            plot: Some(Plot {
                x_label: "share of the server's own peak (%)",
                y_label: "latency (ms)",
                x_scale: Scale::Linear,
                y_scale: Scale::Log,
                series,
            }),
        }
    }
}

fn closed_loop_row(peer: &PeerFigures) -> Vec<String> {
    let min = peer.per_second.iter().copied().fold(f64::INFINITY, f64::min);
    let max = peer.per_second.iter().copied().fold(0.0, f64::max);
    let ratio = peer
        .ratio
        .map_or_else(|| "–".to_owned(), |ratio| format!("{:.3} [{:.3}–{:.3}]", ratio.of_medians, ratio.min, ratio.max));
    let (median, rounds) = (rate(peer.median_per_second), format!("{} – {}", rate(min), rate(max)));
    texts([peer.peer, &median, &rounds, &format!("{:.3} ms", peer.median_p99_ms), &ratio, peer.keeps])
}

fn texts<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::{OpenLoop, Ratio};
    use super::*;

    fn comparison(with_open_loop: bool) -> Comparison {
        let peer = |peer, ratio| PeerFigures {
            peer,
            keeps: "a lot",
            per_second: vec![3000.0, 1000.0, 2000.0],
            median_per_second: 2000.0,
            median_p99_ms: 1.5,
            ratio,
        };
        let step = |percent_of_peak, max_ms| OpenLoopStep {
            percent_of_peak,
            due_per_second: 20.0 * f64::from(percent_of_peak),
            acknowledged_per_second: 500.0,
            latency: LatencyFigures { max_ms, ..LatencyFigures::default() },
            start_lag_p99_ms: 0.1,
        };
        let steps = vec![step(25, 7.0), step(50, 30.0)];
        let ratio = Ratio { of_medians: 0.5, min: 0.25, max: 0.75 };
        Comparison {
            connections: 64,
            peers: vec![peer("one", None), peer("other", Some(ratio))],
            open_loop: if with_open_loop { vec![OpenLoop { peer: "one", steps }] } else { Vec::new() },
        }
    }

    #[test]
    fn the_closed_loop_is_a_bar_and_a_row_for_each_peer() {
        let sections = comparison(false).to_sections();
        assert_eq!(sections.len(), 1);
        let table = sections[0].table.as_ref().unwrap();
        assert_eq!(table.head[4], "ratio to one");
        assert_eq!(table.rows[0], ["one", "2,000/s", "1,000/s – 3,000/s", "1.500 ms", "–", "a lot"]);
        assert_eq!(table.rows[1][4], "0.500 [0.250–0.750]");
        assert_eq!(sections[0].plot.as_ref().unwrap().series[1].points.len(), 3);
    }

    #[test]
    fn the_open_loop_has_a_plot_for_each_percentile() {
        let sections = comparison(true).to_sections();
        assert_eq!(sections.iter().filter(|section| section.plot.is_some()).count(), 1 + PERCENTILES.len());
        let arrivals = sections[1].table.as_ref().unwrap();
        assert_eq!(arrivals.rows[1], ["one", "50 %", "1,000/s", "500.0/s", "0.100 ms"]);
        let max = sections.last().unwrap();
        assert_eq!(max.plot.as_ref().unwrap().series[0].points, [(25.0, 7.0), (50.0, 30.0)]);
        let table = max.table.as_ref().unwrap();
        assert_eq!(
            (&table.head[1..], &table.rows[0][1..]),
            (&texts(["25 %", "50 %"])[..], &texts(["7.000 ms", "30.000 ms"])[..])
        );
    }
}
