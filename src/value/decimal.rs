//! Numbers in decimal notation, taken apart and moved digit by digit, without a float.
//!
//! The work depends on what is written and not on what an exponent says: what would be beyond 64 bits is refused before it is
//! reckoned.

/// Digits of the longest integer of 64 bits.
const INTEGER_DIGITS_MAX: i64 = 19;
/// An exponent whose digits are beyond counting.
const EXPONENT_FAR: i64 = i64::MAX / 4;

/// A number in JSON's notation, taken apart.
pub(super) struct Decimal<'t> {
    is_negative: bool,
    whole: &'t str,
    fraction: &'t str,
    exponent: i64,
}

impl<'t> Decimal<'t> {
    /// Takes text apart; `None` if it is no such number.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (mantissa, exponent) =
            text.split_once(['e', 'E']).map_or((text, None), |(before, behind)| (before, Some(behind)));
        let (is_negative, unsigned) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
        let (whole, fraction) =
            unsigned.split_once('.').map_or((unsigned, None), |(before, behind)| (before, Some(behind)));
        let is_sound = digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(digits);
        let exponent = match exponent {
            None => 0,
            Some(text) => {
                let magnitude = text.strip_prefix(['+', '-']).unwrap_or(text);
                let far = digits(magnitude).then_some(EXPONENT_FAR)?;
                let exponent = magnitude.parse().unwrap_or(far).min(far);
                if text.starts_with('-') { -exponent } else { exponent }
            }
        };
        is_sound.then_some(Self { is_negative, whole, fraction: fraction.unwrap_or_default(), exponent })
    }

    /// This times 10 to the power of `shift` without what is behind the point, and whether there was nothing behind it; `None`
    /// if that is beyond 64 bits.
    pub(super) fn scaled(&self, shift: i64) -> Option<(i64, bool)> {
        let mut digits = self.whole.bytes().chain(self.fraction.bytes()).skip_while(|digit| *digit == b'0');
        let leading = self.whole.len() + self.fraction.len() - digits.clone().count();
        if digits.clone().next().is_none() {
            return Some((0, true));
        }
        // Digits that stand before the point.
        let point = i64::try_from(self.whole.len()).ok()? - i64::try_from(leading).ok()? + self.exponent + shift;
        if point > INTEGER_DIGITS_MAX {
            return None;
        }
        let mut value = 0_i128;
        for _ in 0..point.max(0) {
            value = value * 10 + i128::from(digits.next().unwrap_or(b'0') - b'0');
        }
        let value = if self.is_negative { -value } else { value };
        Some((i64::try_from(value).ok()?, digits.all(|digit| digit == b'0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scaling_is_what_arithmetic_says(value in -1_000_000_000_i64..1_000_000_000, exponent in -12_i64..4, shift in 0_i64..7) {
            let (scaled, is_exact) = Decimal::parse(&format!("{value}e{exponent}")).unwrap().scaled(shift).unwrap();
            let power = exponent + shift;
            let factor = 10_i128.pow(u32::try_from(power.abs()).unwrap());
            let value = i128::from(value);
            let wanted = if power < 0 { value / factor } else { value * factor };
            prop_assert_eq!(i128::from(scaled), wanted);
            prop_assert_eq!(is_exact, power >= 0 || value % factor == 0);
        }
    }
}
