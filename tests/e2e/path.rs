//! The path of a reading with nothing in its way.

use std::process::Command;

use fieldpost_demo::judge::Watch;
use fieldpost_demo::ledger::Ledger;
use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{assert_clean, settings};

on_each_broker! {
    a_reading_a_second_is_in_storage_within_three_seconds,
    a_thousand_readings_a_second_are_in_storage_within_three_seconds,
    the_tail_answers_sqlite3_while_the_gateway_runs,
    a_board_that_is_unplugged_is_an_alert_in_storage_and_goes_on_when_it_is_back,
}

/// Runs a board for `seconds` with the shipped defaults; returns p50 and p99 in ms.
fn latency(broker: Broker, rate: f64, seconds: u64) -> anyhow::Result<(u32, u32)> {
    let mut rig = Rig::on(broker, settings())?;
    rig.world.start_bridge()?;
    rig.world.wait_bridge_online(0)?;
    rig.world.start_gateway()?;
    rig.plug(rate)?;
    let mut watch = Watch::new(&rig.world.storage(), rig.ledger.clone());
    let lines = (rate * seconds as f64) as u64;
    wait_until("the lines", SOON, || {
        watch.look()?;
        Ok(rig.ledger.len() >= lines)
    })?;
    let board = rig.board.as_ref().expect("plugged in above");
    board.pause();
    wait_until("the last row", SOON, || {
        watch.look()?;
        Ok(watch.stored() >= rig.ledger.len())
    })?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), rig.ledger.len());
    let (p50, p99) = (watch.latency_ms(0.5).expect("rows"), watch.latency_ms(0.99).expect("rows"));
    println!("latency at {rate} readings a second: p50 {p50} ms, p99 {p99} ms");
    Ok((p50, p99))
}

fn a_reading_a_second_is_in_storage_within_three_seconds(broker: Broker) -> anyhow::Result<()> {
    let (_, p99) = latency(broker, 1.0, 15)?;
    assert!(p99 < 3_000, "p99 {p99} ms");
    Ok(())
}

fn a_thousand_readings_a_second_are_in_storage_within_three_seconds(
    broker: Broker,
) -> anyhow::Result<()> {
    let (_, p99) = latency(broker, 1_000.0, 15)?;
    assert!(p99 < 3_000, "p99 {p99} ms");
    Ok(())
}

fn the_tail_answers_sqlite3_while_the_gateway_runs(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.world.start_gateway()?;
    rig.plug(10.0)?;
    wait_until("three readings", SOON, || {
        Ok(rig.world.outbox().exists() && rig.accepted().is_ok_and(|n| n.len() >= 3))
    })?;
    let output = Command::new("sqlite3")
        .arg(rig.world.outbox())
        .arg("SELECT body->>'temp' FROM tail WHERE source = 'fruiting' LIMIT 3")
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let temperatures: Vec<f64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    assert_eq!(temperatures.len(), 3, "{text}");
    assert!(temperatures.iter().all(|temp| (10.0..30.0).contains(temp)), "{text}");
    Ok(())
}

fn a_board_that_is_unplugged_is_an_alert_in_storage_and_goes_on_when_it_is_back(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.start(20.0)?;
    rig.wait_stored(20)?;
    let board = rig.board.take().expect("plugged in above");
    board.pause();
    let sent = rig.ledger.len();
    wait_until("accepting", SOON, || Ok(rig.accepted()?.len() as u64 >= sent))?;
    board.unplug()?;
    let storage = rig.world.storage();
    let alert = |state: &str| {
        let conn = fieldpost_demo::judge::read_only(&storage)?;
        let sql = "SELECT count(*) FROM alerts WHERE name = 'port_lost' AND about = 'arduino' AND state = ?1";
        anyhow::Ok(conn.query_row(sql, [state], |row| row.get::<_, i64>(0))?)
    };
    wait_until("the alert", SOON, || Ok(alert("raised")? >= 1))?;
    // The new board counts from 1 again, as one that was reset does.
    rig.ledger = Ledger::default();
    rig.plug(20.0)?;
    wait_until("its end", SOON, || Ok(alert("cleared")? >= 1))?;
    rig.wait_stored(sent + 20)
}
