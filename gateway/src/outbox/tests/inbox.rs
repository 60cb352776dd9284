//! The inbox: a verdict and its event are one commit, and nothing starts twice.

use fieldpost_protocol::{Command, CommandId, CommandOutcome, Epoch, EventKind, Metrics, Stream};

use super::*;
use crate::engine::{Guards, Judge, Verdict};
use crate::outbox::inbox::bounds::{COMMANDS_MAX, OTHER_CONTENTS_MAX, REFUSED_MAX, STALE_MAX};
use crate::outbox::inbox::{REMEMBERED_MS, no_of};
use crate::outbox::{Ending, Finished, Taken};

const CLOUD_MS: i64 = 1_795_000_000_000;

fn led(id: &str) -> Command {
    Command::decode(format!(r#"{{"id":"{id}","name":"led","args":{{"on":1}}}}"#).as_bytes())
        .unwrap()
}

fn id(text: &str) -> CommandId {
    text.parse().unwrap()
}

fn take(outbox: &mut Outbox, command: &Command) -> Taken {
    let judge = |epoch, record: &_| {
        let judge = Judge { epoch, cloud_ms: Some(CLOUD_MS), guards: Guards::default() };
        judge.judge(command, record, Ok(()))
    };
    outbox.take_command(command, Some(CLOUD_MS), judge, NOW).unwrap()
}

fn verdict(outbox: &mut Outbox, command: &Command) -> Verdict {
    take(outbox, command).verdict
}

fn succeed(outbox: &mut Outbox, text: &str) -> Option<EventKind> {
    let result = Metrics::from_json(r#"{"on":1}"#).unwrap();
    let ending = Ending { outcome: CommandOutcome::Succeeded, detail: None, result };
    match outbox.finish_command(&id(text), &ending, NOW).unwrap() {
        Finished::Told(kind) => Some(kind),
        Finished::NoRoom => None,
        Finished::NotKnown => panic!("{text} is not known"),
    }
}

/// Storage has every event.
fn ack_all(outbox: &mut Outbox) {
    let events = |info: &&StreamInfo| info.key.stream == Stream::Events;
    let acked: Vec<_> =
        outbox.streams().unwrap().iter().filter(events).map(|info| (info.key, info.last)).collect();
    outbox.set_acked(&acked);
}

fn events(outbox: &Outbox) -> u64 {
    outbox.last_of(Stream::Events)
}

fn outcome(kind: Option<EventKind>) -> CommandOutcome {
    match kind {
        Some(EventKind::CommandAck { outcome, .. }) => outcome,
        other => panic!("{other:?} is no command ack"),
    }
}

#[test]
fn what_was_started_is_known_after_a_kill_and_never_starts_again() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let taken = take(&mut outbox, &led("a1"));
    assert_eq!(taken.verdict, Verdict::Start);
    assert_eq!((outcome(taken.told), events(&outbox)), (CommandOutcome::Accepted, 1));
    drop(outbox);

    let mut outbox = bench.open();
    let left = outbox.left_started().unwrap();
    assert_eq!((left.len(), &left[0].id, left[0].no), (1, &id("a1"), taken.no));
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Wait);
    assert_eq!(outcome(succeed(&mut outbox, "a1")), CommandOutcome::Succeeded);
    assert!(outbox.left_started().unwrap().is_empty());
}

#[test]
fn an_outcome_is_told_again_once_storage_has_it_and_not_before() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    take(&mut outbox, &led("a1"));
    succeed(&mut outbox, "a1");
    assert_eq!((verdict(&mut outbox, &led("a1")), events(&outbox)), (Verdict::Wait, 2));
    ack_all(&mut outbox);
    let again = take(&mut outbox, &led("a1"));
    assert_eq!((again.verdict, events(&outbox)), (Verdict::Repeat, 3));
    let Some(EventKind::CommandAck { outcome, result, .. }) = again.told else { panic!("no ack") };
    assert_eq!(
        (outcome, result.to_json().unwrap().as_str()),
        (CommandOutcome::Succeeded, r#"{"on":1}"#)
    );
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Wait, "it is on its way again");
}

#[test]
fn an_id_of_other_content_is_rejected_and_the_first_one_stays() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    take(&mut outbox, &led("a1"));
    succeed(&mut outbox, "a1");
    ack_all(&mut outbox);
    let other = Command { name: "lamp".into(), ..led("a1") };
    let taken = take(&mut outbox, &other);
    assert_eq!(taken.verdict, Verdict::OtherContent);
    let Some(EventKind::CommandAck { outcome, content, .. }) = taken.told else { panic!("no ack") };
    assert_eq!((outcome, content), (CommandOutcome::Rejected, Some(other.content())));
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Repeat);
}

#[test]
fn stale_is_no_outcome_of_the_id() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let old = Command { target: Some(Epoch([7; 16])), ..led("a1") };
    assert_eq!(outcome(take(&mut outbox, &old).told), CommandOutcome::Stale);
    assert_eq!(verdict(&mut outbox, &old), Verdict::Wait);
    ack_all(&mut outbox);
    assert_eq!(verdict(&mut outbox, &old), Verdict::Stale, "told again");
    let issued_again = Command { target: Some(outbox.epoch().0), ..led("a1") };
    assert_eq!(verdict(&mut outbox, &issued_again), Verdict::Start);
}

#[test]
fn expired_and_rejected_are_outcomes_that_stay() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let late = Command { expires: Some(CLOUD_MS), ..led("late") };
    assert_eq!(outcome(take(&mut outbox, &late).told), CommandOutcome::Expired);
    let no = led("no");
    let judge = |_, _: &_| Verdict::Reject("not here".into());
    let taken = outbox.take_command(&no, None, judge, NOW).unwrap();
    assert_eq!(outcome(taken.told), CommandOutcome::Rejected);
    for command in [led("late"), no] {
        assert_eq!(verdict(&mut outbox, &command), Verdict::Wait);
    }
}

#[test]
fn a_start_in_doubt_is_an_outcome_whatever_the_file_says() {
    for durable in [false, true] {
        let bench = Bench::new();
        let mut outbox = bench.open();
        if durable {
            take(&mut outbox, &led("a1"));
        }
        let told = outbox.reject_doubtful(&led("a1"), None, NOW).unwrap();
        assert_eq!(outcome(told), CommandOutcome::Rejected);
        assert!(outbox.left_started().unwrap().is_empty());
        assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Wait);
    }
}

#[test]
fn a_start_in_doubt_stays_so_until_the_disk_takes_its_rejection() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    break_commits(&outbox);
    let broken = "CREATE TEMP TRIGGER commands AFTER INSERT ON main.command BEGIN INSERT INTO child VALUES (1); END;";
    outbox.conn.execute_batch(broken).unwrap();
    let (first, _) = outbox.epoch();
    let taken = take(&mut outbox, &led("a1"));
    assert!(taken.doubtful && taken.told.is_none(), "{taken:?}");
    assert_ne!(outbox.epoch().0, first, "what was told of it may be there, or not");
    for _ in 0..2 {
        let error = outbox.reject_doubtful(&led("a1"), None, NOW).unwrap_err();
        assert!(matches!(error, AppendError::InDoubt(_)), "{error}");
    }
    outbox.conn.execute_batch("DROP TRIGGER temp.commands").unwrap();
    mend_commits(&outbox);
    let told = outbox.reject_doubtful(&led("a1"), None, NOW).unwrap();
    assert_eq!(outcome(told), CommandOutcome::Rejected);
    assert!(outbox.left_started().unwrap().is_empty());
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Wait);
    ack_all(&mut outbox);
    assert_eq!(outcome(take(&mut outbox, &led("a1")).told), CommandOutcome::Rejected);
}

#[test]
fn ids_are_remembered_for_thirty_days_and_until_storage_has_the_outcome() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    take(&mut outbox, &led("a1"));
    let old = Command { target: Some(Epoch([7; 16])), ..led("a2") };
    take(&mut outbox, &old);
    succeed(&mut outbox, "a1");
    take(&mut outbox, &led("running"));
    let later = CLOUD_MS + REMEMBERED_MS + 1;
    outbox.forget_commands(later).unwrap();
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Wait, "storage does not have it");
    ack_all(&mut outbox);
    outbox.forget_commands(CLOUD_MS + REMEMBERED_MS).unwrap();
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Repeat);
    ack_all(&mut outbox);
    outbox.forget_commands(later).unwrap();
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Start);
    assert_eq!(verdict(&mut outbox, &led("running")), Verdict::Wait);
    assert_eq!(outbox.left_started().unwrap().len(), 2);
}

#[test]
fn what_had_no_time_is_dated_when_somebody_knows_it() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let judge = |_, _: &_| Verdict::Reject("no".into());
    outbox.take_command(&led("a1"), None, judge, NOW).unwrap();
    ack_all(&mut outbox);
    outbox.forget_commands(CLOUD_MS).unwrap();
    outbox.forget_commands(CLOUD_MS + REMEMBERED_MS).unwrap();
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Repeat);
}

#[test]
fn without_room_for_its_outcome_nothing_starts_and_no_other_event_takes_it() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = 2 << 20;
    let mut outbox = bench.open();
    let mut n = 0;
    // Readings leave the reserve; events fill it.
    while verdict(&mut outbox, &led(&format!("c{n}"))) == Verdict::Start {
        n += 1;
        assert!(n < 1_000, "room for everything");
    }
    let alerts = vec![alert(); 1_000];
    let mut refused = 0;
    for _ in 0..40 {
        refused += outbox.append(&[], &alerts, NOW).unwrap().refused_events;
        refused += outbox.append(&[], &alerts[..1], NOW).unwrap().refused_events;
        assert_ne!(verdict(&mut outbox, &led("more")), Verdict::Start);
    }
    assert!(refused > 0, "the file is full");
    let doubtful = outbox.reject_doubtful(&led("c0"), None, NOW).unwrap();
    assert_eq!(outcome(doubtful), CommandOutcome::Rejected);
    n -= 1;
    let running = outbox.left_started().unwrap();
    assert_eq!(running.len(), n);
    for left in running {
        assert!(succeed(&mut outbox, left.id.as_str()).is_some(), "{}: no room", left.id);
    }
}

/// So many commands came before.
fn fill(outbox: &Outbox, commands: u64, outcome: &str) {
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
               INSERT INTO command (id, name, content, target, strict, outcome, unix_ms, event_epoch, event_seq)
               SELECT ?2 || i, 'led', zeroblob(8), zeroblob(16), 0, ?2, 0, zeroblob(16), 1 FROM n";
    outbox.conn.execute(sql, rusqlite::params![commands as i64, outcome]).unwrap();
}

fn take_and_reject(outbox: &mut Outbox, text: &str) -> Taken {
    let judge = |_, _: &_| Verdict::Reject("no such command".into());
    outbox.take_command(&led(text), Some(CLOUD_MS), judge, NOW).unwrap()
}

#[test]
fn what_does_not_run_has_a_share_of_the_inbox_and_beyond_it_is_dropped() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    fill(&outbox, REFUSED_MAX - 1, "rejected");
    take_and_reject(&mut outbox, "typo");
    let before = events(&outbox);
    let late = Command { expires: Some(CLOUD_MS), ..led("late") };
    let rejected = take_and_reject(&mut outbox, "another");
    for taken in [rejected, take(&mut outbox, &late)] {
        assert_eq!((taken.verdict, taken.told), (Verdict::Wait, None));
        assert!(taken.dropped.is_some_and(|why| why.contains("5000 commands that did not run")));
    }
    assert_eq!(events(&outbox), before);
    assert_eq!(verdict(&mut outbox, &led("a2")), Verdict::Start, "what may run does");
    let old = Command { target: Some(Epoch([7; 16])), ..led("a1") };
    assert_eq!(verdict(&mut outbox, &old), Verdict::Stale, "and what the bridge has to issue anew");
}

#[test]
fn beyond_the_bound_of_stale_ones_those_go_that_storage_has() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let old = |n: u64| Command { target: Some(Epoch([7; 16])), ..led(&format!("old{n}")) };
    assert_eq!(verdict(&mut outbox, &old(0)), Verdict::Stale);
    let more = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
                INSERT INTO stale SELECT 'old' || i, target, unix_ms, event_epoch, event_seq FROM n, stale";
    outbox.conn.execute(more, [STALE_MAX as i64]).unwrap();
    let taken = take(&mut outbox, &old(STALE_MAX));
    assert_eq!((taken.verdict, taken.told), (Verdict::Wait, None));
    assert!(taken.dropped.is_some_and(|why| why.contains("5000 commands for other epochs")));
    assert_eq!(verdict(&mut outbox, &old(0)), Verdict::Wait, "it is on its way");
    ack_all(&mut outbox);
    assert_eq!(verdict(&mut outbox, &old(STALE_MAX)), Verdict::Stale);
    let left: i64 =
        outbox.conn.query_row("SELECT count(*) FROM stale", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
    assert_eq!(
        verdict(&mut outbox, &old(0)),
        Verdict::Stale,
        "it is said once more, and never runs"
    );
}

#[test]
fn beyond_the_bound_of_the_inbox_a_command_is_dropped_and_runs_once_there_is_room() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    fill(&outbox, COMMANDS_MAX, "succeeded");
    let taken = take(&mut outbox, &led("a1"));
    assert_eq!((taken.verdict, events(&outbox)), (Verdict::Wait, 0));
    assert!(taken.dropped.is_some_and(|why| why.contains("20000 commands")));
    outbox.forget_commands(CLOUD_MS).unwrap();
    assert_eq!(verdict(&mut outbox, &led("a1")), Verdict::Start);
}

#[test]
fn another_content_is_refused_again_once_storage_has_that_and_not_before() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    take(&mut outbox, &led("a1"));
    let other = Command { name: "lamp".into(), ..led("a1") };
    assert_eq!(verdict(&mut outbox, &other), Verdict::OtherContent);
    assert_eq!((verdict(&mut outbox, &other), events(&outbox)), (Verdict::Wait, 2));
    ack_all(&mut outbox);
    assert_eq!((verdict(&mut outbox, &other), events(&outbox)), (Verdict::OtherContent, 3));
}

#[test]
fn so_many_other_contents_are_on_their_way_and_no_more() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    fill(&outbox, OTHER_CONTENTS_MAX as u64 + 1, "succeeded");
    for n in 1..=OTHER_CONTENTS_MAX {
        assert_eq!(verdict(&mut outbox, &led(&format!("succeeded{n}"))), Verdict::OtherContent);
    }
    let one_more = led(&format!("succeeded{}", OTHER_CONTENTS_MAX + 1));
    let taken = take(&mut outbox, &one_more);
    assert_eq!((taken.verdict, taken.dropped.is_some()), (Verdict::Wait, true));
    ack_all(&mut outbox);
    assert_eq!(verdict(&mut outbox, &one_more), Verdict::OtherContent);
}

#[test]
fn the_outcome_of_a_command_that_is_gone_is_owed_by_nobody() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let ending = Ending::because(CommandOutcome::Unknown, "gone");
    let finished = outbox.finish_command(&id("a1"), &ending, NOW).unwrap();
    assert_eq!((finished, events(&outbox)), (Finished::NotKnown, 0));
}

#[test]
fn a_command_has_the_same_number_in_every_outbox() {
    // In every version, too: boards remember numbers.
    const PINNED: u32 = 65_007_695;
    let (one, other) = (Bench::new(), Bench::new());
    let (mut one, mut other) = (one.open(), other.open());
    assert_eq!(take(&mut one, &led("a1")).no, PINNED);
    take(&mut other, &led("b2"));
    assert_eq!(take(&mut other, &led("a1")).no, PINNED);
    let off = Command::decode(br#"{"id":"a1","name":"led","args":{"on":0}}"#).unwrap();
    let third = Bench::new();
    let what_else = take(&mut third.open(), &off).no;
    assert_ne!(what_else, PINNED, "it asks for something else");
}

#[test]
fn two_commands_whose_numbers_collide_have_different_ones() {
    let mut seen = std::collections::BTreeMap::new();
    let content = led("a1").content();
    let ids = (0..).map(|n| format!("c{n}"));
    let mut pairs = ids.filter_map(|text| {
        seen.insert(no_of(&id(&text), content), text.clone()).map(|before| (before, text))
    });
    let (first, second) = pairs.next().unwrap();
    let bench = Bench::new();
    let mut outbox = bench.open();
    let no = take(&mut outbox, &led(&first)).no;
    let taken = take(&mut outbox, &led(&second));
    assert_eq!((taken.verdict, taken.no), (Verdict::Start, no + 1));
    assert_eq!(events(&outbox), 2);
}
