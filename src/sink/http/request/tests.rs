use super::*;
use crate::record::{AttributeValues, Attributes, Headers, NO_KEY, Record};

fn configured(url: &str, options: &str) -> Result<RequestPlan, Vec<String>> {
    let text = format!(
        "[[listeners]]\naddress = \"0.0.0.0:80\"\n[queues.orders.sink]\ntype = \"http\"\nurl = \"{url}\"\n{options}"
    );
    let config = config::parse(&text, "forebay.toml", &|_| None, &crate::sink::KINDS).unwrap();
    RequestPlan::new(&config.queues["orders"].sink, "orders")
}

fn plan(url: &str, options: &str) -> RequestPlan {
    configured(url, options).unwrap()
}

fn record<'a>(attributes: Attributes<'a>, body: &'a [u8]) -> Record<'a> {
    Record { idempotency_hash: NO_KEY, group_count: 1, attributes, ..Record::lost(0, body) }
}

fn made(plan: &RequestPlan, record: Record<'_>) -> Result<Request<Full<Bytes>>, String> {
    plan.request(&Delivery { sequence: 7, record, ticket: "orders-7-0" })
}

/// The address of a record with this body, and of a request for this target if it has one.
fn uri(plan: &RequestPlan, target: &str, body: &str) -> Result<String, String> {
    let mut buffer = Vec::new();
    let values = AttributeValues { target: target.as_bytes(), ..AttributeValues::default() };
    let attributes = values.encode(&mut buffer).unwrap();
    made(plan, record(attributes, body.as_bytes())).map(|request| request.uri().to_string())
}

fn fields(request: &Request<Full<Bytes>>) -> Vec<String> {
    let mut lines: Vec<_> =
        request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn a_plain_record_is_posted_under_its_ticket() {
    let plan = plan("http://shop.example", "");
    let request = made(&plan, Record { content_type: b"text/plain", ..record(Attributes::NONE, b"x") }).unwrap();
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "http://shop.example/"));
    let agent = concat!("user-agent: forebay/", env!("CARGO_PKG_VERSION"));
    assert_eq!(fields(&request), ["content-type: text/plain", "idempotency-key: orders-7-0", agent]);
}

#[test]
fn a_request_goes_on_as_it_came() {
    let mut list = Vec::new();
    for (name, value) in
        [("host", "front"), ("accept", "a"), ("accept", "b"), ("authorization", "s"), ("user-agent", "c")]
    {
        Headers::append(&mut list, name.as_bytes(), value.as_bytes()).unwrap();
    }
    let headers = Headers::read(&list).unwrap();
    let values = AttributeValues { method: b"DELETE", target: b"/a%2Fb?c=d", headers, ..AttributeValues::default() };
    let mut buffer = Vec::new();
    let record = Record { idempotency_key: b"mine", ..record(values.encode(&mut buffer).unwrap(), b"") };
    let plan =
        plan("https://shop.example:8443/api/?v=1", "headers = { Authorization = \"\", X-Host = \"{$header.Host}\" }");
    let request = made(&plan, record).unwrap();
    assert_eq!(request.method(), Method::DELETE);
    assert_eq!(request.uri(), "https://shop.example:8443/api/a%2Fb?v=1&c=d");
    assert_eq!(fields(&request), ["accept: a", "accept: b", "idempotency-key: mine", "user-agent: c", "x-host: front"]);
}

#[test]
fn records_of_one_request_have_keys_of_their_own() {
    let plan = plan("http://shop.example", "");
    for group_count in [0, 2] {
        let request = made(&plan, Record { idempotency_key: b"mine", group_count, ..record(Attributes::NONE, b"x") });
        assert_eq!(request.unwrap().headers()[IDEMPOTENCY_KEY], "orders-7-0");
    }
}

#[test]
fn only_what_came_as_a_whole_takes_its_headers_along() {
    let mut list = Vec::new();
    Headers::append(&mut list, b"x-tenant", b"acme").unwrap();
    let values = AttributeValues { headers: Headers::read(&list).unwrap(), ..AttributeValues::default() };
    let mut buffer = Vec::new();
    let attributes = values.encode(&mut buffer).unwrap();
    let request = made(&plan("http://a", ""), record(attributes, b"x")).unwrap();
    assert!(!request.headers().contains_key("x-tenant"));
    let request =
        made(&plan("http://a", "headers = { T = \"t:{$header.X-Tenant}\" }"), record(attributes, b"x")).unwrap();
    assert_eq!(request.headers()["t"], "t:acme");
}

#[test]
fn a_path_is_filled_and_cannot_be_left() {
    let by_id = plan("http://a/api", "path = \"/orders/{/id}?of={/of}\"\nmethod = \"PUT\"");
    assert_eq!(
        uri(&by_id, "", r#"{"id":"x/../y ?#é","of":1}"#).unwrap(),
        "http://a/api/orders/x%2F..%2Fy%20%3F%23%C3%A9?of=1"
    );
    for body in [r#"{"id":"..","of":1}"#, r#"{"id":".","of":1}"#] {
        assert!(uri(&by_id, "", body).unwrap_err().contains("segment of dots"), "{body}");
    }
    assert!(uri(&by_id, "", r#"{"of":1}"#).unwrap_err().contains("lacks a value of the path"));
    assert!(uri(&by_id, "", "[").unwrap_err().contains("the body is not JSON"));
    let whole = plan("http://a/api", "");
    assert_eq!(uri(&whole, "", "x").unwrap(), "http://a/api");
    assert_eq!(uri(&whole, "/b?c", "x").unwrap(), "http://a/api/b?c");
    assert_eq!(uri(&whole, "/?c", "x").unwrap(), "http://a/api/?c");
    for target in ["/../admin", "/b/%2e%2E/admin", "/.", "/b/.."] {
        assert!(uri(&whole, target, "x").unwrap_err().contains("segment of dots"), "{target}");
    }
    assert_eq!(uri(&whole, "/b?c=/../d", "x").unwrap(), "http://a/api/b?c=/../d");
    assert_eq!(uri(&plan("http://a/api/?key=s", ""), "", "x").unwrap(), "http://a/api/?key=s");
    assert_eq!(uri(&plan("http://a/api?key=s", "path = \"in\""), "", "x").unwrap(), "http://a/api/in?key=s");
    assert_eq!(uri(&plan("http://a/api", "path = \"/v2{$path}\""), "/b", "x").unwrap(), "http://a/api/v2/b");
}

#[test]
fn what_no_request_can_have_is_refused() {
    let method = plan("http://a", "method = \"{/m}\"");
    for (body, part) in [(r#"{"m":"a b"}"#, "\"a b\" is no method"), (r#"{"m":"CONNECT"}"#, "is no method")] {
        assert!(uri(&method, "", body).unwrap_err().contains(part), "{body}");
    }
    assert_eq!(made(&method, record(Attributes::NONE, b"{}")).unwrap().method(), Method::POST);
    let header = plan("http://a", "headers = { X-M = \"{/m}\" }");
    assert!(uri(&header, "", r#"{"m":"a\nb"}"#).unwrap_err().contains("the value of x-m is none"));
}

#[test]
fn what_is_wrong_for_every_record_is_wrong_at_once() {
    for (url, options, part) in [
        ("http://", "", "`url`"),
        ("http://user:secret@a/", "", "`url` holds credentials"),
        ("http://a", "method = \"A B\"", "`method` is none"),
        ("http://a", "method = \"CONNECT\"", "`method` is none"),
        ("http://a", "path = \"/a b{$key}\"", "`path` has characters"),
        ("http://a", "path = \"/a#b{$key}\"", "`path` has characters"),
        ("http://a", "path = \"/../b\"", "`path`: the path has a segment of dots"),
        ("http://a", "headers = { Transfer-Encoding = \"chunked\" }", "`headers.transfer-encoding` says how"),
        ("http://a", "headers = { \"a b\" = \"x\" }", "`headers` has \"a b\""),
    ] {
        let faults = configured(url, options).unwrap_err();
        assert!(faults.len() == 1 && faults[0].contains(part), "{part}: {faults:?}");
        assert!(!faults[0].contains("secret"));
    }
    let all = configured("http://a", "method = \"A B\"\npath = \"#{$key}\"\nheaders = { te = \"x\" }").unwrap_err();
    assert_eq!(all.len(), 3);
}
