//! Writes requests: everything that no request changes is laid out once.

use super::{Payload, Plan};
use crate::order::{RunId, write_decimal, write_order};

/// The bytes of a run's requests, up to what differs from one to the next.
pub struct RequestTemplate {
    /// The request line with each path, in the order in which requests take them.
    lines: Vec<Vec<u8>>,
    headers: Vec<u8>,
    run: RunId,
    idempotency_keys: bool,
    payload: Payload,
}

impl RequestTemplate {
    pub fn new(plan: &Plan) -> Self {
        let line = |path: &str| format!("{} {path} HTTP/1.1\r\n", plan.method).into_bytes();
        let mut lines: Vec<Vec<u8>> = plan.paths.iter().map(|path| line(path)).collect();
        if lines.is_empty() {
            lines.push(line(plan.target.path()));
        }
        let mut headers = String::new();
        let mut header = |name: &str, value: &str| {
            headers.push_str(name);
            headers.push_str(": ");
            headers.push_str(value);
            headers.push_str("\r\n");
        };
        let given = |name: &str| plan.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        if !given("Host") {
            header("Host", &plan.target.authority());
        }
        if !given("User-Agent") {
            header("User-Agent", concat!("forebay-loadtest/", env!("CARGO_PKG_VERSION")));
        }
        if !matches!(plan.payload, Payload::Empty) && !given("Content-Type") {
            header("Content-Type", &plan.content_type);
        }
        for (name, value) in &plan.headers {
            header(name, value);
        }
        Self {
            lines,
            headers: headers.into_bytes(),
            run: plan.run.clone(),
            idempotency_keys: plan.idempotency_keys,
            payload: plan.payload.clone(),
        }
    }

    /// Writes request `index` into `request`, replacing what it held; `body` is room for the body.
    /// Once both have grown to the size of a request, nothing allocates.
    pub fn write(&self, index: u32, body: &mut Vec<u8>, request: &mut Vec<u8>) {
        request.clear();
        request.extend_from_slice(&self.lines[index as usize % self.lines.len()]);
        request.extend_from_slice(&self.headers);
        if self.idempotency_keys {
            request.extend_from_slice(b"Idempotency-Key: ");
            self.run.write_order_id(index, request);
            request.extend_from_slice(b"\r\n");
        }
        match &self.payload {
            Payload::Empty => request.extend_from_slice(b"\r\n"),
            Payload::Fixed(bytes) => push_body(bytes, request),
            Payload::Orders { seed } => {
                body.clear();
                write_order(&self.run, *seed, index, body);
                push_body(body, request);
            }
        }
    }
}

fn push_body(body: &[u8], request: &mut Vec<u8>) {
    request.extend_from_slice(b"Content-Length: ");
    write_decimal(body.len() as u64, request);
    request.extend_from_slice(b"\r\n\r\n");
    request.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Load;

    fn written(change: impl FnOnce(&mut Plan)) -> String {
        let load = Load::Closed { records: Some(1), duration: None };
        let mut plan = Plan::new("http://a.example:81/x?y=1", load).unwrap();
        plan.run = RunId::new("t").unwrap();
        change(&mut plan);
        let (mut body, mut request) = (Vec::new(), b"the request before".to_vec());
        RequestTemplate::new(&plan).write(7, &mut body, &mut request);
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn a_get_has_no_body_headers() {
        let text = written(|plan| {
            plan.method = "GET".to_owned();
            plan.payload = Payload::Empty;
            plan.headers = vec![("User-Agent".to_owned(), "me".to_owned())];
        });
        assert_eq!(text, "GET /x?y=1 HTTP/1.1\r\nHost: a.example:81\r\nUser-Agent: me\r\n\r\n");
    }

    #[test]
    fn paths_are_taken_in_turns() {
        let mut plan = Plan::new("http://a.example/x", Load::Closed { records: Some(1), duration: None }).unwrap();
        plan.paths = ["/a", "/b", "/c"].map(str::to_owned).into();
        let template = RequestTemplate::new(&plan);
        let (mut body, mut request) = (Vec::new(), Vec::new());
        let lines: Vec<String> = (0..5)
            .map(|index| {
                template.write(index, &mut body, &mut request);
                String::from_utf8_lossy(&request).lines().next().unwrap().to_owned()
            })
            .collect();
        assert_eq!(lines, ["a", "b", "c", "a", "b"].map(|path| format!("POST /{path} HTTP/1.1")));
    }

    #[test]
    fn an_order_carries_its_key_and_length() {
        let text = written(|plan| plan.idempotency_keys = true);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nIdempotency-Key: t-000000007\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
        assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        assert!(body.starts_with(r#"{"order_id":"t-000000007","#), "{body}");
    }

    #[test]
    fn headers_given_replace_the_defaults() {
        let text = written(|plan| {
            plan.payload = Payload::Fixed(b"abc".as_slice().into());
            plan.headers =
                vec![("host".to_owned(), "b".to_owned()), ("content-type".to_owned(), "text/plain".to_owned())];
        });
        assert_eq!(text.matches("ost: ").count(), 1, "{text}");
        assert_eq!(text.to_ascii_lowercase().matches("content-type").count(), 1, "{text}");
        assert!(text.ends_with("Content-Length: 3\r\n\r\nabc"), "{text}");
    }
}
