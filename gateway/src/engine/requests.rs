//! What a person may ask the engine for.

use std::time::Duration;

use fieldpost_protocol::Stream;

use super::Engine;

impl Engine {
    /// Says hello, and lets go what waits for company.
    pub fn sync_now(&mut self, now: Duration) {
        self.flush_at = now;
        if self.online {
            self.want_hello(now);
        }
    }

    /// Asks storage now, also where a question is under way already and would be repeated later.
    pub fn ask_now(&mut self, now: Duration) {
        match &mut self.open {
            Some(open) => open.retry_by(now),
            None => self.sync_now(now),
        }
    }

    /// From now on batches leave this often and are this large. A stream in trouble keeps its small ones.
    pub fn change_settings(&mut self, now: Duration, publish_interval: Duration, rows_max: usize) {
        self.settings.publish_interval = publish_interval;
        self.settings.batch_readings_max = rows_max;
        self.flush_at = self.flush_at.min(now + publish_interval);
        self.flows.iter_mut().for_each(|flow| flow.change_rows_max(rows_max));
    }

    /// Keeps readings until then, or sends them again. Events go on, and so do hellos.
    pub fn pause_readings(&mut self, now: Duration, until: Option<Duration>) {
        if until.is_none() && self.paused_until.is_some() {
            self.resume(now);
        }
        self.paused_until = until;
    }

    /// Whether a pause has come to its end, at which readings go on.
    pub(super) fn end_pause(&mut self, now: Duration) {
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
            self.resume(now);
        }
    }

    /// What waits has not been tried: it makes no progress from now on only.
    fn resume(&mut self, now: Duration) {
        self.last_progress[Stream::Readings as usize] = now;
    }
}
