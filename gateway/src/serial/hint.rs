//! What to tell a person whose board sends nothing but lines that are refused. Pure.

use std::sync::Arc;

use super::format::Reader;
use super::rules::Rules;
use super::trailer::{self, Inside};
use super::{Checksum, Format, Place, PortConfig, Refusal};

/// Refused lines in a row before something is said. A few are normal while a board starts.
const LINES_BEFORE_HINT: u32 = 10;
/// A line is shown up to here.
const SHOWN_CHARS_MAX: usize = 80;

/// The refused lines since the last good one.
#[derive(Debug)]
pub(super) struct Streak {
    port: Arc<str>,
    format: Format,
    /// Bits per second, of a serial port.
    baud: Option<u32>,
    lines: u32,
    without_checksum: u32,
    bytes: usize,
    unprintable: usize,
    said: bool,
}

impl Streak {
    pub(super) fn new(port: &PortConfig) -> Self {
        let baud = match port.place {
            Place::Device { baud, .. } => Some(baud),
            Place::Socket(_) => None,
        };
        Streak {
            port: port.name.clone(),
            format: port.format.clone(),
            baud,
            lines: 0,
            without_checksum: 0,
            bytes: 0,
            unprintable: 0,
            said: false,
        }
    }

    /// A line was taken.
    pub(super) fn end(&mut self) {
        (self.lines, self.without_checksum, self.bytes, self.unprintable) = (0, 0, 0, 0);
        self.said = false;
    }

    /// A line was refused; gives the hint if this is the one that makes it due.
    pub(super) fn refused(&mut self, line: &[u8], why: &Refusal) -> Option<String> {
        if self.said {
            return None;
        }
        self.lines += 1;
        self.without_checksum += u32::from(*why == Refusal::ChecksumMissing);
        self.bytes += line.len();
        self.unprintable += line.iter().filter(|byte| !matches!(byte, b' '..=b'~' | b'\t')).count();
        self.said = self.lines >= LINES_BEFORE_HINT;
        self.said.then(|| self.hint(line, why))
    }

    fn hint(&self, line: &[u8], why: &Refusal) -> String {
        let shown = shown(line);
        let port = &self.port;
        format!(
            "port {port}: {LINES_BEFORE_HINT} lines in a row were refused. The last one: `{shown}`: {why}. {}",
            self.next_step(line, why)
        )
    }

    fn next_step(&self, line: &[u8], why: &Refusal) -> String {
        let is_text = self.unprintable * 2 <= self.bytes;
        let packets = matches!(self.format, Format::Cobs(_));
        match (self.baud, why) {
            (Some(baud), _) if !is_text && !packets => format!(
                "Most of it is not text: the board probably does not send at baud = {baud}; set baud in this [[port]] to what the sketch says in Serial.begin()"
            ),
            _ if is_text && packets => {
                "It looks like text: COBS packets end with a zero byte, not with println(); set format in this [[port]] to what the board sends".to_owned()
            }
            (_, Refusal::TooLong) => {
                "End each line with println(), and check baud in this [[port]]".to_owned()
            }
            (_, Refusal::ChecksumWrong { .. } | Refusal::PacketChecksum | Refusal::NmeaWrong { .. }) => {
                "Either the wire is noisy, or the board computes another checksum: it has to cover all bytes before it"
                    .to_owned()
            }
            (_, Refusal::Pattern) => {
                "Write a pattern for it into patterns of this [[port]], or into ignore_lines if it measures nothing".to_owned()
            }
            (_, Refusal::ChecksumMissing) if self.would_read(line) => {
                "If the board sends no checksums, set checksum = \"optional\" in this [[port]]".to_owned()
            }
            _ if packets => {
                "Compare fields in this [[port]] with the struct in the sketch, which has to be packed, and baud with Serial.begin()".to_owned()
            }
            _ => match likely_format(&String::from_utf8_lossy(line)) {
                Some((word, advice)) if word != self.format.word() => advice.to_owned(),
                _ => "Correct what the board prints".to_owned(),
            },
        }
    }

    /// Only its checksum is missing.
    fn would_read(&self, line: &[u8]) -> bool {
        let body = trailer::split(line, Checksum::Optional);
        let inside = body.map(|body| body.inside);
        let read =
            |inside| Reader::default().reading(&self.format, &Rules::default(), inside).is_ok();
        inside.is_ok_and(read)
    }
}

/// In what format a line would make sense, and what to set then. The likeliest first.
fn likely_format(line: &str) -> Option<(&'static str, &'static str)> {
    let reads = |format: Format| {
        let read = Reader::default().reading(&format, &Rules::default(), Inside::Text(line.trim()));
        read.is_ok_and(|content| content.is_some())
    };
    if line.trim_start().starts_with('{') {
        return Some(("json", "It looks like JSON: set format = \"json\" in this [[port]]"));
    }
    if line.starts_with('$') && line.contains('*') {
        return Some((
            "regex",
            "It looks like NMEA 0183, as GPS receivers send it: set format = \"regex\" and checksum = \"nmea\" in this [[port]], and describe in patterns what is wanted of it",
        ));
    }
    if reads(Format::Plotter) {
        return Some((
            "plotter",
            "It looks like lines for the serial plotter: set format = \"plotter\" in this [[port]]",
        ));
    }
    if reads(Format::Native) {
        return Some((
            "native",
            "It looks like the native format: set format = \"native\" in this [[port]]",
        ));
    }
    if reads(Format::Influx) {
        return Some((
            "influx",
            "It looks like the InfluxDB line protocol: set format = \"influx\" in this [[port]]",
        ));
    }
    Some((
        "regex",
        "If these lines were written for people, set format = \"regex\" in this [[port]], and describe in patterns what is wanted of them",
    ))
}

/// Printable, and short: what a port sends may move a terminal's cursor.
fn shown(line: &[u8]) -> String {
    let start = &line[..line.len().min(SHOWN_CHARS_MAX)];
    let escaped = start.escape_ascii().to_string();
    if start.len() == line.len() && escaped.len() <= SHOWN_CHARS_MAX {
        return escaped;
    }
    // ASCII only, so that every byte is a character.
    format!("{}...", &escaped[..escaped.len().min(SHOWN_CHARS_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::Pattern;

    fn hint(format: Format, checksum: Checksum, line: &[u8], why: &Refusal) -> String {
        let place = Place::Device { path: "/dev/null".into(), baud: 9_600, reset_on_open: true };
        let port = PortConfig { place, format, checksum, ..PortConfig::new("fruiting", "") };
        let mut streak = Streak::new(&port);
        for _ in 1..LINES_BEFORE_HINT {
            assert_eq!(streak.refused(line, why), None);
        }
        streak.refused(line, why).expect("the tenth line is due")
    }

    #[test]
    fn the_first_sketch_without_checksums_is_told_which_setting_to_change() {
        let text =
            hint(Format::Native, Checksum::Required, b"temp=24.5", &Refusal::ChecksumMissing);
        assert!(text.contains("port fruiting"), "{text}");
        assert!(text.contains("`temp=24.5`"), "{text}");
        assert!(text.contains("checksum = \"optional\""), "{text}");
    }

    #[test]
    fn garbage_names_the_baud_rate_and_is_shown_escaped_and_cut() {
        let text =
            hint(Format::Native, Checksum::Required, &[0x80; 4_000], &Refusal::ChecksumMissing);
        assert!(text.contains("baud = 9600"), "{text}");
        let shown = text.split('`').nth(1).unwrap();
        assert_eq!(shown.len(), SHOWN_CHARS_MAX + 3, "{shown}");
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
    }

    #[test]
    fn the_likely_format_is_named_also_where_checksums_are_missing_first() {
        let native = |line: &str| {
            hint(Format::Native, Checksum::Required, line.as_bytes(), &Refusal::ChecksumMissing)
        };
        for (line, said) in [
            ("{\"a\":1}", "format = \"json\""),
            ("temp:24.5,humidity:85", "format = \"plotter\""),
            ("24.5\t85", "format = \"plotter\""),
            ("$GPGGA,1,2*47", "checksum = \"nmea\""),
            ("air,room=2 temp=24.5,co2=800i", "format = \"influx\""),
            ("Humidity: 45.00%  Temperature: 23.10 C", "format = \"regex\""),
        ] {
            let text = native(line);
            assert!(text.contains(said), "{line}: {text}");
        }
        let text = hint(Format::Json, Checksum::Optional, b"a=1", &Refusal::Json("x".into()));
        assert!(text.contains("format = \"native\""), "{text}");
    }

    #[test]
    fn what_no_pattern_matches_wants_a_pattern_and_text_is_no_packet() {
        let pattern = Format::Regex(vec![Pattern::of_metrics("^(?<t>[0-9]+)$").unwrap()]);
        let text = hint(pattern, Checksum::None, b"DHTxx test!", &Refusal::Pattern);
        assert!(text.contains("ignore_lines"), "{text}");
        let text = hint(Format::Cobs(Vec::new()), Checksum::Required, b"a=1\n", &Refusal::TooLong);
        assert!(text.contains("zero byte"), "{text}");
        let text = hint(Format::Cobs(Vec::new()), Checksum::Required, &[7; 9], &Refusal::Stuffing);
        assert!(text.contains("fields"), "{text}");
        let why = Refusal::PacketLength { expected: 4, found: 9 };
        let text = hint(Format::Cobs(Vec::new()), Checksum::Required, &[7; 9], &why);
        assert!(text.contains("fields") && !text.contains("regex"), "{text}");
    }

    #[test]
    fn a_hint_comes_once_until_a_line_is_good_again() {
        let mut streak = Streak::new(&PortConfig::new("p", ""));
        let mut hints = |lines: u32| {
            let said = (0..lines).filter_map(|_| streak.refused(b"x", &Refusal::Empty)).count();
            streak.end();
            said
        };
        assert_eq!(hints(9), 0);
        assert_eq!(hints(9), 0);
        assert_eq!(hints(1_000), 1);
        assert_eq!(hints(10), 1);
    }
}
