//! The gateway, killed at one point after the other; the same outbox lives through all of it.

use super::Cause::{Ends, New, Replug, Runs};
use super::Step;
use super::crash::{Crash, quick};

/// From nothing to a pinned storage: each of them once in an outbox's life, in this order.
pub(super) const OPENING: &[Step] = &[
    ("lock.before_open", New),
    ("lock.before_write", New),
    ("lock.emptied", New),
    ("lock.after_write", New),
    ("outbox.configure.before_wal", New),
    ("outbox.configure.after_wal", New),
    ("outbox.create.before_tables", New),
    ("outbox.create.device_inserted", New),
    ("outbox.create.before_commit", New),
    ("outbox.create.after_commit", New),
    ("outbox.create.after_checkpoint", New),
    ("outbox.save_acked.trusted_written", Runs(1)),
];

/// What happens to the file while it runs and when it ends.
pub(super) const RUNNING: &[Step] = &[
    ("outbox.suspect.before_remove", Runs(1)),
    ("outbox.open.before_tables", Runs(1)),
    ("outbox.suspect.after_remove", Runs(1)),
    ("outbox.settle_clocks.before_commit", Runs(1)),
    ("outbox.settle_clocks.after_commit", Runs(1)),
    ("outbox.fix_bases.before_commit", Runs(1)),
    ("outbox.fix_bases.after_commit", Runs(1)),
    ("outbox.seal_old.before_commit", Runs(1)),
    ("outbox.seal_old.after_commit", Runs(1)),
    ("outbox.append.epoch_inserted", Runs(1)),
    ("outbox.append.segment_inserted", Runs(4)),
    ("outbox.append.tail_deleted", Runs(4)),
    ("outbox.append.before_commit", Runs(5)),
    ("outbox.append.after_commit", Runs(5)),
    ("outbox.history.before_commit", Runs(1)),
    ("outbox.history.after_commit", Runs(1)),
    ("outbox.save_acked.before_commit", Ends),
    ("outbox.save_acked.after_commit", Ends),
    ("outbox.close.before_fold", Ends),
    ("outbox.close.after_fold", Ends),
];

/// What it says, to the broker and in the status file.
pub(super) const SENDING: &[Step] = &[
    ("status.before_write", Runs(2)),
    ("status.before_rename", Runs(2)),
    ("status.after_rename", Runs(2)),
    ("send.hello.before", Runs(1)),
    ("send.hello.after", Runs(1)),
    ("send.readings.before", Runs(6)),
    ("send.readings.after", Runs(6)),
    ("send.event.before", Replug),
    ("send.event.after", Replug),
    ("send.status.before", Runs(2)),
    ("send.status.after", Runs(2)),
    ("send.meta.before", Runs(1)),
    ("send.meta.after", Runs(1)),
    ("send.live.before", Runs(4)),
    ("send.live.after", Runs(4)),
    ("send.offline.before", Ends),
    ("send.offline.after", Ends),
];

/// Kills at each, starts again each time, and lets the old rows arrive among a few new ones. With
/// a backlog, the bridge is away meanwhile: what the outbox loses then is nowhere else.
fn kill_at_each(what: &str, steps: &[Step], backlog: bool) -> anyhow::Result<()> {
    let mut crash = Crash::new(what, quick())?;
    crash.rig.world.start_gateway()?;
    crash.wait_new_lines()?;
    crash.rig.world.gateway.take().expect("started above").kill()?;
    crash.note("a kill before all others")?;
    for &step in steps {
        // The time may have to come from the bridge.
        let alone = backlog && !step.0.contains("fix_bases");
        if alone {
            crash.rig.world.bridge.take().expect("it runs between two steps").kill()?;
            crash.rig.world.start_gateway()?;
            crash.wait_new_lines()?;
            crash.rig.world.gateway.take().expect("started above").kill()?;
            crash.note(&format!("a kill before {}", step.0))?;
        }
        crash.kill_gateway_at(step)?;
        if alone {
            crash.rig.world.start_bridge()?;
        }
        crash.rig.world.start_gateway()?;
        crash.wait_new_lines()?;
        crash.wait_settled()?;
        // So that the next start, too, is one after a kill.
        crash.rig.world.gateway.take().expect("started above").kill()?;
        crash.note(&format!("a kill after {}", step.0))?;
    }
    crash.rig.world.start_gateway()?;
    crash.finish(0)
}

#[test]
fn a_gateway_killed_at_any_point_of_its_first_start_begins_as_if_nothing_had_been()
-> anyhow::Result<()> {
    let mut crash = Crash::new("the gateway's first start", quick())?;
    for &step in OPENING {
        crash.kill_gateway_at(step)?;
    }
    crash.rig.world.start_gateway()?;
    crash.finish(0)
}

#[test]
fn a_gateway_killed_at_any_write_to_its_outbox_loses_nothing_that_the_outbox_had()
-> anyhow::Result<()> {
    kill_at_each("the gateway's outbox", RUNNING, true)
}

#[test]
fn a_gateway_killed_at_any_send_loses_nothing_that_the_outbox_had() -> anyhow::Result<()> {
    kill_at_each("the gateway's sends", SENDING, false)
}
