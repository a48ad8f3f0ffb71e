//! What `forebay check` finds, and that it changes nothing.

use crate::Stage;

#[test]
fn check_says_everything_at_once_and_changes_nothing() {
    let stage =
        Stage::start().commands(&["XADD orders *", "NOSUCH {/id}", "SET {/id} x", "PUBLISH news", "HSET a b {/id}"]);
    let problems = stage.problems();
    let wanted =
        ["Command 1 (XADD) does not run", "Command 2 (NOSUCH) does not run", "Command 4 (PUBLISH) does not run"];
    assert_eq!(problems.len(), wanted.len(), "{problems:?}");
    for (problem, wanted) in problems.iter().zip(wanted) {
        assert!(problem.starts_with(wanted), "{problem}");
    }
    let stage = stage.commands(&["SET a {/id}", "MULTI"]);
    let problems = stage.problems();
    assert!(problems.len() == 1 && problems[0].contains("command 2 is MULTI"), "{problems:?}");
    assert!(stage.runtime.block_on(stage.sink().take_over()).is_err());
    assert_eq!(stage.server.ask::<u64>(&["DBSIZE"]), 0);
}

#[test]
fn a_server_that_may_throw_away_what_was_delivered_is_named() {
    let stage = Stage::start();
    let set = |name: &str, value: &str| stage.server.ask::<()>(&["CONFIG", "SET", name, value]);
    set("maxmemory-policy", "allkeys-lru");
    assert_eq!(stage.problems(), Vec::<String>::new(), "without a limit nothing is thrown away");
    set("maxmemory", "100mb");
    let problems = stage.problems();
    assert!(problems.len() == 1 && problems[0].contains("maxmemory-policy allkeys-lru"), "{problems:?}");
    set("maxmemory-policy", "noeviction");
    assert_eq!(stage.problems(), Vec::<String>::new());
}

#[test]
fn a_user_who_may_not_run_scripts_or_keep_a_position_is_named() {
    let mut stage = Stage::start();
    let _: () =
        stage.server.ask(&["ACL", "SETUSER", "joe", "on", ">pw", "~*", "+@all", "-eval", "-script|load", "-hset"]);
    stage.url = format!("redis://joe:pw@127.0.0.1:{}", stage.server.port());
    let problems = stage.problems();
    let wanted = [
        "The user may not run EVAL,",
        "The user may not run SCRIPT LOAD,",
        "The position in forebay:position:q/1 cannot",
    ];
    assert_eq!(problems.len(), wanted.len(), "{problems:?}");
    for (problem, wanted) in problems.iter().zip(wanted) {
        assert!(problem.starts_with(wanted), "{problem}");
    }
}
