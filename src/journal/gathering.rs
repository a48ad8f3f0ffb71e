//! How long the journal gathers before it commits. Pure: time and counts are arguments.
//!
//! A commit costs about as much processor time as a dozen requests, however many it carries, and
//! on a machine whose cores are busy that time is taken from the requests themselves. So under
//! load a commit waits until about three quarters of those who send have sent: they go to the disk while the
//! others are answered and send again. The wait is bounded, counted from the beginning of the commit before,
//! and the bound shrinks as long as cores are idle: then commits take processor time from nobody. It is not
//! made at all where little would come of it: a client that is alone, or few requests, are written at once.
//! `docs/decisions/0006-gathering-under-load.md` and `0008-gather-only-when-cores-are-busy.md` have the figures.

use std::time::Duration;

/// The longest time from the beginning of one commit to that of the next that is spent for gathering.
const INTERVAL_NS_MAX: u64 = 2_000_000;
/// It does not become shorter than this, which leaves two thirds of a core to others even for as long as the journal
/// takes to notice that they want it.
const INTERVAL_NS_MIN: u64 = 250_000;
/// With a smaller share of idle time the interval is doubled,
const IDLE_SHARE_MIN: f64 = 0.1;
/// and with a larger one halved.
const IDLE_SHARE_MAX: f64 = 0.25;
/// With fewer requests a second nothing is waited for.
const RATE_WORTH_A_PAUSE: u64 = 8000;
/// The part of the senders that a commit waits for, in quarters.
const SENDERS_QUARTERS_WANTED: u64 = 3;
/// Where requests are answered as soon as they are gathered, the rings are looked at when this part of the
/// senders has sent,
const SENDERS_PER_EARLY_LOOK: u64 = 2;
/// and at least this often.
const EARLY_LOOK_NS_MAX: u64 = 200_000;
/// A pause in which nothing at all has come ends the wait: whoever sends has sent.
const QUIET_NS: u64 = 500_000;
/// A shorter pause costs more than it brings.
const PAUSE_NS_MIN: u64 = 30_000;
/// Time over which the rate of requests is measured.
const RATE_WINDOW_NS: u64 = 4_000_000;

/// What the journal knows of the requests that come.
#[derive(Debug)]
pub struct Gathering {
    /// The longest time between the beginnings of two commits that is spent for gathering, as things are.
    interval_ns: u64,
    /// Whether requests are answered as soon as they are gathered.
    answers_early: bool,
    /// When the commit before began.
    began_ns: u64,
    /// Requests that were gathered since then.
    gathered: u64,
    /// What had been gathered at the last pause before this commit.
    gathered_before_pause: u64,
    window_began_ns: u64,
    window_requests: u64,
    /// Requests a second in the last whole window.
    rate: u64,
}

impl Gathering {
    /// Nothing gathered yet. `answers_early` says that there are requests that are answered as soon as they are
    /// gathered, which must not wait for a commit.
    #[must_use]
    pub fn new(answers_early: bool) -> Self {
        Self {
            interval_ns: INTERVAL_NS_MAX,
            answers_early,
            began_ns: 0,
            gathered: 0,
            gathered_before_pause: 0,
            window_began_ns: 0,
            window_requests: 0,
            rate: 0,
        }
    }

    /// The cores on which commits are made were idle for this share of the last moments, from 0 to 1.
    pub fn cores_were_idle(&mut self, share: f64) {
        if share < IDLE_SHARE_MIN {
            self.interval_ns = (self.interval_ns * 2).min(INTERVAL_NS_MAX);
        } else if share > IDLE_SHARE_MAX {
            self.interval_ns = (self.interval_ns / 2).max(INTERVAL_NS_MIN);
        }
    }

    /// Nobody can say any more how idle the cores are.
    pub fn cores_are_unknown(&mut self) {
        self.interval_ns = INTERVAL_NS_MAX;
    }

    /// A commit begins.
    pub fn begin_commit(&mut self, now_ns: u64) {
        self.began_ns = now_ns;
        self.gathered = 0;
        self.gathered_before_pause = 0;
    }

    /// So many requests were taken off the rings.
    pub fn gathered(&mut self, now_ns: u64, requests: u64) {
        self.gathered += requests;
        self.window_requests += requests;
        let window_ns = now_ns.saturating_sub(self.window_began_ns);
        if window_ns >= RATE_WINDOW_NS {
            self.rate = self.window_requests.saturating_mul(1_000_000_000) / window_ns;
            self.window_began_ns = now_ns;
            self.window_requests = 0;
        }
    }

    /// For how many requests to wait and how long, or `None` to commit now. `senders` are the connections that
    /// have sent requests lately.
    #[must_use]
    pub fn pause(&mut self, now_ns: u64, senders: u64) -> Option<Pause> {
        let wanted = (senders * SENDERS_QUARTERS_WANTED / 4).saturating_sub(self.gathered);
        let left_ns = self.interval_ns.saturating_sub(now_ns.saturating_sub(self.began_ns));
        if self.gathered == 0 || wanted == 0 || left_ns < PAUSE_NS_MIN || self.rate < RATE_WORTH_A_PAUSE {
            return None;
        }
        if self.gathered == self.gathered_before_pause {
            return None;
        }
        self.gathered_before_pause = self.gathered;
        let left_ns = left_ns.min(QUIET_NS);
        let (requests, longest_ns) = if self.answers_early {
            (wanted.min(senders / SENDERS_PER_EARLY_LOOK).max(1), left_ns.min(EARLY_LOOK_NS_MAX))
        } else {
            (wanted, left_ns)
        };
        Some(Pause { requests, longest: Duration::from_nanos(longest_ns) })
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Until so many more requests have come.
    pub requests: u64,
    /// And no longer than this.
    pub longest: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal that has seen `rate` requests a second and begins a commit at the returned time.
    fn after(rate: u64) -> (Gathering, u64) {
        let mut gathering = Gathering::new(false);
        let mut now_ns = 1_000_000_000;
        gathering.gathered(now_ns, 1);
        for _ in 0..10 {
            now_ns += 1_000_000;
            gathering.gathered(now_ns, rate / 1000);
        }
        gathering.begin_commit(now_ns);
        (gathering, now_ns)
    }

    #[test]
    fn a_client_that_is_alone_is_written_at_once() {
        let (mut gathering, now_ns) = after(3000);
        gathering.gathered(now_ns + 1000, 1);
        assert_eq!(gathering.pause(now_ns + 1000, 1), None);
    }

    #[test]
    fn few_requests_of_many_clients_are_written_at_once() {
        let (mut gathering, now_ns) = after(5000);
        gathering.gathered(now_ns + 400_000, 2);
        assert_eq!(gathering.pause(now_ns + 400_000, 1000), None);
    }

    #[test]
    fn under_load_most_of_the_senders_are_waited_for() {
        let (mut gathering, now_ns) = after(64_000);
        gathering.gathered(now_ns + 400_000, 20);
        let pause = gathering.pause(now_ns + 400_000, 64).unwrap();
        assert_eq!(pause, Pause { requests: 28, longest: Duration::from_nanos(QUIET_NS) });
        gathering.gathered(now_ns + 600_000, 28);
        assert_eq!(gathering.pause(now_ns + 600_000, 64), None);
    }

    #[test]
    fn who_is_answered_early_waits_a_little_at_most() {
        let (mut gathering, now_ns) = after(64_000);
        gathering.answers_early = true;
        gathering.gathered(now_ns + 400_000, 20);
        let pause = gathering.pause(now_ns + 400_000, 256).unwrap();
        assert_eq!(pause, Pause { requests: 128, longest: Duration::from_nanos(EARLY_LOOK_NS_MAX) });
        gathering.gathered(now_ns + 500_000, 1);
        assert_eq!(gathering.pause(now_ns + 500_000, 30).unwrap().requests, 1, "a commit needs no more");
    }

    #[test]
    fn a_pause_in_which_nothing_came_is_the_last() {
        let (mut gathering, now_ns) = after(64_000);
        gathering.gathered(now_ns + 400_000, 20);
        assert!(gathering.pause(now_ns + 400_000, 1000).is_some());
        assert_eq!(gathering.pause(now_ns + 900_000, 1000), None);
        gathering.begin_commit(now_ns + 900_000);
        gathering.gathered(now_ns + 1_300_000, 20);
        assert!(gathering.pause(now_ns + 1_300_000, 1000).is_some(), "the next commit pauses again");
    }

    #[test]
    fn the_more_cores_are_idle_the_shorter_the_wait() {
        let (mut gathering, now_ns) = after(64_000);
        let mut longest = |shares: &[f64]| {
            for share in shares {
                gathering.cores_were_idle(*share);
            }
            gathering.begin_commit(now_ns);
            gathering.gathered(now_ns, 20);
            gathering.pause(now_ns, 10_000).map(|pause| pause.longest.as_micros())
        };
        assert_eq!(longest(&[0.5, 0.5]), Some(500));
        assert_eq!(longest(&[0.2]), Some(500), "enough is idle, and no more");
        assert_eq!(longest(&[0.9; 9]), Some(250));
        assert_eq!(longest(&[0.0]), Some(500));
        assert_eq!(longest(&[0.0; 20]), Some(500), "never more than a step");
    }

    #[test]
    fn nothing_is_waited_for_without_a_request() {
        let (mut gathering, now_ns) = after(64_000);
        assert_eq!(gathering.pause(now_ns + 100_000, 64), None);
    }

    #[test]
    fn no_wait_goes_beyond_the_interval() {
        let (mut gathering, now_ns) = after(64_000);
        let late_ns = INTERVAL_NS_MAX - 400_000;
        gathering.gathered(now_ns + late_ns, 100);
        let pause = gathering.pause(now_ns + late_ns, 10_000).unwrap();
        assert_eq!(pause.longest, Duration::from_micros(400));
        assert_eq!(gathering.pause(now_ns + INTERVAL_NS_MAX, 10_000), None);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_is_no_reason_to_wait_for_ever() {
        let (mut gathering, now_ns) = after(64_000);
        gathering.gathered(now_ns, 1);
        let pause = gathering.pause(now_ns - 5_000_000, 10_000).unwrap();
        assert!(pause.longest <= Duration::from_nanos(INTERVAL_NS_MAX));
    }
}
