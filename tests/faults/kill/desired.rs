//! The gateway, killed while it takes a configuration from afar: in the end it runs, and is reported as
//! kept, and no reading is lost.

use std::process::Command;

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::DEVICE;
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::rig::{SOON, wait_until};
use serde_json::Value;

use super::at_once;
use super::crash::{Crash, quick};

const DESIRED: &str = r#"{"version": 1, "config": {"publish": {"batch_readings_max": 77}}}"#;

/// Each with the hit at which it dies: the first report comes with the connection.
const STEPS: &[(&str, u64)] = &[
    ("desired.before_write", 1),
    ("desired.before_rename", 1),
    ("desired.after_rename", 1),
    ("desired.before_applied", 1),
    ("desired.applied", 1),
    // The end of the trial.
    ("desired.before_write", 2),
    ("desired.before_rename", 2),
    ("desired.after_rename", 2),
    ("send.reported.before", 2),
    ("send.reported.after", 2),
];

/// The bridge, on its way out.
pub(super) const SENDING: &[&str] = &["send.desired.before", "send.desired.after"];

pub(super) fn points() -> Vec<&'static str> {
    STEPS.iter().filter(|(point, n)| *n == 1 || point.starts_with("send.")).map(|it| it.0).collect()
}

fn reported(crash: &Crash) -> anyhow::Result<Value> {
    let conn = read_only(&crash.rig.world.storage())?;
    let sql = "SELECT coalesce(reported, 'null') FROM device WHERE id = ?1";
    let text = conn.query_row(sql, [DEVICE], |row| row.get::<_, String>(0));
    Ok(text.ok().map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default())
}

fn kill_at(step: usize) -> anyhow::Result<()> {
    let (point, hit) = STEPS[step];
    let mut crash = Crash::new(point, quick())?;
    let certs = crash.rig.world.dir().join("certs");
    let port = crash.rig.world.broker_address().port();
    let mut person = Client::connect(options(&certs, "operator", port))?;
    crash.arm("gateway", point, hit);
    crash.rig.world.start_gateway()?;
    crash.rig.wait_stored(1)?;
    let topic = format!("devices/{DEVICE}/config/desired");
    person.publish([(topic, DESIRED.as_bytes().to_vec())], true)?;
    crash.wait_killed("gateway", point)?;
    crash.note(point)?;
    crash.rig.world.start_gateway()?;
    let mut last = Value::Null;
    wait_until(&format!("kept after a kill at {point}, hit {hit}"), SOON, || {
        last = reported(&crash)?;
        Ok(last["state"] == "kept" && last["version"] == 1)
    })
    .map_err(|error| error.context(last.to_string()))?;
    assert_eq!(last["config"]["publish"]["batch_readings_max"], 77, "{point}");
    crash.wait_new_lines()?;
    crash.finish(0)
}

#[test]
fn what_is_desired_is_kept_wherever_the_gateway_is_killed() -> anyhow::Result<()> {
    at_once(&(0..STEPS.len()).collect::<Vec<_>>(), kill_at)
}

fn kill_bridge_at(point: &'static str) -> anyhow::Result<()> {
    let mut crash = Crash::new(point, quick())?;
    crash.rig.world.start_gateway()?;
    crash.rig.wait_stored(1)?;
    crash.rig.world.stop_bridge()?;
    crash.arm("bridge", point, 1);
    crash.rig.world.start_bridge()?;
    let program = env!("CARGO_BIN_EXE_test-bridge");
    let file = crash.rig.world.dir().join("bridge.toml");
    let mut set = Command::new(program);
    set.arg("--config").arg(file).args(["config", "set", DEVICE, "publish.batch_readings_max=77"]);
    assert!(set.status()?.success());
    crash.wait_killed("bridge", point)?;
    crash.rig.world.start_bridge()?;
    wait_until(&format!("kept after the bridge was killed at {point}"), SOON, || {
        Ok(reported(&crash)?["state"] == "kept")
    })?;
    crash.finish(0)
}

#[test]
fn what_is_desired_is_published_wherever_the_bridge_is_killed() -> anyhow::Result<()> {
    at_once(SENDING, kill_bridge_at)
}
