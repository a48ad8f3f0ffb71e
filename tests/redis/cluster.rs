//! Redis Cluster: one slot for a queue, and a server that has moved it.

use crate::redis_server::{RedisServer, ask};
use crate::server::eventually;
use crate::{Stage, at, commit};

/// The slots of a cluster.
const SLOTS: u16 = 16_384;

fn cluster_server() -> RedisServer {
    RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"])
}

fn until_ok(server: &RedisServer, nodes: usize) {
    let mut connection = server.connection();
    eventually("a cluster that works", || {
        let said: String = ask(&mut connection, &["CLUSTER", "INFO"]);
        let known = format!("cluster_known_nodes:{nodes}\r");
        (said.contains("cluster_state:ok") && said.contains(&known)).then_some(())
    });
}

#[test]
fn a_cluster_needs_a_hash_tag_and_check_says_where() {
    let server = cluster_server();
    let _: () = server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", &(SLOTS - 1).to_string()]);
    until_ok(&server, 1);
    let mut stage =
        Stage::with(server).commands(&["XADD {{q}}:orders * id {/id}", "SET order:{/id} x", "PUBLISH news {/id}"]);
    let problems = stage.problems();
    assert!(problems.len() == 1 && problems[0].contains("hash_tag = "), "{problems:?}");
    stage.set_text("hash_tag", "q");
    let problems = stage.problems();
    assert!(problems.len() == 1 && problems[0].contains("Command 2 (SET) has a key in another slot"), "{problems:?}");
    stage.set_text("hash_tag", "{q}");
    assert!(stage.problems()[0].contains("holds a brace"));
    stage.set_text("hash_tag", "q");
    stage.set_commands(&["XADD {{q}}:orders * id {/id}", "SET order:{{q}}:{/id} x", "PUBLISH news {/id}"]);
    assert_eq!(stage.problems(), Vec::<String>::new());
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1}"#]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(1));
    });
    assert_eq!(stage.server.ask::<String>(&["HGET", "forebay:{q}:position:q/1", "position"]), "1");
    // The default stream's name is a tag too.
    let mut plain = Stage::with(cluster_server());
    let _: () = plain.server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", &(SLOTS - 1).to_string()]);
    until_ok(&plain.server, 1);
    plain.set_text("hash_tag", "forebay:q");
    assert_eq!(plain.problems(), Vec::<String>::new());
    let mut sink = plain.sink();
    plain.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
    });
}

#[test]
fn the_node_that_has_the_slot_is_found() {
    let (one, two) = (cluster_server(), cluster_server());
    let half = SLOTS / 2;
    let _: () = one.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", &(half - 1).to_string()]);
    let _: () = two.ask(&["CLUSTER", "ADDSLOTSRANGE", &half.to_string(), &(SLOTS - 1).to_string()]);
    let _: () = one.ask(&["CLUSTER", "MEET", "127.0.0.1", &two.port().to_string(), &two.bus_port().to_string()]);
    until_ok(&one, 2);
    until_ok(&two, 2);
    let slot: u16 = one.ask(&["CLUSTER", "KEYSLOT", "{q}"]);
    // The URL names the node that does not have it.
    let (named, has) = if slot < half { (two, one) } else { (one, two) };
    let mut stage = Stage::with(named).commands(&["RPUSH {{q}}:list {/id}"]);
    stage.set_text("hash_tag", "q");
    assert_eq!(stage.problems(), Vec::<String>::new());
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1}"#]).await, Ok(()));
        assert_eq!(sink.lanes().await, Ok(vec![]));
    });
    assert_eq!(has.ask::<Vec<u64>>(&["LRANGE", "{q}:list", "0", "-1"]), [1]);
}
