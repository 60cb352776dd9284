//! Alerts that the gateway raises itself: in the status file, and in storage.

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::DEVICE;
use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{assert_clean, settings};

on_each_broker! {
    a_storage_that_stays_silent_is_an_alert_in_the_status_file_and_later_in_storage,
    a_damaged_outbox_is_kept_a_new_one_begun_and_storage_is_told_what_is_missing,
    an_outbox_that_is_deleted_under_a_running_gateway_is_an_alert,
    a_bridge_with_another_storage_is_an_alert_and_can_be_trusted_on_purpose,
    a_certificate_that_cannot_be_used_stops_no_recording,
}

/// Whether the status file shows an alert as raised now.
fn raised(rig: &Rig, name: &str) -> anyhow::Result<bool> {
    let Ok(text) = std::fs::read_to_string(rig.world.dir().join("status.json")) else {
        return Ok(false);
    };
    let status: serde_json::Value = serde_json::from_str(&text)?;
    let alerts = status["alerts"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(alerts.iter().any(|alert| alert["name"] == name))
}

/// Whether storage has an alert in this state.
fn stored(rig: &Rig, name: &str, state: &str) -> anyhow::Result<bool> {
    let conn = read_only(&rig.world.storage())?;
    let sql = "SELECT count(*) FROM alerts WHERE name = ?1 AND state = ?2";
    Ok(conn.query_row(sql, [name, state], |row| row.get::<_, i64>(0))? > 0)
}

fn a_storage_that_stays_silent_is_an_alert_in_the_status_file_and_later_in_storage(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut impatient = settings();
    impatient.gateway.push(("alerts", "no_sync_ack_after = \"10s\"".to_owned()));
    let mut rig = Rig::on(broker, impatient)?;
    rig.world.start_gateway()?;
    rig.plug(20.0)?;
    wait_until("the alert", SOON, || raised(&rig, "no_sync_ack"))?;
    rig.world.start_bridge()?;
    wait_until("the alert in storage", SOON, || stored(&rig, "no_sync_ack", "raised"))?;
    wait_until("its end in storage", SOON, || stored(&rig, "no_sync_ack", "cleared"))?;
    wait_until("its end in the status file", SOON, || Ok(!raised(&rig, "no_sync_ack")?))?;
    let found = rig.drain()?;
    assert_clean(&found);
    Ok(())
}

fn a_damaged_outbox_is_kept_a_new_one_begun_and_storage_is_told_what_is_missing(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.run(100.0)?;
    rig.world.gateway.take().expect("started above").kill()?;
    let accepted = rig.accepted()?;
    // With the log folded in, so that the damage hits the pages.
    let _ = std::fs::remove_file(rig.world.dir().join("outbox.db-wal"));
    std::fs::write(rig.world.outbox(), vec![0x5A; 20_000])?;
    rig.world.start_gateway()?;
    wait_until("the alert", SOON, || raised(&rig, "outbox_damaged"))?;
    wait_until("the alert in storage", SOON, || stored(&rig, "outbox_damaged", "raised"))?;
    let kept = std::fs::read_dir(rig.world.dir())?.filter_map(Result::ok);
    let kept = kept
        .filter(|file| file.file_name().to_string_lossy().contains("outbox.db.damaged-"))
        .count();
    assert!(kept >= 1, "the damaged file is kept");

    let found = rig.drain()?;
    assert_eq!((found.wrong_count, found.duplicates(), found.waiting), (0, 0, 0));
    // What the old epoch had and storage lacks is shown, and nothing else is.
    let gone = accepted.iter().filter(|line| !found.lines.contains_key(line)).count() as u64;
    println!(
        "accepted before the damage and lost with the file: {gone}, shown as missing: {}",
        found.missing
    );
    assert!(found.missing <= gone, "{} shown as missing, {gone} gone", found.missing);
    Ok(())
}

fn an_outbox_that_is_deleted_under_a_running_gateway_is_an_alert(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.world.start_gateway()?;
    rig.plug(20.0)?;
    let outbox = rig.world.outbox();
    wait_until("the outbox", SOON, || {
        Ok(outbox.exists() && rig.accepted().is_ok_and(|n| n.len() > 20))
    })?;
    std::fs::remove_file(outbox)?;
    wait_until("the alert", SOON, || raised(&rig, "outbox_replaced"))
}

fn a_bridge_with_another_storage_is_an_alert_and_can_be_trusted_on_purpose(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.start(50.0)?;
    rig.wait_stored(50)?;
    // The broker, and with it the gateway's connection, stays.
    rig.world.stop_bridge()?;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", rig.world.storage().display()));
    }
    let made = rig.world.run_bridge(&["init"])?;
    rig.world.start_bridge()?;
    wait_until("the alert", SOON, || raised(&rig, "other_store"))?;

    rig.world.stop_gateway()?;
    let hex = |word: &&str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let store = made.split(|c: char| !c.is_ascii_alphanumeric()).find(hex);
    let store = store.unwrap_or_else(|| panic!("no store id in {made:?}"));
    rig.world.run_gateway(&["trust-store", store])?;
    rig.world.start_gateway()?;
    // The outbox still holds what the lost storage had: all of it arrives again.
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), rig.accepted()?.len() as u64);
    Ok(())
}

fn a_certificate_that_cannot_be_used_stops_no_recording(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    let key = rig.world.dir().join("certs").join(format!("{DEVICE}.key"));
    std::fs::copy(rig.world.dir().join("certs/operator.key"), &key)?;
    let error = rig.world.run_gateway(&["check"]).expect_err("refused").to_string();
    assert!(error.contains("do not fit together"), "{error}");

    rig.world.start_gateway()?;
    rig.plug(50.0)?;
    wait_until("the alert", SOON, || raised(&rig, "broker_refuses"))?;
    rig.wait_sent(100)?;
    let outbox = rig.world.outbox();
    wait_until("recording", SOON, || {
        Ok(outbox.exists() && rig.accepted().is_ok_and(|n| n.len() >= 100))
    })?;
    // Renewed on the spot: picked up without a restart.
    let request = fieldpost_certs::Request {
        bridge: fieldpost_demo::world::BRIDGE.to_owned(),
        devices: vec![DEVICE.to_owned()],
        renew: true,
        ..fieldpost_certs::Request::default()
    };
    fieldpost_certs::issue(&rig.world.dir().join("certs"), &request)?;
    rig.world.start_bridge()?;
    wait_until("the end of the alert", SOON, || Ok(!raised(&rig, "broker_refuses")?))?;
    let found = rig.drain()?;
    assert_clean(&found);
    Ok(())
}
