//! The bridge, killed while a batch becomes a dead letter, and while a person works on one.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge::read_only;
use fieldpost_protocol::{Envelope, Metrics, Reading, Value, encode_readings};
use fieldpost_tests::rig::{SOON, wait_until};
use rusqlite::{Connection, params};
use rustix::process::Signal;

use super::Cause::Runs;
use super::crash::{Crash, quick};

pub(super) const POINTS: &[&str] = &[
    "ingest.dead_letter_inserted",
    "letter.retry.before_commit",
    "letter.retry.after_commit",
    "letter.drop.before_commit",
    "letter.drop.after_commit",
];

/// Rows of each of the two poisonous segments.
const ROWS: i64 = 3;

#[test]
fn a_dead_letter_is_kept_retried_and_dropped_once_whenever_the_program_is_killed()
-> anyhow::Result<()> {
    let mut crash = Crash::new("dead letters", quick())?;
    crash.rig.world.start_gateway()?;
    crash.wait_new_lines()?;
    crash.rig.world.gateway.take().expect("started above").kill()?;
    crash.note("the beginning")?;
    poison(&crash)?;
    crash.rig.world.bridge.take().expect("started with the rig").kill()?;
    crash.rig.world.start_gateway()?;
    crash.kill_bridge_at(("ingest.dead_letter_inserted", Runs(1)))?;
    crash.rig.world.start_bridge()?;
    wait_until("two dead letters", SOON, || Ok(letters(&crash)?.0 == 2))?;

    let (retried, dropped) = (1, 2);
    heal(&crash, retried)?;
    kill_command(&mut crash, "letter.retry.before_commit", &["retry", "1"])?;
    assert_eq!((letters(&crash)?, stored(&crash)?), ((2, 0), 0));
    kill_command(&mut crash, "letter.retry.after_commit", &["retry", "1"])?;
    assert_eq!((letters(&crash)?, stored(&crash)?), ((1, 0), ROWS));
    let again = crash.rig.world.run_bridge(&["deadletter", "retry", "1"]);
    assert!(again.is_err_and(|error| error.to_string().contains("there is no dead letter 1")));

    kill_command(&mut crash, "letter.drop.before_commit", &["drop", "2"])?;
    assert_eq!(letters(&crash)?, (1, 0));
    kill_command(&mut crash, "letter.drop.after_commit", &["drop", "2"])?;
    assert_eq!((letters(&crash)?, stored(&crash)?), ((0, 1), ROWS));
    let again = crash.rig.world.run_bridge(&["deadletter", "drop", "2"]);
    assert!(again.is_err_and(|error| error.to_string().contains("was dropped")), "{dropped}");
    crash.finish(ROWS as u64)
}

/// Kills a command of the bridge at a point; the bridge itself runs on.
fn kill_command(crash: &mut Crash, point: &str, arguments: &[&str]) -> anyhow::Result<()> {
    crash.arm("bridge", point, 1);
    let mut command = crash.rig.world.command("bridge");
    let output = command.arg("deadletter").args(arguments).output()?;
    crash.disarm();
    let killed = output.status.signal() == Some(Signal::KILL.as_raw());
    ensure!(killed, "{point}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("bridge's command killed at {point}");
    Ok(())
}

/// How many are open, and how many dropped.
fn letters(crash: &Crash) -> anyhow::Result<(i64, i64)> {
    let sql =
        "SELECT count(*) FILTER (WHERE state = 'open'), count(*) FILTER (WHERE state = 'dropped')
               FROM dead_letters";
    let storage = read_only(&crash.rig.world.storage())?;
    Ok(storage.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Rows of the poison's source that storage has.
fn stored(crash: &Crash) -> anyhow::Result<i64> {
    let sql = "SELECT count(*) FROM readings WHERE source = 'poison'";
    Ok(read_only(&crash.rig.world.storage())?.query_row(sql, [], |row| row.get(0))?)
}

/// Two segments that no storage can take: their text holds U+0000.
fn poison(crash: &Crash) -> anyhow::Result<()> {
    let db = Connection::open(crash.rig.world.outbox())?;
    db.execute(
        "INSERT INTO epoch (epoch, boot, start_ms, wall_ms, base, clock)
         VALUES (randomblob(16), 'another', 0, 1700000000000, 1700000000000, 'ntp')",
        [],
    )?;
    let epoch = db.last_insert_rowid();
    for segment in 0..2 {
        let body = encode_readings(&readings("a\0b"));
        let (first, last) = (segment * ROWS + 1, (segment + 1) * ROWS);
        db.execute(
            "INSERT INTO segment (epoch, first, last, t0, t1, bytes, body) VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6)",
            params![epoch, first, last, ROWS - 1, body.len() as i64, body],
        )?;
    }
    Ok(())
}

fn readings(text: &str) -> Vec<Reading> {
    let source: Arc<str> = "poison".into();
    let metrics =
        Metrics::new(vec![("text".into(), Value::Text(text.into()))]).expect("one metric");
    let reading =
        |offset_ms| Reading { source: source.clone(), offset_ms, metrics: metrics.clone() };
    (0..ROWS).map(reading).collect()
}

/// In place of an update that has taught the bridge to read it: the letter's body becomes good.
fn heal(crash: &Crash, id: i64) -> anyhow::Result<()> {
    let db = Connection::open(crash.rig.world.storage())?;
    db.busy_timeout(SOON)?;
    let sql = "SELECT message FROM dead_letter WHERE id = ?1";
    let message: Vec<u8> = db.query_row(sql, [id], |row| row.get(0))?;
    let mut envelope = Envelope::decode(&message).context("decoding the letter")?;
    envelope.body = encode_readings(&readings("good"));
    let sql = "UPDATE dead_letter SET message = ?2 WHERE id = ?1";
    db.execute(sql, params![id, envelope.encode()])?;
    Ok(())
}
