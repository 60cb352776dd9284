//! The end of a line: `#n*CRC`, line counter and checksum, in every format. Pure.
//!
//! ```text
//! fruiting temp=24.5 humidity=85 #17*9C41
//! |------------- body ---------| counter
//! |--------- checksummed ----------|
//! ```
//!
//! A `*` outside of quotes belongs to the checksum and to nothing else. So a line whose
//! checksum lost a digit is refused even where checksums are optional, and is not read as a
//! value that ends in `*9C4`. Where nobody looks for one, `*` and `#` are ordinary characters.

use super::refusal::{Refusal, shown};
use super::settings::Checksum;

/// What a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside<'l> {
    /// Without blanks at its ends, and without control characters other than tabs.
    Text(&'l str),
    /// A struct.
    Packed(&'l [u8]),
}

/// A line without its trailer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body<'l> {
    pub(super) inside: Inside<'l>,
    /// `#n`
    pub(super) counter: Option<u32>,
    /// The checksum was there, and right.
    pub(super) verified: bool,
}

/// Verifies a line and takes its trailer off.
pub(super) fn split(line: &[u8], checksum: Checksum) -> Result<Body<'_>, Refusal> {
    let (covered, verified) = match (checksum, star(line)) {
        (Checksum::Nmea, _) => (verify_nmea(line)?, true),
        (Checksum::None, _) => (line, false),
        (_, Some(at)) => (verify(&line[..at], &line[at + 1..])?, true),
        (Checksum::Required, None) => return Err(Refusal::ChecksumMissing),
        (Checksum::Optional, None) => (line, false),
    };
    let text = text(covered)?;
    let (text, counter) = match checksum {
        Checksum::Nmea | Checksum::None => (text, None),
        Checksum::Required | Checksum::Optional => split_counter(text)?,
    };
    Ok(Body { inside: Inside::Text(text), counter, verified })
}

/// Verifies a packet whose stuffing was taken out. It holds a struct, or else a line.
pub(super) fn split_packet(
    packet: &[u8],
    checksum: Checksum,
    packed: bool,
) -> Result<Body<'_>, Refusal> {
    let (covered, verified) = match (checksum, packet.split_last_chunk()) {
        (Checksum::None, _) => (packet, false),
        (_, Some((covered, crc))) if u16::from_be_bytes(*crc) == crc16(covered) => (covered, true),
        _ => return Err(Refusal::PacketChecksum),
    };
    if packed {
        return Ok(Body { inside: Inside::Packed(covered), counter: None, verified });
    }
    let (text, counter) = split_counter(text(covered)?)?;
    Ok(Body { inside: Inside::Text(text), counter, verified })
}

fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotText)?;
    match text.chars().find(|c| c.is_control() && *c != '\t') {
        Some(control) => Err(Refusal::Control(control)),
        None => Ok(text.trim()),
    }
}

/// `$GPGGA,...*47`: all bytes between `$` and `*`, each exclusive-or the next.
fn verify_nmea(line: &[u8]) -> Result<&[u8], Refusal> {
    let line = line.trim_ascii();
    let (covered, digits) = line.split_last_chunk::<3>().ok_or(Refusal::Nmea)?;
    let [b'$' | b'!', summed @ ..] = covered else { return Err(Refusal::Nmea) };
    let [b'*', digits @ ..] = digits else { return Err(Refusal::Nmea) };
    let found = hex(digits).ok_or(Refusal::Nmea)? as u8;
    let computed = summed.iter().fold(0, |sum, byte| sum ^ byte);
    if found == computed { Ok(covered) } else { Err(Refusal::NmeaWrong { found, computed }) }
}

/// Upper case only: where both cases count, a flipped bit turns one right digit into another
/// right digit.
fn hex(digits: &[u8]) -> Option<u16> {
    let strict = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
    let digits = std::str::from_utf8(digits).ok().filter(|_| strict)?;
    u16::from_str_radix(digits, 16).ok()
}

/// Where the checksum begins: the last `*`, unless a quoted text or an object ends after it.
fn star(line: &[u8]) -> Option<usize> {
    let at = line.iter().rposition(|byte| *byte == b'*')?;
    let in_value = line[at..].iter().any(|byte| matches!(byte, b'"' | b'}'));
    (!in_value).then_some(at)
}

fn verify<'l>(covered: &'l [u8], digits: &[u8]) -> Result<&'l [u8], Refusal> {
    let found = Some(digits).filter(|digits| digits.len() == 4).and_then(hex);
    let found = found.ok_or(Refusal::ChecksumDigits)?;
    let computed = crc16(covered);
    if found == computed { Ok(covered) } else { Err(Refusal::ChecksumWrong { found, computed }) }
}

fn split_counter(text: &str) -> Result<(&str, Option<u32>), Refusal> {
    let start = text.rfind([' ', '\t', '}']).map_or(0, |at| at + 1);
    let word = &text[start..];
    let Some(digits) = word.strip_prefix('#').filter(|rest| !rest.contains('"')) else {
        return Ok((text, None));
    };
    let digits = Some(digits).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
    let counter = digits.and_then(|digits| digits.parse().ok());
    let counter = counter.ok_or_else(|| Refusal::Counter(shown(word)))?;
    Ok((text[..start].trim_end(), Some(counter)))
}

/// CRC-16/CCITT-FALSE: polynomial 0x1021, start 0xFFFF, nothing reflected, nothing added.
/// Of `123456789` it is 0x29B1.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0xFFFF, |crc, byte| crc << 8 ^ CRC_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The `#n` of the lines of one board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineCounter {
    /// No line with `#n` was seen.
    Unknown,
    /// The board has said `!boot`: it begins again with 0 or 1.
    Booted,
    /// The `#n` of the last line.
    At(u32),
}

/// What the next `#n` says about the lines before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many lines between the last one and this one did not come.
    Lost(u64),
    /// The same number again: sent twice, or a counter that stands still. The line counts
    /// all the same, since nobody can tell which of the two it is.
    Repeated,
}

impl LineCounter {
    /// Moves on to a line's `#n`. It may wrap around at 32 bits.
    ///
    /// A number up to half of the range ahead is a gap; one behind is a board that has
    /// started again without `!boot`, or a counter of fewer bits that wrapped: then nothing
    /// is known about lines between.
    pub(super) fn step(&mut self, next: u32) -> Step {
        let before = std::mem::replace(self, LineCounter::At(next));
        let ahead = match before {
            LineCounter::Unknown => 1,
            // Whether the first is 0 or 1 is not known; 1 never counts a line too many.
            LineCounter::Booted => next.max(1),
            LineCounter::At(last) => next.wrapping_sub(last),
        };
        match ahead {
            0 => Step::Repeated,
            1..=0x7FFF_FFFF => Step::Lost(u64::from(ahead - 1)),
            _ => Step::Lost(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(line: &str) -> Result<Body<'_>, Refusal> {
        split(line.as_bytes(), Checksum::Required)
    }

    fn optional(line: &str) -> Result<Body<'_>, Refusal> {
        split(line.as_bytes(), Checksum::Optional)
    }

    fn signed(text: &str) -> String {
        format!("{text}*{:04X}", crc16(text.as_bytes()))
    }

    #[test]
    fn the_checksum_is_crc16_ccitt_false() {
        assert_eq!(crc16(b"123456789"), 0x29B1);
        assert_eq!(crc16(b""), 0xFFFF);
    }

    fn body(text: &str, counter: Option<u32>, verified: bool) -> Body<'_> {
        Body { inside: Inside::Text(text), counter, verified }
    }

    #[test]
    fn a_right_trailer_is_taken_off() {
        let line = signed("fruiting temp=24.5 #17");
        let body = body("fruiting temp=24.5", Some(17), true);
        assert_eq!(required(&line), Ok(body));
        let line = signed("temp=24.5");
        assert_eq!(required(&line).unwrap().counter, None);
        let line = signed("{\"a\":1}#4294967295");
        assert_eq!(required(&line).unwrap().counter, Some(u32::MAX));
    }

    #[test]
    fn a_wrong_checksum_is_refused_even_where_it_is_optional() {
        let line = signed("temp=24.5").replace("24", "25");
        assert!(matches!(required(&line), Err(Refusal::ChecksumWrong { .. })));
        assert!(matches!(optional(&line), Err(Refusal::ChecksumWrong { .. })));
    }

    #[test]
    fn checksum_digits_are_four_and_upper_case() {
        let line = signed("a=b");
        let lower = format!("{}{}", &line[..4], line[4..].to_lowercase());
        assert_ne!(line, lower, "pick a text whose checksum has a letter");
        for bad in [lower.as_str(), &line[..7], "temp=1*", "temp=1*+12F", "temp=1*12345"] {
            assert_eq!(optional(bad), Err(Refusal::ChecksumDigits), "{bad:?}");
        }
    }

    #[test]
    fn a_line_without_a_checksum_counts_where_it_is_optional() {
        assert_eq!(required("temp=1 #2"), Err(Refusal::ChecksumMissing));
        assert_eq!(optional("temp=1 #2"), Ok(body("temp=1", Some(2), false)));
    }

    #[test]
    fn a_star_or_number_sign_within_quotes_is_text() {
        for text in
            ["label=\"a*9C41\"", "label=\"a #5\"", "{\"label\":\"a*b\"}", "{\"a\":\"x #5\"}"]
        {
            assert_eq!(optional(text), Ok(body(text, None, false)));
            let line = signed(text);
            assert_eq!(required(&line), Ok(body(text, None, true)));
        }
    }

    #[test]
    fn where_nobody_looks_for_a_checksum_its_marks_are_characters() {
        for text in ["2*3", "temp=1 #2", "a*9C41"] {
            assert_eq!(split(text.as_bytes(), Checksum::None), Ok(body(text, None, false)));
        }
    }

    #[test]
    fn nmea_has_a_checksum_of_its_own() {
        let nmea = |line: &'static str| split(line.as_bytes(), Checksum::Nmea);
        let gga = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,";
        let line = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47";
        assert_eq!(nmea(line), Ok(body(gga, None, true)));
        let damaged = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.5,M,46.9,M,,*47";
        assert_eq!(nmea(damaged), Err(Refusal::NmeaWrong { found: 0x47, computed: 0x46 }));
        for bad in ["", "*47", "$", "GPGGA*56", "$GPGGA", "$GPGGA*5", "$GPGGA*5a", "$GPGGA*0056"] {
            assert_eq!(nmea(bad), Err(Refusal::Nmea), "{bad:?}");
        }
    }

    #[test]
    fn a_packet_ends_with_its_crc() {
        let mut packet = b"temp=1 #2".to_vec();
        packet.extend(crc16(&packet).to_be_bytes());
        let required = |packed| split_packet(&packet, Checksum::Required, packed);
        assert_eq!(required(false), Ok(body("temp=1", Some(2), true)));
        assert_eq!(required(true).unwrap().inside, Inside::Packed(b"temp=1 #2"));
        let unverified = split_packet(b"\x01\x00", Checksum::None, true).unwrap();
        assert_eq!((unverified.inside, unverified.verified), (Inside::Packed(&[1, 0]), false));
        for damaged in [&packet[1..], &packet[..1], &[]] {
            let refused = split_packet(damaged, Checksum::Required, true);
            assert_eq!(refused, Err(Refusal::PacketChecksum));
        }
    }

    #[test]
    fn a_counter_that_is_no_u32_is_refused() {
        for bad in ["a=1 #", "a=1 #-1", "a=1 #4294967296", "a=1 #1x"] {
            assert!(matches!(optional(bad), Err(Refusal::Counter(_))), "{bad:?} was taken");
        }
    }

    #[test]
    fn gaps_are_counted_also_where_the_counter_wraps_around() {
        let mut counter = LineCounter::Unknown;
        assert_eq!(counter.step(u32::MAX - 2), Step::Lost(0));
        assert_eq!(counter.step(u32::MAX - 1), Step::Lost(0));
        assert_eq!(counter.step(1), Step::Lost(2));
        assert_eq!(counter.step(1), Step::Repeated);
        assert_eq!(counter.step(12), Step::Lost(10));
    }

    #[test]
    fn a_board_that_starts_again_has_lost_nothing_that_we_know_of() {
        let mut counter = LineCounter::At(5_000);
        assert_eq!(counter.step(1), Step::Lost(0));
        for (first, lost) in [(0, 0), (1, 0), (4, 3)] {
            let mut counter = LineCounter::Booted;
            assert_eq!(counter.step(first), Step::Lost(lost));
        }
    }
}
