//! The systemd units: what they may do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

pub(crate) fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// Exposure of a unit in tenths, from 0 to 100, as systemd reckons it; `Err`: above 20.
fn exposure(unit: &Path) -> anyhow::Result<Result<String, String>> {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(unit)
        .output()
        .context("running systemd-analyze; it is in Debian's package systemd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default().to_owned();
    Ok(if output.status.success() { Ok(last) } else { Err(last) })
}

#[test]
fn a_unit_is_exposed_to_little_and_one_without_its_rules_would_be_refused() -> anyhow::Result<()> {
    for name in ["fieldpost-gateway.service", "fieldpost-bridge.service"] {
        let unit = packaging().join(name);
        let said = exposure(&unit)?;
        println!("{said:?}");
        assert!(said.is_ok(), "{said:?}");
        let dir = tempfile::tempdir()?;
        let weak = dir.path().join(name);
        let text = std::fs::read_to_string(unit)?;
        let weaker = text.lines().filter(|line| !line.starts_with("SystemCallFilter="));
        std::fs::write(&weak, weaker.collect::<Vec<_>>().join("\n"))?;
        let said = exposure(&weak)?;
        assert!(said.is_err(), "without a filter of system calls: {said:?}");
    }
    Ok(())
}
