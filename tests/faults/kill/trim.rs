//! The gateway, killed while it lets go of what retention does not keep.

use super::Cause::Runs;
use super::crash::{Crash, quick};
use fieldpost_demo::judge::read_only;

pub(super) const POINTS: &[&str] = &[
    "outbox.trim.segments_deleted",
    "outbox.trim.epochs_buried",
    "outbox.trim.before_commit",
    "outbox.trim.after_commit",
];

/// A gateway trims a minute after its start: four of them at once.
#[test]
fn a_gateway_killed_at_any_point_of_a_trim_lets_go_of_nothing_that_storage_lacks()
-> anyhow::Result<()> {
    let runs: Vec<_> =
        POINTS.iter().map(|&point| std::thread::spawn(move || trim(point))).collect();
    for run in runs {
        run.join().expect("it panics only where a test fails")?;
    }
    Ok(())
}

fn trim(point: &'static str) -> anyhow::Result<()> {
    let mut settings = quick();
    settings.gateway.push(("outbox", "retention_age = \"0s\"".to_owned()));
    let mut crash = Crash::new(point, settings)?;
    crash.rig.world.start_gateway()?;
    // What a state lists as stored may go; a sync ack alone is not enough.
    crash.quiet()?;
    crash.rig.world.gateway.take().expect("started above").kill()?;
    let tombstones = |crash: &Crash| -> anyhow::Result<i64> {
        let count = "SELECT count(*) FROM tombstone";
        Ok(read_only(&crash.rig.world.outbox())?.query_row(count, [], |row| row.get(0))?)
    };
    // Half a minute of lines would be as good as one: the board is slower here.
    crash.rig.board = None;
    crash.rig.plug(20.0)?;
    crash.kill_gateway_at((point, Runs(1)))?;
    let buried = tombstones(&crash)?;
    assert_eq!(buried > 0, point.ends_with("after_commit"), "{point}: {buried} tombstones");
    crash.rig.world.start_gateway()?;
    crash.finish(0)
}
