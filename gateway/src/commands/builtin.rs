//! The commands that the gateway itself does.

use std::collections::BTreeMap;

use fieldpost_protocol::SEQ_MAX;

use super::allowed::{Arg, Kind};
use crate::words::words;

/// A command to the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Builtin {
    /// Answers.
    Ping,
    /// Says hello and sends what waits, now.
    SyncNow,
    /// Sends no readings for a while; events go on.
    SyncPause,
    /// Ends that.
    SyncResume,
    /// Reads the configuration again.
    ConfigReload,
    /// Publishes readings once more, for whoever reads along.
    Resend,
    /// Closes a port and opens it again.
    SerialReopen,
    /// Closes a port for a while.
    SerialRelease,
    /// Logs more, or less, for a while.
    LogLevel,
    /// Starts the gateway again.
    Restart,
}

words!(Builtin {
    Ping = "ping",
    SyncNow = "sync.now",
    SyncPause = "sync.pause",
    SyncResume = "sync.resume",
    ConfigReload = "config.reload",
    Resend = "resend",
    SerialReopen = "serial.reopen",
    SerialRelease = "serial.release",
    LogLevel = "log.level",
    Restart = "restart",
});

/// A duration such as `60s`.
const TIME: Kind = Kind::Text(16);
/// A port's name.
const PORT: Kind = Kind::Text(fieldpost_protocol::NAME_BYTES_MAX);

impl Builtin {
    /// What may be called where the configuration does not say: nothing that changes what runs.
    pub(crate) const DEFAULT: &[Builtin] = &[
        Builtin::Ping,
        Builtin::SyncNow,
        Builtin::SyncPause,
        Builtin::SyncResume,
        Builtin::Resend,
        Builtin::SerialReopen,
        Builtin::SerialRelease,
        Builtin::LogLevel,
    ];

    /// Its arguments.
    pub fn args(self) -> BTreeMap<String, Arg> {
        let must = |kind| Arg { kind, optional: false };
        let may = |kind| Arg { kind, optional: true };
        let unix_ms = || Kind::Int(0, i64::MAX);
        let seq = || Kind::Int(1, SEQ_MAX as i64);
        let args = match self {
            Builtin::Ping
            | Builtin::SyncNow
            | Builtin::SyncResume
            | Builtin::ConfigReload
            | Builtin::Restart => Vec::new(),
            Builtin::SyncPause => vec![("time", may(TIME))],
            Builtin::Resend => vec![
                ("since", may(unix_ms())),
                ("until", may(unix_ms())),
                ("epoch", may(Kind::Text(32))),
                ("from", may(seq())),
                ("to", may(seq())),
            ],
            Builtin::SerialReopen => vec![("port", must(PORT))],
            Builtin::SerialRelease => vec![("port", must(PORT)), ("time", may(TIME))],
            Builtin::LogLevel => {
                let levels = ["error", "warn", "info", "debug", "trace"].map(str::to_owned);
                vec![("level", must(Kind::OneOf(levels.into()))), ("time", may(TIME))]
            }
        };
        args.into_iter().map(|(name, arg)| (name.to_owned(), arg)).collect()
    }
}
