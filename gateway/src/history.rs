//! Whether readings got through, and why not: the changes, and each hour's attempts, for 30 days.
//!
//! ```text
//!               a broker takes us             storage answers
//!  offline  ------------------------> connected ------------> online
//!     ^                                  |  ^                   |
//!     +--- the connection ends ----------+  +- no answer, 10 s -+
//! ```
//!
//! An **attempt** is one go at getting an answer out of storage. It begins with a try to connect, or
//! with a hello or batch that leaves while no attempt is under way. A **success** is an answer of the
//! trusted storage: a state, or a sync ack that takes rows. A puback is none. A **failure** is a try that
//! leads to no connection, a connection that ends before the answer, or [`ANSWER_MAX_MS`] without one.
//!
//! Always true here:
//! - At most one attempt is under way; it counts in the hour in which it ends.
//! - It is bounded: [`HOURS_MAX`] hours, [`TRANSITIONS_MAX`] changes. Of the changes of one hour
//!   [`LISTED_PER_HOUR_MAX`] are listed, the last among them; all are counted.
//! - What was noted while nobody knew the time gets its time once somebody does.
//!
//! Pure: no IO, no clock.

mod kept;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use fieldpost_protocol::Clock;

pub use kept::{Changes, Hour, Kept, Link, Moment, Transition};
pub use report::{Connectivity, HourReport, TransitionReport};

/// 30 days.
pub const HOURS_MAX: usize = 720;
/// Beyond it the oldest goes. With [`HOURS_MAX`] hours and the longest reasons, half a megabyte.
pub const TRANSITIONS_MAX: usize = 1_000;
/// A link that flaps for an hour must not push out what a person looks for.
pub const LISTED_PER_HOUR_MAX: u64 = 10;
/// A storage that takes longer counts as one that does not answer.
pub const ANSWER_MAX_MS: i64 = 10_000;
/// Reasons are cut there.
pub const WHY_BYTES_MAX: usize = 200;
/// A change reaches the disk at once, the next one so long after it.
const WRITE_MIN_MS: i64 = 10_000;
/// Counts do as often: what a kill or a power cut can take.
const WRITE_COUNTS_MS: i64 = 15 * 60_000;
/// Nobody was awake for longer than that between two looks: a machine that sleeps is not online.
const LOOK_MAX_MS: i64 = 10_000;
const HOUR_MS: i64 = 3_600_000;

/// See the module.
#[derive(Debug)]
pub struct History {
    hours: VecDeque<Hour>,
    transitions: VecDeque<Transition>,
    /// Since when an answer of storage is waited for.
    attempt_ms: Option<i64>,
    /// Why storage's answer does not count, if there was one.
    not_counted: Option<String>,
    answered: bool,
    consecutive_failures: u64,
    last_error: Option<Failure>,
    /// When the next try begins, CLOCK_BOOTTIME milliseconds.
    next_retry_ms: Option<i64>,
    /// Up to when the time online was counted.
    looked_ms: i64,
    /// Something was noted while nobody knew the time.
    untimed: bool,
    /// The last hour that was let go, by what is known of the time.
    oldest: i64,
    /// The numbers given last.
    hour_no: i64,
    transition_no: i64,
    unwritten: Unwritten,
}

#[derive(Debug, Clone)]
struct Failure {
    unix_ms: i64,
    /// As in [`Transition::boot_ms`].
    boot_ms: Option<i64>,
    why: String,
}

/// Numbers of what the outbox does not have as it is.
#[derive(Debug, Default)]
struct Unwritten {
    hours: BTreeSet<i64>,
    transitions: BTreeSet<i64>,
    hours_gone: BTreeSet<i64>,
    transitions_gone: BTreeSet<i64>,
    /// A change is among it.
    urgent: bool,
    tried_ms: Option<i64>,
}

impl History {
    /// Goes on from what is kept.
    pub fn new(kept: Kept, now: Moment) -> Self {
        let Kept { hours, transitions } = kept;
        let last = hours.last();
        let last_error = hours.iter().rev().find_map(|hour| {
            let (unix_ms, boot_ms) = (hour.hour * HOUR_MS, None);
            Some(Failure { unix_ms, boot_ms, why: hour.last_error.clone()? })
        });
        let hour_no = last.map_or(0, |hour| hour.no);
        let transition_no = transitions.last().map_or(0, |transition| transition.no);
        History {
            consecutive_failures: last.map_or(0, |hour| hour.consecutive_failures),
            hours: hours.into(),
            transitions: transitions.into(),
            attempt_ms: None,
            not_counted: None,
            answered: false,
            last_error,
            next_retry_ms: None,
            looked_ms: now.boot_ms,
            untimed: false,
            oldest: i64::MIN,
            hour_no,
            transition_no,
            unwritten: Unwritten::default(),
        }
    }

    /// The gateway begins to look for its broker.
    pub fn handle_start(&mut self, now: Moment) {
        let why = match self.link() {
            None | Some(Link::Stopped) => "the gateway has started",
            Some(_) => {
                "the gateway has started; the run before ended without a word: a power cut, a kill or a crash"
            }
        };
        // Also from offline: that a run ended is not to be missed.
        self.note(now, Link::Offline, why);
    }

    /// The gateway ends in order.
    pub fn handle_stop(&mut self, now: Moment, why: &str) {
        self.attempt_ms = None;
        self.next_retry_ms = None;
        self.change(now, Link::Stopped, why);
    }

    /// A broker takes this gateway: the attempt goes on, until storage answers.
    pub fn handle_connected(&mut self, now: Moment) {
        self.attempt_ms = Some(now.boot_ms);
        self.not_counted = None;
        self.next_retry_ms = None;
        self.change(
            now,
            Link::Connected,
            "the broker takes this gateway; storage has not answered yet",
        );
    }

    /// A connection has ended, or did not come about; the next is tried at `retry_ms` of
    /// CLOCK_BOOTTIME.
    pub fn handle_disconnected(&mut self, now: Moment, why: &str, retry_ms: Option<i64>) {
        let tried = self.attempt_ms.take().is_some() || self.link() == Some(Link::Offline);
        if tried && retry_ms.is_some() {
            self.fail(now, why);
        }
        self.next_retry_ms = retry_ms;
        self.change(now, Link::Offline, why);
    }

    /// A hello or a batch has left.
    pub fn handle_sent(&mut self, now: Moment) {
        if matches!(self.link(), Some(Link::Connected | Link::Online)) {
            self.attempt_ms.get_or_insert(now.boot_ms);
        }
    }

    /// The trusted storage has answered.
    pub fn handle_answered(&mut self, now: Moment) {
        if !matches!(self.link(), Some(Link::Connected | Link::Online)) {
            return;
        }
        self.answered = true;
        self.not_counted = None;
        self.consecutive_failures = 0;
        let counts = self.attempt_ms.take().is_some();
        let hour = self.hour(now);
        hour.consecutive_failures = 0;
        hour.successes += u64::from(counts);
        self.change(now, Link::Online, "storage answers");
    }

    /// There was an answer, but not one that delivers anything.
    pub fn handle_not_counted(&mut self, why: String) {
        self.not_counted = Some(why);
    }

    /// Storage has acknowledged so many readings more.
    pub fn handle_stored(&mut self, now: Moment, readings: u64) {
        if readings > 0 {
            self.hour(now).readings += readings;
        }
    }

    /// Time has passed: to be called every few seconds.
    pub fn handle_tick(&mut self, now: Moment) {
        self.let_go(now);
        let passed_ms = (now.boot_ms - self.looked_ms).max(0);
        if passed_ms > LOOK_MAX_MS {
            // Nor was storage waited for meanwhile.
            self.attempt_ms = self.attempt_ms.map(|_| now.boot_ms);
        }
        let passed_ms = passed_ms.min(LOOK_MAX_MS) as u64;
        self.looked_ms = now.boot_ms;
        if self.link() == Some(Link::Online) {
            self.hour(now).online_ms += passed_ms;
        }
        if self.attempt_ms.is_some_and(|since_ms| now.boot_ms - since_ms >= ANSWER_MAX_MS) {
            self.attempt_ms = None;
            let why = self.not_counted.clone().unwrap_or_else(|| {
                format!(
                    "the broker takes this gateway, but storage has not answered for {} s. Does the bridge run, on \
                     this broker, and may this device publish and subscribe?",
                    ANSWER_MAX_MS / 1_000
                )
            });
            self.fail(now, &why);
            self.change(now, Link::Connected, &why);
        }
    }

    /// Whether storage has answered since the start.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// The present state; `None` before the first start.
    pub fn link(&self) -> Option<Link> {
        self.transitions.back().map(|last| last.link)
    }

    /// When the next try to connect begins, CLOCK_BOOTTIME milliseconds, while one is waited for.
    pub fn next_retry_ms(&self) -> Option<i64> {
        self.next_retry_ms
    }

    fn fail(&mut self, now: Moment, why: &str) {
        self.consecutive_failures += 1;
        let (failures, why) = (self.consecutive_failures, cut(why));
        let boot_ms = self.untimed(now);
        self.last_error = Some(Failure { unix_ms: now.unix_ms, boot_ms, why: why.clone() });
        let hour = self.hour(now);
        hour.failures += 1;
        hour.consecutive_failures = failures;
        hour.last_error = Some(why);
    }

    fn change(&mut self, now: Moment, link: Link, why: &str) {
        if self.link() != Some(link) {
            self.note(now, link, why);
        }
    }

    fn note(&mut self, now: Moment, link: Link, why: &str) {
        let boot_ms = self.untimed(now);
        let hour = self.hour(now);
        hour.transitions += 1;
        let (many, hour, known) =
            (hour.transitions > LISTED_PER_HOUR_MAX, hour.hour, now.is_known());
        let of_this_hour = |last: &Transition| {
            last.unix_ms.div_euclid(HOUR_MS) == hour && (last.clock != Clock::Unsynced) == known
        };
        if many && self.transitions.back().is_some_and(of_this_hour) {
            // The newest one is listed: it says how things are.
            self.transitions.pop_back();
        } else {
            self.transition_no += 1;
            self.unwritten.urgent = true;
        }
        let no = self.transition_no;
        let (unix_ms, clock) = (now.unix_ms, now.clock);
        self.transitions.push_back(Transition { no, unix_ms, clock, boot_ms, link, why: cut(why) });
        self.unwritten.transitions.insert(no);
        while self.transitions.len() > TRANSITIONS_MAX {
            self.forget_transition();
        }
    }

    /// The hour that it is, to be counted in.
    fn hour(&mut self, now: Moment) -> &mut Hour {
        let boot_ms = self.untimed(now);
        let hour = now.unix_ms.div_euclid(HOUR_MS);
        // A clock that nobody believes may show an hour of another run.
        let same = |it: &Hour| {
            it.hour == hour
                && (it.clock != Clock::Unsynced) == now.is_known()
                && it.boot_ms.is_some() == boot_ms.is_some()
        };
        let at = self.hours.iter().rposition(same).unwrap_or_else(|| {
            self.hour_no += 1;
            self.hours.push_back(Hour::new(self.hour_no, hour, now.clock, boot_ms));
            while self.hours.len() > HOURS_MAX {
                self.forget_hour();
            }
            self.hours.len() - 1
        });
        let found = &mut self.hours[at];
        self.unwritten.hours.insert(found.no);
        found
    }

    /// For what is noted now: nobody knows the time, so that it is to be dated later. What was noted
    /// so is dated first.
    fn untimed(&mut self, now: Moment) -> Option<i64> {
        if now.is_known() && std::mem::take(&mut self.untimed) {
            self.give_times(now);
        }
        self.untimed |= !now.is_known();
        (!now.is_known()).then_some(now.boot_ms)
    }

    /// Somebody knows the time: what this run has noted without it moves to where it belongs.
    fn give_times(&mut self, now: Moment) {
        if let Some(failure) = &mut self.last_error
            && let Some(boot_ms) = failure.boot_ms.take()
        {
            failure.unix_ms = now.unix_of(boot_ms);
        }
        for transition in &mut self.transitions {
            if let Some(boot_ms) = transition.boot_ms.take() {
                (transition.unix_ms, transition.clock) = (now.unix_of(boot_ms), now.clock);
                self.unwritten.transitions.insert(transition.no);
            }
        }
        while let Some(at) = self.hours.iter().position(|hour| hour.boot_ms.is_some()) {
            let boot_ms = self.hours[at].boot_ms.take().unwrap_or_default();
            let hour = now.unix_of(boot_ms).div_euclid(HOUR_MS);
            let known = |it: &Hour| it.hour == hour && it.clock != Clock::Unsynced;
            match self.hours.iter().position(known) {
                Some(into) => {
                    let Some(part) = self.hours.remove(at) else { return };
                    self.unwritten.hours.remove(&part.no);
                    self.unwritten.hours_gone.insert(part.no);
                    let into = into - usize::from(into > at);
                    self.hours[into].take_in(part);
                    self.unwritten.hours.insert(self.hours[into].no);
                }
                None => {
                    (self.hours[at].hour, self.hours[at].clock) = (hour, now.clock);
                    self.unwritten.hours.insert(self.hours[at].no);
                }
            }
        }
    }

    /// By age, which only a known time tells. What has none goes with what came after it.
    fn let_go(&mut self, now: Moment) {
        if !now.is_known() {
            return;
        }
        self.untimed(now);
        let oldest = now.unix_ms.div_euclid(HOUR_MS) - HOURS_MAX as i64;
        if std::mem::replace(&mut self.oldest, oldest) == oldest {
            return;
        }
        let is_old = |clock: Clock, hour: i64| clock != Clock::Unsynced && hour <= oldest;
        let old = self.hours.iter().rposition(|it| is_old(it.clock, it.hour));
        (0..old.map_or(0, |at| at + 1)).for_each(|_| self.forget_hour());
        let hour_of = |it: &Transition| it.unix_ms.div_euclid(HOUR_MS);
        let old = self.transitions.iter().rposition(|it| is_old(it.clock, hour_of(it)));
        // The last one tells the present state, however old that is.
        let old = old.map_or(0, |at| at + 1).min(self.transitions.len().saturating_sub(1));
        (0..old).for_each(|_| self.forget_transition());
    }

    fn forget_hour(&mut self) {
        if let Some(hour) = self.hours.pop_front() {
            self.unwritten.hours.remove(&hour.no);
            self.unwritten.hours_gone.insert(hour.no);
        }
    }

    fn forget_transition(&mut self) {
        if let Some(transition) = self.transitions.pop_front() {
            self.unwritten.transitions.remove(&transition.no);
            self.unwritten.transitions_gone.insert(transition.no);
        }
    }

    /// What is to be written now. `all`: the gateway ends.
    pub fn poll_write(&mut self, now: Moment, all: bool) -> Option<Changes> {
        let last = self.hour_no;
        let unwritten = &mut self.unwritten;
        let ended = unwritten.hours.first().is_some_and(|no| *no < last);
        let wait_ms = if unwritten.urgent || ended { WRITE_MIN_MS } else { WRITE_COUNTS_MS };
        let due = unwritten.tried_ms.is_none_or(|tried_ms| now.boot_ms - tried_ms >= wait_ms);
        let nothing = unwritten.hours.is_empty() && unwritten.transitions.is_empty();
        if nothing || !(due || all) {
            return None;
        }
        let Unwritten { hours, transitions, hours_gone, transitions_gone, .. } =
            std::mem::take(unwritten);
        self.unwritten.tried_ms = Some(now.boot_ms);
        let hours = self.hours.iter().filter(|it| hours.contains(&it.no)).cloned().collect();
        let transitions = self.transitions.iter().filter(|it| transitions.contains(&it.no));
        Some(Changes {
            hours,
            transitions: transitions.cloned().collect(),
            hours_gone: hours_gone.into_iter().collect(),
            transitions_gone: transitions_gone.into_iter().collect(),
        })
    }

    /// They could not be written, or may not have been: they are due again.
    pub fn handle_unwritten(&mut self, changes: Changes) {
        let unwritten = &mut self.unwritten;
        unwritten.urgent |= !changes.transitions.is_empty();
        unwritten.hours_gone.extend(changes.hours_gone);
        unwritten.transitions_gone.extend(changes.transitions_gone);
        let hours = changes.hours.iter().map(|it| it.no);
        unwritten.hours.extend(hours.filter(|no| !unwritten.hours_gone.contains(no)));
        let transitions = changes.transitions.iter().map(|it| it.no);
        unwritten
            .transitions
            .extend(transitions.filter(|no| !unwritten.transitions_gone.contains(no)));
    }
}

/// One line of bounded length.
fn cut(why: &str) -> String {
    let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if why.len() <= WHY_BYTES_MAX {
        return why;
    }
    let end = why.floor_char_boundary(WHY_BYTES_MAX - '…'.len_utf8());
    format!("{}…", &why[..end])
}
