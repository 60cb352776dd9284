//! What to tell a person whose board sends nothing but lines that are refused. Pure.

use std::sync::Arc;

use super::{Checksum, Format, Refusal};

/// Refused lines in a row before something is said. A few are normal while a board starts.
const LINES_BEFORE_HINT: u32 = 10;
/// A line is shown up to here.
const SHOWN_CHARS_MAX: usize = 80;

/// The refused lines since the last good one.
#[derive(Debug)]
pub(super) struct Streak {
    port: Arc<str>,
    format: Format,
    checksum: Checksum,
    baud: u32,
    lines: u32,
    without_checksum: u32,
    bytes: usize,
    unprintable: usize,
    said: bool,
}

impl Streak {
    pub(super) fn new(port: Arc<str>, format: Format, checksum: Checksum, baud: u32) -> Self {
        Streak {
            port,
            format,
            checksum,
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
        let object = line.trim_ascii_start().starts_with(b"{");
        if self.unprintable * 2 > self.bytes {
            return format!(
                "Most of it is not text: the board probably does not send at baud = {}; set baud in this [[port]] to what the sketch says in Serial.begin()",
                self.baud
            );
        }
        match (self.format, why) {
            (Format::Native, _) if object => {
                "It looks like JSON: set format = \"json\" in this [[port]]".to_owned()
            }
            (Format::Json, Refusal::Json(_)) if !object => {
                "It does not look like JSON: set format = \"native\" in this [[port]], or see what the board prints"
                    .to_owned()
            }
            (_, Refusal::ChecksumMissing) if self.checksum == Checksum::Required => {
                "If the board sends no checksums, set checksum = \"optional\" in this [[port]]".to_owned()
            }
            (_, Refusal::ChecksumWrong { .. }) => {
                "Either the wire is noisy, or the board computes another checksum: it has to cover all bytes before the *"
                    .to_owned()
            }
            (_, Refusal::TooLong) => {
                "End each line with println(), and check baud in this [[port]]".to_owned()
            }
            _ => "Correct what the board prints".to_owned(),
        }
    }
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

    fn hint(format: Format, checksum: Checksum, line: &[u8], why: &Refusal) -> String {
        let mut streak = Streak::new("fruiting".into(), format, checksum, 9_600);
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
    fn the_wrong_format_is_named() {
        let text =
            hint(Format::Native, Checksum::Required, b"{\"a\":1}", &Refusal::ChecksumMissing);
        assert!(text.contains("format = \"json\""), "{text}");
        let text = hint(Format::Json, Checksum::Optional, b"a=1", &Refusal::Json("x".into()));
        assert!(text.contains("format = \"native\""), "{text}");
    }

    #[test]
    fn a_hint_comes_once_until_a_line_is_good_again() {
        let mut streak = Streak::new("p".into(), Format::Native, Checksum::Required, 9_600);
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
