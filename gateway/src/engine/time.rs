//! The time at the bridge: it dates readings where nobody else knows the time, and it alone decides
//! whether a command has expired.

use std::time::Duration;

use super::hello::Answer;
use super::{Engine, Notice};

/// The end of the year 9999: a bridge that names a later time is wrong.
const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// What a state has told.
#[derive(Debug, Clone, Copy)]
pub(super) struct CloudTime {
    time_ms: i64,
    /// It was this time then, or later.
    at: Duration,
}

impl Engine {
    pub(super) fn learn_time(&mut self, now: Duration, answer: &Answer, time_ms: i64) {
        if !(0..=TIME_MS_MAX).contains(&time_ms) {
            return;
        }
        let rtt = now.saturating_sub(answer.sent_at);
        let middle = answer.sent_at + rtt / 2;
        let skew_ms = time_ms.saturating_sub(middle.as_millis() as i64);
        self.notices.push_back(Notice::CloudTime { skew_ms, rtt });
        let at = match self.guards {
            guards if !guards.time_from_sending => now,
            guards if !guards.time_from_answered => answer.first_sent_at,
            _ => answer.sent_at,
        };
        self.cloud_time = Some(CloudTime { time_ms, at });
    }

    /// Unix milliseconds at the bridge, at the latest that it can be: nothing that expires then runs
    /// later than that. `None`: no state has told yet.
    pub fn cloud_ms(&self, now: Duration) -> Option<i64> {
        let CloudTime { time_ms, at } = self.cloud_time?;
        Some(time_ms.saturating_add(now.saturating_sub(at).as_millis() as i64))
    }
}
