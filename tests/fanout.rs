//! Queues with several sinks: the real server with SQLite and PostgreSQL at once, each of them once as the main sink and once
//! as the other one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]
#![allow(clippy::disallowed_methods, reason = "a test has no bell to be woken by")]

mod postgres_server;
mod server;

#[path = "fanout/changes.rs"]
mod changes;
#[path = "fanout/control.rs"]
mod control;
#[path = "fanout/kept.rs"]
mod kept;
#[path = "fanout/kills.rs"]
mod kills;
#[path = "fanout/letters.rs"]
mod letters;
#[path = "fanout/stage.rs"]
mod stage;
#[path = "fanout/ways.rs"]
mod ways;

use stage::Kind;

macro_rules! with_each_database_as_the_main_sink {
    ($($module:ident::$case:ident),* $(,)?) => {
        mod main_is_sqlite {
            $(#[test] fn $case() { super::$module::$case(super::Kind::Sqlite); })*
        }
        mod main_is_postgres {
            $(#[test] fn $case() { super::$module::$case(super::Kind::Postgres); })*
        }
    };
}

with_each_database_as_the_main_sink!(
    ways::each_sink_gets_everything_at_a_rate_of_its_own,
    ways::a_main_sink_that_is_down_stops_no_other,
    ways::another_sink_that_is_down_stops_neither_the_main_one_nor_the_door,
    letters::poison_in_one_sink_is_a_dead_letter_of_that_one_alone,
    changes::a_sink_that_is_added_later_begins_with_the_oldest_record_that_there_is,
    kills::kills_under_load_lose_and_double_nothing_in_any_sink,
);
