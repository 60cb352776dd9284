//! The driver and alerts: its own go to the outbox, those of rules come from there; all are shown
//! live.

use fieldpost_fail_point::point;
use fieldpost_mqtt::Qos;
use fieldpost_protocol::{EventKind, LiveAlert, Topic};
use tokio::sync::mpsc::error::TrySendError;

use super::Driver;
use crate::outbox::{Gone, NewEvent, Outbox};
use crate::rules::Seen;

impl Driver {
    /// Hands its own alerts to the intake, and shows what was raised and cleared.
    pub(super) fn tell_alerts(&mut self) {
        while let Some(event) = self.alerts.next_event() {
            let NewEvent { boot_ms, kind, .. } = event.clone();
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.alerts.put_back(event);
                break;
            }
            self.publish_live_alert(boot_ms, kind);
        }
        for (boot_ms, kind) in self.rules.take_live() {
            // Whoever stands at the machine looks into the status file.
            self.ports_changed = true;
            self.publish_live_alert(boot_ms, kind);
        }
    }

    /// Rules that hang on time, on ports, or on the outbox's size.
    pub(super) async fn tick_rules(&mut self, boot_ms: i64) -> Result<(), Gone> {
        let mut seen = Seen::default();
        if self.rules.need_size() {
            let job = |outbox: &mut Outbox| outbox.used_bytes();
            seen.outbox_bytes = self.on_outbox("its size", job).await?;
        }
        let lost = self.ports.iter().filter(|port| port.tried && !port.open && !port.released);
        seen.lost = lost.map(|port| port.name.clone()).collect();
        let untried = self.ports.iter().filter(|port| !port.tried);
        seen.untried = untried.map(|port| port.name.clone()).collect();
        self.rules.tick(boot_ms, &seen);
        Ok(())
    }

    fn publish_live_alert(&mut self, boot_ms: i64, kind: EventKind) {
        let EventKind::Alert { name, about, state, severity, message, .. } = kind else { return };
        let time = self.unix_ms(boot_ms);
        let alert = LiveAlert { time, name, about, state, severity, message };
        let topic = Topic::Live(self.device.clone(), "alerts".to_owned());
        point!("send.live_alert.before");
        self.publish(topic, alert.to_json(), Qos::AtMostOnce, false);
        point!("send.live_alert.after");
    }
}
