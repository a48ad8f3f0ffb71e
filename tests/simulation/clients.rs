//! Clients: they send requests, alone and in bursts, twice at once and again, and remember what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay::admission::{self, Load};
use forebay::queue::{Health, Queue};
use forebay::record::{NO_KEY, Record, hash_key};
use forebay::ring::{Completion, FRAME_HEADER_BYTES, FrameHeader, IngressEnd, Outcome};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

use crate::model::{Answer, Body, Model};
use crate::random::Random;

const SECRET: [u8; 16] = [5; 16];
/// Requests between a ring and their answer.
pub const IN_FLIGHT_MAX: usize = 32;
/// Of the tickets, those whose sequence is a multiple of this are looked at again after every start.
const TICKETS_KEPT_EVERY: u64 = 16;
/// Records of one request.
const RECORDS_MAX: u64 = 3;

/// What a client is doing.
#[derive(Clone, Debug, Default)]
struct Client {
    /// The request that it has not done with.
    request: Option<u32>,
    /// How many times it is under way.
    in_flight: u32,
    /// What it may ask again, since it has a key.
    done: Vec<u32>,
}

/// All clients.
pub struct Clients {
    all: Vec<Client>,
    /// Who waits in which slot.
    slots: BTreeMap<u32, (usize, u32)>,
    next_slot: u32,
    record_bytes_max: u64,
    frame: Vec<u8>,
    frames_bytes_max: usize,
    /// The door refuses what no commit holds.
    commit_bytes_max: usize,
}

impl Clients {
    pub fn new(count: usize, record_bytes_max: u64, commit_bytes_max: usize) -> Self {
        let all = vec![Client::default(); count];
        Self {
            all,
            slots: BTreeMap::new(),
            next_slot: 0,
            record_bytes_max,
            frame: Vec::new(),
            frames_bytes_max: 0,
            commit_bytes_max,
        }
    }

    /// Bytes of the largest frame so far.
    pub fn frame_bytes_max(&self) -> usize {
        self.frames_bytes_max
    }

    /// Whether somebody waits for an answer.
    pub fn have_requests_in_flight(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Whether somebody waits for an answer, or wants to ask again.
    pub fn are_waiting(&self) -> bool {
        self.all.iter().any(|client| client.request.is_some())
    }

    /// The process is gone: who waited does not know, and asks again if that is safe.
    pub fn disconnected(&mut self, model: &Model) {
        self.slots.clear();
        for client in &mut self.all {
            client.in_flight = 0;
            client.request = client.request.filter(|number| model.requests[*number as usize].has_key);
        }
    }

    /// A client sends what it has to send; returns its request.
    pub fn send(
        &mut self,
        random: &mut Random,
        model: &mut Model,
        (queues, health, rings): (&[Arc<Queue>], &Health, &mut [IngressEnd]),
        (now_us, asks_only_again): (u64, bool),
    ) -> Option<u32> {
        let number = random.index(self.all.len());
        let client = &self.all[number];
        // A client that waits sends its request once more, now and then, without waiting for the answer.
        let may_repeat = client.in_flight == 0 || (client.in_flight < 3 && random.chance(1000));
        if self.slots.len() >= IN_FLIGHT_MAX || !may_repeat || health.is_journal_failed() {
            return None;
        }
        let request = match client.request {
            Some(request) if client.in_flight > 0 && !model.requests[request as usize].has_key => return None,
            Some(request) => request,
            None if asks_only_again => return None,
            // The answer was lost on its way, or somebody pressed the button once more.
            None if random.chance(500) && !client.done.is_empty() => client.done[random.index(client.done.len())],
            None => {
                let records = u32::try_from(1 + random.below(RECORDS_MAX)).unwrap();
                model.add(number, random.index(queues.len()), records, random.chance(7000))
            }
        };
        self.all[number].request = Some(request);
        let queue = &queues[model.requests[request as usize].queue];
        let slot = self.next_slot;
        self.build(random, model, request, (queue, slot, now_us));
        let executor = number % rings.len();
        let is_too_large = self.frame.len() - FRAME_HEADER_BYTES > self.commit_bytes_max;
        if is_too_large || !is_admitted(queue, self.frame.len() as u64) || rings[executor].submit(&self.frame).is_err()
        {
            if self.all[number].in_flight == 0 && !model.requests[request as usize].has_key {
                model.requests[request as usize].answer = Answer::Refused;
                self.all[number].request = None;
            }
            return None;
        }
        self.next_slot += 1;
        self.slots.insert(slot, (number, request));
        self.all[number].in_flight += 1;
        Some(request)
    }

    fn build(&mut self, random: &mut Random, model: &Model, number: u32, at: (&Queue, u32, u64)) {
        let (queue, slot, now_us) = at;
        let request = &model.requests[number as usize];
        let key = number.to_le_bytes();
        let hash = if request.has_key { hash_key(&SECRET, queue.id, &key) } else { NO_KEY };
        self.frame.clear();
        self.frame.resize(FRAME_HEADER_BYTES, 0);
        for index in 0..request.records {
            let length = usize::try_from(random.below(self.record_bytes_max)).unwrap();
            let record = Record {
                received_at_us: now_us,
                idempotency_hash: hash,
                group_count: if index == 0 { request.records } else { 0 },
                key: b"",
                idempotency_key: if request.has_key { &key } else { b"" },
                content_type: b"",
                body: &Body { request: number, index }.write(length),
            };
            record.encode(&mut self.frame).unwrap();
        }
        let mut header = FrameHeader::new_zeroed();
        header.length = U32::new(u32::try_from(self.frame.len() - FRAME_HEADER_BYTES).unwrap());
        header.count = U32::new(request.records);
        header.slot = U32::new(slot);
        header.queue = U16::new(queue.index);
        header.senders = U16::new(u16::try_from(self.all.len()).unwrap());
        header.idempotency_hash = hash;
        self.frame[..FRAME_HEADER_BYTES].copy_from_slice(header.as_bytes());
        self.frames_bytes_max = self.frames_bytes_max.max(self.frame.len());
    }

    /// Hands out what the journal has completed. Returns how many answers there were.
    pub fn collect(&mut self, model: &mut Model, (queues, rings): (&[Arc<Queue>], &mut [IngressEnd])) -> u64 {
        let mut answers = 0;
        for ring in rings {
            while let Some(completion) = ring.completion() {
                answers += 1;
                self.answer(model, queues, &completion);
            }
        }
        answers
    }

    fn answer(&mut self, model: &mut Model, queues: &[Arc<Queue>], completion: &Completion) {
        let Some((number, request)) = self.slots.remove(&completion.slot) else {
            return model.complain(format!("nobody waits in slot {}", completion.slot));
        };
        let client = &mut self.all[number];
        client.in_flight -= 1;
        match completion.outcome {
            Outcome::Stored | Outcome::Replayed => {
                model.acknowledged(request, completion.first_sequence, completion.count);
                if completion.first_sequence.is_multiple_of(TICKETS_KEPT_EVERY) {
                    model.keep_ticket(request, completion.first_sequence, queues);
                }
                if client.request == Some(request) && client.in_flight == 0 {
                    client.request = None;
                    if model.requests[request as usize].has_key {
                        client.done.push(request);
                    }
                }
            }
            Outcome::DiskFull if !model.requests[request as usize].has_key => {
                model.requests[request as usize].answer = Answer::Refused;
                client.request = None;
            }
            // Nobody can tell whether it was stored: without a key it must not be sent again.
            Outcome::Failed if !model.requests[request as usize].has_key => client.request = None,
            Outcome::DiskFull | Outcome::Failed => {
                let is_known = matches!(model.requests[request as usize].answer, Answer::Acknowledged(_));
                if is_known && client.in_flight == 0 {
                    client.request = None;
                }
            }
        }
    }
}

fn is_admitted(queue: &Queue, bytes: u64) -> bool {
    let load = Load {
        backlog_records: queue.backlog_records(),
        backlog_bytes: queue.backlog_bytes(),
        max_backlog_bytes: queue.config.max_backlog_bytes,
        rate: queue.config.shaping.rate,
        rate_measured: queue.drain.rate_measured.get(),
    };
    admission::admit(&load, bytes).is_ok()
}
