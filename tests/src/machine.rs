//! A Debian machine for packages: a folder that debootstrap has filled, and systemd in it as the
//! first process of namespaces of its own. The kernel is the host's.
//!
//! ```text
//! bookworm.tar  --unpack-->  root/  --chroot-->  as an image builder has it: nothing runs
//!  made once                        --boot---->  units, users, sandboxes, watchdog as on a Pi
//! ```
//!
//! It takes root. A test that ends, or panics, leaves no process, mount or control group; one that is
//! killed leaves what its namespaces do not take along.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{SOON, wait_until};

/// What is in the base besides debootstrap's smallest choice.
const INCLUDED: [&str; 5] = ["adduser", "ca-certificates", "mosquitto", "sudo", "systemd"];
/// Units that would touch the host's terminals, modules and ports.
const MASKED: [&str; 4] =
    ["getty.target", "console-getty.service", "systemd-modules-load.service", "mosquitto.service"];
const BOOT: &str = include_str!("machine/boot.sh");
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// See the module.
pub struct Machine {
    dir: tempfile::TempDir,
    running: Option<Running>,
}

/// What a machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// All that the host reaches, also its loopback.
    Host,
    /// Itself: every port is free.
    Own,
}

/// Dropped, it is switched off.
struct Running {
    /// Waits for the first process of the machine.
    unshare: Child,
    first: Pid,
    _group: Group,
}

/// A control group of the host's; the machine sees it as the root of all.
struct Group(PathBuf);

impl Machine {
    /// Unpacks it; nothing runs yet. `cache` is a folder that outlives the test.
    ///
    /// # Errors
    /// Without root or debootstrap, and where no mirror answers.
    pub fn new(cache: &Path) -> anyhow::Result<Machine> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "this test boots a Debian in a folder and needs root"
        );
        let base = base(cache)?;
        let machine = Machine { dir: tempfile::tempdir_in(cache)?, running: None };
        std::fs::create_dir(machine.root())?;
        said(Command::new("tar").arg("-C").arg(machine.root()).arg("-xpf").arg(base))?;
        // As its owner answers.
        let apt = machine.root().join("etc/apt/apt.conf.d/90yes");
        std::fs::write(apt, "APT::Get::Assume-Yes \"true\";\n")?;
        for unit in MASKED {
            std::os::unix::fs::symlink("/dev/null", machine.unit(unit))?;
        }
        Ok(machine)
    }

    /// Its root, from outside. What it has mounted over (`/run`, `/tmp`) is not seen there.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unit(&self, name: &str) -> PathBuf {
        self.root().join("etc/systemd/system").join(name)
    }

    /// Lets a unit start that machines have, and that would take a port of the host's.
    ///
    /// # Errors
    /// When it is none of those.
    pub fn unmask(&self, unit: &str) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.unit(unit))?)
    }

    /// Starts systemd, and waits until it takes commands.
    ///
    /// # Errors
    /// When it does not within [`SOON`].
    pub fn boot(&mut self, network: Network) -> anyhow::Result<()> {
        let group = Group::new(self.dir.path())?;
        let join = "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"";
        let log = File::create(self.dir.path().join("boot.log"))?;
        let unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "sh", "-c", join, "sh"])
            .arg(&group.0)
            .args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork"])
            .args((network == Network::Own).then_some("--net"))
            .args(["--kill-child=KILL", "sh", "-c", BOOT, "sh"])
            .arg(self.root())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("running setpriv and unshare; Debian: util-linux")?;
        let id = unshare.id();
        let mut first = None;
        wait_until("the machine's first process", SOON, || {
            first = child_of(id);
            Ok(first.is_some())
        })?;
        let first = first.context("it was found just now")?;
        self.running = Some(Running { unshare, first, _group: group });
        wait_until("the machine's boot", SOON, || {
            let state = self.command(&["systemctl", "is-system-running"]).output()?;
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            Ok(matches!(state.trim(), "running" | "degraded"))
        })
        .with_context(|| {
            std::fs::read_to_string(self.dir.path().join("boot.log")).unwrap_or_default()
        })
    }

    /// A command in the machine, as its root: in its namespaces if it runs, else by chroot.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.running {
            Some(running) => {
                let mut command = Command::new("nsenter");
                let pid = running.first.as_raw_nonzero().to_string();
                command.args(["--all", "--target", &pid]);
                command
            }
            None => {
                let mut command = Command::new("chroot");
                command.arg(self.root());
                command
            }
        };
        command.args(["env", "-i", PATH, "DEBIAN_FRONTEND=noninteractive"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command in it to its end, and returns what it printed.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        said(&mut self.command(arguments)).with_context(|| {
            // What a unit that does not start has said.
            let journal = self.command(&["journalctl", "--no-pager", "-n", "20"]).output();
            journal.map_or_else(
                |_| String::new(),
                |it| String::from_utf8_lossy(&it.stdout).into_owned(),
            )
        })
    }

    /// A property of a unit, as systemd shows it.
    ///
    /// # Errors
    /// What systemctl says.
    pub fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        let text = self.run(&["systemctl", "show", "--value", "-p", name, unit])?;
        Ok(text.trim().to_owned())
    }

    /// Copies a file into it: path, owner and mode as it sees them.
    ///
    /// # Errors
    /// What `install` says.
    pub fn install(&self, from: &Path, to: &str, owner: &str, mode: &str) -> anyhow::Result<()> {
        std::fs::copy(from, self.root().join(&to[1..]))
            .with_context(|| format!("copying {} to {to}", from.display()))?;
        self.run(&["chown", owner, to])?;
        self.run(&["chmod", mode, to])?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // With the first process of a namespace all others of it end.
        let _ = kill_process(self.first, Signal::KILL);
        let _ = self.unshare.wait();
    }
}

impl Group {
    fn new(dir: &Path) -> anyhow::Result<Group> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let place = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        });
        let place = place.context("no cgroup2 is mounted here, and systemd needs one")?;
        let name = dir.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
        let group = Group(place.join(format!("fieldpost-test{name}")));
        std::fs::create_dir(&group.0).with_context(|| format!("making {}", group.0.display()))?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fn remove(group: &Path) -> std::io::Result<()> {
            for entry in std::fs::read_dir(group)?.flatten() {
                if entry.path().is_dir() {
                    remove(&entry.path())?;
                }
            }
            std::fs::remove_dir(group)
        }
        // Processes that were killed leave it a moment later.
        let _ = wait_until("the control group's end", SOON, || Ok(remove(&self.0).is_ok()));
    }
}

/// The first child of a process, if it has one.
fn child_of(parent: u32) -> Option<Pid> {
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything; after it state and parent follow.
        let after = stat.rsplit(')').next().unwrap_or_default();
        if after.split_whitespace().nth(1) == Some(&parent.to_string()) {
            return Pid::from_raw(id);
        }
    }
    None
}

/// The archive that machines are unpacked from. The first test that needs it makes it: a minute.
fn base(cache: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(cache)?;
    let lock = File::create(cache.join("base.lock"))?;
    flock(lock.as_fd(), FlockOperation::LockExclusive)?;
    // The programs are built for the host's Debian.
    let release = std::fs::read_to_string("/etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release names no VERSION_CODENAME: is this Debian?")?;
    let base = cache.join(format!("{suite}-{}.tar", INCLUDED.join("-")));
    if base.exists() {
        return Ok(base);
    }
    let dir = tempfile::tempdir_in(cache)?;
    let root = dir.path().join("root");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={}", INCLUDED.join(",")), suite]);
    command.arg(&root).arg(mirror(suite)?);
    if let Some(proxy) = proxy() {
        command.env("http_proxy", proxy);
    }
    let output = command.stdin(Stdio::null()).output();
    let output = output.context("running debootstrap; it is in Debian's package debootstrap")?;
    if !output.status.success() {
        // It says why on stdout.
        let said = String::from_utf8_lossy(&output.stdout);
        let end: Vec<&str> = said.lines().rev().take(5).collect();
        bail!("debootstrap ended with {}; backwards: {end:#?}", output.status);
    }
    let unfinished = dir.path().join("base.tar");
    said(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&unfinished).arg("."))?;
    std::fs::rename(unfinished, &base)?;
    Ok(base)
}

/// The mirror that apt uses here for this release.
fn mirror(suite: &str) -> anyhow::Result<String> {
    let format = ["--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"];
    let targets = said(Command::new("apt-get").arg("indextargets").args(format))?;
    let mirror = targets.lines().find_map(|line| line.strip_suffix(&format!(" {suite}")));
    Ok(mirror.unwrap_or("http://deb.debian.org/debian").to_owned())
}

/// The proxy that apt uses here, if any.
fn proxy() -> Option<String> {
    let text = said(Command::new("apt-config").args(["dump", "Acquire::http::Proxy"])).ok()?;
    let proxy = text.split('"').nth(1)?.to_owned();
    (!proxy.is_empty() && proxy != "false").then_some(proxy)
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{command:?} ended with {status}: {err}{out}");
    Ok(out.into_owned())
}
