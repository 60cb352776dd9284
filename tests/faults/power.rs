//! The power is cut: what the kernel had not yet brought to the card is gone.
//!
//! Beside the gateway two plain writers commit to the same card at the same rate, one with
//! `synchronous=FULL` as the outbox has it, one with `NORMAL`. The second must lose rows: it
//! shows that the cut really cuts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge;
use fieldpost_tests::disk::Disk;
use fieldpost_tests::rig::{Rig, SOON, chance, pass, wait_until};
use rusqlite::Connection;

use crate::settings;

/// The product's: the default of `commit_interval`.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Lost lines that a failure names.
const SHOWN: usize = 10;
/// Rows in one transaction of a plain writer.
const GROUP: u64 = 10;

#[test]
fn a_power_cut_takes_nothing_that_was_accepted_at_300_lines_a_second() -> anyhow::Result<()> {
    cut_again_and_again(300.0, 6)
}

#[test]
fn a_power_cut_takes_nothing_that_was_accepted_at_one_line_a_second() -> anyhow::Result<()> {
    cut_again_and_again(1.0, 4)
}

/// In every second round the bridge is away, and the outbox alone has what was accepted.
fn cut_again_and_again(rate: f64, rounds: u32) -> anyhow::Result<()> {
    let mut chance = chance();
    let mut disk = Disk::new(48)?;
    let mut on_disk = settings();
    on_disk.outbox_dir = Some(disk.path());
    let mut rig = Rig::new(on_disk)?;
    rig.plug(rate)?;
    let (mut full_lost, mut normal_lost, mut normal_rows) = (0, 0, 0);
    let mut accepted = BTreeSet::new();
    for round in 1..=rounds {
        let with_bridge = round % 2 == 1;
        match (with_bridge, rig.world.bridge.is_some()) {
            (true, false) => rig.world.start_bridge()?,
            (false, true) => rig.world.stop_bridge()?,
            _ => {}
        }
        rig.world.start_gateway()?;
        let full = Writer::start(&disk.path().join("full.db"), "FULL")?;
        let normal = Writer::start(&disk.path().join("normal.db"), "NORMAL")?;
        let commits = (rate as usize).max(1) * 2;
        let before = accepted.len();
        wait_until("two commits", SOON, || {
            Ok(rig.accepted().is_ok_and(|lines| lines.len() >= before + commits)
                && full.committed() >= 2 * GROUP
                && normal.committed() >= 2 * GROUP)
        })?;
        if chance.bool() {
            // Any moment of the commit interval.
            pass(Duration::from_millis(chance.u64(0..COMMIT_INTERVAL.as_millis() as u64)));
            accepted = rig.accepted()?;
        } else {
            accepted = rig.accepted()?;
            next_write(&rig.world.outbox().with_extension("db-wal"))?;
        }
        let sent = rig.ledger.len();
        let committed = (full.committed(), normal.committed());
        disk.cut()?;
        rig.world.gateway.take().context("started above")?.kill()?;
        let (full, normal) = (full.end(), normal.end());
        disk.restart()?;

        let after = accepted_in_copy(&rig.world.outbox())?;
        let lost: Vec<&u64> = accepted.difference(&after).take(SHOWN).collect();
        println!(
            "cut {round} at {rate} lines/s: {sent} sent, {} accepted before, {} after it",
            accepted.len(),
            after.len()
        );
        assert!(lost.is_empty(), "cut {round}: accepted and gone: {lost:?}");
        // The gateway sends only what is accepted: what has arrived has to be there still.
        let arrived = judge::stored(&rig.world.storage(), &rig.ledger)?.lines;
        let lost = arrived.keys().filter(|line| !after.contains(line)).take(SHOWN);
        let lost: Vec<&u64> = lost.collect();
        assert!(lost.is_empty(), "cut {round}: sent before it was durable: {lost:?}");
        accepted = after;
        full_lost += committed.0.saturating_sub(rows(&full)?);
        normal_lost += committed.1.saturating_sub(rows(&normal)?);
        normal_rows += committed.1;
        std::fs::remove_file(&normal)?;
        std::fs::remove_file(&full)?;
    }
    println!(
        "lost by the writer with FULL: {full_lost}; with NORMAL: {normal_lost} of {normal_rows}"
    );
    assert_eq!(full_lost, 0, "the plain writer with synchronous=FULL");
    assert!(normal_lost > 0, "a cut that takes nothing from synchronous=NORMAL is none");

    if rig.world.bridge.is_none() {
        rig.world.start_bridge()?;
    }
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    let found = rig.drain()?;
    assert_eq!(found.wrong, Vec::<String>::new());
    assert_eq!((found.duplicates(), found.missing, found.waiting), (0, 0, 0));
    let lost = accepted.iter().filter(|line| !found.lines.contains_key(line)).take(SHOWN);
    let lost: Vec<&u64> = lost.collect();
    assert!(lost.is_empty(), "accepted and not stored: {lost:?}");
    Ok(())
}

#[test]
fn a_power_cut_while_an_outbox_is_being_made_leaves_one_that_works() -> anyhow::Result<()> {
    let mut chance = chance();
    let mut disk = Disk::new(16)?;
    let mut on_disk = settings();
    on_disk.outbox_dir = Some(disk.path());
    let mut rig = Rig::new(on_disk)?;
    rig.plug(100.0)?;
    for round in 1..=8 {
        rig.world.start_gateway()?;
        let lock = rig.world.outbox().with_extension("db.lock");
        let deadline = Instant::now() + SOON;
        while !lock.exists() {
            ensure!(Instant::now() < deadline, "the gateway does not start");
            std::thread::park_timeout(Duration::from_micros(200)); // poll
        }
        pass(Duration::from_millis(chance.u64(0..25)));
        // What cannot be read yet has accepted nothing.
        let accepted = rig.accepted().unwrap_or_default();
        disk.cut()?;
        // Which may have ended by itself: its outbox could not be made.
        drop(rig.world.gateway.take());
        disk.restart()?;
        let found = std::fs::metadata(rig.world.outbox()).map(|file| file.len());
        rig.world.start_gateway()?;
        rig.wait_accepting()?;
        let after = rig.accepted()?;
        println!(
            "cut {round}: {} accepted before it, an outbox of {found:?} after it",
            accepted.len()
        );
        assert!(accepted.is_subset(&after), "cut {round}: accepted and gone");
        let damaged = std::fs::read_dir(disk.path())?.flatten();
        let damaged = damaged.filter(|file| file.file_name().to_string_lossy().contains("damaged"));
        assert_eq!(damaged.count(), 0, "cut {round}: a cut is no damage");
        rig.world.gateway.take().context("started above")?.kill()?;
        disk.replace()?;
    }
    Ok(())
}

/// Returns in the middle of a commit, if the machine is quick: once the log is written to.
fn next_write(log: &Path) -> anyhow::Result<()> {
    let before = std::fs::metadata(log)?.modified()?;
    let deadline = Instant::now() + SOON;
    while std::fs::metadata(log)?.modified()? == before {
        ensure!(Instant::now() < deadline, "nothing was written within {SOON:?}");
        std::thread::park_timeout(Duration::from_micros(200)); // poll
    }
    Ok(())
}

/// What an outbox holds whose gateway has ended; the file itself stays as the cut has left it.
fn accepted_in_copy(outbox: &Path) -> anyhow::Result<BTreeSet<u64>> {
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("outbox.db");
    std::fs::copy(outbox, &copy)?;
    let log = outbox.with_extension("db-wal");
    if log.exists() {
        std::fs::copy(log, copy.with_extension("db-wal"))?;
    }
    judge::accepted(&copy)
}

fn rows(path: &Path) -> anyhow::Result<u64> {
    let conn = Connection::open(path)?;
    let made: bool =
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'tail'", [], |row| {
            row.get(0)
        })?;
    if !made {
        return Ok(0);
    }
    Ok(conn.query_row("SELECT count(*) FROM tail", [], |row| row.get::<_, i64>(0))? as u64)
}

/// Commits rows once a second, as the outbox does, until it cannot any more.
struct Writer {
    path: PathBuf,
    committed: Arc<AtomicU64>,
    goes_on: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(path: &Path, synchronous: &str) -> anyhow::Result<Writer> {
        let conn = Connection::open(path)?;
        conn.pragma_update(None, "page_size", 1024)?;
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        conn.pragma_update(None, "synchronous", synchronous)?;
        conn.execute_batch(
            "CREATE TABLE tail (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT",
        )?;
        let (committed, goes_on) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
        let thread = std::thread::spawn({
            let (committed, goes_on) = (committed.clone(), goes_on.clone());
            move || {
                while goes_on.load(Ordering::Relaxed) && commit(&conn).is_ok() {
                    committed.fetch_add(GROUP, Ordering::Relaxed);
                    std::thread::park_timeout(COMMIT_INTERVAL);
                }
            }
        });
        Ok(Writer { path: path.to_owned(), committed, goes_on, thread: Some(thread) })
    }

    fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Ends it, and returns its file.
    fn end(mut self) -> PathBuf {
        self.join();
        self.path.clone()
    }

    fn join(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join();
    }
}

fn commit(conn: &Connection) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    for _ in 0..GROUP {
        transaction.execute("INSERT INTO tail (body) VALUES ('{\"temp\":24.5}')", [])?;
    }
    transaction.commit()
}
