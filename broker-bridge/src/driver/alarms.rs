//! Alarms in the log: each at most once a minute, with how often it was left out.
#![allow(clippy::disallowed_methods, reason = "a driver: it reads the clock for the engine")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long the same alarm is not repeated.
const QUIET: Duration = Duration::from_secs(60);
/// Alarms that are told apart; past it, the quiet time of all begins anew.
const KNOWN_MAX: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct AlarmLog {
    known: HashMap<(&'static str, String), (Instant, u64)>,
}

impl AlarmLog {
    /// A warning, unless it was logged just now.
    pub(crate) fn say(&mut self, kind: &'static str, about: &str, message: &str) {
        if let Some(more) = self.due(kind, about) {
            let of = if about.is_empty() { String::new() } else { format!(" of {about:?}") };
            tracing::warn!("{kind}{of}: {message}{more}");
        }
    }

    /// An error, at which a person must look, unless it was logged just now.
    pub(crate) fn error(&mut self, kind: &'static str, message: &str) {
        if let Some(more) = self.due(kind, "") {
            tracing::error!("{kind}: {message}{more}");
        }
    }

    /// How many were left out, in words, if it is time to say it.
    fn due(&mut self, kind: &'static str, about: &str) -> Option<String> {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let now = Instant::now();
        let left_out = match self.known.get_mut(&(kind, about.to_owned())) {
            Some((last, count)) if now.duration_since(*last) < QUIET => {
                *count += 1;
                return None;
            }
            Some((_, count)) => *count,
            None => 0,
        };
        self.known.insert((kind, about.to_owned()), (now, 0));
        Some(match left_out {
            0 => String::new(),
            count => format!(" ({count} more like it since it was last said)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_alarm_is_said_once_and_then_counted() {
        let mut alarms = AlarmLog::default();
        assert!(alarms.due("poison", "a").is_some());
        assert!(alarms.due("poison", "b").is_some());
        assert!(alarms.due("poison", "a").is_none());
        let (last, _) = alarms.known.get_mut(&("poison", "a".to_owned())).unwrap();
        *last = last.checked_sub(QUIET).unwrap();
        assert!(alarms.due("poison", "a").unwrap().contains("1 more"));
    }
}
