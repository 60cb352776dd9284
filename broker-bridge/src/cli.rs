//! The command line. Commands that read work beside a running bridge.

mod commands;
mod desired;
mod letters;
mod print;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use fieldpost_protocol::StoreId;
use fieldpost_service::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::clock;
use crate::config::{Config, TEMPLATE};
use crate::store::sqlite::{Query, ReadingFilter, SqliteStore};

/// Takes batches from the broker into storage, and tells the gateways what is safe there.
#[derive(Debug, Parser)]
#[command(name = "fieldpost-bridge", version)]
struct Cli {
    /// The configuration.
    #[arg(
        long,
        short,
        global = true,
        default_value = "/etc/fieldpost-bridge/bridge.toml",
        env = "FIELDPOST_BRIDGE_CONFIG"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the bridge until SIGTERM or SIGINT.
    Run {
        /// With a broker in the same process: for a demo or a closed single box.
        #[arg(long)]
        embedded_broker: bool,
    },
    /// Makes the storage. Never overwrites one.
    Init {
        /// Take over the id of an earlier storage whose rows are gone: gateways trust it at
        /// once, and send again what they still hold.
        #[arg(long, value_name = "STORE_ID")]
        adopt: Option<StoreId>,
        #[arg(long)]
        json: bool,
    },
    /// Announces that the storage was restored from a backup, so that every gateway says again
    /// what it holds.
    ///
    /// Before that: stop the bridge, move the old file away together with its -wal and -shm, put
    /// the backup in its place. Then `restored`, and start the bridge. A file that is damaged, or
    /// beside which a log still lies, is refused.
    Restored {
        /// Also where rows are gone that were stored: somebody has deleted them by hand.
        #[arg(long)]
        with_gaps: bool,
        #[arg(long)]
        json: bool,
    },
    /// The storage at a glance: counts, alerts, alarms.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Every device: state, waiting, missing.
    Devices {
        #[arg(long)]
        json: bool,
    },
    /// The newest readings, in order of time.
    Readings {
        /// Only of this device.
        #[arg(long)]
        device: Option<String>,
        /// Only of this source.
        #[arg(long)]
        source: Option<String>,
        /// Not older: 30s, 15m, 2h, 7d, or a date in UTC such as "2026-11-21 08:00".
        #[arg(long)]
        since: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        #[arg(long)]
        json: bool,
    },
    /// What is lost, or was dropped, run by run.
    Missing {
        /// Only of this device.
        #[arg(long)]
        device: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Batches that could not become rows.
    #[command(subcommand)]
    Deadletter(letters::Command),
    /// What devices are asked to do, and what became of it.
    #[command(subcommand)]
    Command(commands::Command),
    /// Prints the documented template of the bridge's configuration; with get, set or diff, the
    /// configuration of a device.
    Config {
        #[command(subcommand)]
        of_device: Option<desired::Command>,
    },
    /// Checks the configuration, the files that it names and the whole storage, and does nothing else.
    Check,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fieldpost-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    if matches!(cli.command, Command::Config { of_device: None }) {
        return print::text(TEMPLATE).map(|()| ExitCode::SUCCESS);
    }
    let config = load(&cli.config)?;
    let storage = config.storage.as_path();
    let done = match cli.command {
        Command::Command(command) => return commands::execute(storage, command),
        Command::Run { embedded_broker } => run(config, embedded_broker),
        Command::Init { adopt, json } => init(storage, adopt, json),
        Command::Restored { with_gaps, json } => restored(storage, with_gaps, json),
        Command::Status { json } => print::status(&Query::open(storage)?.status()?, json),
        Command::Devices { json } => print::rows(&Query::open(storage)?.devices()?, json),
        Command::Readings { device, source, since, limit, json } => {
            let query = Query::open(storage)?;
            let since = since.map(|since| parse_since(&query, &since)).transpose()?;
            let filter = ReadingFilter { device, source, since, limit: limit as usize };
            print::rows(&query.readings(&filter)?, json)
        }
        Command::Missing { device, json } => {
            print::rows(&Query::open(storage)?.missing(device.as_deref())?, json)
        }
        Command::Deadletter(command) => letters::execute(storage, command),
        Command::Check => check(&cli.config, &config),
        Command::Config { of_device: None } => print::text(TEMPLATE),
        Command::Config { of_device: Some(command) } => desired::execute(storage, command),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn load(path: &Path) -> anyhow::Result<Config> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Config::load(path, &environment)?)
}

fn init(storage: &Path, adopt: Option<StoreId>, json: bool) -> anyhow::Result<()> {
    let identity = SqliteStore::init(storage, adopt, clock::now_ms())?;
    let text = format!("made the storage {}", storage.display());
    print::identity(&identity, &text, json)
}

fn restored(storage: &Path, with_gaps: bool, json: bool) -> anyhow::Result<()> {
    let identity = SqliteStore::open_backup(storage, with_gaps)?.restored(clock::now_ms())?;
    print::identity(&identity, "announced: gateways will say again what they hold", json)
}

/// `15m` before now, or a date.
fn parse_since(query: &Query, text: &str) -> anyhow::Result<i64> {
    let before = || ago(text).map(|ago| clock::now_ms() - ago);
    before().or_else(|| query.parse_date(text)).with_context(|| {
        format!("--since {text:?} is no time; write 30s, 15m, 2h, 7d, or a date in UTC such as \"2026-11-21 08:00\"")
    })
}

/// `15m` in milliseconds.
fn ago(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u32>().ok().map(|number| i64::from(number) * seconds * 1000)
}

fn check(path: &Path, config: &Config) -> anyhow::Result<()> {
    crate::run::check_files(config)?;
    Query::open_checked(&config.storage)?;
    print::text(&format!("{}: good\n", path.display()))
}

fn run(config: Config, embedded_broker: bool) -> anyhow::Result<()> {
    start_log();
    let service = Service::of_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "NOTIFY_SOCKET names a socket that cannot be had; nobody is told that this program runs");
        Service::default()
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let (stop, shutdown) = watch::channel(false);
        let (mut term, mut int) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // With a handler a write beyond `ulimit -f` fails; without, the signal ends the process.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            // Whoever no longer listens has ended by itself.
            let _ = stop.send(true);
            stop.closed().await;
        });
        crate::run::run_with_broker(config, embedded_broker, service, shutdown).await
    })
}

/// The log goes to stderr: INFO, or what FIELDPOST_LOG says (`debug`, `fieldpost_bridge=trace`).
///
/// The embedded broker is silent unless it is named there (`info,rumqttd=info`): it calls
/// every client that hangs up an error, and the clients say themselves why.
fn start_log() {
    let filter: Targets = std::env::var("FIELDPOST_LOG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| {
            let quiet = LevelFilter::OFF;
            Targets::new().with_default(tracing::Level::INFO).with_target("rumqttd", quiet)
        });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second start in one process (tests) keeps the first log.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}
