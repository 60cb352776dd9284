//! The command line.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use fieldpost_protocol::StoreId;
use fieldpost_service::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock::{self, Now};
use crate::config::{Config, TEMPLATE, process_environment};
use crate::history::Connectivity;
use crate::outbox::{Outbox, Trusted};
use crate::serial::{Format, Place};
use crate::status::Printed;

/// Reads sensors on serial ports, keeps every reading until storage has it.
#[derive(Debug, Parser)]
#[command(name = "fieldpost-gateway", version)]
struct Cli {
    /// The configuration.
    #[arg(
        long,
        short,
        global = true,
        default_value = "/etc/fieldpost/gateway.toml",
        env = "FIELDPOST_CONFIG"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway until SIGTERM or SIGINT.
    Run,
    /// Checks the configuration and the files that it names, and does nothing else.
    Check {
        /// Has the running gateway, too, try its broker and ask its storage at once, and tells how
        /// that went; a wait for the next try ends.
        #[arg(long)]
        now: bool,
    },
    /// Prints the documented template of the configuration.
    Config,
    /// Prints what the running gateway last said about itself.
    Status {
        /// As JSON, everything, with the connectivity of 30 days.
        #[arg(long)]
        json: bool,
    },
    /// Sends lines to a port of the running gateway that is a socket, for scripts.
    Send {
        /// One line, such as 'attic temp=24.5'; `-` takes lines from the standard input.
        line: String,
        /// Which port, where several are sockets.
        #[arg(long)]
        port: Option<String>,
    },
    /// Closes a serial port for a while, so that a new sketch can be written to its board.
    Release {
        /// Its name.
        port: String,
        /// For so long, up to 1h; 0s opens it again at once.
        #[arg(default_value = "60s")]
        time: String,
    },
    /// Prints every reading that the outbox holds, one JSON object a line. Stop the gateway first.
    Readings,
    /// Trusts another storage from now on. Stop the gateway first.
    TrustStore {
        /// Its id, as the alert and the bridge's `status` name it.
        store: StoreId,
    },
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fieldpost-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Config => print(TEMPLATE),
        Command::Run => run(&load(&cli.config)?),
        Command::Check { now } => check(&cli.config, *now),
        Command::Status { json } => status(&load(&cli.config)?, *json),
        Command::Send { line, port } => send(&load(&cli.config)?, line, port.as_deref()),
        Command::Release { port, time } => release(&load(&cli.config)?, port, time),
        Command::Readings => readings(&load(&cli.config)?),
        Command::TrustStore { store } => trust_store(&load(&cli.config)?, *store),
    }
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path, process_environment())?)
}

fn check(path: &Path, now: bool) -> anyhow::Result<()> {
    let config = load(path)?;
    let warnings = config.check_files()?;
    for warning in config.warnings.iter().chain(&warnings) {
        eprintln!("warning: {warning}");
    }
    for port in &config.ports {
        for hint in crate::serial::hints(Path::new("/"), &port.place) {
            eprintln!("warning: port {}: {hint}", port.name);
        }
    }
    if let Some(options) = crate::run::session_options(&config) {
        options.check().context("[broker]")?;
    }
    let folder = config.outbox.path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        anyhow::bail!("outbox.path: the folder {} does not exist; make it", folder.display());
    }
    crate::outbox::check_place(&config.outbox.path).context("outbox.path")?;
    print(&format!("{}: good\n", path.display()))?;
    if now { check_now(&config) } else { Ok(()) }
}

/// The configuration may have changed since the gateway has read it: it tells of its own.
fn check_now(config: &Config) -> anyhow::Result<()> {
    let socket = config.control.socket.as_deref();
    let socket = socket.context("[control] socket is \"\": this gateway cannot be asked")?;
    let step = |step: &str| drop(print(&format!("{step}\n")));
    match crate::control::check(socket, step) {
        Ok(checked) => print(&format!("{}\n", checked.map_err(anyhow::Error::msg)?)),
        Err(why) => anyhow::bail!(
            "no running gateway could be asked, and nothing was tried: {why} If it does not: `systemctl start \
             fieldpost-gateway`, or `fieldpost-gateway run`"
        ),
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    crate::log::start();
    let warnings = config.check_files()?;
    for warning in config.warnings.iter().chain(&warnings) {
        tracing::warn!("{warning}");
    }
    let service = Service::of_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "NOTIFY_SOCKET names a socket that cannot be had; nobody is told that this program runs");
        Service::default()
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let restart = runtime.block_on(async {
        let (stop, shutdown) = watch::channel(false);
        let (mut term, mut int) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // With a handler a write beyond `ulimit -f` fails; without, the signal ends the process.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            let _ = stop.send(true);
            // Held, since a closed channel would look like no answer at all.
            stop.closed().await;
        });
        crate::run::run(config.clone(), service, shutdown).await
    })?;
    drop(runtime);
    if restart { Err(start_again()) } else { Ok(()) }
}

/// The same program, or what was installed in its place since, with the same arguments. It keeps the
/// number of this process, so that whoever supervises it sees no end.
fn start_again() -> anyhow::Error {
    use std::os::unix::process::CommandExt as _;
    let mut args = std::env::args_os();
    let named = args.next().unwrap_or_default();
    let program = match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        // It was replaced; its name leads to the new one.
        _ => PathBuf::from(named),
    };
    let error = std::process::Command::new(&program).args(args).exec();
    anyhow::Error::new(error).context(format!("starting {} again", program.display()))
}

fn status(config: &Config, json: bool) -> anyhow::Result<()> {
    let path =
        config.status.file.as_deref().context("[status] file is \"\": the gateway writes none")?;
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("reading {}: does the gateway run, as a user who may write there?", path.display())
    })?;
    if json {
        return print(&format!("{}\n", with_history(config, text)));
    }
    let printed: Printed =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    print(&printed.text(clock::wall_ms(), &|pid| Path::new(&format!("/proc/{pid}")).exists()))
}

/// The file holds a day of connectivity; the rest is in the outbox, where it can be read.
fn with_history(config: &Config, text: String) -> String {
    let filled = || -> anyhow::Result<Option<String>> {
        let mut status: serde_json::Value = serde_json::from_str(&text)?;
        let Some(told) = status.get_mut("connectivity") else { return Ok(None) };
        let mut connectivity: Connectivity = serde_json::from_value(told.take())?;
        connectivity.fill_up(&crate::outbox::read_history(&config.outbox.path)?);
        *told = serde_json::to_value(connectivity)?;
        Ok(Some(serde_json::to_string_pretty(&status)?))
    };
    match filled() {
        Ok(filled) => filled.unwrap_or(text),
        Err(error) => {
            let path = config.outbox.path.display();
            eprintln!(
                "warning: of connectivity only the last day is shown: reading {path}: {error:#}"
            );
            text
        }
    }
}

/// What is refused goes to the standard error, and the status tells.
fn send(config: &Config, line: &str, port: Option<&str>) -> anyhow::Result<()> {
    let socket = socket_of(config, port)?;
    let mut unreadable = None;
    let texts: Box<dyn Iterator<Item = std::io::Result<Vec<u8>>>> = match line {
        "-" => Box::new(std::io::stdin().lock().split(b'\n')),
        line => {
            Box::new(line.as_bytes().split(|byte| *byte == b'\n').map(|line| Ok(line.to_vec())))
        }
    };
    let texts = texts.map_while(|text| text.map_err(|error| unreadable = Some(error)).ok());
    // For a port this ends a line, too, and each line has an answer of its own.
    let lines = texts
        .flat_map(|text| text.split(|byte| *byte == b'\r').map(<[u8]>::to_vec).collect::<Vec<_>>());
    let lines = lines.filter(|line| !line.is_empty());
    let (mut all, mut refused) = (0, 0);
    let answered = |answer: String| {
        all += 1;
        if answer.starts_with("refused") {
            refused += 1;
            eprintln!("{answer}");
        }
    };
    crate::local::exchange(socket, lines, answered).map_err(anyhow::Error::msg)?;
    if let Some(error) = unreadable {
        return Err(error).context("reading the standard input");
    }
    match (all, refused) {
        (0, _) => anyhow::bail!("nothing was sent: there is no line"),
        (_, 0) => Ok(()),
        (all, refused) => anyhow::bail!("{refused} of {all} lines were refused"),
    }
}

fn socket_of<'c>(config: &'c Config, port: Option<&str>) -> anyhow::Result<&'c Path> {
    let sockets: Vec<(&str, &Path)> = config
        .ports
        .iter()
        .filter_map(|port| match &port.place {
            // Packets are no lines that a shell could write.
            Place::Socket(_) if matches!(port.format, Format::Cobs(_)) => None,
            Place::Socket(path) => Some((&*port.name, path.as_path())),
            Place::Device { .. } => None,
        })
        .collect();
    let names = sockets.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    match (&sockets[..], port) {
        ([], _) => anyhow::bail!(
            "no port of this configuration is a socket for lines: add a [[port]] with name = \"script\" and socket = \"/run/fieldpost/readings.sock\""
        ),
        ([(_, path)], None) => Ok(path),
        (_, None) => {
            anyhow::bail!("several ports are sockets; name one of them by --port: {names}")
        }
        (_, Some(port)) => sockets
            .iter()
            .find(|(name, _)| *name == port)
            .map(|(_, path)| *path)
            .with_context(|| format!("no port {port:?} is a socket; those that are: {names}")),
    }
}

fn release(config: &Config, port: &str, time: &str) -> anyhow::Result<()> {
    let socket = config.control.socket.as_deref();
    let socket = socket.context("[control] socket is \"\": this gateway cannot be asked")?;
    let done = crate::control::ask(socket, &format!("release {port} {time}"));
    print(&format!("{}\n", done.map_err(anyhow::Error::msg)?))
}

/// Says so if something was damaged: the gateway's own alert will not.
fn open_outbox(config: &Config) -> anyhow::Result<Outbox> {
    let (outbox, recovered) = crate::run::open_outbox(config, Now::read())?;
    if let Some(damage) = recovered.damage() {
        eprintln!("fieldpost-gateway: {damage}");
    }
    Ok(outbox)
}

fn readings(config: &Config) -> anyhow::Result<()> {
    let outbox = open_outbox(config)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    let lost = outbox.export(|key, seq, base, reading| {
        let line = serde_json::json!({
            "epoch": key.epoch, "seq": seq, "source": &*reading.source,
            "time": base.map(|(base, _)| base + reading.offset_ms),
            "clock": base.map(|(_, clock)| clock.as_str()),
            "metrics": &reading.metrics,
        });
        if failed.is_none() {
            failed = writeln!(out, "{line}").err();
        }
    })?;
    if failed.is_none() {
        failed = out.flush().err();
    }
    if lost > 0 {
        eprintln!(
            "fieldpost-gateway: {lost} readings cannot be read: damaged ones become dead letters at the bridge, deleted ones show as missing"
        );
    }
    match failed {
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn trust_store(config: &Config, store: StoreId) -> anyhow::Result<()> {
    let mut outbox = open_outbox(config)?;
    let before = outbox.trusted().map(|trusted| trusted.store);
    if before != Some(store) {
        outbox.trust(Trusted { store, r#gen: None })?;
    }
    let before = before.map_or("none".to_owned(), |store| store.to_string());
    print(&format!(
        "trusted: {store} (before: {before}). What it lacks and this outbox still holds will be sent again.\n"
    ))
}

fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
