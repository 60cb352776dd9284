//! The Debian packages, on a machine of their own: from installation to purge.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{BRIDGE, DEVICE};
use fieldpost_gateway::clock::Now;
use fieldpost_gateway::serial::Measured;
use fieldpost_protocol::Metrics;
use fieldpost_tests::fill;
use fieldpost_tests::machine::{Machine, Network};
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{settings, without_cargo};

const GATEWAY: &str = "fieldpost-gateway.service";
const BRIDGED: &str = "fieldpost-bridge.service";
const WAITING: i64 = 100_000;

/// Gateway and bridge.
pub(crate) type Packages = [PathBuf; 2];

/// What outlives a run of the tests.
pub(crate) fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("machines")
}

/// The packages as `scripts/deb` makes them, but from a quick build.
pub(crate) fn build(dir: &Path) -> anyhow::Result<Packages> {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/deb"));
    command.args(["--profile", "dev", "--output"]).arg(dir).env("DEB_FAST", "1");
    let output = without_cargo(&mut command).output().context("running scripts/deb")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "scripts/deb ended with {}: {said}", output.status);
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)?.flatten().map(|it| it.path()).collect();
    found.sort();
    found.reverse();
    found.try_into().ok().context("scripts/deb makes two packages")
}

/// The same package with a higher version and another template of its configuration.
fn newer(package: &Path) -> anyhow::Result<PathBuf> {
    let dir = package.with_extension("newer");
    let dpkg_deb = |arguments: &[&Path]| -> anyhow::Result<()> {
        let output = Command::new("dpkg-deb").args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    dpkg_deb(&[Path::new("-R"), package, &dir])?;
    let control = dir.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control)?;
    let raised = text.replace("Version: 0.1.0-1", "Version: 0.1.0-2");
    ensure!(raised != text, "another version than 0.1.0-1");
    std::fs::write(control, raised)?;
    for conf in std::fs::read_to_string(dir.join("DEBIAN/conffiles"))?.lines() {
        let conf = dir.join(&conf[1..]);
        let text = std::fs::read_to_string(&conf)?;
        std::fs::write(&conf, format!("{text}\n# Something new.\n"))?;
    }
    let newer = package.with_extension("newer.deb");
    dpkg_deb(&[Path::new("-b"), &dir, &newer])?;
    Ok(newer)
}

fn dpkg(machine: &Machine, package: &Path) -> anyhow::Result<String> {
    let name = package.file_name().context("a package has a name")?.to_string_lossy();
    let inside = format!("/root/{name}");
    machine.install(package, &inside, "root:root", "644")?;
    // As unattended upgrades do: a file that was edited stays.
    machine.run(&["dpkg", "--force-confdef", "--force-confold", "-i", &inside])
}

/// As an image builder installs it: no systemd runs. And purged, it is gone.
fn install_where_nothing_runs(
    machine: &Machine,
    [gateway, bridge]: &Packages,
) -> anyhow::Result<()> {
    dpkg(machine, gateway)?;
    dpkg(machine, bridge)?;
    machine.run(&["dpkg", "-P", "fieldpost-gateway", "fieldpost-bridge"])?;
    for path in ["etc/fieldpost", "etc/fieldpost-bridge", "usr/bin/fieldpost-gateway"] {
        ensure!(!machine.root().join(path).exists(), "/{path} is still there");
    }
    // Nothing was recorded: then nothing is left to keep.
    ensure!(!machine.root().join("var/lib/fieldpost").exists(), "an empty folder stays");
    Ok(())
}

fn install(machine: &Machine, [gateway, bridge]: &Packages) -> anyhow::Result<()> {
    let said = dpkg(machine, gateway)?;
    ensure!(said.contains("set id, port and broker"), "no next step: {said}");
    dpkg(machine, bridge)?;
    for unit in [GATEWAY, BRIDGED] {
        let state = machine.property(unit, "ActiveState")?;
        ensure!(state == "inactive", "{unit} is {state} before anybody has set it up");
        let state = machine.property(unit, "UnitFileState")?;
        ensure!(state == "disabled", "{unit} is {state}");
        let said = machine.command(&["systemd-analyze", "verify", unit]).output()?;
        // Its status is 0 for a misspelled key, too.
        let said = [said.stdout, said.stderr].concat();
        ensure!(said.is_empty(), "verify: {}", String::from_utf8_lossy(&said));
    }
    for program in ["usr/bin/fieldpost-gateway", "usr/bin/fieldpost-bridge"] {
        let bytes = std::fs::read(machine.root().join(program))?;
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        ensure!(has("NOTIFY_SOCKET") && !has("FAIL_POINT_KILL"), "{program} has fail points");
    }
    let conf = "/etc/fieldpost/gateway.toml";
    let stat = machine.run(&["stat", "-c", "%a %U %G", conf, "/var/lib/fieldpost"])?;
    assert_eq!(stat, "640 root fieldpost\n750 fieldpost fieldpost\n");
    assert!(machine.run(&["id", "-nG", "fieldpost"])?.contains("dialout"));
    Ok(())
}

fn edit(machine: &Machine, path: &str, changes: &[(&str, &str)]) -> anyhow::Result<()> {
    let path = machine.root().join(&path[1..]);
    let mut text = std::fs::read_to_string(&path)?;
    for (from, to) in changes {
        ensure!(text.contains(from), "{} has no {from:?}", path.display());
        text = text.replacen(from, to, 1);
    }
    Ok(std::fs::write(path, text)?)
}

/// Certificates and settings, as README has it.
fn configure(machine: &Machine, rig: &Rig) -> anyhow::Result<()> {
    let certs = rig.world.dir().join("certs");
    let port = rig.world.broker_address().port();
    let copy = |name: &str, folder: &str, group: &str| {
        let to = format!("/etc/{folder}/{name}");
        machine.install(&certs.join(name), &to, &format!("root:{group}"), "640")
    };
    for name in ["ca.pem".to_owned(), format!("{DEVICE}.pem"), format!("{DEVICE}.key")] {
        copy(&name, "fieldpost", "fieldpost")?;
    }
    let mut names = vec!["ca.pem".to_owned()];
    for role in ["readings", "events", "out"] {
        names.extend(["pem", "key"].map(|end| format!("{BRIDGE}-{role}.{end}")));
    }
    names.iter().try_for_each(|name| copy(name, "fieldpost-bridge", "fieldpost-bridge"))?;
    let broker = format!(
        "[broker]\nhost = \"127.0.0.1\"\nport = {port}\nca = \"/etc/fieldpost/ca.pem\"\n\
         client_cert = \"/etc/fieldpost/{DEVICE}.pem\"\nclient_key = \"/etc/fieldpost/{DEVICE}.key\"\n"
    );
    let device = format!("id = \"{DEVICE}\"");
    let changes = [
        ("id = \"gateway-1\"", &*device),
        // Its readings are not in the count.
        ("[system]", "[system]\nenabled = false"),
        ("#[[port]]", "[[port]]\nname = \"room\"\npath = \"/dev/ttyUSB9\""),
        ("[status]", "[status]\nheartbeat = \"5s\""),
        ("#[broker]\n", &broker),
    ];
    edit(machine, "/etc/fieldpost/gateway.toml", &changes)?;
    let broker = format!(
        "[broker]\nhost = \"127.0.0.1\"\nport = {port}\nca = \"/etc/fieldpost-bridge/ca.pem\"\n\
         cert_dir = \"/etc/fieldpost-bridge\"\n"
    );
    edit(machine, "/etc/fieldpost-bridge/bridge.toml", &[("[broker]\n", &broker)])
}

/// A backlog, made by the gateway's own code: each reading says its number.
fn fill_outbox(machine: &Machine) -> anyhow::Result<()> {
    let now = Now::read();
    let mut outbox =
        fill::open(&machine.root().join("var/lib/fieldpost/outbox.db"), 1_000_000_000, now)?;
    for group in 0..WAITING / 1_000 {
        let reading = |i: i64| {
            let n = group * 1_000 + i;
            let metrics = Metrics::new(vec![("n".into(), n.into())]).expect("one name");
            Measured { source: "room".into(), boot_ms: now.boot_ms + n, metrics }
        };
        outbox.append(&(0..1_000).map(reading).collect::<Vec<_>>(), &[], now)?;
    }
    outbox.close()?;
    machine.run(&["chown", "-R", "fieldpost:fieldpost", "/var/lib/fieldpost"])?;
    Ok(())
}

fn waiting(machine: &Machine) -> anyhow::Result<i64> {
    let text = machine.run(&["fieldpost-gateway", "status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    status["outbox"]["waiting"].as_i64().context("a status says what waits")
}

/// The gateway runs as its own user, may have serial ports, and may ask whether the clock is set.
fn assert_sandbox(machine: &Machine) -> anyhow::Result<()> {
    let pid = machine.property(GATEWAY, "MainPID")?;
    let proc = machine.run(&["cat", &format!("/proc/{pid}/status")])?;
    let field = |name: &str| {
        let line = proc.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let id = |arguments: &[&str]| Ok::<_, anyhow::Error>(machine.run(arguments)?.trim().to_owned());
    let user = id(&["id", "-u", "fieldpost"])?;
    assert_eq!(field("Uid:"), vec![user; 4]);
    let dialout = id(&["sh", "-c", "getent group dialout | cut -d: -f3"])?;
    assert!(field("Groups:").contains(&dialout), "{proc}");
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".into()], vec!["2".into()]));
    // adjtimex(2) with modes = 0 only asks; it is number 159 on x86-64.
    let probe = "perl -e 'exit(syscall(159, my $timex = \"\\0\" x 208) < 0)'";
    let ask = "perl -e 'exit(syscall(227, 0, my $time = \"\\0\" x 16) < 0)'";
    let text = std::fs::read_to_string(crate::units::packaging().join(GATEWAY))?;
    let probed = |probe: &str| -> anyhow::Result<bool> {
        let probing = text
            .replace("Type=notify", "Type=oneshot")
            .replace("Restart=always", "Restart=no")
            // At its end it would take the gateway's away.
            .replace("RuntimeDirectory=fieldpost\n", "")
            .replace("ExecStart=/usr/bin/fieldpost-gateway run", &format!("ExecStart={probe}"));
        std::fs::write(machine.root().join("etc/systemd/system/probe.service"), probing)?;
        machine.run(&["systemctl", "daemon-reload"])?;
        Ok(machine.command(&["systemctl", "start", "probe.service"]).status()?.success())
    };
    assert!(probed(&format!("/usr/bin/{probe}"))?, "adjtimex is forbidden");
    // To set it, clock_settime(2), is not allowed.
    assert!(!probed(&format!("/usr/bin/{ask}"))?, "clock_settime is allowed");
    // Adapters on USB, whose drivers are not loaded before the first one is plugged in. No device is
    // there (ENXIO, ENODEV), which is not to be forbidden (EPERM).
    for (major, is_allowed) in [(188, true), (166, true), (204, true), (10, false)] {
        let node = format!("/var/lib/fieldpost/device-{major}");
        machine.run(&["mknod", "-m", "666", &node, "c", &major.to_string(), "250"])?;
        let open =
            format!("perl -e 'open(my $f, \"+<\", \"{node}\") or exit($!{{EPERM}} ? 1 : 0)'");
        assert_eq!(probed(&format!("/usr/bin/{open}"))?, is_allowed, "major {major}");
        machine.run(&["rm", &node])?;
    }
    Ok(())
}

fn stored(machine: &Machine) -> anyhow::Result<(i64, i64)> {
    let conn = read_only(&machine.root().join("var/lib/fieldpost-bridge/bridge.db"))?;
    let sql =
        "SELECT count(*), count(DISTINCT metrics ->> 'n') FROM readings WHERE source = 'room'";
    Ok(conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn upgrade(machine: &Machine, packages: &Packages) -> anyhow::Result<()> {
    for (unit, package) in [GATEWAY, BRIDGED].into_iter().zip(packages) {
        let before = machine.property(unit, "MainPID")?;
        let ran = before != "0";
        dpkg(machine, &newer(package)?)?;
        let after = machine.property(unit, "MainPID")?;
        ensure!((before != after) == ran, "{unit}: process {before}, then {after}");
        let state = machine.property(unit, "ActiveState")?;
        ensure!(state == if ran { "active" } else { "inactive" }, "{unit} is {state}");
    }
    let conf = machine.root().join("etc/fieldpost/gateway.toml");
    let text = std::fs::read_to_string(&conf)?;
    ensure!(text.contains(DEVICE) && !text.contains("Something new"), "the edited file is gone");
    let stat = machine.run(&["stat", "-c", "%a %U %G", "/etc/fieldpost/gateway.toml"])?;
    assert_eq!(stat, "640 root fieldpost\n");
    Ok(())
}

/// A gateway that does not answer is ended and started again, by the real watchdog.
fn assert_watched(machine: &Machine) -> anyhow::Result<()> {
    let dir = machine.root().join("etc/systemd/system").join(format!("{GATEWAY}.d"));
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("soon.conf"), "[Service]\nWatchdogSec=4s\nRestartSec=100ms\n")?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "restart", GATEWAY])?;
    let pid = machine.property(GATEWAY, "MainPID")?;
    machine.run(&["sh", "-c", &format!("kill -STOP {pid}")])?;
    wait_until("a new gateway", SOON, || {
        let restarts = machine.property(GATEWAY, "NRestarts")?;
        Ok(restarts != "0" && machine.property(GATEWAY, "ActiveState")? == "active")
    })?;
    ensure!(machine.property(GATEWAY, "MainPID")? != pid, "it is the same process");
    Ok(())
}

fn remove(machine: &Machine) -> anyhow::Result<()> {
    let exists = |path: &str| machine.root().join(path).exists();
    machine.run(&["dpkg", "-r", "fieldpost-gateway", "fieldpost-bridge"])?;
    ensure!(!exists("usr/bin/fieldpost-gateway"), "the program is still there");
    let running = machine.run(&["sh", "-c", "cat /proc/[0-9]*/comm"])?;
    ensure!(
        !running.contains("fieldpost") && running.contains("systemd"),
        "it still runs: {running}"
    );
    ensure!(exists("etc/fieldpost/gateway.toml") && exists("var/lib/fieldpost/outbox.db"));
    let said = machine.run(&["dpkg", "-P", "fieldpost-gateway", "fieldpost-bridge"])?;
    ensure!(!exists("etc/fieldpost/gateway.toml"), "the configuration is still there");
    ensure!(exists("etc/fieldpost/ca.pem"), "a file that somebody has put there is gone");
    // Neither what waits to be sent nor what was stored goes without its owner's own word.
    ensure!(exists("var/lib/fieldpost/outbox.db") && exists("var/lib/fieldpost-bridge/bridge.db"));
    ensure!(said.contains("sudo rm -r /var/lib/fieldpost\n"), "no word of what stays: {said}");
    Ok(())
}

#[test]
fn a_package_is_installed_upgraded_with_100_000_readings_waiting_removed_and_purged()
-> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let packages = build(dir.path())?;
    let mut machine = Machine::new(&cache())?;
    install_where_nothing_runs(&machine, &packages)?;
    machine.boot(Network::Host)?;
    install(&machine, &packages)?;

    let (rig, _mosquitto) = Rig::on_mosquitto(settings())?;
    configure(&machine, &rig)?;
    fill_outbox(&machine)?;
    machine.run(&["runuser", "-u", "fieldpost", "--", "fieldpost-gateway", "check"])?;
    // It returns when the gateway is ready.
    machine.run(&["systemctl", "enable", "--now", GATEWAY])?;
    assert_sandbox(&machine)?;
    wait_until("the backlog in the status", SOON, || Ok(waiting(&machine)? >= WAITING))?;
    upgrade(&machine, &packages)?;
    wait_until("the backlog after the upgrade", SOON, || Ok(waiting(&machine)? >= WAITING))?;

    machine.run(&["runuser", "-u", "fieldpost-bridge", "--", "fieldpost-bridge", "init"])?;
    machine.run(&["systemctl", "enable", "--now", BRIDGED])?;
    wait_until("all in storage", 2 * SOON, || Ok(stored(&machine)?.0 >= WAITING))?;
    assert_eq!(stored(&machine)?, (WAITING, WAITING));
    wait_until("an empty outbox", SOON, || Ok(waiting(&machine)? == 0))?;
    let conn = read_only(&machine.root().join("var/lib/fieldpost-bridge/bridge.db"))?;
    let missing: i64 = conn.query_row("SELECT count(*) FROM missing", [], |row| row.get(0))?;
    assert_eq!(missing, 0);
    println!("{}", machine.property(GATEWAY, "StatusText")?);

    assert_watched(&machine)?;
    remove(&machine)
}
