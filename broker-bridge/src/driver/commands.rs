//! What commands ask of the driver.

use fieldpost_protocol::Topic;

use super::queue::{JobId, comes_again};
use super::{Driver, Held, LOOK_TICKS, Receipt};
use crate::clock;

impl Driver {
    /// Asks for commands that are due, where they could be published.
    pub(super) fn look(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        let is_connected = self.links.iter().all(|link| link.connection.is_some());
        if is_connected && self.ticks.is_multiple_of(LOOK_TICKS) {
            self.storage.queue.look();
        }
    }

    /// A message was not committed in time. One that does not come again stays in the queue, until storage
    /// takes anything.
    pub(super) fn give_up(&mut self, id: JobId, held: &Held) {
        let seconds = self.commit_within.as_secs();
        let what_now = if self.topics.parse(&held.delivery.topic).is_none_or(|it| comes_again(&it))
        {
            self.storage.queue.forget(id);
            "it is forgotten, and will come again"
        } else {
            "it waits"
        };
        let message = format!("a message was not committed within {seconds} s; {what_now}");
        self.alarms.say("commit_late", "", &message);
    }

    pub(super) fn receipt(&self, topic: &Topic) -> Receipt {
        let by = self.status.instance;
        if !matches!(topic, Topic::Commands(_)) {
            return Receipt { by, id: [0; 16] };
        }
        // getrandom(2) does not fail once it has worked; the start has asked it.
        let id = clock::random_id().unwrap_or_else(|_| fastrand::u128(..).to_be_bytes());
        Receipt { by, id }
    }
}
