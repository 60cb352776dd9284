//! The bridge, killed wherever it writes or sends a command, and the commands of a person at its ledger.
//! Each ends with the outcome of the one time that the board has done it.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::ensure;
use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::DEVICE;
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::rig::{SOON, wait_until};
use rustix::process::Signal;

use super::Cause::Runs;
use super::at_once;
use super::crash::{Crash, quick};

/// On a command's way, in its order.
pub(super) const ISSUING: &[&str] = &[
    ADOPTING,
    "issue.before_commit",
    "issue.after_commit",
    "send.command.before",
    "send.command.after",
    "ingest.command_saved",
];
/// A person has published it.
const ADOPTING: &str = "ingest.command_inserted";

pub(super) const ASKING: &[&str] = &[
    "command.send.before_commit",
    "command.send.after_commit",
    "command.cancel.before_commit",
    "command.cancel.after_commit",
];

fn state(crash: &Crash) -> anyhow::Result<Option<String>> {
    let conn = read_only(&crash.rig.world.storage())?;
    let sql = "SELECT state FROM commands WHERE id = 'c1'";
    Ok(conn.query_row(sql, [], |row| row.get(0)).ok())
}

fn kill_at(point: &'static str) -> anyhow::Result<()> {
    let mut crash = Crash::new(point, quick())?;
    crash.rig.world.start_gateway()?;
    crash.rig.wait_stored(50)?;
    crash.rig.world.bridge.take().expect("started with the rig").kill()?;
    let certs = crash.rig.world.dir().join("certs");
    let person = options(&certs, "operator", crash.rig.world.broker_address().port());
    let mut person = Client::connect(person)?;
    let mut publish = || {
        let json = r#"{"id":"c1","name":"led","args":{"on":1}}"#;
        person.publish([(format!("devices/{DEVICE}/commands"), json.as_bytes().to_vec())], false)
    };
    if point == ADOPTING {
        crash.arm("bridge", point, 1);
        let online = crash.rig.world.times_online()?;
        crash.rig.world.start_bridge()?;
        crash.rig.world.wait_bridge_online(online)?;
        publish()?;
        crash.wait_killed("bridge", point)?;
        crash.note(point)?;
        let online = crash.rig.world.times_online()?;
        crash.rig.world.start_bridge()?;
        crash.rig.world.wait_bridge_online(online)?;
        publish()?;
    } else {
        let send = ["command", "send", DEVICE, "led", "on=1", "--id", "c1"];
        let said = crash.rig.world.run_bridge(&send)?;
        ensure!(said.contains("command c1"), "{said}");
        crash.kill_bridge_at((point, Runs(1)))?;
        crash.rig.world.start_bridge()?;
    }
    wait_until(&format!("an outcome after a kill at {point}"), SOON, || {
        Ok(state(&crash)?.is_some_and(|state| state != "open"))
    })?;
    assert_eq!(state(&crash)?.as_deref(), Some("succeeded"), "{point}");
    crash.wait_new_lines()?;
    assert_eq!(crash.rig.ledger.commands().len(), 1, "{point}: the board has done it so often");
    crash.finish(0)
}

#[test]
fn a_command_runs_once_and_is_answered_wherever_its_bridge_is_killed() -> anyhow::Result<()> {
    at_once(ISSUING, kill_at)
}

#[test]
fn a_command_is_sent_and_cancelled_as_a_whole_whenever_the_program_is_killed() -> anyhow::Result<()>
{
    let mut crash = Crash::new("a person at the ledger", quick())?;
    crash.rig.world.start_gateway()?;
    crash.wait_new_lines()?;
    crash.rig.wait_stored(50)?;
    // Else the bridge would issue it, and nothing could take it back.
    crash.rig.world.bridge.take().expect("started with the rig").kill()?;
    let send = ["send", DEVICE, "led", "on=1", "--id", "c1"];
    let cancel = ["cancel", DEVICE, "c1"];
    let known = [None, Some("open"), Some("open"), Some("cancelled")];
    for (point, expected) in ASKING.iter().zip(known) {
        let arguments = if point.contains("send") { &send[..] } else { &cancel };
        crash.arm("bridge", point, 1);
        let output = crash.rig.world.command("bridge").arg("command").args(arguments).output()?;
        crash.disarm();
        let killed = output.status.signal() == Some(Signal::KILL.as_raw());
        ensure!(killed, "{point}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        assert_eq!(state(&crash)?.as_deref(), expected, "{point}");
    }
    crash.rig.world.start_bridge()?;
    crash.finish(0)?;
    Ok(())
}
