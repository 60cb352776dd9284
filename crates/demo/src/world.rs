//! One installation in a folder: certificates, configurations, broker, gateway and bridge.

mod config;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use fieldpost_embedded_broker::{Config as BrokerConfig, EmbeddedBroker, TlsPaths};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::relay::Relay;

/// In the environment of a process that is to be the gateway or the bridge.
pub const ROLE: &str = "DEMO_ROLE";
/// The device of the demo.
pub const DEVICE: &str = "greenhouse-1";
/// The bridge of the demo.
pub const BRIDGE: &str = "bridge";
/// How long an orderly end may take before the process is killed.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Which programs to run.
#[derive(Debug, Clone)]
pub enum Programs {
    /// This very binary, which becomes what [`ROLE`] says.
    Myself,
    /// Two files.
    Files {
        /// The gateway.
        gateway: PathBuf,
        /// The bridge.
        bridge: PathBuf,
    },
}

/// What differs from the shipped defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which programs to run.
    pub programs: Programs,
    /// The serial port; `None`: the link that [`World::port`] names.
    pub serial: Option<PathBuf>,
    /// Lines without a checksum are taken.
    pub checksum_optional: bool,
    /// Bits per second.
    pub baud: u32,
    /// More lines for sections of `gateway.toml`: (section, line).
    pub gateway: Vec<(&'static str, String)>,
    /// More lines for sections of `bridge.toml`: (section, line).
    pub bridge: Vec<(&'static str, String)>,
    /// More lines for the `[[port]]` of the board.
    pub port: Vec<String>,
    /// More `[[port]]` sections; `{dir}` stands for the world's folder.
    pub ports: String,
    /// The gateway knows of a broker.
    pub broker: bool,
    /// The folder of the gateway's outbox; `None`: the world's.
    pub outbox_dir: Option<PathBuf>,
    /// A broker that the caller runs, instead of the embedded one.
    pub external: Option<External>,
    /// Gateway and bridge use the CA and the certificates of the world's folder; else what the lines
    /// of [`Settings::gateway`] and [`Settings::bridge`] say.
    pub certificates: bool,
    /// In front of the gateway's command line: a program that executes it in its place.
    pub gateway_wrapper: Vec<String>,
}

/// The ways to a broker that the caller runs with the certificates of the world's folder; a way
/// may lead through a proxy.
#[derive(Debug, Clone, Copy)]
pub struct External {
    /// Where the gateway connects to.
    pub gateway: SocketAddr,
    /// Where the bridge connects to.
    pub bridge: SocketAddr,
}

impl Settings {
    /// The shipped defaults.
    pub fn new(programs: Programs) -> Settings {
        Settings {
            programs,
            serial: None,
            checksum_optional: false,
            baud: 115_200,
            gateway: Vec::new(),
            bridge: Vec::new(),
            port: Vec::new(),
            ports: String::new(),
            broker: true,
            external: None,
            certificates: true,
            gateway_wrapper: Vec::new(),
            outbox_dir: None,
        }
    }
}

/// A process that ends with this value.
pub struct Process {
    name: &'static str,
    child: Child,
}

/// See the module. Dropping it ends everything.
pub struct World {
    dir: PathBuf,
    settings: Settings,
    broker: Option<EmbeddedBroker>,
    /// As the bridge sees it.
    broker_address: SocketAddr,
    /// Not with an external broker.
    relay: Option<Relay>,
    /// For the programs, from their next start on: (program, variable, value).
    pub environment: Vec<(&'static str, &'static str, String)>,
    /// The running gateway.
    pub gateway: Option<Process>,
    /// The running bridge.
    pub bridge: Option<Process>,
}

impl World {
    /// Makes certificates, configurations and an empty storage in `dir`, and starts the
    /// broker; gateway and bridge are started by the caller.
    ///
    /// # Errors
    /// Whatever cannot be made, with its name.
    pub fn new(dir: &Path, settings: Settings) -> anyhow::Result<World> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let request = fieldpost_certs::Request {
            bridge: BRIDGE.to_owned(),
            devices: vec![DEVICE.to_owned()],
            ..fieldpost_certs::Request::default()
        };
        fieldpost_certs::issue(&dir.join("certs"), &request).context("making certificates")?;
        let (broker, broker_address, relay) = match settings.external {
            Some(external) => (None, external.bridge, None),
            None => {
                let broker = start_broker(&dir, SocketAddr::from(([127, 0, 0, 1], 0)))?;
                let address = broker.local_addr();
                (Some(broker), address, Some(Relay::start(address)?))
            }
        };
        let (gateway, bridge, environment) = (None, None, Vec::new());
        let world =
            World { dir, settings, broker, broker_address, relay, environment, gateway, bridge };
        world.write_gateway_config()?;
        world.write_bridge_config()?;
        if !world.storage().exists() {
            world.run_bridge(&["init"])?;
        }
        Ok(world)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The gateway's outbox.
    pub fn outbox(&self) -> PathBuf {
        self.settings.outbox_dir.as_ref().unwrap_or(&self.dir).join("outbox.db")
    }

    /// The gateway's status file.
    pub fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    /// The bridge's storage.
    pub fn storage(&self) -> PathBuf {
        self.dir.join("bridge.db")
    }

    /// Where the gateway reads: the link that a [`Board`](crate::board::Board) makes, or the real port.
    pub fn port(&self) -> PathBuf {
        self.settings.serial.clone().unwrap_or_else(|| self.dir.join("ttyDEMO"))
    }

    /// The broker's address, as the bridge sees it.
    pub fn broker_address(&self) -> SocketAddr {
        self.broker_address
    }

    /// Bytes on the wire between gateway and broker: up, down. Nobody counts them on the way
    /// to an external broker.
    pub fn wire_bytes(&self) -> (u64, u64) {
        self.relay.as_ref().map_or((0, 0), Relay::bytes)
    }

    /// The gateway's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Lets the gateway know of the broker from its next start on, or not.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn set_broker(&mut self, known: bool) -> anyhow::Result<()> {
        self.settings.broker = known;
        self.write_gateway_config()
    }

    /// Starts the gateway.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_gateway(&mut self) -> anyhow::Result<()> {
        ensure!(self.gateway.is_none(), "the gateway runs already");
        self.gateway = Some(self.spawn("gateway")?);
        Ok(())
    }

    /// Starts the bridge.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_bridge(&mut self) -> anyhow::Result<()> {
        ensure!(self.bridge.is_none(), "the bridge runs already");
        self.bridge = Some(self.spawn("bridge")?);
        Ok(())
    }

    /// Ends the gateway in order: what it has read is committed.
    ///
    /// # Errors
    /// When it ends with an error, or does not end.
    pub fn stop_gateway(&mut self) -> anyhow::Result<()> {
        self.gateway.take().context("the gateway does not run")?.stop()
    }

    /// Ends the bridge in order.
    ///
    /// # Errors
    /// When it ends with an error, or does not end.
    pub fn stop_bridge(&mut self) -> anyhow::Result<()> {
        self.bridge.take().context("the bridge does not run")?.stop()
    }

    /// From its next start on the gateway waits for a port that does not exist.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn detach_port(&mut self) -> anyhow::Result<()> {
        self.settings.serial = Some(self.dir.join("detached"));
        self.write_gateway_config()
    }

    /// The program that has ended by itself, if any.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> anyhow::Result<Option<(&'static str, std::process::ExitStatus)>> {
        for process in [&mut self.gateway, &mut self.bridge].into_iter().flatten() {
            if let Some(status) = process.child.try_wait()? {
                return Ok(Some((process.name, status)));
            }
        }
        Ok(None)
    }

    /// Waits until the bridge has said in its log, once more than `before`, that it is online.
    ///
    /// # Errors
    /// When it does not within 20 s, or its log cannot be read.
    pub fn wait_bridge_online(&self, before: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + END_TIMEOUT;
        while self.times_online()? <= before {
            let log = self.log("bridge");
            ensure!(
                Instant::now() < deadline,
                "the bridge is not online; its log is {}",
                log.display()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// How often the bridge has come online so far.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn times_online(&self) -> anyhow::Result<usize> {
        let text =
            std::fs::read_to_string(self.log("bridge")).context("reading the bridge's log")?;
        Ok(text.lines().filter(|line| line.contains(" INFO online")).count())
    }

    /// Stops the broker: connections break, and everything that it held is gone.
    pub fn stop_broker(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.stop();
        }
    }

    /// Starts the broker again, on the same port.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn start_broker(&mut self) -> anyhow::Result<()> {
        ensure!(self.broker.is_none(), "the broker runs already");
        self.broker = Some(start_broker(&self.dir, self.broker_address)?);
        Ok(())
    }

    /// Runs a command of the bridge to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be run, or exits with an error: with what it said.
    pub fn run_bridge(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command("bridge").args(arguments))
    }

    /// Runs a command of the gateway to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be run, or exits with an error: with what it said.
    pub fn run_gateway(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command("gateway").args(arguments))
    }

    /// A command of one of the programs, with its configuration.
    pub fn command(&self, name: &'static str) -> Command {
        let is_gateway = name == "gateway";
        let program = match &self.settings.programs {
            // The link survives a rebuild of the file while the demo runs.
            Programs::Myself => Path::new("/proc/self/exe"),
            Programs::Files { gateway, bridge } => {
                if is_gateway {
                    gateway
                } else {
                    bridge
                }
            }
        };
        let mut command = match self.settings.gateway_wrapper.split_first() {
            Some((wrapper, arguments)) if is_gateway => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            _ => Command::new(program),
        };
        if matches!(self.settings.programs, Programs::Myself) {
            command.env(ROLE, name);
        }
        for (variable, _) in std::env::vars_os() {
            // What is set for an installed gateway must not leak into this one.
            if variable.to_string_lossy().starts_with("FIELDPOST_") {
                command.env_remove(variable);
            }
        }
        if let Ok(level) = std::env::var("FIELDPOST_LOG") {
            command.env("FIELDPOST_LOG", level);
        }
        let ours = self.environment.iter().filter(|(program, ..)| *program == name);
        command.envs(ours.map(|(_, variable, value)| (variable, value)));
        command.arg("--config").arg(self.dir.join(format!("{name}.toml")));
        command
    }

    fn spawn(&self, name: &'static str) -> anyhow::Result<Process> {
        let path = self.log(name);
        let log = std::fs::File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        let child = self
            .command(name)
            .arg("run")
            // A Ctrl-C at the demo is the demo's to handle: it drains before it ends them.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting the {name}"))?;
        Ok(Process { name, child })
    }
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start_broker(dir: &Path, listen: SocketAddr) -> anyhow::Result<EmbeddedBroker> {
    let certs = dir.join("certs");
    let tls = TlsPaths {
        ca: certs.join("ca.pem"),
        cert: certs.join("broker.pem"),
        key: certs.join("broker.key"),
    };
    EmbeddedBroker::start(BrokerConfig { listen, tls: Some(tls), ..BrokerConfig::loopback() })
        .context("starting the broker")
}

impl Process {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: whatever it was doing stops in the middle.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn kill(mut self) -> anyhow::Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the {} has ended by itself", self.name);
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for an orderly end.
    ///
    /// # Errors
    /// When it ends with an error, or does not end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the {} ended with {status}", self.name);
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the {} did not end within {END_TIMEOUT:?}",
                self.name
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For the processes that a [`World`] starts: they do not outlive it, however it ends.
pub fn end_with_parent() {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
}
