//! The bridge's storage: locked, read-only, full, gone, restored from a backup.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use fieldpost_bridge::store::NAMED_EPOCHS_MAX;
use fieldpost_demo::world::DEVICE;
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::disk::{Disk, set_immutable};
use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::rig::{Rig, SOON, pass, wait_until};

use crate::settings;

const RATE: f64 = 100.0;
/// Longer than the 10 s after which the bridge gives a message back.
const LONG: Duration = Duration::from_secs(13);

/// The storage's files, by their ends.
const ENDS: [&str; 3] = ["", "-wal", "-shm"];

fn file(base: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", base.display()))
}

/// A rig whose storage lies on a small disk of its own.
fn on_disk(size_mib: u32) -> anyhow::Result<(Rig, Disk, Mosquitto)> {
    let disk = Disk::new(size_mib)?;
    let (rig, mosquitto) = Rig::on_mosquitto(settings())?;
    for end in ENDS {
        let from = file(&rig.world.storage(), end);
        if from.exists() {
            std::fs::copy(&from, file(&disk.path().join("bridge.db"), end))?;
            std::fs::remove_file(from)?;
        }
    }
    std::os::unix::fs::symlink(disk.path().join("bridge.db"), rig.world.storage())?;
    Ok((rig, disk, mosquitto))
}

/// The end of each test: all is back, and the books add up.
fn settle(rig: &mut Rig) -> anyhow::Result<()> {
    rig.books_add_up()?;
    rig.settle()?;
    rig.books_add_up()
}

/// What the bridge's retained status says.
fn says_online(rig: &Rig) -> anyhow::Result<bool> {
    let certs = rig.world.dir().join("certs");
    let output = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &rig.world.broker_address().port().to_string()])
        .arg("--cafile")
        .arg(certs.join("ca.pem"))
        .arg("--cert")
        .arg(certs.join("operator.pem"))
        .arg("--key")
        .arg(certs.join("operator.key"))
        .args(["-i", "operator", "-t", "bridge/bridge/status", "-C", "1", "-W", "20"])
        .output()
        .context("running mosquitto_sub; it is in Debian's package mosquitto-clients")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let status: serde_json::Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("mosquitto_sub: {said}"))?;
    status["online"].as_bool().context("a status says whether the bridge is online")
}

/// While storage cannot be used, the bridge says so, and that it is not online; lines go on.
fn outage(rig: &Rig, said: &str) -> anyhow::Result<()> {
    rig.wait_said("bridge", said, 0)?;
    rig.wait_sent(rig.ledger.len() + 200)?;
    wait_until("a status that says offline", SOON, || Ok(!says_online(rig)?))
}

#[test]
fn a_storage_that_another_program_locks_is_waited_for() -> anyhow::Result<()> {
    let (mut rig, _mosquitto) = Rig::on_mosquitto(settings())?;
    rig.run(RATE)?;
    let locker = rusqlite::Connection::open(rig.world.storage())?;
    locker.execute_batch("BEGIN IMMEDIATE")?;
    // Nobody sends it again: the bridge keeps it, and gives it its id.
    let port = rig.world.broker_address().port();
    let mut person = Client::connect(options(&rig.world.dir().join("certs"), "operator", port))?;
    let command = br#"{"name":"led","args":{"on":1}}"#.to_vec();
    person.publish([(format!("devices/{DEVICE}/commands"), command)], false)?;
    drop(person);
    pass(LONG);
    outage(&rig, "database is locked")?;
    rig.wait_said("bridge", "commit_late", 0)?;
    ensure!(rig.ledger.commands().is_empty(), "it has no id yet");
    locker.execute_batch("COMMIT")?;
    drop(locker);
    wait_until("the command's run", SOON, || Ok(rig.ledger.commands() == ["led on=1"]))?;
    settle(&mut rig)?;
    wait_until("a status that says online", SOON, || says_online(&rig))
}

#[test]
fn a_storage_that_becomes_read_only_is_waited_for_and_refused_at_the_start() -> anyhow::Result<()> {
    let (mut rig, mut disk, _mosquitto) = on_disk(32)?;
    rig.run(RATE)?;
    let files = ENDS.map(|end| file(&disk.path().join("bridge.db"), end));
    let files = [files[0].as_path(), files[1].as_path(), files[2].as_path()];
    set_immutable(&files, true)?;
    let said = rig.wait_said("bridge", "WARN storage: the storage cannot be used now", 0);
    let sent = rig.wait_sent(rig.ledger.len() + 200);
    set_immutable(&files, false)?;
    said.and(sent)?;
    rig.wait_stored(rig.ledger.len())?;

    // What ext4 does to a card that fails: no write comes through until it is mounted anew.
    let stored = rig.ledger.len();
    disk.abort()?;
    rig.wait_sent(stored + 200)?;
    wait_until("a status that says offline", SOON, || Ok(!says_online(&rig)?))?;
    rig.world.bridge.take().context("it runs")?.kill()?;
    let refused = rig.world.run_bridge(&["run"]).expect_err("read-only").to_string();
    println!("{refused}");
    assert!(refused.contains("cannot be opened"), "{refused}");
    disk.restart()?;
    rig.world.start_bridge()?;
    settle(&mut rig)
}

#[test]
fn a_storage_whose_disk_is_full_is_waited_for() -> anyhow::Result<()> {
    let (mut rig, disk, _mosquitto) = on_disk(16)?;
    rig.run(RATE)?;
    let filler = disk.path().join("filler");
    let mut file = File::create(&filler)?;
    let piece = vec![0; 4_096];
    while file.write_all(&piece).is_ok() {}
    drop(file);
    rig.wait_said("bridge", "disk is full", 0)?;
    rig.wait_sent(rig.ledger.len() + 200)?;
    rig.books_add_up()?;
    std::fs::remove_file(filler)?;
    settle(&mut rig)
}

#[test]
fn a_storage_that_was_moved_away_and_back_goes_on_by_itself() -> anyhow::Result<()> {
    let (mut rig, _mosquitto) = Rig::on_mosquitto(settings())?;
    rig.run(RATE)?;
    let storage = rig.world.storage();
    let away = rig.world.dir().join("away.db");
    for end in ENDS {
        std::fs::rename(file(&storage, end), file(&away, end))?;
    }
    outage(&rig, "is not the file that was opened")?;
    for end in ENDS {
        std::fs::rename(file(&away, end), file(&storage, end))?;
    }
    settle(&mut rig)?;
    wait_until("a status that says online", SOON, || says_online(&rig))
}

/// The store id in what a command printed.
fn store_id(text: &str) -> anyhow::Result<String> {
    let hex = |word: &&str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = text.split(|c: char| !c.is_ascii_alphanumeric()).find(hex);
    found.map(str::to_owned).with_context(|| format!("no store id in {text:?}"))
}

#[test]
fn a_deleted_storage_is_made_anew_under_its_id_and_gets_everything_again() -> anyhow::Result<()> {
    let (mut rig, _mosquitto) = Rig::on_mosquitto(settings())?;
    rig.run(RATE)?;
    let id = store_id(&rig.world.run_bridge(&["status", "--json"])?)?;
    for end in ENDS {
        std::fs::remove_file(file(&rig.world.storage(), end))?;
    }
    outage(&rig, "is not the file that was opened")?;
    rig.world.stop_bridge()?;
    let refused = rig.world.run_bridge(&["run"]).expect_err("there is none").to_string();
    assert!(refused.contains("there is no storage"), "{refused}");
    rig.world.run_bridge(&["init", "--adopt", &id])?;
    rig.world.start_bridge()?;
    settle(&mut rig)
}

/// Runs a command of the `sqlite3` shell.
fn sqlite3(file: &Path, command: &str) -> anyhow::Result<()> {
    let output = Command::new("sqlite3")
        .args(["-cmd", ".timeout 20000"])
        .arg(file)
        .arg(command)
        .output()
        .context("running sqlite3; it is in Debian's package sqlite3")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Takes a backup of what is stored and lets more be stored, all of it by a gateway that then
/// starts anew: what the backup lacks is of an epoch for which nothing waits any more.
fn back_up(rig: &mut Rig) -> anyhow::Result<PathBuf> {
    let backup = rig.world.dir().join("backup.db");
    sqlite3(&rig.world.storage(), &format!(".backup '{}'", backup.display()))?;
    rig.wait_stored(rig.ledger.len() + 300)?;
    let stored = rig.settle()?.lines.len();
    rig.board.take().context("plugged in")?.unplug()?;
    rig.world.stop_gateway()?;
    rig.world.start_gateway()?;
    rig.plug(RATE)?;
    rig.wait_stored(stored as u64 + 100)?;
    Ok(backup)
}

/// Puts a backup back in the bridge's absence.
fn restored(announced: bool) -> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.run(RATE)?;
    let (storage, backup) = (rig.world.storage(), back_up(&mut rig)?);
    rig.world.stop_bridge()?;
    for end in ENDS {
        let _ = std::fs::remove_file(file(&storage, end));
    }
    std::fs::copy(&backup, &storage)?;
    if announced {
        let said = rig.world.run_bridge(&["restored"])?;
        assert!(said.contains("announced"), "{said}");
    }
    rig.world.start_bridge()?;
    settle(&mut rig)
}

#[test]
fn a_storage_that_was_restored_from_a_backup_gets_back_what_the_backup_lacks() -> anyhow::Result<()>
{
    restored(true)
}

#[test]
fn a_restored_storage_that_nobody_announced_gets_back_what_it_lacks() -> anyhow::Result<()> {
    restored(false)
}

#[test]
fn a_storage_that_is_restored_under_a_running_bridge_gets_back_what_it_lacks() -> anyhow::Result<()>
{
    let mut rig = Rig::new(settings())?;
    rig.run(RATE)?;
    let backup = back_up(&mut rig)?;
    // Into the very file that the bridge has open: no start, no new gen, and nobody says so.
    sqlite3(&rig.world.storage(), &format!(".restore '{}'", backup.display()))?;
    settle(&mut rig)
}

/// Has the log folded into the file and begun anew.
fn checkpoint(rig: &Rig) -> anyhow::Result<()> {
    sqlite3(&rig.world.storage(), "PRAGMA wal_checkpoint(RESTART)")
}

/// The bridge refuses this storage; returns what it says.
fn refused(rig: &Rig, command: &str) -> anyhow::Result<String> {
    let said = rig.world.run_bridge(&[command]).err();
    let said = said.with_context(|| format!("`{command}` has taken it"))?.to_string();
    println!("{command}: {said}");
    Ok(said)
}

fn is_unsound(said: &str) -> bool {
    said.contains("is damaged") || said.contains("does not add up")
}

/// As the message says: all three away, the backup in their place, `restored`, start.
fn put_back(rig: &mut Rig, backup: &Path) -> anyhow::Result<()> {
    for end in ENDS {
        let _ = std::fs::remove_file(file(&rig.world.storage(), end));
    }
    std::fs::copy(backup, rig.world.storage())?;
    rig.world.run_bridge(&["restored"])?;
    rig.world.start_bridge()
}

#[test]
fn a_backup_beside_a_left_over_log_is_refused_until_the_log_is_gone() -> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.run(RATE)?;
    let backup = back_up(&mut rig)?;
    checkpoint(&rig)?;
    rig.wait_stored(rig.ledger.len() + 300)?;
    rig.world.bridge.take().context("it runs")?.kill()?;
    std::fs::copy(&backup, rig.world.storage())?;
    let said = refused(&rig, "check")?;
    ensure!(is_unsound(&said), "{said}");
    let said = refused(&rig, "restored")?;
    ensure!(said.contains("bridge.db-wal lies beside the storage"), "{said}");
    put_back(&mut rig, &backup)?;
    settle(&mut rig)
}

#[test]
fn a_copy_of_a_file_in_use_is_refused_and_a_backup_is_not() -> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.run(RATE)?;
    rig.wait_stored(600)?;
    checkpoint(&rig)?;
    let backup = rig.world.dir().join("backup.db");
    sqlite3(&rig.world.storage(), &format!(".backup '{}'", backup.display()))?;
    // A slow `cp`: half of it, a checkpoint, the rest.
    let before = std::fs::read(rig.world.storage())?;
    rig.wait_stored(rig.ledger.len() + 600)?;
    checkpoint(&rig)?;
    let after = std::fs::read(rig.world.storage())?;
    rig.world.stop_bridge()?;
    let cut = before.len() / 8_192 * 4_096;
    std::fs::write(rig.world.storage(), [&before[..cut], &after[cut..]].concat())?;
    for command in ["check", "restored"] {
        let said = refused(&rig, command)?;
        ensure!(is_unsound(&said), "{said}");
    }
    put_back(&mut rig, &backup)?;
    settle(&mut rig)
}

#[test]
fn a_gateway_of_too_many_epochs_is_served_and_an_alarm_says_so() -> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.run(RATE)?;
    let stored = rig.settle()?.lines.len() as u64;
    rig.world.stop_gateway()?;
    // What somebody with its certificate has said within the last minutes.
    sqlite3(
        &rig.world.storage(),
        &format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {NAMED_EPOCHS_MAX}) \
             INSERT INTO epoch (device, epoch, superseded) \
             SELECT d.ref, randomblob(16), unixepoch() * 1000 FROM device d, n"
        ),
    )?;
    rig.board = None;
    rig.world.start_gateway()?;
    rig.wait_said("bridge", "too_many_epochs", 0)?;
    rig.plug(RATE)?;
    rig.wait_stored(stored + 100)?;
    settle(&mut rig)
}
