//! The driver tells the history what happens, and has it written.

use std::time::Duration;

use fieldpost_mqtt::DisconnectReason;
use fieldpost_protocol::Clock;

use super::Driver;
use crate::clock::{self, Now};
use crate::history::{Link, Moment};
use crate::outbox::{Gone, Outbox};

/// The bridge reads none of our versions.
const MUTE: &str =
    "a bridge answers, but it reads no version that this gateway writes: update the older one";

impl Driver {
    /// Now, as well as the gateway knows it.
    pub(super) fn moment(&self) -> Moment {
        let Now { boot_ms, wall_ms, synchronised } = Now::read();
        let (unix_ms, clock) = match self.cloud_skew_ms {
            _ if synchronised => (wall_ms, Clock::Ntp),
            Some(skew_ms) => (boot_ms + skew_ms, Clock::Bridge),
            None => (wall_ms, Clock::Unsynced),
        };
        Moment { boot_ms, unix_ms, clock }
    }

    pub(super) fn note_connected(&mut self, now: Duration) {
        self.history.handle_connected(self.moment());
        self.tell_checks_connected(now);
    }

    pub(super) fn note_disconnected(
        &mut self,
        now: Duration,
        error: &str,
        reason: &DisconnectReason,
        retry_in: Duration,
    ) {
        let retry_ms = (now + retry_in).as_millis() as i64;
        self.history.handle_disconnected(self.moment(), error, Some(retry_ms));
        self.tell_checks_disconnected(error, reason, retry_in);
    }

    /// Not the network's doing: nothing has failed.
    pub(super) fn note_renewal(&mut self) {
        let why = "the configuration has changed: the session with the broker begins anew";
        self.history.handle_disconnected(self.moment(), why, None);
    }

    pub(super) fn note_sent(&mut self) {
        self.history.handle_sent(self.moment());
    }

    /// The trusted storage has answered a hello.
    pub(super) fn note_answered(&mut self) {
        if self.engine.is_mute() {
            return self.note_not_counted(MUTE);
        }
        let was = self.history.link();
        self.history.handle_answered(self.moment());
        self.tell_checks_answered();
        if was != Some(Link::Online) {
            // The status file shall say so now.
            self.last_heartbeat = None;
        }
    }

    pub(super) fn note_not_counted(&mut self, why: &str) {
        self.history.handle_not_counted(why.to_owned());
        self.fail_checks(why);
    }

    /// After a message of storage's: what it has acknowledged. What the first state lists was perhaps
    /// counted by the run before.
    pub(super) fn note_acked(&mut self, before: (u64, u64), by_sync_acks: bool) {
        let after = self.engine.acked_rows();
        let more = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        if more == (0, 0) {
            return;
        }
        let now = self.moment();
        if by_sync_acks || self.history.has_answered() {
            self.history.handle_stored(now, more.0);
        }
        if by_sync_acks {
            self.history.handle_answered(now);
        }
    }

    pub(super) async fn note_end(&mut self) -> Result<(), Gone> {
        if self.history.link().is_some() {
            let why =
                if self.restart { "by the command restart" } else { "the gateway was stopped" };
            self.history.handle_stop(self.moment(), why);
        }
        self.tick_history(true).await
    }

    /// A failure is told once; nothing else waits for the history.
    pub(super) async fn tick_history(&mut self, ending: bool) -> Result<(), Gone> {
        let now = self.moment();
        let was = self.history.link();
        self.history.handle_tick(now);
        if was != self.history.link() {
            self.last_heartbeat = None;
        }
        let Some(changes) = self.history.poll_write(now, ending) else { return Ok(()) };
        let job = move |outbox: &mut Outbox| (outbox.write_history(&changes), changes);
        let (written, changes) = self.outbox.call(job).await?;
        let why = match written {
            Ok(true) => {
                self.history_failed = false;
                return Ok(());
            }
            Ok(false) => "the outbox is full".to_owned(),
            Err(error) => error.to_string(),
        };
        self.history.handle_unwritten(changes);
        if !std::mem::replace(&mut self.history_failed, true) {
            tracing::warn!(
                why,
                "the connectivity history cannot be written; readings are not concerned, and it is tried again"
            );
        }
        Ok(())
    }
}

/// The wall clock is nobody's word before the gateway runs.
pub(crate) fn moment_at_start(now: Now) -> Moment {
    let clock = if now.synchronised { Clock::Ntp } else { Clock::Unsynced };
    Moment { boot_ms: clock::boottime_ms(), unix_ms: now.wall_ms, clock }
}
