//! Ports that are no wire of ours: sockets for scripts, windows, and a port that somebody else needs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context as _;
use fieldpost_demo::judge::read_only;
use fieldpost_demo::ledger::SOURCE;
use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{assert_clean, settings};

on_each_broker! {
    what_scripts_send_is_in_storage_and_what_makes_no_sense_is_refused_to_them,
    readings_of_a_second_are_stored_as_one_also_where_no_line_follows,
    a_stop_stores_what_an_open_window_holds,
    a_port_that_was_asked_for_is_free_for_a_while_and_nothing_else_is_lost,
}

/// What is in storage of a source, oldest first.
fn stored(storage: &Path, source: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let conn = read_only(storage)?;
    let sql = "SELECT json(metrics) FROM readings WHERE source = ?1 ORDER BY time";
    let mut statement = conn.prepare(sql)?;
    let rows = statement.query_map([source], |row| row.get::<_, String>(0))?;
    rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
}

fn what_scripts_send_is_in_storage_and_what_makes_no_sense_is_refused_to_them(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut settings = settings();
    settings.ports = r#"
[[port]]
name = "script"
socket = "{dir}/script.sock"
[[port]]
name = "lora"
socket = "{dir}/lora.sock"
format = "regex"
patterns = ['^hxb:(?<batch>\w+):(?<lf>\w+):(?<uhf>\w+)$']
[port.metrics.lf]
text = true
"#
    .to_owned();
    let mut rig = Rig::on(broker, settings)?;
    let send =
        |rig: &Rig, port: &str, line: &str| rig.world.run_gateway(&["send", "--port", port, line]);
    let early = send(&rig, "script", "temp=1").expect_err("refused").to_string();
    assert!(early.contains("does the gateway run"), "{early}");
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let sockets = ["script.sock", "lora.sock"].map(|name| rig.world.dir().join(name));
    wait_until("the sockets", SOON, || Ok(sockets.iter().all(|path| path.exists())))?;
    send(&rig, "script", "attic temp=24.5 door=\"open\"")?;
    send(&rig, "lora", "hxb:BATCH001:00123:UHF456")?;
    for (port, line, said) in [
        ("script", "temp 24.5", "1 of 1 lines were refused"),
        ("lora", "hxb:", "1 of 1 lines were refused"),
        ("arduino", "temp=1", "those that are: script, lora"),
    ] {
        let error = send(&rig, port, line).expect_err("refused").to_string();
        assert!(error.contains(said), "{port} {line}: {error}");
    }
    let unnamed = rig.world.run_gateway(&["send", "temp=1"]).expect_err("refused").to_string();
    assert!(unnamed.contains("--port: script, lora"), "{unnamed}");
    let storage = rig.world.storage();
    wait_until("both in storage", SOON, || {
        Ok(stored(&storage, "attic")?.len() + stored(&storage, "lora")?.len() == 2)
    })?;
    assert_eq!(stored(&storage, "attic")?, [serde_json::json!({"temp": 24.5, "door": "open"})]);
    let tag = serde_json::json!({"batch": "BATCH001", "lf": "00123", "uhf": "UHF456"});
    assert_eq!(stored(&storage, "lora")?, [tag]);
    // Ten in a row: the status says what to do, until a line is taken.
    let mut daemon = UnixStream::connect(&sockets[0])?;
    daemon.write_all(&b"temp:24.5,hum:60\n".repeat(10))?;
    let advised = |rig: &Rig| {
        rig.world.run_gateway(&["status"]).map(|text| {
            text.contains("`temp:24.5,hum:60`") && text.contains("format = \"plotter\"")
        })
    };
    wait_until("advice in the status", SOON, || advised(&rig))?;
    daemon.write_all(b"temp=24.5\n")?;
    wait_until("the advice to go", SOON, || Ok(!advised(&rig)?))?;
    rig.world.stop_gateway()?;
    assert!(!sockets.iter().any(|path| path.exists()), "a socket is left behind");
    Ok(())
}

/// The lines of each window in storage: the first and the last.
fn windows(rig: &Rig) -> anyhow::Result<Vec<(u64, u64)>> {
    let rows = stored(&rig.world.storage(), SOURCE)?.into_iter();
    let n = |row: &serde_json::Value, key: &str| row[key].as_u64();
    Ok(rows.filter_map(|row| Some((n(&row, "n_min")?, n(&row, "n_max")?))).collect())
}

/// A board on a port with such windows, which has sent 150 lines; and how many those are.
fn averaged(broker: Broker, window: &str) -> anyhow::Result<(Rig, u64)> {
    let mut settings = settings();
    settings.port = vec![format!("average = \"{window}\""), "keep = [\"min\", \"max\"]".to_owned()];
    let mut rig = Rig::on(broker, settings)?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    rig.plug(50.0)?;
    rig.wait_sent(150)?;
    if let Some(board) = &rig.board {
        board.pause();
    }
    wait_until("the last line", SOON, || {
        let frames = rig.status()?["ports"][0]["frames"].as_u64();
        Ok(frames.is_some_and(|frames| frames >= rig.ledger.len()))
    })?;
    let lines = rig.ledger.len();
    Ok((rig, lines))
}

fn readings_of_a_second_are_stored_as_one_also_where_no_line_follows(
    broker: Broker,
) -> anyhow::Result<()> {
    let (rig, lines) = averaged(broker, "1s")?;
    wait_until("the last window", SOON, || {
        Ok(windows(&rig)?.last().is_some_and(|(_, max)| *max == lines))
    })?;
    let windows = windows(&rig)?;
    assert!((2..lines as usize / 2).contains(&windows.len()), "{windows:?} of {lines} lines");
    let without_gap = windows.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0);
    assert!(without_gap, "windows overlap or lack a line: {windows:?}");
    Ok(())
}

fn a_stop_stores_what_an_open_window_holds(broker: Broker) -> anyhow::Result<()> {
    let (mut rig, lines) = averaged(broker, "1d")?;
    assert_eq!(windows(&rig)?, []);
    rig.world.stop_gateway()?;
    rig.world.start_gateway()?;
    wait_until("the window", SOON, || Ok(windows(&rig)? == [(1, lines)]))
}

fn a_port_that_was_asked_for_is_free_for_a_while_and_nothing_else_is_lost(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    rig.plug(50.0)?;
    rig.wait_accepting()?;
    let wrong = rig.world.run_gateway(&["release", "attic"]).expect_err("refused").to_string();
    assert!(wrong.contains("ports are: arduino"), "{wrong}");
    let said = rig.world.run_gateway(&["release", "arduino", "10m"])?;
    assert!(said.contains("arduino is closed for 600s"), "{said}");
    wait_until("the port to be free", SOON, || {
        Ok(rig.world.run_gateway(&["status"])?.contains("RELEASED"))
    })?;
    // As a program does that writes a new sketch: every line goes to it now.
    let mut port = File::options().read(true).write(true).open(rig.world.port())?;
    let queued = rig.status()?["ports"][0]["accepted_by_queue"].as_u64().context("a count")?;
    wait_until("the last commit", SOON, || Ok(rig.accepted()?.len() as u64 == queued))?;
    let sent = rig.ledger.len();
    let mut bytes = [0; 256];
    wait_until("lines for another program", SOON, || {
        Ok(port.read(&mut bytes)? > 0 && rig.ledger.len() > sent + 20)
    })?;
    assert_eq!(rig.accepted()?.len() as u64, queued, "the gateway reads it, too");
    drop(port);
    rig.world.run_gateway(&["release", "arduino", "0s"])?;
    rig.wait_accepting()?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert!(found.stored() < rig.ledger.len(), "no line went to the other program");
    Ok(())
}
