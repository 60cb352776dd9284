//! The gateway, killed while it finds its outbox damaged.

use std::os::unix::fs::FileExt as _;

use anyhow::ensure;

use super::crash::{Crash, RATE, quick};

pub(super) const POINTS: &[&str] = &[
    "outbox.damaged.before_moves",
    "outbox.damaged.between_moves",
    "outbox.damaged.after_moves",
    "outbox.log.before_copy",
    "outbox.log.before_sync",
    "outbox.log.after_copy",
    "outbox.log.after_fold",
    "outbox.suspect.before_mark",
    "outbox.suspect.after_mark",
];

#[test]
fn a_gateway_killed_while_it_moves_a_damaged_outbox_aside_deletes_nothing() -> anyhow::Result<()> {
    let mut crash = Crash::new("a damaged outbox", quick())?;
    crash.rig.world.start_gateway()?;
    for point in POINTS {
        // Stored, all of it: what only the outbox has is lost with it, as it must be.
        crash.quiet()?;
        if point.contains("suspect") {
            damage_while_it_runs(&mut crash, point)?;
        } else {
            crash.rig.world.gateway.take().expect("it runs between two points").kill()?;
            if point.contains("log") {
                break_log(&crash)?;
            } else {
                spoil(&crash, 0)?;
            }
            crash.arm("gateway", point, 1);
            crash.rig.world.start_gateway()?;
        }
        crash.wait_killed("gateway", point)?;
        println!("gateway killed at {point}");
        crash.rig.board = None;
        crash.rig.plug(RATE)?;
        crash.rig.world.start_gateway()?;
    }
    crash.wait_new_lines()?;
    let aside: Vec<String> = std::fs::read_dir(crash.rig.world.dir())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("outbox.db.damaged-") && !name.ends_with("-shm"))
        .collect();
    let is_log = |name: &&String| name.ends_with("-wal") || name.ends_with("-log");
    let (logs, files): (Vec<_>, Vec<_>) = aside.iter().partition(is_log);
    assert_eq!(files.len(), POINTS.iter().filter(|point| !point.contains("log")).count());
    assert!(logs.len() >= POINTS.len() - files.len(), "{aside:?}");
    crash.finish(0)
}

/// The gateway finds it out with its next write, which is the alert that the board is gone.
fn damage_while_it_runs(crash: &mut Crash, point: &str) -> anyhow::Result<()> {
    crash.rig.world.gateway.take().expect("it runs between two points").kill()?;
    crash.arm("gateway", point, 1);
    crash.rig.world.start_gateway()?;
    crash.rig.board = None;
    crash.rig.plug(RATE)?;
    crash.quiet()?;
    let db = rusqlite::Connection::open(crash.rig.world.outbox())?;
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    db.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |row| {
        let busy: i64 = row.get(0)?;
        assert_eq!(busy, 0, "the outbox's log could not be folded in");
        Ok(())
    })?;
    // The first page stays: this process still has to write it, so that the gateway looks into
    // the file again instead of its memory.
    spoil(crash, 1_024)?;
    db.pragma_update(None, "user_version", 1)?;
    crash.rig.board = None;
    Ok(())
}

/// Flips a bit in the first page of the outbox's log.
fn break_log(crash: &Crash) -> anyhow::Result<()> {
    let log = crash.rig.world.outbox().with_extension("db-wal");
    let file = std::fs::File::options().read(true).write(true).open(log)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 500)?;
    Ok(file.write_all_at(&[byte[0] ^ 1], 500)?)
}

/// Overwrites the outbox's file from `from` on.
fn spoil(crash: &Crash, from: u64) -> anyhow::Result<()> {
    let file = std::fs::File::options().write(true).open(crash.rig.world.outbox())?;
    let bytes = file.metadata()?.len();
    ensure!(bytes > from, "nothing to spoil");
    file.write_all_at(&vec![0xA5; (bytes - from) as usize], from)?;
    Ok(())
}
