//! RabbitMQ and NATS from Debian's packages, with the configurations that this checkout ships, on
//! ports of their own and with their state in a temporary folder.
//!
//! Always true here: the ports stay ours while the broker is down, and no process of it outlives the
//! thread that started it. RabbitMQ leaves a daemon behind (epmd), so it runs in a process namespace
//! of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use fieldpost_demo::world::{BRIDGE, DEVICE};
use rustix::process::geteuid;
use tokio::net::TcpSocket;

use crate::mosquitto::checkout;
use crate::rig::wait_until;

/// The device of the shipped configurations.
const SHIPPED_DEVICE: &str = "gateway-1";
const NATS: &str = "/usr/sbin/nats-server";
/// Debian's wrapper becomes another user; this is what it runs.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Erlang takes ten seconds on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(180);

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RabbitMQ with the MQTT plugin.
    Rabbitmq,
    /// NATS with JetStream.
    Nats,
}

/// See the module. Dropping it kills the broker.
pub struct OtherBroker {
    kind: Kind,
    dir: PathBuf,
    address: SocketAddr,
    /// Bound and never listening: nobody else gets the ports while the broker is down. The first is
    /// MQTT's, the others are Erlang's.
    ports: [(TcpSocket, u16); 3],
    child: Option<Child>,
}

impl OtherBroker {
    /// Makes the certificates of a [`World`](fieldpost_demo::world::World) in `dir`, and starts a
    /// broker on 127.0.0.1.
    ///
    /// # Errors
    /// Where it is not installed or does not start: with the end of its log.
    pub fn start(kind: Kind, dir: &Path) -> anyhow::Result<OtherBroker> {
        let (program, package) = match kind {
            Kind::Rabbitmq => (RABBITMQ, "rabbitmq-server"),
            Kind::Nats => (NATS, "nats-server"),
        };
        ensure!(
            Path::new(program).exists(),
            "{program} is not there; it is in Debian's package {package} (apt-get install {package})"
        );
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let bridge = BRIDGE.to_owned();
        let devices = vec![DEVICE.to_owned()];
        let request = fieldpost_certs::Request { bridge, devices, ..Default::default() };
        fieldpost_certs::issue(&dir.join("certs"), &request).context("making certificates")?;
        let ports = [reserve()?, reserve()?, reserve()?];
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0].1));
        let mut broker = OtherBroker { kind, dir, address, ports, child: None };
        match kind {
            Kind::Rabbitmq => broker.configure_rabbitmq()?,
            Kind::Nats => broker.configure_nats()?,
        }
        broker.run()?;
        Ok(broker)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says, over all its starts.
    pub fn log(&self) -> PathBuf {
        self.dir.join("broker.log")
    }

    /// Starts it, and waits until it says that it is ready: RabbitMQ listens before, and refuses.
    ///
    /// # Errors
    /// When it does not: with the end of its log.
    pub fn run(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the broker runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let ready = match self.kind {
            Kind::Rabbitmq => "Server startup complete",
            Kind::Nats => "Server is ready",
        };
        let times = |log: &str| log.matches(ready).count();
        let before = times(&std::fs::read_to_string(self.log())?);
        // setpriv becomes the broker, which then ends with this thread, however it ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        match self.kind {
            Kind::Rabbitmq => self.rabbitmq(&mut command),
            Kind::Nats => {
                command.arg(NATS).arg("-c").arg(self.dir.join("nats.conf"));
            }
        }
        let mut child = command
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("running setpriv; it is in Debian's package util-linux")?;
        let started = wait_until("the broker's start", START_WITHIN, || {
            let log = std::fs::read_to_string(self.log())?;
            if let Some(status) = child.try_wait()? {
                let end: Vec<&str> = log.lines().rev().take(9).collect();
                bail!("the broker ended with {status}; the end of its log, backwards: {end:#?}");
            }
            Ok(times(&log) > before)
        });
        self.child = Some(child);
        started
    }

    /// kill -9, and waits until nothing of it listens any more.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_some(), "the broker does not run");
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        // What is in its namespace ends with it, a little later; epmd too.
        let gone = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err();
        wait_until("the broker's end", START_WITHIN, || {
            Ok(self.ports.iter().all(|(_, port)| gone(*port)))
        })
    }

    fn configure_nats(&self) -> anyhow::Result<()> {
        let address = self.address.to_string();
        self.write(
            "nats.conf",
            &[
                ("\"127.0.0.1:4222\"", "\"127.0.0.1:-1\""),
                ("0.0.0.0:8883", &address),
                ("/var/lib/nats", &self.path("jetstream")),
                ("certs/dev", &self.path("certs")),
                (SHIPPED_DEVICE, DEVICE),
            ],
        )
    }

    fn configure_rabbitmq(&self) -> anyhow::Result<()> {
        let address = self.address.to_string();
        self.write(
            "rabbitmq.conf",
            &[
                ("0.0.0.0:8883", &address),
                ("config/rabbitmq-definitions.json", &self.path("rabbitmq-definitions.json")),
                ("certs/dev", &self.path("certs")),
            ],
        )?;
        self.write("rabbitmq-definitions.json", &[(SHIPPED_DEVICE, DEVICE)])?;
        std::fs::write(self.dir.join("enabled_plugins"), "[rabbitmq_mqtt].\n")?;
        Ok(())
    }

    fn rabbitmq(&self, command: &mut Command) {
        command.args(["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        if !geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg(RABBITMQ);
        let [_, (_, epmd), (_, distribution)] = &self.ports;
        for (variable, value) in [
            // Erlang's cookie.
            ("HOME", self.path("")),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_DIST_PORT", distribution.to_string()),
            ("RABBITMQ_NODENAME", "fieldpost@localhost".to_owned()),
            ("RABBITMQ_MNESIA_BASE", self.path("mnesia")),
            ("RABBITMQ_LOGS", "-".to_owned()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_CONFIG_FILE", self.path("rabbitmq.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("enabled_plugins")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", LOOPBACK.to_owned()),
            // No shell in between that would wait for the server.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ] {
            command.env(variable, value);
        }
    }

    /// A shipped file with these replacements, each of which has to find something.
    fn write(&self, name: &str, replaced: &[(&str, &str)]) -> anyhow::Result<()> {
        let path = checkout().join("config").join(name);
        let mut text = std::fs::read_to_string(path).with_context(|| format!("config/{name}"))?;
        for (from, to) in replaced {
            ensure!(text.contains(from), "config/{name} does not hold {from:?}");
            text = text.replace(from, to);
        }
        std::fs::write(self.dir.join(name), text).with_context(|| format!("writing {name}"))
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

const LOOPBACK: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

impl Drop for OtherBroker {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn reserve() -> anyhow::Result<(TcpSocket, u16)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}
