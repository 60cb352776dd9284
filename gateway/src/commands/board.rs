//! A command on a board: said once, and never again. Where nobody knows what became of it, the board is
//! asked, which may remember.
//!
//! ```text
//! >42 led on=1        @42 ok on=1
//! >0 last no=42       @0 ok ok | err | begun | none     from a board that remembers
//! ```

use std::time::Duration;

use fieldpost_protocol::{CommandOutcome, Metrics};

use crate::outbox::Ending;
use crate::serial::{Answer, Board, Reply};

/// A board that has restarted runs its setup first.
const RECALL_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A port that is away may come back.
const RECALL_SENT_WITHIN: Duration = Duration::from_secs(30);
/// What the board has printed about its answer, bytes.
const DETAIL_BYTES_MAX: usize = 4_096;

/// Sends the command, within `rest` if it expires, and waits for what becomes of it.
pub(super) async fn run(
    board: &Board,
    no: u32,
    line: &str,
    within: Duration,
    rest: Option<Duration>,
) -> Ending {
    let port = &board.port;
    let sent_within = rest.map_or(within, |rest| rest.min(within));
    match board.ask(no, line, sent_within, within).await {
        Reply::Answered(answer) => answered(answer),
        Reply::Unsent if sent_within < within => {
            let why = format!("port {port} was not open before it expired; it did not run");
            Ending::because(CommandOutcome::Expired, why)
        }
        Reply::Unsent => {
            let why = format!("port {port} was not open; it did not run");
            Ending::because(CommandOutcome::Rejected, why)
        }
        Reply::Silent => {
            let why = format!("the board on port {port} gave no answer within {within:?}");
            recall(board, no, Ending::because(CommandOutcome::TimedOut, why)).await
        }
        Reply::Gone(why) => {
            let why = format!("before the board on port {port} could answer: {why}");
            recall(board, no, Ending::because(CommandOutcome::Unknown, why)).await
        }
    }
}

/// Asks the board what became of a command; where it cannot tell, it is as it was.
pub(super) async fn recall(board: &Board, no: u32, otherwise: Ending) -> Ending {
    let question = format!("last no={no}");
    let asked = board.ask(0, &question, RECALL_SENT_WITHIN, RECALL_ANSWER_WITHIN);
    let Reply::Answered(Answer { ok: true, text, .. }) = asked.await else { return otherwise };
    let (word, rest) = text.split_once(' ').unwrap_or((text.as_str(), ""));
    let remembered = |ok| answered(Answer { id: no, ok, text: rest.to_owned() });
    match word {
        "ok" => remembered(true),
        "err" => remembered(false),
        "none" => {
            let why = "the board says that it never came; it did not run";
            Ending::because(CommandOutcome::Rejected, why)
        }
        "begun" => {
            let why = "the board says that it began, and restarted before it was done";
            Ending::because(CommandOutcome::Unknown, why)
        }
        _ => otherwise,
    }
}

/// What the board says: `on=1 level=0.5` is a result, anything else a text.
fn answered(answer: Answer) -> Ending {
    let Answer { ok, mut text, .. } = answer;
    let outcome = if ok { CommandOutcome::Succeeded } else { CommandOutcome::Failed };
    if let Some(result) = crate::serial::metrics(&text).filter(|_| ok) {
        return Ending { outcome, detail: None, result };
    }
    text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
    let detail = if text.is_empty() { None } else { Some(text) };
    Ending { outcome, detail, result: Metrics::default() }
}
