//! The desk while a disk refuses: what is in doubt is done by nobody.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

fn led(id: &str, on: i64) -> Command {
    let json = format!(r#"{{"id":"{id}","name":"led","args":{{"on":{on}}}}}"#);
    Command::decode(json.as_bytes()).unwrap()
}

/// A desk with a board for `led`; everything else is the gateway's.
fn desk() -> (Desk, mpsc::Receiver<Done>) {
    with_boards(&[("led", "fruiting")])
}

/// ... and another for `fan`.
fn two_boards() -> (Desk, mpsc::Receiver<Done>) {
    with_boards(&[("led", "fruiting"), ("fan", "attic")])
}

fn with_boards(of: &[(&str, &str)]) -> (Desk, mpsc::Receiver<Done>) {
    let rule = |port: &str| BoardCommand {
        port: port.into(),
        timeout: Duration::from_secs(5),
        line_bytes_max: 4_096,
        args: BTreeMap::new(),
    };
    let boards = of.iter().map(|(name, port)| ((*name).to_owned(), rule(port))).collect();
    let allowed = Allowed { builtins: BTreeSet::from([Builtin::Ping]), boards };
    let boards = of.iter().map(|(_, port)| Board::new((*port).into())).collect();
    Desk::new(Arc::new(allowed), boards)
}

/// Whether it is taken.
fn put(desk: &mut Desk, command: Command) -> bool {
    desk.put(command).is_ok()
}

fn all(desk: &mut Desk) -> Vec<Command> {
    std::iter::from_fn(|| desk.next()).collect()
}

#[test]
fn what_is_in_doubt_is_taken_out_of_every_queue_and_refused_until_it_is_settled() {
    let (mut desk, _ends) = desk();
    let (a, b) = (led("a", 1), led("b", 1));
    // Under its id, wherever it waits: for the time, for a board that is busy, to be judged.
    desk.hold(led("a", 2));
    desk.hold(led("c", 1));
    desk.ways.values_mut().for_each(|way| way.busy = 1);
    assert!(put(&mut desk, led("a", 3)) && put(&mut desk, b.clone()));
    assert_eq!(all(&mut desk), [], "the board is busy");
    assert!(put(&mut desk, led("a", 4)));

    desk.doubt(a.clone());
    assert_eq!(desk.doubtful(), Some(&a));
    let again = [a.clone(), led("a", 5)].map(|again| put(&mut desk, again));
    assert_eq!(again, [true, true], "passed over, and no reason to complain");
    let board = desk.ways.values().next().map(|way| way.board.clone());
    desk.free(&Done { board, ..Done::by_gateway(id("z"), "led", ended()) });
    desk.judge_held();
    assert_eq!(desk.doubtful(), Some(&a), "until somebody has recorded that it did not run");
    desk.settle();
    assert_eq!(desk.doubtful(), None);
    assert_eq!(all(&mut desk), [b, led("c", 1)]);
    assert!(put(&mut desk, a.clone()));
    assert_eq!(all(&mut desk), [a], "the outbox knows what became of it");
}

#[test]
fn while_one_is_in_doubt_no_other_is_judged() {
    let (mut desk, _ends) = desk();
    desk.doubt(led("a", 1));
    for n in 0..WAITING_PER_BOARD_MAX {
        assert!(put(&mut desk, led(&format!("b{n}"), 1)));
    }
    assert!(!put(&mut desk, led("c", 1)), "so many wait, and no more");
    assert_eq!(all(&mut desk), [], "the disk refuses");
    desk.settle();
    assert_eq!(all(&mut desk).len(), WAITING_PER_BOARD_MAX);
}

#[test]
fn a_silent_board_keeps_out_its_own_commands_and_no_others() {
    let (mut desk, _ends) = two_boards();
    let named =
        |name: &str, n: usize| Command { name: name.into(), ..led(&format!("{name}{n}"), 1) };
    desk.ways.get_mut("fruiting").unwrap().busy = 1;
    // Half of them wait for the board, half to be judged.
    for n in 0..WAITING_PER_BOARD_MAX {
        assert!(put(&mut desk, named("led", n)));
        if n == WAITING_PER_BOARD_MAX / 2 {
            assert_eq!(all(&mut desk), []);
        }
    }
    let why = desk.put(named("led", WAITING_PER_BOARD_MAX)).unwrap_err();
    assert_eq!(why, "64 commands wait for port fruiting already, and no more may");
    for n in 0..WAITING_PER_BOARD_MAX {
        assert!(put(&mut desk, named("fan", n)), "another board's");
    }
    assert!(desk.put(named("fan", 64)).unwrap_err().contains("port attic"));
    for name in ["ping", "lamp"] {
        for n in 0..WAITING_FOR_GATEWAY_MAX / 2 {
            assert!(put(&mut desk, named(name, n)), "the gateway's, or nobody's");
        }
    }
    assert!(desk.put(named("ping", 64)).unwrap_err().contains("for the gateway itself"));
    let served = all(&mut desk);
    assert_eq!(served.len(), WAITING_PER_BOARD_MAX + WAITING_FOR_GATEWAY_MAX);
    assert!(served.iter().all(|command| command.name != "led"), "its board is busy");
    assert!(put(&mut desk, named("ping", 64)), "there is room again");
    assert!(!put(&mut desk, named("led", 64)), "... but for the silent one");
}

#[tokio::test]
async fn whoever_ends_a_command_knows_what_it_is_called() {
    let (mut desk, mut ends) = desk();
    assert_eq!(
        desk.begin(id("a"), &led("a", 1), 7, Some(Duration::from_millis(1))),
        Begun::ByBoard
    );
    assert_eq!(ends.recv().await.unwrap().name, "led");
    desk.recall(Left { id: id("r"), name: "restart".into(), no: 1, strict: false });
    assert_eq!(desk.owed[0].name, "restart");
}

#[test]
fn what_waits_for_the_time_keeps_no_other_command_out() {
    let (mut desk, _ends) = desk();
    for n in 0..HELD_MAX {
        assert!(desk.hold(led(&format!("a{n}"), 1)));
    }
    assert!(!desk.hold(led("b", 1)), "so many wait, and no more");
    assert!(put(&mut desk, led("a1", 1)), "it waits already");
    assert!(put(&mut desk, led("c", 1)));
    assert_eq!(all(&mut desk), [led("c", 1)]);
}

#[tokio::test]
async fn a_command_is_open_from_its_start_until_its_outcome_is_recorded() {
    let (mut desk, mut ends) = desk();
    let left = Left { id: id("z"), name: "led".into(), no: 1, strict: false };
    desk.recall(left);
    assert_eq!(desk.open(), 0, "a question about an older one can be asked again");
    let board = desk.ways.values().next().map(|way| way.board.clone());
    desk.free(&Done { board, ..Done::by_gateway(id("z"), "led", ended()) });
    desk.begin(id("a"), &led("a", 1), 7, Some(Duration::from_millis(50)));
    assert_eq!(desk.open(), 1);
    let done = ends.recv().await.unwrap();
    desk.free(&done);
    assert_eq!(desk.open(), 0);
    desk.owed.push_back(done);
    assert_eq!(desk.open(), 1);
}

#[tokio::test]
async fn what_expires_before_its_line_can_be_written_never_runs() {
    let (mut desk, mut ends) = desk();
    // Nobody opens the port.
    let begun = desk.begin(id("a"), &led("a", 1), 7, Some(Duration::from_millis(50)));
    assert_eq!(begun, Begun::ByBoard);
    let done = ends.recv().await.unwrap();
    assert_eq!(done.ending.outcome, CommandOutcome::Expired);
    assert!(done.ending.detail.unwrap().contains("port fruiting was not open"));
    let begun = desk.begin(id("b"), &led("b", 1), 8, Some(Duration::ZERO));
    let Begun::Not(ending) = begun else { panic!("{begun:?}") };
    assert_eq!(ending.outcome, CommandOutcome::Expired);
}

#[test]
fn what_is_left_of_its_time_shrinks_while_the_disk_is_slow() {
    let left = |since| rest(Some(1_500), Some(1_000), Duration::from_millis(since));
    assert_eq!(left(0), Some(Duration::from_millis(500)));
    assert_eq!(left(400), Some(Duration::from_millis(100)));
    assert_eq!(left(501), Some(Duration::ZERO));
    assert_eq!(rest(None, Some(1_000), Duration::ZERO), None);
    assert_eq!(rest(Some(1), Some(2), Duration::ZERO), Some(Duration::ZERO));
}

#[tokio::test]
async fn what_nobody_can_do_any_more_has_ended() {
    let (mut desk, _ends) = desk();
    let ping = Command { name: "ping".into(), ..led("p", 1) };
    assert_eq!(desk.begin(id("p"), &ping, 1, None), Begun::ByGateway(Builtin::Ping));
    desk.change(desk.allowed().clone(), Vec::new());
    let begun = desk.begin(id("a"), &led("a", 1), 2, None);
    let Begun::Not(ending) = begun else { panic!("{begun:?}") };
    assert_eq!(ending.outcome, CommandOutcome::Rejected);
    assert!(ending.detail.unwrap().contains("no port fruiting any more"));
}

#[tokio::test]
async fn a_board_is_free_when_all_that_it_was_asked_is_done_and_not_by_what_its_port_was_before() {
    let (mut desk, _ends) = desk();
    let of = |desk: &Desk| desk.ways.values().next().map(|way| way.board.clone());
    let done = |board| Done { board, ..Done::by_gateway(id("z"), "led", ended()) };
    let left = |text| Left { id: id(text), name: "led".to_owned(), no: 7, strict: false };
    desk.recall(left("x"));
    desk.recall(left("y"));
    assert!(put(&mut desk, led("a", 1)));
    assert_eq!(all(&mut desk), [], "two questions are under way");
    desk.free(&done(of(&desk)));
    assert_eq!(all(&mut desk), [], "one is");
    desk.free(&done(of(&desk)));
    assert_eq!(all(&mut desk), [led("a", 1)]);

    // The port goes while a command runs, and comes back: what ends then was on the one before.
    assert_eq!(desk.begin(id("a"), &led("a", 1), 7, None), Begun::ByBoard);
    let before = of(&desk);
    let again = vec![Board::new("fruiting".into())];
    desk.change(desk.allowed().clone(), Vec::new());
    desk.change(desk.allowed().clone(), again);
    assert_eq!(desk.begin(id("b"), &led("b", 1), 8, None), Begun::ByBoard);
    assert!(put(&mut desk, led("c", 1)));
    desk.free(&done(before));
    assert_eq!(all(&mut desk), [], "b still runs");
    desk.free(&done(of(&desk)));
    assert_eq!(all(&mut desk), [led("c", 1)]);
    // ... or comes back at once, in one change.
    assert_eq!(desk.begin(id("c"), &led("c", 1), 9, None), Begun::ByBoard);
    assert!(put(&mut desk, led("d", 1)));
    assert_eq!(all(&mut desk), [], "c still runs");
    desk.change(desk.allowed().clone(), vec![Board::new("fruiting".into())]);
    assert_eq!(all(&mut desk), [led("d", 1)]);
    assert_eq!(desk.open(), 0, "nobody waits for the board that is gone");
}

fn id(text: &str) -> CommandId {
    text.parse().unwrap()
}

fn ended() -> Ending {
    Ending::because(CommandOutcome::Succeeded, "done")
}
