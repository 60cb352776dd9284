//! What counts as what, what is listed, and when it is written.

use super::*;

/// 2026-11-20 08:53:20 UTC.
const START_MS: i64 = 1_795_164_800_000;

/// Seconds after the start, by a clock that is believed.
fn at(s: i64) -> Moment {
    Moment { boot_ms: 5_000_000 + s * 1_000, unix_ms: START_MS + s * 1_000, clock: Clock::Ntp }
}

/// The same moment by a clock that shows 1970.
fn unsynced(s: i64) -> Moment {
    Moment { unix_ms: s * 1_000, clock: Clock::Unsynced, ..at(s) }
}

fn started(now: Moment) -> History {
    let mut history = History::new(Kept::default(), now);
    history.handle_start(now);
    history
}

fn links(history: &History) -> Vec<Link> {
    history.transitions.iter().map(|it| it.link).collect()
}

fn told(history: &History, now: Moment) -> Connectivity {
    history.report(now).unwrap()
}

/// What an outbox holds after these changes.
fn written(kept: &mut Kept, changes: &Changes) {
    kept.hours.retain(|it| {
        !changes.hours_gone.contains(&it.no) && changes.hours.iter().all(|new| new.no != it.no)
    });
    kept.hours.extend(changes.hours.iter().cloned());
    kept.hours.sort_by_key(|it| it.no);
    kept.transitions.retain(|it| {
        !changes.transitions_gone.contains(&it.no)
            && changes.transitions.iter().all(|new| new.no != it.no)
    });
    kept.transitions.extend(changes.transitions.iter().cloned());
    kept.transitions.sort_by_key(|it| it.no);
}

#[test]
fn a_broker_without_storage_is_not_online_and_storage_ends_a_row_of_failures() {
    let mut history = started(at(0));
    history.handle_disconnected(at(1), "refused", Some(at(3).boot_ms));
    history.handle_disconnected(at(4), "no route", Some(at(9).boot_ms));
    let report = told(&history, at(5));
    assert_eq!((report.state, report.consecutive_failures), (Link::Offline, 2));
    assert_eq!(report.last_error.as_deref(), Some("no route"));
    assert_eq!(report.next_retry, Some(at(9).unix_ms));
    assert_eq!(told(&history, at(10)).next_retry, None, "it is under way");

    history.handle_tick(at(10));
    history.handle_connected(at(10));
    history.handle_sent(at(10));
    history.handle_tick(at(19));
    assert_eq!(told(&history, at(19)).consecutive_failures, 2, "it may yet answer");
    history.handle_tick(at(20));
    let report = told(&history, at(20));
    assert_eq!((report.state, report.consecutive_failures), (Link::Connected, 3));
    assert!(report.last_error.unwrap().contains("Does the bridge run"));

    // Nothing is asked, so nothing fails.
    history.handle_tick(at(60));
    history.handle_sent(at(61));
    history.handle_answered(at(62));
    let report = told(&history, at(62));
    assert_eq!((report.state, report.consecutive_failures), (Link::Online, 0));
    let hour = report.hours.last().unwrap();
    assert_eq!((hour.attempts, hour.successes, hour.failures), (4, 1, 3));
    assert_eq!(hour.success_rate, Some(0.25));
    assert_eq!(links(&history), [Link::Offline, Link::Connected, Link::Online]);
}

#[test]
fn one_attempt_is_under_way_at_a_time_and_an_idle_connection_that_ends_is_no_failure() {
    let mut history = started(at(0));
    history.handle_connected(at(1));
    for s in 2..5 {
        history.handle_sent(at(s));
    }
    history.handle_answered(at(5));
    // The sync acks of what left meanwhile.
    history.handle_answered(at(6));
    history.handle_stored(at(6), 70);
    history.handle_stored(at(7), 30);
    history.handle_disconnected(at(8), "the broker closed the connection", Some(at(9).boot_ms));
    let report = told(&history, at(8));
    let hour = report.hours.last().unwrap();
    assert_eq!((hour.successes, hour.failures, hour.readings), (1, 0, 100));
    assert_eq!((report.state, report.consecutive_failures), (Link::Offline, 0));
    assert_eq!(report.why, "the broker closed the connection");

    // One that ends in the middle of an attempt is.
    history.handle_connected(at(10));
    history.handle_disconnected(at(11), "reset", Some(at(12).boot_ms));
    assert_eq!(told(&history, at(11)).consecutive_failures, 1);
    // A session that is begun anew on purpose is not.
    history.handle_connected(at(12));
    history.handle_disconnected(at(13), "the configuration has changed", None);
    assert_eq!(told(&history, at(13)).consecutive_failures, 1);
}

#[test]
fn storage_that_falls_silent_ends_the_time_online_and_another_ones_answer_is_told() {
    let mut history = started(at(0));
    history.handle_connected(at(0));
    history.handle_answered(at(1));
    for half_s in 2..60 {
        history.handle_tick(at(half_s / 2));
    }
    history.handle_sent(at(30));
    history.handle_not_counted("a bridge answers for another storage".to_owned());
    for s in 30..50 {
        history.handle_tick(at(s));
    }
    let report = told(&history, at(50));
    assert_eq!(report.state, Link::Connected);
    assert_eq!(report.why, "a bridge answers for another storage");
    assert_eq!(report.hours[0].online_s, 40);
}

#[test]
fn a_machine_that_slept_was_not_online_meanwhile() {
    let mut history = started(at(0));
    history.handle_connected(at(0));
    history.handle_answered(at(0));
    history.handle_tick(at(1));
    history.handle_sent(at(1));
    history.handle_tick(at(1 + 8 * 3_600));
    assert_eq!(told(&history, at(1 + 8 * 3_600)).consecutive_failures, 0, "nobody waited for it");
    let online_s: u64 = history.hours.iter().map(|hour| hour.online_ms / 1_000).sum();
    assert_eq!(online_s, 11);
}

#[test]
fn what_was_noted_before_the_time_was_known_is_dated_later() {
    let hour = START_MS / HOUR_MS;
    // An hour of the run before, which this one goes on with.
    let before = Hour { failures: 5, ..Hour::new(7, hour, Clock::Ntp, None) };
    let kept = Kept { hours: vec![before], transitions: Vec::new() };
    let mut history = History::new(kept.clone(), unsynced(0));
    history.handle_start(unsynced(0));
    history.handle_disconnected(unsynced(1), "no route", Some(at(2).boot_ms));
    let first = history.poll_write(unsynced(1), false).unwrap();
    let mut disk = kept;
    written(&mut disk, &first);
    assert_eq!(disk.hours.len(), 2, "of another hour, as far as anybody knows");
    let report = told(&history, unsynced(2));
    assert_eq!((report.clock.as_str(), report.since), ("unsynced", 0));
    assert_eq!(report.hours.last().unwrap().clock, "unsynced");

    history.handle_connected(at(60));
    history.handle_answered(at(61));
    let report = told(&history, at(61));
    assert_eq!(report.transitions[0].at, START_MS, "when it was, not when that was learnt");
    assert!(report.transitions.iter().all(|it| it.clock == "ntp"));
    assert_eq!(report.hours.len(), 1);
    assert_eq!((report.hours[0].failures, report.hours[0].successes), (6, 1));
    assert_eq!(report.hours[0].consecutive_failures, 0, "the success was the last");
    written(&mut disk, &history.poll_write(at(70), false).unwrap());
    assert_eq!(disk.hours, Vec::from(history.hours.clone()));
}

#[test]
fn thirty_days_are_kept_and_a_wrong_clock_lets_nothing_go() {
    let mut history = started(at(0));
    let days = |days: i64| days * 86_400;
    for hour in 0..800 {
        history.handle_stored(at(hour * 3_600), 1);
        history.handle_tick(at(hour * 3_600));
    }
    assert_eq!(history.hours.len(), HOURS_MAX);
    let first = history.hours.front().unwrap().hour;
    assert_eq!(first, (START_MS + 80 * 3_600_000) / HOUR_MS);
    let now = at(800 * 3_600);
    let wrong = Moment { clock: Clock::Unsynced, unix_ms: now.unix_ms + days(400) * 1_000, ..now };
    history.handle_tick(wrong);
    assert_eq!(history.hours.len(), HOURS_MAX);
    history.handle_tick(at(days(70)));
    assert!(history.hours.is_empty(), "nothing was counted for 30 days");
    assert_eq!(links(&history), [Link::Offline], "the present state stays, however old");
}

#[test]
fn a_link_that_flaps_for_thirty_days_fills_neither_memory_nor_disk() {
    let mut history = started(at(0));
    let (mut disk, mut writes) = (Kept::default(), 0);
    for s in (1..30 * 86_400).step_by(5) {
        match s % 2 {
            0 => history.handle_connected(at(s)),
            _ => history.handle_disconnected(at(s), "reset", Some(at(s + 1).boot_ms)),
        }
        history.handle_tick(at(s));
        if let Some(changes) = history.poll_write(at(s), false) {
            written(&mut disk, &changes);
            writes += 1;
        }
    }
    let end = at(30 * 86_400);
    assert_eq!(history.transitions.len(), TRANSITIONS_MAX);
    assert!(history.hours.len() <= HOURS_MAX);
    // The newest is the present state, and what is not listed is counted.
    let report = told(&history, end);
    assert_eq!(report.state, history.link().unwrap());
    assert!(report.transitions_not_listed > 500_000, "{}", report.transitions_not_listed);
    // At most ten a hour for changes, and one each fifteen minutes.
    assert!(writes <= 720 * 16, "{writes} writes");
    written(&mut disk, &history.poll_write(end, true).unwrap());
    assert_eq!(disk.hours, Vec::from(history.hours.clone()));
    assert_eq!(disk.transitions, Vec::from(history.transitions.clone()));
}

#[test]
fn an_hour_lists_ten_changes_whoever_knows_the_time_in_it() {
    let clocks = [Clock::Unsynced, Clock::Bridge, Clock::Ntp];
    let mut history = started(at(500));
    for s in 501..1_500 {
        let now = Moment { clock: clocks[s as usize / 100 % 3], ..at(s) };
        match s % 2 {
            0 => history.handle_connected(now),
            _ => history.handle_disconnected(now, "reset", Some(at(s + 1).boot_ms)),
        }
    }
    let report = told(&history, at(1_500));
    assert_eq!(report.hours.iter().map(|hour| hour.transitions).sum::<u64>(), 999);
    // Ten, and ten for each time that nobody knew.
    assert!(history.transitions.len() <= 50, "{}", history.transitions.len());
    assert_eq!(report.transitions_not_listed, 999 - history.transitions.len() as u64);
}

/// Each write fails; of those with this parity nothing was written, of the others all was.
fn written_after_failures(parity: u64) {
    // An hour of the run before: what is noted before the time is known moves there, and its row goes.
    let before = Hour::new(1, START_MS / HOUR_MS, Clock::Ntp, None);
    let mut disk = Kept { hours: vec![before], transitions: Vec::new() };
    let mut history = History::new(disk.clone(), unsynced(0));
    history.handle_start(unsynced(0));
    let mut failed = 0;
    for s in 1..20_000 {
        let now = if s < 100 { unsynced(s) } else { at(s) };
        match s % 40 {
            0 => history.handle_connected(now),
            2 => history.handle_answered(now),
            20 => history.handle_disconnected(now, "reset", Some(at(s + 20).boot_ms)),
            _ => history.handle_stored(now, 1),
        }
        history.handle_tick(now);
        if let Some(changes) = history.poll_write(now, false) {
            failed += 1;
            if failed % 2 == parity {
                written(&mut disk, &changes);
            }
            history.handle_unwritten(changes);
        }
    }
    assert!(failed > 100, "{failed}");
    written(&mut disk, &history.poll_write(at(20_000), true).unwrap());
    assert_eq!(disk.hours, Vec::from(history.hours.clone()));
    assert_eq!(disk.transitions, Vec::from(history.transitions.clone()));
    assert_eq!(history.poll_write(at(20_001), true), None);
}

#[test]
fn a_failed_write_is_made_good_by_the_next() {
    written_after_failures(0);
    written_after_failures(1);
}

#[test]
fn counts_wait_for_a_quarter_of_an_hour_or_for_the_end_of_theirs() {
    // 08:53:20 and 400 s are the next hour.
    let mut history = started(at(0));
    assert!(history.poll_write(at(0), false).is_some());
    history.handle_stored(at(1), 5);
    assert_eq!(history.poll_write(at(399), false), None);
    history.handle_stored(at(400), 5);
    let changes = history.poll_write(at(410), false).unwrap();
    assert_eq!(changes.hours.len(), 2, "the ended one, and what there is of the next");
    history.handle_stored(at(500), 5);
    assert_eq!(history.poll_write(at(410 + 899), false), None);
    assert!(history.poll_write(at(410 + 900), false).is_some());
    history.handle_stored(at(2_000), 5);
    assert!(history.poll_write(at(2_001), true).is_some(), "the end waits for nothing");
}

#[test]
fn a_new_run_goes_on_from_the_last_and_says_how_that_ended() {
    let mut history = started(at(0));
    history.handle_disconnected(at(1), "no route", Some(at(2).boot_ms));
    let mut disk = Kept::default();
    written(&mut disk, &history.poll_write(at(1), true).unwrap());
    let mut next = History::new(disk.clone(), at(100));
    next.handle_start(at(100));
    assert_eq!(links(&next), [Link::Offline, Link::Offline]);
    let report = told(&next, at(100));
    assert!(report.why.contains("a kill or a crash"));
    assert_eq!((report.state, report.consecutive_failures), (Link::Offline, 1));
    assert_eq!(report.last_error.as_deref(), Some("no route"));

    history.handle_connected(at(3));
    written(&mut disk, &history.poll_write(at(3), true).unwrap());
    let mut next = History::new(disk.clone(), at(100));
    next.handle_start(at(100));
    assert!(told(&next, at(100)).why.contains("a kill or a crash"));

    history.handle_stop(at(4), "the gateway was stopped");
    written(&mut disk, &history.poll_write(at(4), true).unwrap());
    let mut next = History::new(disk, at(100));
    next.handle_start(at(100));
    assert_eq!(links(&next), [Link::Offline, Link::Connected, Link::Stopped, Link::Offline]);
    assert_eq!(told(&next, at(100)).why, "the gateway has started");
}

#[test]
fn a_reason_is_one_line_of_bounded_length() {
    let mut history = started(at(0));
    history.handle_disconnected(at(1), &"ä\n".repeat(500), Some(at(2).boot_ms));
    let error = told(&history, at(1)).last_error.unwrap();
    assert!(
        error.len() <= WHY_BYTES_MAX && error.ends_with('…') && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn the_outbox_fills_up_what_the_status_file_does_not_list() {
    let mut history = started(at(0));
    let mut disk = Kept::default();
    for hour in 0..40 {
        history.handle_connected(at(hour * 3_600));
        history.handle_answered(at(hour * 3_600 + 1));
        history.handle_disconnected(at(hour * 3_600 + 2), "gone", Some(at(0).boot_ms));
        if let Some(changes) = history.poll_write(at(hour * 3_600 + 2), false) {
            written(&mut disk, &changes);
        }
    }
    // Not on the disk yet.
    history.handle_connected(at(39 * 3_600 + 5));
    let mut report = told(&history, at(40 * 3_600));
    assert_eq!((report.hours.len(), report.transitions.len()), (24, 20));
    report.fill_up(&disk);
    let all: Vec<_> = history.hours.iter().map(HourReport::from).collect();
    assert_eq!(report.hours, all);
    assert_eq!(report.transitions.len(), history.transitions.len());
    let text = report.text(at(40 * 3_600).unix_ms);
    assert!(text.contains("24 of 24 attempts succeeded (100 %)"), "{text}");
    assert!(text.starts_with("link      connected for 59 min 55 s: the broker takes"), "{text}");
}

#[test]
fn the_page_names_every_key() {
    let mut history = started(at(0));
    history.handle_disconnected(at(1), "refused", Some(at(3).boot_ms));
    let told = serde_json::to_value(told(&history, at(1))).unwrap();
    let page = include_str!("../../../docs/connectivity.md");
    for part in [&told, &told["hours"][0], &told["transitions"][0]] {
        for key in part.as_object().unwrap().keys() {
            assert!(page.contains(&format!("`{key}`")), "docs/connectivity.md does not name {key}");
        }
    }
}
