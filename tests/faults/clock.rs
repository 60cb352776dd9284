//! The wall clock: at 1970, set late, set again and again, and a bridge whose clock is wrong.
//!
//! `clock.c` is preloaded into one program and moves its wall clock alone; its boot time goes on.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use fieldpost_demo::board::unix_ms;
use fieldpost_demo::judge::{self, read_only};
use fieldpost_demo::ledger::{SOURCE, TIME_TOLERANCE_MS};
use fieldpost_demo::world::{Programs, Settings};
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use serde_json::Value as Json;

use crate::{assert_clean, settings};

const HOUR_MS: i64 = 3_600_000;

/// A clock that one program has instead of the machine's. Its file lives in `dir`.
struct Clock {
    file: std::fs::File,
    variables: [String; 2],
}

impl Clock {
    fn new(dir: &Path, name: &str, ahead_ms: i64, synchronised: bool) -> anyhow::Result<Clock> {
        let library = dir.join("clock.so");
        if !library.exists() {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/clock.c");
            let mut cc = Command::new("cc");
            let cc = cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
            let ended = cc.arg(&library).arg(source).status();
            let ended =
                ended.context("this test needs a C compiler: apt-get install build-essential")?;
            ensure!(ended.success(), "cc ended with {ended}");
        }
        let path = dir.join(name);
        let file = std::fs::File::create(&path)?;
        let variables =
            [format!("LD_PRELOAD={}", library.display()), format!("TEST_CLOCK={}", path.display())];
        let clock = Clock { file, variables };
        clock.set(ahead_ms, synchronised)?;
        Ok(clock)
    }

    fn set(&self, ahead_ms: i64, synchronised: bool) -> anyhow::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&ahead_ms.to_ne_bytes());
        bytes[8..].copy_from_slice(&i64::from(synchronised).to_ne_bytes());
        Ok(self.file.write_all_at(&bytes, 0)?)
    }

    /// The gateway gets this clock.
    fn of_gateway(&self, settings: &mut Settings) {
        settings.gateway_wrapper = vec!["env".to_owned()];
        settings.gateway_wrapper.extend(self.variables.iter().cloned());
    }

    /// The bridge gets it: by a script that becomes the bridge.
    fn of_bridge(&self, dir: &Path, settings: &mut Settings) -> anyhow::Result<()> {
        let Programs::Files { bridge, .. } = &mut settings.programs else { return Ok(()) };
        let script = dir.join("bridge-with-a-clock");
        let [library, file] = &self.variables;
        std::fs::write(
            &script,
            format!("#!/bin/sh\nexec env '{library}' '{file}' '{}' \"$@\"\n", bridge.display()),
        )?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        *bridge = script;
        Ok(())
    }
}

/// Commits often, so that a jump is soon seen.
fn quick() -> Settings {
    let mut settings = settings();
    settings.gateway.push(("outbox", "commit_interval = \"100ms\"".to_owned()));
    settings
}

fn status(rig: &Rig) -> anyhow::Result<Json> {
    let text = std::fs::read(rig.world.status()).context("reading the status file")?;
    Ok(serde_json::from_slice(&text)?)
}

fn wait_accepted(rig: &Rig, lines: usize) -> anyhow::Result<()> {
    let outbox = rig.world.outbox();
    wait_until("accepting", SOON, || {
        Ok(outbox.exists() && rig.accepted().is_ok_and(|n| n.len() >= lines))
    })
}

/// A row of the board's in storage.
#[derive(Debug)]
struct Row {
    epoch: i64,
    line: u64,
    /// Its time is so much later than that of the line.
    off_ms: i64,
    clock: String,
}

/// All of them by (epoch, seq); epochs in the order in which storage has heard of them.
fn rows(rig: &Rig) -> anyhow::Result<Vec<Row>> {
    let conn = read_only(&rig.world.storage())?;
    let mut query = conn.prepare(
        "SELECT r.epoch, r.metrics ->> 'n', r.time, e.clock FROM reading r
         JOIN epoch e ON e.ref = r.epoch JOIN source s ON s.ref = r.source
         WHERE s.id = ?1 ORDER BY r.epoch, r.seq",
    )?;
    let rows = query.query_map([SOURCE], |row| {
        let (epoch, line, time_ms) = (row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?);
        Ok(Row { epoch, line, off_ms: time_ms, clock: row.get(3)? })
    })?;
    rows.map(|row| {
        let row = row?;
        let sent = rig.ledger.line(row.line).context("a line that nobody sent")?;
        Ok(Row { off_ms: row.off_ms - sent.time_ms, ..row })
    })
    .collect()
}

/// In each epoch the rows lie as the board sent them.
#[track_caller]
fn assert_in_order(rows: &[Row]) {
    for epoch in rows.chunk_by(|a, b| a.epoch == b.epoch) {
        assert!(epoch.is_sorted_by_key(|row| row.line), "{epoch:?}");
    }
}

/// How many epochs of the device have readings of the board.
fn epochs(rig: &Rig) -> anyhow::Result<i64> {
    let sql = "SELECT count(DISTINCT r.epoch) FROM reading r JOIN source s ON s.ref = r.source WHERE s.id = ?1";
    Ok(read_only(&rig.world.storage())?.query_row(sql, [SOURCE], |row| row.get(0))?)
}

fn alert(rig: &Rig, name: &str, state: &str) -> anyhow::Result<bool> {
    let sql = "SELECT count(*) FROM alerts WHERE name = ?1 AND state = ?2";
    let conn = read_only(&rig.world.storage())?;
    Ok(conn.query_row(sql, [name, state], |row| row.get::<_, i64>(0))? > 0)
}

fn near(off_ms: i64) -> bool {
    off_ms.abs() <= TIME_TOLERANCE_MS
}

#[test]
fn readings_taken_in_1970_get_their_time_once_the_clock_is_set() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let clock = Clock::new(dir.path(), "gateway", 60_000 - unix_ms(), false)?;
    let mut settings = quick();
    clock.of_gateway(&mut settings);
    let mut rig = Rig::new(settings)?;
    rig.start(50.0)?;
    wait_accepted(&rig, 100)?;
    // No certificate is valid yet, so nobody can tell the time either: only NTP helps.
    wait_until("the reason in the status file", SOON, || {
        Ok(status(&rig).is_ok_and(|status| status["last_error"].is_string()))
    })?;
    let waiting = status(&rig)?;
    println!("in 1970: broker {}, {}", waiting["broker"], waiting["last_error"]);
    assert!(waiting["written"].as_i64().is_some_and(|ms| ms < HOUR_MS), "the clock is at 1970");
    assert_eq!(waiting["clock"], "unsynced");
    assert_eq!(judge::stored(&rig.world.storage(), &rig.ledger)?.stored(), 0);

    clock.set(0, true)?;
    rig.wait_stored(200)?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), rig.ledger.len());
    assert_eq!(epochs(&rig)?, 2, "one of before the clock was set, one of after");
    let rows = rows(&rig)?;
    assert!(rows.iter().all(|row| row.clock == "ntp"));
    assert_in_order(&rows);
    Ok(())
}

#[test]
fn readings_of_a_boot_that_never_knew_the_time_are_stored_and_marked() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let clock = Clock::new(dir.path(), "gateway", 60_000 - unix_ms(), false)?;
    let mut settings = quick();
    clock.of_gateway(&mut settings);
    let mut rig = Rig::new(settings)?;
    rig.world.start_gateway()?;
    rig.plug(50.0)?;
    wait_accepted(&rig, 100)?;
    rig.board.take();
    rig.world.stop_gateway()?;
    let old = rig.accepted()?.len();
    // The machine has started again since; this one cannot, so its outbox says so.
    rusqlite::Connection::open(rig.world.outbox())?
        .execute("UPDATE epoch SET boot = 'before'", [])?;

    clock.set(0, true)?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    wait_until("storing the old readings", SOON, || Ok(rows(&rig)?.len() >= old))?;
    let rows = rows(&rig)?;
    let lines: Vec<u64> = rows.iter().map(|row| row.line).collect();
    assert_eq!(lines, (1..=old as u64).collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row.clock == "unsynced"), "the mark is missing");
    let off = rows.iter().map(|row| row.off_ms + unix_ms());
    // The wall clock as it stood: off by all the time since 1970, give or take this test.
    assert!(off.max().is_some_and(|ms| ms < HOUR_MS), "the wall clock stood at 1970");
    Ok(())
}

#[test]
fn jumps_of_hours_both_ways_change_no_time_no_order_and_no_row() -> anyhow::Result<()> {
    // Within a day: so long ago the certificates begin.
    const JUMPS_HOURS: [i64; 6] = [5, -7, 20, -20, 1, 0];
    let dir = tempfile::tempdir()?;
    let clock = Clock::new(dir.path(), "gateway", 0, false)?;
    let mut settings = quick();
    clock.of_gateway(&mut settings);
    let mut rig = Rig::new(settings)?;
    rig.start(50.0)?;
    rig.wait_stored(50)?;
    for hours in JUMPS_HOURS {
        clock.set(hours * HOUR_MS, false)?;
        let lines = rig.accepted()?.len() + 25;
        wait_accepted(&rig, lines)?;
    }
    let found = rig.drain()?;
    println!(
        "{} jumps: {} lines stored in {} epochs",
        JUMPS_HOURS.len(),
        found.stored(),
        epochs(&rig)?
    );
    assert_clean(&found);
    assert_eq!(found.stored(), rig.ledger.len());
    assert_eq!(epochs(&rig)?, 1 + JUMPS_HOURS.len() as i64);
    let rows = rows(&rig)?;
    assert_in_order(&rows);
    assert!(rows.iter().all(|row| row.clock == "bridge"), "nobody else knew the time");
    Ok(())
}

#[test]
fn a_bridge_with_a_wrong_clock_is_an_alert_where_ntp_knows_better() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let right = Clock::new(dir.path(), "gateway", 0, true)?;
    let wrong = Clock::new(dir.path(), "bridge", 2 * HOUR_MS, false)?;
    let mut settings = quick();
    right.of_gateway(&mut settings);
    wrong.of_bridge(dir.path(), &mut settings)?;
    let mut rig = Rig::new(settings)?;
    rig.start(50.0)?;
    wait_until("the alert in storage", SOON, || alert(&rig, "clock_differs", "raised"))?;
    wrong.set(0, true)?;
    rig.world.stop_bridge()?;
    rig.world.start_bridge()?;
    wait_until("its end in storage", SOON, || alert(&rig, "clock_differs", "cleared"))?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(epochs(&rig)?, 1);
    assert!(rows(&rig)?.iter().all(|row| row.clock == "ntp"));
    Ok(())
}

#[test]
fn a_bridge_whose_clock_is_put_right_begins_a_new_epoch_of_who_believed_it() -> anyhow::Result<()> {
    const AHEAD_MS: i64 = 2 * HOUR_MS;
    let dir = tempfile::tempdir()?;
    let none = Clock::new(dir.path(), "gateway", 0, false)?;
    let wrong = Clock::new(dir.path(), "bridge", AHEAD_MS, false)?;
    let mut settings = quick();
    none.of_gateway(&mut settings);
    wrong.of_bridge(dir.path(), &mut settings)?;
    let mut rig = Rig::new(settings)?;
    rig.start(50.0)?;
    rig.wait_stored(50)?;
    wrong.set(0, true)?;
    rig.world.stop_bridge()?;
    rig.world.start_bridge()?;
    wait_until("rows of a new epoch", SOON, || Ok(epochs(&rig)? == 2))?;
    let lines = rig.ledger.len() + 50;
    rig.wait_sent(lines)?;
    let found = rig.drain()?;
    assert_eq!((found.duplicates(), found.missing, found.waiting), (0, 0, 0));
    assert_eq!(found.stored(), rig.ledger.len());
    let rows = rows(&rig)?;
    // A base never changes: what was stored under the wrong time keeps it, as one block.
    let believed = rows.iter().take_while(|row| near(row.off_ms - AHEAD_MS)).count();
    println!("{believed} rows two hours ahead, {} right", rows.len() - believed);
    assert!(believed >= 50 && rows[believed..].len() >= 50);
    assert!(rows[believed..].iter().all(|row| near(row.off_ms)), "{rows:?}");
    assert_in_order(&rows);
    Ok(())
}
