//! The history as it is told: in the status file, by `status --json`, and to a person.

use serde::{Deserialize, Serialize};

use super::kept::{Hour, Kept, Link, Moment, Transition};
use super::{HOUR_MS, History};

/// Hours that the status file lists; `status --json` lists all.
const HOURS_TOLD: usize = 24;
/// Likewise changes.
const TRANSITIONS_TOLD: usize = 20;
/// ... and what a person is shown.
const TRANSITIONS_SHOWN: usize = 5;

/// `connectivity` in the status file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connectivity {
    /// Whether readings get through.
    pub state: Link,
    /// Since when, Unix milliseconds.
    pub since: i64,
    /// Who said so: `ntp`, `bridge`, or `unsynced`: the wall clock as it stood.
    pub clock: String,
    /// What made it so.
    pub why: String,
    /// Failures since the last success.
    pub consecutive_failures: u64,
    /// Why the last failure was one, also after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that was, Unix milliseconds; of an earlier run, when its hour began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<i64>,
    /// When the next try to connect begins, Unix milliseconds, while one is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry: Option<i64>,
    /// The last hours of UTC in which the gateway ran, the oldest first; the last one runs.
    pub hours: Vec<HourReport>,
    /// The last changes, the oldest first.
    pub transitions: Vec<TransitionReport>,
    /// Changes of 30 days that were counted and are not kept one by one: a link that flaps.
    pub transitions_not_listed: u64,
}

/// An hour in [`Connectivity`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HourReport {
    /// Rises with each.
    pub no: i64,
    /// When it began, Unix milliseconds.
    pub hour: i64,
    /// As in [`Connectivity::clock`]; unsynced: it may have been another hour.
    pub clock: String,
    /// Attempts that ended in it: `successes + failures`.
    pub attempts: u64,
    /// Attempts that storage answered.
    pub successes: u64,
    /// Attempts that it did not.
    pub failures: u64,
    /// `successes / attempts`, 0 to 1; `null` without an attempt.
    pub success_rate: Option<f64>,
    /// Failures since the last success, as the hour ended.
    pub consecutive_failures: u64,
    /// Readings that storage has acknowledged.
    pub readings: u64,
    /// Seconds in which storage answered.
    pub online_s: u64,
    /// Changes, listed or not.
    pub transitions: u64,
    /// Why the last failure was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A change in [`Connectivity`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransitionReport {
    /// Rises with each.
    pub no: i64,
    /// When, Unix milliseconds.
    pub at: i64,
    /// As in [`Connectivity::clock`].
    pub clock: String,
    /// What became of it.
    pub state: Link,
    /// What made it so.
    pub why: String,
}

impl From<&Hour> for HourReport {
    fn from(hour: &Hour) -> Self {
        let attempts = hour.successes + hour.failures;
        let rate = |of: u64| (hour.successes as f64 / of as f64 * 10_000.0).round() / 10_000.0;
        HourReport {
            no: hour.no,
            hour: hour.hour * HOUR_MS,
            clock: hour.clock.as_str().to_owned(),
            attempts,
            successes: hour.successes,
            failures: hour.failures,
            success_rate: (attempts > 0).then(|| rate(attempts)),
            consecutive_failures: hour.consecutive_failures,
            readings: hour.readings,
            online_s: hour.online_ms / 1_000,
            transitions: hour.transitions,
            last_error: hour.last_error.clone(),
        }
    }
}

impl From<&Transition> for TransitionReport {
    fn from(transition: &Transition) -> Self {
        let Transition { no, unix_ms, clock, link, why, .. } = transition;
        let clock = clock.as_str().to_owned();
        TransitionReport { no: *no, at: *unix_ms, clock, state: *link, why: why.clone() }
    }
}

impl History {
    /// What the status file tells; `None`: there was never a broker.
    pub fn report(&self, now: Moment) -> Option<Connectivity> {
        let last = self.transitions.back()?;
        let hours = self.hours.range(self.hours.len().saturating_sub(HOURS_TOLD)..);
        let told = self.transitions.len().saturating_sub(TRANSITIONS_TOLD);
        let counted: u64 = self.hours.iter().map(|hour| hour.transitions).sum();
        let next_retry = self.next_retry_ms.filter(|at_ms| *at_ms > now.boot_ms);
        Some(Connectivity {
            state: last.link,
            since: last.unix_ms,
            clock: last.clock.as_str().to_owned(),
            why: last.why.clone(),
            consecutive_failures: self.consecutive_failures,
            last_error: self.last_error.as_ref().map(|failure| failure.why.clone()),
            last_error_at: self.last_error.as_ref().map(|failure| failure.unix_ms),
            next_retry: next_retry.map(|at_ms| now.unix_of(at_ms)),
            hours: hours.map(HourReport::from).collect(),
            transitions: self.transitions.range(told..).map(TransitionReport::from).collect(),
            transitions_not_listed: counted.saturating_sub(self.transitions.len() as u64),
        })
    }
}

impl Connectivity {
    /// Puts before the told what is kept: 30 days. What the status file tells is the newer.
    pub fn fill_up(&mut self, kept: &Kept) {
        let first = self.hours.first().map_or(i64::MAX, |told| told.no);
        let before = kept.hours.iter().filter(|hour| hour.no < first).map(HourReport::from);
        self.hours = before.chain(std::mem::take(&mut self.hours)).collect();
        let first = self.transitions.first().map_or(i64::MAX, |told| told.no);
        let before = kept.transitions.iter().filter(|it| it.no < first);
        let before = before.map(TransitionReport::from);
        self.transitions = before.chain(std::mem::take(&mut self.transitions)).collect();
    }

    /// For a person, at the width of `status`.
    pub fn text(&self, now_ms: i64) -> String {
        use std::fmt::Write;

        let mut text = String::new();
        let doubt = |clock: &str| if clock == "unsynced" { " (clock unsynced)" } else { "" };
        let time = span(now_ms - self.since);
        let _ = writeln!(
            text,
            "link      {} for {time}{}: {}",
            self.state,
            doubt(&self.clock),
            self.why
        );
        if self.consecutive_failures > 0 {
            let next = self.next_retry.map_or(String::new(), |at| match at - now_ms {
                ms if ms > 0 => format!(", next try in {}", span(ms)),
                _ => ", next try now".to_owned(),
            });
            let row = self.consecutive_failures;
            let _ = writeln!(text, "          {row} failures in a row{next}");
        }
        let from = now_ms - HOURS_TOLD as i64 * HOUR_MS;
        let day = || self.hours.iter().filter(|hour| hour.hour + HOUR_MS > from);
        let attempts: u64 = day().map(|hour| hour.attempts).sum();
        let successes: u64 = day().map(|hour| hour.successes).sum();
        if attempts > 0 {
            let readings: u64 = day().map(|hour| hour.readings).sum();
            let online_ms: u64 = day().map(|hour| hour.online_s * 1_000).sum();
            let percent = (successes as f64 / attempts as f64 * 1_000.0).floor() / 10.0;
            let _ = writeln!(
                text,
                "          24 hours: {successes} of {attempts} attempts succeeded ({percent} %), {readings} readings, online {}",
                span(online_ms as i64)
            );
        }
        let shown = self.transitions.len().saturating_sub(TRANSITIONS_SHOWN + 1);
        let before = self.transitions.len().saturating_sub(1);
        for TransitionReport { at, clock, state, why, .. } in &self.transitions[shown..before] {
            let _ = writeln!(
                text,
                "          {} ago{}: {state}: {why}",
                span(now_ms - at),
                doubt(clock)
            );
        }
        text
    }
}

/// In two units at most. What is still to come, by a clock that was set back, is 0 s.
fn span(ms: i64) -> String {
    let s = ms.max(0) / 1_000;
    match (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, min, s) => format!("{min} min {s} s"),
        (0, h, min, _) => format!("{h} h {min} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}
