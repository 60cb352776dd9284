//! Why a line was refused, in words that help whoever wrote the sketch.

use fieldpost_protocol::{FRAME_BYTES_MAX, NameError};

/// Why a line is no reading. Each completes the sentence "the line was refused: ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Over 4 KiB.
    #[error("it is longer than {FRAME_BYTES_MAX} bytes; send fewer values in a line")]
    TooLong,
    /// No `*` at its end, and the port asks for one.
    #[error("it has no checksum; a line ends with * and the four digits of its CRC-16")]
    ChecksumMissing,
    /// What follows `*` is no checksum.
    #[error("after the * stand exactly four digits, 0-9 and A-F in upper case")]
    ChecksumDigits,
    /// It was damaged, or the board computes something else.
    #[error(
        "it ends with *{found:04X}, but the CRC-16/CCITT-FALSE of the bytes before the * is {computed:04X}"
    )]
    ChecksumWrong {
        /// In the line.
        found: u16,
        /// Of the bytes that came.
        computed: u16,
    },
    /// Not as NMEA 0183 has it.
    #[error(
        "a line of NMEA 0183 begins with $ or ! and ends with * and two digits, 0-9 and A-F; other lines that this device prints may stand in ignore_lines"
    )]
    Nmea,
    /// It was damaged.
    #[error("it ends with *{found:02X}, but the checksum of NMEA 0183 is {computed:02X}")]
    NmeaWrong {
        /// In the line.
        found: u8,
        /// Of the bytes that came.
        computed: u8,
    },
    /// Bytes of a COBS packet are missing.
    #[error("it is no COBS packet: a code points past its end, so bytes were lost, or it is text")]
    Stuffing,
    /// A COBS packet without room for its CRC, or with a wrong one.
    #[error(
        "the packet does not end with the CRC-16/CCITT-FALSE of what stands before, the high byte first"
    )]
    PacketChecksum,
    /// Another struct.
    #[error("the packet holds {found} bytes, and the fields of this port take {expected}")]
    PacketLength {
        /// The sum of `fields`.
        expected: usize,
        /// In the packet.
        found: usize,
    },
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// A control character other than a tab.
    #[error("it contains the control character {0:?}")]
    Control(char),
    /// A bad `#n`.
    #[error("{0:?} is no line counter; # and a whole number up to 4294967295 stand last")]
    Counter(String),
    /// It begins with `!` or `>` and is not `!boot`.
    #[error("{0:?} begins no line that a board may send; known are !boot and @42")]
    Mark(String),
    /// A bad answer to a command.
    #[error("an answer is written @42 ok and perhaps values, or @42 err and a reason")]
    Answer,
    /// A bad source.
    #[error(transparent)]
    Source(NameError),
    /// A bad name of a metric.
    #[error(transparent)]
    Metric(NameError),
    /// A metric that is there twice.
    #[error("metric {0:?} stands twice")]
    Twice(String),
    /// Nothing was measured.
    #[error("it has no name=value")]
    Empty,
    /// A word without `=` that is not the first.
    #[error(
        "{0:?} is no name=value; only the first word may be a source, and a text with blanks is quoted"
    )]
    Word(String),
    /// `name=` with nothing after it.
    #[error("metric {0:?} has no value; write null where there is none")]
    ValueMissing(String),
    /// A bare text that could be a damaged line.
    #[error("the text of metric {0:?} contains one of \" # = *; put it in quotes")]
    ValueBare(String),
    /// A quoted text that does not end, or not at a blank.
    #[error(
        "the quoted text of metric {0:?} has to end with \" and then a blank; inside, \" is written \\\" and \\ is written \\\\"
    )]
    Quote(String),
    /// A text with U+0000, which databases cannot store.
    #[error("the text of metric {0:?} contains the character NUL")]
    Nul(String),
    /// Not one JSON object.
    #[error("it is not a JSON object on one line: {0}")]
    Json(String),
    /// An array.
    #[error("{0:?} is an array; give each of its values a name of its own")]
    JsonArray(String),
    /// Objects in objects in objects.
    #[error("{0:?} is nested too deeply; at most four objects may lie within each other")]
    JsonDepth(String),
    /// A word among numbers.
    #[error("{0:?} is no number; a line for the plotter is written temp:24.5,humidity:85")]
    Number(String),
    /// More behind the fields.
    #[error(
        "{0:?} follows the fields and is no timestamp; in names and tags a blank is written \\ before it"
    )]
    InfluxEnd(String),
    /// A field of no kind.
    #[error(
        "{1:?}, the value of field {0:?}, is neither a number, 5i, true, false nor text in quotes"
    )]
    InfluxValue(String, String),
    /// No pattern matches.
    #[error("it matches none of this port's patterns")]
    Pattern,
    /// `source` is no text.
    #[error("the value of \"source\" has to be text")]
    JsonSource,
}

/// Which counter a refusal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Checksum,
    Syntax,
    TooLong,
}

impl Refusal {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Refusal::TooLong => Kind::TooLong,
            Refusal::ChecksumMissing
            | Refusal::ChecksumDigits
            | Refusal::ChecksumWrong { .. }
            | Refusal::Nmea
            | Refusal::NmeaWrong { .. }
            | Refusal::Stuffing
            | Refusal::PacketChecksum => Kind::Checksum,
            _ => Kind::Syntax,
        }
    }
}

/// A word of a line, as much of it as a message should show.
pub(super) fn shown(word: &str) -> String {
    word.chars().take(SHOWN_CHARS_MAX).collect()
}

const SHOWN_CHARS_MAX: usize = 40;
