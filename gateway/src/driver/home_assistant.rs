//! The driver and Home Assistant: entries leave after everything else, one at a time.

use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_mqtt::{Message, Qos, Token};

use super::Driver;
use crate::clock;
use crate::config::Config;
use crate::home_assistant::About;
use crate::outbox::{Gone, Outbox};

/// Of the entry that is on its way: what is published otherwise has lower ones.
pub(super) const TOKEN: Token = Token(u64::MAX);

/// What a configuration says of it.
pub(crate) fn about(config: &Config) -> Option<About> {
    let settings = &config.home_assistant;
    settings.enabled.then(|| About {
        prefix: settings.prefix.clone(),
        expire_after: settings.expire_after.map(|after| after.as_secs()),
        device: config.device.id.clone(),
        topics: config.publish.topics.clone(),
        meta: config.meta.clone(),
    })
}

impl Driver {
    /// Publishes the next entry, if there is one and room for it.
    pub(super) async fn go_on_announcing(&mut self) -> Result<(), Gone> {
        if !self.has_room() {
            return Ok(());
        }
        let topics = self.announcer.to_note();
        if !topics.is_empty() {
            let job = {
                let topics = topics.clone();
                move |outbox: &mut Outbox| outbox.note_announced(&topics)
            };
            match self.on_outbox("entries for Home Assistant", job).await? {
                Some(()) => self.announcer.handle_noted(topics),
                None => self.announcer.handle_not_noted(clock::boottime()),
            }
        }
        let topics = self.announcer.take_removed();
        if !topics.is_empty() {
            // What stays is removed once more by the next start.
            let job = move |outbox: &mut Outbox| outbox.strike_announced(&topics);
            self.on_outbox("entries that Home Assistant has no more", job).await?;
        }
        let Some(entry) = self.announcer.next() else { return Ok(()) };
        let (Some(session), Some(connection)) = (&self.session, self.connection) else {
            self.announcer.handle_not_taken();
            return Ok(());
        };
        if let Some(filter) = self.announcer.take_filter() {
            // Without it an entry is published with each connection only.
            let _ = session.subscribe(connection, &filter);
        }
        let (topic, payload) = (entry.topic, entry.payload);
        let message = Message { topic, payload, qos: Qos::AtLeastOnce, retain: true, token: TOKEN };
        point!("send.entry.before");
        let taken = session.publish(connection, message).is_ok();
        point!("send.entry.after");
        if !taken {
            self.announcer.handle_not_taken();
        }
        Ok(())
    }

    /// What Home Assistant says of itself. A retained one is of an earlier day.
    pub(super) fn handle_home_assistant(&mut self, now: Duration, payload: &[u8], retain: bool) {
        if payload == b"online" && !retain {
            let share = f64::from(clock::random_id()[0]) / f64::from(u8::MAX);
            self.announcer.handle_online(now, share);
        }
    }

    /// The connection has ended; perhaps because of an entry.
    pub(super) fn judge_announcing(&mut self, now: Duration) {
        if self.announcer.handle_disconnected(now) {
            let device = &self.device;
            tracing::warn!(
                "the broker ends the connection when this gateway announces itself to Home Assistant: tried again in an \
                 hour. Let it write homeassistant/+/{device}/+/config and read homeassistant/status, or set \
                 [home_assistant] enabled = false"
            );
        }
    }
}
