//! `cargo demo`: one run, for a person to watch or a program to read.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use fieldpost_gateway::config::{Config, process_environment};
use rustix::fs::{FlockOperation, flock};

use crate::board::Board;
use crate::judge::{self, OutboxWatch, Watch};
use crate::ledger::{Ledger, TIME_TOLERANCE_MS};
use crate::operator::Operator;
use crate::report::{Commands, FramesSent, Latency, Report, RunConfig};
use crate::world::{DEVICE, Programs, Settings, World};

/// Between two looks into storage: latencies are known to this.
const LOOK: Duration = Duration::from_millis(20);
/// Between two live lines.
const LINE: Duration = Duration::from_millis(500);
/// How long the last lines may take to be accepted, and then to be stored.
const DRAIN: Duration = Duration::from_secs(60);

/// Runs a TLS broker, a simulated Arduino, a gateway and a bridge, and holds what is stored
/// against what was sent.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", version)]
struct Cli {
    /// Stop the source after so many seconds, drain, compare, end. Else it runs until Ctrl-C.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Lines a second of the simulated Arduino, 0.01 to 20000.
    #[arg(long, default_value_t = 10.0, value_parser = parse_rate)]
    rate: f64,
    /// A real serial port instead of the simulated Arduino.
    #[arg(long)]
    serial: Option<PathBuf>,
    /// Bits per second of the real port.
    #[arg(long, default_value_t = 115_200, requires = "serial", value_parser = clap::value_parser!(u32).range(50..=4_000_000))]
    baud: u32,
    /// Take lines without a checksum from the real port.
    #[arg(long, requires = "serial")]
    checksum_optional: bool,
    /// Print the result as one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Keep everything in this new folder; else in target/demo, which each run begins anew.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.01..=20_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("it has to be 0.01 to 20000".to_owned())
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(report) if report.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Report> {
    let dir = folder(cli)?;
    let mut settings = Settings::new(Programs::Myself);
    settings.serial.clone_from(&cli.serial);
    settings.baud = cli.baud;
    settings.checksum_optional = cli.checksum_optional;
    let mut world = World::new(&dir, settings)?;
    let stop = stop_at_interrupt()?;
    say(cli.json, &introduction(&world, cli))?;
    world.start_bridge()?;
    // A gateway that is there first would greet nobody, and greet again after seconds: true,
    // and not what the demo is to show.
    world.wait_bridge_online(0)?;
    world.start_gateway()?;
    let ledger = Ledger::default();
    let board = match &cli.serial {
        Some(_) => None,
        None => Some(Board::start(&world.port(), cli.rate, ledger.clone())?),
    };
    let mut follow = Follow {
        started: Instant::now(),
        storage: Watch::new(&world.storage(), ledger.clone()),
        outbox: OutboxWatch::new(&world.outbox()),
        ledger: ledger.clone(),
        operator: Operator::connect(&world, cli.serial.is_none())?,
        json: cli.json,
        line: !cli.json && std::io::stderr().is_terminal(),
        next_line: Instant::now(),
    };
    let end = cli.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    follow.until(&mut world, |follow| {
        let is_over = stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
        Ok(is_over || follow.operator.send().map(|()| false)?)
    })?;
    if let Some(board) = &board {
        board.pause();
    }
    follow.drain(&mut world, board.is_some())?;
    follow.end_line();
    world.stop_gateway()?;
    let status = Status::read(&world.status())?;
    if board.is_none() {
        drain_without_port(&mut world)?;
    }
    let wire = world.wire_bytes();
    world.stop_bridge()?;
    let report = compare(cli, &world, &follow, &status, wire)?;
    if cli.json {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        say(cli.json, &format!("\n{}", report.text()))?;
    }
    Ok(report)
}

/// What is known while it runs.
struct Follow {
    started: Instant,
    storage: Watch,
    outbox: OutboxWatch,
    ledger: Ledger,
    operator: Operator,
    json: bool,
    line: bool,
    next_line: Instant,
}

impl Follow {
    /// Looks until `done`, or until a process has ended by itself.
    fn until(
        &mut self,
        world: &mut World,
        mut done: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        loop {
            if let Some((name, status)) = world.ended()? {
                bail!(
                    "the {name} has ended by itself ({status}); its log is {}",
                    world.log(name).display()
                );
            }
            self.storage.look()?;
            for line in self.operator.look()? {
                // Over the line that changes.
                let begin = if self.line { "\r\x1b[K" } else { "" };
                say(self.json, &format!("{begin}{line}\n"))?;
            }
            if self.line && Instant::now() >= self.next_line {
                self.next_line = Instant::now() + LINE;
                let _ = self.show();
            }
            if done(self)? {
                return Ok(());
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Until every command has ended and, from a board that has stopped, everything that was sent is
    /// accepted and stored.
    fn drain(&mut self, world: &mut World, has_stopped: bool) -> anyhow::Result<()> {
        let (deadline, storage) = (Instant::now() + DRAIN, world.storage());
        self.until(world, |follow| {
            let accepted = follow.outbox.look().unwrap_or(0);
            let whole = accepted >= follow.ledger.len() && follow.storage.stored() >= accepted;
            let [ended, _, told] = judge::commands(&storage)?;
            let done = follow.ledger.commands().len() as u64;
            let is_answered = ended >= follow.operator.sent() && told >= done;
            Ok((whole || !has_stopped) && is_answered || Instant::now() >= deadline)
        })
    }

    fn show(&mut self) -> anyhow::Result<()> {
        let accepted = self.outbox.look()?;
        let stored = self.storage.stored();
        let latency =
            self.storage.recent_latency_ms(200).map_or("-".to_owned(), |ms| format!("{ms} ms"));
        eprint!(
            "\r\x1b[K{:6.1} s  sent {}  accepted {accepted}  stored {stored}  waiting {}  latency {latency}",
            self.started.elapsed().as_secs_f64(),
            self.ledger.len(),
            accepted.saturating_sub(stored),
        );
        std::io::stderr().flush()?;
        Ok(())
    }

    fn end_line(&mut self) {
        if self.line {
            let _ = self.show();
            eprintln!();
        }
    }
}

/// A real board cannot be told to stop: the gateway has, and starts once more with no port
/// that exists, to send what it holds.
fn drain_without_port(world: &mut World) -> anyhow::Result<()> {
    let drained = |world: &World| {
        let (accepted, stored, _) = judge::compare_files(&world.outbox(), &world.storage())?;
        anyhow::Ok(stored >= accepted)
    };
    if drained(world)? {
        return Ok(());
    }
    world.detach_port()?;
    world.start_gateway()?;
    let deadline = Instant::now() + DRAIN;
    while !drained(world)? && Instant::now() < deadline {
        std::thread::park_timeout(LINE);
    }
    world.stop_gateway()
}

fn compare(
    cli: &Cli,
    world: &World,
    follow: &Follow,
    status: &Status,
    wire: (u64, u64),
) -> anyhow::Result<Report> {
    let config = Config::load(&world.dir().join("gateway.toml"), process_environment())?;
    let ledger = &follow.ledger;
    let latency_ms =
        Latency { p50: follow.storage.latency_ms(0.5), p99: follow.storage.latency_ms(0.99) };
    let run = RunConfig {
        seconds: cli.seconds,
        rate: cli.serial.is_none().then_some(cli.rate),
        serial: cli
            .serial
            .as_ref()
            .map_or("simulated".to_owned(), |path| path.display().to_string()),
        commit_interval_ms: config.outbox.commit_interval.as_millis() as u64,
        publish_interval_ms: config.publish.publish_interval.as_millis() as u64,
        time_tolerance_ms: TIME_TOLERANCE_MS,
    };
    let found = judge::stored(&world.storage(), ledger)?;
    let [_, succeeded, told] = judge::commands(&world.storage())?;
    let mut report = Report {
        frames_sent: FramesSent::Known(ledger.len()),
        accepted: 0,
        refused: status.refused,
        stored: found.stored(),
        missing: found.missing,
        duplicates: found.duplicates(),
        wrong: found.wrong_count,
        commands: Commands {
            sent: follow.operator.sent(),
            succeeded,
            told,
            done: cli.serial.is_none().then(|| ledger.commands().len() as u64),
        },
        latency_ms,
        wire_bytes_per_reading: None,
        config: run,
    };
    let mut wrong = found.wrong;
    if cli.serial.is_none() {
        let accepted = judge::accepted(&world.outbox())?;
        report.accepted = accepted.len() as u64;
        report.missing +=
            accepted.iter().filter(|line| !found.lines.contains_key(line)).count() as u64;
    } else {
        let (accepted, stored, differs) = judge::compare_files(&world.outbox(), &world.storage())?;
        (report.accepted, report.stored, report.wrong) = (accepted, stored, differs.len() as u64);
        (report.duplicates, report.missing) = (0, found.missing + (accepted - stored));
        report.latency_ms = Latency { p50: None, p99: None };
        report.frames_sent = match status.numbered {
            0 => FramesSent::Unknown("unverifiable"),
            _ => FramesSent::Known(accepted + status.lines_lost),
        };
        wrong = differs;
    }
    for wrong in wrong.iter().take(5) {
        eprintln!("wrong: {wrong}");
    }
    let bytes = wire.0 + wire.1;
    report.wire_bytes_per_reading =
        (report.stored > 0).then(|| (bytes as f64 / report.stored as f64 * 10.0).round() / 10.0);
    Ok(report)
}

/// What the gateway said at its end.
struct Status {
    refused: u64,
    lines_lost: u64,
    /// Lines that carried a counter.
    numbered: u64,
}

impl Status {
    fn read(path: &Path) -> anyhow::Result<Status> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let number =
            |pointer: &str| json.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let readings = ["refused_by_ports", "refused_full", "refused_in_doubt"];
        Ok(Status {
            refused: readings.iter().map(|name| number(&format!("/readings/{name}"))).sum(),
            lines_lost: number("/ports/0/lines_lost"),
            numbered: number("/ports/0/numbered"),
        })
    }
}

fn folder(cli: &Cli) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &cli.dir {
        if dir.exists() && std::fs::read_dir(dir)?.next().is_some() {
            bail!("--dir {} is not empty; name a new folder", dir.display());
        }
        return Ok(dir.clone());
    }
    let dir = Path::new("target").join("demo");
    std::fs::create_dir_all("target").context("making the folder target")?;
    let lock = File::create("target/demo.lock").context("making target/demo.lock")?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "another demo runs in {}; give this one a folder of its own: --dir NEW",
            dir.display()
        );
    }
    // Held until the process ends.
    std::mem::forget(lock);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("clearing {}", dir.display()))?;
    }
    Ok(dir)
}

fn introduction(world: &World, cli: &Cli) -> String {
    let dir = world.dir().display();
    let source = match &cli.serial {
        Some(path) => format!("the board on {}", path.display()),
        None => format!("a simulated Arduino, {} lines a second", cli.rate),
    };
    format!(
        "Fieldpost demo: {source} -> gateway -> TLS broker on {} -> bridge. All of it lies in {dir}.\n\
         Look into it from another shell, while it runs or later:\n\
         \x20 sqlite3 {dir}/outbox.db \"SELECT time, source, body->>'temp' FROM recent ORDER BY 1 DESC LIMIT 3\"\n\
         \x20 sqlite3 {dir}/bridge.db \"SELECT * FROM measurement ORDER BY time DESC LIMIT 8\"\n\
         \x20 MQTT Explorer: host localhost, port {}, TLS, CA {dir}/certs/ca.pem,\n\
         \x20   client certificate {dir}/certs/operator.pem, key {dir}/certs/operator.key\n\
         \x20   publish {{\"name\":\"led\",\"args\":{{\"on\":1}}}} to devices/{DEVICE}/commands\n\
         It sends such a command itself, after 2 s and then every 15 s. {}\n",
        world.broker_address(),
        world.broker_address().port(),
        if cli.seconds.is_none() {
            "Ctrl-C ends the source, drains, compares and ends."
        } else {
            ""
        },
    )
}

fn say(json: bool, text: &str) -> anyhow::Result<()> {
    if json {
        write!(std::io::stderr().lock(), "{text}")?
    } else {
        write!(std::io::stdout().lock(), "{text}")?
    }
    Ok(())
}

/// The first Ctrl-C asks for an end with a verdict; a second one ends at once.
fn stop_at_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if asked.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    })?;
    Ok(stop)
}
