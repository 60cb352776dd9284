//! The bridge, killed at one point after the other; the same storage lives through all of it.

use super::Cause::{Ends, Replug, Runs};
use super::Step;
use super::crash::{Crash, quick};
use fieldpost_tests::rig::SOON;

/// What it writes.
pub(super) const STORING: &[Step] = &[
    ("store.open.before_wal", Runs(1)),
    ("store.open.after_wal", Runs(1)),
    ("ingest.readings_inserted", Runs(4)),
    ("ingest.stream_saved", Runs(4)),
    ("ingest.event_inserted", Replug),
    ("ingest.before_commit", Runs(4)),
    ("ingest.after_commit", Runs(4)),
];

/// What it answers, and what it has written for that.
pub(super) const ANSWERING: &[Step] = &[
    ("ingest.hello_saved", Runs(1)),
    ("send.state.before", Runs(1)),
    ("send.state.after", Runs(1)),
    ("send.sync_acks.before", Runs(4)),
    ("send.sync_acks.after", Runs(4)),
];

/// What it says besides.
pub(super) const SPEAKING: &[Step] = &[
    ("send.puback.before", Runs(6)),
    ("send.puback.after", Runs(6)),
    ("send.online.before", Runs(1)),
    ("send.online.after", Runs(1)),
    ("send.offline.before", Ends),
    ("send.offline.after", Ends),
];

/// What it says once its storage takes nothing.
pub(super) const WITHDRAWING: &[&str] = &["send.withdraw.before", "send.withdraw.after"];

/// Kills at each, starts again each time, and lets what waited arrive among a few new lines.
fn kill_at_each(what: &str, steps: &[Step]) -> anyhow::Result<()> {
    let mut crash = Crash::new(what, quick())?;
    crash.rig.world.start_gateway()?;
    crash.rig.wait_stored(100)?;
    for &step in steps {
        crash.rig.world.bridge.take().expect("it runs between two steps").kill()?;
        crash.kill_bridge_at(step)?;
        crash.rig.world.start_bridge()?;
        crash.wait_new_lines()?;
        crash.wait_settled()?;
    }
    crash.finish(0)
}

#[test]
fn a_bridge_killed_at_any_write_to_its_storage_stores_everything_once() -> anyhow::Result<()> {
    kill_at_each("the bridge's storage", STORING)
}

#[test]
fn a_bridge_killed_at_any_answer_stores_everything_once() -> anyhow::Result<()> {
    kill_at_each("the bridge's answers", ANSWERING)
}

#[test]
fn a_bridge_killed_at_any_puback_or_status_stores_everything_once() -> anyhow::Result<()> {
    kill_at_each("the bridge's pubacks", SPEAKING)
}

/// It takes ten seconds until it says so: both at once.
#[test]
fn a_bridge_killed_while_it_gives_up_on_a_locked_storage_stores_everything_once()
-> anyhow::Result<()> {
    super::at_once(WITHDRAWING, |point| {
        let mut crash = Crash::new(point, quick())?;
        crash.rig.world.start_gateway()?;
        crash.rig.wait_stored(100)?;
        crash.rig.world.bridge.take().expect("started with the rig").kill()?;
        crash.arm("bridge", point, 1);
        let online = crash.rig.world.times_online()?;
        crash.rig.world.start_bridge()?;
        crash.rig.world.wait_bridge_online(online)?;
        let lock = rusqlite::Connection::open(crash.rig.world.storage())?;
        lock.busy_timeout(SOON)?;
        lock.execute_batch("BEGIN IMMEDIATE")?;
        crash.wait_killed("bridge", point)?;
        crash.note(point)?;
        drop(lock);
        println!("bridge killed at {point}");
        crash.rig.world.start_bridge()?;
        crash.finish(0)
    })
}
