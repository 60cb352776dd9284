//! The serial line: flooded, unplugged in the middle of a line, renamed, not there, garbage.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fieldpost_demo::board::{is_open, pseudo_terminal, unix_ms};
use fieldpost_demo::judge::{self, read_only};
use fieldpost_demo::ledger::{Ledger, Sent};
use fieldpost_gateway::serial::crc16;
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use serde_json::Value as Json;

use crate::{assert_clean, settings};

/// A cable behind a symlink; dropped, it is pulled out. What it carries is up to the test.
struct Cable {
    terminal: File,
}

impl Cable {
    /// Plugs it in and waits until the gateway has opened it.
    fn plug(link: &Path) -> anyhow::Result<Cable> {
        let cable = Cable { terminal: Self::lay(link)? };
        wait_until("the port's opening", SOON, || Ok(is_open(&cable.terminal)?))?;
        Ok(cable)
    }

    /// Points `link` at a new terminal, in one step: as udev does.
    fn lay(link: &Path) -> anyhow::Result<File> {
        let (master, slave) = pseudo_terminal()?;
        let beside = link.with_extension("new");
        std::os::unix::fs::symlink(slave, &beside)?;
        std::fs::rename(beside, link)?;
        Ok(File::from(master))
    }

    /// Writes all of it, as fast as the other side reads.
    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let deadline = Instant::now() + SOON;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.terminal.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    ensure!(Instant::now() < deadline, "nobody reads the port");
                    std::thread::park_timeout(Duration::from_micros(50));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes the next `count` lines and enters them in the ledger.
    fn lines(&mut self, ledger: &Ledger, count: u64) -> anyhow::Result<()> {
        let text: String = (0..count).map(|_| next_line(ledger)).collect();
        self.write(text.as_bytes())
    }
}

fn measure(n: u64) -> Sent {
    let n = n as i64;
    let (temp_tenths, humidity_tenths) = (150 + n % 97, 800 + n % 89);
    Sent { time_ms: unix_ms(), temp_tenths, humidity_tenths, co2: 400 + n % 1_009 }
}

/// The next line, entered in the ledger, with its checksum and its end.
fn next_line(ledger: &Ledger) -> String {
    let n = ledger.len() + 1;
    let sent = measure(n);
    ledger.enter(sent);
    sealed(&sent.text(n))
}

fn sealed(text: &str) -> String {
    format!("{text}*{:04X}\n", crc16(text.as_bytes()))
}

fn status(rig: &Rig) -> anyhow::Result<Json> {
    let text = std::fs::read(rig.world.status()).context("reading the status file")?;
    Ok(serde_json::from_slice(&text)?)
}

/// A counter of the port `arduino`, as the status file has it.
fn counted(status: &Json, name: &str) -> u64 {
    let ports = status["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let port = ports.iter().find(|port| port["name"] == "arduino");
    port.and_then(|port| port[name].as_u64()).unwrap_or_default()
}

/// Bytes of a process's memory: `VmRSS` now, `VmHWM` at its peak (proc(5)).
fn memory_kib(process: u32, what: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let digits = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(digits.context("no such line in /proc")?.trim().parse()?)
}

#[test]
fn a_flood_is_refused_by_count_and_costs_bounded_memory() -> anyhow::Result<()> {
    const LINES: u64 = 400_000;
    const GROWTH_KIB_MAX: u64 = 32 * 1024;
    let mut rig = Rig::new(settings())?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let ledger = rig.ledger.clone();
    let mut cable = Cable::plug(&rig.world.port())?;
    cable.lines(&ledger, 100)?;
    rig.wait_stored(100)?;
    let process = rig.world.gateway.as_ref().context("it runs")?.id();
    let before = memory_kib(process, "VmRSS")?;

    let begin = Instant::now();
    while ledger.len() < LINES {
        cable.lines(&ledger, 60)?;
    }
    let took = begin.elapsed();
    let (after, peak) = (memory_kib(process, "VmRSS")?, memory_kib(process, "VmHWM")?);
    // Every line reached a counter: the gateway then has nothing of the flood in its hands.
    wait_until("counting the last line", SOON, || Ok(counted(&status(&rig)?, "frames") == LINES))?;
    rig.world.stop_gateway()?;
    let end = status(&rig)?;
    let accepted = judge::accepted(&rig.world.outbox())?.len() as u64;
    let refused = counted(&end, "refused_queue_full");
    println!(
        "{LINES} lines in {took:.1?} ({:.0}/s): {accepted} accepted, {refused} refused; \
         memory {before} KiB before, {after} after, {peak} at its peak",
        LINES as f64 / took.as_secs_f64()
    );
    assert_eq!(counted(&end, "frames"), LINES);
    assert_eq!(counted(&end, "accepted_by_queue"), accepted);
    assert_eq!(refused, LINES - accepted, "refused is what was sent and not accepted");
    assert!(refused > 0, "this was no flood");
    assert_eq!(end["readings"]["refused_in_doubt"], 0);
    assert!(peak < before + GROWTH_KIB_MAX, "{before} KiB before, {peak} at the peak");

    // What was accepted ends in storage, as it was sent, once.
    rig.world.start_gateway()?;
    wait_until("storing what was accepted", 2 * SOON, || {
        Ok(judge::stored(&rig.world.storage(), &ledger)?.stored() == accepted)
    })?;
    assert_clean(&judge::stored(&rig.world.storage(), &ledger)?);
    Ok(())
}

#[test]
fn half_a_line_is_never_a_reading_however_often_the_cable_is_pulled() -> anyhow::Result<()> {
    const ROUNDS: u64 = 40;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    // Bare lines are taken too: nothing but the rules about first and last lines protects them.
    let mut settings = settings();
    settings.checksum_optional = true;
    settings.gateway.push(("outbox", "commit_interval = \"50ms\"".to_owned()));
    let mut rig = Rig::new(settings)?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let ledger = rig.ledger.clone();
    let mut taken = 0;
    for _ in 0..ROUNDS {
        let mut cable = Cable::plug(&rig.world.port())?;
        // The board was in the middle of a line that no ledger has: its end may look like one.
        let text = measure(9_999).text(9_999_999);
        let tail = &text[rng.usize(1..text.len())..];
        let end = if rng.bool() { sealed(tail).split_off(tail.len()) } else { "\n".to_owned() };
        // A checksum of the whole line, not of its end.
        let end = if end.len() > 1 { format!("*{:04X}\n", crc16(text.as_bytes())) } else { end };
        cable.write(format!("{tail}{end}").as_bytes())?;
        for _ in 0..rng.u64(1..20) {
            let line = next_line(&ledger);
            let bare = line.split('*').next().context("a line")?;
            cable.write(if rng.bool() { line.clone() } else { format!("{bare}\n") }.as_bytes())?;
        }
        let last = ledger.len();
        // Half of a line, or all of it but its end: still none.
        let half = sealed(&measure(8_888).text(8_888_888));
        cable.write(&half.as_bytes()[..rng.usize(1..half.len())])?;
        if rng.bool() {
            // So the half was read as well, and is not lost with the cable.
            wait_until("accepting the last whole line", SOON, || {
                Ok(rig.accepted().is_ok_and(|lines| lines.contains(&last)))
            })?;
            taken += 1;
        }
    }
    let mut cable = Cable::plug(&rig.world.port())?;
    cable.lines(&ledger, 10)?;
    let found = rig.drain()?;
    rig.world.stop_gateway()?;
    let end = status(&rig)?;
    let partial = counted(&end, "partial");
    println!(
        "{taken} of {ROUNDS} halves surely read; {partial} fragments counted, {} of {} lines stored",
        found.stored(),
        ledger.len()
    );
    assert_clean(&found);
    assert_eq!(found.lines.keys().copied().collect::<BTreeSet<u64>>(), rig.accepted()?);
    assert!(partial >= taken, "{partial} fragments counted, {taken} sent and read");
    assert_eq!(counted(&end, "reopened"), ROUNDS);
    Ok(())
}

#[test]
fn a_port_that_is_another_device_now_is_opened_by_its_stable_path() -> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let ledger = rig.ledger.clone();
    let mut first = Cable::plug(&rig.world.port())?;
    first.lines(&ledger, 20)?;
    rig.wait_stored(20)?;
    // The adapter comes back as another device while the gateway still has the old one open.
    let mut second = Cable { terminal: Cable::lay(&rig.world.port())? };
    let (old, new) = (first.terminal.try_clone()?, second.terminal.try_clone()?);
    ensure!(is_open(&old)? && !is_open(&new)?, "the link alone moves nothing");
    drop((first, old));
    wait_until("opening the new device", SOON, || Ok(is_open(&second.terminal)?))?;
    second.lines(&ledger, 20)?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), 40);
    wait_until("the alert's end in storage", SOON, || {
        let sql = "SELECT count(DISTINCT state) FROM alerts WHERE name = 'port_lost'";
        Ok(read_only(&rig.world.storage())?.query_row(sql, [], |row| row.get::<_, i64>(0))? == 2)
    })
}

#[test]
fn ports_that_nobody_can_open_are_alerts_and_hold_up_no_other() -> anyhow::Result<()> {
    let mut rig = Rig::new(settings())?;
    let folder = rig.world.dir().join("a-folder");
    let file = rig.world.dir().join("a-file");
    let loop_of_links = rig.world.dir().join("a-loop");
    std::fs::create_dir(&folder)?;
    std::fs::write(&file, "temp=24.5\n")?;
    std::os::unix::fs::symlink(&loop_of_links, &loop_of_links)?;
    let absent = rig.world.dir().join("absent");
    let bad: [(&str, PathBuf); 4] =
        [("absent", absent), ("folder", folder), ("file", file), ("loop", loop_of_links)];
    let config = rig.world.dir().join("gateway.toml");
    let mut text = std::fs::read_to_string(&config)?;
    for (name, path) in &bad {
        text.push_str(&format!("[[port]]\nname = \"{name}\"\npath = \"{}\"\n", path.display()));
    }
    std::fs::write(&config, text)?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let ledger = rig.ledger.clone();
    let mut cable = Cable::plug(&rig.world.port())?;
    cable.lines(&ledger, 50)?;
    rig.wait_stored(50)?;
    wait_until("an alert for each", SOON, || {
        let status = status(&rig)?;
        let alerts = status["alerts"].as_array().map_or(&[][..], Vec::as_slice);
        let lost = alerts.iter().filter(|alert| alert["name"] == "port_lost");
        let about: BTreeSet<&str> = lost.filter_map(|alert| alert["about"].as_str()).collect();
        Ok(bad.iter().all(|(name, _)| about.contains(name)) && about.len() == bad.len())
    })?;
    // One of them is plugged in at last.
    let ghost = Cable::plug(&bad[0].1)?;
    wait_until("the end of its alert", SOON, || {
        let text = status(&rig)?["alerts"].to_string();
        Ok(!text.contains("\"absent\"") && text.contains("\"folder\""))
    })?;
    drop(ghost);
    assert_clean(&rig.drain()?);
    Ok(())
}

#[test]
fn garbage_is_counted_hinted_at_and_followed_by_good_lines() -> anyhow::Result<()> {
    /// Three seconds of 115,200 baud: a board that sends at another rate.
    const GARBAGE_BYTES: u64 = 3 * 11_520;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut rig = Rig::new(settings())?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let ledger = rig.ledger.clone();
    let mut cable = Cable::plug(&rig.world.port())?;
    let garbage: Vec<u8> =
        std::iter::repeat_with(|| rng.u8(..)).take(GARBAGE_BYTES as usize).collect();
    cable.write(&garbage)?;
    cable.write(b"\n")?;
    let before = ledger.len();
    cable.lines(&ledger, 100)?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), before + 100, "not one line behind the garbage is lost");
    rig.world.stop_gateway()?;
    let end = status(&rig)?;
    let refused = counted(&end, "refused_checksum") + counted(&end, "refused_syntax");
    let pieces =
        garbage.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|piece| !piece.is_empty());
    let pieces = pieces.count() as u64;
    println!("{pieces} lines of garbage: {refused} refused, {} partial", counted(&end, "partial"));
    // The first may have begun before the port was opened: it is called partial.
    assert_eq!(refused + counted(&end, "partial") + counted(&end, "refused_too_long"), pieces);
    assert_eq!(counted(&end, "frames"), 100);
    let log = std::fs::read_to_string(rig.world.log("gateway"))?;
    assert!(log.contains("does not send at baud = 115200"), "the hint names the rate");
    Ok(())
}
