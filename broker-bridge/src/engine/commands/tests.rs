//! Rows of the ledger, one decision at a time.

use super::*;

const NOW: i64 = 1_795_000_000_000;
const ONE: Epoch = Epoch([1; 16]);
const TWO: Epoch = Epoch([2; 16]);

fn command(json: &str) -> Command {
    Command::decode(json.as_bytes()).unwrap()
}

fn led() -> Command {
    command(r#"{"name":"led","args":{"on":1}}"#)
}

fn id() -> CommandId {
    "a1".parse().unwrap()
}

fn row() -> CommandRow {
    CommandRow::new(&led(), Origin::Cli, NOW)
}

/// Issues it; returns the command as it goes out.
fn issue(row: &mut CommandRow, current: Epoch, now: i64) -> Command {
    match Engine::default().plan_issue(&id(), row, Some(current), now) {
        IssuePlan::Send(after, command) => {
            *row = after;
            command
        }
        other => panic!("{other:?}"),
    }
}

fn ack(row: &mut CommandRow, outcome: CommandOutcome, target: Epoch, now: i64) -> bool {
    let (content, result) = (Some(row.content), &Metrics::default());
    let ack = CommandAck { target, content, outcome, detail: None, result };
    Engine::default().take_ack(row, ack, now)
}

fn outcome(row: &CommandRow) -> Option<&'static str> {
    row.ending.as_ref().map(Ending::as_str)
}

#[test]
fn a_command_goes_out_with_its_target_written_down_and_again_after_longer_and_longer() {
    let mut row = row();
    let sent = issue(&mut row, ONE, NOW);
    assert_eq!((sent.id, sent.target, sent.expires), (Some(id()), Some(ONE), row.expires));
    assert_eq!((row.target, row.issued, row.first_issued), (Some(ONE), 1, Some(NOW)));
    let mut waits = vec![row.next_at - NOW];
    for _ in 0..8 {
        let now = row.next_at;
        issue(&mut row, ONE, now);
        waits.push(row.next_at - now);
    }
    let seconds: Vec<i64> = waits.iter().map(|wait| wait / 1000).collect();
    assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    row.issued = u32::MAX;
    assert_eq!(issue(&mut row, ONE, NOW).target, Some(ONE));
    assert_eq!(row.next_at, NOW + REPEAT_MAX_MS);
}

#[test]
fn one_that_was_issued_goes_to_its_old_target_until_that_is_stale() {
    let mut row = row();
    issue(&mut row, ONE, NOW);
    assert_eq!(issue(&mut row, TWO, NOW).target, Some(ONE));
    assert!(!ack(&mut row, CommandOutcome::Stale, TWO, NOW), "of another target");
    assert!(ack(&mut row, CommandOutcome::Stale, ONE, NOW + 7));
    assert_eq!((row.target, row.next_at), (None, NOW + 7));
    assert_eq!(issue(&mut row, TWO, NOW).target, Some(TWO));
    assert!(!ack(&mut row, CommandOutcome::Stale, ONE, NOW), "said once more");
    assert_eq!(row.target, Some(TWO));
}

#[test]
fn a_strict_one_that_is_stale_may_have_run_and_is_never_issued_again() {
    let mut row = CommandRow { strict: true, ..row() };
    issue(&mut row, ONE, NOW);
    assert!(ack(&mut row, CommandOutcome::Stale, ONE, NOW + EXPIRES_AFTER_MS));
    assert_eq!(outcome(&row), Some("unknown"));
    let plan = Engine::default().plan_issue(&id(), &row, Some(TWO), NOW);
    assert_eq!(plan, IssuePlan::Nothing);
}

#[test]
fn only_what_was_never_issued_is_called_expired_by_the_bridge() {
    let late = NOW + EXPIRES_AFTER_MS;
    let mut row = row();
    let plan = |row: &CommandRow| Engine::default().plan_issue(&id(), row, Some(ONE), late);
    let IssuePlan::Save(expired) = plan(&row) else { panic!("issued too late") };
    assert_eq!(outcome(&expired), Some("expired"));
    issue(&mut row, ONE, NOW);
    assert!(matches!(plan(&row), IssuePlan::Send(..)), "its gateway has to say what became of it");
    assert!(ack(&mut row, CommandOutcome::Stale, ONE, late));
    assert_eq!(outcome(&row), Some("expired"));
}

#[test]
fn a_device_that_is_not_there_is_sent_nothing_until_the_command_expires() {
    let plan = |row: &CommandRow, now| Engine::default().plan_issue(&id(), row, None, now);
    let IssuePlan::Save(waits) = plan(&row(), NOW) else { panic!() };
    assert_eq!((waits.issued, waits.target, waits.next_at), (0, None, NOW + LOOK_AGAIN_MS));
    let soon = CommandRow { expires: Some(NOW + 9), ..row() };
    let IssuePlan::Save(waits) = plan(&soon, NOW) else { panic!() };
    assert_eq!(waits.next_at, NOW + 9);
    let IssuePlan::Save(expired) = plan(&waits, NOW + 9) else { panic!() };
    assert_eq!(outcome(&expired), Some("expired"));
    let issued = CommandRow { issued: 1, ..soon };
    let IssuePlan::Save(waits) = plan(&issued, NOW + 9) else { panic!() };
    assert_eq!((outcome(&waits), waits.next_at), (None, NOW + 9 + LOOK_AGAIN_MS));
}

#[test]
fn what_nobody_has_answered_a_day_after_its_expiry_is_unknown_until_its_gateway_says_more() {
    let engine = Engine::default();
    let mut row = engine.adopt(&command(r#"{"id":"b2","name":"led"}"#), id(), NOW).1;
    let until = row.expires.unwrap() + UNANSWERED_AFTER_MS;
    let IssuePlan::Save(waits) = engine.plan_issue(&id(), &row, None, until - 1) else { panic!() };
    assert_eq!((outcome(&waits), waits.next_at), (None, until));
    for current in [None, Some(ONE)] {
        let IssuePlan::Save(ended) = engine.plan_issue(&id(), &row, current, until) else {
            panic!()
        };
        assert_eq!(outcome(&ended), Some("unknown"));
        assert_eq!(engine.plan_issue(&id(), &ended, Some(ONE), until), IssuePlan::Nothing);
        row = ended;
        assert!(ack(&mut row, CommandOutcome::Succeeded, ONE, until + 5));
        assert_eq!(outcome(&row), Some("succeeded"));
        row.ending = None;
    }
    // Too late when it came: its gateway has time to say so.
    let row = engine.adopt(&command(r#"{"id":"b2","name":"led","expires":5}"#), id(), NOW).1;
    assert!(matches!(engine.plan_issue(&id(), &row, Some(ONE), NOW), IssuePlan::Send(..)));
    let last = CommandRow { expires: Some(i64::MAX), issued: 1, ..row };
    assert!(matches!(engine.plan_issue(&id(), &last, Some(ONE), NOW), IssuePlan::Send(..)));
}

#[test]
fn the_first_final_outcome_is_kept_and_accepted_is_none() {
    let mut row = row();
    issue(&mut row, ONE, NOW);
    assert!(!ack(&mut row, CommandOutcome::Accepted, ONE, NOW));
    assert_eq!(outcome(&row), None);
    assert!(ack(&mut row, CommandOutcome::Unknown, ONE, NOW));
    assert!(!ack(&mut row, CommandOutcome::Succeeded, ONE, NOW));
    assert!(!ack(&mut row, CommandOutcome::Stale, ONE, NOW));
    assert_eq!(outcome(&row), Some("unknown"));
}

#[test]
fn an_ack_of_other_content_or_of_none_changes_nothing() {
    let mut row = row();
    issue(&mut row, ONE, NOW);
    for content in [None, Some(Content([7; 8]))] {
        for outcome in [CommandOutcome::Rejected, CommandOutcome::Stale] {
            let (target, result, detail) = (ONE, &Metrics::default(), Some("no"));
            let ack = CommandAck { target, content, outcome, detail, result };
            let before = row.clone();
            assert!(!Engine::default().take_ack(&mut row, ack, NOW));
            assert_eq!(row, before);
        }
    }
}

#[test]
fn a_person_s_command_counts_as_issued_where_the_gateway_runs_it_as_it_came() {
    let adopt = |json: &str| Engine::default().adopt(&command(json), "made".parse().unwrap(), NOW);
    let (id, row) = adopt(r#"{"id":"b2","name":"led"}"#);
    assert_eq!((id.as_str(), row.issued, row.next_at), ("b2", 1, NOW + REPEAT_FIRST_MS));
    assert_eq!((row.target, row.expires), (None, Some(NOW + EXPIRES_AFTER_MS)));
    let (id, row) = adopt(r#"{"name":"led","expires":5}"#);
    assert_eq!((id.as_str(), row.issued, row.expires), ("made", 0, Some(5)));
    let (_, row) = adopt(r#"{"id":"b2","name":"led","strict":true}"#);
    assert_eq!((row.issued, row.strict, row.next_at), (0, true, NOW));
    let target = "01010101010101010101010101010101";
    let (_, row) =
        adopt(&format!(r#"{{"id":"b2","name":"led","strict":true,"target":"{target}"}}"#));
    assert_eq!((row.issued, row.target), (1, Some(ONE)));
}

#[test]
fn only_what_was_never_issued_can_be_cancelled() {
    let engine = Engine::default();
    let mut cancelled = row();
    assert_eq!(engine.cancel(&mut cancelled, NOW), Ok(()));
    assert_eq!(outcome(&cancelled), Some("cancelled"));
    assert_eq!(engine.cancel(&mut cancelled, NOW), Err(CancelError::Done("cancelled")));
    assert!(!ack(&mut cancelled, CommandOutcome::Succeeded, ONE, NOW));
    let mut issued = row();
    issue(&mut issued, ONE, NOW);
    assert_eq!(engine.cancel(&mut issued, NOW), Err(CancelError::Issued(1)));
}
