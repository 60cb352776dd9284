//! Durations and sizes as people write them: `250ms`, `7d`, `64MB`, `1MiB`.

use std::time::Duration;

const DURATIONS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads `250ms`, `1s`, `10m`, `2h` or `7d`: a whole number and one unit.
///
/// # Errors
/// A sentence that says how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    amount(text, &DURATIONS_MS).map(Duration::from_millis).ok_or_else(|| {
        "write a whole number and a unit, one of ms, s, m, h, d, such as \"250ms\" or \"7d\""
            .to_owned()
    })
}

/// Reads `512kB`, `64MB`, `1GB` (powers of 1,000) or `1MiB` (powers of 1,024) as bytes.
///
/// # Errors
/// A sentence that says how to write it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    amount(text, &SIZES).ok_or_else(|| {
        "write a whole number and a unit, one of B, kB, MB, GB, KiB, MiB, GiB, such as \"64MB\""
            .to_owned()
    })
}

/// `None` for what has no number, no unit of the table, or does not fit 64 bits.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that says it without a fraction: what [`parse_duration`] reads back.
pub(crate) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis() as u64;
    let unit = DURATIONS_MS.iter().rev().find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor));
    match unit {
        Some((unit, factor)) => format!("{}{unit}", ms / factor),
        None => "0s".to_owned(),
    }
}

/// The largest unit that says it without a fraction: what [`parse_size`] reads back.
pub(super) fn size_text(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*factor);
    match SIZES.iter().filter(fits).max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => "0B".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        for (text, ms) in
            [("250ms", 250), ("1s", 1_000), (" 10 m ", 600_000), ("7d", 604_800_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text:?}");
        }
        for (text, bytes) in
            [("64MB", 64_000_000), ("1MiB", 1_048_576), ("0B", 0), ("1 GB", 1_000_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn what_has_no_unit_or_does_not_fit_is_refused() {
        for text in
            ["", "1", "s", "-1s", "1.5s", "1S", "1w", "99999999999999999999s", "999999999999999d"]
        {
            assert!(parse_duration(text).is_err(), "{text:?} was taken");
        }
        for text in ["", "64", "MB", "64mb", "64M", "99999999999GB"] {
            assert!(parse_size(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for ms in [0, 1, 1_500, 60_000, 90_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1_000, 1_024, 64_000_000, 1 << 30] {
            assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }
    }
}
