//! What the driver publishes.

use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_mqtt::{Message, PublishError, Qos, Token};
use fieldpost_protocol::{
    Clock, DeviceStatus, Envelope, Live, Seq, Stream, StreamKey, Topic, VERSION,
};

use super::Driver;
use crate::clock;
use crate::engine::Send;
use crate::outbox::{Batch, Gone, Outbox};

impl Driver {
    /// Sends what the engine asks for, until it asks for nothing or the connection is full.
    pub(super) async fn send_all(&mut self) -> Result<(), Gone> {
        while self.has_room() {
            let Some(send) = self.engine.poll_send(clock::boottime(), Self::nonce) else { break };
            match send {
                Send::Hello(page) => {
                    let topic = Topic::Hello(self.device.clone());
                    point!("send.hello.before");
                    self.publish(topic, page.encode(), Qos::AtLeastOnce, false);
                    point!("send.hello.after");
                }
                Send::Batch { key, from, rows_max } => self.send_batch(key, from, rows_max).await?,
            }
            self.note_sent();
        }
        Ok(())
    }

    /// The connection takes one more message that needs a puback.
    pub(super) fn has_room(&self) -> bool {
        let window = usize::from(crate::run::INFLIGHT_MAX) - crate::run::INFLIGHT_RESERVED;
        self.connection.is_some()
            && self.session.as_ref().is_some_and(|session| session.inflight() < window)
    }

    async fn send_batch(&mut self, key: StreamKey, from: Seq, rows_max: usize) -> Result<(), Gone> {
        let job = move |outbox: &mut Outbox| outbox.read_batch_or_holes(key, from, rows_max);
        let (batch, holes) = self.on_outbox("a batch", job).await?.unwrap_or_default();
        let Some(batch) = batch else {
            if holes.iter().any(|hole| hole.contains(key, from)) {
                self.alerts.raise_holes(clock::boottime_ms(), &holes);
                self.engine.handle_holes(&holes);
            } else {
                self.engine.handle_unreadable(clock::boottime(), key);
            }
            return Ok(());
        };
        let Some((base, clock)) = batch.base else {
            // A state has told the time before anything may be sent, so this is a disk that
            // refused to write it down: the next hello tries again.
            self.engine.handle_unreadable(clock::boottime(), key);
            return Ok(());
        };
        let (first, n, command_ack) = (batch.first, batch.n, batch.command_ack);
        let payload = self.envelope(batch, (base, clock)).encode();
        let bytes = payload.len();
        let topic = Topic::batch(&self.device, key.stream, command_ack);
        // What the connection did not take counts as sent all the same: the resend timer
        // is the one way in which anything is sent again.
        match key.stream {
            Stream::Readings => point!("send.readings.before"),
            Stream::Events => point!("send.event.before"),
        }
        self.publish(topic, payload, Qos::AtLeastOnce, false);
        match key.stream {
            Stream::Readings => point!("send.readings.after"),
            Stream::Events => point!("send.event.after"),
        }
        self.engine.handle_sent(clock::boottime(), key, first, n, bytes);
        Ok(())
    }

    /// A batch as it leaves.
    pub(super) fn envelope(&self, batch: Batch, (base, clock): (i64, Clock)) -> Envelope {
        let Batch { key, first, n, floor, last, body, .. } = batch;
        // The engine's may be beyond: it steps over holes.
        let floor = self.engine.floor_of(key).map_or(floor, |its| its.max(floor));
        let (v, dev) = (VERSION, self.device.clone());
        Envelope {
            v,
            dev,
            epoch: key.epoch,
            stream: key.stream,
            first,
            n,
            floor,
            last,
            base,
            clock,
            body,
        }
    }

    /// Hands a message to the connection. One that it does not take is lost, here and
    /// openly: nothing that matters depends on it.
    pub(super) fn publish(&mut self, topic: Topic, payload: Vec<u8>, qos: Qos, retain: bool) {
        let (Some(session), Some(connection)) = (&self.session, self.connection) else { return };
        let topic = self.topics.name(&topic);
        let message = Message { topic: topic.clone(), payload, qos, retain, token: Token(0) };
        match session.publish(connection, message) {
            Ok(()) | Err(PublishError::Offline { .. }) => {}
            Err(error) => self.broker.note_untaken(clock::boottime(), &topic, &error),
        }
    }

    /// What the numbers mean, retained: once per connection.
    pub(super) fn publish_meta(&mut self) {
        let payload = self.config.meta.to_json();
        point!("send.meta.before");
        self.publish(Topic::Meta(self.device.clone()), payload, Qos::AtLeastOnce, true);
        point!("send.meta.after");
    }

    /// The newest values of each source that has any.
    pub(super) fn publish_live(&mut self, now: Duration) {
        let Some(interval) = self.config.publish.live_interval else { return };
        if self.connection.is_none() || self.last_live.is_some_and(|last| now < last + interval) {
            return;
        }
        self.last_live = Some(now);
        for (source, boot_ms, values) in self.live.take() {
            self.announcer.see(&source, &values);
            let live = Live { time: self.unix_ms(boot_ms), values };
            point!("send.live.before");
            self.publish(
                Topic::Live(self.device.clone(), source.to_string()),
                live.to_json(),
                Qos::AtMostOnce,
                false,
            );
            point!("send.live.after");
        }
    }

    /// Unix milliseconds of a moment of CLOCK_BOOTTIME, if somebody knows the time.
    pub(super) fn unix_ms(&self, boot_ms: i64) -> Option<i64> {
        let now = clock::Now::read();
        let skew_ms = if now.synchronised { Some(now.skew_ms()) } else { self.cloud_skew_ms };
        skew_ms.map(|skew_ms| boot_ms + skew_ms)
    }

    /// An orderly end: the last will would say the same, a minute later.
    pub(super) fn publish_offline(&mut self) {
        let payload = DeviceStatus::default().to_json();
        point!("send.offline.before");
        self.publish(Topic::Status(self.device.clone()), payload, Qos::AtLeastOnce, true);
        point!("send.offline.after");
    }
}
