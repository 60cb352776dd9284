//! Serial ports: bytes to frames to readings.
//!
//! ```text
//!  port ---bytes---> frame ---line---> trailer ----+--> line (native) --+--> Measured --> queue
//!  (IO)              LF, CR, 4 KiB     CRC, #n     +--> json -----------+
//! ```
//!
//! `frame`, `trailer`, `line`, `json` and `decode` do no IO and read no clock. `port`
//! and `open` alone touch a device. It never waits for whoever takes the readings: what
//! finds the queue full is counted as refused.
//!
//! Nothing that arrives here is trusted: a line with a wrong checksum is refused whatever
//! the configuration says, and every refusal is counted.

mod counters;
mod decode;
mod frame;
mod hint;
mod json;
mod line;
mod names;
mod open;
mod port;
mod refusal;
mod trailer;
mod value;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use counters::{Counters, CountersNow};
pub use decode::{Decoded, Decoder};
pub use line::Answer;
pub use port::{Measured, PortEvent, PortHandle, spawn};
pub use refusal::Refusal;
pub use trailer::crc16;

/// One serial port, as the configuration describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// The source of lines that name none; also how log and status call the port.
    pub name: Arc<str>,
    /// The device, best a stable name: `/dev/serial/by-id/...`.
    pub path: PathBuf,
    /// Bits per second.
    pub baud: u32,
    /// How a line is written.
    pub format: Format,
    /// What happens to a line without a checksum.
    pub checksum: Checksum,
    /// False keeps DTR up between openings, so that an Uno goes on running when the gateway
    /// starts again. It works from the second opening on, where the driver allows it.
    pub reset_on_open: bool,
}

/// How the lines of a port are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `fruiting temp=24.5 humidity=85 #17*9C41`
    Native,
    /// `{"source":"fruiting","temp":24.5,"humidity":85}`
    Json,
}

/// What a port does with lines that carry no checksum. A wrong one is always refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// They are refused.
    Required,
    /// They are taken, and counted as unverified.
    Optional,
}

macro_rules! words {
    ($name:ident: $($word:literal => $variant:ident),*) => {
        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok($name::$variant),)*
                    _ => Err(concat!("allowed are" $(, " \"", $word, "\"")*).to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word),* })
            }
        }
    };
}

words!(Format: "native" => Native, "json" => Json);
words!(Checksum: "required" => Required, "optional" => Optional);
