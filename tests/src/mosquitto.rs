//! Debian's mosquitto with the configuration and the access rules that this checkout ships, on a
//! port of its own.
//!
//! Always true here: the port stays ours while the broker is down, the process ends with the
//! thread that started it, and a system's own mosquitto is left alone.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use fieldpost_demo::world::{BRIDGE, DEVICE};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::net::TcpSocket;

use crate::rig::wait_until;

const PROGRAM: &str = "/usr/sbin/mosquitto";
const START_WITHIN: Duration = Duration::from_secs(30);

/// See the module. Dropping it kills the broker.
pub struct Mosquitto {
    dir: PathBuf,
    address: SocketAddr,
    /// Which of the shipped configurations, without its ending.
    shipped: &'static str,
    /// Bound and never listening: nobody else gets the port while the broker is down.
    _port: TcpSocket,
    /// Lines of the configuration that differ: key, and the rest of the line; `None` leaves it out.
    changes: BTreeMap<String, Option<String>>,
    child: Option<Child>,
}

impl Mosquitto {
    /// Makes the certificates of a [`World`](fieldpost_demo::world::World) in `dir`, and starts a
    /// broker on 127.0.0.1.
    ///
    /// # Errors
    /// Where mosquitto is not installed or does not start: with the end of its log.
    pub fn start(dir: &Path) -> anyhow::Result<Mosquitto> {
        let mut mosquitto = Mosquitto::new(dir, Ipv4Addr::LOCALHOST.into())?;
        mosquitto.run()?;
        Ok(mosquitto)
    }

    /// The same on another address of this machine, not started yet.
    ///
    /// # Errors
    /// Where mosquitto is not installed, or there is no such address.
    pub fn new(dir: &Path, listen: IpAddr) -> anyhow::Result<Mosquitto> {
        let mut mosquitto = Mosquitto::of("mosquitto", dir, listen)?;
        let ca = mosquitto.dir.join("certs/ca.pem");
        mosquitto.set("cafile", &ca.display().to_string());
        Ok(mosquitto)
    }

    /// On 127.0.0.1 with `config/mosquitto-hosted.conf`, as a hosted broker is: its one user has this
    /// password. Not started yet.
    ///
    /// # Errors
    /// Where mosquitto is not installed.
    pub fn hosted(dir: &Path, user: &str, password: &str) -> anyhow::Result<Mosquitto> {
        let mut mosquitto = Mosquitto::of("mosquitto-hosted", dir, Ipv4Addr::LOCALHOST.into())?;
        let passwords = mosquitto.dir.join("passwords");
        let mut command = Command::new("mosquitto_passwd");
        let output = command.arg("-b").arg("-c").arg(&passwords).args([user, password]).output();
        let output = output.context("running mosquitto_passwd, of Debian's package mosquitto")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        mosquitto.set("password_file", &passwords.display().to_string());
        Ok(mosquitto)
    }

    fn of(shipped: &'static str, dir: &Path, listen: IpAddr) -> anyhow::Result<Mosquitto> {
        ensure!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is not there; it is in Debian's package mosquitto (apt-get install mosquitto)"
        );
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let request = fieldpost_certs::Request {
            hosts: vec![listen.to_string()],
            bridge: BRIDGE.to_owned(),
            devices: vec![DEVICE.to_owned()],
            ..fieldpost_certs::Request::default()
        };
        fieldpost_certs::issue(&dir.join("certs"), &request).context("making certificates")?;
        let port = TcpSocket::new_v4()?;
        port.set_reuseaddr(true)?;
        port.bind((listen, 0).into()).with_context(|| format!("a port of {listen}"))?;
        let address = port.local_addr()?;
        let certs = dir.join("certs");
        let certs = certs.display();
        let mut mosquitto =
            Mosquitto { dir, address, shipped, _port: port, changes: BTreeMap::new(), child: None };
        mosquitto.set("listener", &format!("{} {listen}", address.port()));
        mosquitto.set("certfile", &format!("{certs}/broker.pem"));
        mosquitto.set("keyfile", &format!("{certs}/broker.key"));
        mosquitto.set("acl_file", &mosquitto.acl().display().to_string());
        if geteuid().is_root() {
            // Else it becomes the user "mosquitto", who may not read the folder.
            mosquitto.set("user", "root");
        }
        let rules = std::fs::read(checkout().join(format!("config/{shipped}.acl")))?;
        std::fs::write(mosquitto.acl(), rules)?;
        // mosquitto complains of rules that others can read.
        std::fs::set_permissions(mosquitto.acl(), Permissions::from_mode(0o600))?;
        Ok(mosquitto)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its access rules; [`reload`](Self::reload) makes a change of them known.
    pub fn acl(&self) -> PathBuf {
        self.dir.join("mosquitto.acl")
    }

    /// What it says, over all its starts.
    pub fn log(&self) -> PathBuf {
        self.dir.join("mosquitto.log")
    }

    /// A line of the configuration, from the next start on (some from the next reload on).
    pub fn set(&mut self, key: &str, value: &str) {
        self.changes.insert(key.to_owned(), Some(value.to_owned()));
    }

    /// Leaves a line out: mosquitto's own default holds.
    pub fn unset(&mut self, key: &str) {
        self.changes.insert(key.to_owned(), None);
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// When it does not: with the end of its log.
    pub fn run(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "mosquitto runs already");
        let conf = self.write_conf()?;
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        // setpriv becomes mosquitto, which then ends with this thread, however it ends.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", PROGRAM, "-c"])
            .arg(conf)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("running setpriv; it is in Debian's package util-linux")?;
        wait_until("mosquitto's start", START_WITHIN, || {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("mosquitto ended with {status}; the end of its log, backwards: {end:#?}");
            }
            Ok(TcpStream::connect(self.address).is_ok())
        })?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it in order: it closes its connections.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let mut child = self.child.take().context("it was signalled just now")?;
        let ended = wait_until("mosquitto's end", START_WITHIN, || Ok(child.try_wait()?.is_some()));
        let _ = child.kill();
        let _ = child.wait();
        ended
    }

    /// kill -9: whatever it holds in memory is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Lets it read its configuration and its access rules again, by SIGHUP, and waits until it
    /// says so. Connections stay.
    ///
    /// # Errors
    /// When it does not run, or does not answer.
    pub fn reload(&mut self) -> anyhow::Result<()> {
        self.write_conf()?;
        let log = self.log();
        let times = || -> anyhow::Result<usize> {
            Ok(std::fs::read_to_string(&log)?.matches("Reloading config").count())
        };
        let before = times()?;
        self.signal(Signal::HUP)?;
        wait_until("mosquitto's reload", START_WITHIN, || Ok(times()? > before))
    }

    /// Whether it has ended by itself, or does not run.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_some(),
            None => true,
        })
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        ensure!(!self.has_ended()?, "mosquitto does not run; see {}", self.log().display());
        let child = self.child.as_ref().context("it runs")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// The shipped configuration with the changes: each line stays where it was, since some belong
    /// to the listener above them.
    fn write_conf(&self) -> anyhow::Result<PathBuf> {
        let shipped = checkout().join(format!("config/{}.conf", self.shipped));
        let shipped = std::fs::read_to_string(shipped)?;
        let mut changes: Vec<(&str, Option<&str>)> =
            self.changes.iter().map(|(key, value)| (&**key, value.as_deref())).collect();
        let mut text = String::new();
        for line in shipped.lines() {
            let key = line.split(' ').next().unwrap_or_default();
            let changed = changes.iter().position(|(changed, _)| *changed == key);
            match changed.map(|at| changes.swap_remove(at)) {
                Some((key, Some(value))) => text.push_str(&format!("{key} {value}\n")),
                Some((_, None)) => {}
                None => text.push_str(&format!("{line}\n")),
            }
        }
        for (key, value) in changes {
            if let Some(value) = value {
                text.push_str(&format!("{key} {value}\n"));
            }
        }
        let path = self.dir.join("mosquitto.conf");
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The repository's root.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
