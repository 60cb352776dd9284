//! Events: alerts and command acks, small, urgent, and as durable as a reading.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError};
use crate::{BODY_BYTES_MAX, CommandId, Content, Epoch, Metrics, TEXT_BYTES_MAX};

/// The body of a batch of the events stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the epoch's start, as in a reading.
    pub t: i64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// Something that a person should know, or that is over.
    Alert {
        /// Stable name of the alert, such as `outbox_full` or `port_lost`.
        name: String,
        /// What it is about, such as a port; absent where there is only one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<String>,
        /// Raised or cleared.
        state: AlertState,
        /// How bad.
        severity: Severity,
        /// For people: what happened and what to do.
        message: String,
        /// Its state is kept over restarts: an epoch that ends does not clear it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lasting: bool,
    },
    /// What became of a command.
    CommandAck {
        /// The command's id.
        id: CommandId,
        /// The epoch that the command was meant for, or ran in.
        target: Epoch,
        /// What the command asked for; absent from gateways that do not run commands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Content>,
        /// What became of it.
        outcome: CommandOutcome,
        /// For people: why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// What the device answered.
        #[serde(default, skip_serializing_if = "Metrics::is_empty")]
        result: Metrics,
    },
}

/// Whether an alert begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// It begins.
    Raised,
    /// It is over.
    Cleared,
}

impl AlertState {
    /// The name on the wire and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            AlertState::Raised => "raised",
            AlertState::Cleared => "cleared",
        }
    }
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Will hurt if nobody looks.
    Warning,
    /// Hurts now: readings are refused or missing.
    Critical,
}

impl Severity {
    /// The name on the wire and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

impl FromStr for Severity {
    type Err = SeverityError;

    fn from_str(text: &str) -> Result<Self, SeverityError> {
        let all = [Severity::Info, Severity::Warning, Severity::Critical];
        let known = all.into_iter().find(|severity| severity.as_str() == text);
        known.ok_or_else(|| SeverityError(text.chars().take(80).collect()))
    }
}

/// The name of no severity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no severity; there are \"info\", \"warning\" and \"critical\"")]
pub struct SeverityError(String);

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandOutcome {
    /// On its way to the device.
    Accepted,
    /// It ran, once.
    Succeeded,
    /// It ran, once, and the device reported an error.
    Failed,
    /// No answer in time: it may have run.
    TimedOut,
    /// It surely did not run: unknown, malformed, not allowed.
    Rejected,
    /// It surely did not run: too late.
    Expired,
    /// It was meant for another epoch and did not run in this one.
    Stale,
    /// The gateway stopped in between: it may have run.
    Unknown,
}

impl CommandOutcome {
    /// The name on the wire and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            CommandOutcome::Accepted => "accepted",
            CommandOutcome::Succeeded => "succeeded",
            CommandOutcome::Failed => "failed",
            CommandOutcome::TimedOut => "timed_out",
            CommandOutcome::Rejected => "rejected",
            CommandOutcome::Expired => "expired",
            CommandOutcome::Stale => "stale",
            CommandOutcome::Unknown => "unknown",
        }
    }

    /// Whether nothing more is to come of the command, wherever it was sent.
    pub fn is_final(self) -> bool {
        !matches!(self, CommandOutcome::Accepted | CommandOutcome::Stale)
    }
}

impl FromStr for CommandOutcome {
    type Err = OutcomeError;

    fn from_str(text: &str) -> Result<Self, OutcomeError> {
        let all = [
            CommandOutcome::Accepted,
            CommandOutcome::Succeeded,
            CommandOutcome::Failed,
            CommandOutcome::TimedOut,
            CommandOutcome::Rejected,
            CommandOutcome::Expired,
            CommandOutcome::Stale,
            CommandOutcome::Unknown,
        ];
        let known = all.into_iter().find(|outcome| outcome.as_str() == text);
        known.ok_or_else(|| OutcomeError(text.chars().take(80).collect()))
    }
}

/// The name of no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no outcome of a command")]
pub struct OutcomeError(String);

impl Event {
    /// Whether it goes to `command_acks` (else to `alerts`).
    pub fn is_command_ack(&self) -> bool {
        matches!(self.kind, EventKind::CommandAck { .. })
    }

    /// As CBOR.
    pub fn encode(&self) -> Vec<u8> {
        // By way of a value: flattened, serde knows no length, and the map would be the only
        // one of indefinite length on the wire.
        let map = ciborium::Value::serialized(self).expect("text keys and plain values");
        cbor::encode(&map)
    }

    /// From the CBOR of a batch's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        if body.len() > BODY_BYTES_MAX {
            let (found, max) = (body.len(), BODY_BYTES_MAX);
            return Err(DecodeError::TooBig { what: "event", found, unit: "bytes", max });
        }
        let event: Event = cbor::decode("event", body)?;
        let text = match &event.kind {
            EventKind::Alert { message, .. } => message.len(),
            EventKind::CommandAck { detail, .. } => detail.as_deref().map_or(0, str::len),
        };
        if text > TEXT_BYTES_MAX {
            return Err(DecodeError::TooBig {
                what: "event's text",
                found: text,
                unit: "bytes",
                max: TEXT_BYTES_MAX,
            });
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_back_as_they_were() {
        let alert = EventKind::Alert {
            name: "port_lost".into(),
            about: Some("arduino".into()),
            state: AlertState::Raised,
            severity: Severity::Warning,
            message: "gone".into(),
            lasting: false,
        };
        let ack = EventKind::CommandAck {
            id: "a1".parse().unwrap(),
            target: Epoch([9; 16]),
            content: Some(Content([5; 8])),
            outcome: CommandOutcome::TimedOut,
            detail: None,
            result: Metrics::from_json(r#"{"on":1}"#).unwrap(),
        };
        for kind in [alert, ack] {
            let event = Event { t: 1234, kind };
            assert_eq!(Event::decode(&event.encode()), Ok(event));
        }
    }
}
