//! The configurations of a world's gateway and bridge.

use std::path::Path;

use anyhow::Context as _;
use fieldpost_gateway::config::SOCKET_PATH_BYTES_MAX;

use super::{BRIDGE, DEVICE, World};
use crate::relay::Relay;

impl World {
    pub(super) fn write_gateway_config(&self) -> anyhow::Result<()> {
        let dir = self.dir.display();
        let mut sections = vec![
            (
                "device",
                format!("id = \"{DEVICE}\"\nname = \"Greenhouse 1\"\nlocation = \"north wall\"\n"),
            ),
            ("outbox", format!("path = \"{}\"\n", self.outbox().display())),
            ("publish", String::new()),
            ("system", "interval = \"10s\"\n".to_owned()),
            ("alerts", String::new()),
            ("status", format!("file = \"{}\"\nheartbeat = \"5s\"\n", self.status().display())),
            ("control", format!("socket = \"{}\"\n", self.control_socket())),
        ];
        if self.settings.broker {
            let way = self.relay.as_ref().map(Relay::address);
            let way = way.or(self.settings.external.map(|external| external.gateway));
            let way = way.context("there is no broker to connect to")?;
            let (host, port) = (way.ip(), way.port());
            let mut broker = format!("host = \"{host}\"\nport = {port}\n");
            if self.settings.certificates {
                broker.push_str(&format!(
                    "ca = \"{dir}/certs/ca.pem\"\nclient_cert = \"{dir}/certs/{DEVICE}.pem\"\n\
                     client_key = \"{dir}/certs/{DEVICE}.key\"\n"
                ));
            }
            sections.push(("broker", broker));
        }
        sections.push(("commands", String::new()));
        sections.push(("remote", String::new()));
        let mut text = joined(sections, &self.settings.gateway)?;
        let (port, baud) = (self.port(), self.settings.baud);
        let checksum = if self.settings.checksum_optional { "optional" } else { "required" };
        // In another format a board has no way to answer.
        let native = !self.settings.port.iter().any(|line| line.starts_with("format"));
        let commands = if native { COMMANDS } else { "" };
        text.push_str(&format!(
            "[[port]]\nname = \"arduino\"\npath = \"{}\"\nbaud = {baud}\nchecksum = \"{checksum}\"\n{}\n{}\n\
             {commands}\
             [meta.sources.fruiting]\nname = \"Fruiting chamber\"\n\
             [meta.sources.fruiting.metrics.temp]\nunit = \"°C\"\n\
             [meta.sources.fruiting.metrics.humidity]\nunit = \"%\"\n\
             [meta.sources.fruiting.metrics.co2]\nunit = \"ppm\"\n",
            port.display(),
            self.settings.port.iter().map(|line| format!("{line}\n")).collect::<String>(),
            self.settings.ports.replace("{dir}", &dir.to_string()),
        ));
        write(&self.dir.join("gateway.toml"), &text)
    }

    /// In the folder, unless that lies so deep that no socket can.
    fn control_socket(&self) -> String {
        let path = self.dir.join("control.sock").display().to_string();
        if path.len() <= SOCKET_PATH_BYTES_MAX { path } else { String::new() }
    }

    pub(super) fn write_bridge_config(&self) -> anyhow::Result<()> {
        let (dir, port) = (self.dir.display(), self.broker_address.port());
        let mut broker = format!("host = \"127.0.0.1\"\nport = {port}\n");
        if self.settings.certificates {
            broker.push_str(&format!("ca = \"{dir}/certs/ca.pem\"\ncert_dir = \"{dir}/certs\"\n"));
        }
        let sections = vec![
            ("bridge", format!("name = \"{BRIDGE}\"\n")),
            ("storage", format!("path = \"{dir}/bridge.db\"\n")),
            ("broker", broker),
        ];
        write(&self.dir.join("bridge.toml"), &joined(sections, &self.settings.bridge)?)
    }
}

/// What the board knows.
const COMMANDS: &str = "[[command]]
name = \"led\"
port = \"arduino\"
[command.args.on]
type = \"int\"
min = 0
max = 1
[[command]]
name = \"fail\"
port = \"arduino\"
timeout = \"2s\"
";

/// The text of a configuration, with further lines in its sections.
fn joined(
    mut sections: Vec<(&'static str, String)>,
    further: &[(&'static str, String)],
) -> anyhow::Result<String> {
    for (section, line) in further {
        let at = sections.iter().position(|(name, _)| name == section);
        let at = at.with_context(|| format!("[{section}] is not there to add {line:?} to"))?;
        sections[at].1.push_str(&format!("{line}\n"));
    }
    Ok(sections.iter().map(|(name, lines)| format!("[{name}]\n{lines}\n")).collect())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
