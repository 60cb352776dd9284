//! Files and messages of a newer version, and what a person gets to read.

use anyhow::Context as _;
use fieldpost_demo::world::DEVICE;
use fieldpost_protocol::{Topic, Topics};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use rusqlite::Connection;

use crate::settings;

on_each_broker! {
    an_outbox_of_a_newer_gateway_is_refused_and_left_as_it_is,
    a_batch_of_an_unknown_version_is_not_stored_and_an_alarm_says_to_update,
}

fn make_newer(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    let conn = Connection::open(path)?;
    conn.pragma_update(None, "user_version", 99)?;
    drop(conn);
    Ok(std::fs::read(path)?)
}

fn an_outbox_of_a_newer_gateway_is_refused_and_left_as_it_is(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.world.start_gateway()?;
    rig.plug(50.0)?;
    wait_until("readings", SOON, || {
        Ok(rig.world.outbox().exists() && rig.accepted().is_ok_and(|n| n.len() >= 50))
    })?;
    rig.world.gateway.take().context("started above")?.stop()?;
    let before = make_newer(&rig.world.outbox())?;
    let error = rig.world.run_gateway(&["run"]).expect_err("refused").to_string();
    assert!(error.contains("format 99") && error.contains("newer gateway"), "{error}");
    assert_eq!(std::fs::read(rig.world.outbox())?, before);
    Ok(())
}

#[test]
fn a_storage_of_a_newer_bridge_is_refused_and_left_as_it_is() -> anyhow::Result<()> {
    let rig = Rig::new(settings())?;
    let before = make_newer(&rig.world.storage())?;
    let error = rig.world.run_bridge(&["run"]).expect_err("refused").to_string();
    assert!(error.contains("version 99") && error.contains("update fieldpost-bridge"), "{error}");
    assert_eq!(std::fs::read(rig.world.storage())?, before);
    Ok(())
}

fn a_batch_of_an_unknown_version_is_not_stored_and_an_alarm_says_to_update(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.world.start_bridge()?;
    // {"v": 2, "anything": "else"}
    let batch = b"\xa2\x61v\x02\x68anything\x64else".to_vec();
    publish(&rig, &Topic::SensorData(DEVICE.parse()?), batch)?;
    wait_until("the alarm", SOON, || {
        let conn = fieldpost_demo::judge::read_only(&rig.world.storage())?;
        let sql = "SELECT count(*) FROM alarm WHERE about LIKE ?1 AND message LIKE '%version 2%' AND message LIKE '%pdate%'";
        Ok(conn.query_row(sql, [format!("%{DEVICE}%")], |row| row.get::<_, i64>(0))? == 1)
    })?;
    let conn = fieldpost_demo::judge::read_only(&rig.world.storage())?;
    let rows: i64 = conn.query_row("SELECT count(*) FROM readings", [], |row| row.get(0))?;
    assert_eq!(rows, 0);
    Ok(())
}

/// Publishes as the device, with its certificate, and waits for the puback.
fn publish(rig: &Rig, topic: &Topic, payload: Vec<u8>) -> anyhow::Result<()> {
    // The bridge may not have subscribed yet, and the broker keeps nothing.
    rig.world.wait_bridge_online(0)?;
    let port = rig.world.broker_address().port();
    let certs = rig.world.dir().join("certs");
    let mut device = Client::connect(options(&certs, DEVICE, port))?;
    device.publish([(Topics::default().name(topic), payload)], false)
}

#[test]
fn a_wrong_configuration_is_refused_with_key_value_and_what_is_allowed() -> anyhow::Result<()> {
    let mut wrong = settings();
    wrong.gateway.push(("outbox", "commit_interval = \"5ms\"".to_owned()));
    wrong.gateway.push(("outbox", "retention_sise = \"1GB\"".to_owned()));
    let rig = Rig::new(wrong)?;
    let error = rig.world.run_gateway(&["check"]).expect_err("refused").to_string();
    for expected in
        ["outbox.commit_interval", "5ms", "50ms to 1m", "outbox.retention_sise", "retention_size"]
    {
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
    }
    Ok(())
}

#[test]
fn the_template_that_is_printed_passes_the_check() -> anyhow::Result<()> {
    let rig = Rig::new(settings())?;
    let template = rig.world.run_gateway(&["config"])?;
    let config = rig.world.dir().join("gateway.toml");
    std::fs::write(&config, &template)?;
    // Its outbox lies in a folder that an installation makes; `check` says so where it is not.
    if !std::path::Path::new("/var/lib/fieldpost").is_dir() {
        let error = rig.world.run_gateway(&["check"]).expect_err("refused").to_string();
        assert!(error.contains("/var/lib/fieldpost does not exist"), "{error}");
    }
    let shown = "#path = \"/var/lib/fieldpost/outbox.db\"";
    assert!(template.contains(shown), "{template}");
    let here = format!("path = \"{}\"", rig.world.outbox().display());
    std::fs::write(&config, template.replace(shown, &here))?;
    let said = rig.world.run_gateway(&["check"])?;
    assert!(said.contains("good"), "{said}");
    Ok(())
}
