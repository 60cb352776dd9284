//! The gateway, killed while it drops the oldest readings to make room.

use std::sync::Arc;

use fieldpost_demo::judge::read_only;
use fieldpost_protocol::{Metrics, Reading, Value, encode_readings};
use rusqlite::{Connection, params};

use super::Cause::Runs;
use super::crash::{Crash, RATE, quick};

pub(super) const POINTS: &[&str] = &["outbox.append.oldest_dropped"];

/// Segments of a stranger's readings, more than an outbox of the smallest size may hold.
const SEGMENTS: i64 = 80;
const SEGMENT_ROWS: i64 = 20;

#[test]
fn a_gateway_killed_while_it_drops_the_oldest_shows_exactly_those_as_missing() -> anyhow::Result<()>
{
    let mut settings = quick();
    settings.gateway.push(("outbox", "size_max = \"4MiB\"".to_owned()));
    settings.gateway.push(("outbox", "when_full = \"drop_oldest\"".to_owned()));
    let mut crash = Crash::new("no room", settings)?;
    crash.rig.world.start_gateway()?;
    crash.quiet()?;
    // Nobody takes anything from here on: what goes is lost.
    crash.rig.world.stop_bridge()?;
    crash.rig.world.stop_gateway()?;
    fill(&crash)?;
    crash.rig.board = None;
    crash.rig.plug(RATE)?;
    for _ in 0..2 {
        crash.kill_gateway_at((POINTS[0], Runs(10)))?;
    }
    crash.rig.world.start_gateway()?;
    crash.wait_new_lines()?;
    let left: i64 = read_only(&crash.rig.world.outbox())?.query_row(
        "SELECT coalesce(sum(last - first + 1), 0) FROM segment JOIN epoch ON epoch.id = segment.epoch
         WHERE epoch.boot = 'another'",
        [],
        |row| row.get(0),
    )?;
    let dropped = SEGMENTS * SEGMENT_ROWS - left;
    println!("{dropped} rows dropped, {left} left");
    assert!(dropped > 0 && left > 0);
    crash.rig.world.start_bridge()?;
    crash.finish(dropped as u64)
}

/// Puts an earlier epoch into the outbox that nobody has acked: text that does not compress.
fn fill(crash: &Crash) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut db = Connection::open(crash.rig.world.outbox())?;
    let transaction = db.transaction()?;
    transaction.execute(
        "INSERT INTO epoch (epoch, boot, start_ms, wall_ms, base, clock)
         VALUES (randomblob(16), 'another', 0, 1700000000000, 1700000000000, 'ntp')",
        [],
    )?;
    let epoch = transaction.last_insert_rowid();
    let source: Arc<str> = "filler".into();
    for segment in 0..SEGMENTS {
        let readings: Vec<Reading> = (0..SEGMENT_ROWS)
            .map(|row| {
                let text: String = (0..3_000).map(|_| random.alphanumeric()).collect();
                let metrics = Metrics::new(vec![("text".into(), Value::Text(text.into()))]);
                let metrics = metrics.expect("one metric");
                Reading { source: source.clone(), offset_ms: segment * 1_000 + row, metrics }
            })
            .collect();
        let body = encode_readings(&readings);
        let first = segment * SEGMENT_ROWS + 1;
        transaction.execute(
            "INSERT INTO segment (epoch, first, last, t0, t1, bytes, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                epoch,
                first,
                first + SEGMENT_ROWS - 1,
                readings[0].offset_ms,
                segment * 1_000 + SEGMENT_ROWS - 1,
                body.len() as i64,
                body
            ],
        )?;
    }
    Ok(transaction.commit()?)
}
