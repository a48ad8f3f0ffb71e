//! What a sink makes of records.

use forebay::config::{Conflict, Source, Target};
use forebay::record::Record;
use forebay::sink::encoded::Encoder;
use forebay::sink::mapping::{Plan, TablePlan};
use forebay::sink::postgres::table_encoder;
use forebay::sink::{Delivery, Dialect};
use tokio_postgres::types::Type;

use super::{QUEUE, configuration};

/// A ticket is about as long as this.
pub const TICKET: &str = "orders-1f4a-0123456789abcdef";

/// A table of PostgreSQL's.
pub struct Table {
    /// Where the values come from.
    pub plan: TablePlan,
    encoder: Encoder,
}

impl Table {
    /// The table that forebay creates, whose body is a `bytea`.
    #[must_use]
    pub fn created() -> Self {
        let target = &configuration().queues[QUEUE].sink.target;
        Self::new(target, &[Type::TEXT, Type::TIMESTAMPTZ, Type::TEXT, Type::TEXT, Type::BYTEA])
    }

    /// A table of the user's, filled from the orders' JSON.
    #[must_use]
    pub fn of_pointers() -> Self {
        let pointers = ["/order_id", "/customer/id", "/customer/country", "/amount_cents", "/note"];
        let columns = pointers.map(|pointer| (pointer.replace('/', "_"), Source::Pointer(pointer.to_owned()).into()));
        let target = Target::Table {
            table: "shop_orders".to_owned(),
            columns: columns.to_vec(),
            rows: None,
            conflict: Conflict::Error,
        };
        Self::new(&target, &[Type::TEXT, Type::TEXT, Type::TEXT, Type::INT8, Type::TEXT])
    }

    fn new(target: &Target, types: &[Type]) -> Self {
        let plan = plan(target);
        Self { encoder: table_encoder(plan.clone(), types), plan }
    }

    /// What COPY is told of these deliveries; returns its length.
    #[must_use]
    pub fn encode(&self, deliveries: &[Delivery<'_>]) -> usize {
        // The sink sends rows away chunk by chunk, so its memory does not grow with the batch.
        let mut out = Vec::with_capacity(deliveries.iter().map(|delivery| 2 * delivery.record.body.len() + 128).sum());
        for delivery in deliveries {
            self.encoder.append(delivery, usize::MAX, &mut out).unwrap();
        }
        out.len()
    }
}

fn plan(target: &Target) -> TablePlan {
    match Plan::new(target, QUEUE, Dialect::Postgres).unwrap() {
        Plan::Table(plan) => plan,
        Plan::Statement(_) => panic!("the target is a table"),
    }
}

/// The delivery of a record.
#[must_use]
pub fn delivery(record: Record<'_>) -> Delivery<'_> {
    Delivery { sequence: 1, record, ticket: TICKET }
}
