//! What the service manager is told: that this gateway lives, and how it is.
//!
//! Alive is: this loop turns, and the outbox's thread has answered a question. A gateway whose disk
//! hangs for good is started again; whether that helps, nobody knows, but nothing else can.

use std::time::Duration;

use fieldpost_service::Service;
use tokio::sync::oneshot;

use super::Driver;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Alive {
    pub(crate) service: Service,
    /// The outbox's thread was asked, and has not answered yet.
    asked: Option<oneshot::Receiver<()>>,
}

impl Alive {
    pub(crate) fn new(service: Service) -> Self {
        Alive { service, asked: None }
    }
}

impl Driver {
    /// Without waiting: the next tick looks again.
    pub(super) fn tell_alive(&mut self, now: Duration) {
        let status = self.status_line();
        self.alive.service.status(now, &status);
        if let Some(asked) = &mut self.alive.asked {
            match asked.try_recv() {
                Ok(()) => {
                    self.alive.asked = None;
                    self.alive.service.alive(now);
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
                // The thread has ended: the next call of the outbox says so.
                Err(oneshot::error::TryRecvError::Closed) => self.alive.asked = None,
            }
        } else if self.alive.service.is_alive_due(now) {
            self.alive.asked = self.outbox.ask().ok();
        }
    }

    fn status_line(&self) -> String {
        let waiting = self.engine.waiting();
        match (&self.session, self.connection) {
            (None, _) => "recording, without a broker".to_owned(),
            (Some(_), None) => match &self.broker.last_error {
                Some(error) => format!("offline, {waiting} waiting: {error}"),
                None => format!("connecting, {waiting} waiting"),
            },
            (Some(_), Some(_)) if self.engine.is_confirmed() => {
                format!("in sync, {waiting} waiting")
            }
            (Some(_), Some(_)) => format!("connected, {waiting} waiting for a bridge"),
        }
    }
}
