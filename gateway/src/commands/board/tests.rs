//! What becomes of a command whose answer does not come.

use tokio::time::timeout;

use super::*;
use crate::serial::Talk;

/// Never over while a test runs.
const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(10);
/// Only what the board says ends a command.
const PATIENT: Patience =
    Patience { started_within: SHORT, answer_within: SHORT, silent: LONG, gone: LONG };
/// A test that would hang fails.
const TEST_MAX: Duration = Duration::from_secs(60);

/// The next line that the board gets.
async fn next(talk: &mut Talk) -> (u32, String) {
    talk.filled().await;
    talk.take();
    let line = String::from_utf8(talk.unwritten().to_vec()).unwrap();
    talk.wrote(line.len());
    let (no, text) = line.trim_start().strip_prefix('>').unwrap().split_once(' ').unwrap();
    (no.parse().unwrap(), text.split_once('*').unwrap().0.to_owned())
}

async fn say_nothing(talk: &mut Talk) {
    talk.silence().await;
    talk.end(Reply::Silent);
}

fn says(talk: &mut Talk, id: u32, text: &str) -> bool {
    talk.answered(Answer { id, ok: true, text: text.to_owned() })
}

fn board() -> (Board, Talk) {
    let board = Board::new("fruiting".into());
    let talk = board.talk_awake();
    (board, talk)
}

fn nobody_knows() -> Ending {
    Ending::because(CommandOutcome::Unknown, "nobody knows")
}

#[tokio::test]
async fn a_late_answer_about_one_command_says_nothing_about_the_next() {
    let (board, mut talk) = board();
    let person = async {
        let first = run(&board, 42, "led on=1", LONG, None, PATIENT).await;
        (first.outcome, run(&board, 43, "led on=0", LONG, None, PATIENT).await.outcome)
    };
    let busy = async {
        assert_eq!(next(&mut talk).await, (42, "led on=1".to_owned()));
        talk.end(Reply::Silent);
        let mut late = Vec::new();
        for _ in 0..2 {
            let (no, text) = next(&mut talk).await;
            assert_eq!(text, "last no=42");
            late.push(no);
            say_nothing(&mut talk).await;
        }
        // What cannot be read ends the questions about the first.
        let (no, _) = next(&mut talk).await;
        assert!(says(&mut talk, no, "what"));
        assert_eq!(next(&mut talk).await, (43, "led on=0".to_owned()));
        talk.end(Reply::Silent);
        // It has done the first, and has not yet read the second.
        let (no, text) = next(&mut talk).await;
        assert_eq!(text, "last no=43");
        for late in late {
            assert!(!says(&mut talk, late, "ok ok"), "this was about 42");
        }
        assert!(says(&mut talk, no, "none"));
    };
    let both = async { tokio::join!(person, busy).0 };
    let outcomes = timeout(TEST_MAX, both).await.expect("both end");
    assert_eq!(outcomes, (CommandOutcome::TimedOut, CommandOutcome::Rejected));
}

#[tokio::test]
async fn an_answer_that_comes_late_counts_while_the_board_is_asked_about_it() {
    for (ok, outcome) in [(true, CommandOutcome::Succeeded), (false, CommandOutcome::Failed)] {
        let (board, mut talk) = board();
        let person = run(&board, 42, "led on=1", LONG, None, PATIENT);
        let slow = async {
            next(&mut talk).await;
            talk.end(Reply::Silent);
            assert_eq!(next(&mut talk).await.1, "last no=42");
            assert!(talk.answered(Answer { id: 42, ok, text: "on=1".to_owned() }));
        };
        let both = async { tokio::join!(person, slow).0.outcome };
        assert_eq!(timeout(TEST_MAX, both).await.expect("both end"), outcome);
    }
}

#[tokio::test]
async fn a_command_that_a_board_had_begun_before_has_not_failed() {
    for (said, outcome) in [
        ("came before: begun", CommandOutcome::Unknown),
        ("came before: err", CommandOutcome::Failed),
    ] {
        let (board, mut talk) = board();
        let person = run(&board, 42, "led on=1", LONG, None, PATIENT);
        let remembers = async {
            next(&mut talk).await;
            assert!(talk.answered(Answer { id: 42, ok: false, text: said.to_owned() }));
        };
        assert_eq!(tokio::join!(person, remembers).0.outcome, outcome);
    }
}

#[tokio::test]
async fn a_question_that_a_start_has_swallowed_is_asked_again() {
    let (board, mut talk) = board();
    let person = recall(&board, 42, nobody_knows(), PATIENT);
    let starting = async {
        next(&mut talk).await;
        talk.end(Reply::Gone("the board has restarted".to_owned()));
        next(&mut talk).await;
        say_nothing(&mut talk).await;
        // The cable is pulled, and is back.
        next(&mut talk).await;
        drop(talk);
        let mut talk = board.talk_awake();
        let (no, text) = next(&mut talk).await;
        assert_eq!(text, "last no=42");
        assert!(says(&mut talk, no, "ok ok"));
    };
    let both = async { tokio::join!(person, starting).0.outcome };
    let outcome = timeout(TEST_MAX, both).await;
    assert_eq!(outcome.expect("it is asked"), CommandOutcome::Succeeded);
}

#[allow(clippy::disallowed_methods, reason = "the clock is the test's own")]
#[tokio::test]
async fn a_board_that_cannot_tell_is_not_asked_for_ever() {
    // One that keeps nothing says so at once.
    let (board, mut talk) = board();
    let plain = async {
        let (no, _) = next(&mut talk).await;
        assert!(talk.answered(Answer { id: no, ok: false, text: "not known".to_owned() }));
    };
    let both = async { tokio::join!(recall(&board, 42, nobody_knows(), PATIENT), plain).0 };
    assert_eq!(timeout(TEST_MAX, both).await.expect("it tells"), nobody_knows());
    // One that has stopped says nothing, one that is away neither.
    let patience = Patience { gone: SHORT * 5, ..PATIENT };
    let stopped = async {
        loop {
            next(&mut talk).await;
            say_nothing(&mut talk).await;
        }
    };
    let begun = Instant::now();
    let asks = async {
        tokio::select! {
            ending = recall(&board, 42, nobody_knows(), patience) => ending,
            () = stopped => unreachable!("it says nothing for ever"),
        }
    };
    assert_eq!(timeout(TEST_MAX, asks).await.expect("it is given up"), nobody_knows());
    assert!(begun.elapsed() >= patience.gone, "it was given up early");
    let asks = recall(&board, 42, nobody_knows(), patience);
    assert_eq!(timeout(TEST_MAX, asks).await.expect("it is given up"), nobody_knows());
}

#[allow(clippy::disallowed_methods, reason = "the test counts its own time")]
#[tokio::test]
async fn a_port_has_time_to_open_however_short_the_time_for_an_answer_is() {
    let board = Board::new("fruiting".into());
    let within = Duration::from_millis(1);
    let patience = Patience { started_within: LONG, ..PATIENT };
    let begun = std::time::Instant::now();
    let person = run(&board, 42, "led on=1", within, None, patience);
    let port = async {
        while begun.elapsed() < within * 2 {
            tokio::task::yield_now().await;
        }
        let mut talk = board.talk_awake();
        next(&mut talk).await;
        assert!(talk.answered(Answer { id: 42, ok: true, text: "on=1".to_owned() }));
    };
    assert_eq!(tokio::join!(person, port).0.outcome, CommandOutcome::Succeeded);
    // ... but none after its expiry.
    let rest = Some(within);
    let late = run(&board, 43, "led on=1", within, rest, patience).await;
    assert_eq!(late.outcome, CommandOutcome::Expired);
}
