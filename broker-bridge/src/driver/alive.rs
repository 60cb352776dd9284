//! What the service manager is told: that this bridge lives, and how it is.
//!
//! Alive is: this loop turns, and the storage thread has come by since that was said last, or has
//! nothing to do. A transaction that does not end is seen here and nowhere else.
#![allow(clippy::disallowed_methods, reason = "a driver: it reads the clock")]

use std::time::Instant;

use fieldpost_service::Service;

use super::Driver;

/// See the module.
#[derive(Debug)]
pub(crate) struct Alive {
    pub(crate) service: Service,
    started: Instant,
    /// The storage thread's turns when it was last said.
    turns: u64,
}

impl Alive {
    pub(crate) fn new(service: Service) -> Self {
        Alive { service, started: Instant::now(), turns: 0 }
    }
}

impl Driver {
    pub(super) fn tell_alive(&mut self) {
        let now = self.alive.started.elapsed();
        let connected = self.links.iter().filter(|link| link.connection.is_some()).count();
        let status = if self.is_storage_failing() {
            "offline: storage takes nothing".to_owned()
        } else if self.online {
            format!("online, {} messages on their way to storage", self.held.len())
        } else {
            format!("waiting for the broker: {connected} of {} connections", self.links.len())
        };
        self.alive.service.status(now, &status);
        if self.alive.service.is_alive_due(now) {
            let turns = self.storage.queue.turns();
            if turns.is_none_or(|turns| turns != self.alive.turns) {
                self.alive.turns = turns.unwrap_or(self.alive.turns);
                self.alive.service.alive(now);
            }
        }
    }
}
