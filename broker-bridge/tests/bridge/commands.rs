//! The program from outside.

use std::path::Path;
use std::process::{Command, Output};

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
