//! A configuration from afar: set at the bridge, reported by the gateway.

use std::time::Duration;

use anyhow::ensure;
use fieldpost_demo::world::DEVICE;
use serde_json::Value;

use crate::rig::{Rig, wait_until};

/// `fieldpost-bridge config ...`, beside the bridge that runs. Returns what it printed.
///
/// # Errors
/// When it ends with an error: with what it said.
pub fn config(rig: &Rig, args: &[&str]) -> anyhow::Result<String> {
    let output = rig.world.command("bridge").arg("config").args(args).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "config {args:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What the device has reported, as the bridge shows it.
///
/// # Errors
/// As [`config`].
pub fn reported(rig: &Rig) -> anyhow::Result<Value> {
    let both: Value = serde_json::from_str(&config(rig, &["get", DEVICE])?)?;
    Ok(both["reported"].clone())
}

/// Waits until it has reported this.
///
/// # Errors
/// After `within`, with what it reported last.
pub fn wait_reported(
    rig: &Rig,
    version: u64,
    state: &str,
    within: Duration,
) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    wait_until(&format!("version {version} reported as {state}"), within, || {
        last = reported(rig)?;
        Ok(last["version"] == version && last["state"] == state)
    })
    .map_err(|error| error.context(last.to_string()))?;
    Ok(last)
}

/// Sets all of it.
///
/// # Errors
/// As [`config`].
pub fn set_file(rig: &Rig, json: &str) -> anyhow::Result<()> {
    let file = rig.world.dir().join("desired.json");
    std::fs::write(&file, json)?;
    config(rig, &["set", DEVICE, "--file", &file.display().to_string()]).map(drop)
}
