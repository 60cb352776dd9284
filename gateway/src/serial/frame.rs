//! Bytes to lines. Pure.
//!
//! ```text
//!  Opened --line end--> Within --4 KiB without one--> Discarding --line end--> Within
//! ```
//!
//! A line ends with LF or CR, a packet with a zero byte; empty ones are nothing. Whatever comes, at
//! most one line of 4 KiB is held. The first line after opening may have begun before we
//! listened, so it is marked: its reader may not call it damaged.

use fieldpost_protocol::FRAME_BYTES_MAX;

/// What the splitter cut off.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut<'b> {
    /// A line without its end, 1 to 4,096 bytes.
    Line {
        /// The line.
        bytes: &'b [u8],
        /// It began where the port was opened: perhaps its front is missing.
        first: bool,
    },
    /// A line has passed 4 KiB; the rest of it is discarded. Comes once for each such line.
    TooLong {
        /// Its first 4 KiB.
        start: &'b [u8],
    },
    /// Another 4 KiB of the same line were discarded.
    Endless,
}

/// What ends a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// LF or CR.
    Text,
    /// A zero byte: packets.
    Zero,
}

impl Ends {
    fn is_end(self, byte: u8) -> bool {
        match self {
            Ends::Text => matches!(byte, b'\n' | b'\r'),
            Ends::Zero => byte == 0,
        }
    }
}

/// Holds what came of a line until its end comes.
#[derive(Debug)]
pub(super) struct Splitter {
    ends: Ends,
    line: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No line end was seen since the port was opened.
    Opened,
    Within,
    /// So many bytes were discarded since the last cut.
    Discarding(usize),
}

impl Splitter {
    /// Of a port that was just opened, perhaps in the middle of a line.
    pub(super) fn new(ends: Ends) -> Self {
        Splitter { ends, line: Vec::with_capacity(FRAME_BYTES_MAX), state: State::Opened }
    }

    /// Of a connection, whose first byte begins a line.
    pub(super) fn from_start(ends: Ends) -> Self {
        Splitter { state: State::Within, ..Splitter::new(ends) }
    }

    /// Takes the next bytes and gives out what they complete, in order.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut give: impl FnMut(Cut<'_>)) {
        let ends = self.ends;
        while let Some(end) = bytes.iter().position(|byte| ends.is_end(*byte)) {
            self.extend(&bytes[..end], &mut give);
            if !self.line.is_empty() {
                give(Cut::Line { bytes: &self.line, first: self.state == State::Opened });
            }
            self.line.clear();
            self.state = State::Within;
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut give);
    }

    /// The port was lost: what comes next is another connection. True if a fragment was
    /// dropped.
    pub(super) fn reset(&mut self) -> bool {
        let fragment = !self.line.is_empty();
        self.line.clear();
        self.state = State::Opened;
        fragment
    }

    /// From here on something else ends a line.
    pub(super) fn change_ends(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// Bytes of memory held, whatever came.
    pub(super) fn bytes_held(&self) -> usize {
        self.line.capacity()
    }

    fn extend(&mut self, bytes: &[u8], give: &mut impl FnMut(Cut<'_>)) {
        match self.state {
            State::Discarding(discarded) => self.discard(discarded + bytes.len(), give),
            _ if self.line.len() + bytes.len() <= FRAME_BYTES_MAX => {
                self.line.extend_from_slice(bytes)
            }
            _ => {
                let (fits, rest) = bytes.split_at(FRAME_BYTES_MAX - self.line.len());
                self.line.extend_from_slice(fits);
                give(Cut::TooLong { start: &self.line });
                self.line.clear();
                self.discard(rest.len(), give);
            }
        }
    }

    fn discard(&mut self, mut discarded: usize, give: &mut impl FnMut(Cut<'_>)) {
        while discarded >= FRAME_BYTES_MAX {
            give(Cut::Endless);
            discarded -= FRAME_BYTES_MAX;
        }
        self.state = State::Discarding(discarded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts as text: `~` marks the first line, `TOO LONG` and `ENDLESS` the others.
    fn cuts(splitter: &mut Splitter, bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        splitter.push(bytes, |cut| {
            all.push(match cut {
                Cut::Line { bytes, first } => {
                    format!("{}{}", if first { "~" } else { "" }, bytes.escape_ascii())
                }
                Cut::TooLong { start } => format!("TOO LONG {}", start.len()),
                Cut::Endless => "ENDLESS".to_owned(),
            });
        });
        all
    }

    #[test]
    fn lines_end_with_lf_or_cr_and_empty_ones_are_nothing() {
        assert_eq!(cuts(&mut Splitter::new(Ends::Text), b"\na\r\nb\rc\n\n\nd"), ["a", "b", "c"]);
    }

    #[test]
    fn packets_end_with_a_zero_byte_and_a_connection_begins_with_a_line() {
        let all = cuts(&mut Splitter::new(Ends::Zero), b"ragment\0a\nb\rc\0\0d\0");
        assert_eq!(all, ["~ragment", "a\\nb\\rc", "d"]);
        assert_eq!(cuts(&mut Splitter::from_start(Ends::Text), b"a\nb\n"), ["a", "b"]);
    }

    #[test]
    fn a_line_may_come_byte_by_byte() {
        let mut splitter = Splitter::new(Ends::Text);
        let all: Vec<String> =
            b"\nab\ncd\n".iter().flat_map(|byte| cuts(&mut splitter, &[*byte])).collect();
        assert_eq!(all, ["ab", "cd"]);
    }

    #[test]
    fn the_first_line_after_each_opening_is_marked() {
        let mut splitter = Splitter::new(Ends::Text);
        assert_eq!(cuts(&mut splitter, b"agment\nwhole\nfra"), ["~agment", "whole"]);
        assert!(splitter.reset(), "the fragment was dropped");
        assert_eq!(cuts(&mut splitter, b"gment\nwhole\n"), ["~gment", "whole"]);
        assert!(!splitter.reset(), "there was no fragment");
    }

    #[test]
    fn a_line_of_4_kib_is_taken_and_one_byte_more_is_not() {
        let mut line = vec![b'x'; FRAME_BYTES_MAX];
        line.insert(0, b'\n');
        let mut splitter = Splitter::new(Ends::Text);
        assert!(cuts(&mut splitter, &line).is_empty());
        assert_eq!(cuts(&mut splitter, b"\n")[0].len(), FRAME_BYTES_MAX);
        line.push(b'x');
        assert_eq!(cuts(&mut splitter, &line), ["TOO LONG 4096"]);
        assert_eq!(cuts(&mut splitter, b"rest\nnext\n"), ["next"]);
    }

    #[test]
    fn ten_megabytes_without_a_line_end_are_one_refusal_and_cost_no_memory() {
        let mut splitter = Splitter::new(Ends::Text);
        let mut all = Vec::new();
        for _ in 0..10_000 {
            all.extend(cuts(&mut splitter, &[0; 1_000]));
        }
        assert_eq!(all.iter().filter(|cut| cut.starts_with("TOO")).count(), 1);
        assert_eq!(all.len(), 10_000_000 / FRAME_BYTES_MAX);
        assert_eq!(splitter.bytes_held(), FRAME_BYTES_MAX);
        assert_eq!(cuts(&mut splitter, b"\nnext\n"), ["next"]);
    }
}
