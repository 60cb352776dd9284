//! Alert rules: when the gateway raises an alert because of what it measures.
//!
//! ```text
//! intake --each reading---+                        +--event--> intake --commit--> outbox
//!                         +--> Rules: raised? over? +
//! driver --time, ports,---+                        +--> live/alerts, status
//!          outbox's size
//! ```
//!
//! Always true here:
//! - An alert is raised and cleared in turn, for each rule and what it is about.
//! - Whether it is raised is written in the transaction of its event, and outlives the process.

mod board;
mod rule;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fieldpost_protocol::EventKind;
use tokio::sync::Notify;

use crate::alerts::Raised;
use crate::outbox::{KeptAlert, NewEvent};
use crate::serial::Measured;
use board::Board;
pub use board::Seen;
pub use rule::{Condition, Rule, Test};

/// Rules of one gateway: each reading is held against them one by one.
pub const RULES_MAX: usize = 64;

/// The rules, as intake and driver share them.
#[derive(Debug, Clone, Default)]
pub struct Rules(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    board: Mutex<Board>,
    /// There are events to take.
    told: Notify,
}

impl Rules {
    /// With what is raised since an earlier start.
    pub fn new(rules: Vec<Rule>, kept: Vec<KeptAlert>, boot_ms: i64) -> Self {
        let board = Mutex::new(Board::new(rules, kept, boot_ms));
        Rules(Arc::new(Shared { board, told: Notify::new() }))
    }

    /// The outbox was damaged, and what was raised is not known any more: what is not raised now is told
    /// as cleared, once.
    pub fn begin_anew(&self) {
        self.board().begin_anew();
    }

    /// Other rules, from now on. What was raised by one that is gone or different is cleared.
    pub fn replace(&self, rules: Vec<Rule>, boot_ms: i64) {
        self.board().replace(rules, boot_ms);
        self.0.told.notify_one();
    }

    /// Holds readings against the rules. Whoever calls it takes the events, too.
    pub fn look(&self, readings: &[Measured]) {
        let mut board = self.board();
        readings.iter().for_each(|reading| board.look(reading));
    }

    /// Alerts that come of time passing, and of what the driver sees.
    pub fn tick(&self, boot_ms: i64, seen: &Seen) {
        let mut board = self.board();
        board.tick(boot_ms, seen);
        if board.tells() {
            self.0.told.notify_one();
        }
    }

    /// Waits until a tick has had something to tell.
    pub async fn told(&self) {
        self.0.told.notified().await;
    }

    /// Whether somebody has to ask for the size of the outbox.
    pub fn need_size(&self) -> bool {
        self.board().need_size()
    }

    /// Moves up to so many events to the end of a queue, for the outbox.
    pub fn take(&self, events: &mut Vec<NewEvent>, events_max: usize) {
        let mut board = self.board();
        while events.len() < events_max {
            let Some(event) = board.next_event() else { return };
            events.push(event);
        }
    }

    /// What was raised or cleared since the last call, for whoever looks on.
    pub fn take_live(&self) -> Vec<(i64, EventKind)> {
        self.board().take_live()
    }

    /// What is raised now.
    pub fn raised(&self) -> Vec<Raised> {
        self.board().raised()
    }

    /// A panic elsewhere leaves it whole: no step can fail halfway.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which alerts stand where, by rule and what they are about.
type ByAlert<T> = BTreeMap<(String, Option<Arc<str>>), T>;
