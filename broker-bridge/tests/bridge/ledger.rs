//! The ledger of commands on a real file: adopted, issued, repeated, ended.

use fieldpost_bridge::engine::{CommandRow, Engine, Origin, REPEAT_FIRST_MS};
use fieldpost_bridge::ingest::{Answer, Incoming, Ingested, Receipt, ingest, issue_due};
use fieldpost_bridge::store::ledger::{LEASE_MS, Ledger, OPEN_COMMANDS_MAX};
use fieldpost_bridge::store::sqlite::{DeadLetters, SqliteStore};
use fieldpost_bridge::store::{Store, Txn};
use fieldpost_protocol::{
    AlertState, Command, CommandId, CommandOutcome, Content, Epoch, Event, EventKind, Instance,
    Metrics, Severity, Topic,
};
use serde_json::Value;

use crate::support::*;

const US: Instance = Instance([1; 16]);
const OTHERS: Instance = Instance([2; 16]);

fn published(json: &str) -> Incoming {
    received(json, US, 7)
}

fn received(json: &str, by: Instance, no: u8) -> Incoming {
    let receipt = Receipt { by, id: [no; 16] };
    Incoming {
        topic: Topic::Commands(device()),
        payload: json.as_bytes().to_vec(),
        retained: false,
        receipt,
    }
}

fn command(json: &str) -> Command {
    Command::decode(json.as_bytes()).unwrap()
}

fn led() -> Command {
    command(r#"{"name":"led","args":{"on":1}}"#)
}

/// Into the ledger, as the command line does it.
fn send(bench: &mut Bench, id: &str, command: &Command) {
    let now = bench.now;
    let mut txn = bench.store.begin().unwrap();
    let at = txn.find_device(&device()).unwrap().unwrap();
    let row = CommandRow::new(command, Origin::Cli, now);
    txn.insert_command(at, &id.parse().unwrap(), &row).unwrap();
    txn.commit().unwrap();
}

fn issued(done: &Ingested) -> Vec<(String, Epoch)> {
    assert_eq!(done.error, None);
    let commands = done.answers.iter().filter_map(|answer| match answer {
        Answer::Command(of, command) => {
            assert_eq!(*of, device());
            Some((command.id.clone().unwrap().to_string(), command.target.unwrap()))
        }
        _ => None,
    });
    commands.collect()
}

/// Says hello; returns the commands that go out with it.
fn greet(bench: &mut Bench, epoch: u8, no: u64) -> Vec<(String, Epoch)> {
    issued(&bench.take(&[hello(epoch, no, 1, 1, &[])]))
}

/// Looks for what is due after so many milliseconds.
fn look(bench: &mut Bench, after_ms: i64) -> Vec<(String, Epoch)> {
    bench.now += after_ms;
    issued(&issue_due(&mut bench.store, &Engine::default(), US, bench.now))
}

fn says(epoch: u8, seq: u64, id: &str, target: u8, outcome: CommandOutcome) -> Incoming {
    says_of(Some(led().content()), epoch, seq, id, target, outcome)
}

fn says_of(
    content: Option<Content>,
    epoch: u8,
    seq: u64,
    id_: &str,
    target: u8,
    outcome: CommandOutcome,
) -> Incoming {
    let result = Metrics::from_json(r#"{"on":1}"#).unwrap();
    let (command, target) = (id_.parse::<CommandId>().unwrap(), id(target));
    let kind = EventKind::CommandAck {
        id: command,
        target,
        content,
        outcome,
        detail: Some("so it is".into()),
        result,
    };
    event(epoch, seq, &Event { t: seq as i64, kind })
}

/// A row of the view for people.
fn shown(bench: &Bench, id: &str) -> Value {
    let rows = bench.query().commands(Some("pi-1"), true).unwrap();
    let row = rows.iter().find(|row| row.cell("id") == id).unwrap_or_else(|| panic!("no {id}"));
    serde_json::to_value(row).unwrap()
}

fn state(bench: &Bench, id: &str) -> String {
    shown(bench, id)["state"].as_str().unwrap().to_owned()
}

fn alarms(done: &Ingested) -> Vec<&'static str> {
    done.alarms.iter().map(|alarm| alarm.kind).collect()
}

#[test]
fn a_command_goes_out_with_the_hello_and_again_until_it_is_answered() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    send(&mut bench, "a1", &led());
    assert_eq!(greet(&mut bench, 1, 2), [("a1".to_owned(), id(1))]);
    let row = shown(&bench, "a1");
    assert_eq!((&row["issued"], &row["target"]), (&1.into(), &id(1).to_string().into()));
    assert_eq!(look(&mut bench, REPEAT_FIRST_MS - 1_000), []);
    assert_eq!(look(&mut bench, 1_000).len(), 1);
    assert_eq!(look(&mut bench, 2 * REPEAT_FIRST_MS - 1), []);
    assert_eq!(look(&mut bench, 1).len(), 1);
    bench.acks(&[says(1, 1, "a1", 1, CommandOutcome::Accepted)]);
    assert_eq!(state(&bench, "a1"), "open");
    bench.acks(&[says(1, 2, "a1", 1, CommandOutcome::Succeeded)]);
    let row = shown(&bench, "a1");
    assert_eq!((&row["state"], &row["result"]["on"]), (&"succeeded".into(), &1.into()));
    assert_eq!(look(&mut bench, 3_600_000), []);
    assert_eq!(greet(&mut bench, 1, 3), []);
}

#[test]
fn a_command_for_a_device_that_is_there_goes_out_with_the_next_look_and_else_waits() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    send(&mut bench, "a1", &led());
    assert_eq!(look(&mut bench, 0), [("a1".to_owned(), id(1))]);
    // Not heard of for three heartbeats.
    send(&mut bench, "a2", &led());
    let out = look(&mut bench, 180_001);
    assert!(out.is_empty(), "{out:?}");
    assert_eq!(shown(&bench, "a2")["issued"], 0);
    let both = greet(&mut bench, 2, 1);
    assert_eq!(both, [("a1".to_owned(), id(1)), ("a2".to_owned(), id(2))], "a1 keeps its target");
}

#[test]
fn what_has_waited_for_its_device_goes_out_in_the_order_in_which_it_was_asked_for() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    bench.now += 200_000;
    let mut asked = Vec::new();
    // More than go out at once, each looked at in vain at another time.
    for no in 0..70 {
        let id = format!("c{}", 99 - no);
        send(&mut bench, &id, &led());
        asked.push(id);
        assert_eq!(look(&mut bench, 7_000), []);
    }
    let mut out = greet(&mut bench, 1, 2);
    assert_eq!(out.len(), 64);
    out.extend(look(&mut bench, 1_000));
    let ids: Vec<String> = out.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, asked);
}

#[test]
fn a_stale_command_is_issued_at_once_to_the_epoch_that_is_there() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    send(&mut bench, "a1", &led());
    greet(&mut bench, 1, 2);
    assert_eq!(greet(&mut bench, 2, 1), [("a1".to_owned(), id(1))]);
    let done = bench.take(&[says(2, 1, "a1", 1, CommandOutcome::Stale)]);
    assert_eq!(issued(&done), [("a1".to_owned(), id(2))]);
    let row = shown(&bench, "a1");
    assert_eq!((&row["target"], &row["issued"]), (&id(2).to_string().into(), &3.into()));
    // The same batch again changes nothing.
    assert_eq!(issued(&bench.take(&[says(2, 1, "a1", 1, CommandOutcome::Stale)])), []);
    bench.acks(&[says(2, 2, "a1", 2, CommandOutcome::Failed)]);
    assert_eq!(state(&bench, "a1"), "failed");
}

#[test]
fn a_strict_command_that_is_stale_ends_as_unknown() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    send(&mut bench, "a1", &Command { strict: true, ..led() });
    greet(&mut bench, 1, 2);
    greet(&mut bench, 2, 1);
    let done = bench.take(&[says(2, 1, "a1", 1, CommandOutcome::Stale)]);
    assert_eq!(issued(&done), []);
    assert_eq!(state(&bench, "a1"), "unknown");
}

#[test]
fn a_command_that_was_never_issued_expires_and_one_that_was_is_asked_for() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    bench.now += 200_000;
    let expires = Some(bench.now + 10_000);
    send(&mut bench, "never", &Command { expires, ..led() });
    assert_eq!(look(&mut bench, 0), []);
    assert_eq!(look(&mut bench, 9_999), []);
    assert_eq!(state(&bench, "never"), "open");
    assert_eq!(look(&mut bench, 1), []);
    assert_eq!(state(&bench, "never"), "expired");

    let expires = Some(bench.now + 10_000);
    send(&mut bench, "issued", &Command { expires, ..led() });
    assert_eq!(greet(&mut bench, 1, 2).len(), 1);
    assert_eq!(look(&mut bench, 20_000).len(), 1);
    bench.acks(&[says(1, 1, "issued", 1, CommandOutcome::Expired)]);
    assert_eq!(state(&bench, "issued"), "expired");
}

#[test]
fn the_first_outcome_is_kept_and_an_answer_of_other_content_is_stored_and_changes_nothing() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    send(&mut bench, "a1", &led());
    greet(&mut bench, 1, 2);
    let rejected = CommandOutcome::Rejected;
    bench.acks(&[says_of(Some(Content([9; 8])), 1, 1, "a1", 1, rejected)]);
    bench.acks(&[says_of(None, 1, 2, "a1", 1, rejected)]);
    assert_eq!(state(&bench, "a1"), "open");
    bench.acks(&[says(1, 3, "a1", 1, CommandOutcome::Unknown)]);
    bench.acks(&[says(1, 4, "a1", 1, CommandOutcome::Succeeded)]);
    assert_eq!(state(&bench, "a1"), "unknown");
    let acks = bench.query().command_acks("pi-1", "a1").unwrap();
    let told: Vec<&str> = acks.iter().filter_map(|row| row.cell("outcome").as_str()).collect();
    assert_eq!(told, ["rejected", "rejected", "unknown", "succeeded"]);
}

#[test]
fn a_person_s_command_is_adopted_once_and_its_answer_in_the_same_transaction_ends_it() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    let json = r#"{"id":"b2","name":"led","args":{"on":1}}"#;
    let done = bench.take(&[published(json)]);
    assert_eq!((issued(&done), alarms(&done)), (vec![], vec![]), "it has just been there");
    let row = shown(&bench, "b2");
    assert_eq!((&row["origin"], &row["state"]), (&"person".into(), &"open".into()));
    assert_eq!(row["expires"], bench.now + 86_400_000);
    assert_eq!(look(&mut bench, REPEAT_FIRST_MS), [("b2".to_owned(), id(1))]);
    // Our own command comes back.
    let own = Command { id: "b2".parse().ok(), target: Some(id(1)), ..led() };
    let own = Incoming { payload: own.encode(), ..published("") };
    assert_eq!(alarms(&bench.take(&[own])), [""; 0]);
    let done = bench.take(&[published(r#"{"id":"b2","name":"led","args":{"on":2}}"#)]);
    assert_eq!(alarms(&done), ["command_id_reused"]);
    assert_eq!(shown(&bench, "b2")["args"]["on"], 1);

    let answer = says(1, 1, "b3", 1, CommandOutcome::Succeeded);
    bench.take(&[answer, published(r#"{"id":"b3","name":"led","args":{"on":1}}"#)]);
    assert_eq!(state(&bench, "b3"), "succeeded");
}

#[test]
fn a_command_without_an_id_gets_one_and_a_transaction_that_is_tried_again_makes_no_second() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    let message = received(r#"{"name":"led"}"#, US, 0xab);
    let done = bench.take(std::slice::from_ref(&message));
    assert_eq!(issued(&done), [("abababababababab".to_owned(), id(1))]);
    assert_eq!(issued(&bench.take(&[message])), []);
    assert_eq!(bench.query().commands(None, true).unwrap().len(), 1);
    // Whoever repeats it by hand means another one.
    bench.take(&[received(r#"{"name":"led"}"#, US, 0xac)]);
    assert_eq!(bench.query().commands(None, true).unwrap().len(), 2);
}

#[test]
fn of_two_bridges_one_gives_ids_and_repeats_and_the_other_when_that_one_is_gone() {
    let mut bench = Bench::new();
    let mut other = SqliteStore::open(&bench.path()).unwrap();
    let engine = Engine::default();
    greet(&mut bench, 1, 1);
    assert!(bench.store.is_look_due(US, bench.now).unwrap());
    look(&mut bench, 0);
    assert!(!bench.store.is_look_due(US, bench.now + 1_000).unwrap(), "nothing is due");
    let json = r#"{"name":"led"}"#;
    ingest(&mut other, &engine, &[received(json, OTHERS, 1)], bench.now);
    bench.take(&[received(json, US, 2)]);
    let rows = bench.query().commands(None, true).unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let id = rows[0].cell("id").as_str().unwrap().to_owned();
    assert_eq!(id, "0202020202020202");

    bench.now += REPEAT_FIRST_MS;
    assert!(!other.is_look_due(OTHERS, bench.now).unwrap());
    assert_eq!(issued(&issue_due(&mut other, &engine, OTHERS, bench.now)), []);
    assert!(bench.store.is_look_due(US, bench.now).unwrap());
    assert_eq!(look(&mut bench, 0).len(), 1);
    bench.now += LEASE_MS;
    assert!(other.is_look_due(OTHERS, bench.now).unwrap());
    assert_eq!(issued(&issue_due(&mut other, &engine, OTHERS, bench.now)).len(), 1);
    assert_eq!(look(&mut bench, 1), []);
    // One of a clock that was far ahead binds nobody.
    let long_ago = bench.now - 86_400_000;
    assert!(bench.store.is_look_due(US, long_ago).unwrap());
}

#[test]
fn what_is_retained_malformed_too_big_or_for_nobody_is_passed_over_with_an_alarm() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    let seen = |bench: &Bench| bench.query().devices().unwrap()[0].cell("last_seen").clone();
    let before = seen(&bench);
    let good = published(r#"{"id":"a1","name":"led"}"#);
    let nobody = Topic::Commands("nobody".parse().unwrap());
    let bad = [
        (Incoming { retained: true, ..good.clone() }, "command_retained"),
        (Incoming { topic: nobody, ..good.clone() }, "command_for_nobody"),
        (published(r#"{"id":"a1","name":"a b"}"#), "command_invalid"),
        (
            published(&format!(r#"{{"id":"a1","name":"{}"}}"#, "x".repeat(1 << 20))),
            "command_invalid",
        ),
        (published(r#"{"id":"a1","name":"led","args":{"text":"a\u0000b"}}"#), "command_invalid"),
    ];
    for (message, alarm) in bad {
        let done = bench.take(&[message]);
        assert_eq!((alarms(&done), done.committed), (vec![alarm], vec![true]));
    }
    let cleared = Incoming { payload: Vec::new(), ..good };
    assert_eq!(alarms(&bench.take(&[cleared])), [""; 0]);
    assert_eq!(bench.query().commands(None, true).unwrap(), []);
    assert_eq!(seen(&bench), before, "nobody but a device speaks for it");
    assert_eq!(bench.query().devices().unwrap().len(), 1);
}

#[test]
fn a_device_has_so_many_open_commands_and_no_more() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    let mut txn = bench.store.begin().unwrap();
    let at = txn.find_device(&device()).unwrap().unwrap();
    for no in 0..OPEN_COMMANDS_MAX {
        let row = CommandRow::new(&led(), Origin::Cli, NOW);
        txn.insert_command(at, &format!("c{no}").parse().unwrap(), &row).unwrap();
    }
    txn.commit().unwrap();
    let done = bench.take(&[published(r#"{"id":"more","name":"led"}"#)]);
    assert_eq!(alarms(&done), ["commands_full"]);
    assert_eq!(greet(&mut bench, 1, 2).len(), 64, "the next look takes the rest");
    assert_eq!(look(&mut bench, 0).len(), 64);
}

#[test]
fn a_command_ack_that_was_a_dead_letter_ends_its_command_when_it_is_retried() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    send(&mut bench, "a1", &led());
    greet(&mut bench, 1, 2);
    // Refused by an earlier program, say.
    let answer = says(1, 1, "a1", 1, CommandOutcome::Succeeded);
    let broken = Incoming { topic: Topic::Alerts(device()), ..answer };
    bench.take(&[broken]);
    bench.db().execute("UPDATE dead_letter SET topic = 'command_acks'", []).unwrap();
    assert_eq!(state(&bench, "a1"), "open");
    let mut letters = DeadLetters::open(&bench.path()).unwrap();
    assert_eq!(letters.retry(1, bench.now).unwrap(), 1);
    assert_eq!(state(&bench, "a1"), "succeeded");
}

#[test]
fn an_alert_that_lasts_stays_raised_when_its_epoch_ends() {
    let mut bench = Bench::new();
    let alert = |epoch, seq, name: &str, state, lasting| {
        let kind = EventKind::Alert {
            name: name.into(),
            about: None,
            state,
            severity: Severity::Warning,
            message: "look at it".into(),
            lasting,
        };
        event(epoch, seq, &Event { t: seq as i64, kind })
    };
    let raised = AlertState::Raised;
    bench.take(&[alert(1, 1, "too_warm", raised, true), alert(1, 2, "port_lost", raised, false)]);
    let now = |bench: &Bench| {
        let alerts = bench.query().status().unwrap().alerts;
        alerts.iter().map(|row| row.cell("name").as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    greet(&mut bench, 1, 1);
    assert_eq!(now(&bench), ["port_lost", "too_warm"]);
    greet(&mut bench, 2, 1);
    assert_eq!(now(&bench), ["too_warm"]);
    bench.take(&[alert(2, 1, "too_warm", AlertState::Cleared, true)]);
    assert_eq!(now(&bench), [""; 0]);
}

#[test]
fn a_storage_of_an_earlier_program_gets_its_ledger_when_it_is_opened() {
    let mut bench = Bench::new();
    greet(&mut bench, 1, 1);
    bench
        .db()
        .execute_batch(
            "DROP VIEW commands; DROP TABLE command; DROP TABLE command_lease; DROP VIEW alerts_now;
             DROP TABLE alert_lasting; DROP INDEX command_ack_by_id;
             CREATE VIEW alerts_now AS SELECT 1 AS device, 2 AS name",
        )
        .unwrap();
    assert_eq!(bench.query().commands(None, true).unwrap(), []);
    bench.store = SqliteStore::open(&bench.path()).unwrap();
    send(&mut bench, "a1", &led());
    assert_eq!(greet(&mut bench, 1, 2).len(), 1);
    assert!(bench.query().status().unwrap().alerts.is_empty());
}
