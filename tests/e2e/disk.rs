//! What reaches the disk, by strace on the built program.

use std::process::{Command, Stdio};

use anyhow::Context as _;
use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::settings;

on_each_broker! {
    a_commit_is_one_fdatasync_and_no_fsync,
}

fn a_commit_is_one_fdatasync_and_no_fsync(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    let trace = rig.world.dir().join("trace");
    let gateway = rig.world.command("gateway");
    let mut child = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&trace)
        .arg(gateway.get_program())
        .args(gateway.get_args())
        .arg("run")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("running strace; it is in Debian's package strace")?;
    rig.plug(5.0)?;
    // Ten commits at one a second.
    let result = wait_until("45 readings", SOON, || {
        Ok(rig.world.outbox().exists() && rig.accepted().is_ok_and(|lines| lines.len() >= 45))
    });
    // strace passes the signal on, the gateway ends, and strace with it.
    let inner = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
    for pid in inner.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw)
    {
        kill_process(pid, Signal::TERM)?;
    }
    let status = child.wait()?;
    result?;
    assert!(status.success(), "{status}");

    let text = std::fs::read_to_string(&trace)?;
    let calls = |name: &str, file: &str| {
        text.lines()
            .filter(|line| line.contains(&format!(" {name}(")) && line.contains(file))
            .count()
    };
    let commits = calls("fdatasync", "outbox.db-wal");
    println!(
        "fdatasync of the log: {commits}, fsync of any file of the outbox: {}",
        calls("fsync", "outbox.db")
    );
    assert_eq!(calls("fsync", "outbox.db"), 0, "{text}");
    assert!(commits >= 8, "{text}");
    assert!(commits <= 22, "at most one commit of readings a second, and a few of its own: {text}");

    let conn = fieldpost_demo::judge::read_only(&rig.world.outbox())?;
    let page: i64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    assert_eq!((page, mode.as_str()), (1_024, "wal"));
    Ok(())
}
