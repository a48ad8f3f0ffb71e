//! Accounts for every record: what was sent and what clients were told, against the rows of the database.
//!
//! Nothing here asks a clock, a file or a server, so every kind of finding has a test that makes it.

use super::request::{QUEUES, RecordId, Request};
use serde::Serialize;
use std::fmt;

/// What a client was told of a request in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is kept: each of its records is there once.
    Acknowledged(Tickets),
    /// It was refused, and nothing of it is there.
    Refused,
    /// Nothing: each of its records is there once or not at all.
    Unanswered,
}

/// The tickets of a request's first and last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tickets {
    /// That of the first.
    pub first: String,
    /// That of the last, which may be the first.
    pub last: String,
}

/// A request and its fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What was sent.
    pub request: Request,
    /// What the client was told.
    pub fate: Fate,
}

/// A row of a queue's table; what is NULL there is empty here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The id within the record.
    pub id: String,
    /// The ticket.
    pub ticket: String,
    /// The sequence.
    pub sequence: i64,
    /// The whole record.
    pub body: String,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Acknowledged, and not there.
    Lost,
    /// There more than once.
    Doubled,
    /// There, and never sent to this queue.
    Foreign,
    /// There, although its client was told that it is not.
    Refused,
    /// There under another ticket than its client holds, or than belongs to its sequence.
    OtherTicket,
    /// There with another content than was sent.
    OtherBody,
    /// Behind a record of a higher sequence.
    OutOfOrder,
    /// Sequences that no row has, although later ones do.
    Skipped,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of wrong.
    pub kind: Kind,
    /// The queue.
    pub queue: &'static str,
    /// Which record, and what is wrong with it.
    pub what: String,
}

/// What all rows and all records come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that the tables have.
    pub rows: u64,
    /// Records that were sent.
    pub sent: u64,
    /// Records of which a client was told that they are kept.
    pub acknowledged: u64,
    /// Records of which no client was told anything, and that are there.
    pub unanswered_there: u64,
    /// Records of which no client was told anything, and that are not there.
    pub unanswered_absent: u64,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

/// Takes the rows one after the other.
pub struct Account {
    /// For each client, what it sent in order, with how often each record is there.
    clients: Vec<Vec<(Sent, Vec<u32>)>>,
    /// The highest sequence of each queue so far.
    highest: [i64; QUEUES.len()],
    rows: u64,
    findings: Vec<Finding>,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Lost,
        Self::Doubled,
        Self::Foreign,
        Self::Refused,
        Self::OtherTicket,
        Self::OtherBody,
        Self::OutOfOrder,
        Self::Skipped,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Foreign => "never sent",
            Self::Refused => "refused and there",
            Self::OtherTicket => "other ticket",
            Self::OtherBody => "other content",
            Self::OutOfOrder => "out of order",
            Self::Skipped => "sequences skipped",
        })
    }
}

impl Finding {
    /// A finding in a queue.
    #[must_use]
    pub fn new(kind: Kind, queue: &'static str, what: String) -> Self {
        Self { kind, queue, what }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.kind, self.queue, self.what)
    }
}

impl Account {
    /// An account of what each client sent: request `n` of client `c` is `clients[c][n]`.
    #[must_use]
    pub fn new(clients: Vec<Vec<Sent>>) -> Self {
        let entry = |sent: Sent| {
            let times = vec![0; sent.request.records as usize];
            (sent, times)
        };
        let clients = clients.into_iter().map(|sent| sent.into_iter().map(entry).collect()).collect();
        Self { clients, highest: [0; QUEUES.len()], rows: 0, findings: Vec::new() }
    }

    /// Takes the next row of a queue's table, in the order in which the database got them.
    pub fn row(&mut self, queue: usize, row: &Row) {
        self.rows += 1;
        self.check_order(queue, row);
        let id = RecordId::parse(&row.id);
        let Some((sent, times)) =
            id.and_then(|id| self.clients.get_mut(id.client as usize)?.get_mut(id.number as usize))
        else {
            return self.find(Kind::Foreign, queue, format!("row {row:?}"));
        };
        let line = id.map_or(0, |id| id.line);
        match times.get_mut(line as usize) {
            Some(times) if sent.request.queue == queue => *times += 1,
            _ => return self.find(Kind::Foreign, queue, format!("row {row:?}")),
        }
        let other_body = row.body != sent.request.record(line);
        let other_ticket = ticket_problem(sent, line, row);
        if other_body {
            self.find(Kind::OtherBody, queue, format!("record {} has the content {}", row.id, row.body));
        }
        if let Some(problem) = other_ticket {
            self.find(Kind::OtherTicket, queue, problem);
        }
    }

    /// Sequences are given out one after the other, and every one that is on disk is delivered: a gap is a loss, whether
    /// or not it was acknowledged.
    fn check_order(&mut self, queue: usize, row: &Row) {
        let (highest, sequence) = (self.highest[queue], row.sequence);
        if sequence <= highest {
            let what = format!("record {} has sequence {sequence} and came behind {highest}", row.id);
            self.find(Kind::OutOfOrder, queue, what);
        } else if sequence > highest.saturating_add(1) {
            let what = format!("from {} to {}, before record {}", highest + 1, sequence - 1, row.id);
            self.find(Kind::Skipped, queue, what);
        }
        self.highest[queue] = highest.max(sequence);
    }

    fn find(&mut self, kind: Kind, queue: usize, what: String) {
        self.findings.push(Finding::new(kind, QUEUES[queue], what));
    }

    /// What it all comes to, when there are no more rows.
    #[must_use]
    pub fn close(mut self) -> Verdict {
        let mut verdict = Verdict { rows: self.rows, ..Verdict::default() };
        for (Sent { request, fate }, times) in std::mem::take(&mut self.clients).into_iter().flatten() {
            for (line, times) in (0..).zip(times) {
                verdict.sent += 1;
                let id = request.id(line);
                match &fate {
                    Fate::Acknowledged(tickets) => {
                        verdict.acknowledged += 1;
                        if times == 0 {
                            let what = format!("record {id}, request acknowledged with ticket {}", tickets.first);
                            self.find(Kind::Lost, request.queue, what);
                        }
                    }
                    Fate::Refused if times > 0 => self.find(Kind::Refused, request.queue, format!("record {id}")),
                    Fate::Refused => {}
                    Fate::Unanswered if times > 0 => verdict.unanswered_there += 1,
                    Fate::Unanswered => verdict.unanswered_absent += 1,
                }
                if times > 1 {
                    self.find(Kind::Doubled, request.queue, format!("record {id} is there {times} times"));
                }
            }
        }
        verdict.findings = self.findings;
        verdict
    }
}

/// What is wrong with a row's ticket.
fn ticket_problem(sent: &Sent, line: u32, row: &Row) -> Option<String> {
    let Row { id, ticket, sequence, .. } = row;
    if sequence_of(ticket) != Some(*sequence) {
        return Some(format!("record {id} has sequence {sequence} and ticket {ticket}"));
    }
    let Fate::Acknowledged(Tickets { first, last }) = &sent.fate else { return None };
    // The tickets between the first and the last are nobody's but the database's; their sequences can be told.
    let told = sequence_of(first).and_then(|first| first.checked_add(line.into()));
    let wrong_first = line == 0 && ticket != first;
    let wrong_last = line + 1 == sent.request.records && ticket != last;
    (wrong_first || wrong_last || told != Some(*sequence))
        .then(|| format!("record {id} has ticket {ticket} and its client {first} to {last}"))
}

/// The sequence in a ticket, `queue-sequence-check` with numbers in hexadecimal.
fn sequence_of(ticket: &str) -> Option<i64> {
    let (rest, _check) = ticket.rsplit_once('-')?;
    let (_queue, sequence) = rest.rsplit_once('-')?;
    i64::from_str_radix(sequence, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One record, a batch of three, one that was refused, one without an answer; all of client 0 and to queue 0.
    fn sent() -> Vec<Vec<Sent>> {
        let tickets =
            |first: &str, last: &str| Fate::Acknowledged(Tickets { first: first.to_owned(), last: last.to_owned() });
        let fates = [
            (1, tickets("orders-1-a", "orders-1-a")),
            (3, tickets("orders-2-b", "orders-4-d")),
            (1, Fate::Refused),
            (1, Fate::Unanswered),
        ];
        let sent = |(number, (records, fate)): (u32, (u32, Fate))| {
            let batch = records > 1;
            let request = Request { client: 0, number, queue: 0, batch, records, keyed: true, padding_bytes: 5 };
            Sent { request, fate }
        };
        vec![(0..).zip(fates).map(sent).collect()]
    }

    fn row(number: usize, line: u32, sequence: i64, check: &str) -> Row {
        let request = &sent()[0][number].request;
        Row {
            id: request.id(line).to_string(),
            ticket: format!("orders-{sequence:x}-{check}"),
            sequence,
            body: request.record(line),
        }
    }

    /// The rows as they should be, without the one that had no answer.
    fn rows() -> Vec<Row> {
        vec![row(0, 0, 1, "a"), row(1, 0, 2, "b"), row(1, 1, 3, "c"), row(1, 2, 4, "d")]
    }

    fn verdict(rows: &[Row]) -> Verdict {
        let mut account = Account::new(sent());
        for row in rows {
            account.row(0, row);
        }
        account.close()
    }

    fn count(verdict: &Verdict, kind: Kind) -> usize {
        verdict.findings.iter().filter(|finding| finding.kind == kind).count()
    }

    /// The kinds of what is found when the rows are changed like this, each once.
    fn found(change: impl FnOnce(&mut Vec<Row>)) -> Vec<Kind> {
        let mut rows = rows();
        change(&mut rows);
        let verdict = verdict(&rows);
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| count(&verdict, *kind) > 0).collect();
        assert_eq!(verdict.findings.len(), kinds.len(), "{:?}", verdict.findings);
        kinds
    }

    #[test]
    fn rows_as_they_should_be_leave_nothing_to_find() {
        let whole = verdict(&rows());
        assert_eq!((whole.rows, whole.sent, whole.acknowledged), (4, 6, 4));
        assert_eq!((whole.unanswered_there, whole.unanswered_absent), (0, 1));
        assert_eq!(whole.findings, []);
        assert_eq!(found(|rows| rows.push(row(3, 0, 5, "e"))), [], "one without an answer may be there");
    }

    #[test]
    fn what_is_lost_is_found() {
        assert_eq!(found(|rows| drop(rows.pop())), [Kind::Lost]);
        assert_eq!(found(|rows| drop(rows.remove(1))), [Kind::Lost, Kind::Skipped], "its sequence is missing too");
        let all = verdict(&[]);
        assert_eq!((count(&all, Kind::Lost), all.findings.len()), (4, 4));
        assert!(all.findings[1].to_string().starts_with("lost: orders: record 0-1-0, "), "{}", all.findings[1]);
    }

    #[test]
    fn what_is_doubled_is_found_whatever_its_client_was_told() {
        assert_eq!(found(|rows| rows.push(row(0, 0, 5, "e"))), [Kind::Doubled, Kind::OtherTicket]);
        assert_eq!(found(|rows| rows.push(row(1, 2, 4, "d"))), [Kind::Doubled, Kind::OutOfOrder]);
        assert_eq!(found(|rows| rows.extend([row(3, 0, 5, "e"), row(3, 0, 6, "f")])), [Kind::Doubled]);
    }

    #[test]
    fn what_was_never_sent_is_found() {
        for id in ["0-4-0", "0-1-3", "1-0-0", "", "x"] {
            let foreign = Row { id: id.to_owned(), ..row(3, 0, 5, "e") };
            assert_eq!(found(|rows| rows.push(foreign)), [Kind::Foreign], "{id}");
        }
        let mut account = Account::new(sent());
        account.row(1, &row(3, 0, 1, "e"));
        assert_eq!(count(&account.close(), Kind::Foreign), 1, "it was sent to the other queue");
    }

    #[test]
    fn what_was_refused_must_not_be_there() {
        assert_eq!(found(|rows| rows.push(row(2, 0, 5, "e"))), [Kind::Refused]);
    }

    #[test]
    fn what_is_out_of_order_is_found() {
        assert_eq!(found(|rows| rows.swap(2, 3)), [Kind::OutOfOrder, Kind::Skipped]);
        assert_eq!(found(|rows| rows.push(row(3, 0, 7, "e"))), [Kind::Skipped]);
        assert_eq!(found(|rows| rows.push(row(3, 0, i64::MAX, "e"))), [Kind::Skipped]);
        let negative = Row { sequence: i64::MIN, ..Row::default() };
        assert_eq!(found(|rows| rows.push(negative)), [Kind::Foreign, Kind::OutOfOrder]);
    }

    #[test]
    fn another_ticket_or_content_is_found() {
        for (index, ticket) in [(0, "orders-1-b"), (1, "orders-2-a"), (2, "orders-4-c"), (3, "orders-4-e"), (3, "")] {
            assert_eq!(found(|rows| ticket.clone_into(&mut rows[index].ticket)), [Kind::OtherTicket], "{ticket}");
        }
        assert_eq!(found(|rows| rows[1].body.push(' ')), [Kind::OtherBody]);
        // The check of a ticket between the first and the last is known to nobody.
        assert_eq!(found(|rows| "orders-3-x".clone_into(&mut rows[2].ticket)), []);
    }
}
