//! The disk is full, read-only, or gives errors: under the outbox, and under storage.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use fieldpost_demo::judge::{self, Found, OutboxWatch, read_only};
use fieldpost_demo::world::{Process, Settings};
use fieldpost_tests::disk::{Disk, set_immutable};
use fieldpost_tests::fill;
use fieldpost_tests::rig::{Rig, SOON, chance, pass, wait_until};
use fieldpost_tests::strace::Strace;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::settings;

/// Lines a second.
const RATE: f64 = 200.0;

/// The board alone is counted: each line has to be somewhere.
fn quiet() -> Settings {
    let mut quiet = settings();
    quiet.gateway.push(("system", "enabled = false".to_owned()));
    quiet
}

/// What the status file counts: accepted, refused by ports, refused as full, in doubt.
fn counted(rig: &Rig) -> anyhow::Result<[u64; 4]> {
    let readings = &rig.status()?["readings"];
    let count = |name: &str| readings[name].as_u64().unwrap_or(0);
    Ok(["accepted", "refused_by_ports", "refused_full", "refused_in_doubt"].map(count))
}

/// Drains, and holds every line that was sent against what the gateway has counted since its
/// start, which was before the first line. Returns what was found and what was counted.
fn drain_and_account(rig: &mut Rig) -> anyhow::Result<(Found, [u64; 4])> {
    rig.wait_accepting()?;
    let found = rig.drain()?;
    assert_exact(&found);
    let sent = rig.ledger.len();
    wait_until("each line to be counted", SOON, || Ok(counted(rig)?.iter().sum::<u64>() == sent))
        .with_context(|| format!("{sent} sent, counted {:?}", counted(rig)))?;
    let counted = counted(rig)?;
    let [accepted, _, _, in_doubt] = counted;
    println!(
        "{sent} sent, {} stored; accepted, refused, full, in doubt: {counted:?}",
        found.stored()
    );
    assert!(found.stored() >= accepted, "{} stored, {accepted} accepted", found.stored());
    assert!(found.stored() <= accepted + in_doubt, "refused, and stored all the same");
    Ok((found, counted))
}

/// Nothing twice, nothing wrong, nothing missing.
#[track_caller]
fn assert_exact(found: &Found) {
    assert_eq!(found.wrong, Vec::<String>::new());
    assert_eq!((found.duplicates(), found.missing, found.waiting), (0, 0, 0));
}

#[test]
fn on_a_full_disk_readings_wait_then_are_refused_and_what_was_accepted_drains() -> anyhow::Result<()>
{
    let disk = Disk::new(16)?;
    let mut small = quiet();
    small.outbox_dir = Some(disk.path());
    // Room for a second or two, so that the queue runs over soon.
    small.gateway.push(("outbox", "queue_readings = 600".to_owned()));
    let mut rig = Rig::new(small)?;
    rig.run(RATE)?;
    // What was accepted while nobody took it.
    rig.world.stop_bridge()?;
    rig.wait_sent(rig.ledger.len() + 400)?;

    let ballast = disk.path().join("ballast");
    fill_disk(&ballast)?;
    wait_until("the alert", SOON, || {
        // Somebody else's file may shrink and grow: whatever is free again is filled.
        fill_disk(&ballast)?;
        Ok(rig.raised("outbox_failing")?.is_some())
    })?;
    wait_until("refusals", SOON, || Ok(counted(&rig)?[1] > 0))?;
    let mut outbox = OutboxWatch::new(&rig.world.outbox());
    let accepted = outbox.look()?;
    rig.world.start_bridge()?;
    rig.wait_stored(accepted).context("while the disk is full")?;
    assert!(rig.raised("outbox_failing")?.is_some(), "the disk is still full");
    assert_eq!(outbox.look()?, accepted, "nothing was accepted meanwhile");

    std::fs::remove_file(ballast)?;
    rig.wait_cleared("outbox_failing", SOON)?;
    wait_until("the alert in storage", SOON, || rig.stored_alert("outbox_failing", "cleared"))?;
    let (found, [_, refused, full, in_doubt]) = drain_and_account(&mut rig)?;
    assert_eq!((full, in_doubt), (0, 0), "what surely was not written is written later");
    assert_eq!(found.stored(), rig.ledger.len() - refused);
    Ok(())
}

/// Fills a file system to its last byte.
fn fill_disk(ballast: &PathBuf) -> anyhow::Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(ballast)?;
    for size in [1 << 20, 4_096, 512, 1] {
        let piece = vec![0x5A; size];
        while file.write(&piece).is_ok_and(|written| written == size) {}
    }
    // Against delayed allocation: what is taken is taken.
    let _ = file.sync_all();
    Ok(())
}

#[test]
fn an_outbox_at_its_limit_refuses_and_counts_readings_and_its_reserve_takes_the_alert()
-> anyhow::Result<()> {
    let mut small = quiet();
    small.gateway.push(("outbox", "size_max = \"4MiB\"".to_owned()));
    let mut rig = Rig::new(small)?;
    fill::until_full(&rig.world.outbox(), 4 << 20)?;
    rig.world.start_gateway()?;
    rig.plug(RATE)?;
    rig.wait_raised("outbox_full")?;
    wait_until("counted refusals", SOON, || Ok(counted(&rig)?[2] > 0))?;
    // Into the reserve, although no reading fits.
    wait_until("the alert in the outbox", SOON, || {
        let conn = read_only(&rig.world.outbox())?;
        Ok(conn.query_row("SELECT count(*) FROM event", [], |row| row.get::<_, i64>(0))? > 0)
    })?;
    let used = rig.status()?["outbox"]["used_bytes"].as_u64().context("no size")?;
    assert!(used <= (3 << 20) + 65_536, "{used} bytes are used: readings stay out of the reserve");
    rig.world.start_bridge()?;
    rig.wait_cleared("outbox_full", SOON)?;
    wait_until("raised, in storage", SOON, || rig.stored_alert("outbox_full", "raised"))?;
    // What storage has makes room, before the backlog has left wholly.
    let (found, [accepted, _, full, in_doubt]) = drain_and_account(&mut rig)?;
    assert!(full > 0 && in_doubt == 0);
    assert_eq!(found.stored(), accepted);
    Ok(())
}

#[test]
fn a_card_that_turns_read_only_is_an_alert_and_what_it_holds_is_sent() -> anyhow::Result<()> {
    let mut disk = Disk::new(16)?;
    let mut on_disk = quiet();
    on_disk.outbox_dir = Some(disk.path());
    let mut rig = Rig::new(on_disk)?;
    rig.run(RATE)?;
    rig.world.stop_bridge()?;
    rig.wait_sent(rig.ledger.len() + 400)?;
    disk.abort()?;
    rig.wait_raised("outbox_failing")?;
    let accepted = rig.accepted()?;
    rig.world.start_bridge()?;
    rig.wait_stored(accepted.len() as u64).context("from a card that is read-only")?;
    assert_eq!(rig.accepted()?, accepted, "nothing can be accepted");

    // The machine starts again, and its card is as it was.
    rig.world.gateway.take().context("started above")?.kill()?;
    disk.restart()?;
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    let found = rig.drain()?;
    assert_exact(&found);
    assert_eq!(rig.raised("outbox_damaged")?, None);
    assert_stored(&accepted, &found);
    Ok(())
}

#[track_caller]
fn assert_stored(accepted: &BTreeSet<u64>, found: &Found) {
    let lost = accepted.iter().filter(|line| !found.lines.contains_key(line)).take(10);
    let lost: Vec<&u64> = lost.collect();
    assert!(lost.is_empty(), "accepted and not stored: {lost:?}");
}

#[test]
fn an_outbox_that_may_not_be_written_for_a_while_goes_on_by_itself() -> anyhow::Result<()> {
    let disk = Disk::new(16)?;
    let mut on_disk = quiet();
    on_disk.outbox_dir = Some(disk.path());
    let mut rig = Rig::new(on_disk)?;
    rig.run(RATE)?;
    let (outbox, log) = (rig.world.outbox(), rig.world.outbox().with_extension("db-wal"));
    set_immutable(&[&outbox, &log], true)?;
    let result = rig.wait_raised("outbox_failing");
    let accepted = rig.accepted();
    set_immutable(&[&outbox, &log], false)?;
    result?;
    rig.wait_cleared("outbox_failing", SOON)?;
    let (found, [_, _, full, in_doubt]) = drain_and_account(&mut rig)?;
    assert_stored(&accepted?, &found);
    assert!(full == 0 && in_doubt > 0);
    Ok(())
}

#[test]
fn syncs_that_fail_leave_commits_in_doubt_that_are_never_written_twice() -> anyhow::Result<()> {
    let mut rig = Rig::new(quiet())?;
    rig.start(RATE)?;
    for _ in 0..2 {
        rig.wait_stored(rig.ledger.len().max(100))?;
        let pid = rig.world.gateway.as_ref().context("started above")?.id();
        // Every second sync of the log, of the outbox, of whatever.
        let strace = Strace::attach(pid, &["fdatasync:error=EIO:when=1+2"])?;
        wait_until("failing syncs", SOON, || Ok(strace.injected()? >= 3))?;
    }
    wait_until("the alert", SOON, || rig.stored_alert("outbox_failing", "cleared"))?;
    let (_, [_, ports, full, in_doubt]) = drain_and_account(&mut rig)?;
    assert!(in_doubt > 0);
    assert_eq!((ports, full), (0, 0));
    Ok(())
}

#[test]
fn writes_that_find_no_space_make_readings_wait_and_none_is_refused() -> anyhow::Result<()> {
    let mut rig = Rig::new(quiet())?;
    rig.run(RATE)?;
    // Header or page, first or last of a commit; then all of them.
    for fault in ["pwrite64:error=ENOSPC:when=1+7", "pwrite64:error=ENOSPC"] {
        let pid = rig.world.gateway.as_ref().context("started above")?.id();
        let strace = Strace::attach(pid, &[fault])?;
        wait_until("failing writes", SOON, || Ok(strace.injected()? >= 3))?;
    }
    let (found, [accepted, ports, full, in_doubt]) = drain_and_account(&mut rig)?;
    assert_eq!((ports, full, in_doubt), (0, 0, 0));
    assert_eq!((found.stored(), accepted), (rig.ledger.len(), rig.ledger.len()));
    Ok(())
}

/// What a failing card may say.
const FAULTS: [&str; 4] = [
    "pwrite64:error=EIO",
    "pwrite64:error=ENOSPC",
    "fdatasync:error=EIO",
    "fdatasync:error=ENOSPC",
];

/// One or two kinds of fault, each now and then or always.
fn faults(chance: &mut fastrand::Rng) -> Vec<String> {
    let amount = chance.usize(1..=2);
    let kinds = chance.choose_multiple(FAULTS, amount);
    let when = |chance: &mut fastrand::Rng| match chance.u32(0..3) {
        0 => String::new(),
        _ => format!(":when={}+{}", chance.u32(1..6), chance.u32(1..12)),
    };
    let mut faults: Vec<String> = kinds.into_iter().map(str::to_owned).collect();
    // strace takes one fault for a call.
    faults.sort();
    faults.dedup_by_key(|fault| fault.split(':').next().map(str::to_owned));
    faults.into_iter().map(|fault| fault + &when(chance)).collect()
}

#[test]
fn a_gateway_on_a_failing_card_that_is_killed_in_doubt_loses_nothing_accepted() -> anyhow::Result<()>
{
    let mut chance = chance();
    let mut rig = Rig::new(quiet())?;
    rig.world.start_bridge()?;
    // So many that the log is folded into the file now and then, which may fail as well.
    rig.plug(5.0 * RATE)?;
    let mut accepted = BTreeSet::new();
    for round in 1..=4 {
        rig.world.start_gateway()?;
        rig.wait_accepting()?;
        let faults = faults(&mut chance);
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let strace =
            Strace::attach(rig.world.gateway.as_ref().context("started above")?.id(), &faults)?;
        let failures = chance.usize(1..4);
        wait_until("failures", SOON, || Ok(strace.injected()? >= failures))?;
        pass(Duration::from_millis(chance.u64(0..1_000)));
        accepted.extend(rig.accepted()?);
        rig.world.gateway.take().context("started above")?.kill()?;
        println!("round {round}: {faults:?}, {} calls failed", strace.injected()?);
    }
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    let found = rig.drain()?;
    assert_exact(&found);
    assert_stored(&accepted, &found);
    Ok(())
}

#[test]
fn a_bridge_on_a_failing_disk_acknowledges_nothing_that_it_has_not_stored() -> anyhow::Result<()> {
    let mut chance = chance();
    let mut rig = Rig::new(quiet())?;
    rig.run(RATE)?;
    nothing_is_acknowledged_while_nothing_commits(&rig)?;
    for round in 1..=3 {
        rig.wait_stored(rig.ledger.len())?;
        let faults = faults(&mut chance);
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let bridge = rig.world.bridge.as_ref().context("started above")?.id();
        let strace = Strace::attach(bridge, &faults)?;
        let failures = chance.usize(1..4);
        wait_until("failures", SOON, || Ok(strace.injected()? >= failures))?;
        pass(Duration::from_millis(chance.u64(0..1_000)));
        let killed = chance.bool();
        if killed {
            rig.world.bridge.take().context("started above")?.kill()?;
            rig.world.start_bridge()?;
        }
        println!("round {round}: {faults:?}, {} calls failed, killed {killed}", strace.injected()?);
    }
    let (found, [accepted, ..]) = drain_and_account(&mut rig)?;
    assert_eq!((found.stored(), accepted), (rig.ledger.len(), rig.ledger.len()));
    Ok(())
}

/// The protocol would mend a sync ack that was given too early: so it is looked for at once.
fn nothing_is_acknowledged_while_nothing_commits(rig: &Rig) -> anyhow::Result<()> {
    let bridge = rig.world.bridge.as_ref().context("it runs")?.id();
    let strace = Strace::attach(bridge, &["fdatasync:error=EIO"])?;
    wait_until("failing commits", SOON, || Ok(strace.injected()? >= 3))?;
    let written = || anyhow::Ok(rig.status()?["written"].as_u64());
    let before = written()?;
    wait_until("the next heartbeat", SOON, || Ok(written()? != before))?;
    let acked = rig.status()?["outbox"]["acked"].as_u64().context("no acked")?;
    let conn = read_only(&rig.world.storage())?;
    let rows = |view: &str| {
        let sql = format!("SELECT count(*) FROM {view}");
        conn.query_row(&sql, [], |row| row.get::<_, i64>(0))
    };
    let stored = (rows("readings")? + rows("alerts")?) as u64;
    println!("acked while commits fail: {acked}, stored: {stored}");
    assert!(acked <= stored, "{acked} rows are acknowledged, {stored} are stored");
    Ok(())
}

/// As `ulimit -f` does, but under a running program: it may write no file beyond so many bytes.
fn limit_files(program: Option<&Process>, bytes: Option<u64>) -> anyhow::Result<()> {
    let program = program.context("it runs")?.id();
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Pid::from_raw(program as i32), Resource::Fsize, limit)?;
    Ok(())
}

/// Room for a log and a status file.
const FILE_BYTES: u64 = 16 * 1024;

#[test]
fn a_gateway_that_may_write_no_larger_file_says_so_and_goes_on_once_it_may() -> anyhow::Result<()> {
    let mut rig = Rig::new(quiet())?;
    rig.run(RATE)?;
    limit_files(rig.world.gateway.as_ref(), Some(FILE_BYTES))?;
    rig.wait_raised("outbox_failing")?;
    rig.wait_sent(rig.ledger.len() + 200)?;
    limit_files(rig.world.gateway.as_ref(), None)?;
    rig.wait_cleared("outbox_failing", SOON)?;
    drain_and_account(&mut rig)?;
    Ok(())
}

#[test]
fn a_bridge_that_may_write_no_larger_file_acknowledges_nothing_and_goes_on_once_it_may()
-> anyhow::Result<()> {
    let mut rig = Rig::new(quiet())?;
    rig.run(RATE)?;
    limit_files(rig.world.bridge.as_ref(), Some(FILE_BYTES))?;
    rig.wait_said("bridge", "the storage cannot be used now", 0)?;
    rig.wait_sent(rig.ledger.len() + 400)?;
    rig.books_add_up()?;
    let stored = judge::stored(&rig.world.storage(), &rig.ledger)?.stored();
    assert!(stored < rig.ledger.len(), "nothing more fits");
    limit_files(rig.world.bridge.as_ref(), None)?;
    let found = rig.settle()?;
    assert_eq!(found.stored(), rig.ledger.len());
    Ok(())
}
