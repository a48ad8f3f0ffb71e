//! Queues that are delivered out of order: the real server with real databases. What leaves first is read off the
//! order of the rows, and times off the database's own clock, as lower bounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]
#![allow(clippy::disallowed_methods, reason = "a test compares the database's clock with its own")]

mod postgres_server;
mod server;

#[path = "ordering/changes.rs"]
mod changes;
#[path = "ordering/delays.rs"]
mod delays;
#[path = "ordering/expiry.rs"]
mod expiry;
#[path = "ordering/kills.rs"]
mod kills;
#[path = "ordering/lanes.rs"]
mod lanes;
#[path = "ordering/shares.rs"]
mod shares;
#[path = "ordering/stage.rs"]
mod stage;

use stage::Kind;

macro_rules! on_each_database {
    ($($module:ident::$case:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $case() { super::$module::$case(super::Kind::Sqlite); })*
        }
        mod on_postgres {
            $(#[test] fn $case() { super::$module::$case(super::Kind::Postgres); })*
        }
    };
}

on_each_database!(
    shares::two_thousand_records_of_one_tenant_do_not_delay_ten_of_another,
    shares::weights_are_shares,
    shares::priorities_leave_first_and_the_order_of_keys_is_kept,
    shares::a_throttled_key_is_spaced_and_others_go_on,
    delays::nothing_leaves_before_it_is_due,
    delays::what_is_due_later_outlives_a_kill_and_is_delivered_once,
    delays::tickets_say_what_is_delivered_and_count_what_is_not,
    changes::poison_between_others_is_set_aside_and_redriven,
    changes::a_queue_that_is_strict_again_delivers_the_rest_once_and_in_order,
    changes::a_table_without_the_column_and_its_queue_go_on_out_of_order,
    changes::a_full_window_holds_up_what_is_behind_it_and_loses_nothing,
    expiry::what_nobody_wants_any_more_is_dropped_and_costs_nothing_of_the_rate,
    kills::kills_under_load_lose_and_double_nothing_and_keys_keep_their_order,
    kills::kills_with_several_lanes_lose_and_double_nothing_and_keys_keep_their_order,
    kills::kills_while_lanes_come_and_go_lose_and_double_nothing_and_keys_keep_their_order,
);

#[test]
fn a_row_that_another_session_has_locked_stops_its_key_alone() {
    lanes::a_row_that_another_session_has_locked_stops_its_key_alone();
}

#[test]
fn lanes_are_added_beside_one_that_waits_for_a_locked_row() {
    lanes::lanes_are_added_beside_one_that_waits_for_a_locked_row();
}

#[test]
fn lanes_that_cannot_be_added_hold_up_neither_records_nor_a_stop() {
    lanes::lanes_that_cannot_be_added_hold_up_neither_records_nor_a_stop();
}

#[test]
fn lanes_that_come_while_others_end_keep_their_numbers() {
    lanes::lanes_that_come_while_others_end_keep_their_numbers();
}
