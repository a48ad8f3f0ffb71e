//! What every sink has to do, over real databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

#[path = "sinks/ahead.rs"]
mod ahead;
#[path = "sinks/beyond.rs"]
mod beyond;
#[path = "sinks/checks.rs"]
mod checks;
#[path = "sinks/database.rs"]
mod database;
#[path = "sinks/fence.rs"]
mod fence;
#[path = "sinks/lanes.rs"]
mod lanes;
#[path = "sinks/mapped.rs"]
mod mapped;
#[path = "sinks/mysql_only.rs"]
mod mysql_only;
#[path = "sinks/mysql_packets.rs"]
mod mysql_packets;
mod mysql_server;
#[path = "sinks/mysql_tls.rs"]
mod mysql_tls;
#[path = "sinks/mysql_values.rs"]
mod mysql_values;
#[path = "sinks/poison.rs"]
mod poison;
#[path = "sinks/postgres_only.rs"]
mod postgres_only;
mod postgres_server;
#[path = "sinks/postgres_tls.rs"]
mod postgres_tls;
#[path = "sinks/rows.rs"]
mod rows;
#[path = "sinks/set_back.rs"]
mod set_back;
#[path = "sinks/sqlite_only.rs"]
mod sqlite_only;
#[path = "sinks/streamed.rs"]
mod streamed;

use database::{Database, Kind};
use forebay::config::{Conflict, Source, Target};
use forebay::progress::Progress;
use forebay::record::{Attributes, Record, Sequence};
use forebay::sink::encoded::{Ahead, Encoded, Encoding};
use forebay::sink::{Batch, Delivery, Sink, SinkError};

macro_rules! conformance {
    ($($module:ident::$case:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $case() { super::$module::$case(&super::Database::new(super::Kind::Sqlite)); })*
        }
        mod on_postgres {
            $(#[test] fn $case() { super::$module::$case(&super::Database::new(super::Kind::Postgres)); })*
        }
        mod on_mysql {
            $(#[test] fn $case() { super::$module::$case(&super::Database::new(super::Kind::Mysql)); })*
        }
    };
}

conformance!(
    rows::a_created_table_holds_what_was_sent,
    rows::columns_get_what_is_mapped_to_them,
    rows::a_statement_runs_for_each_record,
    rows::many_statements_and_large_bodies,
    rows::any_text_arrives_as_it_was,
    rows::hostile_names_and_values_stay_data,
    fence::a_replayed_batch_is_fenced,
    fence::an_older_owner_is_fenced,
    fence::parts_are_apart,
    fence::an_empty_batch_moves_the_position,
    fence::a_commit_needs_a_take_over,
    fence::a_dropped_commit_leaves_nothing_half_done,
    poison::a_poison_record_takes_its_batch_back,
    poison::a_poison_record_of_a_statement_takes_its_batch_back,
    poison::a_deferred_constraint_is_permanent,
    checks::a_missing_table_is_transient_and_check_says_how_to_mend_it,
    checks::check_says_everything_at_once_and_changes_nothing,
    checks::check_finds_nothing_wrong_with_what_works,
    beyond::position_and_what_is_beyond_it_move_with_the_rows,
    beyond::a_batch_that_leaves_the_position_is_fenced_too,
    beyond::what_is_beyond_may_take_all_its_bytes,
    beyond::what_is_beyond_must_make_sense,
    beyond::a_table_of_an_earlier_version_gets_the_column,
    lanes::lanes_are_those_that_have_a_row,
    lanes::nothing_is_committed_where_another_lane_was_set_back,
    lanes::a_queue_that_was_taken_over_is_not_taken_over_once_more,
    streamed::a_large_batch_goes_whole_or_not_at_all,
    streamed::a_large_batch_of_an_older_owner_is_fenced,
    mapped::types_convert_what_they_are_given,
    mapped::a_default_a_constant_and_what_is_required,
    mapped::each_element_of_an_array_is_a_row,
    mapped::an_array_has_bounds_and_may_be_required,
    mapped::a_statement_runs_for_each_element,
    mapped::what_rows_share_has_a_bound,
    mapped::an_update_changes_the_row_that_is_there_and_the_last_wins,
    mapped::rows_with_null_in_their_key_are_all_different,
    mapped::an_ignored_conflict_keeps_the_first,
    mapped::upserts_of_elements_are_fenced_as_any_batch,
    mapped::check_says_what_a_table_needs_for_a_mapping,
    mapped::check_knows_what_a_type_cannot_be,
);

/// A batch behind `after`, with these bodies.
pub async fn commit<B: AsRef<[u8]>>(sink: &mut dyn Sink, after: Sequence, bodies: &[B]) -> Result<(), SinkError> {
    commit_ahead(sink, after, bodies, None).await
}

/// The same, with what there is already of its first records.
pub async fn commit_ahead<B: AsRef<[u8]>>(
    sink: &mut dyn Sink,
    after: Sequence,
    bodies: &[B],
    ahead: Option<Ahead<'_>>,
) -> Result<(), SinkError> {
    let tickets = tickets(after, bodies.len());
    let deliveries: Vec<_> = deliveries(after, bodies, &tickets).collect();
    sink.commit(Batch {
        after,
        through: after + bodies.len() as u64,
        beyond: None,
        deliveries: &deliveries,
        witnesses: &[],
        ahead,
    })
    .await
}

/// A lot behind `after`, encoded as far as the sink's session can before it is committed.
#[must_use]
pub fn encode<B: AsRef<[u8]>>(sink: &dyn Sink, after: Sequence, bodies: &[B]) -> Encoded {
    let mut encoding = Encoding::new(sink.encoder().unwrap(), 0);
    let _ = deliveries(after, bodies, &tickets(after, bodies.len())).all(|delivery| encoding.add(&delivery));
    encoding.finish()
}

fn tickets(after: Sequence, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("q-{:x}-0", after + 1 + index as u64)).collect()
}

fn deliveries<'a, B: AsRef<[u8]>>(
    after: Sequence,
    bodies: &'a [B],
    tickets: &'a [String],
) -> impl Iterator<Item = Delivery<'a>> {
    (after + 1..).zip(bodies).zip(tickets).map(|((sequence, body), ticket)| Delivery {
        sequence,
        record: record(body.as_ref()),
        ticket,
    })
}

/// What a take-over says of a part that is delivered in order up to here.
pub fn at(position: Sequence) -> Result<Progress, SinkError> {
    Ok(Progress::up_to(position))
}

#[must_use]
pub fn record(body: &[u8]) -> Record<'_> {
    Record {
        received_at_us: 1_700_000_000_000_042,
        idempotency_hash: [0; 16],
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"application/json",
        attributes: Attributes::NONE,
        body,
    }
}

#[must_use]
pub fn created() -> Target {
    Target::Created { table: "forebay_q".to_owned() }
}

#[must_use]
pub fn table(table: &str, columns: &[(&str, &str)]) -> Target {
    let columns = columns.iter().map(|(name, source)| ((*name).to_owned(), source_of(source).into())).collect();
    Target::Table { table: table.to_owned(), columns, rows: None, conflict: Conflict::Error }
}

#[must_use]
pub fn statement(statement: &str, parameters: &[(&str, &str)]) -> Target {
    let parameters = parameters.iter().map(|(name, source)| ((*name).to_owned(), source_of(source).into())).collect();
    Target::Statement { statement: statement.to_owned(), parameters, rows: None }
}

#[must_use]
pub fn source_of(text: &str) -> Source {
    match text {
        "$body" => Source::Body,
        "$ticket" => Source::Ticket,
        "$sequence" => Source::Sequence,
        "$queue" => Source::Queue,
        "$received_at" => Source::ReceivedAt,
        "$key" => Source::Key,
        "$index" => Source::Index,
        element if element.starts_with('@') => Source::Element(element[1..].to_owned()),
        pointer => Source::Pointer(pointer.to_owned()),
    }
}

#[must_use]
pub fn some(row: &[&str]) -> Vec<Option<String>> {
    row.iter().map(|text| Some((*text).to_owned())).collect()
}

#[must_use]
pub fn is_permanent(outcome: &Result<(), SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Permanent { .. }))
}

#[must_use]
pub fn is_transient(outcome: &Result<(), SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Transient(_)))
}

#[must_use]
pub fn is_fenced(outcome: &Result<(), SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Fenced(_)))
}

/// The orders table that most cases write to.
pub const ORDERS: &str = "CREATE TABLE orders (id integer PRIMARY KEY, total numeric CHECK (total >= 0), note text)";

#[must_use]
pub fn orders() -> Target {
    table("orders", &[("id", "/id"), ("total", "/total"), ("note", "/note")])
}
