//! From the sketch to the bridge's SQLite, through three unplugs in mid-line and two resets.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{DEVICE, Programs, Settings};
use fieldpost_protocol::Metrics;
use fieldpost_tests::avr::{AvrBoard, Told, library};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, chance, pass, wait_until};
use serde_json::Value as Json;

use crate::tools;

on_each_broker! {
    a_minute_of_unplugs_and_resets_loses_no_line_that_was_sent_and_counts_the_others,
}

/// What the board is put through takes so long.
const TIME: Duration = Duration::from_secs(60);

/// A reading of the sketch's, as one may read it off its line.
type Measured = (f64, i64);

/// What the board's own ledger says.
#[derive(Debug, Default)]
struct Account {
    /// The readings in lines that were sent intact, in order.
    sent: Vec<Measured>,
    /// Lines that say that the board has started, sent intact.
    boots: usize,
    /// Lines that were lost with the cable: all that were begun or ended without it.
    lost_unplugged: u64,
    /// Lines that a reset has cut off.
    lost_reset: u64,
    /// The lines that are absent between the `#n` of those that were sent.
    gaps: u64,
}

impl Account {
    fn of(told: &[Told]) -> anyhow::Result<Account> {
        let mut account = Account::default();
        let mut last = None;
        let mut was_reset = false;
        for told in told {
            match told {
                Told::Sent(line) => {
                    let (text, counter) = numbered(line)?;
                    if text.starts_with("!boot") {
                        account.boots += 1;
                        last = None;
                    } else {
                        account.sent.push(measured(text)?);
                    }
                    let expected = last.map_or(counter, |last: u64| last + 1);
                    ensure!(
                        counter >= expected,
                        "#{counter} came where #{expected} was due: {line:?}"
                    );
                    account.gaps += counter - expected;
                    last = Some(counter);
                }
                Told::Lost(_) if was_reset => account.lost_reset += 1,
                Told::Lost(_) => account.lost_unplugged += 1,
                Told::Plugged | Told::Unplugged | Told::Reset | Told::Stopped | Told::Wired => {}
            }
            was_reset = *told == Told::Reset;
        }
        Ok(account)
    }
}

/// `text #17*9C41` without its checksum, which the gateway verifies.
fn numbered(line: &str) -> anyhow::Result<(&str, u64)> {
    let (text, _) = line.rsplit_once('*').with_context(|| format!("no checksum: {line:?}"))?;
    let (text, counter) = text.rsplit_once(" #").with_context(|| format!("no #n: {line:?}"))?;
    Ok((text, counter.parse()?))
}

fn measured(text: &str) -> anyhow::Result<Measured> {
    let values = text.strip_prefix("fruiting temp=").context(text.to_owned())?;
    let (temp, humidity) = values.split_once(" humidity=").context(text.to_owned())?;
    Ok((temp.parse()?, humidity.parse()?))
}

/// Every reading of the sketch's that storage has, in the order in which the gateway took them.
fn stored(rig: &Rig) -> anyhow::Result<Vec<Measured>> {
    let conn = read_only(&rig.world.storage())?;
    let sql = "SELECT metrics FROM readings WHERE source = 'fruiting' ORDER BY epoch, seq";
    let mut statement = conn.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let read = |text: String| -> anyhow::Result<Measured> {
        let metrics: Json = serde_json::from_str(&text)?;
        ensure!(Metrics::from_json(&text)?.len() == 2, "{text}");
        let temp = metrics["temp"].as_f64().context(text.clone())?;
        Ok((temp, metrics["humidity"].as_i64().context(text)?))
    };
    rows.map(|text| read(text?)).collect()
}

/// What the newest row of the gateway's own source says about the port, in storage.
fn shown(rig: &Rig, what: &str) -> anyhow::Result<Option<u64>> {
    let conn = read_only(&rig.world.storage())?;
    let sql = "SELECT metrics ->> ?1 FROM readings WHERE source = 'system' ORDER BY time DESC, seq DESC LIMIT 1";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([format!("arduino.{what}")])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(row.get::<_, Option<i64>>(0)?.map(|count| count as u64))
}

/// What the device's last word says, by the bridge's command line.
fn said(rig: &Rig) -> anyhow::Result<Json> {
    let devices: Json = serde_json::from_str(&rig.world.run_bridge(&["devices", "--json"])?)?;
    let device = devices.as_array().and_then(|all| all.iter().find(|one| one["device"] == DEVICE));
    Ok(device.context("the bridge knows the device")?["status"].clone())
}

fn a_minute_of_unplugs_and_resets_loses_no_line_that_was_sent_and_counts_the_others(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut chance = chance();
    let programs = Programs::Files {
        gateway: PathBuf::from(env!("CARGO_BIN_EXE_test-gateway")),
        bridge: PathBuf::from(env!("CARGO_BIN_EXE_test-bridge")),
    };
    let mut rig = Rig::on(broker, Settings::new(programs))?;
    let sketch = library().join("examples/Greenhouse/Greenhouse.ino");
    let firmware = tools().build(&sketch, rig.world.dir())?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let mut board = AvrBoard::start(tools(), &firmware, &rig.world.port())?;
    let begin = Instant::now();

    // Five faults, each after a while, and the rest of the minute.
    let mut some = |seconds: std::ops::Range<f64>| {
        Duration::from_secs_f64(seconds.start + chance.f64() * (seconds.end - seconds.start))
    };
    for fault in ["unplug", "reset", "unplug", "reset", "unplug"] {
        pass(some(5.0..9.0));
        if fault == "reset" {
            board.reset()?;
        } else {
            board.unplug()?;
            pass(some(0.5..4.0));
            board.plug()?;
        }
    }
    pass(TIME.saturating_sub(begin.elapsed()));
    // A gap shows with the line behind it.
    board.wait_told("further lines", |told| {
        let behind = told.rsplit(|one| *one == Told::Plugged).next().unwrap_or_default();
        behind.iter().filter(|one| matches!(one, Told::Sent(_))).count() > 3
    })?;
    board.stop()?;

    let told = board.told();
    let account = Account::of(&told)?;
    let rows = account.sent.len();
    wait_until("storing the last line", 2 * SOON, || Ok(stored(&rig)?.len() >= rows))?;
    wait_until("the loss's place in storage", SOON, || {
        Ok(shown(&rig, "lines_lost")? == Some(account.lost_unplugged))
    })?;
    wait_until("the loss's place in the device's status", SOON, || {
        Ok(said(&rig)?["lines_lost"] == account.lost_unplugged)
    })?;
    let port = || Ok::<_, anyhow::Error>(rig.status()?["ports"][0].clone());
    let frames = (rows + account.boots) as u64;
    let counted =
        wait_until("counting the last line", 2 * SOON, || Ok(port()?["frames"] == frames));
    let port = port()?;
    counted.with_context(|| format!("{frames} frames of {account:?}; the port: {port}"))?;
    println!(
        "{rows} lines sent intact, {} boots, {} lost unplugged, {} cut off by a reset; {} rows; the port: {port}",
        account.boots,
        account.lost_unplugged,
        account.lost_reset,
        stored(&rig)?.len()
    );

    let times = |what: &Told| told.iter().filter(|one| *one == what).count();
    assert_eq!((times(&Told::Unplugged), times(&Told::Reset)), (3, 2));
    assert!(rows > 50 && account.lost_unplugged >= 3, "the board has hardly sent: {account:?}");
    let mut steps = account.sent.clone();
    steps.dedup();
    assert_eq!(steps.len(), rows, "lines that follow each other have different values");
    // Once each, as they were sent.
    assert_eq!(stored(&rig)?, account.sent);
    // Each lost one is a gap in #n; one that was cut off by a reset is a damaged line.
    assert_eq!(account.gaps, account.lost_unplugged);
    assert_eq!(port["lines_lost"], account.lost_unplugged);
    assert_eq!((account.lost_reset, account.boots), (2, 3));
    assert_eq!(port["refused_checksum"], account.lost_reset);
    assert_eq!(shown(&rig, "lines_refused")?, Some(account.lost_reset));
    assert_eq!(port["numbered"], rows);
    assert_eq!(port["reopened"], 3);
    for other in ["refused_syntax", "refused_too_long", "refused_queue_full", "unverified"] {
        assert_eq!(port[other], 0, "{other}");
    }
    Ok(())
}
