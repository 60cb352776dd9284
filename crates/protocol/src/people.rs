//! What people look at in MQTT Explorer, a dashboard or a shell: JSON.
//!
//! Machines trust none of these for a decision about data: a retained status may be as
//! old as the broker. Unknown keys are ignored, missing ones have defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AlertState, CommandId, CommandOutcome, Gen, Instance, Metrics, Severity, StoreId};

/// `devices/<id>/status`, retained, repeated every 60 s, and the last will with
/// `online: false` alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStatus {
    /// False only in the last will and at an orderly end.
    pub online: bool,
    /// Unix milliseconds at the gateway, if it knows the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// Seconds since the gateway's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    /// The gateway's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Readings accepted since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u64>,
    /// Frames refused since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// Readings and events held and not sync-acked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// Readings and events held and sync-acked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked: Option<u64>,
    /// Lines that the boards counted and that never came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines_lost: Option<u64>,
    /// Where the time comes from: `ntp`, `bridge` or `unsynced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    /// Alerts that are raised now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<String>,
}

/// `devices/<id>/meta`, retained: what the numbers mean.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// The device's name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its sources.
    pub sources: BTreeMap<String, MetaSource>,
}

/// One source in [`Meta`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MetaSource {
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its metrics.
    pub metrics: BTreeMap<String, MetaMetric>,
}

/// One metric in [`Meta`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MetaMetric {
    /// Its unit, such as `°C`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// `devices/<id>/live/<source>`: the newest values, not retained, lost without a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Unix milliseconds, if the gateway knows the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// The newest values.
    pub values: Metrics,
}

/// `devices/<id>/live/command_acks`: what becomes of commands, for whoever looks on. The command acks
/// that count are events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveCommandAck {
    /// Unix milliseconds, if the gateway knows the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// The command's id; null where none could be read, or none was given.
    pub id: Option<CommandId>,
    /// What it asked for, as far as that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What became of it; absent while that is open, and where nobody did anything (topics.md says when).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<CommandOutcome>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What the device answered.
    #[serde(default, skip_serializing_if = "Metrics::is_empty")]
    pub result: Metrics,
}

/// `devices/<id>/live/alerts`: alerts as they are raised and cleared, for whoever looks on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveAlert {
    /// Unix milliseconds, if the gateway knows the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// Which alert.
    pub name: String,
    /// What it is about, such as a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Raised or cleared.
    pub state: AlertState,
    /// How bad.
    pub severity: Severity,
    /// What happened and what to do.
    pub message: String,
}

/// `bridge/<name>/status`, retained, and the last will with `online: false`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeStatus {
    /// True only while every connection is subscribed.
    pub online: bool,
    /// Which start of the bridge.
    pub instance: Instance,
    /// Which storage.
    pub store: StoreId,
    /// Which incarnation of it.
    pub r#gen: Gen,
    /// The bridge's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Unix milliseconds at the bridge when it came online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}

macro_rules! json {
    ($($name:ident),*) => {$(
        impl $name {
            /// As JSON.
            pub fn to_json(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("text keys only, and no value that JSON lacks")
            }

            /// From JSON of at most 64 KiB.
            pub fn from_json(bytes: &[u8]) -> Result<Self, crate::DecodeError> {
                let what = stringify!($name);
                if bytes.len() > 64 * 1024 {
                    return Err(crate::DecodeError::TooBig { what, found: bytes.len(), unit: "bytes", max: 64 * 1024 });
                }
                serde_json::from_slice(bytes)
                    .map_err(|error| crate::DecodeError::Malformed { what, why: error.to_string() })
            }
        }
    )*};
}

json!(DeviceStatus, Meta, Live, LiveAlert, LiveCommandAck, BridgeStatus);
