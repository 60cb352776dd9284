//! Rows are gone from the middle of the outbox: all others arrive, and these are missing.

use rusqlite::Connection;

use super::*;

/// The segments of a file, oldest first: row, epoch and first number.
fn segments(outbox: &Path) -> anyhow::Result<Vec<(i64, i64, i64)>> {
    let conn = judge::read_only(outbox)?;
    let mut statement =
        conn.prepare("SELECT id, epoch, first FROM segment ORDER BY epoch, first")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Deletes segments and returns the readings that were in them.
fn delete(outbox: &Path, ids: &[i64]) -> anyhow::Result<BTreeSet<(String, i64)>> {
    let before = rows(outbox, HELD)?;
    let conn = Connection::open(outbox)?;
    conn.busy_timeout(SOON)?;
    for id in ids {
        ensure!(conn.execute("DELETE FROM segment WHERE id = ?1", [id])? == 1, "segment {id}");
    }
    drop(conn);
    let gone: BTreeSet<_> = before.difference(&rows(outbox, HELD)?).cloned().collect();
    ensure!(gone.len() >= ids.len(), "{} rows are gone", gone.len());
    Ok(gone)
}

/// What alerts call each run of these rows.
fn runs(rows: &BTreeSet<(String, i64)>) -> BTreeSet<String> {
    let rows: Vec<_> = rows.iter().collect();
    let runs = rows.chunk_by(|(epoch, seq), (next, after)| epoch == next && seq + 1 == *after);
    let name = |run: &[&(String, i64)]| {
        let (epoch, first) = run[0];
        format!("{epoch}/readings {first}-{}", run[run.len() - 1].1)
    };
    runs.map(name).collect()
}

/// All that the outbox holds is stored once, and what is gone is missing, row by row.
fn settle_with(rig: &mut Rig, gone: &BTreeSet<(String, i64)>) -> anyhow::Result<()> {
    let found = settle(rig)?;
    rig.books_add_up()?;
    let missing = rows(&rig.world.storage(), MISSING)?;
    assert!(missing == *gone, "{} are gone, {} shown as missing", gone.len(), missing.len());
    let lines = (rig.accepted()?.len(), found.lines.len(), rig.ledger.len());
    println!("{} rows gone and missing; held, stored and sent: {lines:?}", gone.len());
    Ok(())
}

/// Each row is a line of the board's.
fn alone() -> fieldpost_demo::world::Settings {
    let mut alone = settings();
    alone.gateway.push(("system", "enabled = false".to_owned()));
    alone
}

#[test]
fn rows_deleted_between_others_are_missing_and_all_others_come_also_to_a_restored_storage()
-> anyhow::Result<()> {
    let mut rig = Rig::new(alone())?;
    let (outbox, storage) = (rig.world.outbox(), rig.world.storage());
    rig.run(RATE)?;
    rig.world.stop_bridge()?;
    let backup = Copy::take(&storage);
    let stored = rows(&storage, STORED)?.len() as i64;
    rig.wait_sent(rig.ledger.len() + 2_500)?;
    rig.wait_accepting()?;
    rig.world.stop_gateway()?;

    // Two beside each other, one apart from them, and the last of all.
    let mut waiting = segments(&outbox)?;
    waiting.retain(|(_, _, first)| *first > stored);
    ensure!(waiting.len() > 6, "only {} segments wait", waiting.len());
    let at = [1, 2, 4, waiting.len() - 1];
    let gone = delete(&outbox, &at.map(|at| waiting[at].0))?;
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    rig.world.start_bridge()?;
    settle_with(&mut rig, &gone)?;
    let named = runs(&gone);
    ensure!(named.len() == 3, "{named:?}");
    let mut told = BTreeSet::new();
    wait_until("an alert for each hole in storage", SOON, || {
        let conn = judge::read_only(&storage)?;
        let mut statement =
            conn.prepare("SELECT about FROM alerts WHERE name = 'outbox_damaged'")?;
        told = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(told.len() >= named.len())
    })?;
    assert_eq!(told, named);

    // What stands before a hole is sent again to a storage that lacks it, under a running gateway.
    rig.world.stop_bridge()?;
    backup.put_back()?;
    rig.world.run_bridge(&["restored"])?;
    let lacks = rows(&storage, STORED)?.len() < waiting[1].2 as usize;
    ensure!(lacks, "the backup has what stands before the first hole");
    rig.world.start_bridge()?;
    settle_with(&mut rig, &gone)
}

#[test]
fn rows_deleted_under_a_running_gateway_are_missing_and_the_stream_goes_on() -> anyhow::Result<()> {
    let mut rig = Rig::new(alone())?;
    let outbox = rig.world.outbox();
    rig.run(RATE)?;
    rig.world.stop_bridge()?;
    let stored = rows(&rig.world.storage(), STORED)?.len() as i64;
    rig.wait_sent(rig.ledger.len() + 2_500)?;
    rig.wait_accepting()?;
    let mut waiting = segments(&outbox)?;
    waiting.retain(|(_, _, first)| *first > stored);
    let gone = delete(&outbox, &[waiting[1].0, waiting[3].0])?;
    rig.world.start_bridge()?;
    rig.wait_raised("outbox_damaged")?;
    rig.wait_accepting()?;
    settle_with(&mut rig, &gone)
}
