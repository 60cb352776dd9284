//! Rules held against what a reader of the whole history would say.

use fieldpost_protocol::Metrics;

use super::super::Test;
use super::*;

fn above(hysteresis: f64, hold_ms: i64) -> Rule {
    rule(
        Condition::Metric {
            source: Some("a".into()),
            metric: "t".to_owned(),
            test: Test::Above(10.0, hysteresis),
        },
        hold_ms,
    )
}

fn rule(condition: Condition, hold_ms: i64) -> Rule {
    let (severity, message) = (Severity::Warning, None);
    Rule { name: "r".to_owned(), condition, hold_ms, severity, message }
}

fn board(rule: Rule) -> Board {
    Board::new(vec![rule], Vec::new(), 0)
}

fn reading(source: &str, boot_ms: i64, value: impl Into<Value>) -> Measured {
    let metrics = Metrics::new(vec![("t".into(), value.into())]).unwrap();
    Measured { source: source.into(), boot_ms, metrics }
}

fn tick(board: &mut Board, boot_ms: i64) {
    board.tick(boot_ms, &Seen::default());
}

/// What the outbox would have been told since the last call: about what, and whether it was raised.
fn told(board: &mut Board) -> Vec<(Option<String>, bool)> {
    let events = std::iter::from_fn(|| board.next_event());
    let told = events.map(|event| match event.kind {
        EventKind::Alert { about, state, lasting: true, .. } => {
            (about, state == AlertState::Raised)
        }
        other => panic!("{other:?} is no alert of a rule"),
    });
    told.collect()
}

/// What the outbox would hold after these.
fn kept(events: &[NewEvent]) -> Vec<KeptAlert> {
    match events.last() {
        Some(NewEvent {
            kind: EventKind::Alert { name, about, severity, message, .. },
            rule: Some(definition),
            ..
        }) => vec![KeptAlert {
            name: name.clone(),
            about: about.clone(),
            definition: definition.clone(),
            severity: *severity,
            message: message.clone(),
        }],
        _ => Vec::new(),
    }
}

#[test]
fn a_random_history_is_told_as_one_who_reads_all_of_it_would() {
    for seed in 0..2_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let hysteresis = rng.choice([0.0, 2.0]).unwrap();
        let hold_ms = rng.choice([0, 1_500, 4_000]).unwrap();
        let rule = above(hysteresis, hold_ms);
        let mut board = board(rule.clone());
        let mut values: Vec<(i64, f64)> = Vec::new();
        let (mut raised, mut changed, mut now) = (false, None::<i64>, 0);
        let mut events = Vec::new();
        for step in 0..200 {
            now += rng.i64(1..900);
            match rng.u32(..20) {
                0 => {
                    // Killed: what waits for the outbox is judged again.
                    board = Board::new(vec![rule.clone()], kept(&events), now);
                    values.clear();
                    changed = None;
                    continue;
                }
                1 => {
                    board.look(&reading("a", now, Value::Null));
                    board.look(&reading("b", now, 99.0));
                    continue;
                }
                2..6 => tick(&mut board, now),
                _ => {
                    // Often on a bound.
                    let value = rng.i64(15..23) as f64 / 2.0;
                    values.push((now, value));
                    board.look(&reading("a", now, value));
                }
            }
            let suffix = values.iter().rev().take_while(|(_, value)| *value > 10.0);
            let since = suffix.last().map(|(at, _)| *at);
            let over = values.last().is_some_and(|(_, value)| *value <= 10.0 - hysteresis);
            let may_change = changed.is_none_or(|at| now - at >= CHANGE_MS_MIN);
            let holds = since.is_some_and(|at| now - at >= hold_ms);
            if may_change && ((!raised && holds) || (raised && over)) {
                (raised, changed) = (!raised, Some(now));
            }
            while let Some(event) = board.next_event() {
                events.push(event);
            }
            let is_raised = |event: &NewEvent| {
                matches!(event.kind, EventKind::Alert { state: AlertState::Raised, .. })
            };
            let told = events.last().is_some_and(is_raised);
            assert_eq!(told, raised, "seed {seed}, step {step}");
            assert_eq!(board.raised().len(), usize::from(raised), "seed {seed}, step {step}");
            let in_turn = events.iter().enumerate().all(|(at, it)| is_raised(it) == (at % 2 == 0));
            assert!(in_turn, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn each_source_of_a_rule_has_an_alert_of_its_own_up_to_a_bound() {
    let test = Test::Below(5.0, 1.0);
    let condition = Condition::Metric { source: None, metric: "t".to_owned(), test };
    let mut board = board(rule(condition, 0));
    board.look(&reading("a", 0, 4));
    board.look(&reading("b", 0, 4));
    board.look(&reading("a", 2_000, 5.5));
    board.look(&reading("b", 2_000, 6));
    let about = |name: &str| Some(name.to_owned());
    assert_eq!(told(&mut board), [(about("a"), true), (about("b"), true), (about("b"), false)]);
    for n in 0..2 * SOURCES_MAX {
        board.look(&reading(&format!("s{n}"), 3_000, 4));
        told(&mut board);
    }
    assert_eq!(board.states.len(), SOURCES_MAX);
}

#[test]
fn whoever_sends_nothing_is_missed_and_found_again() {
    let condition = Condition::NoData { source: "a".into(), metric: Some("t".to_owned()) };
    let mut board = board(rule(condition, 60_000));
    tick(&mut board, 59_999);
    board.look(&reading("a", 59_999, Value::Null));
    assert_eq!(told(&mut board), []);
    tick(&mut board, 60_000);
    tick(&mut board, 90_000);
    assert_eq!(told(&mut board), [(Some("a".to_owned()), true)]);
    board.look(&reading("a", 100_000, 1));
    assert_eq!(told(&mut board), [(Some("a".to_owned()), false)]);
    tick(&mut board, 159_999);
    assert_eq!(told(&mut board), []);
    tick(&mut board, 160_000);
    assert_eq!(told(&mut board), [(Some("a".to_owned()), true)]);
}

#[test]
fn ports_and_the_outbox_are_judged_by_what_the_driver_sees() {
    let mut lost = board(rule(Condition::PortLost("p".into()), 5_000));
    let gone = Seen { lost: vec!["p".into(), "q".into()], ..Seen::default() };
    lost.tick(1_000, &gone);
    lost.tick(3_000, &Seen::default());
    lost.tick(4_000, &gone);
    lost.tick(8_999, &gone);
    assert_eq!(told(&mut lost), []);
    lost.tick(9_000, &gone);
    lost.tick(20_000, &Seen::default());
    let about = || Some("p".to_owned());
    assert_eq!(told(&mut lost), [(about(), true), (about(), false)]);

    let mut full = board(rule(Condition::OutboxAbove(1_000), 0));
    for (at, bytes) in [1_000, 1_001, 1_000, 901, 900, 901].into_iter().enumerate() {
        full.tick(at as i64 * 2_000, &Seen { outbox_bytes: Some(bytes), ..Seen::default() });
    }
    assert_eq!(told(&mut full), [(None, true), (None, false)]);
}

#[test]
fn a_port_that_nobody_has_tried_to_open_is_not_lost_and_not_back_either() {
    let untried = Seen { untried: vec!["p".into()], ..Seen::default() };
    let mut lost = board(rule(Condition::PortLost("p".into()), 0));
    lost.tick(1_000, &untried);
    assert_eq!(told(&mut lost), []);
    lost.tick(2_000, &Seen { lost: vec!["p".into()], ..Seen::default() });
    let about = || Some("p".to_owned());
    assert_eq!(told(&mut lost), [(about(), true)]);
    // Opened at another place by a configuration, perhaps.
    lost.tick(4_000, &untried);
    assert_eq!(told(&mut lost), []);
    lost.tick(6_000, &Seen::default());
    assert_eq!(told(&mut lost), [(about(), false)]);
}

#[test]
fn after_a_damaged_outbox_what_is_not_raised_is_told_as_cleared_once() {
    let mut board = board(above(0.0, 0));
    board.begin_anew();
    for (at, value) in [(0, 5), (2_000, 6), (4_000, 11), (6_000, 5), (8_000, 5)] {
        board.look(&reading("a", at, value));
    }
    let a = || Some("a".to_owned());
    assert_eq!(told(&mut board), [(a(), false), (a(), true), (a(), false)]);
}

#[test]
fn a_rule_that_was_changed_or_removed_is_cleared_and_another_is_not() {
    let raise = || {
        let mut board = board(above(0.0, 0));
        board.look(&reading("a", 0, 11));
        board.next_event().unwrap()
    };
    let kept = kept(&[raise()]);
    for (rules, cleared) in
        [(vec![above(0.0, 0)], false), (vec![above(1.0, 0)], true), (Vec::new(), true)]
    {
        let mut board = Board::new(rules.clone(), kept.clone(), 5_000);
        let events: Vec<_> = std::iter::from_fn(|| board.next_event()).collect();
        assert_eq!(events.len(), usize::from(cleared), "{rules:?}");
        for event in events {
            let EventKind::Alert { state: AlertState::Cleared, message, .. } = event.kind else {
                panic!("not cleared");
            };
            assert!(message.contains("configuration"), "{message}");
        }
        board.look(&reading("a", 6_000, 12));
        // Raised already, or judged anew.
        assert_eq!(told(&mut board).len(), usize::from(cleared && !rules.is_empty()));
        assert_eq!(board.raised().len(), rules.len());
    }
}

#[test]
fn texts_and_truths_are_compared_and_shown() {
    let test = Test::Equals("fault".to_owned());
    let condition = Condition::Metric { source: Some("a".into()), metric: "t".to_owned(), test };
    let message = Some("{source} says {value}".to_owned());
    let mut board = board(Rule { message, ..rule(condition, 0) });
    board.look(&reading("a", 0, "fault"));
    assert_eq!(board.raised()[0].message, "a says fault");
    board.look(&reading("a", 2_000, "well"));
    assert_eq!(told(&mut board).len(), 2);
    assert_eq!(Test::Above(0.5, 0.0).ask(&Value::Bool(true)), Some(Says::Holds));
    assert_eq!(Test::Above(0.5, 0.0).ask(&"1".into()), None);
    assert_eq!(Test::Equals("24.5".to_owned()).ask(&Value::Float(24.5)), Some(Says::Holds));
}

#[test]
fn what_the_outbox_does_not_take_changes_nothing() {
    let condition =
        Condition::Metric { source: None, metric: "t".to_owned(), test: Test::Above(0.0, 0.0) };
    let mut board = board(rule(condition, 0));
    for n in 0..2 * QUEUE_MAX {
        board.look(&reading(&format!("s{n}"), 0, 1));
    }
    assert_eq!((board.queue.len(), board.raised().len()), (QUEUE_MAX, QUEUE_MAX));
    assert_eq!(told(&mut board).len(), QUEUE_MAX);
    tick(&mut board, 500);
    assert_eq!(board.raised().len(), 2 * QUEUE_MAX);
}
