//! `verify`: counts the orders that a database holds.

use anyhow::Result;
use clap::Args;
use forebay_loadtest::order::RunId;
use forebay_loadtest::results::{aligned, grouped, rate};
use forebay_loadtest::verify::{Delivered, OrdersTable, Sink, count, count_rows};

/// Counts the orders that a database holds, by its own rows and its own clock.
#[derive(Args)]
pub struct VerifyArguments {
    /// The database: sqlite:PATH, a path, or postgres URL with user, password and database
    #[arg(long)]
    sink: String,
    /// The table of orders
    #[arg(long, default_value = "orders")]
    table: String,
    /// The run to count in detail; without it only the rows of the table are counted
    #[arg(long)]
    run: Option<String>,
    /// The column with the order id
    #[arg(long, value_name = "COLUMN", default_value = "order_id")]
    order_id_column: String,
    /// The column that the database stamps as a row arrives
    #[arg(long, value_name = "COLUMN", default_value = "drained_at")]
    drained_at_column: String,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub fn verify(arguments: &VerifyArguments) -> Result<()> {
    let sink = Sink::parse(&arguments.sink)?;
    let table = OrdersTable::with_columns(&arguments.table, &arguments.order_id_column, &arguments.drained_at_column)?;
    let Some(run) = &arguments.run else {
        let rows = count_rows(&sink, &table)?;
        if arguments.json {
            println!("{}", serde_json::json!({ "rows": rows }));
        } else {
            println!("rows  {}", grouped(rows));
        }
        return Ok(());
    };
    let delivered = count(&sink, &table, &RunId::new(run.as_str())?)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&delivered)?);
    } else {
        print!("{}", aligned(&rows(&delivered)));
    }
    Ok(())
}

fn rows(delivered: &Delivered) -> Vec<(String, String)> {
    let seconds = delivered.first_unix_us.zip(delivered.last_unix_us).map(|(first, last)| (last - first) as f64 / 1e6);
    [
        ("rows", grouped(delivered.rows)),
        ("distinct orders", grouped(delivered.distinct)),
        ("duplicated", grouped(delivered.duplicated)),
        ("first to last", seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.3} s"))),
        ("measured rate", delivered.measured_rate.map_or_else(|| "-".to_owned(), rate)),
        ("worst second from first row", grouped(delivered.per_second_max)),
        ("worst sliding second", grouped(delivered.per_second_max_sliding)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
