//! Clients: they send requests, alone and in bursts, slowly, twice at once and again, hang up, and remember what they
//! were told. What stands between them and the ring is the real [`Core`] of an executor, the fast path's look at a
//! request, and the checks and frames of `submit`; there are no sockets and no hyper.

use std::rc::Rc;
use std::sync::Arc;

use forebay::ingress::connection::ConnectionState;
use forebay::ingress::core::{Answer as Pending, Core, HeldBody};
use forebay::ingress::http::attributes::AttributeFields;
use forebay::ingress::http::fast_path::request::{Bounds, Look, look};
use forebay::ingress::http::problem::Problem;
use forebay::ingress::http::submit::{self, Head};
use forebay::queue::Queue;
use hyper::HeaderMap;

use crate::model::{Answer, BODY_BYTES_MIN, Body, Model};
use crate::process::Process;
use crate::random::Random;

/// Of the tickets, those whose sequence is a multiple of this are looked at again after every start.
const TICKETS_KEPT_EVERY: u64 = 16;
/// Requests that one client has under way at once.
const CONNECTIONS_MAX: usize = 3;

/// What a client is doing.
#[derive(Default)]
struct Client {
    /// The request that it has not done with.
    request: Option<u32>,
    /// Each has one request under way.
    connections: Vec<Connection>,
    /// What it may ask again, since it has a key.
    done: Vec<u32>,
}

/// One request on its way through the front door.
struct Connection {
    state: Rc<ConnectionState>,
    request: u32,
    queue: Arc<Queue>,
    /// A whole request for the fast path; of one for hyper, the body.
    bytes: Vec<u8>,
    key: Vec<u8>,
    /// The ordering key, which is its client's.
    of: String,
    is_ndjson: bool,
    /// What it asks for besides, if that is not for the fast path.
    fields: HeaderMap,
    /// It comes in pieces.
    is_slow: bool,
    arrived: usize,
    held: Option<HeldBody>,
    /// Once it is in the ring.
    pending: Option<Pending>,
}

/// All clients of one data directory.
pub struct Clients {
    site: usize,
    all: Vec<Client>,
    record_bytes_max: u64,
    records_max: u64,
    bounds: Bounds,
}

impl Clients {
    pub fn new(site: usize, count: usize, (record_bytes_max, records_max): (u64, u64), bounds: Bounds) -> Self {
        let all = (0..count).map(|_| Client::default()).collect();
        Self { site, all, record_bytes_max, records_max, bounds }
    }

    /// Whether a request is in a ring or in the journal.
    pub fn have_requests_in_flight(&self) -> bool {
        self.all.iter().flat_map(|client| &client.connections).any(|connection| connection.pending.is_some())
    }

    /// Whether somebody waits for an answer, or wants to ask again.
    pub fn are_waiting(&self) -> bool {
        self.all.iter().any(|client| client.request.is_some())
    }

    /// The process is gone: who waited does not know, and asks again if that is safe.
    pub fn disconnected(&mut self, model: &Model) {
        for client in &mut self.all {
            client.connections.clear();
            client.request = client.request.filter(|number| model.requests[*number as usize].has_key);
        }
    }

    /// A client sends what it has to send, or more of what it is sending; returns its request.
    pub fn send(
        &mut self,
        random: &mut Random,
        model: &mut Model,
        process: &Process,
        asks_only_again: bool,
    ) -> Option<u32> {
        let number = random.index(self.all.len());
        let core = &process.cores[number % process.cores.len()];
        let client = &self.all[number];
        let is_arriving = |connection: &Connection| connection.pending.is_none();
        if let Some(place) = client.connections.iter().position(is_arriving) {
            return self.arrive(random, model, core, (number, place));
        }
        // A client that waits sends its request once more, now and then, without waiting for the answer.
        let waiting = client.connections.len();
        let may_repeat = waiting == 0 || (waiting < CONNECTIONS_MAX && random.chance(1000));
        if !may_repeat {
            return None;
        }
        let request = match client.request {
            Some(request) if waiting > 0 && !model.requests[request as usize].has_key => return None,
            Some(request) => request,
            None if asks_only_again => return None,
            None => self.choose(random, model, number, process.queues.len()),
        };
        let connection = connect(random, model, process, core, request);
        model.requests[request as usize].may_expire |= connection.fields.contains_key("forebay-expires");
        let client = &mut self.all[number];
        client.request = Some(request);
        client.connections.push(connection);
        self.arrive(random, model, core, (number, waiting))
    }

    /// A request that a client turns to.
    fn choose(&self, random: &mut Random, model: &mut Model, number: usize, queues: usize) -> u32 {
        let done = &self.all[number].done;
        // The answer was lost on its way, or somebody pressed the button once more.
        if random.chance(500) && !done.is_empty() {
            let request = done[random.index(done.len())];
            model.ask(request);
            return request;
        }
        let records = u32::try_from(1 + random.below(self.records_max)).unwrap();
        let length = usize::try_from(random.below(self.record_bytes_max)).unwrap().max(BODY_BYTES_MIN);
        let (queue, has_key) = (random.index(queues), random.chance(7000));
        model.add((self.site, number), queue, (records, length), has_key);
        u32::try_from(model.requests.len() - 1).unwrap()
    }

    /// Another piece of a request arrives, or its client hangs up.
    fn arrive(
        &mut self,
        random: &mut Random,
        model: &mut Model,
        core: &Rc<Core>,
        (number, place): (usize, usize),
    ) -> Option<u32> {
        let connection = &mut self.all[number].connections[place];
        let (request, left) = (connection.request, connection.bytes.len() - connection.arrived);
        let piece = if connection.is_slow { 1 + random.index(left) } else { left };
        let hangs_up = connection.is_slow && random.chance(300);
        let sent = if hangs_up { Err(Problem::BadRequest) } else { connection.arrive(core, piece, self.bounds) };
        match sent {
            Ok(()) => {
                model.requests[request as usize].has_arrived |= connection.pending.is_some();
                return Some(request);
            }
            Err(Problem::Internal) => model.complain(format!("request {request} is not one for the fast path")),
            Err(Problem::Busy) => model.see("busy"),
            Err(Problem::BacklogFull) => model.see("shed"),
            Err(Problem::TooLarge) => model.see("too large"),
            Err(Problem::Stopping) => model.see("turned away by a stop"),
            Err(_) => {}
        }
        self.all[number].connections.remove(place);
        self.refused(model, number, request, sent == Err(Problem::TooLarge));
        None
    }

    /// Nothing of a request was stored; `for_good` if it would not be at another time either.
    fn refused(&mut self, model: &mut Model, number: usize, request: u32, for_good: bool) {
        let client = &mut self.all[number];
        let known = &mut model.requests[request as usize];
        if !client.connections.is_empty() {
            return;
        }
        if !known.has_key || (for_good && !known.has_arrived) {
            known.answer = Answer::Refused;
            client.request = None;
        } else if for_good || matches!(known.answer, Answer::Acknowledged(..)) {
            client.request = None;
        }
    }

    /// Hands out what the journal has completed. Returns how many answers there were.
    pub fn collect(&mut self, random: &mut Random, model: &mut Model, process: &Process) -> u64 {
        let mut woken = Vec::new();
        process.cores.iter().for_each(|core| {
            core.hand_out(usize::MAX, &mut woken);
        });
        let mut answers = 0;
        for number in 0..self.all.len() {
            let core = &process.cores[number % process.cores.len()];
            let mut place = 0;
            while place < self.all[number].connections.len() {
                let connection = &self.all[number].connections[place];
                // A client may lose its patience; the answer then finds nobody.
                let is_gone = connection.pending.is_some() && random.chance(20);
                let is_answered = connection.pending.as_ref().is_some_and(|pending| pending.get().is_some());
                if !is_gone && !is_answered {
                    place += 1;
                    continue;
                }
                let connection = self.all[number].connections.remove(place);
                if is_gone {
                    self.gone(model, number, connection.request);
                } else {
                    answers += 1;
                    self.answer(model, number, core, connection);
                }
            }
        }
        answers
    }

    /// A client has hung up behind a request that was sent, and does not know what became of it.
    fn gone(&mut self, model: &mut Model, number: usize, request: u32) {
        model.see("client gone");
        if !model.requests[request as usize].has_key {
            self.all[number].request = None;
        }
    }

    fn answer(&mut self, model: &mut Model, number: usize, core: &Rc<Core>, connection: Connection) {
        let Connection { request, queue, is_ndjson, pending, bytes, .. } = connection;
        let Some(completion) = pending.as_ref().and_then(Pending::get) else { return };
        drop(pending);
        let has_key = model.requests[request as usize].has_key;
        if let Err(refusal) = submit::settle(core, &completion, core.clock.monotonic_ns(), bytes.len() as u64) {
            if refusal.problem == Problem::DiskFull {
                model.see("disk full");
                self.refused(model, number, request, false);
            } else if has_key {
                self.refused(model, number, request, false);
            } else {
                // Nobody can tell whether it was stored: without a key it must not be sent again.
                self.all[number].request = None;
            }
            return;
        }
        let mut text = String::new();
        let path_bytes = submit::write_receipt(&mut text, &queue, &completion, is_ndjson);
        let ticket = text[..path_bytes].strip_prefix("/v1/tickets/").unwrap_or_default();
        let Some(sequence) = queue.tickets.read(ticket) else {
            return model.complain(format!("request {request} got the ticket {ticket}, which names nothing"));
        };
        let number_of_queue = usize::from(queue.index);
        model.acknowledged(request, (ticket, sequence), completion.count);
        if sequence.is_multiple_of(TICKETS_KEPT_EVERY) || model.answers_early(number_of_queue) {
            model.keep_ticket((self.site, number_of_queue), ticket, sequence);
        }
        let client = &mut self.all[number];
        if client.request == Some(request) && client.connections.is_empty() {
            client.request = None;
            if has_key {
                client.done.push(request);
            }
        }
    }
}

/// A client has connected and begins to send a request.
fn connect(random: &mut Random, model: &Model, process: &Process, core: &Core, request: u32) -> Connection {
    let known = &model.requests[request as usize];
    let queue = Arc::clone(&process.queues[known.queue]);
    let is_ndjson = known.records > 1;
    let key = if known.has_key { format!("{request}") } else { String::new() };
    let mut body = Vec::new();
    for index in 0..known.records {
        if index > 0 {
            body.push(b'\n');
        }
        Body { request, index }.write(known.length, &mut body);
    }
    let of = format!("c{}", known.client);
    let fields = fields(random, &queue);
    let is_for_hyper = is_ndjson || !fields.is_empty();
    let bytes = if is_for_hyper { body } else { whole_request(&queue.name, &key, &of, &body) };
    Connection {
        state: ConnectionState::new(core),
        request,
        queue,
        bytes,
        key: key.into_bytes(),
        of,
        is_ndjson,
        fields,
        is_slow: random.chance(1500),
        arrived: 0,
        held: None,
        pending: None,
    }
}

/// What a request asks for, if its queue does that.
fn fields(random: &mut Random, queue: &Queue) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if random.chance(300) {
        let expires = format!("+{}ms", 1 + random.below(60));
        fields.insert("forebay-expires", expires.parse().unwrap());
    }
    if !queue.config.ordering.is_reordering() {
        return fields;
    }
    if random.chance(2000) {
        fields.insert("forebay-priority", random.below(10).into());
    }
    if queue.config.ordering.delay_ms_max > 0 && random.chance(1000) {
        let delay = format!("{}ms", random.below(60));
        fields.insert("forebay-delay", delay.parse().unwrap());
    }
    fields
}

fn whole_request(queue: &str, key: &str, of: &str, body: &[u8]) -> Vec<u8> {
    let mut text = format!("POST /v1/queues/{queue}/records HTTP/1.1\r\nhost: simulation\r\nforebay-key: {of}\r\n");
    if !key.is_empty() {
        text += &format!("idempotency-key: {key}\r\n");
    }
    text += &format!("content-length: {}\r\n\r\n", body.len());
    [text.as_bytes(), body].concat()
}

impl Connection {
    /// More bytes are there. What is whole goes to the journal.
    fn arrive(&mut self, core: &Rc<Core>, piece: usize, bounds: Bounds) -> Result<(), Problem> {
        let is_new = self.arrived == 0;
        self.arrived += piece;
        if self.is_ndjson || !self.fields.is_empty() {
            self.arrive_for_hyper(core, piece, is_new, bounds)
        } else {
            self.look(core, bounds)
        }
    }

    fn look(&mut self, core: &Rc<Core>, bounds: Bounds) -> Result<(), Problem> {
        match look(&self.bytes[..self.arrived], bounds) {
            Look::Partial { .. } if self.arrived < self.bytes.len() => Ok(()),
            Look::Taken(request) => {
                let queue = core.queue(request.queue).ok_or(Problem::NotFound)?;
                core.note_sender(&self.state);
                submit::check_stop(core).map_err(|refusal| refusal.problem)?;
                let pending = submit::send_at_once(core, queue, &request.head(), request.body);
                self.pending = Some(pending.map_err(|refusal| refusal.problem)?);
                Ok(())
            }
            // A record that is too large is refused by hyper.
            Look::Other if self.bytes.len() > bounds.record_bytes_max => Err(Problem::TooLarge),
            Look::Partial { .. } | Look::Other => Err(Problem::Internal),
        }
    }

    /// Head and body as `submit::submit` treats them, whose body comes from hyper.
    fn arrive_for_hyper(&mut self, core: &Rc<Core>, piece: usize, is_new: bool, bounds: Bounds) -> Result<(), Problem> {
        let problem = |refusal: forebay::ingress::http::problem::Refusal| refusal.problem;
        if !self.is_ndjson && self.bytes.len() > bounds.record_bytes_max {
            return Err(Problem::TooLarge);
        }
        if is_new {
            submit::check_before_body(core, &self.queue, self.bytes.len() as u64).map_err(problem)?;
        }
        if !self.held.get_or_insert_with(|| core.hold_body()).grow(piece) {
            return Err(Problem::Busy);
        }
        if self.arrived < self.bytes.len() {
            return Ok(());
        }
        core.note_sender(&self.state);
        let head = Head {
            key: self.of.as_bytes(),
            idempotency_key: &self.key,
            content_type: if self.is_ndjson { b"application/x-ndjson" } else { b"" },
            attributes: AttributeFields::read(&self.fields, &self.queue.config.ordering).map_err(problem)?,
            is_ndjson: self.is_ndjson,
        };
        let pending = submit::send(core, &self.queue, &head, &self.bytes);
        self.held = None;
        self.pending = Some(pending.map_err(problem)?);
        Ok(())
    }
}
