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

    /// Keeps readings until then, or sends them again. Events go on, and so do hellos.
    pub fn pause_readings(&mut self, until: Option<Duration>) {
        self.paused_until = until;
    }

    /// Whether a pause has come to its end, at which readings go on.
    pub(super) fn end_pause(&mut self, now: Duration) {
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
            // What waits has not been tried.
            self.last_progress[Stream::Readings as usize] = now;
        }
    }
}
