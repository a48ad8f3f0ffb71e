//! Records arrive as they were sent; those that the destination refuses do not, and hold nobody up.

use crate::stage::{NDJSON, Stage, bodies, letters, until_decided, until_empty};
use crate::station::{Arrival, Refusing, Server, Station, Typed};

const MIB: usize = 1 << 20;

pub fn bodies_arrive_byte_for_byte_with_their_tickets<S: Station>() {
    let stage = Stage::<S>::new(Server::Shared);
    let server = stage.site.start();
    let mut client = server.client();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let bodies: [&[u8]; 11] = [
        b"{\"order_id\":\"A-1\"}",
        b"{}",
        b"\0",
        b"a\0b\0",
        b"\xff\xfe not UTF-8 \xc3",
        &all_bytes,
        "\u{fc}n\u{ef}\u{308} \u{1f980} \u{202e}\u{feff}".as_bytes(),
        b"line\r\nline\n\tx\\N\\.",
        b"'; DROP TABLE arrivals; --",
        &vec![b'x'; MIB],
        &all_bytes.repeat(MIB / 256),
    ];
    let mut wanted: Vec<_> =
        bodies.iter().map(|body| Arrival { ticket: client.accept("orders", body), body: body.to_vec() }).collect();
    until_empty(&server);
    let mut arrived = stage.station.arrived();
    wanted.sort();
    arrived.sort();
    assert!(arrived == wanted, "{arrived:.1000?}");
    server.stop();
}

pub fn what_is_refused_is_set_aside_and_its_neighbours_arrive<S: Refusing>() {
    let stage = Stage::<S>::new(Server::Shared);
    let server = stage.site.start();
    let mut client = server.client();
    let words = stage.station.refuse("{\"n\":\"poison\"}");
    let wanted: Vec<_> = bodies(0..3).collect();
    let lines = wanted.iter().enumerate().map(|(place, body)| {
        let poison = if place % 25 == 7 { "{\"n\":\"poison\"}\n" } else { "" };
        format!("{poison}{body}\n")
    });
    assert_eq!(client.post("orders", &[NDJSON], lines.collect::<String>()).status, 202);
    until_decided(&server);
    stage.until_arrived(wanted, 0);
    let letters = letters(&stage.site);
    assert_eq!(letters.len(), 3, "{letters:?}");
    for letter in &letters {
        let reason = letter["reason"].as_str().unwrap();
        assert!(letter["body"] == "{\"n\":\"poison\"}" && reason.contains(words), "{letter}");
        let status = client.ticket(letter["ticket"].as_str().unwrap());
        assert_eq!((&status["state"], status["reason"].as_str()), (&"dead".into(), Some(reason)), "{status}");
    }
    server.stop();
}

/// Posts bodies, and asserts that those with a word become dead letters whose reason has it.
fn assert_refused<S: Station>(stage: &Stage<S>, sink: &str, bodies: &[(&[u8], Option<&str>)]) {
    stage.configure("", sink);
    let server = stage.site.start();
    let mut client = server.client();
    let tickets: Vec<_> = bodies.iter().map(|(body, _)| client.accept("orders", body)).collect();
    until_decided(&server);
    for ((body, word), ticket) in bodies.iter().zip(&tickets) {
        let status = client.ticket(ticket);
        let (found, reason) = (status["state"].as_str().unwrap(), status["reason"].as_str().unwrap_or_default());
        let body = String::from_utf8_lossy(body);
        match word {
            None => assert_eq!(found, "delivered", "{body}: {status}"),
            Some(word) => assert!(found == "dead" && reason.to_lowercase().contains(word), "{body}: {status}"),
        }
    }
    server.stop();
}

pub fn values_that_fit_no_column_are_refused_in_words<S: Typed>() {
    let stage = Stage::<S>::new(Server::Shared);
    let bodies: [(&[u8], Option<&str>); 9] = [
        (br#"{"id":1,"small":-7,"note":"\u00fc \ud83e\udd80"}"#, None),
        (br#"{"id":9223372036854775807,"small":32767,"note":""}"#, None),
        // What is not there is NULL.
        (br#"{"id":3}"#, None),
        (br#"{"small":1,"note":"no id"}"#, Some("id")),
        (br#"{"id":null}"#, Some("id")),
        (br#"{"id":6,"small":70000}"#, Some("small")),
        (br#"{"id":99999999999999999999}"#, Some("id")),
        (br#"{"id":"x"}"#, Some("id")),
        (b"not JSON", Some("json")),
    ];
    assert_refused(&stage, &stage.station.sink_typed(), &bodies);
    let wanted = [["1", "-7", "\u{fc} \u{1f980}"], ["3", "NULL", "NULL"], ["9223372036854775807", "32767", ""]];
    assert_eq!(stage.station.rows_typed(), wanted);
}

pub fn bytes_that_are_no_text_are_refused_in_words<S: Typed>() {
    let stage = Stage::<S>::new(Server::Shared);
    let bodies: [(&[u8], Option<&str>); 3] = [("t\u{eb}xt".as_bytes(), None), (b"a\xff", Some("raw")), (b"b", None)];
    assert_refused(&stage, &stage.station.sink_text(), &bodies);
    assert_eq!(stage.station.rows_text(), [["b"], ["t\u{eb}xt"]]);
}

/// Many records at once, in whichever order they may come.
pub fn everything_arrives_over_several_lanes<S: Station>() {
    let stage = Stage::<S>::new(Server::Shared);
    stage.configure("order = \"none\"\nconcurrency = 3\n", &stage.station.sink());
    let server = stage.site.start();
    let lines: String = bodies(0..50).map(|body| body + "\n").collect();
    assert_eq!(server.client().post("orders", &[NDJSON], lines).status, 202);
    stage.until_arrived(bodies(0..50), 0);
    until_empty(&server);
    server.stop();
    stage.until_arrived(bodies(0..50), 0);
}
