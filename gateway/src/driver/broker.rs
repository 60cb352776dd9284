//! The driver and its connection: what comes over it, and what is said when it does not hold.

use std::time::Duration;

use fieldpost_mqtt::{DisconnectReason, Event as SessionEvent, PublishError};
use fieldpost_protocol::{BridgeStatus, Severity, State, SyncAcks, Topic};
use tokio::sync::mpsc;

use super::throttle::Throttle;
use super::{Driver, home_assistant};
use crate::clock;
use crate::outbox::Gone;

/// A connection that ends sooner is suspicious.
const SHORT: Duration = Duration::from_secs(30);
/// So many short ones in a row are an alert; one that holds for twice [`SHORT`] ends it.
const SHORT_ONES: u32 = 5;

/// What is known of the broker.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    /// `host:port`, for messages.
    pub(crate) address: String,
    /// Why there is no connection, and when the next is tried.
    pub(crate) last_error: Option<String>,
    connected_at: Option<Duration>,
    short_ones: u32,
    /// Messages that came and were dropped: a peer that sends garbage must not wear out the card.
    drops: Throttle,
    /// Messages of ours that the connection did not take.
    untaken: Throttle,
}

impl Broker {
    pub(crate) fn new(address: String) -> Self {
        Broker { address, ..Broker::default() }
    }

    /// Another broker; what was not logged yet will be.
    pub(super) fn change(&mut self, address: String) {
        let (drops, untaken) = (std::mem::take(&mut self.drops), std::mem::take(&mut self.untaken));
        *self = Broker { drops, untaken, ..Broker::new(address) };
    }

    /// Nothing is done about a message: a line in the log, now and then.
    pub(super) fn note_drop(&mut self, now: Duration, topic: &str, why: &str) {
        if let Some(dropped) = self.drops.note(now) {
            tracing::warn!(topic, why, dropped, "messages were dropped; this is the last one");
        }
    }

    /// A message of ours is lost: a line in the log, now and then.
    pub(super) fn note_untaken(&mut self, now: Duration, topic: &str, error: &PublishError) {
        if let Some(lost) = self.untaken.note(now) {
            tracing::warn!(topic, %error, lost, "messages were not taken; this is the last one");
        }
    }

    /// Says what happened since the last line, when no more of it happens.
    pub(super) fn tick(&mut self, now: Duration) {
        if let Some(dropped) = self.drops.due(now) {
            tracing::warn!(dropped, "more messages were dropped since");
        }
        if let Some(lost) = self.untaken.due(now) {
            tracing::warn!(lost, "more messages were not taken since");
        }
    }
}

impl Driver {
    pub(super) async fn handle_session(&mut self, event: SessionEvent) -> Result<(), Gone> {
        let now = clock::boottime();
        match event {
            SessionEvent::Connected { connection } => {
                tracing::info!(broker = self.broker.address, "connected");
                self.connection = Some(connection);
                self.broker.last_error = None;
                self.broker.connected_at = Some(now);
                let boot_ms = clock::boottime_ms();
                self.alerts.clear(boot_ms, "broker_refuses", None, "the broker takes us again");
                self.engine.handle_connected(now);
                self.note_connected(now);
                self.announcer.handle_connected();
                self.last_heartbeat = None;
                self.publish_meta();
                self.publish_reported();
                self.say_late_outcomes();
            }
            SessionEvent::Disconnected { reason, retry_in, .. } => {
                self.handle_disconnected(now, &reason, retry_in);
            }
            SessionEvent::Message(delivery) => {
                self.handle_message(&delivery.topic, &delivery.payload, delivery.retain);
            }
            SessionEvent::Puback { token, .. } => {
                self.note_puback(now);
                match token {
                    home_assistant::TOKEN => self.announcer.handle_puback(),
                    token => self.handle_puback(token),
                }
            }
        }
        Ok(())
    }

    fn handle_disconnected(
        &mut self,
        now: Duration,
        reason: &DisconnectReason,
        retry_in: Duration,
    ) {
        let boot_ms = clock::boottime_ms();
        let error = format!("{}: {reason}", self.broker.address);
        tracing::info!("not connected to {error}; next try in {:.1} s", retry_in.as_secs_f64());
        if needs_a_person(reason) {
            let message = format!("no connection to {error}. Readings are kept meanwhile");
            self.alerts.raise(boot_ms, "broker_refuses", None, Severity::Warning, message);
        }
        let connected_at = self.broker.connected_at.take();
        if connected_at.is_some_and(|at| now.saturating_sub(at) < SHORT) {
            self.broker.short_ones += 1;
        }
        if self.broker.short_ones >= SHORT_ONES {
            let message = format!(
                "the connection to {error}: again and again it ends soon after it was made. Most often another \
                 gateway uses the client id {:?} too, say from a copied SD card, and the two throw each other \
                 out: give each its own [device] id, certificate and an empty outbox",
                self.device.as_str()
            );
            self.alerts.raise(boot_ms, "connection_unstable", None, Severity::Warning, message);
        }
        if self.broker.last_error.is_none() {
            // The first of a row: the status file shall say it now, not in a minute.
            self.last_heartbeat = None;
        }
        self.note_disconnected(now, &error, reason, retry_in);
        self.broker.last_error = Some(error);
        self.lose_connection();
        self.judge_announcing(now);
    }

    /// Nothing that was sent over it is answered any more.
    fn lose_connection(&mut self) {
        self.connection = None;
        self.rewind_resend();
        self.engine.handle_disconnected();
    }

    /// Says goodbye to the broker, and begins with the one that the configuration names.
    pub(super) async fn renew_session(&mut self) -> Option<mpsc::Receiver<SessionEvent>> {
        self.publish_offline();
        if let Some(session) = self.session.take() {
            session.close().await;
        }
        self.lose_connection();
        self.note_renewal();
        match crate::run::start_session(&self.config) {
            Ok(Some((session, events))) => {
                self.session = Some(session);
                Some(events)
            }
            Ok(None) => None,
            // It was checked before it was taken.
            Err(error) => {
                tracing::error!("no session with the broker: {error:#}");
                None
            }
        }
    }

    /// A connection that holds is a good one.
    pub(super) fn judge_connection(&mut self, now: Duration) {
        let holds = self.broker.connected_at.is_some_and(|at| now.saturating_sub(at) >= 2 * SHORT);
        if holds && self.broker.short_ones > 0 {
            self.broker.short_ones = 0;
            let boot_ms = clock::boottime_ms();
            self.alerts.clear(boot_ms, "connection_unstable", None, "the connection holds");
        }
    }

    fn handle_message(&mut self, name: &str, payload: &[u8], retain: bool) {
        let now = clock::boottime();
        if self.announcer.is_status(name) {
            return self.handle_home_assistant(now, payload, retain);
        }
        let Some(topic) = self.topics.parse(name) else { return };
        let (before, acks) = (self.engine.acked_rows(), matches!(topic, Topic::SyncAcks(_)));
        let refused = match topic {
            // A retained answer is nobody's answer to us.
            Topic::State(_) | Topic::SyncAcks(_) if retain => Some("it is retained".to_owned()),
            Topic::State(id) if id == self.device => State::decode(payload)
                .map(|state| self.engine.handle_state(now, &state))
                .err()
                .map(|error| error.to_string()),
            Topic::SyncAcks(id) if id == self.device => SyncAcks::decode(payload)
                .map(|acks| self.engine.handle_sync_acks(now, &acks))
                .err()
                .map(|error| error.to_string()),
            Topic::BridgeStatus(_) => BridgeStatus::from_json(payload)
                .map(|status| self.engine.handle_bridge_status(now, &status))
                .err()
                .map(|error| error.to_string()),
            Topic::ConfigDesired(id) if id == self.device => self.handle_desired(payload),
            Topic::Commands(id) if id == self.device => self.handle_command(payload, retain),
            _ => None,
        };
        self.note_acked(before, acks);
        if let Some(why) = refused {
            self.broker.note_drop(now, name, &why);
        }
    }
}

/// What will not mend itself: somebody has to change a file, a rule or a password.
fn needs_a_person(reason: &DisconnectReason) -> bool {
    matches!(
        reason,
        DisconnectReason::Certificate(_)
            | DisconnectReason::BrokerCertificate(_)
            | DisconnectReason::OurCertificate(_)
            | DisconnectReason::Refused(_)
            | DisconnectReason::Subscription(_)
    )
}
