//! Watches a sale until it is drained: shows how it goes, kills the server as planned, and knows when to give up.

use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use forebay_loadtest::engine::{EngineError, Outcome, Progress};

use super::interrupt::Interrupt;
use super::kills::KillSchedule;
use super::metrics::{self, Gauges};
use super::progress::{Display, Moment};
use super::server::ServerProcess;
use super::settings::Settings;
use crate::clock;
use crate::rate::Rate;

const POLL_NS: u64 = 200_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// How long nothing at all may move, beyond three records' time at the slower rate.
const STALL_NS: u64 = 60 * SECOND_NS;
/// How long the drain may take at the most, beyond three times what it should.
const DRAIN_SPARE_NS: u64 = 60 * SECOND_NS;

/// The load on its thread.
pub type LoadHandle<'scope> = ScopedJoinHandle<'scope, Result<Outcome, EngineError>>;

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// How often the server was killed while it ran.
    pub kills: u32,
    /// Those of them after the last acknowledgement.
    pub kills_while_draining: u32,
    /// Records that the database refused for good.
    pub dead_letters: u64,
}

/// A sale in progress.
pub struct Watch<'a> {
    settings: &'a Settings,
    progress: &'a Progress,
    interrupt: &'a Interrupt,
    kills: KillSchedule,
    display: Display,
    patience: Patience,
    started_ns: u64,
    gauges: Gauges,
    watched: Watched,
}

impl<'a> Watch<'a> {
    /// Begins; the sale starts now.
    pub fn new(settings: &'a Settings, progress: &'a Progress, interrupt: &'a Interrupt, kills: KillSchedule) -> Self {
        Self {
            settings,
            progress,
            interrupt,
            kills,
            display: Display::start(settings.records),
            patience: Patience::new(settings.offered_rate, settings.drain_rate, settings.records),
            started_ns: clock::monotonic_ns(),
            gauges: Gauges::default(),
            watched: Watched::default(),
        }
    }

    /// Returns when the load has ended, everything accepted is in the database, and all kills are done.
    pub fn until_drained(mut self, server: &mut ServerProcess<'_>, load: &LoadHandle<'_>) -> anyhow::Result<Watched> {
        loop {
            let pause_ns = self.kills.next_in_ns(self.elapsed_ns()).map_or(POLL_NS, |next| next.min(POLL_NS));
            self.interrupt.wait(Duration::from_nanos(pause_ns))?;
            server.ensure_running()?;
            // Read before the gauges: what they say then includes all that the load was told.
            let loaded = load.is_finished();
            if self.kills.next_in_ns(self.elapsed_ns()) == Some(0) {
                self.kill(server, loaded)?;
                continue;
            }
            let gauges = metrics::gauges(self.settings.admin);
            if let Some(gauges) = gauges {
                self.gauges = gauges;
            }
            self.show();
            if loaded && self.kills.left() == 0 && gauges.is_some_and(|gauges| gauges.is_drained()) {
                self.watched.dead_letters = self.gauges.dead_letters;
                return Ok(self.watched);
            }
            self.give_up_if_stuck(server, loaded)?;
        }
    }

    fn elapsed_ns(&self) -> u64 {
        clock::monotonic_ns().saturating_sub(self.started_ns)
    }

    /// Kills the server, and starts it again on the same ports and directory.
    fn kill(&mut self, server: &mut ServerProcess<'_>, loaded: bool) -> anyhow::Result<()> {
        let was_running = server.kill()?;
        let killed_ns = self.elapsed_ns();
        server.start().context("the server did not start again after a kill")?;
        let now_ns = self.elapsed_ns();
        self.patience.forgive(now_ns);
        if !was_running {
            // It had ended by itself a moment before, so this kill is still to be done.
            return Ok(());
        }
        self.kills.done(now_ns);
        self.watched.kills += 1;
        self.watched.kills_while_draining += u32::from(loaded);
        self.display.say(&format!(
            "{:>5.1} s  killed the server with kill -9; it accepts again after {} ms",
            killed_ns as f64 / SECOND_NS as f64,
            now_ns.saturating_sub(killed_ns) / 1_000_000
        ));
        Ok(())
    }

    fn show(&mut self) {
        let kills = usize::try_from(self.settings.kills).unwrap_or(usize::MAX);
        self.display.show(&Moment {
            elapsed_ns: self.elapsed_ns(),
            counts: self.progress.counts(),
            gauges: self.gauges,
            rate: self.settings.drain_rate,
            kills: (kills - self.kills.left(), kills),
        });
    }

    fn give_up_if_stuck(&mut self, server: &ServerProcess<'_>, loaded: bool) -> anyhow::Result<()> {
        if self.gauges.halted {
            bail!("the drain has halted; {}", server.log_tail());
        }
        let (counts, gauges) = (self.progress.counts(), self.gauges);
        let settled = counts.acknowledged + counts.refused + counts.errors;
        let seen = [counts.offered, settled, gauges.durable, gauges.delivered];
        if let Some(why) = self.patience.is_over(seen, loaded, self.elapsed_ns()) {
            bail!("{why}, with a backlog of {} records; {}", gauges.backlog, server.log_tail());
        }
        Ok(())
    }
}

/// Decides when it is of no use to wait any longer.
struct Patience {
    stall_ns: u64,
    drain_ns: Option<u64>,
    seen: [u64; 4],
    changed_ns: u64,
    loaded_ns: Option<u64>,
}

impl Patience {
    fn new(offered: Rate, drain: Rate, records: u64) -> Self {
        let slowest_ns = offered.time_for_ns(1).max(drain.time_for_ns(1));
        let allowance = |ns: u64, spare_ns: u64| ns.saturating_mul(3).saturating_add(spare_ns);
        let limited = drain != Rate::Unlimited;
        Self {
            stall_ns: allowance(slowest_ns, STALL_NS),
            // Without a rate there is nothing to derive a time from; the stall is bound enough.
            drain_ns: limited.then(|| allowance(drain.time_for_ns(records), DRAIN_SPARE_NS)),
            seen: [0; 4],
            changed_ns: 0,
            loaded_ns: None,
        }
    }

    /// Starts waiting anew after we have held things up ourselves.
    fn forgive(&mut self, now_ns: u64) {
        self.changed_ns = now_ns;
        self.loaded_ns = None;
    }

    /// Why there is no more waiting, if so.
    fn is_over(&mut self, seen: [u64; 4], loaded: bool, now_ns: u64) -> Option<String> {
        if seen != self.seen {
            (self.seen, self.changed_ns) = (seen, now_ns);
        }
        let stalled_ns = now_ns.saturating_sub(self.changed_ns);
        if stalled_ns > self.stall_ns {
            return Some(format!("nothing has moved for {} s", stalled_ns / SECOND_NS));
        }
        if !loaded {
            return None;
        }
        let draining_ns = now_ns.saturating_sub(*self.loaded_ns.get_or_insert(now_ns));
        let late = self.drain_ns.is_some_and(|most| draining_ns > most);
        late.then(|| format!("the drain has taken {} s since the last request", draining_ns / SECOND_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn patience_ends_when_nothing_moves() {
        let mut patience = Patience::new(rate("100/s"), rate("1/min"), 10);
        let most = STALL_NS + 180 * SECOND_NS;
        assert_eq!(patience.is_over([1; 4], false, SECOND_NS), None);
        assert_eq!(patience.is_over([1; 4], false, SECOND_NS + most), None);
        let why = patience.is_over([1; 4], false, 2 * SECOND_NS + most).unwrap();
        assert!(why.contains("241 s"), "{why}");
        patience.forgive(2 * SECOND_NS + most);
        assert_eq!(patience.is_over([1; 4], false, 2 * SECOND_NS + most), None);
    }

    #[test]
    fn a_drain_that_moves_too_slowly_ends_too() {
        let mut patience = Patience::new(rate("100/s"), rate("100/s"), 1000);
        let mut at = |second: u64, loaded| patience.is_over([second; 4], loaded, second * SECOND_NS);
        assert_eq!(at(500, false), None);
        assert_eq!(at(510, true), None);
        assert_eq!(at(550, true), None);
        assert_eq!(at(600, true), None);
        assert!(at(601, true).is_some());
        let mut patience = Patience::new(rate("100/s"), Rate::Unlimited, 1000);
        assert_eq!(patience.is_over([1; 4], true, SECOND_NS), None);
        assert_eq!(patience.is_over([2; 4], true, u64::MAX), None);
    }
}
