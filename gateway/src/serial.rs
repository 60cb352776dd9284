//! Serial ports: bytes to frames to readings.
//!
//! ```text
//!  port, socket --> frame ----------> trailer --> format --> rules ----> window --> queue
//!  (IO)             LF, CR, 0, 4 KiB  CRC, #n     values     names,      means
//!                                                            scales
//! ```
//!
//! All but `port`, `open`, `close` and `socket` do no IO and read no clock. Those never wait for whoever
//! takes the readings: what finds the queue full is counted as refused.
//!
//! Nothing that arrives here is trusted: a line with a wrong checksum is refused, unless the
//! configuration says that there are none, and every refusal is counted.

mod close;
mod counters;
mod decode;
mod format;
mod frame;
mod hint;
mod names;
mod open;
mod outlet;
mod port;
mod refusal;
mod rules;
mod settings;
mod site;
mod socket;
mod talk;
mod trailer;
mod window;

pub use counters::{Counters, CountersNow};
pub use decode::{Decoded, Decoder};
pub(crate) use format::metrics;
pub use format::{Answer, Field, Format, Pattern};
pub use port::{Measured, PortEvent, PortHandle, Releaser, spawn};
pub use refusal::Refusal;
pub use rules::{Rule, Rules};
pub(crate) use settings::BAUD_DEFAULT;
pub use settings::{Checksum, Place, PortConfig};
pub(crate) use site::hints;
pub(crate) use talk::QUESTION;
#[cfg(test)]
pub(crate) use talk::Talk;
pub use talk::{Board, Reply};
pub use trailer::crc16;
pub use window::{Aggregate, Averaging};
