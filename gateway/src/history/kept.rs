//! What the history is made of, and what of it is to be written.

use fieldpost_protocol::Clock;
use serde::{Deserialize, Serialize};

/// Whether readings get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// The gateway has ended in order.
    Stopped,
    /// No broker takes this gateway.
    Offline,
    /// A broker does, and storage does not answer: nothing is delivered.
    Connected,
    /// Storage answers.
    Online,
}

crate::words::words!(Link {
    Stopped = "stopped",
    Offline = "offline",
    Connected = "connected",
    Online = "online",
});

/// A moment, as well as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_BOOTTIME, milliseconds.
    pub boot_ms: i64,
    /// Unix milliseconds.
    pub unix_ms: i64,
    /// Who says so; unsynced: the wall clock as it stands, right or wrong.
    pub clock: Clock,
}

impl Moment {
    /// Somebody knows the time.
    pub(super) fn is_known(&self) -> bool {
        self.clock != Clock::Unsynced
    }

    /// What Unix time it was then, by what is known now.
    pub(super) fn unix_of(&self, boot_ms: i64) -> i64 {
        self.unix_ms - (self.boot_ms - boot_ms)
    }
}

/// A change of [`Link`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Rises with each.
    pub no: i64,
    /// When, Unix milliseconds.
    pub unix_ms: i64,
    /// Who said so.
    pub clock: Clock,
    /// When, on the clock of this boot: only of this run, and until the time is known.
    pub boot_ms: Option<i64>,
    /// To which state.
    pub link: Link,
    /// In the words of the log.
    pub why: String,
}

/// An hour of UTC, or the part of it that a gateway saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hour {
    /// Rises with each.
    pub no: i64,
    /// Hours since 1970.
    pub hour: i64,
    /// Who said so.
    pub clock: Clock,
    /// A moment of it, as in [`Transition::boot_ms`].
    pub boot_ms: Option<i64>,
    /// Attempts that ended well in it; see the module for what that is.
    pub successes: u64,
    /// ... and that did not.
    pub failures: u64,
    /// Failures without a success between them, as the hour ended.
    pub consecutive_failures: u64,
    /// Readings that storage has acknowledged in it.
    pub readings: u64,
    /// Milliseconds in which storage answered.
    pub online_ms: u64,
    /// Changes of [`Link`], listed or not.
    pub transitions: u64,
    /// Why the last failure was one.
    pub last_error: Option<String>,
}

impl Hour {
    pub(super) fn new(no: i64, hour: i64, clock: Clock, boot_ms: Option<i64>) -> Self {
        Hour {
            no,
            hour,
            clock,
            boot_ms,
            successes: 0,
            failures: 0,
            consecutive_failures: 0,
            readings: 0,
            online_ms: 0,
            transitions: 0,
            last_error: None,
        }
    }

    /// Two parts of the same hour are one; `later` is the later part.
    pub(super) fn take_in(&mut self, later: Hour) {
        self.successes += later.successes;
        self.failures += later.failures;
        self.consecutive_failures = later.consecutive_failures;
        self.readings += later.readings;
        self.online_ms += later.online_ms;
        self.transitions += later.transitions;
        self.last_error = later.last_error.or_else(|| self.last_error.take());
    }
}

/// All of it, the oldest first: as an outbox has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Hours in which a gateway ran.
    pub hours: Vec<Hour>,
    /// Changes.
    pub transitions: Vec<Transition>,
}

/// What the outbox lacks. Written twice it changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New, or changed.
    pub hours: Vec<Hour>,
    /// Likewise.
    pub transitions: Vec<Transition>,
    /// Hours that are let go, by their numbers.
    pub hours_gone: Vec<i64>,
    /// Likewise.
    pub transitions_gone: Vec<i64>,
}
