//! Lines to a board, one at a time, and its answers.
//!
//! ```text
//! ask --> slot --taken--> written --> @no ok ...       Reply::Answered
//!           |               |---- no answer in time    Reply::Silent
//!           |               '---- unplugged, reset     Reply::Gone: perhaps it was heard
//!           '-- nobody has taken it in time            Reply::Unsent: surely it was not
//! ```
//!
//! A line is taken out of its slot either by the port, which then writes it, or by whoever has put it
//! there: so what is `Unsent` never reaches a board.
//!
//! Opening a port resets many a board, and its bootloader swallows what comes: a line waits until the
//! board has said something, or has had time to start.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::crc16;
use super::format::Answer;

/// How long a board takes to start that says nothing: an Uno's bootloader 1 s, an older one's 2 s.
const START_MAX: Duration = Duration::from_secs(3);
/// What a port still held of the time before its opening comes at once, and says nothing about now.
const STALE_MAX: Duration = Duration::from_millis(500);

/// The name of the question what became of a command. No command may be called so.
pub(crate) const QUESTION: &str = "last";

/// What became of a line to a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The board's answer.
    Answered(Answer),
    /// It was written, and no answer came in time.
    Silent,
    /// It was written, at least in part, and then the board was gone, and why.
    Gone(String),
    /// No byte of it was written: the port was not open, or its board was about to start.
    Unsent,
}

/// A line on its way.
#[derive(Debug)]
struct Line {
    no: u32,
    about: Option<u32>,
    text: String,
    answer_within: Duration,
    reply: oneshot::Sender<Reply>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held by whoever asks until the reply: so the line in the slot is always theirs.
    turn: tokio::sync::Mutex<()>,
    line: Mutex<Option<Line>>,
    filled: Notify,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to one board, for whoever sends it commands. One line at a time, in the order of asking.
#[derive(Debug, Clone)]
pub struct Board {
    /// The port's name.
    pub port: Arc<str>,
    slot: Arc<Slot>,
}

impl Board {
    pub(crate) fn new(port: Arc<str>) -> Board {
        Board { port, slot: Arc::default() }
    }

    /// Whether this is the same opening of the same port: one that went and came again is another.
    pub(crate) fn is(&self, other: &Board) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot)
    }

    /// Sends `>no text`, with its checksum, once the port is open, and waits for the answer.
    pub async fn ask(
        &self,
        no: u32,
        text: &str,
        sent_within: Duration,
        answer_within: Duration,
    ) -> Reply {
        self.send(no, None, text.to_owned(), sent_within, answer_within).await
    }

    /// Asks what became of line `no`. Its own answer, should it come only now, is one to this, too.
    ///
    /// Each question has a number of its own: the answer to one that nobody waits for any more says
    /// nothing about another line.
    pub async fn ask_about(
        &self,
        no: u32,
        sent_within: Duration,
        answer_within: Duration,
    ) -> Reply {
        let mut question = no;
        while question == no {
            question = fastrand::u32(1..);
        }
        self.send(question, Some(no), format!("{QUESTION} no={no}"), sent_within, answer_within)
            .await
    }

    #[allow(clippy::disallowed_methods, reason = "a driver: it counts how long a line waits")]
    async fn send(
        &self,
        no: u32,
        about: Option<u32>,
        text: String,
        sent_within: Duration,
        answer_within: Duration,
    ) -> Reply {
        let sent_by = Instant::now() + sent_within;
        let Ok(_turn) = timeout_at(sent_by, self.slot.turn.lock()).await else {
            return Reply::Unsent;
        };
        let (reply, mut replied) = oneshot::channel();
        *self.slot.lock() = Some(Line { no, about, text, answer_within, reply });
        self.slot.filled.notify_one();
        let gone = || Reply::Gone("the port was closed".to_owned());
        match timeout_at(sent_by, &mut replied).await {
            Ok(reply) => reply.unwrap_or_else(|_| gone()),
            Err(_) if self.slot.lock().take().is_some() => Reply::Unsent,
            Err(_) => replied.await.unwrap_or_else(|_| gone()),
        }
    }

    /// The port's end, from its opening on.
    #[allow(clippy::disallowed_methods, reason = "a driver: it counts how long a board starts")]
    pub(super) fn talk(&self) -> Talk {
        let opened = Instant::now();
        Talk { slot: self.slot.clone(), opened, awake: false, asked: None, unended: true }
    }

    /// Of a board that has started long ago.
    #[cfg(test)]
    pub(crate) fn talk_awake(&self) -> Talk {
        let mut talk = self.talk();
        talk.awake = true;
        talk
    }
}

/// What was asked and is not answered.
#[derive(Debug)]
struct Asked {
    no: u32,
    about: Option<u32>,
    bytes: Vec<u8>,
    written: usize,
    answer_by: Instant,
    reply: oneshot::Sender<Reply>,
}

/// A port's end of the talk, as long as it is open. Dropped, it has hung up.
#[derive(Debug)]
pub(crate) struct Talk {
    slot: Arc<Slot>,
    opened: Instant,
    /// The board has said something since.
    awake: bool,
    asked: Option<Asked>,
    /// Perhaps the board holds half a line: of whoever had the port before, or the last one.
    unended: bool,
}

impl Talk {
    /// Waits until there is a line to take, and none under way.
    pub(crate) async fn filled(&self) {
        if self.asked.is_some() {
            return std::future::pending().await;
        }
        if let Some(started_by) = self.started_by() {
            tokio::time::sleep_until(started_by).await;
        }
        while self.slot.lock().is_none() {
            self.slot.filled.notified().await;
        }
    }

    /// The board has said something: unless that was before the opening, it runs.
    pub(crate) fn heard(&mut self) {
        self.heard_after(self.opened.elapsed());
    }

    fn heard_after(&mut self, opened_for: Duration) {
        self.awake |= opened_for >= STALE_MAX;
    }

    /// When the board surely runs, unless it has said something.
    fn started_by(&self) -> Option<Instant> {
        (!self.awake).then_some(self.opened + START_MAX)
    }

    /// Takes the line that waits, if it still does: from here on it may reach the board.
    #[allow(clippy::disallowed_methods, reason = "a driver: it counts how long an answer takes")]
    pub(crate) fn take(&mut self) {
        let Some(line) = self.slot.lock().take() else { return };
        let Line { no, about, text, answer_within, reply } = line;
        let before = if std::mem::take(&mut self.unended) { "\n" } else { "" };
        let text = format!(">{no} {text}");
        let bytes = format!("{before}{text}*{:04X}\n", crc16(text.as_bytes())).into_bytes();
        let answer_by = Instant::now() + answer_within;
        self.asked = Some(Asked { no, about, bytes, written: 0, answer_by, reply });
    }

    /// What is still to be written.
    pub(crate) fn unwritten(&self) -> &[u8] {
        self.asked.as_ref().map_or(&[], |asked| &asked.bytes[asked.written..])
    }

    /// So many bytes more were written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        if let Some(asked) = &mut self.asked {
            asked.written += bytes;
        }
    }

    /// Waits until it is too late for an answer.
    pub(crate) async fn silence(&self) {
        match &self.asked {
            Some(asked) => tokio::time::sleep_until(asked.answer_by).await,
            None => std::future::pending().await,
        }
    }

    /// The line under way, if any, came to this.
    pub(crate) fn end(&mut self, reply: Reply) {
        if let Some(asked) = self.asked.take() {
            // Without an answer nobody knows what of it the board has.
            self.unended |= !matches!(reply, Reply::Answered(_));
            // Whoever has asked may be gone.
            let _ = asked.reply.send(reply);
        }
    }

    /// Whether an answer was waited for.
    pub(crate) fn answered(&mut self, answer: Answer) -> bool {
        let is_it = self
            .asked
            .as_ref()
            .is_some_and(|asked| asked.no == answer.id || asked.about == Some(answer.id));
        if is_it {
            self.end(Reply::Answered(answer));
        }
        is_it
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.end(Reply::Gone("the port was lost".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(10);
    /// A test that would hang fails.
    const TEST_MAX: Duration = Duration::from_secs(60);

    fn answer(id: u32) -> Answer {
        Answer { id, ok: true, text: "on=1".to_owned() }
    }

    #[tokio::test]
    async fn a_line_that_no_port_takes_is_unsent_for_ever() {
        let board = Board::new("fruiting".into());
        assert_eq!(board.ask(42, "led on=1", SHORT, LONG).await, Reply::Unsent);
        let mut talk = board.talk_awake();
        assert!(timeout(SHORT, talk.filled()).await.is_err(), "it was taken back");
        talk.take();
        assert!(talk.unwritten().is_empty());
    }

    #[tokio::test]
    async fn an_answer_belongs_to_the_line_with_its_number() {
        let board = Board::new("fruiting".into());
        let mut talk = board.talk_awake();
        let asked = async { board.ask(42, "led on=1", LONG, LONG).await };
        let port = async {
            talk.filled().await;
            talk.take();
            assert_eq!(talk.unwritten(), b"\n>42 led on=1*E820\n");
            talk.wrote(19);
            assert!(talk.unwritten().is_empty());
            assert!(!talk.answered(answer(41)));
            assert!(talk.answered(answer(42)));
            assert!(!talk.answered(answer(42)), "twice");
        };
        assert_eq!(tokio::join!(asked, port).0, Reply::Answered(answer(42)));
    }

    #[tokio::test]
    async fn what_was_taken_is_never_unsent() {
        let board = Board::new("fruiting".into());
        let mut talk = board.talk_awake();
        let asked = board.ask(1, "led", LONG, SHORT);
        let port = async {
            talk.filled().await;
            talk.take();
            talk.silence().await;
            talk.end(Reply::Silent);
        };
        assert_eq!(tokio::join!(asked, port).0, Reply::Silent);
        let mut talk = board.talk_awake();
        let asked = board.ask(1, "led", LONG, SHORT);
        let port = async {
            talk.filled().await;
            talk.take();
            drop(talk);
        };
        assert!(matches!(tokio::join!(asked, port).0, Reply::Gone(_)));
    }

    #[tokio::test]
    async fn half_a_line_is_ended_before_the_next_one() {
        let board = Board::new("fruiting".into());
        let mut talk = board.talk_awake();
        let asked = async {
            board.ask(1, "led", LONG, SHORT).await;
            board.ask(2, "led", LONG, LONG).await
        };
        let port = async {
            talk.filled().await;
            talk.take();
            talk.wrote(3);
            talk.silence().await;
            talk.end(Reply::Silent);
            talk.filled().await;
            talk.take();
            assert!(talk.unwritten().starts_with(b"\n>2 led*"));
            talk.end(Reply::Silent);
        };
        tokio::join!(asked, port);
    }

    #[tokio::test]
    async fn a_line_waits_until_the_board_has_started() {
        let board = Board::new("fruiting".into());
        let asked = async { board.ask(42, "led", LONG, LONG).await };
        let port = async {
            for (heard_after_ms, starts) in [(None, true), (Some(100), true), (Some(1_200), false)]
            {
                let mut talk = board.talk();
                // Nothing but what was heard ends its start.
                talk.opened += LONG;
                if let Some(ms) = heard_after_ms {
                    talk.heard_after(Duration::from_millis(ms));
                }
                let started_by = starts.then_some(talk.opened + START_MAX);
                assert_eq!(talk.started_by(), started_by, "{heard_after_ms:?}");
                let wait = if starts { SHORT } else { LONG };
                let waited = timeout(wait, talk.filled()).await;
                assert_eq!(waited.is_err(), starts, "{heard_after_ms:?}");
            }
            // It says nothing, and has had its time.
            let mut talk = board.talk();
            talk.opened -= START_MAX;
            talk.filled().await;
            // The first line: whoever had the port before may have left half of one.
            talk.take();
            assert!(talk.unwritten().starts_with(b"\n>42 led*"));
        };
        let both = async { tokio::join!(asked, port).0 };
        let reply = timeout(TEST_MAX, both).await.expect("it starts");
        assert!(matches!(reply, Reply::Gone(_)));
    }

    #[tokio::test]
    async fn whoever_asks_meanwhile_waits_for_a_turn_and_takes_back_only_the_own_line() {
        let board = Board::new("fruiting".into());
        let mut talk = board.talk_awake();
        let gave_up = tokio::sync::Semaphore::new(0);
        let gives_up = async |no| {
            let reply = board.ask(no, "led on=0", SHORT, LONG).await;
            gave_up.add_permits(1);
            reply
        };
        let waits = async |no| board.ask(no, "led on=1", LONG, LONG).await;
        let port = async {
            let _both = gave_up.acquire_many(2).await.unwrap();
            for no in [2, 4] {
                talk.filled().await;
                talk.take();
                assert!(talk.answered(answer(no)), "only 2 and 4 still wait, in this order");
            }
        };
        // In this order: a `join!` would begin with another one each time.
        let all =
            async { tokio::join!(biased; gives_up(1), waits(2), gives_up(3), waits(4), port) };
        let replies = timeout(TEST_MAX, all).await.expect("all end");
        assert_eq!((replies.0, replies.2), (Reply::Unsent, Reply::Unsent));
        assert_eq!(replies.1, Reply::Answered(answer(2)));
        assert_eq!(replies.3, Reply::Answered(answer(4)));
    }
}
