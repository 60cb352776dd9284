//! Alerts that the gateway raises itself: in the status file, and in storage.

use fieldpost_demo::judge::read_only;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{assert_clean, settings};

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

#[test]
fn a_storage_that_stays_silent_is_an_alert_in_the_status_file_and_later_in_storage()
-> anyhow::Result<()> {
    let mut impatient = settings();
    impatient.gateway.push(("alerts", "no_sync_ack_after = \"10s\"".to_owned()));
    let mut rig = Rig::new(impatient)?;
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

#[test]
fn a_damaged_outbox_is_kept_a_new_one_begun_and_storage_is_told_what_is_missing()
-> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    rig.plug(100.0)?;
    rig.wait_stored(100)?;
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
