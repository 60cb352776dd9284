//! The build for a 64-bit Pi, in an emulator of its processor: broker and bridge are this machine's.
//!
//! qemu-user knows no serial ports (TCGETS2 is ENOSYS in 7.2), so readings come by a socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::Programs;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{settings, without_cargo};

/// Lines with the bridge there, and again without it.
const LINES: i64 = 1_500;

fn build() -> anyhow::Result<PathBuf> {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/aarch64"));
    let output = without_cargo(command.args(["--profile", "quick"])).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "scripts/aarch64 ended with {}: {said}", output.status);
    let built = "../target/aarch64-unknown-linux-gnu/quick/fieldpost-gateway";
    Ok(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(built).canonicalize()?)
}

/// Sends numbered lines to the gateway's socket, and reads its answer to each.
fn send(rig: &Rig, numbers: std::ops::Range<i64>) -> anyhow::Result<()> {
    let path = rig.world.dir().join("lines.sock");
    wait_until("the socket", SOON, || Ok(UnixStream::connect(&path).is_ok()))?;
    let mut stream = UnixStream::connect(&path)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    for n in numbers {
        stream.write_all(format!("shed n={n} temp=21.5\n").as_bytes())?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        ensure!(answer == "taken\n", "line {n}: {answer:?}");
    }
    Ok(())
}

/// Rows, and different numbers among them.
fn stored(rig: &Rig) -> anyhow::Result<(i64, i64)> {
    let conn = read_only(&rig.world.storage())?;
    let sql =
        "SELECT count(*), count(DISTINCT metrics ->> 'n') FROM readings WHERE source = 'shed'";
    Ok(conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn wait_stored(rig: &Rig, rows: i64) -> anyhow::Result<()> {
    wait_until("all in storage", 2 * SOON, || Ok(stored(rig)?.0 >= rows))?;
    assert_eq!(stored(rig)?, (rows, rows));
    Ok(())
}

#[test]
fn a_gateway_for_aarch64_brings_every_line_to_a_bridge_of_this_machine_once() -> anyhow::Result<()>
{
    let gateway = build()?;
    let mut settings = settings();
    let Programs::Files { bridge, .. } = settings.programs else { unreachable!("two files") };
    settings.programs = Programs::Files { gateway, bridge };
    settings.gateway_wrapper =
        ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"].map(str::to_owned).to_vec();
    settings.ports = "[[port]]\nname = \"lines\"\nsocket = \"{dir}/lines.sock\"\n".to_owned();
    let (mut rig, _mosquitto) = Rig::on_mosquitto(settings)?;
    let said = rig.world.run_gateway(&["check"]).context("Debian: qemu-user-static")?;
    ensure!(said.ends_with("good\n"), "{said}");
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    send(&rig, 0..LINES)?;
    rig.world.run_gateway(&["send", &format!("shed n={LINES} temp=21.5")])?;
    wait_stored(&rig, LINES + 1)?;

    // What waits while nobody takes it survives a stop, and is sent by the next process.
    rig.world.stop_bridge()?;
    send(&rig, LINES + 1..2 * LINES)?;
    rig.world.stop_gateway()?;
    rig.world.start_gateway()?;
    rig.world.start_bridge()?;
    wait_stored(&rig, 2 * LINES)?;
    println!("{}", rig.world.run_gateway(&["status"])?);
    rig.world.stop_gateway()
}
