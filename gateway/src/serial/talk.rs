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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::crc16;
use super::format::Answer;

/// What became of a line to a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The board's answer.
    Answered(Answer),
    /// It was written, and no answer came in time.
    Silent,
    /// It was written, at least in part, and then the board was gone, and why.
    Gone(String),
    /// No byte of it was written: the port was not open.
    Unsent,
}

/// A line on its way.
#[derive(Debug)]
struct Line {
    no: u32,
    text: String,
    answer_within: Duration,
    reply: oneshot::Sender<Reply>,
}

#[derive(Debug, Default)]
struct Slot {
    line: Mutex<Option<Line>>,
    filled: Notify,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to one board, for whoever sends it commands. One line at a time: ask again after the reply.
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

    /// Sends `>no text`, with its checksum, once the port is open, and waits for the answer.
    pub async fn ask(
        &self,
        no: u32,
        text: &str,
        sent_within: Duration,
        answer_within: Duration,
    ) -> Reply {
        let (reply, mut replied) = oneshot::channel();
        *self.slot.lock() = Some(Line { no, text: text.to_owned(), answer_within, reply });
        self.slot.filled.notify_one();
        let gone = || Reply::Gone("the port was closed".to_owned());
        match timeout(sent_within, &mut replied).await {
            Ok(reply) => reply.unwrap_or_else(|_| gone()),
            Err(_) if self.slot.lock().take().is_some() => Reply::Unsent,
            Err(_) => replied.await.unwrap_or_else(|_| gone()),
        }
    }

    pub(super) fn talk(&self) -> Talk {
        Talk { slot: self.slot.clone(), asked: None, cut: false }
    }
}

/// What was asked and is not answered.
#[derive(Debug)]
struct Asked {
    no: u32,
    bytes: Vec<u8>,
    written: usize,
    answer_by: Instant,
    reply: oneshot::Sender<Reply>,
}

/// A port's end of the talk, as long as it is open. Dropped, it has hung up.
#[derive(Debug)]
pub(super) struct Talk {
    slot: Arc<Slot>,
    asked: Option<Asked>,
    /// The last line was written in part.
    cut: bool,
}

impl Talk {
    /// Waits until there is a line to take, and none under way.
    pub(super) async fn filled(&self) {
        if self.asked.is_some() {
            return std::future::pending().await;
        }
        while self.slot.lock().is_none() {
            self.slot.filled.notified().await;
        }
    }

    /// Takes the line that waits, if it still does: from here on it may reach the board.
    #[allow(clippy::disallowed_methods, reason = "a driver: it counts how long an answer takes")]
    pub(super) fn take(&mut self) {
        let Some(line) = self.slot.lock().take() else { return };
        let Line { no, text, answer_within, reply } = line;
        // Ends what was written of the line before, should the board have stopped taking it.
        let before = if std::mem::take(&mut self.cut) { "\n" } else { "" };
        let text = format!(">{no} {text}");
        let bytes = format!("{before}{text}*{:04X}\n", crc16(text.as_bytes())).into_bytes();
        let answer_by = Instant::now() + answer_within;
        self.asked = Some(Asked { no, bytes, written: 0, answer_by, reply });
    }

    /// What is still to be written.
    pub(super) fn unwritten(&self) -> &[u8] {
        self.asked.as_ref().map_or(&[], |asked| &asked.bytes[asked.written..])
    }

    /// So many bytes more were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        if let Some(asked) = &mut self.asked {
            asked.written += bytes;
        }
    }

    /// Waits until it is too late for an answer.
    pub(super) async fn silence(&self) {
        match &self.asked {
            Some(asked) => tokio::time::sleep_until(asked.answer_by).await,
            None => std::future::pending().await,
        }
    }

    /// The line under way, if any, came to this.
    pub(super) fn end(&mut self, reply: Reply) {
        if let Some(asked) = self.asked.take() {
            self.cut |= asked.written < asked.bytes.len();
            // Whoever has asked may be gone.
            let _ = asked.reply.send(reply);
        }
    }

    /// Whether an answer was waited for.
    pub(super) fn answered(&mut self, answer: Answer) -> bool {
        let is_it = self.asked.as_ref().is_some_and(|asked| asked.no == answer.id);
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
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(10);

    fn answer(id: u32) -> Answer {
        Answer { id, ok: true, text: "on=1".to_owned() }
    }

    #[tokio::test]
    async fn a_line_that_no_port_takes_is_unsent_for_ever() {
        let board = Board::new("fruiting".into());
        assert_eq!(board.ask(42, "led on=1", SHORT, LONG).await, Reply::Unsent);
        let mut talk = board.talk();
        assert!(timeout(SHORT, talk.filled()).await.is_err(), "it was taken back");
        talk.take();
        assert!(talk.unwritten().is_empty());
    }

    #[tokio::test]
    async fn an_answer_belongs_to_the_line_with_its_number() {
        let board = Board::new("fruiting".into());
        let mut talk = board.talk();
        let asked = async { board.ask(42, "led on=1", LONG, LONG).await };
        let port = async {
            talk.filled().await;
            talk.take();
            assert_eq!(talk.unwritten(), b">42 led on=1*E820\n");
            talk.wrote(18);
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
        let mut talk = board.talk();
        let asked = board.ask(1, "led", LONG, SHORT);
        let port = async {
            talk.filled().await;
            talk.take();
            talk.silence().await;
            talk.end(Reply::Silent);
        };
        assert_eq!(tokio::join!(asked, port).0, Reply::Silent);
        let mut talk = board.talk();
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
        let mut talk = board.talk();
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
}
