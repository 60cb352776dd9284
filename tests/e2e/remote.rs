//! Configuration from afar: set at the bridge, tried by the gateway, kept or undone.

use std::time::Duration;

use anyhow::ensure;
use fieldpost_demo::world::DEVICE;
use fieldpost_tests::afar::{config, reported, set_file, wait_reported};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, pass, wait_until};
use serde_json::Value;

use crate::{assert_clean, settings};

on_each_broker! {
    what_is_set_is_applied_at_200_lines_a_second_without_a_lost_one,
    what_is_wrong_is_refused_with_every_reason_and_changes_nothing,
    a_file_that_has_changed_is_read_again_on_request,
    a_port_that_does_not_open_is_not_kept,
}

fn port(rig: &Rig) -> anyhow::Result<Value> {
    Ok(rig.status()?["ports"][0].clone())
}

fn what_is_set_is_applied_at_200_lines_a_second_without_a_lost_one(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.start(200.0)?;
    rig.wait_stored(200)?;
    assert_eq!(reported(&rig)?["state"], "local");
    let before = port(&rig)?;
    let path = rig.world.port().display().to_string();
    for (version, checksum) in [(1, "optional"), (2, "required"), (3, "optional")] {
        let metrics = format!(r#"{{"spare": {{"unit": "V{version}"}}}}"#);
        let ports = format!(
            r#"[{{"name": "arduino", "path": "{path}", "checksum": "{checksum}", "metrics": {metrics}}}]"#
        );
        let size = 10 * version;
        let rest = format!(
            r#""publish": {{"batch_readings_max": {size}}}, "outbox": {{"commit_interval": "{size}0ms"}},
            "system": {{"interval": "{version}s"}},
            "alert": [{{"name": "odd_{version}", "source": "fruiting", "metric": "temp", "above": 999}}]"#
        );
        set_file(&rig, &format!(r#"{{"port": {ports}, {rest}}}"#))?;
        let reported = wait_reported(&rig, version, "kept", SOON)?;
        assert_eq!(reported["config"]["publish"]["batch_readings_max"], size);
        assert_eq!(reported["config"]["port"][0]["checksum"], checksum);
        let sent = rig.ledger.len();
        rig.wait_stored(sent + 100)?;
    }
    config(&rig, &["set", DEVICE, "publish.publish_interval=2s"])?;
    let reported = wait_reported(&rig, 4, "kept", SOON)?;
    assert_eq!(reported["config"]["publish"]["publish_interval"], "2s");
    assert_eq!(reported["config"]["publish"]["batch_readings_max"], 30, "set before");
    assert!(config(&rig, &["diff", DEVICE])?.lines().count() == 1, "nothing differs");
    // Four changes, and the counters of the lines have no gap.
    let after = port(&rig)?;
    for counted in ["lines_lost", "reopened", "refused_checksum"] {
        assert_eq!(after[counted], before[counted], "{counted}: {after}");
    }
    assert!(after["numbered"].as_u64() >= Some(600), "{after}");
    // A gateway that is killed begins with what was kept.
    rig.world.gateway.take().expect("started above").kill()?;
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    let after_kill = port(&rig)?["lines_lost"].as_u64();
    config(&rig, &["set", DEVICE, "--clear"])?;
    let reported = wait_reported(&rig, 5, "kept", SOON)?;
    assert_eq!(reported["config"]["publish"]["publish_interval"], "1s");
    let found = rig.drain()?;
    let port = port(&rig)?;
    assert_eq!((&port["reopened"], &port["refused_checksum"]), (&0.into(), &0.into()), "{port}");
    assert_eq!(port["lines_lost"].as_u64(), after_kill, "{port}");
    assert_clean(&found);
    Ok(())
}

fn what_is_wrong_is_refused_with_every_reason_and_changes_nothing(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.start(20.0)?;
    rig.wait_stored(5)?;
    let before = reported(&rig)?;
    set_file(
        &rig,
        r#"{"port": [{"name": "arduino", "path": "/dev/x", "baud": 1}], "broker": {"host": "elsewhere"},
            "publish": {"publish_interval": "soon"}}"#,
    )?;
    let refused = wait_reported(&rig, 1, "refused", SOON)?;
    let why = refused["why"].to_string();
    for said in
        ["port.arduino.baud", "broker: this gateway lets nobody", "publish.publish_interval"]
    {
        assert!(why.contains(said), "{said} is not in {why}");
    }
    assert_eq!(refused["config"], before["config"]);
    let diff = config(&rig, &["diff", DEVICE])?;
    assert!(diff.contains("port.arduino.baud") && diff.contains("none of it runs"), "{diff}");
    config(&rig, &["set", DEVICE, "--clear"])?;
    wait_reported(&rig, 2, "kept", SOON)?;
    assert_clean(&rig.drain()?);
    Ok(())
}

fn reload(rig: &Rig, exit: i32) -> anyhow::Result<String> {
    let mut command = rig.world.command("bridge");
    let output = command.args(["command", "send", DEVICE, "config.reload", "--wait"]).output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(exit), "{}: {said}", output.status);
    Ok(said)
}

fn a_file_that_has_changed_is_read_again_on_request(broker: Broker) -> anyhow::Result<()> {
    let mut settings = settings();
    settings.gateway.push(("commands", "allow = [\"config.reload\"]".to_owned()));
    let mut rig = Rig::on(broker, settings)?;
    rig.start(50.0)?;
    rig.wait_stored(5)?;
    config(&rig, &["set", DEVICE, "publish.publish_interval=2s"])?;
    wait_reported(&rig, 1, "kept", SOON)?;
    let file = rig.world.dir().join("gateway.toml");
    let before = std::fs::read_to_string(&file)?;
    let changed = |lines: &str| before.replacen("[publish]\n", lines, 1);
    ensure!(changed("") != before, "the file has this section");

    std::fs::write(&file, changed("[publish]\nbatch_readings_max = 33\n"))?;
    assert!(reload(&rig, 0)?.contains("the file was read again"));
    wait_until("the file and what is desired", SOON, || {
        let publish = reported(&rig)?["config"]["publish"].clone();
        Ok(publish["batch_readings_max"] == 33 && publish["publish_interval"] == "2s")
    })?;
    std::fs::write(&file, changed("[publish]\nbatch_readings_max = 0\ncolour = 1\n"))?;
    let said = reload(&rig, 5)?;
    assert!(said.contains("publish.batch_readings_max") && said.contains("colour"), "{said}");

    // Whoever forbids it by the file has the file alone, and it is said so.
    let alone = before.replacen("[remote]\n", "[remote]\nenabled = false\n", 1);
    ensure!(alone != before, "the file has this section");
    std::fs::write(&file, alone)?;
    reload(&rig, 0)?;
    wait_until("the file alone", SOON, || {
        let reported = reported(&rig)?;
        let is_local = reported["state"] == "local" && reported["version"].is_null();
        Ok(is_local && reported["config"]["publish"]["publish_interval"] == "1s")
    })?;
    std::fs::write(&file, before)?;
    reload(&rig, 0)?;
    let again = wait_reported(&rig, 1, "kept", SOON)?;
    assert_eq!(again["config"]["publish"]["publish_interval"], "2s");
    assert_clean(&rig.drain()?);
    Ok(())
}

fn a_port_that_does_not_open_is_not_kept(broker: Broker) -> anyhow::Result<()> {
    let mut settings = settings();
    settings.gateway.push(("commands", "allow = [\"ping\"]".to_owned()));
    let mut rig = Rig::on(broker, settings)?;
    rig.start(50.0)?;
    rig.wait_stored(5)?;
    set_file(&rig, r#"{"port": [{"name": "arduino", "path": "/etc/passwd"}]}"#)?;
    wait_reported(&rig, 1, "trial", SOON)?;
    wait_until("an alert", SOON, || rig.stored_alert("port_lost", "raised"))?;
    check_trial_goes_on(&rig, 1)?;
    // The port is closed by now, and wanted all the same.
    config(&rig, &["set", DEVICE, "system.interval=5m"])?;
    wait_reported(&rig, 2, "trial", SOON)?;
    check_trial_goes_on(&rig, 2)?;
    rig.world.gateway.take().expect("started above").kill()?;
    rig.world.start_gateway()?;
    check_trial_goes_on(&rig, 2)?;
    rig.world.run_gateway(&["release", "arduino", "10m"])?;
    wait_until("the port to be released", SOON, || {
        Ok(rig.world.run_gateway(&["status"])?.contains("RELEASED"))
    })?;
    check_trial_goes_on(&rig, 2)?;
    config(&rig, &["set", DEVICE, "--clear"])?;
    wait_reported(&rig, 3, "kept", SOON)?;
    rig.wait_accepting()?;
    assert_clean(&rig.drain()?);
    Ok(())
}

/// Storage answers and acknowledges, and it is on trial still.
fn check_trial_goes_on(rig: &Rig, version: u64) -> anyhow::Result<()> {
    let mut ping = rig.world.command("bridge");
    let output = ping.args(["command", "send", DEVICE, "ping", "--wait"]).output()?;
    ensure!(output.status.success(), "{}: {output:?}", output.status);
    // It looks at what the trial lacks twice a second.
    pass(Duration::from_secs(2));
    let reported = reported(rig)?;
    ensure!(reported["version"] == version && reported["state"] == "trial", "{reported}");
    Ok(())
}

/// Hellos and states go through, batches do not: what runs then is not kept.
#[test]
fn a_configuration_is_kept_only_once_storage_has_acknowledged_what_waits() -> anyhow::Result<()> {
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    rig.start(50.0)?;
    rig.wait_stored(50)?;
    let rules = std::fs::read_to_string(mosquitto.acl())?;
    let without = rules.replace("pattern write devices/%u/sensor_data\n", "");
    ensure!(without != rules, "the rules have this line");
    std::fs::write(mosquitto.acl(), without)?;
    mosquitto.reload()?;
    config(&rig, &["set", DEVICE, "publish.batch_readings_max=7"])?;
    wait_reported(&rig, 1, "trial", SOON)?;
    // A hello is answered within milliseconds.
    pass(Duration::from_secs(3));
    assert_eq!(reported(&rig)?["state"], "trial");
    std::fs::write(mosquitto.acl(), rules)?;
    mosquitto.reload()?;
    wait_reported(&rig, 1, "kept", SOON)?;
    assert_clean(&rig.drain()?);
    Ok(())
}
