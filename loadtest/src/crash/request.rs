//! The requests of a client. What is in one follows from a few numbers, so what was sent need not be kept to be known.

use rand::Rng;
use std::fmt;
use std::fmt::Write;

/// The queues that take the requests. With two, the journal writes both in one turn.
pub const QUEUES: [&str; 2] = ["orders", "refunds"];
/// Records of an NDJSON body at most.
const BATCH_RECORDS_MAX: u32 = 20;
/// What makes the records differ in length. With the rest of a record, the largest body stays below the bound of 32 KiB
/// that the small journal has.
const PADDING_BYTES_MAX: usize = 700;
/// One of so many requests is an NDJSON body.
const BATCH_ONE_IN: u32 = 4;
/// One of so many requests has no idempotency key, and is never repeated.
const KEYLESS_ONE_IN: u32 = 5;

/// One record of one request; it stands in the record's body as `client-number-line`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId {
    /// Who sent it.
    pub client: u32,
    /// The client's how many'th request it was in, from 0.
    pub number: u32,
    /// The line that it was in, from 0.
    pub line: u32,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who sends it.
    pub client: u32,
    /// The client's how many'th request it is, from 0.
    pub number: u32,
    /// Where it goes, in [`QUEUES`].
    pub queue: usize,
    /// Whether it is NDJSON.
    pub batch: bool,
    /// Its records, of which one that is not NDJSON has one.
    pub records: u32,
    /// Whether it has an idempotency key.
    pub keyed: bool,
    /// Bytes of padding in each record.
    pub padding_bytes: usize,
}

impl RecordId {
    /// Reads the one spelling that an id has.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let id = Self { client: next()?, number: next()?, line: next()? };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.client, self.number, self.line)
    }
}

impl Request {
    /// Chooses the next request of a client.
    pub fn choose(client: u32, number: u32, random: &mut impl Rng) -> Self {
        let batch = random.random_ratio(1, BATCH_ONE_IN);
        Self {
            client,
            number,
            queue: random.random_range(0..QUEUES.len()),
            batch,
            records: if batch { random.random_range(1..=BATCH_RECORDS_MAX) } else { 1 },
            keyed: !random.random_ratio(1, KEYLESS_ONE_IN),
            padding_bytes: random.random_range(0..PADDING_BYTES_MAX),
        }
    }

    /// The path that it is posted to.
    #[must_use]
    pub fn path(&self) -> String {
        crate::peer::Forebay::records_path(QUEUES[self.queue])
    }

    /// Its idempotency key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        self.keyed.then(|| format!("{}-{}", self.client, self.number))
    }

    /// Its content type.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        if self.batch { "application/x-ndjson" } else { "application/json" }
    }

    /// The id of the record in a line.
    #[must_use]
    pub fn id(&self, line: u32) -> RecordId {
        RecordId { client: self.client, number: self.number, line }
    }

    /// The record in a line, as it is stored.
    #[must_use]
    pub fn record(&self, line: u32) -> String {
        let (id, padding_bytes) = (self.id(line), self.padding_bytes);
        format!("{{\"id\":\"{id}\",\"padding\":\"{:x<padding_bytes$}\"}}", "")
    }

    /// The body with all records.
    #[must_use]
    pub fn body(&self) -> String {
        if !self.batch {
            return self.record(0);
        }
        (0..self.records).fold(String::new(), |mut body, line| {
            // Writing to a String cannot fail.
            let _ = writeln!(body, "{}", self.record(line));
            body
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn an_id_has_one_spelling() {
        let id = RecordId { client: 3, number: 0, line: 12 };
        assert_eq!(RecordId::parse(&id.to_string()), Some(id));
        for foreign in ["", "3-0", "3-0-12-1", "03-0-12", "3-+0-12", "3-0-x", "-1-0-0", "4294967296-0-0"] {
            assert_eq!(RecordId::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn every_kind_of_request_is_chosen_and_fits() {
        let mut random = StdRng::seed_from_u64(1);
        let requests: Vec<Request> = (0..200).map(|number| Request::choose(1, number, &mut random)).collect();
        for batch in [false, true] {
            for keyed in [false, true] {
                assert!(requests.iter().any(|request| request.batch == batch && request.keyed == keyed));
            }
        }
        for request in &requests {
            let body = request.body();
            assert!(body.len() < 32 << 10);
            let records: Vec<serde_json::Value> =
                body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(records.len() as u64, u64::from(request.records));
            assert_eq!(records[0]["id"], request.id(0).to_string());
            assert_eq!(records[0]["padding"].as_str().unwrap().len(), request.padding_bytes);
        }
    }
}
