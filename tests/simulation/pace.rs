//! What a drain may send: no window sees more rows than the rates of its time allow, and nothing leaves during a pause.

use std::collections::VecDeque;

use forebay::drain::pacer::CATCH_UP_PERCENT;
use forebay::limits::{PACER_CATCH_UP_MS, PACER_SLACK_MS};
use forebay::queue::Outlet;
use forebay::rate::Rate;

/// Sends that are looked back at.
const SENDS_KEPT: usize = 48;

/// What one drain has sent, and what it was told.
#[derive(Default)]
pub struct Pace {
    /// When it sent how many rows.
    sends: VecDeque<(u64, u64)>,
    /// The rates that it was told, and since when.
    rates: Vec<(u64, Rate)>,
    /// A batch that was on its way when the pause began may still go.
    may_finish: bool,
}

impl Pace {
    /// A process has started with this rate.
    pub fn begin(&mut self, rate: Rate) {
        if self.rates.iter().any(|(_, former)| *former != rate) {
            self.sends.clear();
        }
        self.rates = vec![(0, rate)];
        self.may_finish = true;
    }

    /// The drain is told something else.
    pub fn told(&mut self, rate: Rate, now_ns: u64) {
        self.rates.push((now_ns, rate));
        self.may_finish = true;
    }

    /// It sends rows; returns what is wrong with that.
    pub fn send(&mut self, outlet: &Outlet, rows: u64, now_ns: u64) -> Option<String> {
        if rows == 0 {
            return None;
        }
        if outlet.instructions.borrow().is_paused && !std::mem::take(&mut self.may_finish) {
            return Some(format!("{rows} rows are sent during a pause"));
        }
        self.sends.push_back((now_ns, rows));
        if self.sends.len() > SENDS_KEPT {
            self.sends.pop_front();
        }
        self.excess(outlet, now_ns)
    }

    fn excess(&self, outlet: &Outlet, now_ns: u64) -> Option<String> {
        let tolerance_ns = (outlet.config.shaping.batch.linger_ms_max + PACER_SLACK_MS) * 1_000_000;
        let (mut total, mut rate, mut known) = (0, None, self.rates.len());
        for (from_ns, sent) in self.sends.iter().rev() {
            total += sent;
            // Every rate that counted at some time of the window.
            while known > 0 && (known == self.rates.len() || self.rates[known].0 >= *from_ns) {
                known -= 1;
                rate = faster(rate, Some(self.rates[known].1));
            }
            let Some(Rate::Limited { records, period_ns }) = rate else { return None };
            let window_ns = now_ns - from_ns;
            let records_in = |ns: u64| u128::from(ns) * u128::from(records) / u128::from(period_ns) + 1;
            let even = records_in(window_ns * CATCH_UP_PERCENT / 100 + 1 + tolerance_ns) + 1;
            let bound = records_in(window_ns + tolerance_ns + PACER_CATCH_UP_MS * 1_000_000).min(even);
            if u128::from(total) > bound {
                return Some(format!("{total} rows within {window_ns} ns, where {bound} may leave"));
            }
        }
        None
    }
}

fn faster(one: Option<Rate>, other: Option<Rate>) -> Option<Rate> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.per_second() >= other.per_second() { one } else { other }),
        (one, other) => one.or(other),
    }
}
