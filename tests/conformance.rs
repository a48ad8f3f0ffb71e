//! What every sink of the registry has to do, end to end: the real program and a real server. A sink is a row: a file with a
//! [`Station`](station::Station) and a line in `stations!`, which says what can be asked of it besides.

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
#![allow(clippy::disallowed_methods, reason = "a kill at a random instant waits for no bell")]

mod mysql_server;
mod nats_server;
mod nginx_server;
mod postgres_server;
mod rabbitmq_server;
mod redis_server;
mod server;
mod upstream_server;

#[path = "conformance/arrivals.rs"]
mod arrivals;
#[path = "conformance/kills.rs"]
mod kills;
#[path = "conformance/moments.rs"]
mod moments;
#[path = "conformance/network.rs"]
mod network;
#[path = "conformance/proxy.rs"]
mod proxy;
#[path = "conformance/stage.rs"]
mod stage;
#[path = "conformance/station.rs"]
mod station;

/// The cases of a group, for one station.
macro_rules! group {
    (every, $station:ty) => {
        cases!($station, arrivals::bodies_arrive_byte_for_byte_with_their_tickets);
        cases!($station, arrivals::everything_arrives_over_several_lanes);
        cases!($station, kills::kills_of_forebay_lose_and_double_nothing);
        cases!($station, kills::kills_of_forebay_with_several_lanes_lose_and_double_nothing);
        cases!($station, kills::a_server_that_is_killed_and_comes_back_gets_everything_once);
        cases!($station, kills::a_server_that_comes_after_forebay_gets_everything_once);
    };
    (served, $station:ty) => {
        cases!($station, network::connections_that_are_cut_are_made_anew);
        cases!($station, network::a_slow_server_gets_everything_once);
        cases!($station, network::a_password_is_in_no_log_no_answer_and_no_check);
    };
    (refusing, $station:ty) => {
        cases!($station, arrivals::what_is_refused_is_set_aside_and_its_neighbours_arrive);
    };
    (typed, $station:ty) => {
        cases!($station, arrivals::values_that_fit_no_column_are_refused_in_words);
        cases!($station, arrivals::bytes_that_are_no_text_are_refused_in_words);
    };
    (transactional, $station:ty) => {
        cases!($station, moments::a_zombie_of_before_its_transaction_commits_nothing);
        cases!($station, moments::a_zombie_of_behind_its_fence_commits_nothing);
        cases!($station, moments::a_zombie_of_before_its_commit_commits_nothing);
        cases!($station, moments::a_zombie_without_its_connection_leaves_the_other_one_alone);
        cases!($station, moments::a_zombie_that_is_to_have_more_lanes_takes_none);
        cases!($station, moments::a_commit_that_never_got_there_is_repeated);
        cases!($station, moments::a_commit_whose_answer_was_lost_is_not_repeated);
        cases!($station, moments::a_batch_that_was_cut_behind_its_fence_is_repeated);
        cases!($station, moments::a_kill_behind_a_commit_whose_answer_was_lost_doubles_nothing);
    };
}

macro_rules! cases {
    ($station:ty, $module:ident::$case:ident) => {
        #[test]
        fn $case() {
            crate::$module::$case::<$station>();
        }
    };
}

/// The rows. A line makes the module `conformance/NAME.rs` known and runs the groups over its station.
macro_rules! stations {
    ($($module:ident :: $station:ident in $path:literal: $($group:ident)*;)*) => {
        $(
            #[path = $path]
            mod $module;
        )*
        mod on {
            $(
                mod $module {
                    $(group!($group, crate::$module::$station);)*
                }
            )*
        }
        /// Each row's word in `type`, and what is asked of it.
        const ROWS: &[(&str, &[&str])] =
            &[$((<$module::$station as station::Station>::KIND, &[$(stringify!($group)),*])),*];
    };
}

stations! {
    sqlite::Sqlite in "conformance/sqlite.rs": every refusing typed;
    postgres::Postgres in "conformance/postgres.rs": every served refusing typed transactional;
    mysql::Mysql in "conformance/mysql.rs": every served refusing typed transactional;
    file::File in "conformance/file.rs": every;
    redis::Redis in "conformance/redis.rs": every served refusing transactional;
    http::Http in "conformance/http.rs": every served refusing;
    nats::Nats in "conformance/nats.rs": every served;
    rabbitmq::RabbitMq in "conformance/rabbitmq.rs": every served;
}

#[test]
fn every_sink_of_the_registry_has_a_row() {
    let rows: Vec<_> = ROWS.iter().map(|(kind, _)| *kind).collect();
    let kinds: Vec<_> = forebay::sink::KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(rows, kinds, "the rows of this suite and the registry, in its order");
    for kind in forebay::sink::KINDS {
        let (_, groups) = ROWS.iter().find(|(name, _)| *name == kind.name).unwrap();
        let takes_rows = matches!(kind.takes, forebay::config::Takes::Rows { .. });
        let is_served = kind.url.prefixes.iter().any(|prefix| prefix.ends_with("://"));
        for (is_wanted, group) in [(true, "every"), (takes_rows, "typed"), (is_served, "served")] {
            assert_eq!(groups.contains(&group), is_wanted, "{} and the group {group}", kind.name);
        }
    }
}

#[test]
fn every_sink_has_a_page_that_names_each_of_its_options() {
    let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sinks");
    let read = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let overview = read("README.md");
    for kind in forebay::sink::KINDS {
        let name = format!("{}.md", kind.name);
        assert!(overview.contains(&format!("[{name}]({name})")), "README.md has no link to {name}");
        let page = read(&name);
        for key in kind.options.iter().map(|rule| rule.key).chain(["url"]) {
            assert!(page.contains(&format!("| `{key}` |")), "{name} has no row for the option `{key}`");
        }
    }
}
