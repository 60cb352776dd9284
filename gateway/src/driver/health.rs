//! How the gateway is doing: alerts that it raises itself, heartbeat, status file.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_mqtt::Qos;
use fieldpost_protocol::{Severity, Topic};

use super::{Driver, Port};
use crate::clock;
use crate::outbox::{Gone, sync_call};
use crate::serial::PortEvent;
use crate::status::{OutboxReport, PortReport, ReadingsReport, Report};

/// Nothing was refused for so long: the outbox is full no more.
const FULL_OVER_MS: i64 = 10_000;

impl Driver {
    pub(super) fn handle_port(&mut self, event: PortEvent) {
        let boot_ms = clock::boottime_ms();
        self.ports_changed |= !matches!(event, PortEvent::Boot { .. });
        match event {
            PortEvent::Opened { port, hints } => {
                tracing::info!(%port, "port open");
                for hint in &hints {
                    tracing::warn!(%port, "{hint}");
                }
                self.mark_port(&port, true, false);
                self.afar.handle_port_opened(&port);
                if let Some(port) = self.port(&port) {
                    port.site_hints = hints;
                }
                self.alerts.clear(boot_ms, "port_lost", Some(&port), "the port is open again");
            }
            // What a port said before it was closed for good.
            PortEvent::Lost { port, .. } if self.port(&port).is_none() => {}
            PortEvent::Lost { port, reason } => {
                if self.port(&port).is_some_and(|port| port.open) {
                    self.afar.handle_port_lost(&port);
                }
                self.mark_port(&port, false, false);
                self.alerts.raise(boot_ms, "port_lost", Some(&port), Severity::Warning, reason);
            }
            PortEvent::Released { port, time } => {
                tracing::info!(%port, seconds = time.as_millis().div_ceil(1_000), "port closed: it was asked for");
                self.mark_port(&port, false, true);
            }
            PortEvent::Hint { port, text } => {
                tracing::warn!(%port, "{text}");
                if let Some(port) = self.port(&port) {
                    port.hint = Some((text, port.counters.snapshot().frames));
                }
            }
            PortEvent::Boot { port, text } => {
                tracing::info!(%port, board = text, "the board has started")
            }
        }
    }

    fn mark_port(&mut self, name: &str, open: bool, released: bool) {
        if let Some(port) = self.port(name) {
            (port.tried, port.open, port.released) = (true, open, released);
        }
    }

    fn port(&mut self, name: &str) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| *port.name == *name)
    }

    pub(super) fn judge_full(&mut self, boot_ms: i64, full: bool) {
        if full {
            self.full_ms = Some(boot_ms);
            let message = "the outbox is full: readings are refused. Let it drain, or raise [outbox] size_max";
            self.alerts.raise(boot_ms, "outbox_full", None, Severity::Critical, message);
        } else if self.full_ms.is_none_or(|last| boot_ms - last >= FULL_OVER_MS) {
            // A commit that found a little room is not the end of it.
            self.full_ms = None;
            self.alerts.clear(boot_ms, "outbox_full", None, "the outbox takes readings again");
        }
    }

    /// Alerts that come of time passing.
    pub(super) fn judge_health(&mut self, now: Duration) {
        let boot_ms = now.as_millis() as i64;
        let limit = self.config.alerts.no_sync_ack_after;
        let stalled =
            self.engine.no_progress_since().is_some_and(|since| now.saturating_sub(since) >= limit);
        if stalled && self.connection.is_some() {
            let waiting = self.engine.waiting();
            let message = format!(
                "connected, but storage has acknowledged nothing for {} s while {waiting} rows wait. \
                 Does the bridge run, and may this device publish and subscribe?",
                limit.as_secs()
            );
            self.alerts.raise(boot_ms, "no_sync_ack", None, Severity::Critical, message);
        } else if !stalled {
            self.alerts.clear(boot_ms, "no_sync_ack", None, "storage acknowledges again");
        }
        self.clear_sync_alerts(boot_ms);
        if self.engine.is_paused() {
            let message = "readings stay here, since somebody has asked for it (sync.pause); sync.resume ends it";
            self.alerts.raise(boot_ms, "sync_paused", None, Severity::Info, message);
        } else {
            self.alerts.clear(boot_ms, "sync_paused", None, "readings are sent again");
        }
        let unsynced = self.base.is_none() && !clock::synchronised();
        let running = boot_ms - self.started.boot_ms;
        if !unsynced {
            self.alerts.clear(boot_ms, "clock_unsynced", None, "the time is known");
        } else if running >= self.config.alerts.clock_unsynced_after.as_millis() as i64 {
            let message =
                "neither NTP nor a bridge has told the time; readings may end up marked unsynced";
            self.alerts.raise(boot_ms, "clock_unsynced", None, Severity::Warning, message);
        }
    }

    fn judge_place(&mut self, in_place: bool) {
        if !in_place {
            let message = format!(
                "the outbox {} was deleted or replaced while it is in use: what storage does not have yet lives \
                 only as long as this process. Let it drain, then start the gateway again",
                self.config.outbox.path.display()
            );
            let boot_ms = clock::boottime_ms();
            self.alerts.raise(boot_ms, "outbox_replaced", None, Severity::Critical, message);
        }
    }

    /// Alerts of the sync protocol that are over.
    fn clear_sync_alerts(&mut self, boot_ms: i64) {
        if self.engine.is_confirmed() && !self.engine.is_mute() {
            self.alerts.clear(
                boot_ms,
                "no_common_version",
                None,
                "gateway and bridge have a version in common",
            );
        }
        let stuck: Vec<String> = self.engine.stuck().map(|key| key.to_string()).collect();
        let raised = self.alerts.raised().filter(|alert| alert.name == "row_stuck");
        let over: Vec<String> = raised
            .filter_map(|alert| alert.about.clone())
            .filter(|about| !stuck.contains(about))
            .collect();
        for about in over {
            self.alerts.clear(boot_ms, "row_stuck", Some(&about), "the row got its sync ack");
        }
    }

    /// Heartbeat by MQTT, and the status file.
    pub(super) async fn report(&mut self) -> Result<(), Gone> {
        let job = |outbox: &mut crate::outbox::Outbox| {
            outbox.used_bytes().map(|used| (used, outbox.is_in_place()))
        };
        if let Some((used, in_place)) = self.on_outbox("its size", job).await? {
            self.used_bytes = used;
            self.judge_place(in_place);
        }
        let time = self.unix_ms(clock::boottime_ms());
        let report = self.build_report();
        let message = report.message(time).to_json();
        point!("send.status.before");
        self.publish(Topic::Status(self.device.clone()), message, Qos::AtLeastOnce, true);
        point!("send.status.after");
        self.write_status_file(&report);
        Ok(())
    }

    /// The status file alone.
    pub(super) fn write_status(&mut self) {
        let report = self.build_report();
        self.write_status_file(&report);
    }

    fn write_status_file(&mut self, report: &Report) {
        let Some(path) = &self.config.status.file else { return };
        match report.write(path) {
            Ok(()) => self.status_file_failed = false,
            Err(error) if !self.status_file_failed => {
                self.status_file_failed = true;
                let path = path.display();
                tracing::warn!(%path, %error, "the status file cannot be written; set [status] file elsewhere, or to \"\"");
            }
            Err(_) => {}
        }
    }

    fn build_report(&self) -> Report {
        let broker = match (&self.session, self.connection) {
            _ if self.ending => "stopped",
            (None, _) => "none",
            (Some(_), None) => "offline",
            (Some(_), Some(_)) if self.engine.is_confirmed() => "in sync",
            (Some(_), Some(_)) => "connected",
        };
        let ports: Vec<PortReport> = self
            .ports
            .iter()
            .map(|port| {
                let counted = port.counters.snapshot();
                // Lines that are taken now need no advice.
                let hint = port.hint.as_ref().filter(|(_, frames)| *frames == counted.frames);
                PortReport {
                    name: port.name.to_string(),
                    path: port.path.clone(),
                    open: port.open,
                    released: port.released,
                    hints: hint
                        .map(|(text, _)| text)
                        .into_iter()
                        .chain(&port.site_hints)
                        .cloned()
                        .collect(),
                    counted,
                }
            })
            .collect();
        let now = clock::Now::read();
        Report {
            device: self.device.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            written: now.wall_ms,
            uptime_s: ((now.boot_ms - self.started.boot_ms) / 1_000).max(0) as u64,
            clock: self
                .base
                .map_or(if now.synchronised { "ntp" } else { "unsynced" }, |(_, clock)| {
                    clock.as_str()
                }),
            broker,
            last_error: self.broker.last_error.clone(),
            connectivity: self.history.report(self.moment()),
            store: self.engine.store(),
            epoch: self.epoch,
            outbox: OutboxReport {
                path: self.config.outbox.path.clone(),
                used_bytes: self.used_bytes,
                limit_bytes: self.config.outbox.size_max,
                waiting: self.engine.waiting(),
                acked: self.engine.acked(),
                sync_call: sync_call(),
            },
            readings: ReadingsReport {
                accepted: self.counted.accepted.load(Ordering::Relaxed),
                refused_by_ports: ports.iter().map(|port| port.counted.refused()).sum(),
                refused_full: self.counted.refused_full.load(Ordering::Relaxed),
                refused_in_doubt: self.counted.refused_in_doubt.load(Ordering::Relaxed),
                dropped: self.counted.dropped.load(Ordering::Relaxed),
            },
            dropped: self.engine.dropped,
            ports,
            alerts: self.alerts.raised().cloned().chain(self.rules.raised()).collect(),
        }
    }
}
