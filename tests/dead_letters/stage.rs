//! A site whose database refuses every order whose amount is below zero, and what is asked of its server.

use serde_json::{Value, json};

use crate::server::client::Response;
use crate::server::database::sqlite_execute;
use crate::server::{Client, Server, Site, eventually};

/// Refuses every order whose amount is below zero.
pub const STRICT: &str =
    "CREATE TABLE orders (id INTEGER NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0), ticket TEXT UNIQUE)";
pub const LENIENT: &str = "ALTER TABLE orders RENAME TO strict_orders; CREATE TABLE orders (id INTEGER NOT NULL, amount INTEGER, ticket TEXT UNIQUE); \
     INSERT INTO orders SELECT * FROM strict_orders; DROP TABLE strict_orders;";
pub const IDS: &str = "SELECT id FROM orders ORDER BY rowid";
pub const ORDERS: &str = "[queues.orders]\nrate = \"unlimited\"\nsink = { table = \"orders\", columns = { id = \"/id\", amount = \
                      \"/amount\", ticket = \"$ticket\" } }\n";

pub fn order(id: usize, amount: i64) -> String {
    json!({ "id": id, "amount": amount }).to_string()
}

pub fn strict_site() -> Site {
    let site = Site::new(ORDERS);
    sqlite_execute(&site.database("orders"), STRICT);
    site
}

pub fn request(server: &Server, method: &str, path: &str, body: &[u8]) -> Response {
    let path = format!("/v1/queues/orders/dead-letters{path}");
    let headers = [("forebay-actor", "ann@desk")];
    Client::connect(server.admin()).unwrap().request(method, &path, &headers, Some(body)).unwrap()
}

pub fn asked(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let response = request(server, method, path, body.as_bytes());
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

pub fn list(server: &Server) -> Value {
    asked(server, "GET", "?limit=1000", &Value::Null)
}

/// Sends orders, every one of which is refused; returns their tickets.
pub fn dead(server: &Server, ids: std::ops::Range<usize>) -> Vec<String> {
    let mut client = server.client();
    let tickets: Vec<_> = ids.map(|id| client.accept("orders", order(id, -1))).collect();
    eventually("the last dead letter", || (client.ticket(tickets.last()?)["state"] == "dead").then_some(()));
    tickets
}

pub fn until_redriven(server: &Server) -> Value {
    eventually("the end of the redrive", || Some(list(server)).filter(|list| list["redriving"] == 0))
}

pub fn queue_request(server: &Server, method: &str, path: &str, body: &str) {
    let path = format!("/v1/queues/orders{path}");
    let answer = Client::connect(server.admin()).unwrap().request(method, &path, &[], Some(body.as_bytes())).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}
