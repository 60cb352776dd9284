//! The broker refuses, drops in silence, forgets, or has other certificates.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use fieldpost_demo::board::Board;
use fieldpost_demo::judge::{compare_files, read_only};
use fieldpost_demo::ledger::Ledger;
use fieldpost_demo::world::{BRIDGE, DEVICE};
use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use fieldpost_tests::wired::impatient;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};
use rustix::process::{Pid, Signal, kill_process};

use crate::settings;

/// Stops a process in the middle of whatever it does, or lets it go on.
fn signal(process: Option<&fieldpost_demo::world::Process>, signal: Signal) -> anyhow::Result<()> {
    let id = process.context("it runs")?.id();
    Ok(kill_process(Pid::from_raw(id.cast_signed()).context("a process id")?, signal)?)
}

/// Rows that the gateway holds and that no sync ack has released, by its status file.
fn waiting(rig: &Rig) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(rig.world.dir().join("status.json"))?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    status["outbox"]["waiting"].as_u64().with_context(|| format!("no outbox.waiting in {text}"))
}

#[test]
fn a_mosquitto_that_is_killed_forgets_what_it_has_pubacked_and_nothing_is_lost()
-> anyhow::Result<()> {
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    rig.run(200.0)?;
    for round in 1..=3 {
        // It pubacks what it then has in memory only.
        signal(rig.world.bridge.as_ref(), Signal::STOP)?;
        rig.wait_sent(rig.ledger.len() + 400)?;
        mosquitto.kill()?;
        signal(rig.world.bridge.as_ref(), Signal::CONT)?;
        mosquitto.run()?;
        rig.wait_stored(rig.ledger.len())?;
        println!("killed {round} times, all is stored");
    }
    rig.settle()?;
    Ok(())
}

#[test]
fn mosquitto_at_its_default_limits_drops_in_silence_and_nothing_is_lost() -> anyhow::Result<()> {
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    mosquitto.stop()?;
    for key in ["max_inflight_messages", "max_queued_messages", "max_queued_bytes"] {
        mosquitto.unset(key);
    }
    mosquitto.run()?;
    let other = "greenhouse-2";
    let request =
        fieldpost_certs::Request { devices: vec![other.to_owned()], ..Default::default() };
    let certs = rig.world.dir().join("certs");
    fieldpost_certs::issue(&certs, &request)?;
    rig.run(100.0)?;
    // Another device fills the queue of a bridge that does not answer.
    signal(rig.world.bridge.as_ref(), Signal::STOP)?;
    let output = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &mosquitto.address().port().to_string(), "-q", "1"])
        .arg("--cafile")
        .arg(certs.join("ca.pem"))
        .arg("--cert")
        .arg(certs.join(format!("{other}.pem")))
        .arg("--key")
        .arg(certs.join(format!("{other}.key")))
        .args(["-t", &format!("devices/{other}/sensor_data"), "-m", "junk", "--repeat", "1500"])
        .output()
        .context("running mosquitto_pub; it is in Debian's package mosquitto-clients")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dropped = "Outgoing messages are being dropped for client bridge-readings";
    wait_until("a drop", SOON, || Ok(std::fs::read_to_string(mosquitto.log())?.contains(dropped)))?;
    rig.wait_sent(rig.ledger.len() + 400)?;
    signal(rig.world.bridge.as_ref(), Signal::CONT)?;
    rig.settle()?;
    Ok(())
}

/// A broker that wants user name and password, and no certificate.
fn with_passwords(mosquitto: &mut Mosquitto, passwords: &Path) -> anyhow::Result<()> {
    mosquitto.stop()?;
    for (key, value) in [
        ("require_certificate", "false"),
        ("use_identity_as_username", "false"),
        ("use_username_as_clientid", "false"),
    ] {
        mosquitto.set(key, value);
    }
    // Its rules go by the names of certificates.
    mosquitto.unset("acl_file");
    mosquitto.set("password_file", &passwords.display().to_string());
    mosquitto.run()
}

fn set_password(passwords: &Path, user: &str, password: &str) -> anyhow::Result<()> {
    let mut command = Command::new("mosquitto_passwd");
    if !passwords.exists() {
        command.arg("-c");
    }
    let output = command.arg("-b").arg(passwords).args([user, password]).output();
    let output = output.context("running mosquitto_passwd, of Debian's package mosquitto")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_password_that_the_broker_refuses_is_an_alert_and_recording_goes_on() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (gateways, bridges) = (dir.path().join("gateway"), dir.path().join("bridge"));
    std::fs::write(&gateways, "first\n")?;
    std::fs::write(&bridges, "bridge's\n")?;
    let passwords = dir.path().join("passwords");
    set_password(&passwords, DEVICE, "first")?;
    set_password(&passwords, BRIDGE, "bridge's")?;
    let mut login = settings();
    for (section, user, file) in
        [(&mut login.gateway, DEVICE, &gateways), (&mut login.bridge, BRIDGE, &bridges)]
    {
        section.push(("broker", format!("username = \"{user}\"")));
        section.push(("broker", format!("password_file = \"{}\"", file.display())));
    }
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(login)?;
    with_passwords(&mut mosquitto, &passwords)?;
    rig.run(50.0)?;

    set_password(&passwords, DEVICE, "second")?;
    mosquitto.reload()?;
    let message = rig.wait_raised("broker_refuses")?;
    println!("{message}");
    for part in ["user name", "password", "Readings are kept"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    let sent = rig.ledger.len() + 100;
    rig.wait_sent(sent)?;
    wait_until("recording", SOON, || Ok(rig.accepted()?.contains(&sent)))?;
    // Read at each connection: no restart.
    std::fs::write(&gateways, "second\n")?;
    rig.wait_cleared("broker_refuses", 2 * SOON)?;
    rig.settle()?;
    Ok(())
}

/// Takes a rule away, waits for the alert, and puts it back.
fn without_the_rule(rule: &str) -> anyhow::Result<Rig> {
    let mut watchful = settings();
    watchful.gateway.push(("alerts", "no_sync_ack_after = \"10s\"".to_owned()));
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(watchful)?;
    rig.run(50.0)?;
    let rules = std::fs::read_to_string(mosquitto.acl())?;
    let less: Vec<&str> = rules.lines().filter(|line| *line != rule).collect();
    assert_eq!(less.len() + 1, rules.lines().count(), "{rule:?} is a line of the rules");
    std::fs::write(mosquitto.acl(), less.join("\n"))?;
    mosquitto.reload()?;
    let before = rig.ledger.len();
    println!("{}", rig.wait_raised("no_sync_ack")?);
    rig.wait_said("gateway", "may this device publish and subscribe", 0)?;
    // Pubacked, every one of them, and held all the same.
    let sent = rig.ledger.len();
    wait_until("holding", SOON, || Ok(waiting(&rig)? >= sent - before))?;
    // That storage gets this very alert, by a topic of its own, does not end it.
    let cleared = rig.times_said("gateway", "storage acknowledges again")?;
    assert_eq!(cleared, 0, "cleared while readings wait");
    std::fs::write(mosquitto.acl(), rules)?;
    mosquitto.reload()?;
    rig.settle()?;
    rig.wait_cleared("no_sync_ack", SOON)?;
    Ok(rig)
}

#[test]
fn rules_that_drop_a_devices_batches_are_an_alert_and_nothing_is_let_go() -> anyhow::Result<()> {
    without_the_rule("pattern write devices/%u/sensor_data")?;
    Ok(())
}

#[test]
fn rules_that_drop_the_bridges_sync_acks_are_an_alert_and_nothing_is_stored_twice()
-> anyhow::Result<()> {
    without_the_rule("topic write devices/+/sync/acks")?;
    Ok(())
}

/// Writes a certificate of the world's CA that ran out years ago over the one that is there.
fn expire(certs: &Path, name: &str) -> anyhow::Result<()> {
    let key = KeyPair::from_pem(&std::fs::read_to_string(certs.join("ca.key"))?)?;
    let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(certs.join("ca.pem"))?, key)?;
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?;
    std::fs::write(certs.join(format!("{name}.pem")), cert.pem())?;
    std::fs::write(certs.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(())
}

/// Everything anew, over the files that are there; with `force` by a new CA.
fn renew(certs: &Path, force: bool) -> anyhow::Result<()> {
    let devices = vec![DEVICE.to_owned()];
    let bridge = BRIDGE.to_owned();
    let request =
        fieldpost_certs::Request { bridge, devices, renew: true, force, ..Default::default() };
    fieldpost_certs::issue(certs, &request)?;
    Ok(())
}

fn restart(mosquitto: &mut Mosquitto) -> anyhow::Result<()> {
    mosquitto.stop()?;
    mosquitto.run()
}

#[test]
fn an_expired_certificate_of_either_side_is_an_alert_and_a_new_one_needs_no_restart()
-> anyhow::Result<()> {
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    let certs = rig.world.dir().join("certs");
    rig.run(50.0)?;
    expire(&certs, DEVICE)?;
    // It looks at certificates when somebody connects.
    restart(&mut mosquitto)?;
    let message = rig.wait_raised("broker_refuses")?;
    println!("{message}");
    assert!(message.contains("still valid?"), "{message}");
    renew(&certs, false)?;
    rig.wait_cleared("broker_refuses", 2 * SOON)?;
    rig.wait_stored(rig.ledger.len())?;

    expire(&certs, "broker")?;
    restart(&mut mosquitto)?;
    let message = rig.wait_raised("broker_refuses")?;
    println!("{message}");
    assert!(message.contains("expired"), "{message}");
    renew(&certs, false)?;
    restart(&mut mosquitto)?;
    rig.wait_cleared("broker_refuses", 2 * SOON)?;
    rig.settle()?;
    Ok(())
}

#[test]
fn a_wrong_ca_is_an_alert_and_the_right_one_needs_no_restart() -> anyhow::Result<()> {
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    let ca = rig.world.dir().join("certs/ca.pem");
    rig.run(50.0)?;
    let right = std::fs::read(&ca)?;
    let others = tempfile::tempdir()?;
    fieldpost_certs::issue(others.path(), &fieldpost_certs::Request::default())?;
    // Mosquitto goes on with the one that it has read.
    mosquitto.stop()?;
    let kept = rig.world.dir().join("mosquittos-ca.pem");
    std::fs::write(&kept, &right)?;
    mosquitto.set("cafile", &kept.display().to_string());
    std::fs::copy(others.path().join("ca.pem"), &ca)?;
    mosquitto.run()?;
    let message = rig.wait_raised("broker_refuses")?;
    println!("{message}");
    assert!(message.contains("not issued by the configured CA"), "{message}");
    rig.wait_said("bridge", "not issued by the configured CA", 0)?;
    std::fs::write(&ca, &right)?;
    rig.wait_cleared("broker_refuses", 2 * SOON)?;
    rig.settle()?;
    Ok(())
}

#[test]
fn certificates_and_ca_that_are_exchanged_while_all_runs_need_no_restart() -> anyhow::Result<()> {
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    rig.run(50.0)?;
    let gateway = rig.world.gateway.as_ref().context("it runs")?.id();
    let bridge = rig.world.bridge.as_ref().context("it runs")?.id();
    renew(&rig.world.dir().join("certs"), true)?;
    restart(&mut mosquitto)?;
    rig.wait_said("gateway", "INFO connected", 1)?;
    rig.settle()?;
    assert_eq!(rig.world.ended()?, None);
    assert_eq!(rig.world.gateway.as_ref().map(fieldpost_demo::world::Process::id), Some(gateway));
    assert_eq!(rig.world.bridge.as_ref().map(fieldpost_demo::world::Process::id), Some(bridge));
    Ok(())
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The world's gateway once more, as from a copied card: the same device, certificate and outbox.
fn start_clone(rig: &Rig) -> anyhow::Result<Running> {
    let dir = rig.world.dir();
    for suffix in ["", "-wal"] {
        let from = dir.join(format!("outbox.db{suffix}"));
        if from.exists() {
            std::fs::copy(from, dir.join(format!("clone.db{suffix}")))?;
        }
    }
    let config = std::fs::read_to_string(dir.join("gateway.toml"))?;
    let config = config.replace("/outbox.db", "/clone.db").replace("status.json", "clone.json");
    let config = config.replace("ttyDEMO", "ttyCLONE");
    std::fs::write(dir.join("clone.toml"), config)?;
    let log = std::fs::File::create(dir.join("clone.log"))?;
    let child = Command::new(rig.world.command("gateway").get_program())
        .arg("--config")
        .arg(dir.join("clone.toml"))
        .arg("run")
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(Running(child))
}

#[test]
fn two_gateways_from_one_card_throw_each_other_out_and_yet_both_drain() -> anyhow::Result<()> {
    let (mut rig, _mosquitto) = Rig::on_mosquitto(impatient(settings()))?;
    rig.run(50.0)?;
    // The copy is made while rows wait that storage does not have.
    rig.world.stop_bridge()?;
    rig.wait_sent(rig.ledger.len() + 200)?;
    rig.world.stop_gateway()?;
    let begun = Instant::now();
    let _clone = start_clone(&rig)?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let clones = Board::start(&rig.world.dir().join("ttyCLONE"), 50.0, Ledger::default())?;

    let message = rig.wait_raised("connection_unstable")?;
    println!("{message}");
    for part in [DEVICE, "client id", "another gateway", "copied SD card", "its own"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    clones.pause();
    rig.board.as_ref().context("plugged in")?.pause();
    let (first, second) = (rig.world.outbox(), rig.world.dir().join("clone.db"));
    wait_until("both outboxes in storage", 3 * SOON, || {
        for outbox in [&first, &second] {
            let (accepted, stored, wrong) = compare_files(outbox, &rig.world.storage())?;
            ensure!(wrong.is_empty(), "{wrong:?}");
            if stored < accepted {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    let conn = read_only(&rig.world.storage())?;
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    wait_until("no claim that is open", SOON, || {
        Ok(count("SELECT coalesce((SELECT sum(n) FROM waiting), 0)")? == 0)
    })?;
    assert_eq!(count("SELECT coalesce((SELECT sum(n) FROM missing), 0)")?, 0);
    // The first gateway's epochs and the clone's; what both had was stored once.
    assert_eq!(count("SELECT count(DISTINCT epoch) FROM readings WHERE source = 'fruiting'")?, 3);
    let (times, took) = (rig.times_said("gateway", "INFO connected")?, begun.elapsed());
    println!("the first gateway has connected {times} times in {:.1} s", took.as_secs_f64());
    assert!(times >= 5, "they do not throw each other out: {times} connections");
    // Each takes longer and longer to come back: without that it was 133 in 2.4 s.
    assert!(times as f64 <= 20.0 + took.as_secs_f64(), "{times} connections in {took:?}");
    Ok(())
}
