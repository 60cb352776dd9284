//! `cargo demo` as a program: its last line, its exit status, a port that is not its own.

use std::process::Command;

use fieldpost_demo::board::Board;
use fieldpost_demo::ledger::Ledger;
use serde_json::Value;

/// Runs the demo in a new folder; returns its exit status and the object on its last line.
fn demo(arguments: &[&str]) -> anyhow::Result<(bool, Value)> {
    let dir = tempfile::tempdir()?;
    let output = Command::new(env!("CARGO_BIN_EXE_test-demo"))
        .args(arguments)
        .arg("--json")
        .arg("--dir")
        .arg(dir.path().join("demo"))
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or_else(|| panic!("nothing printed; {said}"));
    Ok((output.status.success(), serde_json::from_str(last)?))
}

#[test]
fn the_demo_ends_with_zero_and_says_that_all_is_stored() -> anyhow::Result<()> {
    let (good, report) = demo(&["--seconds", "4", "--rate", "250"])?;
    assert!(good, "{report}");
    assert!(report["frames_sent"].as_u64().is_some_and(|sent| sent >= 900), "{report}");
    assert_eq!(report["accepted"], report["frames_sent"], "{report}");
    assert_eq!(report["stored"], report["frames_sent"], "{report}");
    for spoiled in ["refused", "missing", "duplicates", "wrong"] {
        assert_eq!(report[spoiled], 0, "{spoiled}: {report}");
    }
    assert!(report["latency_ms"]["p99"].as_u64().is_some_and(|p99| p99 < 3_000), "{report}");
    assert!(report["wire_bytes_per_reading"].as_f64().is_some(), "{report}");
    assert_eq!(report["config"]["rate"], 250.0, "{report}");
    for done in ["sent", "succeeded", "done"] {
        assert_eq!(report["commands"][done], 1, "{done}: {report}");
    }
    Ok(())
}

#[test]
fn a_board_of_its_own_is_judged_by_the_counters_in_its_lines() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (port, ledger) = (dir.path().join("tty"), Ledger::default());
    let board = Board::start(&port, 100.0, ledger)?;
    let serial = port.to_str().expect("a temporary folder has a plain name");
    let (good, report) = demo(&["--seconds", "4", "--serial", serial])?;
    board.unplug()?;
    assert!(good, "{report}");
    assert!(report["frames_sent"].as_u64().is_some_and(|sent| sent >= 200), "{report}");
    assert_eq!(report["stored"], report["frames_sent"], "{report}");
    Ok(())
}

#[test]
fn a_port_that_does_not_exist_is_no_success() -> anyhow::Result<()> {
    let (good, report) = demo(&["--seconds", "2", "--serial", "/dev/does-not-exist"])?;
    assert!(!good, "{report}");
    assert_eq!(report["frames_sent"], "unverifiable", "{report}");
    Ok(())
}
