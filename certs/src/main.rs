//! `cargo certs`: makes what is missing in a folder of development certificates.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use fieldpost_certs::{Request, issue};

/// Makes a development CA, and certificates for broker, bridge, operator and devices.
///
/// What is there is left alone: run it again with another --device to add one.
#[derive(Debug, Parser)]
#[command(name = "cargo certs")]
struct Arguments {
    /// Folder of the certificates
    #[arg(long, value_name = "FOLDER", default_value = "certs/dev")]
    out: PathBuf,
    /// A gateway's device id; may be repeated
    #[arg(long = "device", value_name = "ID")]
    devices: Vec<String>,
    /// A further name or address of the broker; may be repeated
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Name of the bridge
    #[arg(long, value_name = "NAME", default_value = "bridge")]
    bridge: String,
    /// Validity of the certificates in days (the CA: ten years)
    #[arg(long, default_value_t = 730)]
    days: u32,
    /// Issue broker, bridge, operator and the named devices anew, under the same CA
    #[arg(long)]
    renew: bool,
    /// Make a new CA: all certificates of the old one become useless
    #[arg(long)]
    force: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments { out, devices, hosts, bridge, days, renew, force } = Arguments::parse();
    let hosts_wanted = !hosts.is_empty();
    let request = Request { hosts, bridge, devices, days, renew, force };
    let written =
        issue(&out, &request).with_context(|| format!("making certificates in {out:?}"))?;
    let mut text = String::new();
    for path in &written {
        text += &format!("wrote {}\n", path.display());
    }
    if written.is_empty() {
        text += &format!("everything is there in {}; nothing was written\n", out.display());
    }
    if hosts_wanted && !written.contains(&out.join("broker.pem")) {
        text +=
            "broker.pem was there already and keeps its host names: add --renew to change them\n";
    }
    text += &where_it_goes(&request);
    std::io::stdout().write_all(text.as_bytes()).context("writing to the terminal")
}

fn where_it_goes(request: &Request) -> String {
    let bridge = &request.bridge;
    let device = request.devices.first().map_or("<device>", String::as_str);
    format!(
        "
What goes where:
  broker     ca.pem, broker.pem, broker.key
  bridge     ca.pem, {bridge}-readings, {bridge}-events, {bridge}-out (.pem and .key each)
  gateway    ca.pem, {device}.pem, {device}.key
  a person   ca.pem, operator.pem, operator.key
ca.key stays here. It can make a certificate for anybody: keep it off the network.
"
    )
}
