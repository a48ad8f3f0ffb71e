//! The way of a request from its bytes to its response, and on to a sink's text: one executor's state and one
//! queue's log, driven on one thread in the order in which the real threads do it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use forebay::ingress::connection::{ConnectionState, Phase};
use forebay::ingress::core::{Answer, Core, Shared};
use forebay::ingress::http::fast_path::request::{Bounds, Look, look};
use forebay::ingress::http::fast_path::response::ResponseWriter;
use forebay::ingress::http::submit;
use forebay::journal::append::SealedBatch;
use forebay::journal::format::BatchHeader;
use forebay::limits::COMMIT_BYTES_MAX;
use forebay::queue::{DrainState, Health, Queue};
use forebay::record::{Record, Sequence};
use forebay::ring::{Completion, JournalEnd, Outcome, ring};
use forebay::sink::Delivery;
use forebay::ticket::{EpochStart, TicketCodec};

use super::journal::Log;
use super::rows::Table;
use super::{QUEUE, configuration};

const SECRET: [u8; 16] = [7; 16];
const SEGMENT_BYTES: u64 = 64 << 20;
/// The key of the one connection's socket.
const CONNECTION: usize = 3;

/// A queue whose drain runs.
#[must_use]
pub fn queue() -> Queue {
    let tickets = TicketCodec::new(QUEUE, SECRET, vec![EpochStart { epoch: 1, first_sequence: 1 }]);
    let queue = Queue::new(0, 7, QUEUE, configuration().queues[QUEUE].clone(), tickets);
    queue.main.drain.set_state(DrainState::Running);
    queue
}

/// One executor, one queue, one connection.
pub struct Way {
    core: Rc<Core>,
    connection: Rc<ConnectionState>,
    queue: Arc<Queue>,
    bounds: Bounds,
    writer: ResponseWriter,
    journal: JournalEnd,
    log: Log,
    gathered: Vec<Completion>,
    answered: Vec<usize>,
}

/// A request between its ring and its answer.
pub struct InFlight {
    answer: Answer,
    arrived_ns: u64,
    body_bytes: u64,
}

impl Way {
    /// A server's state behind its start; `keys_max` idempotency keys are remembered.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        let configuration = configuration();
        let limits = configuration.ingress;
        let queue = Arc::new(queue());
        let (ingress, journal) = ring(configuration.journal.ring_bytes, limits.in_flight_max, Arc::default());
        let bounds = Bounds { head_bytes_max: limits.head_bytes_max, record_bytes_max: limits.record_bytes_max };
        let shared = Shared {
            queues: vec![Arc::clone(&queue)].into(),
            limits,
            frame_bytes_max: usize::try_from(COMMIT_BYTES_MAX).unwrap(),
            secret: SECRET,
            health: Arc::new(Health::default()),
            connections: Arc::new(AtomicUsize::new(0)),
            grace_ms: 0,
        };
        let core = Core::new(shared, Arc::default(), ingress);
        Self {
            connection: ConnectionState::new(&core),
            core,
            queue,
            bounds,
            writer: ResponseWriter::default(),
            journal,
            log: Log::new(SEGMENT_BYTES, keys_max),
            gathered: Vec::new(),
            answered: Vec::new(),
        }
    }

    /// Reads the clocks, as an executor does once a turn.
    pub fn begin_turn(&self) {
        self.core.clock.advance();
    }

    /// Looks at a request, notes who sends it, and pushes its frame: what the fast path does with it.
    pub fn submit(&mut self, bytes: &[u8]) -> InFlight {
        let Look::Taken(request) = look(bytes, self.bounds) else { panic!("not a request for the fast path") };
        let core = &self.core;
        let queue = core.queue(request.queue).unwrap();
        self.connection.enter(Phase::Answer);
        core.note_sender(&self.connection);
        submit::check_stop(core).ok().unwrap();
        let answer = submit::send_at_once(core, queue, &request.head(), request.body).ok().unwrap();
        answer.notify(CONNECTION);
        InFlight { answer, arrived_ns: core.clock.monotonic_ns(), body_bytes: request.body.len() as u64 }
    }

    /// Takes all frames off the ring into one batch.
    pub fn gather(&mut self) {
        while let Some(frame) = self.journal.peek() {
            let (first_sequence, room) = self.log.take(&frame);
            self.journal.take(room);
            let (slot, count) = (frame.slot.get(), frame.count.get());
            self.gathered.push(Completion { slot, count, first_sequence, outcome: Outcome::Stored });
        }
    }

    /// Seals the batch. Nothing is written.
    pub fn seal(&mut self) -> SealedBatch {
        self.log.seal()
    }

    /// Goes on as if the batch were on disk and already delivered, so that the backlog does not grow; completes
    /// its requests.
    pub fn complete(&mut self, sealed: &SealedBatch) {
        self.log.committed(sealed);
        // Larger than any batch of a stand, so that each batch lies in one segment.
        self.log.make_room(1 << 20);
        for marks in [&self.queue.journal.durable, &self.queue.main.drain.delivered] {
            marks.set(sealed.next_sequence - 1);
        }
        for completion in self.gathered.drain(..) {
            self.journal.complete(completion);
        }
        self.journal.wake();
    }

    /// Hands the completions out; returns how many connections have their answers.
    pub fn hand_out(&mut self) -> usize {
        self.answered.clear();
        self.core.hand_out(usize::MAX, &mut self.answered);
        self.answered.len()
    }

    /// Writes the response to a request that was completed; returns its length.
    pub fn respond(&mut self, in_flight: InFlight) -> usize {
        let InFlight { answer, arrived_ns, body_bytes } = in_flight;
        let completion = answer.get().unwrap();
        drop(answer);
        submit::settle(&self.core, &completion, arrived_ns, body_bytes).ok().unwrap();
        let response = self.writer.accepted(&self.queue, &completion, self.core.clock.unix_us(), false);
        self.connection.enter(Phase::Idle);
        response.len()
    }

    /// Reads the sealed batch back as the drain does, and encodes it for a table; returns the text's length.
    #[must_use]
    pub fn deliver(&self, sealed: &SealedBatch, table: &Table) -> usize {
        let (header, records) = BatchHeader::decode(&self.log.identity, self.log.batch(sealed)).unwrap();
        let mut rest = records;
        let mut read: Vec<(Sequence, Record<'_>, String)> = Vec::with_capacity(header.count.get() as usize);
        for sequence in header.first_sequence.get()..header.next_sequence() {
            let (record, bytes) = Record::decode(rest).unwrap();
            rest = &rest[bytes..];
            read.push((sequence, record, self.queue.tickets.ticket(sequence).to_string()));
        }
        let deliveries: Vec<_> = read
            .iter()
            .map(|(sequence, record, ticket)| Delivery { sequence: *sequence, record: *record, ticket })
            .collect();
        table.encode(&deliveries)
    }
}
