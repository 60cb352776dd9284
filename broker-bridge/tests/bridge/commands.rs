//! The program from outside.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fieldpost_protocol::{Command as Order, CommandOutcome, Event, EventKind, Metrics};
use serde_json::Value;

use crate::support::*;

fn config(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("bridge.toml");
    let text = format!("[storage]\npath = {:?}\n", dir.join("bridge.db").display().to_string());
    std::fs::write(&path, text).unwrap();
    path
}

fn bridge(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fieldpost-bridge"))
        .env("FIELDPOST_BRIDGE_CONFIG", config(dir))
        .args(arguments)
        .output()
        .unwrap()
}

fn json(dir: &Path, arguments: &[&str]) -> Value {
    let output = bridge(dir, arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(dir: &Path, arguments: &[&str]) -> String {
    let output = bridge(dir, arguments);
    assert!(!output.status.success(), "{arguments:?} was taken");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_storage_is_made_once_and_announced_when_it_was_restored() {
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(dir.path(), &["run"]);
    assert!(error.contains("fieldpost-bridge init"), "{error}");
    let made = json(dir.path(), &["init", "--json"]);
    assert!(refusal(dir.path(), &["init"]).contains("never overwrites"));
    let restored = json(dir.path(), &["restored", "--json"]);
    assert_eq!(restored["store"], made["store"]);
    assert_ne!(restored["gen"], made["gen"]);
    assert_eq!(json(dir.path(), &["status", "--json"])["gen"], restored["gen"]);
    assert!(bridge(dir.path(), &["check"]).status.success());
}

#[test]
fn an_adopted_id_has_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(dir.path(), &["init", "--adopt", "nonsense"]);
    assert!(error.contains("32 hexadecimal digits"), "{error}");
    let id = "0123456789abcdef0123456789abcdef";
    assert_eq!(json(dir.path(), &["init", "--adopt", id, "--json"])["store"], id);
}

#[test]
fn what_is_stored_waiting_and_missing_can_be_asked_for_beside_a_writer() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 5, 1, 9), batch(1, 7, 1, 3, 9), poison(1, 8, 1, 7, 9)]);
    let dir = bench.dir.path();
    let status = json(dir, &["status", "--json"]);
    for (name, expected) in
        [("devices", 1), ("readings", 6), ("waiting", 1), ("missing", 1), ("dead_letters", 1)]
    {
        assert_eq!(status[name], expected, "{name} in {status}");
    }
    let devices = json(dir, &["devices", "--json"]);
    assert_eq!((&devices[0]["waiting"], &devices[0]["missing"]), (&1.into(), &1.into()));
    let missing = json(dir, &["missing", "--device", "pi-1", "--json"]);
    assert_eq!((&missing[0]["first"], &missing[0]["why"]), (&6.into(), &"lost".into()));
    let readings = json(dir, &["readings", "--limit", "2", "--since", "2020-01-01", "--json"]);
    assert_eq!((readings[0]["seq"].clone(), readings[1]["seq"].clone()), (5.into(), 7.into()));
    assert_eq!(json(dir, &["readings", "--device", "nobody", "--json"]), Value::Array(vec![]));
    assert!(refusal(dir, &["readings", "--since", "yesterdayish"]).contains("15m"));
    let table = String::from_utf8(bridge(dir, &["readings"]).stdout).unwrap();
    assert!(table.starts_with("device  source  time"), "{table}");
    assert!(table.contains("\npi-1    air     2026-"), "{table}");
}

#[test]
fn a_dead_letter_can_be_listed_shown_retried_and_dropped() {
    let mut bench = Bench::new();
    bench.acks(&[poison(1, 1, 2, 1, 9)]);
    let dir = bench.dir.path();
    assert_eq!(json(dir, &["deadletter", "list", "--json"])[0]["state"], "open");
    let shown = json(dir, &["deadletter", "show", "1", "--json"]);
    assert_eq!(shown["envelope"]["first"], 1);
    assert!(shown["message"].as_str().unwrap().len() > 80);
    assert!(refusal(dir, &["deadletter", "retry", "1"]).contains("still poison"));
    assert_eq!(json(dir, &["deadletter", "drop", "1", "--json"])["missing"], 2);
    assert!(refusal(dir, &["deadletter", "show", "7"]).contains("deadletter list"));
    assert_eq!(json(dir, &["status", "--json"])["missing"], 2);
}

#[test]
fn the_printed_template_is_the_one_in_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    let template = bridge(dir.path(), &["config"]).stdout;
    assert_eq!(String::from_utf8(template).unwrap(), fieldpost_bridge::config::TEMPLATE);
}

#[test]
fn a_wrong_configuration_is_refused_with_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fieldpost-bridge"))
        .env("FIELDPOST_BRIDGE_CONFIG", config(dir.path()))
        .env("FIELDPOST_BRIDGE_BROKER_PORT", "many")
        .arg("check")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("broker.port = \"many\" (from FIELDPOST_BRIDGE_BROKER_PORT)"),
        "{error}"
    );
}

/// A storage that has heard of pi-1, whose bridge runs or not.
fn heard_of(bridge_there: bool) -> Bench {
    let mut bench = Bench::new();
    bench.now = fieldpost_bridge::clock::now_ms();
    bench.take(&[hello(1, 1, 1, 1, &[])]);
    if bridge_there {
        look(&mut bench);
    }
    bench
}

/// What a bridge does once a second.
fn look(bench: &mut Bench) {
    let (us, now) = (fieldpost_protocol::Instance([1; 16]), fieldpost_bridge::clock::now_ms());
    let engine = fieldpost_bridge::engine::Engine::default();
    let done = fieldpost_bridge::ingest::issue_due(&mut bench.store, &engine, us, now);
    assert_eq!(done.error, None);
}

fn answer(bench: &mut Bench, seq: u64, id: &str, json: &str, outcome: CommandOutcome) {
    let content = Order::decode(json.as_bytes()).unwrap().content();
    let kind = EventKind::CommandAck {
        id: id.parse().unwrap(),
        target: crate::support::id(1),
        content: Some(content),
        outcome,
        detail: Some("so it is".into()),
        result: Metrics::from_json(r#"{"on":1}"#).unwrap(),
    };
    bench.acks(&[event(1, seq, &Event { t: 0, kind })]);
}

#[test]
fn a_command_is_sent_listed_shown_and_cancelled() {
    let mut bench = heard_of(false);
    let dir = bench.dir.path().to_owned();
    let send = ["command", "send", "pi-1", "led", "on=1", "dim=0.5", "text=\"1\"", "--id", "a1"];
    let said = String::from_utf8(bridge(&dir, &send).stdout).unwrap();
    assert!(said.contains("command a1 to pi-1: no bridge runs on this storage"), "{said}");
    look(&mut bench);
    let said = json(&dir, &["command", "send", "pi-1", "ping", "--json"]);
    assert_eq!((&said["bridge"], &said["device_state"]), (&true.into(), &"online".into()));
    assert_eq!(said["id"].as_str().unwrap().len(), 16);

    let list = json(&dir, &["command", "list", "pi-1", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0]["args"], serde_json::json!({"on": 1, "dim": 0.5, "text": "1"}));
    let made = said["id"].as_str().unwrap();
    let error = refusal(&dir, &["command", "cancel", "pi-1", "a1"]);
    assert!(error.contains("it was published already (times: 1), and may have run"), "{error}");
    bridge(&dir, &["command", "cancel", "pi-1", made]);
    assert!(
        refusal(&dir, &["command", "cancel", "pi-1", made]).contains("done already: cancelled")
    );
    assert_eq!(json(&dir, &["command", "list", "--json"]).as_array().unwrap().len(), 1);
    assert_eq!(json(&dir, &["command", "list", "--all", "--json"]).as_array().unwrap().len(), 2);

    let led = r#"{"name":"led","args":{"on":1,"dim":0.5,"text":"1"}}"#;
    answer(&mut bench, 1, "a1", led, CommandOutcome::Accepted);
    answer(&mut bench, 2, "a1", led, CommandOutcome::Succeeded);
    let shown = json(&dir, &["command", "show", "pi-1", "a1", "--json"]);
    assert_eq!(shown["command"]["state"], "succeeded");
    assert_eq!(
        (&shown["acks"][0]["outcome"], &shown["acks"][1]["seq"]),
        (&"accepted".into(), &2.into())
    );
    let text = String::from_utf8(bridge(&dir, &["command", "show", "pi-1", "a1"]).stdout).unwrap();
    assert!(text.contains("\nstate         succeeded\n") && text.contains("\nacks\n"), "{text}");
}

#[test]
fn a_command_that_makes_no_sense_is_refused_with_what_would() {
    let bench = heard_of(true);
    let dir = bench.dir.path();
    json(dir, &["command", "send", "pi-1", "led", "--id", "a1", "--json"]);
    let long = format!("text={}", "x".repeat(9_000));
    for (arguments, hint) in [
        (&["command", "send", "pi-2", "led"][..], "never heard of device pi-2; it knows pi-1"),
        (&["command", "send", "pi 1", "led"], "A-Z a-z 0-9"),
        (&["command", "send", "pi-1", "a b"], "not allowed are blanks"),
        (&["command", "send", "pi-1", "led", "on"], "write key=value"),
        (&["command", "send", "pi-1", "led", "on=1", "on=2"], "stands twice"),
        (&["command", "send", "pi-1", "led", &long], "8192"),
        (&["command", "send", "pi-1", "led", "--expires", "soon"], "write 30s, 15m, 2h or 7d"),
        (&["command", "send", "pi-1", "led", "--id", "a1"], "another --id"),
        (&["command", "send", "pi-1", "led", "--id", "a/1"], "A-Z a-z 0-9"),
        (&["command", "send", "pi-1", "led", "--expires", "0s"], "no device could be told in time"),
        (&["command", "send", "pi-1", "led", "=1"], "argument \"=1\": its name"),
        (&["command", "list", "nodev"], "never heard of device nodev; it knows pi-1"),
        (&["config", "set", "nodev", "system.interval=5s"], "it knows pi-1. `config set --new`"),
        (&["config", "diff", "nodev"], "never heard of device nodev"),
        (&["config", "set", "pi-1", "alert.hot.above=30"], "alert is a list"),
        (&["config", "unset", "pi-1", "system.interval"], "system.interval is not desired of pi-1"),
        (&["config", "set", "pi-1", "system.interval=null"], "config unset"),
        (&["command", "show", "pi-1", "nope"], "command list pi-1 --all"),
        (&["command", "cancel", "pi-1", "nope"], "command list pi-1 --all"),
    ] {
        let error = refusal(dir, arguments);
        assert!(error.contains(hint), "{arguments:?}: {error}");
    }
    assert_eq!(json(dir, &["command", "list", "--json"]).as_array().unwrap().len(), 1);
}

#[test]
fn what_was_refused_is_taken_back_key_by_key() {
    let bench = heard_of(false);
    let dir = bench.dir.path();
    let said = |arguments: &[&str]| {
        let output = bridge(dir, arguments);
        assert!(output.status.success(), "{arguments:?}");
        [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap())
    };
    let set = ["config", "set", "pi-1", "system.interval=5s", "system.oops=1", "publish.a=20"];
    let [out, err] = said(&set);
    assert!(
        out.starts_with("pi-1: version 1 is desired; ") && out.contains("config diff pi-1"),
        "{out}"
    );
    assert_eq!(err, "");
    let report = |json: &str| {
        bench.db().execute("UPDATE device SET reported = ?1 WHERE id = 'pi-1'", [json]).unwrap();
    };
    report(
        r#"{"version": 1, "state": "refused", "why": ["system.oops: there is no such key"],
            "config": {"publish": {"a": 20.0}}}"#,
    );
    let [diff, _] = said(&["config", "diff", "pi-1"]);
    assert!(diff.contains("no such key") && diff.ends_with("run otherwise: 2\n"), "{diff}");
    let [out, err] = said(&["config", "unset", "pi-1", "system.oops"]);
    assert!(
        out.contains("version 2") && err.contains("version 1, which this changes, was refused")
    );
    let desired = json(dir, &["config", "get", "pi-1"])["desired"]["config"].clone();
    assert_eq!(desired, serde_json::json!({"system": {"interval": "5s"}, "publish": {"a": 20}}));
    report(
        r#"{"version": 2, "state": "kept", "config": {"publish": {"a": 20.0}, "system": {"interval": "6s"}}}"#,
    );
    let [diff, _] = said(&["config", "diff", "pi-1"]);
    assert!(diff.ends_with("kept\n  system.interval: desired \"5s\", runs \"6s\"\n"), "{diff}");
    assert_eq!(said(&["config", "set", "pi-9", "--new", "system.interval=5s"])[1], "");
}

#[test]
fn who_waits_sees_each_answer_and_exits_by_the_outcome() {
    let mut bench = heard_of(true);
    let dir = bench.dir.path().to_owned();
    let led = r#"{"name":"led"}"#;
    let outcomes = [
        (CommandOutcome::Succeeded, 0),
        (CommandOutcome::Failed, 3),
        (CommandOutcome::TimedOut, 4),
        (CommandOutcome::Rejected, 5),
        (CommandOutcome::Expired, 6),
        (CommandOutcome::Unknown, 7),
    ];
    for (seq, (outcome, code)) in (1..).zip(outcomes) {
        let id = outcome.as_str();
        let config = config(&dir);
        let mut waits = Command::new(env!("CARGO_BIN_EXE_fieldpost-bridge"))
            .env("FIELDPOST_BRIDGE_CONFIG", config)
            .args(["command", "send", "pi-1", "led", "--id", id, "--wait", "--timeout", "60s"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(waits.stdout.take().unwrap());
        let mut line = String::new();
        // It is in the ledger by then.
        said.read_line(&mut line).unwrap();
        answer(&mut bench, 2 * seq, id, led, CommandOutcome::Accepted);
        answer(&mut bench, 2 * seq + 1, id, led, outcome);
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        let lines: Vec<&str> = rest.lines().collect();
        assert!(lines[0].contains("accepted") && lines[1].contains(id), "{lines:?}");
        assert_eq!(lines[2], format!("{id}: so it is  {{\"on\":1}}"));
        assert_eq!(waits.wait().unwrap().code(), Some(code), "{id}");
    }
    let late = ["command", "send", "pi-1", "led", "--wait", "--timeout", "0s"];
    let output = bridge(&dir, &late);
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it was not sent yet"));
}
