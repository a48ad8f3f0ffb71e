//! Ceilings by the time of day.
//!
//! A schedule decides from the wall clock alone, each time it is asked, so a clock that jumps or a
//! change to summer time moves nothing that was remembered.

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

use crate::rate::Rate;

/// Ceilings for parts of the day, in a time zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Where the times of day are meant.
    pub zone: Zone,
    /// The first one that holds a moment has its rate.
    pub entries: Vec<Entry>,
}

/// A time zone as the configuration names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its name: of the IANA database, or `local` for that of the machine.
    pub name: String,
    /// Its rules.
    pub rules: TimeZone,
}

/// A ceiling for a part of every day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it begins.
    pub from: Time,
    /// When it has ended; if that is not after `from`, on the day after.
    pub to: Time,
    /// The ceiling.
    pub rate: Rate,
}

/// The name of the machine's own time zone.
pub const LOCAL: &str = "local";

impl Zone {
    /// The zone with this name; `None` if there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let rules = if name == LOCAL { TimeZone::system() } else { TimeZone::get(name).ok()? };
        Some(Self { name: name.to_owned(), rules })
    }
}

impl Default for Schedule {
    /// No ceilings, in the machine's time zone.
    fn default() -> Self {
        let zone = Zone { name: LOCAL.to_owned(), rules: TimeZone::system() };
        Self { zone, entries: Vec::new() }
    }
}

impl Schedule {
    /// The ceiling at a moment, in microseconds since the Unix epoch; `None` if no entry has it.
    #[must_use]
    pub fn rate_at(&self, unix_us: u64) -> Option<Rate> {
        if self.entries.is_empty() {
            return None;
        }
        let moment = Timestamp::from_microsecond(i64::try_from(unix_us).ok()?).ok()?;
        let time = self.zone.rules.to_datetime(moment).time();
        self.entries.iter().find(|entry| entry.holds(time)).map(|entry| entry.rate)
    }
}

impl Entry {
    fn holds(&self, time: Time) -> bool {
        if self.from < self.to { self.from <= time && time < self.to } else { self.from <= time || time < self.to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn schedule(zone: &str) -> Schedule {
        let entry = |from: &str, to: &str, rate: &str| Entry {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            rate: rate.parse().unwrap(),
        };
        let entries = vec![entry("22:00", "06:00", "20000/s"), entry("20:00", "23:00", "500/s")];
        Schedule { zone: Zone::named(zone).unwrap(), entries }
    }

    fn at(zone: &str, hour: i8, minute: i8) -> Option<String> {
        let schedule = schedule(zone);
        let moment = schedule.zone.rules.to_timestamp(date(2026, 11, 26).at(hour, minute, 0, 0)).unwrap();
        let unix_us = u64::try_from(moment.as_microsecond()).unwrap();
        schedule.rate_at(unix_us).map(|rate| rate.to_string())
    }

    #[test]
    fn the_first_entry_that_holds_the_time_counts() {
        for zone in ["UTC", "Europe/Berlin", "America/New_York"] {
            assert_eq!(at(zone, 19, 59), None);
            assert_eq!(at(zone, 20, 0).as_deref(), Some("500/s"));
            assert_eq!(at(zone, 21, 59).as_deref(), Some("500/s"));
            assert_eq!(at(zone, 22, 0).as_deref(), Some("20000/s"));
            assert_eq!(at(zone, 5, 59).as_deref(), Some("20000/s"));
            assert_eq!(at(zone, 6, 0), None);
        }
    }

    #[test]
    fn the_day_of_the_change_to_summer_time_has_its_hours() {
        let schedule = schedule("Europe/Berlin");
        // 2026-03-29: 02:00 becomes 03:00, which is 01:00 UTC.
        let moment = |hour, minute| {
            let moment = TimeZone::UTC.to_timestamp(date(2026, 3, 29).at(hour, minute, 0, 0)).unwrap();
            u64::try_from(moment.as_microsecond()).unwrap()
        };
        assert!(schedule.rate_at(moment(3, 59)).is_some(), "05:59 in summer time");
        assert!(schedule.rate_at(moment(4, 0)).is_none(), "06:00 in summer time");
    }

    #[test]
    fn zones_that_do_not_exist_are_refused() {
        assert!(Zone::named("Europe/Berlin").is_some() && Zone::named(LOCAL).is_some());
        assert!(Zone::named("Europe/Atlantis").is_none() && Zone::named("").is_none());
    }
}
