//! The gateway, killed while it finds its outbox damaged.

use std::os::unix::fs::FileExt as _;

use anyhow::ensure;

use super::crash::{Crash, RATE, quick};

pub(super) const POINTS: &[&str] = &[
    "outbox.damaged.before_moves",
    "outbox.damaged.between_moves",
    "outbox.damaged.after_moves",
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
            spoil(&crash, 0)?;
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
    // Its files, without those of SQLite beside them.
    let aside = std::fs::read_dir(crash.rig.world.dir())?.flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("outbox.db.damaged-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    });
    assert_eq!(aside.count(), POINTS.len());
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

/// Overwrites the outbox's file from `from` on.
fn spoil(crash: &Crash, from: u64) -> anyhow::Result<()> {
    let file = std::fs::File::options().write(true).open(crash.rig.world.outbox())?;
    let bytes = file.metadata()?.len();
    ensure!(bytes > from, "nothing to spoil");
    file.write_all_at(&vec![0xA5; (bytes - from) as usize], from)?;
    Ok(())
}
