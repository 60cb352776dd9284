//! What each rule says now. Pure: time comes in as CLOCK_BOOTTIME milliseconds.

use std::collections::VecDeque;
use std::sync::Arc;

use fieldpost_protocol::{AlertState, EventKind, Severity, Value};

use super::rule::Says;
use super::{ByAlert, Condition, Rule};
use crate::alerts::Raised;
use crate::outbox::{KeptAlert, NewEvent};
use crate::serial::Measured;

/// A rule that flaps changes at most so often: each change is a commit.
const CHANGE_MS_MIN: i64 = 1_000;
/// Sources that one rule tells apart; what a further one says is passed over.
const SOURCES_MAX: usize = 256;
/// Events that wait for the outbox; at the bound nothing changes until it has taken some.
const QUEUE_MAX: usize = 64;
/// Changes that wait for whoever looks on; beyond it the oldest is dropped.
const LIVE_MAX: usize = 64;

/// What the driver sees.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Bytes that the outbox uses, if somebody has asked.
    pub outbox_bytes: Option<u64>,
    /// Ports that are not open, and ought to be.
    pub lost: Vec<Arc<str>>,
    /// Ports of which nobody can say: they were not tried yet.
    pub untried: Vec<Arc<str>>,
}

/// One rule, about one thing.
#[derive(Debug, Default)]
struct State {
    /// Since when the condition holds.
    since: Option<i64>,
    /// The newest that was seen is past the hysteresis.
    over: bool,
    /// The newest value of which anything can be said.
    value: Option<Value>,
    /// When it was raised or cleared last.
    changed: Option<i64>,
    raised: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    definition: String,
    severity: Severity,
    message: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Board {
    rules: Vec<Rule>,
    states: ByAlert<State>,
    queue: VecDeque<NewEvent>,
    live: VecDeque<(i64, EventKind)>,
    /// What was raised before is forgotten here, and not in storage.
    anew: bool,
    /// It was logged that there are too many sources.
    crowded: bool,
}

impl Board {
    pub(super) fn new(rules: Vec<Rule>, kept: Vec<KeptAlert>, boot_ms: i64) -> Self {
        let mut board = Board::default();
        for alert in kept {
            let KeptAlert { name, about, definition, severity, message } = alert;
            let raised = Some(Kept { definition, severity, message });
            let state = State { raised, ..State::default() };
            board.states.insert((name, about.map(Into::into)), state);
        }
        board.replace(rules, boot_ms);
        board
    }

    pub(super) fn begin_anew(&mut self) {
        self.anew = true;
    }

    pub(super) fn replace(&mut self, rules: Vec<Rule>, boot_ms: i64) {
        let before = std::mem::replace(&mut self.rules, rules);
        for (key, mut state) in std::mem::take(&mut self.states) {
            let rule = self.rules.iter().find(|rule| rule.name == key.0);
            let now = rule.map(Rule::definition);
            let same = match &state.raised {
                Some(kept) => now.as_ref() == Some(&kept.definition),
                None => before.iter().find(|rule| rule.name == key.0) == rule,
            };
            if !same && state.raised.take().is_some() {
                let why = match rule {
                    Some(_) => "its rule was changed in the configuration: it is judged anew",
                    None => "its rule was removed from the configuration",
                };
                let (name, about) = &key;
                let cleared = (AlertState::Cleared, Severity::Info, why.to_owned());
                self.tell(boot_ms, name, about.as_deref(), cleared, None);
            } else if same {
                self.states.insert(key, state);
            }
        }
        for at in 0..self.rules.len() {
            // Whoever never sends anything is missed from now on.
            if let Condition::NoData { source, .. } = &self.rules[at].condition {
                let key = (self.rules[at].name.clone(), Some(source.clone()));
                self.states.entry(key).or_default().since.get_or_insert(boot_ms);
            }
        }
    }

    pub(super) fn look(&mut self, reading: &Measured) {
        for at in 0..self.rules.len() {
            let now = reading.boot_ms;
            match &self.rules[at].condition {
                Condition::Metric { source, metric, test } => {
                    if source.as_ref().is_some_and(|source| *source != reading.source) {
                        continue;
                    }
                    let Some(value) = reading.metrics.get(metric) else { continue };
                    let Some(says) = test.ask(value) else { continue };
                    let value = value.clone();
                    self.step(at, Some(&reading.source), now, says, Some(value));
                }
                Condition::NoData { source, metric } if *source == reading.source => {
                    let value = metric.as_ref().map(|metric| reading.metrics.get(metric));
                    if matches!(value, Some(None | Some(Value::Null))) {
                        continue;
                    }
                    let source = source.clone();
                    if let Some(state) = self.state(at, Some(&source)) {
                        (state.since, state.over) = (Some(now), true);
                    }
                    self.judge(at, Some(&source), now);
                }
                _ => {}
            }
        }
    }

    pub(super) fn tick(&mut self, now: i64, seen: &Seen) {
        for at in 0..self.rules.len() {
            match &self.rules[at].condition {
                Condition::Metric { .. } | Condition::NoData { .. } => {}
                Condition::OutboxAbove(limit) => {
                    let Some(bytes) = seen.outbox_bytes else { continue };
                    let says = match bytes {
                        bytes if bytes > *limit => Says::Holds,
                        // It breathes: segments are sealed, and trimmed.
                        bytes if bytes <= limit / 10 * 9 => Says::Over,
                        _ => Says::Between,
                    };
                    self.step(at, None, now, says, Some(Value::Int(bytes as i64)));
                }
                Condition::PortLost(port) if seen.untried.contains(port) => {}
                Condition::PortLost(port) => {
                    let port = port.clone();
                    let lost = seen.lost.contains(&port);
                    let says = if lost { Says::Holds } else { Says::Over };
                    self.step(at, Some(&port), now, says, None);
                }
            }
        }
        let waiting = self.states.iter().filter(|(_, state)| state.wants_change());
        let waiting: Vec<_> = waiting.map(|(key, _)| key.clone()).collect();
        for (name, about) in waiting {
            if let Some(at) = self.rules.iter().position(|rule| rule.name == name) {
                self.judge(at, about.as_ref(), now);
            }
        }
    }

    pub(super) fn need_size(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.condition, Condition::OutboxAbove(_)))
    }

    pub(super) fn tells(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn next_event(&mut self) -> Option<NewEvent> {
        self.queue.pop_front()
    }

    pub(super) fn take_live(&mut self) -> Vec<(i64, EventKind)> {
        self.live.drain(..).collect()
    }

    pub(super) fn raised(&self) -> Vec<Raised> {
        let raised = self.states.iter().filter_map(|((name, about), state)| {
            let Kept { severity, message, .. } = state.raised.as_ref()?;
            let about = about.as_deref().map(str::to_owned);
            let (severity, message) = (severity.as_str(), message.clone());
            Some(Raised { name: name.clone().into(), about, severity, message })
        });
        raised.collect()
    }

    /// Takes what was just seen, and judges.
    fn step(
        &mut self,
        at: usize,
        about: Option<&Arc<str>>,
        now: i64,
        says: Says,
        value: Option<Value>,
    ) {
        let Some(state) = self.state(at, about) else { return };
        state.over = says == Says::Over;
        match says {
            Says::Holds => drop(state.since.get_or_insert(now)),
            Says::Between | Says::Over => state.since = None,
        }
        state.value = value;
        self.judge(at, about, now);
    }

    /// `None`: too many sources.
    fn state(&mut self, at: usize, about: Option<&Arc<str>>) -> Option<&mut State> {
        let name = &self.rules[at].name;
        let key = (name.clone(), about.cloned());
        if !self.states.contains_key(&key) {
            let of_rule = self.states.keys().filter(|(other, _)| other == name).count();
            if of_rule >= SOURCES_MAX {
                if !std::mem::replace(&mut self.crowded, true) {
                    tracing::warn!(
                        rule = name,
                        source = about.map(|about| &**about),
                        "a rule tells {SOURCES_MAX} sources apart; this one and all further ones raise no alert"
                    );
                }
                return None;
            }
        }
        Some(self.states.entry(key).or_default())
    }

    fn judge(&mut self, at: usize, about: Option<&Arc<str>>, now: i64) {
        if self.queue.len() >= QUEUE_MAX {
            return;
        }
        let rule = &self.rules[at];
        let key = (rule.name.clone(), about.cloned());
        let Some(state) = self.states.get_mut(&key) else { return };
        if state.changed.is_some_and(|changed| now - changed < CHANGE_MS_MIN) {
            return;
        }
        let about = about.map(|about| &**about);
        let holds = state.since.is_some_and(|since| now - since >= rule.hold_ms);
        if state.raised.is_none() && holds {
            let (severity, definition) = (rule.severity, rule.definition());
            let message = rule.says_raised(about, state.value.as_ref());
            let kept = Kept { definition: definition.clone(), severity, message: message.clone() };
            (state.raised, state.changed, state.over) = (Some(kept), Some(now), false);
            let raised = (AlertState::Raised, severity, message);
            self.tell(now, &key.0, about, raised, Some(definition));
        } else if state.raised.is_some() && state.over {
            (state.raised, state.changed) = (None, Some(now));
            let message = rule.says_over(about, state.value.as_ref());
            self.tell(now, &key.0, about, (AlertState::Cleared, Severity::Info, message), None);
        } else if self.anew && state.over && state.changed.is_none() {
            state.changed = Some(now);
            let message = rule.says_over(about, state.value.as_ref());
            self.tell(now, &key.0, about, (AlertState::Cleared, Severity::Info, message), None);
        }
    }

    fn tell(
        &mut self,
        boot_ms: i64,
        name: &str,
        about: Option<&str>,
        (state, severity, message): (AlertState, Severity, String),
        rule: Option<String>,
    ) {
        match (state, severity) {
            (AlertState::Cleared, _) => tracing::info!(alert = name, about, "{message}"),
            (_, Severity::Critical) => tracing::error!(alert = name, about, "{message}"),
            (_, Severity::Warning) => tracing::warn!(alert = name, about, "{message}"),
            (_, Severity::Info) => tracing::info!(alert = name, about, "{message}"),
        }
        let (name, about, lasting) = (name.to_owned(), about.map(str::to_owned), true);
        let kind = EventKind::Alert { name, about, state, severity, message, lasting };
        if self.live.len() >= LIVE_MAX {
            self.live.pop_front();
        }
        self.live.push_back((boot_ms, kind.clone()));
        self.queue.push_back(NewEvent { boot_ms, kind, rule });
    }
}

impl State {
    /// Whether time alone may change it.
    fn wants_change(&self) -> bool {
        if self.raised.is_some() { self.over } else { self.since.is_some() }
    }
}

#[cfg(test)]
mod tests;
