//! Drained records per second as bars of text.

use std::fmt::Write as _;

use forebay_loadtest::results::grouped;

/// Rows that fit a screen; more seconds than this are merged.
const ROWS_MAX: usize = 40;
/// Eighths of a character of the bar that stands for the full rate.
const FULL_EIGHTHS: f64 = 40.0 * 8.0;
/// Eighths at which a bar is cut off: a quarter above the rate.
const CUT_EIGHTHS: f64 = FULL_EIGHTHS * 1.25;
/// Blocks of one to seven eighths.
const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// One row for each second from the first arrival on, or for several if there are many. The bars are as
/// long as the share of `rate`; without one, of the busiest row.
pub fn draw(per_second: &[u64], rate: Option<f64>) -> String {
    let merged = per_second.len().div_ceil(ROWS_MAX).max(1);
    let rows: Vec<(usize, u64)> = per_second.chunks(merged).map(|row| (row.len(), row.iter().sum())).collect();
    let busiest = rows.iter().map(|(seconds, count)| *count as f64 / *seconds as f64).fold(1.0, f64::max);
    let full = rate.unwrap_or(busiest);
    let scale = if rate.is_some() { "the configured rate" } else { "the busiest second" };
    let mut text = format!("Drained records per second; {} is {scale}", bar(1.0));
    if merged > 1 {
        // Writing to a String cannot fail.
        let _ = write!(text, "; {merged} seconds a row, as their mean");
    }
    text.push('\n');
    let mut second = 0;
    for (seconds, count) in rows {
        let mean = count as f64 / seconds as f64;
        let percent = rate.map_or_else(String::new, |rate| format!("  {:>5.1} %", mean / rate * 100.0));
        let shown = grouped(rounded(mean));
        let _ = writeln!(text, "{:>6} s  {shown:>9}{percent}  {}", second + 1, bar(mean / full));
        second += seconds;
    }
    text
}

/// A bar for a share of the full length.
fn bar(share: f64) -> String {
    let eighths = rounded((share * FULL_EIGHTHS).clamp(0.0, CUT_EIGHTHS));
    let whole = usize::try_from(eighths / 8).unwrap_or(0);
    let mut bar = "█".repeat(whole);
    if let Some(part) = usize::try_from(eighths % 8).ok().and_then(|part| PARTS.get(part.checked_sub(1)?)) {
        bar.push(*part);
    }
    bar
}

/// The cast saturates, and nothing negative comes here.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_scaled_to_the_rate() {
        assert_eq!(bar(1.0).chars().count(), 40);
        assert_eq!(bar(0.5), "█".repeat(20));
        assert_eq!(bar(1.0 / 320.0), "▏");
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(9.0).chars().count(), 50);
    }

    #[test]
    fn a_row_says_second_count_and_share() {
        let text = draw(&[1000, 500], Some(1000.0));
        let rows: Vec<&str> = text.lines().skip(1).map(str::trim_start).collect();
        assert_eq!(rows[0], format!("1 s      1,000  100.0 %  {}", bar(1.0)));
        assert_eq!(rows[1], format!("2 s        500   50.0 %  {}", bar(0.5)));
    }

    #[test]
    fn many_seconds_are_merged_evenly() {
        let text = draw(&[100; 100], Some(100.0));
        let rows: Vec<&str> = text.lines().skip(1).map(str::trim_start).collect();
        assert_eq!(rows.len(), 34);
        assert!(rows[1].starts_with("4 s "), "{text}");
        assert!(rows.iter().all(|row| row.contains("100.0 %")), "{text}");
    }

    #[test]
    fn without_a_rate_the_busiest_row_is_full() {
        let text = draw(&[10, 20], None);
        assert!(text.ends_with(&format!("{}\n", bar(1.0))) && !text.contains('%'), "{text}");
        assert_eq!(draw(&[], None).lines().count(), 1);
    }
}
