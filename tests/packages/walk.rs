//! docs/raspberry-pi.md as its reader goes through it: every block of the server and of the Pi, as it
//! stands there, on a Debian whose systemd runs. Both are one machine here, which has no other network.

use std::path::Path;

use anyhow::{Context as _, ensure};
use fieldpost_tests::machine::{Machine, Network};
use fieldpost_tests::rig::{SOON, wait_until};

use crate::deb::{build, cache};

const SERVER: &str = "broker.example.org";
const DEVICE: &str = "gateway-1";

/// The blocks of a page that somebody types: where, and what.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    for part in page.split("\n```sh ").skip(1) {
        let (place, rest) = part.split_once('\n').expect("a block has lines");
        blocks.push((place, rest.split("\n```").next().expect("a split has a first part")));
    }
    blocks
}

/// What `scp` has brought.
fn bring(machine: &Machine, from: &Path, home: &str, ours: &[&str]) -> anyhow::Result<()> {
    machine.run(&["mkdir", "-p", home])?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ours.iter().any(|ours| name.starts_with(ours)) {
            machine.install(&entry.path(), &format!("{home}/{name}"), "root:root", "644")?;
        }
    }
    Ok(())
}

#[test]
fn the_page_for_the_pi_leads_from_packages_to_the_first_row_in_the_cloud() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (debs, certs) = (dir.path().join("debs"), dir.path().join("certs"));
    build(&debs)?;
    let request = fieldpost_certs::Request {
        hosts: vec![SERVER.to_owned()],
        devices: vec![DEVICE.to_owned()],
        ..fieldpost_certs::Request::default()
    };
    fieldpost_certs::issue(&certs, &request)?;

    let mut machine = Machine::new(&cache())?;
    bring(&machine, &debs, "/home/server", &["fieldpost-bridge"])?;
    bring(&machine, &certs, "/home/server", &["ca.pem", "broker.", "bridge-"])?;
    bring(&machine, &debs, "/home/pi", &["fieldpost-gateway"])?;
    bring(&machine, &certs, "/home/pi", &["ca.pem", DEVICE])?;
    let hosts = machine.root().join("etc/hosts");
    std::fs::write(hosts, format!("127.0.0.1 localhost {SERVER}\n"))?;
    machine.unmask("mosquitto.service")?;
    machine.boot(Network::Own)?;
    machine.run(&["mkdir", "-p", "/dev/serial/by-id"])?;

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/raspberry-pi.md");
    let page = std::fs::read_to_string(page)?;
    let mut typed = 0;
    for (place, block) in blocks(&page) {
        let type_it = || -> anyhow::Result<String> {
            let home = format!("HOME=/home/{place}");
            let script = format!("set -euo pipefail\ncd\n{block}\n");
            machine.run(&["env", &home, "bash", "-c", &script])
        };
        typed += 1;
        if place == "workstation" {
            continue;
        } else if block.contains("fieldpost-bridge readings") {
            wait_until("the first row", SOON, || Ok(type_it()?.contains("attic")))?;
            println!("{}", type_it()?);
        } else {
            type_it().with_context(|| block.to_owned())?;
        }
    }
    ensure!(typed == 7, "{typed} blocks; is one not typed any more?");
    wait_until("a gateway in sync", SOON, || {
        Ok(machine.property("fieldpost-gateway", "StatusText")?.starts_with("in sync"))
    })?;
    for unit in ["fieldpost-gateway", "fieldpost-bridge"] {
        let state = machine.property(unit, "UnitFileState")?;
        ensure!(state == "enabled", "{unit} is {state}: not there after the next start");
    }
    // Somebody in the gateway's group needs no sudo.
    machine.run(&["useradd", "--groups", "fieldpost", "mate"])?;
    for arguments in [&["send", "attic temp=25.5"][..], &["status"]] {
        let command = ["runuser", "-u", "mate", "--", "fieldpost-gateway"];
        machine.run(&[&command, arguments].concat())?;
    }
    Ok(())
}
