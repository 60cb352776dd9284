//! The alerts that the gateway raises itself: once each, cleared once.
//!
//! They become events of the outbox, and they show in the local status file, since the very
//! fault may keep them from getting out by MQTT.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use fieldpost_protocol::{AlertState, EventKind, Severity};
use serde::Serialize;

use crate::outbox::{Hole, NewEvent};

/// Events that wait for the outbox; beyond it the oldest is dropped, and logged. An alert
/// that is raised again while it waits takes no second place.
const QUEUE_MAX: usize = 64;
/// Holes in the outbox that get an alert each; the log names all.
const HOLES_MAX: usize = 8;

/// The names of the alerts that the gateway raises itself: no rule has one of them.
pub const OWN: &[&str] = &[
    "broker_refuses",
    "clock_differs",
    "clock_unsynced",
    "connection_unstable",
    "no_common_version",
    "no_sync_ack",
    "other_store",
    "outbox_damaged",
    "outbox_failing",
    "outbox_full",
    "outbox_replaced",
    "port_lost",
    "row_stuck",
    "sync_paused",
];

/// An alert that is raised now, for the status file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Raised {
    /// Its name, such as `outbox_full`.
    pub name: Cow<'static, str>,
    /// What it is about, such as a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// What happened and what to do.
    pub message: String,
}

/// What is raised, and what still has to be told.
#[derive(Debug, Default)]
pub struct Alerts {
    raised: BTreeMap<(&'static str, Option<String>), Raised>,
    queue: VecDeque<NewEvent>,
}

impl Alerts {
    /// Raises an alert, unless it is raised already.
    pub fn raise(
        &mut self,
        boot_ms: i64,
        name: &'static str,
        about: Option<&str>,
        severity: Severity,
        message: impl Into<String>,
    ) {
        debug_assert!(OWN.contains(&name), "{name} has to be in the list");
        let key = (name, about.map(str::to_owned));
        if self.raised.contains_key(&key) {
            return;
        }
        let message = message.into();
        match severity {
            Severity::Critical => tracing::error!(alert = name, about, "{message}"),
            _ => tracing::warn!(alert = name, about, "{message}"),
        }
        let about = key.1.clone();
        self.tell(boot_ms, name, about.clone(), AlertState::Raised, severity, message.clone());
        self.raised
            .insert(key, Raised { name: name.into(), about, severity: severity.as_str(), message });
    }

    /// Raises one for each hole in the outbox that storage is not known to have.
    pub fn raise_holes(&mut self, boot_ms: i64, holes: &[Hole]) {
        for Hole { key, first, last, .. } in holes {
            tracing::warn!(%key, first, last, "rows are gone from the outbox");
        }
        let unacked: Vec<&Hole> = holes.iter().filter(|hole| hole.unacked).collect();
        for Hole { key, first, last, .. } in unacked.iter().take(HOLES_MAX) {
            let message = format!(
                "rows {first} to {last} of {key} are gone from the outbox: its card is failing, or somebody deleted \
                 them. Those that storage lacks will show as missing; nothing else is lost"
            );
            let about = format!("{key} {first}-{last}");
            self.raise(boot_ms, "outbox_damaged", Some(&about), Severity::Critical, message);
        }
        if unacked.len() > HOLES_MAX {
            let more = unacked.len() - HOLES_MAX;
            let message =
                format!("rows are gone from the outbox in {more} more places: the log names them");
            self.raise(boot_ms, "outbox_damaged", Some("more"), Severity::Critical, message);
        }
    }

    /// Clears an alert, if it is raised.
    pub fn clear(
        &mut self,
        boot_ms: i64,
        name: &'static str,
        about: Option<&str>,
        message: impl Into<String>,
    ) {
        let key = (name, about.map(str::to_owned));
        if self.raised.remove(&key).is_some() {
            let message = message.into();
            tracing::info!(alert = name, about, "{message}");
            self.tell(boot_ms, name, key.1, AlertState::Cleared, Severity::Info, message);
        }
    }

    fn tell(
        &mut self,
        boot_ms: i64,
        name: &'static str,
        about: Option<String>,
        state: AlertState,
        severity: Severity,
        message: String,
    ) {
        if self.queue.len() >= QUEUE_MAX {
            tracing::warn!("too many alerts wait for the outbox; the oldest is dropped");
            self.queue.pop_front();
        }
        let (name, lasting) = (name.to_owned(), false);
        let kind = EventKind::Alert { name, about, state, severity, message, lasting };
        self.queue.push_back(NewEvent { boot_ms, kind, rule: None });
    }

    /// The next event for the outbox.
    pub fn next_event(&mut self) -> Option<NewEvent> {
        self.queue.pop_front()
    }

    /// Puts an event back that could not be handed over.
    pub fn put_back(&mut self, event: NewEvent) {
        self.queue.push_front(event);
    }

    /// What is raised now.
    pub fn raised(&self) -> impl Iterator<Item = &Raised> {
        self.raised.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_told_once_when_it_is_raised_and_once_when_it_is_cleared() {
        let mut alerts = Alerts::default();
        for _ in 0..3 {
            alerts.raise(1, "port_lost", Some("a"), Severity::Warning, "gone");
        }
        alerts.raise(1, "port_lost", Some("b"), Severity::Warning, "gone");
        alerts.clear(2, "port_lost", Some("a"), "back");
        alerts.clear(2, "port_lost", Some("a"), "back");
        assert_eq!(std::iter::from_fn(|| alerts.next_event()).count(), 3);
        assert_eq!(alerts.raised().count(), 1);
    }
}
