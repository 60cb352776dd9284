//! The bridge, killed at one point after the other; the same storage lives through all of it.

use super::Cause::{Ends, Replug, Runs};
use super::Step;
use super::crash::{Crash, quick};

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
