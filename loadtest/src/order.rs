//! The orders of a flash sale: JSON of about 270 bytes, each a pure function of a seed and an index.

use std::fmt;

/// The most records that one run can number: an order id ends in nine digits.
pub const MAX_RECORDS: u64 = 1_000_000_000;

const INDEX_DIGITS: usize = 9;
const STREETS: [&str; 8] = [
    "Rue des Lilas",
    "Hafenstrasse",
    "Via Garibaldi",
    "Calle de Alcala",
    "Prinsengracht",
    "Avenida da Liberdade",
    "Rue du Moulin",
    "Lange Gasse",
];
const CITIES: [&str; 8] = [
    "59000 Lille",
    "20457 Hamburg",
    "40121 Bologna",
    "28014 Madrid",
    "1016 Amsterdam",
    "1250 Lisboa",
    "1000 Bruxelles",
    "1080 Wien",
];
const NOTES: [&str; 8] = [
    "Please leave the parcel with the neighbour on the ground floor",
    "Ring twice, the bell of the second door does not always work",
    "This is a gift: please do not put the invoice into the parcel",
    "Delivery between nine and twelve, the shop is closed after that",
    "Call when you are downstairs, the lift needs a code from inside",
    "Second order of the day, send both of them together if possible",
    "The yard has a dog, it barks a lot but has never bitten anybody",
    "Put it into the blue box behind the gate, and thank you so much",
];

/// Names one run of a load, so that its orders can be told from those of every other run in the same table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunId(String);

/// Why a text cannot name a run.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` cannot name a run: use 1 to 32 letters, digits, `-`, `_` or `.`")]
pub struct RunIdError(String);

impl RunId {
    /// Takes `text` as the name of a run.
    ///
    /// # Errors
    /// It is not 1 to 32 characters of `[A-Za-z0-9._-]`; these need no escaping in JSON or in an HTTP header.
    pub fn new(text: impl Into<String>) -> Result<Self, RunIdError> {
        let text = text.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) { Ok(Self(text)) } else { Err(RunIdError(text)) }
    }

    /// Makes a name of 8 characters that another run is very unlikely to have.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("r{:07x}", rand::random::<u32>() >> 4))
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Appends the id of order `index`, `<run>-<index in 9 digits>`, without allocating beyond `out` itself.
    pub fn write_order_id(&self, index: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.push(b'-');
        let mut digits = [b'0'; INDEX_DIGITS];
        let mut left = index;
        for digit in digits.iter_mut().rev() {
            *digit = ascii_digit(u64::from(left));
            left /= 10;
        }
        out.extend_from_slice(&digits);
    }

    /// Reads the index back out of an order id; `None` when the id is not of this run.
    #[must_use]
    pub fn order_index(&self, order_id: &str) -> Option<u32> {
        let digits = order_id.strip_prefix(self.as_str())?.strip_prefix('-')?;
        if digits.len() != INDEX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Appends order `index` of `run` as JSON; nothing but `out` allocates. The same seed and index give the same order.
pub fn write_order(run: &RunId, seed: u64, index: u32, out: &mut Vec<u8>) {
    let mut random = Mixer(seed ^ u64::from(index).wrapping_mul(0xD6E8_FEB8_6659_FD93));
    out.extend_from_slice(br#"{"order_id":""#);
    run.write_order_id(index, out);
    out.extend_from_slice(br#"","user_id":"u-"#);
    write_decimal(100_000 + random.below(900_000), out);
    out.extend_from_slice(br#"","sku":"SKU-"#);
    write_decimal(1000 + random.below(9000), out);
    out.extend_from_slice(br#"","quantity":"#);
    write_decimal(1 + random.below(5), out);
    out.extend_from_slice(br#","price_cents":"#);
    write_decimal(499 + random.below(50_000), out);
    out.extend_from_slice(br#","currency":"EUR","address":""#);
    write_decimal(1 + random.below(199), out);
    out.push(b' ');
    out.extend_from_slice(random.choose(&STREETS).as_bytes());
    out.extend_from_slice(b", ");
    out.extend_from_slice(random.choose(&CITIES).as_bytes());
    out.extend_from_slice(br#"","note":""#);
    out.extend_from_slice(random.choose(&NOTES).as_bytes());
    out.extend_from_slice(br#". Thank you and see you next time"}"#);
}

/// The splitmix64 generator: one multiplication chain a draw, and every seed starts a good sequence.
struct Mixer(u64);

impl Mixer {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn choose<'a>(&mut self, among: &[&'a str; 8]) -> &'a str {
        among[(self.next() >> 61) as usize]
    }
}

pub(crate) fn write_decimal(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut left = value;
    loop {
        start -= 1;
        digits[start] = ascii_digit(left);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// The last decimal digit of `value`.
#[allow(clippy::cast_possible_truncation)]
fn ascii_digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(seed: u64, index: u32) -> Vec<u8> {
        let mut out = Vec::new();
        write_order(&RunId::new("flash-01").unwrap(), seed, index, &mut out);
        out
    }

    proptest! {
        #[test]
        fn an_order_is_json_of_about_270_bytes(seed: u64, index in 0u32..1_000_000_000) {
            let bytes = order(seed, index);
            prop_assert!((240..=300).contains(&bytes.len()), "{} bytes", bytes.len());
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let run = RunId::new("flash-01").unwrap();
            prop_assert_eq!(run.order_index(json["order_id"].as_str().unwrap()), Some(index));
            prop_assert!(json["quantity"].is_u64() && json["price_cents"].is_u64());
            prop_assert_eq!(order(seed, index), bytes);
        }

        #[test]
        fn decimals_are_written_as_the_standard_library_writes_them(value: u64) {
            let mut out = Vec::new();
            write_decimal(value, &mut out);
            prop_assert_eq!(out, value.to_string().into_bytes());
        }
    }

    #[test]
    fn orders_are_270_bytes_on_average() {
        let total: usize = (0..10_000).map(|index| order(1, index).len()).sum();
        assert!((260..=280).contains(&(total / 10_000)), "{}", total / 10_000);
    }

    #[test]
    fn only_ids_of_the_run_have_an_index() {
        let run = RunId::new("a-1").unwrap();
        assert_eq!(run.order_index("a-1-000000042"), Some(42));
        for foreign in ["a-1-42", "a-000000042", "b-1-000000042", "a-1-+00000042", "a-1-0000000420", "", "a-1-"] {
            assert_eq!(run.order_index(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn run_names_are_checked() {
        assert!(RunId::new(RunId::random().as_str()).is_ok());
        for bad in ["", "a b", "a\"b", "a\r\nb", "é", &"x".repeat(33)] {
            assert!(RunId::new(bad).is_err(), "{bad}");
        }
    }
}
