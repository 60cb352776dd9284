//! A command on a board: said once, and never again. Where nobody knows what became of it, the board is
//! asked, which may remember.
//!
//! ```text
//! >42 led on=1        @42 ok on=1
//! >71839 last no=42   @71839 ok ok | err | begun | none     from a board that remembers
//! ```

use std::time::Duration;

use fieldpost_protocol::{CommandOutcome, Metrics};
use tokio::time::Instant;

use crate::outbox::Ending;
use crate::serial::{Answer, Board, Reply};

/// How long a board is waited for, and asked what became of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until its port is open and it has started, at least: one that the bridge has kept for a device that
    /// was away comes just then.
    started_within: Duration,
    /// Each question: a board that has restarted runs its setup first.
    answer_within: Duration,
    /// In all, a board that says nothing: it may still be at it.
    silent: Duration,
    /// In all, a board that has restarted, or whose port is away: it may come back.
    gone: Duration,
}

impl Patience {
    /// Boards start within seconds, and a person waits.
    pub(super) const USUAL: Patience = Patience {
        started_within: Duration::from_secs(10),
        answer_within: Duration::from_secs(5),
        silent: Duration::from_secs(10),
        gone: Duration::from_secs(30),
    };
}

/// A board that remembers, about a command that another copy of the card had sent.
const BEGUN_BEFORE: &str = "came before: begun";
/// What the board has printed about its answer, bytes.
const DETAIL_BYTES_MAX: usize = 4_096;

/// Sends the command, within `rest` if it expires, and waits for what becomes of it.
pub(super) async fn run(
    board: &Board,
    no: u32,
    line: &str,
    within: Duration,
    rest: Option<Duration>,
    patience: Patience,
) -> Ending {
    let port = &board.port;
    let wait = within.max(patience.started_within);
    let sent_within = rest.map_or(wait, |rest| rest.min(wait));
    match board.ask(no, line, sent_within, within).await {
        Reply::Answered(answer) => answered(answer),
        Reply::Unsent if sent_within < wait => {
            let why = format!("port {port} was not open before it expired; it did not run");
            Ending::because(CommandOutcome::Expired, why)
        }
        Reply::Unsent => {
            let why =
                format!("port {port} was not open, or its board was starting; it did not run");
            Ending::because(CommandOutcome::Rejected, why)
        }
        Reply::Silent => {
            let why = format!(
                "the board on port {port} gave no answer within {within:?}, and could not tell afterwards"
            );
            let timed_out = Ending::because(CommandOutcome::TimedOut, why);
            recall_within(patience.silent, board, no, timed_out, patience).await
        }
        Reply::Gone(why) => {
            let why = format!("before the board on port {port} could answer: {why}");
            recall(board, no, Ending::because(CommandOutcome::Unknown, why), patience).await
        }
    }
}

/// Asks the board what became of a command; where it cannot tell, it is as it was.
pub(super) async fn recall(
    board: &Board,
    no: u32,
    otherwise: Ending,
    patience: Patience,
) -> Ending {
    recall_within(patience.gone, board, no, otherwise, patience).await
}

/// ... again and again: a question does nothing, and is lost on a board that is about to start.
#[allow(clippy::disallowed_methods, reason = "a driver: it counts how long it asks")]
async fn recall_within(
    within: Duration,
    board: &Board,
    no: u32,
    otherwise: Ending,
    patience: Patience,
) -> Ending {
    let begun = Instant::now();
    let mut until = begun + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return otherwise;
        }
        match board.ask_about(no, left, patience.answer_within).await {
            Reply::Answered(answer) if answer.id == no => return answered(answer),
            Reply::Answered(answer) => return remembered(no, answer).unwrap_or(otherwise),
            Reply::Unsent => return otherwise,
            Reply::Silent => {}
            Reply::Gone(_) => until = begun + patience.gone,
        }
    }
}

/// What the board says that it knows of the command; `None`: it keeps nothing.
fn remembered(no: u32, answer: Answer) -> Option<Ending> {
    let Answer { ok: true, text, .. } = answer else { return None };
    let (word, rest) = text.split_once(' ').unwrap_or((text.as_str(), ""));
    let was = |ok| Some(answered(Answer { id: no, ok, text: rest.to_owned() }));
    match word {
        "ok" => was(true),
        "err" => was(false),
        "none" => {
            let why = "the board says that it never came; it did not run";
            Some(Ending::because(CommandOutcome::Rejected, why))
        }
        "begun" => Some(begun()),
        _ => None,
    }
}

fn begun() -> Ending {
    let why = "the board says that it began, and restarted before it was done";
    Ending::because(CommandOutcome::Unknown, why)
}

/// What the board says: `on=1 level=0.5` is a result, anything else a text.
fn answered(answer: Answer) -> Ending {
    let Answer { ok, mut text, .. } = answer;
    if !ok && text == BEGUN_BEFORE {
        return begun();
    }
    let outcome = if ok { CommandOutcome::Succeeded } else { CommandOutcome::Failed };
    if let Some(result) = crate::serial::metrics(&text).filter(|_| ok) {
        return Ending { outcome, detail: None, result };
    }
    text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
    let detail = if text.is_empty() { None } else { Some(text) };
    Ending { outcome, detail, result: Metrics::default() }
}

#[cfg(test)]
mod tests;
