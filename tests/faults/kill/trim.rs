//! The gateway, killed while it lets go of what retention does not keep.

use super::crash::{Crash, quick};
use fieldpost_demo::judge::read_only;

pub(super) const POINTS: &[&str] = &[
    "outbox.trim.segments_deleted",
    "outbox.trim.epochs_buried",
    "outbox.trim.before_commit",
    "outbox.trim.after_commit",
];

/// Lines a second: a tail that is full in half a minute, and becomes a segment.
const SLOW_RATE: f64 = 40.0;

/// A gateway trims a minute after its start: four of them at once.
#[test]
fn a_gateway_killed_at_any_point_of_a_trim_lets_go_of_nothing_that_storage_lacks()
-> anyhow::Result<()> {
    super::at_once(POINTS, trim)
}

fn trim(point: &'static str) -> anyhow::Result<()> {
    let mut settings = quick();
    settings.gateway.push(("outbox", "retention_age = \"0s\"".to_owned()));
    let mut crash = Crash::new(point, settings)?;
    crash.rig.world.start_gateway()?;
    // What a state lists as stored may go; a sync ack alone is not enough.
    let stored = crash.quiet()?.stored();
    crash.rig.world.gateway.take().expect("started above").kill()?;
    let count = |crash: &Crash, sql: &str| -> anyhow::Result<i64> {
        Ok(read_only(&crash.rig.world.outbox())?.query_row(sql, [], |row| row.get(0))?)
    };
    crash.rig.board = None;
    crash.rig.plug(SLOW_RATE)?;
    crash.arm("gateway", point, 1);
    crash.rig.world.start_gateway()?;
    // The first batch leaves after a state: the old rows may go. What comes now nobody takes
    // but the broker, and its puback must not let go of anything.
    crash.rig.wait_stored(stored + 1)?;
    crash.rig.world.bridge.take().expect("started with the rig").kill()?;
    crash.wait_killed("gateway", point)?;
    crash.note(point)?;
    println!("gateway killed at {point}");
    let buried = count(&crash, "SELECT count(*) FROM tombstone")?;
    assert_eq!(buried > 0, point.ends_with("after_commit"), "{point}: {buried} tombstones");
    // Full ones, which nobody has stored.
    let kept = count(&crash, "SELECT count(*) FROM segment WHERE last - first > 500")?;
    assert!(kept > 0, "{point}: nothing was there to be kept");
    crash.rig.world.start_bridge()?;
    crash.rig.world.start_gateway()?;
    crash.finish(0)
}
