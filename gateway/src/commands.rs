//! Commands: from a message until it is answered.
//!
//! ```text
//! message --> Desk ------> outbox: judged and recorded --Start--> board, or gateway --> outbox: outcome
//!             one at a time for each board                        (once)
//!             held until somebody tells the time
//! ```
//!
//! What the outbox has not recorded has not happened: a command that is dropped here, since too many
//! wait for the same board, is sent again by the bridge. What waits for one board keeps no command of
//! another out, nor one of the gateway's own.

pub mod allowed;
mod board;
mod builtin;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fieldpost_protocol::{Command, CommandId, CommandOutcome, LiveCommandAck};
use tokio::sync::mpsc;

use crate::outbox::{Ending, Left};
use crate::serial::Board;
pub use allowed::{Allowed, BoardCommand, Callee};
use board::Patience;
pub use builtin::Builtin;

/// Commands that wait for one board, to be judged or until it is free: as many as a bridge issues at a
/// time. One more is dropped. A silent board takes seconds for each.
const WAITING_PER_BOARD_MAX: usize = 64;
/// ... and for the gateway itself, unknown ones included: they wait only while a disk refuses.
const WAITING_FOR_GATEWAY_MAX: usize = 64;
/// ... and for the time, beside them: nobody may ever tell it.
const HELD_MAX: usize = 64;
/// Outcomes that wait for a connection, for whoever looks on. One more, and the oldest is not shown.
const UNSAID_MAX: usize = 64;
/// Commands that are done at a time: one for each board.
const DONE_MAX: usize = 64;

/// A command that was started has ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// Which.
    pub(crate) id: CommandId,
    /// What it is called.
    pub(crate) name: String,
    /// How.
    pub(crate) ending: Ending,
    /// The board that is free again.
    board: Option<Board>,
}

impl Done {
    /// Of one that the gateway itself has done.
    pub(crate) fn by_gateway(id: CommandId, name: &str, ending: Ending) -> Done {
        Done { id, name: name.to_owned(), ending, board: None }
    }
}

/// Who does a command that was recorded as started.
#[derive(Debug, PartialEq)]
pub(crate) enum Begun {
    /// A board, which is under way.
    ByBoard,
    /// The gateway has to.
    ByGateway(Builtin),
    /// Nobody: it has ended.
    Not(Ending),
}

/// What is left of a command's time, so long after the time at the bridge was `cloud_ms`; `None`: it
/// does not expire.
pub(crate) fn rest(
    expires: Option<i64>,
    cloud_ms: Option<i64>,
    since: Duration,
) -> Option<Duration> {
    let rest_ms = expires?.saturating_sub(cloud_ms?).max(0) as u64;
    Some(Duration::from_millis(rest_ms).saturating_sub(since))
}

/// A board, and what waits for it.
#[derive(Debug)]
struct Way {
    board: Board,
    /// Commands under way on it: one, or what several starts have left.
    busy: usize,
    /// It was begun since the start, and is no question about an older one.
    begun: bool,
    queue: VecDeque<Command>,
}

impl Way {
    fn new(board: Board) -> Way {
        Way { board, busy: 0, begun: false, queue: VecDeque::new() }
    }
}

/// Who holds commands until they can be judged.
#[derive(Debug)]
pub(crate) struct Desk {
    allowed: Arc<Allowed>,
    ways: BTreeMap<Arc<str>, Way>,
    queue: VecDeque<Command>,
    held: VecDeque<Command>,
    done: mpsc::Sender<Done>,
    /// Perhaps recorded as started, surely not done, and not yet rejected. Until it is, no other is judged.
    doubtful: Option<Command>,
    /// Outcomes that the outbox could not record yet.
    pub(crate) owed: VecDeque<Done>,
    /// Outcomes that are recorded, and nobody could look on.
    pub(crate) unsaid: VecDeque<LiveCommandAck>,
    /// It was logged that the outbox cannot record.
    pub(crate) failing: bool,
}

impl Desk {
    /// With what the configuration allows, and the boards; ends of commands come by the receiver.
    pub(crate) fn new(allowed: Arc<Allowed>, boards: Vec<Board>) -> (Self, mpsc::Receiver<Done>) {
        let (done, ends) = mpsc::channel(DONE_MAX);
        let way = |board: Board| (board.port.clone(), Way::new(board));
        let ways = boards.into_iter().map(way).collect();
        let (queue, held, unsaid) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (doubtful, owed, failing) = (None, VecDeque::new(), false);
        (Desk { allowed, ways, queue, held, done, doubtful, owed, unsaid, failing }, ends)
    }

    /// Another configuration: what waited for a board that is gone is judged anew.
    pub(crate) fn change(&mut self, allowed: Arc<Allowed>, boards: Vec<Board>) {
        let mut before = std::mem::take(&mut self.ways);
        for board in boards {
            let mut way = before.remove(&board.port).unwrap_or_else(|| Way::new(board.clone()));
            // What the port before it has not ended yet, this one does not wait for.
            if !way.board.is(&board) {
                (way.busy, way.begun) = (0, false);
                self.queue.append(&mut way.queue);
            }
            way.board = board;
            self.ways.insert(way.board.port.clone(), way);
        }
        before.into_values().for_each(|mut way| self.queue.append(&mut way.queue));
        self.allowed = allowed;
    }

    /// What may be called.
    pub(crate) fn allowed(&self) -> &Arc<Allowed> {
        &self.allowed
    }

    /// Takes a command. One that waits already is taken for granted.
    ///
    /// # Errors
    /// Too many wait for whoever does it, and it is dropped.
    pub(crate) fn put(&mut self, command: Command) -> Result<(), String> {
        // One in doubt must not start after all, while it is being rejected.
        let is_doubtful = self.doubtful.as_ref().is_some_and(|known| known.id == command.id);
        let queues = self.ways.values().map(|way| &way.queue);
        let queues = queues.chain([&self.queue, &self.held]);
        if is_doubtful || queues.flatten().any(|known| *known == command) {
            return Ok(());
        }
        let port = self.port_of(&command.name);
        let unjudged = self.queue.iter().filter(|known| self.port_of(&known.name) == port).count();
        let for_board = port.and_then(|port| self.ways.get(port)).map_or(0, |way| way.queue.len());
        let (whom, max) = match port {
            Some(port) => (format!("port {port}"), WAITING_PER_BOARD_MAX),
            None => ("the gateway itself".to_owned(), WAITING_FOR_GATEWAY_MAX),
        };
        if unjudged + for_board >= max {
            return Err(format!("{max} commands wait for {whom} already, and no more may"));
        }
        self.queue.push_back(command);
        Ok(())
    }

    /// The next one to be judged: for a board that is free, or for none.
    pub(crate) fn next(&mut self) -> Option<Command> {
        if self.doubtful.is_some() {
            // The disk refuses.
            return None;
        }
        while let Some(command) = self.queue.pop_front() {
            match Self::way(&self.allowed, &mut self.ways, &command.name) {
                Some(way) if way.busy > 0 => way.queue.push_back(command),
                _ => return Some(command),
            }
        }
        None
    }

    /// Keeps a command whose start is in doubt, until it is rejected; what waits under its id is dropped.
    pub(crate) fn doubt(&mut self, command: Command) {
        let queues = self.ways.values_mut().map(|way| &mut way.queue);
        for queue in queues.chain([&mut self.queue, &mut self.held]) {
            queue.retain(|known| known.id != command.id);
        }
        self.doubtful = Some(command);
    }

    /// The one to be rejected.
    pub(crate) fn doubtful(&self) -> Option<&Command> {
        self.doubtful.as_ref()
    }

    /// It is.
    pub(crate) fn settle(&mut self) {
        self.doubtful = None;
    }

    /// Keeps an outcome until there is a connection.
    pub(crate) fn keep_unsaid(&mut self, ack: LiveCommandAck) {
        if self.unsaid.len() >= UNSAID_MAX {
            self.unsaid.pop_front();
        }
        self.unsaid.push_back(ack);
    }

    /// Keeps a command until somebody tells the time. `false`: too many wait for it, and it is dropped.
    pub(crate) fn hold(&mut self, command: Command) -> bool {
        let room = self.held.len() < HELD_MAX;
        if room {
            self.held.push_back(command);
        }
        room
    }

    /// Somebody has.
    pub(crate) fn judge_held(&mut self) {
        self.queue.append(&mut self.held);
    }

    /// Has a board do a command that was recorded as started. `rest`: of its time, if it expires.
    pub(crate) fn begin(
        &mut self,
        id: CommandId,
        command: &Command,
        no: u32,
        rest: Option<Duration>,
    ) -> Begun {
        if rest == Some(Duration::ZERO) {
            let why = "its time was over before it could be done; it did not run";
            return Begun::Not(Ending::because(CommandOutcome::Expired, why));
        }
        let (timeout, port) = match self.allowed.callee(&command.name) {
            Some(Callee::Board(rule)) => (rule.timeout, rule.port.clone()),
            Some(Callee::Gateway(builtin)) => return Begun::ByGateway(builtin),
            None => {
                let why = "it may not be called any more; it did not run";
                return Begun::Not(Ending::because(CommandOutcome::Rejected, why));
            }
        };
        let line = allowed::line(&command.name, &command.args);
        let begun = self.spawn(id, &command.name, |board| async move {
            board::run(&board, no, &line, timeout, rest, Patience::USUAL).await
        });
        if begun {
            self.ways.get_mut(&port).expect("it was found just now").begun = true;
            return Begun::ByBoard;
        }
        let why = format!("there is no port {port} any more; it did not run");
        Begun::Not(Ending::because(CommandOutcome::Rejected, why))
    }

    /// What a process that has ended had begun: a board that remembers tells.
    pub(crate) fn recall(&mut self, left: Left) {
        let Left { id, name, no, strict } = left;
        let ending = match name.parse() {
            Ok(Builtin::Restart) => {
                Ending::because(CommandOutcome::Succeeded, "the gateway has started again")
            }
            _ => Ending::because(CommandOutcome::Unknown, "the gateway stopped in between"),
        };
        let otherwise = ending.clone();
        let asks = self.spawn(id.clone(), &name, |board| async move {
            match board::recall(&board, no, otherwise.clone(), Patience::USUAL).await {
                // Another board may have done it: this may be a copy of the card.
                Ending { outcome: CommandOutcome::Rejected, .. } if strict => otherwise,
                ending => ending,
            }
        });
        if !asks {
            self.owed.push_back(Done::by_gateway(id, &name, ending));
        }
    }

    /// A board is free again.
    pub(crate) fn free(&mut self, done: &Done) {
        let Some(board) = &done.board else { return };
        if let Some(way) = self.ways.get_mut(&board.port).filter(|way| way.board.is(board)) {
            way.busy = way.busy.saturating_sub(1);
            way.begun &= way.busy > 0;
            self.queue.append(&mut way.queue);
        }
    }

    /// How many commands are under way, or their outcomes not recorded.
    pub(crate) fn open(&self) -> usize {
        self.ways.values().filter(|way| way.begun).count() + self.owed.len()
    }

    /// The port whose board does it; `None`: the gateway, or nobody.
    fn port_of(&self, name: &str) -> Option<&Arc<str>> {
        match self.allowed.callee(name)? {
            Callee::Board(rule) => self.ways.contains_key(&rule.port).then_some(&rule.port),
            Callee::Gateway(_) => None,
        }
    }

    fn way<'w>(
        allowed: &Allowed,
        ways: &'w mut BTreeMap<Arc<str>, Way>,
        name: &str,
    ) -> Option<&'w mut Way> {
        match allowed.callee(name)? {
            Callee::Board(rule) => ways.get_mut(&rule.port),
            Callee::Gateway(_) => None,
        }
    }

    fn spawn<F: Future<Output = Ending> + Send + 'static>(
        &mut self,
        id: CommandId,
        name: &str,
        ask: impl FnOnce(Board) -> F,
    ) -> bool {
        let Some(way) = Self::way(&self.allowed, &mut self.ways, name) else { return false };
        way.busy += 1;
        let (board, done, name) = (way.board.clone(), self.done.clone(), name.to_owned());
        let asked = ask(board.clone());
        tokio::spawn(async move {
            let ending = asked.await;
            // The driver may have ended: then the next start asks the board.
            let _ = done.send(Done { id, name, ending, board: Some(board) }).await;
        });
        true
    }
}

#[cfg(test)]
mod tests;
