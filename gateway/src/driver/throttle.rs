//! A line in the log now and then, for what may happen a thousand times in a second: the log is on the
//! same card as the outbox. The first is told at once, those after it by their number.

use std::time::Duration;

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// Since the last line.
    untold: u64,
    /// When that was.
    told_at: Option<Duration>,
}

impl Throttle {
    /// It has happened. If a line is due: how often since the last one.
    pub(super) fn note(&mut self, now: Duration) -> Option<u64> {
        self.untold += 1;
        self.due(now)
    }

    /// Whether there is something to tell, and a line is due: how often it has happened.
    pub(super) fn due(&mut self, now: Duration) -> Option<u64> {
        let is_due = self.untold > 0 && self.told_at.is_none_or(|at| now >= at + INTERVAL);
        is_due.then(|| {
            self.told_at = Some(now);
            std::mem::take(&mut self.untold)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_times_are_two_lines_and_none_is_missing() {
        let mut throttle = Throttle::default();
        let mut lines: Vec<(Duration, u64)> = Vec::new();
        for ms in 0..20_000 {
            let now = Duration::from_millis(ms);
            let told = if ms < 1_000 { throttle.note(now) } else { throttle.due(now) };
            lines.extend(told.map(|times| (now, times)));
        }
        assert_eq!(lines, [(Duration::ZERO, 1), (INTERVAL, 999)]);
        // Much later one is told at once.
        assert_eq!(throttle.note(3 * INTERVAL), Some(1));
    }

    #[test]
    fn what_goes_on_is_a_line_in_ten_seconds() {
        let mut throttle = Throttle::default();
        let times = |s| throttle.note(Duration::from_secs(s));
        let told: Vec<u64> = (0..=30).filter_map(times).collect();
        assert_eq!(told, [1, 10, 10, 10]);
    }
}
