//! What the gateway says about itself: the local status file, and `devices/<id>/status`.
//!
//! The file is for whoever stands before the machine: it also holds what cannot get out by
//! MQTT. It is replaced as a whole, so that a reader never sees half of one.

use std::path::{Path, PathBuf};

use fieldpost_fail_point::point;
use fieldpost_protocol::{DeviceStatus, Epoch, StoreId};
use serde::{Deserialize, Serialize};

use crate::alerts::Raised;
use crate::engine::Dropped;
use crate::history::Connectivity;
use crate::serial::CountersNow;

/// The status file's content.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The device.
    pub device: String,
    /// The gateway's version.
    pub version: &'static str,
    /// Its process id.
    pub pid: u32,
    /// When this was written, Unix milliseconds, right or wrong (see `clock`).
    pub written: i64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// `ntp`, `bridge`, or `unsynced` while nobody knows the time.
    pub clock: &'static str,
    /// The broker: `none`, `offline`, `connected`, `in sync` once storage has answered, or
    /// `stopped` in the last word of a gateway that ended in order.
    pub broker: &'static str,
    /// Why the last connection failed, and when the next is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Whether readings got through, and why not; without a broker there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connectivity: Option<Connectivity>,
    /// The storage that is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreId>,
    /// The epoch that is appended to.
    pub epoch: Epoch,
    /// The outbox.
    pub outbox: OutboxReport,
    /// What happened to readings since the start.
    pub readings: ReadingsReport,
    /// Messages that were dropped, by reason.
    pub dropped: Dropped,
    /// The ports.
    pub ports: Vec<PortReport>,
    /// What is raised now.
    pub alerts: Vec<Raised>,
}

/// The outbox in [`Report`].
#[derive(Debug, Clone, Serialize)]
pub struct OutboxReport {
    /// The file.
    pub path: PathBuf,
    /// Bytes in used pages.
    pub used_bytes: u64,
    /// The limit.
    pub limit_bytes: u64,
    /// Rows held and not sync-acked.
    pub waiting: u64,
    /// Rows held and sync-acked.
    pub acked: u64,
    /// `fdatasync` or `fsync`: what a commit calls.
    pub sync_call: &'static str,
}

/// Readings in [`Report`], since the start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ReadingsReport {
    /// Committed.
    pub accepted: u64,
    /// Refused by a port: damaged, or the queue was full.
    pub refused_by_ports: u64,
    /// Refused because the outbox is full.
    pub refused_full: u64,
    /// In a commit that failed and may yet be durable.
    pub refused_in_doubt: u64,
    /// Accepted, and dropped by `drop_oldest` before storage had them.
    pub dropped: u64,
}

impl ReadingsReport {
    /// All that was refused.
    pub fn refused(&self) -> u64 {
        self.refused_by_ports + self.refused_full + self.refused_in_doubt
    }
}

/// A port in [`Report`].
#[derive(Debug, Clone, Serialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Whether it is open.
    pub open: bool,
    /// Whether it is closed because somebody has asked for it.
    pub released: bool,
    /// What a person should do, about its lines or about the machine.
    pub hints: Vec<String>,
    /// What it counted.
    #[serde(flatten)]
    pub counted: CountersNow,
}

impl Report {
    /// The message for `devices/<id>/status`.
    pub fn message(&self, time: Option<i64>) -> DeviceStatus {
        DeviceStatus {
            online: true,
            time,
            uptime_s: Some(self.uptime_s),
            version: Some(self.version.to_owned()),
            accepted: Some(self.readings.accepted),
            refused: Some(self.readings.refused()),
            waiting: Some(self.outbox.waiting),
            acked: Some(self.outbox.acked),
            lines_lost: Some(self.ports.iter().map(|port| port.counted.lines_lost).sum()),
            clock: Some(self.clock.to_owned()),
            alerts: self.alerts.iter().map(alert_name).collect(),
        }
    }

    /// Replaces the file.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        point!("status.before_write");
        std::fs::write(&new, text)?;
        point!("status.before_rename");
        std::fs::rename(&new, path)?;
        point!("status.after_rename");
        Ok(())
    }
}

fn alert_name(alert: &Raised) -> String {
    match &alert.about {
        Some(about) => format!("{}({about})", alert.name),
        None => alert.name.to_string(),
    }
}

/// The parts of a status file that `fieldpost-gateway status` prints.
#[derive(Debug, Deserialize)]
pub struct Printed {
    device: String,
    pid: u32,
    written: i64,
    clock: String,
    broker: String,
    #[serde(default)]
    last_error: Option<String>,
    #[serde(default)]
    connectivity: Option<Connectivity>,
    outbox: PrintedOutbox,
    readings: PrintedReadings,
    ports: Vec<PrintedPort>,
    alerts: Vec<PrintedAlert>,
}

#[derive(Debug, Deserialize)]
struct PrintedOutbox {
    path: PathBuf,
    used_bytes: u64,
    limit_bytes: u64,
    waiting: u64,
    acked: u64,
    sync_call: String,
}

#[derive(Debug, Deserialize)]
struct PrintedReadings {
    accepted: u64,
    refused_by_ports: u64,
    refused_full: u64,
    refused_in_doubt: u64,
    dropped: u64,
}

#[derive(Debug, Deserialize)]
struct PrintedPort {
    name: String,
    path: PathBuf,
    open: bool,
    #[serde(default)]
    released: bool,
    #[serde(default)]
    hints: Vec<String>,
    #[serde(default)]
    lines_lost: u64,
}

#[derive(Debug, Deserialize)]
struct PrintedAlert {
    name: String,
    severity: String,
    message: String,
}

impl Printed {
    /// For a person. `now_ms` tells how old the file is, `runs` whether a process is there.
    pub fn text(&self, now_ms: i64, runs: &dyn Fn(u32) -> bool) -> String {
        use std::fmt::Write;

        let Printed { device, pid, clock, broker, outbox, readings, .. } = self;
        let age_s = (now_ms - self.written) / 1_000;
        let mut text = String::new();
        let refused = readings.refused_by_ports + readings.refused_full + readings.refused_in_doubt;
        let _ = writeln!(text, "device    {device} (process {pid}, said {age_s} s ago)");
        if !runs(*pid) {
            let _ = writeln!(text, "          NOT RUNNING: what follows is what it said last");
        }
        let _ = writeln!(text, "broker    {broker}; clock {clock}");
        if let Some(error) = &self.last_error {
            let _ = writeln!(text, "          {error}");
        }
        if let Some(connectivity) = &self.connectivity {
            text.push_str(&connectivity.text(now_ms));
        }
        let _ = writeln!(
            text,
            "outbox    {}: {} of {} KiB used, {} waiting, {} acked and retained, commits by {}",
            outbox.path.display(),
            outbox.used_bytes / 1024,
            outbox.limit_bytes / 1024,
            outbox.waiting,
            outbox.acked,
            outbox.sync_call
        );
        let _ = writeln!(
            text,
            "readings  {} accepted, {refused} refused (ports {}, full {}, in doubt {}), {} dropped",
            readings.accepted,
            readings.refused_by_ports,
            readings.refused_full,
            readings.refused_in_doubt,
            readings.dropped
        );
        for port in &self.ports {
            let open = match (port.open, port.released) {
                (true, _) => "open",
                (false, true) => "RELEASED",
                (false, false) => "NOT OPEN",
            };
            let _ = writeln!(
                text,
                "port      {} {} {open}, {} lines lost",
                port.name,
                port.path.display(),
                port.lines_lost
            );
            for hint in &port.hints {
                let _ = writeln!(text, "          {hint}");
            }
        }
        for alert in &self.alerts {
            let _ = writeln!(
                text,
                "{:<9} {}: {}",
                alert.severity.to_uppercase(),
                alert.name,
                alert.message
            );
        }
        text
    }
}
