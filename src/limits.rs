//! Every bound of forebay and its default, in one place.
//!
//! Nothing in forebay is unbounded. Each constant here is the default of the
//! configuration key with the same name in lower case (`config/forebay.toml`
//! shows them all, and a test proves that the two agree), or a fixed bound that
//! a format or a protocol imposes, which says so. Units come last in the name.

use crate::rate::Rate;

/// One kibibyte in bytes.
pub const KIB: u64 = 1024;
/// One mebibyte in bytes.
pub const MIB: u64 = 1024 * KIB;
/// One gibibyte in bytes.
pub const GIB: u64 = 1024 * MIB;

/// Queues that one configuration may hold (fixed: the ring names a queue with 16 bits).
pub const QUEUES_MAX: usize = 256;
/// Sinks that one queue may have, its main one included (fixed: each has a ring of [`HOT_RING_BYTES`] and holds segments back).
pub const SINKS_MAX: usize = 8;
/// Length of a queue's name, and of a sink's, in bytes (fixed: it is a directory name and part of a ticket).
pub const QUEUE_NAME_BYTES_MAX: usize = 64;
/// Listeners that one configuration may hold (fixed).
pub const LISTENERS_MAX: usize = 64;
/// Ingress executors, one per core (fixed upper bound; the default is the cores less one).
pub const EXECUTORS_MAX: usize = 256;
/// Time after which an executor that does not tick is sent a signal, and again after as long, in milliseconds (fixed). It
/// ticks every 250 ms, and up to a second later while it has much to do.
pub const EXECUTOR_SILENCE_MS_MAX: u64 = 5_000;

/// Open client connections of the whole process; the next one gets a 503 and is closed.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Bytes of one request head. Hyper needs at least 8 KiB.
pub const HEAD_BYTES_MAX: u64 = 16 * KIB;
/// Header fields of one request head (fixed).
pub const HEADERS_MAX: usize = 64;
/// Time in which a request head must have arrived once its first byte has, in milliseconds.
pub const HEAD_TIMEOUT_MS: u64 = 10_000;
/// Time in which a request body must have arrived, and a response be taken, in milliseconds.
pub const BODY_TIMEOUT_MS: u64 = 30_000;
/// Time that a keep-alive connection may be silent between requests, in milliseconds.
pub const IDLE_TIMEOUT_MS: u64 = 75_000;
/// Bytes of one record's body.
pub const RECORD_BYTES_MAX: u64 = MIB;
/// Bytes of a request, head and body, that is served without hyper (fixed), and of one read from a socket.
pub const FAST_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one NDJSON request's body.
pub const BATCH_REQUEST_BYTES_MAX: u64 = 4 * MIB;
/// Records of one NDJSON request.
pub const BATCH_REQUEST_RECORDS_MAX: u64 = 20_000;
/// Requests that one executor may have between its ring and its answer.
pub const IN_FLIGHT_MAX: u64 = 16_384;
/// Bytes of request bodies that one executor may hold while they arrive.
pub const BODY_BYTES_IN_FLIGHT_MAX: u64 = 64 * MIB;
/// Bytes of a `Forebay-Key` (fixed by the record format's 16-bit length, kept far below it).
pub const KEY_BYTES_MAX: usize = 256;
/// Bytes of an `Idempotency-Key` (fixed, as above).
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Bytes of a `Content-Type` (fixed, as above).
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Bytes of the value of a header that a queue's `fair_by` or `throttle.by` names (fixed, as above).
pub const FAIR_KEY_BYTES_MAX: usize = 256;
/// Bytes of a header that says a time, a duration or a priority (fixed).
pub const TIME_FIELD_BYTES_MAX: usize = 64;
/// Bytes of the method of a request that a record keeps (fixed).
pub const METHOD_BYTES_MAX: usize = 32;
/// Bytes of its path with its query (fixed).
pub const TARGET_BYTES_MAX: usize = 8192;
/// Bytes of its headers, names and values with three bytes each for their lengths (fixed).
pub const KEPT_HEADERS_BYTES_MAX: usize = 16_384;
/// Bytes of a record's encoded attributes (fixed, as above): all that there are, and room for those of later versions.
pub const ATTRIBUTES_BYTES_MAX: usize = 32_768;

/// Bytes of the ring between one executor and the journal.
pub const RING_BYTES: u64 = 16 * MIB;
/// Bytes that the journal writes for one queue before one fdatasync.
pub const COMMIT_BYTES_MAX: u64 = 8 * MIB;
/// Bytes of one segment file.
pub const SEGMENT_BYTES: u64 = 64 * MIB;
/// Bytes of the largest segment file that a configuration may ask for (fixed).
pub const SEGMENT_BYTES_MAX: u64 = 4 * GIB;
/// Zeroed segments that are kept ready for any queue to take.
pub const SPARE_SEGMENTS: u64 = 1;
/// Bytes that are zeroed at once when a spare is made (fixed), and the pause behind them in
/// milliseconds: larger writes would stand before the commits in the disk's queue.
pub const ZEROING_STEP_BYTES: usize = 256 * 1024;
/// See [`ZEROING_STEP_BYTES`].
pub const ZEROING_PAUSE_MS: u64 = 1;
/// Bytes of the ring that hands a queue's fresh records from the journal to its drain.
pub const HOT_RING_BYTES: u64 = 4 * MIB;

/// Bytes of undelivered records of one queue; more are refused with 429.
pub const MAX_BACKLOG_BYTES: u64 = 10 * GIB;
/// Time that an `Idempotency-Key` is remembered, in milliseconds.
pub const IDEMPOTENCY_WINDOW_MS: u64 = 600_000;
/// Keys that are remembered for one queue; beyond it the oldest is forgotten, and counted.
pub const IDEMPOTENCY_KEYS_MAX: u64 = 1_000_000;
/// Bytes of one queue's dead-letter file; when it is full the drain waits rather than lose a record.
pub const DEAD_LETTERS_BYTES_MAX: u64 = 256 * MIB;
/// Bytes of lines without use from which on a purge, or what has expired, rewrites the dead-letter file, if they are
/// half of it (fixed).
pub const DEAD_LETTERS_COMPACT_BYTES_MIN: u64 = MIB;
/// A full dead-letter file is rewritten for the sake of expired records alone if that saves at least this fraction of it, as
/// its divisor: less, and the drain would rewrite it for every few records (fixed).
pub const EXPIRED_COMPACT_DIVISOR: u64 = 16;
/// Ranges of expired records on one line of a dead-letter file that was rewritten (fixed).
pub const EXPIRED_RANGES_MAX: usize = 4096;
/// How fast dead letters are redriven if the request does not say.
pub const REDRIVE_RATE: Rate = Rate::Limited { records: 1, period_ns: 10_000_000 };
/// Dead letters of one page of the admin API, if the request does not say.
pub const DEAD_LETTERS_PAGE: usize = 100;
/// The same at most (fixed).
pub const DEAD_LETTERS_PAGE_MAX: usize = 1000;
/// Bytes of lines that are read for one page; the last letter may go beyond (fixed).
pub const DEAD_LETTERS_PAGE_BYTES: u64 = 4 * MIB;

/// The longest delay that a client may ask for, in milliseconds; 0 takes none.
pub const DELAY_MS_MAX: u64 = 0;
/// Entries of a queue's `fair_weights` (fixed).
pub const FAIR_WEIGHTS_MAX: usize = 10_000;
/// Bytes of the name of a header that `fair_by` or `throttle.by` names (fixed).
pub const SELECTOR_HEADER_BYTES_MAX: usize = 64;
/// Period of a throttle's `limit`, in milliseconds.
pub const THROTTLE_PERIOD_MS: u64 = 1000;
/// Records of one key that a throttle lets leave at once.
pub const THROTTLE_BURST: u64 = 1;
/// Keys that a throttle remembers.
pub const THROTTLE_KEYS_MAX: u64 = 100_000;
/// Transactions of a queue that are on their way to the sink at a time.
pub const CONCURRENCY: u64 = 1;
/// What that may be raised to (fixed).
pub const CONCURRENCY_MAX: u32 = 16;
/// Records that the drain looks ahead for those that may leave before others.
pub const WINDOW_RECORDS_MAX: u64 = 100_000;
/// What that may be raised to (fixed).
pub const WINDOW_RECORDS_BOUND: u64 = 150_000;
// What is beyond the position has at most one range more than there are records that wait. Most of their gaps take one
// byte each, and a length of five bytes would be a range of 34 billion records.
const _: () = assert!((WINDOW_RECORDS_BOUND + 1) * 6 < BEYOND_BYTES_MAX as u64);
/// Bytes of memory for the records that the drain looks ahead.
pub const WINDOW_BYTES_MAX: u64 = 128 * MIB;
/// Records that are read into a window before those that are due are looked at again (fixed).
pub const WINDOW_FILL_RECORDS_MAX: u64 = 4096;
/// Bytes of those records (fixed; at least one record is always read).
pub const WINDOW_FILL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Records of one transaction.
pub const BATCH_RECORDS_MAX: u64 = 10_000;
/// Bytes of record bodies in one transaction (at least one record is always taken).
pub const BATCH_BYTES_MAX: u64 = 4 * MIB;
/// Time for which due records are gathered into one transaction, in milliseconds of the rate.
pub const BATCH_LINGER_MS_MAX: u64 = 5;
/// Bytes of the rows of the next transaction that are encoded while the sink works on the one before (fixed): more are
/// encoded when it is their turn.
pub const ENCODED_AHEAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of the rows of one record among them (fixed): nothing else of the drain runs while they are encoded.
pub const ENCODED_AHEAD_RECORD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of what is delivered beyond a queue's position, encoded for its row in the sink (fixed): they are
/// written anew with every transaction that changes them.
pub const BEYOND_BYTES_MAX: usize = 1024 * 1024;
/// Records that `burst` may let leave at once (fixed upper bound; the default follows from the rate).
pub const BURST_MAX: u64 = 1_000_000_000;
/// Entries of one queue's schedule (fixed).
pub const SCHEDULE_ENTRIES_MAX: usize = 64;
/// How long the wall clock is believed, by a schedule and by delays, before it is looked at again, in milliseconds (fixed).
pub const WALL_CLOCK_LOOK_MS: u64 = 1000;
/// Lateness that the pacer makes good beyond `linger_ms_max`, in milliseconds (fixed). With the default of
/// 5 ms the sink sees, within any second, at most 0.9 % of the rate and one record on top of it.
pub const PACER_SLACK_MS: u64 = 4;
/// Lateness beyond that, while there is something to send, that is made good gradually, in milliseconds of the rate (fixed).
pub const PACER_CATCH_UP_MS: u64 = 100;
/// Hundredths of the ceiling that a sink in trouble always gets.
pub const ADAPTIVE_SHARE_MIN_PERCENT: u64 = 5;
/// Failures in a row after which a sink is tried with single records.
pub const RETRY_FAILURES_MAX: u64 = 5;
/// First pause after a transient failure, in milliseconds.
pub const RETRY_BACKOFF_MS_MIN: u64 = 100;
/// Longest pause between two attempts, in milliseconds.
pub const RETRY_BACKOFF_MS_MAX: u64 = 10_000;
/// The longest that a sink may ask to be left alone, in milliseconds; what it asks beyond that is cut (fixed).
pub const RETRY_AFTER_MS_MAX: u64 = 300_000;
/// What `retry.attempts_max` may be (fixed upper bound; by default there is no such end).
pub const RETRY_ATTEMPTS_MAX: u64 = 1_000_000;
/// What `retry.age_ms_max` may be, in milliseconds (fixed upper bound, ten years; by default there is no such end).
pub const RETRY_AGE_MS_MAX: u64 = 10 * 366 * 24 * 3_600_000;
/// Rows that one record may become (fixed); one with more is a dead letter.
pub const ROWS_PER_RECORD_MAX: usize = 10_000;
/// Bytes that the rows of one record may share with each other, counted once for each row (fixed); a record with more is a dead
/// letter. A body of one mebibyte in each of ten thousand rows would otherwise be ten gibibytes, which no transaction ends with.
pub const SHARED_BYTES_PER_RECORD_MAX: usize = 64 * 1024 * 1024;
/// Time to connect to a sink, in milliseconds.
pub const SINK_CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Time for one transaction of a sink, in milliseconds.
pub const SINK_COMMIT_TIMEOUT_MS: u64 = 30_000;

/// Commands of a Redis sink that each record runs (fixed).
pub const REDIS_COMMANDS_MAX: usize = 32;
/// Words of one of them (fixed: Lua passes a function at most some 250 arguments).
pub const REDIS_COMMAND_WORDS_MAX: usize = 200;
/// Values of one batch for Redis (fixed: servers before 7.0 take 1,048,576 arguments at most). A larger batch is parted.
pub const REDIS_BATCH_VALUES_MAX: usize = 1_000_000;
/// Bytes of those values, with 8 for the length of each (fixed: a server closes connections that send 1 GiB at once). A larger batch is parted.
pub const REDIS_BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How often a cluster may send a connection to another of its nodes (fixed).
pub const REDIS_REDIRECTS_MAX: usize = 3;
/// How often a take-over writes and looks anew where an epoch has changed between its look and its write (fixed).
pub const REDIS_TAKE_OVERS_MAX: usize = 16;
/// What `min_replicas` may be (fixed).
pub const REDIS_MIN_REPLICAS_MAX: u64 = 16;
/// Requests of one batch that an HTTP service is sent at once.
pub const UPSTREAM_CONNECTIONS_MAX: u64 = 16;
/// What that may be raised to (fixed).
pub const UPSTREAM_CONNECTIONS_BOUND: u64 = 1024;
/// Time for which a connection to an HTTP service is kept without use, in milliseconds (fixed): less than what most servers
/// close theirs after, since a request that meets the close has to be sent again.
pub const UPSTREAM_IDLE_MS: u64 = 4000;
/// Bytes of a response that are read so that its connection can be used again; behind a longer one it is closed (fixed).
pub const UPSTREAM_RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Time for that, in milliseconds (fixed).
pub const UPSTREAM_BODY_MS: u64 = 1000;
/// Bytes of a refusal's body that are told of it (fixed).
pub const UPSTREAM_WORDS_BYTES_MAX: usize = 256;

/// Time that a shutdown waits for requests in flight, in milliseconds.
pub const SHUTDOWN_GRACE_MS: u64 = 10_000;

/// Alignment of everything that is written to a segment (fixed: `O_DIRECT`).
pub const BLOCK_BYTES: usize = 4096;

const _: () = assert!(
    METHOD_BYTES_MAX + TARGET_BYTES_MAX + KEPT_HEADERS_BYTES_MAX + 2 * FAIR_KEY_BYTES_MAX + 1024 < ATTRIBUTES_BYTES_MAX,
    "whatever a request may have fits the attributes of its record"
);
const _: () =
    assert!(ENCODED_AHEAD_BYTES_MAX < REDIS_BATCH_BYTES_MAX, "what is ahead of a batch for Redis must fit it");
const _: () = assert!(RING_BYTES >= COMMIT_BYTES_MAX, "a frame that fits a commit must fit the ring");
const _: () = assert!(COMMIT_BYTES_MAX >= 2 * RECORD_BYTES_MAX, "one record and its header must fit a commit");
const _: () = assert!(COMMIT_BYTES_MAX > BATCH_REQUEST_BYTES_MAX, "one NDJSON request must fit a commit");
const _: () = assert!(
    SEGMENT_BYTES >= COMMIT_BYTES_MAX + 2 * BLOCK_BYTES as u64,
    "a segment holds its header, one whole commit and its footer"
);
const _: () = assert!(HEAD_BYTES_MAX >= 8 * KIB, "hyper's smallest buffer");
const _: () = assert!(QUEUES_MAX <= u16::MAX as usize);
const _: () = assert!(RETRY_BACKOFF_MS_MIN <= RETRY_BACKOFF_MS_MAX);
