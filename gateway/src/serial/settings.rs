//! One port, as the configuration describes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Format, Pattern};
use super::rules::Rules;
use super::window::Averaging;
use crate::words::words;

/// One port, as the configuration describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct PortConfig {
    /// The source of lines that name none; also how log and status call the port.
    pub name: Arc<str>,
    /// Where its bytes come from.
    pub place: Place,
    /// How a line is written.
    pub format: Format,
    /// How it is seen that a line came whole.
    pub checksum: Checksum,
    /// Lines that are passed over: banners, and what else is said for people.
    pub ignore_lines: Vec<Pattern>,
    /// What becomes of its metrics.
    pub rules: Rules,
    /// Readings of a while are kept as one.
    pub averaging: Option<Averaging>,
}

impl PortConfig {
    /// A device with everything as it is by default.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> PortConfig {
        PortConfig {
            name: name.into(),
            place: Place::Device { path: path.into(), baud: BAUD_DEFAULT, reset_on_open: true },
            format: Format::Native,
            checksum: Checksum::Required,
            ignore_lines: Vec::new(),
            rules: Rules::default(),
            averaging: None,
        }
    }
}

/// What sketches for newer boards say.
pub(crate) const BAUD_DEFAULT: u32 = 115_200;

/// Where the bytes of a port come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A serial device.
    Device {
        /// Best a stable name: `/dev/serial/by-id/...`.
        path: PathBuf,
        /// Bits per second.
        baud: u32,
        /// False keeps DTR up between openings, so that an Uno goes on running when the gateway
        /// starts again. It works from the second opening on, where the driver allows it.
        reset_on_open: bool,
    },
    /// A Unix socket that the gateway listens on: for scripts and daemons.
    Socket(PathBuf),
}

impl Place {
    /// The device, or the socket.
    pub fn path(&self) -> &Path {
        match self {
            Place::Device { path, .. } | Place::Socket(path) => path,
        }
    }

    /// Whether lines are told from the first byte on, and answered one by one.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Place::Socket(_))
    }
}

/// How it is seen that a line came whole. A checksum that is there and wrong is always refused,
/// except where nobody looks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// `*` and a CRC-16 at its end; lines without are refused.
    Required,
    /// Lines without one are taken, and counted as unverified.
    Optional,
    /// As GPS receivers have it: `$GPGGA,...*47`.
    Nmea,
    /// Nobody looks: `*` and `#` are characters as others.
    None,
}

words!(Checksum {
    Required = "required",
    Optional = "optional",
    Nmea = "nmea",
    None = "none",
});
