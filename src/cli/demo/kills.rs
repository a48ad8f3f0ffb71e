//! When the server is killed: a pure schedule, the same for the same flags.

/// The share of the sale before which nothing is killed, in thousandths.
const FIRST_PER_MILLE: u64 = 50;
/// The share of the sale after which nothing more is planned, in thousandths.
const LAST_PER_MILLE: u64 = 950;
/// Time that a restarted server has at least before the next kill, so that it gets something done.
const UPTIME_MIN_NS: u64 = 100_000_000;
/// The seed of the instants.
const SEED: u64 = 1;

/// Kills that are still to come.
pub struct KillSchedule {
    /// Nanoseconds since the start of the sale, the latest first.
    due_ns: Vec<u64>,
}

impl KillSchedule {
    /// Spreads `kills` over a sale of `planned_ns`, each at a random instant of its own part of it.
    pub fn new(kills: u32, planned_ns: u64) -> Self {
        let first = u128::from(planned_ns) * u128::from(FIRST_PER_MILLE) / 1000;
        let last = u128::from(planned_ns) * u128::from(LAST_PER_MILLE) / 1000;
        let part = (last - first) / u128::from(kills.max(1));
        let mut state = SEED;
        let due_ns = (0..u128::from(kills)).map(|kill| {
            let share = u128::from(splitmix(&mut state));
            let offset = part * kill + ((part * share) >> 64);
            u64::try_from(first + offset).unwrap_or(u64::MAX)
        });
        let mut due_ns: Vec<u64> = due_ns.collect();
        due_ns.reverse();
        Self { due_ns }
    }

    /// Kills left.
    pub fn left(&self) -> usize {
        self.due_ns.len()
    }

    /// Nanoseconds until the next kill, if there is one.
    pub fn next_in_ns(&self, now_ns: u64) -> Option<u64> {
        self.due_ns.last().map(|due| due.saturating_sub(now_ns))
    }

    /// Takes the kill that was just done off the schedule; the next one leaves the server some time.
    pub fn done(&mut self, now_ns: u64) {
        self.due_ns.pop();
        if let Some(next) = self.due_ns.last_mut() {
            *next = (*next).max(now_ns + UPTIME_MIN_NS);
        }
    }
}

/// The splitmix64 generator: few lines, and every seed starts a good sequence.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_spread_over_the_middle_of_the_sale() {
        for kills in [1, 2, 7, 1000] {
            let planned_ns = 5_000_000_000;
            let schedule = KillSchedule::new(kills, planned_ns);
            assert_eq!(schedule.due_ns.len(), usize::try_from(kills).unwrap());
            assert!(schedule.due_ns.iter().rev().is_sorted());
            assert!(schedule.due_ns.iter().all(|due| (250_000_000..=4_750_000_000).contains(due)));
            assert_eq!(schedule.due_ns, KillSchedule::new(kills, planned_ns).due_ns);
        }
        assert_eq!(KillSchedule::new(0, 1).next_in_ns(0), None);
        // Hundreds of years overflow nothing.
        assert_eq!(KillSchedule::new(1000, u64::MAX).left(), 1000);
    }

    #[test]
    fn a_restarted_server_is_left_some_time() {
        let mut schedule = KillSchedule { due_ns: vec![300, 200] };
        assert_eq!(schedule.next_in_ns(150), Some(50));
        schedule.done(250);
        assert_eq!(schedule.next_in_ns(250), Some(UPTIME_MIN_NS));
        schedule.done(UPTIME_MIN_NS);
        assert_eq!(schedule.left(), 0);
    }
}
