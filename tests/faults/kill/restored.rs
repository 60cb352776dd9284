//! The bridge's `init` and `restored`, killed; and the gateway, killed while it learns that
//! storage has gone back to a backup.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use anyhow::ensure;
use fieldpost_demo::judge;
use fieldpost_tests::rig::Rig;
use rusqlite::Connection;
use rustix::process::Signal;

use super::Cause::Runs;
use super::crash::{Crash, RATE, quick};

pub(super) const POINTS: &[&str] = &[
    "store.init.before_schema",
    "store.init.schema_written",
    "store.init.before_commit",
    "store.init.after_commit",
    "store.init.before_rename",
    "store.init.after_rename",
    "store.restored.before_commit",
    "store.restored.after_commit",
    "store.add_held.before_tables",
    "store.add_held.before_commit",
    "store.add_held.after_commit",
];

#[test]
fn an_init_that_is_killed_leaves_no_half_storage() -> anyhow::Result<()> {
    let rig = Rig::new(quick())?;
    remove_storage(&rig)?;
    let mut rig = Some(rig);
    for &point in POINTS.iter().filter(|point| point.starts_with("store.init.")) {
        let world = &mut rig.as_mut().expect("given away after the loop").world;
        assert!(!world.storage().exists(), "{point}: half a storage stands in its place");
        kill_command(world, point, "init")?;
    }
    // The last one was killed when it was complete.
    let mut crash = Crash::of("a killed init", rig.take().expect("put there above"))?;
    crash.rig.world.start_gateway()?;
    crash.finish(0)
}

#[test]
fn a_storage_restored_from_a_backup_is_filled_again_whoever_is_killed_meanwhile()
-> anyhow::Result<()> {
    let mut crash = Crash::new("a restored storage", quick())?;
    crash.rig.world.start_gateway()?;
    crash.quiet()?;
    crash.rig.world.stop_bridge()?;
    let (storage, backup) = (crash.rig.world.storage(), crash.rig.world.dir().join("backup.db"));
    std::fs::copy(&storage, &backup)?;
    let before = judge::stored(&backup, &crash.rig.ledger)?.stored();
    crash.rig.world.start_bridge()?;
    crash.rig.board = None;
    crash.rig.plug(RATE)?;
    crash.rig.wait_sent(before + 600)?;
    crash.quiet()?;
    // An orderly end writes down what is acked: more than the storage is about to have.
    crash.rig.world.stop_gateway()?;
    crash.rig.world.stop_bridge()?;
    remove_storage(&crash.rig)?;
    std::fs::copy(&backup, &storage)?;
    kill_command(&mut crash.rig.world, "store.restored.before_commit", "restored")?;
    kill_command(&mut crash.rig.world, "store.restored.after_commit", "restored")?;
    assert_eq!(judge::stored(&storage, &crash.rig.ledger)?.stored(), before);
    crash.rig.world.start_bridge()?;
    crash.rig.board = None;
    crash.rig.plug(RATE)?;
    // The first state moves `acked` back.
    for point in ["outbox.save_acked.before_commit", "outbox.save_acked.after_commit"] {
        crash.kill_gateway_at((point, Runs(1)))?;
    }
    crash.rig.world.start_gateway()?;
    crash.finish(0)
}

#[test]
fn a_storage_of_an_earlier_program_is_brought_up_to_date_whenever_the_bridge_is_killed()
-> anyhow::Result<()> {
    let mut crash = Crash::new("an earlier storage", quick())?;
    crash.rig.world.start_gateway()?;
    crash.quiet()?;
    crash.rig.world.stop_bridge()?;
    Connection::open(crash.rig.world.storage())?.execute_batch(
        "DROP TRIGGER stream_held_now; DROP TRIGGER stream_held_no_more;
         DROP INDEX epoch_not_superseded; DROP INDEX epoch_named; DROP TABLE held",
    )?;
    for point in POINTS.iter().filter(|point| point.starts_with("store.add_held.")) {
        kill_command(&mut crash.rig.world, point, "run")?;
    }
    crash.rig.world.start_bridge()?;
    crash.rig.board = None;
    crash.rig.plug(RATE)?;
    crash.finish(0)
}

fn remove_storage(rig: &Rig) -> anyhow::Result<()> {
    std::fs::remove_file(rig.world.storage())?;
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(PathBuf::from(format!(
            "{}{suffix}",
            rig.world.storage().display()
        )));
    }
    Ok(())
}

fn kill_command(
    world: &mut fieldpost_demo::world::World,
    point: &str,
    command: &str,
) -> anyhow::Result<()> {
    world.environment = vec![("bridge", "FAIL_POINT_KILL", format!("{point}:1"))];
    let output = world.command("bridge").arg(command).output()?;
    world.environment.clear();
    let killed = output.status.signal() == Some(Signal::KILL.as_raw());
    ensure!(killed, "{point}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("bridge's {command} killed at {point}");
    Ok(())
}
