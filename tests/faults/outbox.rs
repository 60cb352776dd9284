//! The outbox file is damaged, deleted, put back from a copy, or opened by somebody else.

mod holes;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge::{self, Found};
use fieldpost_tests::rig::{Rig, SOON, chance, wait_until};
use rusqlite::Connection;

use crate::settings;

/// Lines a second.
const RATE: f64 = 300.0;

/// The file, its log and its index.
const FILES: [&str; 3] = ["", "-wal", "-shm"];

fn file(outbox: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", outbox.display()))
}

/// An outbox as it lay there while nobody ran.
struct Copy(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Copy {
    fn take(outbox: &Path) -> Copy {
        let bytes = |suffix: &&str| {
            let path = file(outbox, suffix);
            let bytes = std::fs::read(&path).ok();
            (path, bytes)
        };
        Copy(FILES.iter().map(bytes).collect())
    }

    fn put_back(&self) -> anyhow::Result<()> {
        for (path, bytes) in &self.0 {
            match bytes {
                Some(bytes) => std::fs::write(path, bytes)?,
                None if path.exists() => std::fs::remove_file(path)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// Starts the gateway, and waits until it has opened its outbox: SQLite deletes the log of an
/// empty file for whoever asks first, and that must not be this test. False: it has ended.
fn start_gateway(rig: &mut Rig) -> anyhow::Result<bool> {
    let opened = rig.times_said("gateway", "outbox open")?;
    rig.world.start_gateway()?;
    let mut ended = false;
    wait_until("opening the outbox", SOON, || {
        ended = rig.world.ended()?.is_some();
        Ok(ended || rig.times_said("gateway", "outbox open")? > opened)
    })?;
    Ok(!ended)
}

fn kill_gateway(rig: &mut Rig) -> anyhow::Result<()> {
    rig.world.gateway.take().context("it runs")?.kill()
}

/// How many damaged outboxes were moved aside, files and logs. Of one log there may be two:
/// `-log` as it was found, `-wal` as it was when the file turned out damaged too.
fn moved_aside(rig: &Rig) -> anyhow::Result<(usize, usize)> {
    let files = std::fs::read_dir(rig.world.dir())?.flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let aside: Vec<String> = names.filter(|name| name.contains(".damaged-")).collect();
    let ends = |end| aside.iter().filter_map(move |name| name.strip_suffix(end));
    let logs: BTreeSet<&str> = ends("-wal").chain(ends("-log")).collect();
    let files = aside.iter().filter(|name| !FILES[1..].iter().any(|end| name.ends_with(end)));
    Ok((files.filter(|name| !name.ends_with("-log")).count(), logs.len()))
}

/// The way until storage has all that the outbox holds, and waits for nothing.
fn settle(rig: &mut Rig) -> anyhow::Result<Found> {
    rig.drain()?;
    let held = rig.accepted()?;
    let mut found = Found::default();
    wait_until("settling", SOON, || {
        found = judge::stored(&rig.world.storage(), &rig.ledger)?;
        Ok(found.waiting == 0 && held.iter().all(|line| found.lines.contains_key(line)))
    })?;
    assert_eq!(found.wrong, Vec::<String>::new());
    assert_eq!(found.duplicates(), 0);
    for program in ["gateway", "bridge"] {
        assert_eq!(rig.times_said(program, "panicked")?, 0, "the {program} has panicked");
    }
    Ok(found)
}

/// Of an outbox.
const PAGE_BYTES: usize = 1_024;

/// What becomes of a file while nobody runs. All but the first of these leave it another.
const DAMAGES: [&str; 9] = [
    "log truncated",
    "truncated",
    "emptied",
    "garbage",
    "deleted",
    "log deleted",
    "bits of the file",
    "bits of the log",
    "a page",
];

fn damage(outbox: &Path, how: &str, chance: &mut fastrand::Rng) -> anyhow::Result<()> {
    let path = if how.contains("log") { file(outbox, "-wal") } else { outbox.to_owned() };
    let mut bytes = std::fs::read(&path).unwrap_or_default();
    match how {
        "deleted" | "log deleted" => return Ok(std::fs::remove_file(&path)?),
        "emptied" => bytes.clear(),
        "truncated" | "log truncated" => bytes.truncate(chance.usize(0..bytes.len().max(1))),
        "garbage" => bytes.iter_mut().for_each(|byte| *byte = chance.u8(..)),
        "a page" => {
            let at = chance.usize(0..bytes.len() / PAGE_BYTES) * PAGE_BYTES;
            bytes[at..at + PAGE_BYTES].iter_mut().for_each(|byte| *byte = chance.u8(..));
        }
        _ => {
            for _ in 0..chance.usize(1..20) {
                let mut at = chance.usize(0..bytes.len());
                // Where SQLite finds its way. What a row says has no checksum: docs/reliability.md.
                if how.contains("file") && at >= PAGE_BYTES {
                    at = at / PAGE_BYTES * PAGE_BYTES + chance.usize(0..4);
                }
                bytes[at] ^= 1 << chance.u32(0..8);
            }
        }
    }
    Ok(std::fs::write(path, bytes)?)
}

#[test]
fn an_outbox_that_was_damaged_in_any_way_is_kept_or_read_and_storage_stays_exact()
-> anyhow::Result<()> {
    let mut chance = chance();
    let mut quick = settings();
    quick.gateway.push(("outbox", "commit_interval = \"200ms\"".to_owned()));
    let mut rig = Rig::new(quick)?;
    rig.start(RATE)?;
    let mut rounds: Vec<&str> = DAMAGES.to_vec();
    chance.shuffle(&mut rounds);
    let mut gone = BTreeSet::new();
    for how in rounds {
        rig.wait_accepting()?;
        rig.wait_sent(rig.ledger.len() + 150)?;
        // Storage has all of it, or not: a flipped bit in a row is seen by no checksum.
        let with_backlog = !how.contains("bits of the file") && chance.bool();
        if with_backlog {
            rig.world.stop_bridge()?;
            rig.wait_sent(rig.ledger.len() + 600)?;
        } else {
            wait_until("storing", SOON, || {
                let stored = judge::stored(&rig.world.storage(), &rig.ledger)?.lines;
                Ok(rig.accepted()?.iter().all(|line| stored.contains_key(line)))
            })?;
        }
        kill_gateway(&mut rig)?;
        let outbox = rig.world.outbox();
        let whole = Copy::take(&outbox);
        let before = rig.accepted()?;
        whole.put_back()?;
        let (files, logs) = moved_aside(&rig)?;
        damage(&outbox, how, &mut chance)?;

        if !start_gateway(&mut rig)? {
            // A flipped bit may say another format, another program or another device.
            let said = std::fs::read_to_string(rig.world.log("gateway"))?;
            let last = said.lines().last().unwrap_or_default();
            println!("{how}: refused: {last}");
            ensure!(how.starts_with("bits"), "refused after {how}: {last}");
            drop(rig.world.gateway.take());
            whole.put_back()?;
            ensure!(start_gateway(&mut rig)?, "refused as it was");
        }
        rig.wait_accepting()?;
        let after = rig.accepted()?;
        let (files, logs) = (moved_aside(&rig)?.0 - files, moved_aside(&rig)?.1 - logs);
        let lost: Vec<&u64> = before.difference(&after).collect();
        println!(
            "{how}, backlog {with_backlog}: {} of {} accepted gone, {files} files and {logs} logs aside",
            lost.len(),
            before.len()
        );
        if files + logs > 0 {
            let alone = how == "deleted" || how.contains("log");
            assert!(files == 1 || alone, "{how}: the file is kept");
            assert!(logs == 1 || how == "log deleted", "{how}: the log is kept with it");
            rig.wait_raised("outbox_damaged")?;
        } else if how.contains("log") {
            // It may lose its end without a trace: that is what a torn write looks like.
            let kept = before.intersection(&after).max();
            assert!(lost.first().is_none_or(|first| kept < Some(first)), "{how}: a hole");
            // But not several seconds out of its middle.
            assert!(
                lost.len() < 3 * RATE as usize || how != "bits of the log",
                "{how}: not noticed"
            );
        } else {
            assert_eq!(lost, Vec::<&u64>::new(), "{how}: gone, and nothing was kept");
        }
        gone.extend(lost);
        if rig.world.bridge.is_none() {
            rig.world.start_bridge()?;
        }
    }
    rig.wait_accepting()?;
    let found = settle(&mut rig)?;
    rig.books_add_up()?;
    let gone = gone.iter().filter(|line| !found.lines.contains_key(line)).count() as u64;
    println!("accepted, and lost with the file: {gone}; shown as missing: {}", found.missing);
    assert!(found.missing <= gone + system_rows(&rig)?, "{} missing, {gone} gone", found.missing);
    Ok(())
}

/// Rows of the gateway's own source count as missing, too; there is one in ten seconds.
fn system_rows(rig: &Rig) -> anyhow::Result<u64> {
    Ok(rig.ledger.len() / RATE as u64 / 10 + 20)
}

/// Rows of readings by epoch and number; `sql` names epoch, first and last.
fn rows(file: &Path, sql: &str) -> anyhow::Result<BTreeSet<(String, i64)>> {
    let conn = judge::read_only(file)?;
    let mut statement = conn.prepare(sql)?;
    let runs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?..=row.get(2)?)))?;
    let mut rows = BTreeSet::new();
    for run in runs {
        let (epoch, seqs): (String, std::ops::RangeInclusive<i64>) = run?;
        rows.extend(seqs.map(|seq| (epoch.clone(), seq)));
    }
    Ok(rows)
}

/// What an outbox holds.
const HELD: &str = "SELECT lower(hex(e.epoch)), seq, seq FROM tail JOIN epoch e ON e.id = tail.epoch
    UNION ALL SELECT lower(hex(e.epoch)), first, last FROM segment JOIN epoch e ON e.id = segment.epoch";
/// What storage has, what it has heard of, and what it shows as missing.
const STORED: &str = "SELECT epoch, seq, seq FROM readings";
const CLAIMED: &str =
    "SELECT lower(hex(e.epoch)), 1, claimed FROM stream JOIN epoch e ON e.ref = stream.epoch
    WHERE stream.stream = 'readings'";
const MISSING: &str = "SELECT epoch, first, last FROM missing WHERE stream = 'readings'";

#[test]
fn an_outbox_put_back_from_a_copy_sends_again_and_what_storage_had_heard_of_is_missing()
-> anyhow::Result<()> {
    let mut alone = settings();
    // Each row is a line of the board's.
    alone.gateway.push(("system", "enabled = false".to_owned()));
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(alone)?;
    let (outbox, storage) = (rig.world.outbox(), rig.world.storage());
    rig.run(RATE)?;
    kill_gateway(&mut rig)?;
    let copy = Copy::take(&outbox);

    // The copy knows nothing of this epoch. Some of it is stored; then batches are dropped on
    // their way, and hellos are not.
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    rig.wait_stored(rig.accepted()?.len() as u64)?;
    let rules = std::fs::read_to_string(mosquitto.acl())?;
    let less = rules.replace("pattern write devices/%u/sensor_data\n", "");
    ensure!(less != rules, "the rules name the topic");
    std::fs::write(mosquitto.acl(), less)?;
    mosquitto.reload()?;
    rig.wait_sent(rig.ledger.len() + 600)?;
    rig.wait_accepting()?;
    kill_gateway(&mut rig)?;
    let told = rows(&outbox, HELD)?;
    rig.world.start_gateway()?;
    wait_until("a hello that names all of it", SOON, || {
        Ok(rows(&storage, CLAIMED)?.is_superset(&told))
    })?;
    // And of most of this epoch only the card knows.
    rig.wait_accepting()?;
    rig.wait_sent(rig.ledger.len() + 300)?;
    rig.wait_accepting()?;
    kill_gateway(&mut rig)?;
    let (before, replaced) = (rig.accepted()?, rows(&outbox, HELD)?);
    let newer = Copy::take(&outbox);

    copy.put_back()?;
    let kept = rows(&outbox, HELD)?;
    std::fs::write(mosquitto.acl(), rules)?;
    mosquitto.reload()?;
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    assert_eq!(moved_aside(&rig)?, (0, 0), "a copy is no damage");
    let found = settle(&mut rig)?;
    rig.books_add_up()?;
    let (stored, claimed) = (rows(&storage, STORED)?, rows(&storage, CLAIMED)?);
    let lost: BTreeSet<_> = replaced.difference(&stored).cloned().collect();
    let heard: BTreeSet<_> = claimed.intersection(&lost).cloned().collect();
    let gone = before.iter().filter(|line| !found.lines.contains_key(line)).count();
    println!("rolled back: {} rows are gone, {} of them were heard of", lost.len(), heard.len());
    assert!(kept.is_subset(&stored) && told.is_subset(&claimed));
    assert_eq!(gone, lost.len());
    assert!(told.difference(&stored).count() >= 300, "dropped on their way");
    assert!(lost.len() - heard.len() >= 300, "the card alone knew them");
    assert!(rows(&storage, MISSING)? == heard, "{} are shown as missing", found.missing);

    // The first card turns up again: what seemed lost comes, and nothing comes twice.
    kill_gateway(&mut rig)?;
    let second = rig.accepted()?;
    newer.put_back()?;
    rig.board = None;
    rig.plug(RATE)?;
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    let found = settle(&mut rig)?;
    rig.books_add_up()?;
    let lost = before.union(&second).filter(|line| !found.lines.contains_key(line)).count();
    assert_eq!((lost, found.missing), (0, 0));
    Ok(())
}

#[test]
fn an_outbox_deleted_under_a_running_gateway_still_drains_and_the_next_start_begins_anew()
-> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.world.start_gateway()?;
    rig.plug(RATE)?;
    rig.wait_sent(600)?;
    rig.wait_accepting()?;
    for suffix in FILES {
        std::fs::remove_file(file(&rig.world.outbox(), suffix))?;
    }
    rig.wait_raised("outbox_replaced")?;
    rig.world.start_bridge()?;
    rig.board.as_ref().context("plugged in above")?.pause();
    wait_until("draining", SOON, || {
        let stored = judge::stored(&rig.world.storage(), &rig.ledger)?.stored();
        Ok(stored == rig.ledger.len())
    })?;
    rig.world.stop_gateway()?;
    rig.board = None;
    let lines = rig.ledger.len();
    rig.world.start_gateway()?;
    wait_until("a new outbox", SOON, || Ok(rig.accepted().is_ok_and(|lines| lines.is_empty())))?;
    let found = judge::stored(&rig.world.storage(), &rig.ledger)?;
    assert_eq!((found.stored(), found.duplicates(), found.wrong_count), (lines, 0, 0));
    Ok(())
}

#[test]
fn a_second_gateway_on_an_outbox_exits_and_names_the_first() -> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.run(RATE)?;
    let first = rig.world.gateway.as_ref().context("started above")?.id();
    let second = rig.world.command("gateway").arg("run").stderr(Stdio::piped()).spawn();
    let mut second = second.context("starting the second")?;
    let ended = wait_until("the second's end", SOON, || Ok(second.try_wait()?.is_some()));
    let _ = second.kill();
    let output = second.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ended.with_context(|| said.to_string())?;
    assert!(!output.status.success());
    assert!(said.contains(&format!("in use by process {first}")), "{said}");
    let found = rig.settle()?;
    assert_eq!(found.stored(), rig.ledger.len());
    Ok(())
}

#[test]
fn somebody_who_locks_the_outbox_makes_readings_wait_and_a_reader_disturbs_nobody()
-> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.run(RATE)?;
    // The shell, as people use it.
    let count = Command::new("sqlite3")
        .arg(rig.world.outbox())
        .arg("SELECT count(*) FROM recent")
        .stdin(Stdio::null())
        .output()
        .context("running sqlite3; it is in Debian's package sqlite3")?;
    assert!(count.status.success(), "{count:?}");
    let reader = Connection::open(rig.world.outbox())?;
    reader.execute_batch("BEGIN; SELECT count(*) FROM tail;")?;
    rig.wait_accepting()?;

    let writer = Connection::open(rig.world.outbox())?;
    writer.busy_timeout(SOON)?;
    writer.execute_batch("BEGIN IMMEDIATE")?;
    let accepted = rig.accepted()?;
    rig.wait_raised("outbox_failing")?;
    assert_eq!(rig.accepted()?, accepted);
    writer.execute_batch("ROLLBACK")?;
    reader.execute_batch("ROLLBACK")?;
    rig.wait_cleared("outbox_failing", SOON)?;
    let found = rig.settle()?;
    assert_eq!(found.stored(), rig.ledger.len(), "they waited, and none was refused");
    Ok(())
}
