//! Alerts of rules: what is raised is in the file with its event, or neither is.

use super::*;

fn of_rule(name: &str, state: AlertState) -> NewEvent {
    let (about, severity, message) = (Some("air".into()), Severity::Warning, "warm".into());
    let (name, lasting) = (name.into(), true);
    let kind = EventKind::Alert { name, about, state, severity, message, lasting };
    let rule = (state == AlertState::Raised).then(|| "above 28".to_owned());
    NewEvent { boot_ms: NOW.boot_ms, kind, rule }
}

fn names(outbox: &Outbox) -> Vec<String> {
    outbox.raised().unwrap().into_iter().map(|kept| kept.name).collect()
}

#[test]
fn what_a_rule_has_raised_is_known_to_the_next_start_until_it_is_cleared() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let raised = [of_rule("a", AlertState::Raised), of_rule("b", AlertState::Raised)];
    // As after a commit in doubt: told again.
    for _ in 0..2 {
        outbox.append(&[], &raised, NOW).unwrap();
    }
    outbox.append(&[], &[alert()], NOW).unwrap();
    drop(outbox);
    let mut outbox = bench.open();
    let kept = &outbox.raised().unwrap()[0];
    assert_eq!((kept.definition.as_str(), kept.about.as_deref()), ("above 28", Some("air")));
    assert_eq!(names(&outbox), ["a", "b"]);
    outbox.append(&some(0..3), &[of_rule("a", AlertState::Cleared)], NOW).unwrap();
    assert_eq!(names(&outbox), ["b"]);
}

#[test]
fn an_event_that_finds_no_room_changes_nothing() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = 4096;
    let mut outbox = bench.open();
    let appended = outbox.append(&[], &[of_rule("a", AlertState::Raised)], NOW).unwrap();
    assert_eq!(appended.refused_events, 1);
    assert_eq!(names(&outbox), [""; 0]);
}

#[test]
fn a_commit_that_fails_leaves_neither_the_event_nor_its_state() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    outbox.append(&[], &[alert()], NOW).unwrap();
    outbox.conn.execute_batch("DROP TABLE raised").unwrap();
    assert!(outbox.append(&[], &[of_rule("a", AlertState::Raised)], NOW).is_err());
    let events = "SELECT count(*) FROM event";
    assert_eq!(outbox.conn.query_row(events, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}
