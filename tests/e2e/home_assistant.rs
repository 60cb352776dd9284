//! MQTT discovery of Home Assistant: what it is given, when, and that it gets in nobody's way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{DEVICE, External, Settings};
use fieldpost_mqtt::{Delivery, Options};
use fieldpost_protocol::{DeviceStatus, Live};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::client::{self, Client};
use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use serde_json::Value;

use crate::settings;

on_each_broker! {
    metrics_are_announced_retained_and_again_on_return_and_removed_when_turned_off,
}

const HOME_ASSISTANT: &str = "homeassistant";
const ENTRIES: &str = "homeassistant/+/+/+/config";
const SECTION: &str = "[home_assistant]\nenabled = true\n";
const PORTS: &str = "[[port]]\nname = \"script\"\nsocket = \"{dir}/script.sock\"\n\
                     [meta.sources.script.metrics.temp]\nunit = \"°C\"\n";

fn announcing() -> Settings {
    let mut settings = Settings { ports: format!("{PORTS}{SECTION}"), ..settings() };
    settings.gateway.push(("publish", "live_interval = \"200ms\"".to_owned()));
    settings.gateway.push(("system", "enabled = false".to_owned()));
    settings
}

/// Somebody with a certificate of this name.
fn join(rig: &Rig, name: &str, filters: &[&str]) -> anyhow::Result<Client> {
    let certs = rig.world.dir().join("certs");
    let subscriptions = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let port = rig.world.broker_address().port();
    Client::connect(Options { subscriptions, ..client::options(&certs, name, port) })
}

fn send(rig: &Rig, line: &str) -> anyhow::Result<()> {
    wait_until("a line to be taken", SOON, || {
        Ok(rig.world.run_gateway(&["send", "--port", "script", line]).is_ok())
    })
}

fn entries(client: &Client) -> Vec<Delivery> {
    let mut all = client.received();
    all.retain(|it| it.topic.ends_with("/config"));
    all
}

fn wait_entries(client: &Client, count: usize) -> anyhow::Result<Vec<Delivery>> {
    wait_until(&format!("{count} entries"), SOON, || Ok(entries(client).len() >= count))?;
    Ok(entries(client))
}

fn stored(rig: &Rig) -> anyhow::Result<i64> {
    let sql = "SELECT count(*) FROM readings WHERE source = 'script'";
    Ok(read_only(&rig.world.storage())?.query_row(sql, [], |row| row.get(0))?)
}

fn edit(path: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)?;
    anyhow::ensure!(text.contains(from), "{from:?} is not in {}", path.display());
    Ok(std::fs::write(path, text.replace(from, to))?)
}

/// Topic to what was said there.
fn by_topic(entries: &[Delivery]) -> BTreeMap<&str, &[u8]> {
    entries.iter().map(|it| (it.topic.as_str(), it.payload.as_slice())).collect()
}

fn metrics_are_announced_retained_and_again_on_return_and_removed_when_turned_off(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, announcing())?;
    let certs = rig.world.dir().join("certs");
    let devices = vec![HOME_ASSISTANT.to_owned()];
    fieldpost_certs::issue(&certs, &fieldpost_certs::Request { devices, ..Default::default() })?;
    let mut home = join(&rig, HOME_ASSISTANT, &[ENTRIES, "devices/+/live/+", "devices/+/status"])?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    send(&rig, "temp=21.5 stage=fruiting")?;
    let first = wait_entries(&home, 2)?;
    let expected =
        ["stage", "temp"].map(|it| format!("homeassistant/sensor/{DEVICE}/script--{it}/config"));
    assert_eq!(by_topic(&first).into_keys().collect::<Vec<_>>(), expected);

    // Its topics exist, and carry what the templates read.
    let json = |topic: &str| -> Value {
        serde_json::from_slice(by_topic(&first)[topic]).unwrap_or_default()
    };
    let temp = json(&expected[1]);
    assert_eq!(temp["unit_of_measurement"], "°C");
    assert_eq!(temp["device_class"], "temperature");
    assert!(
        temp["value_template"].to_string().contains(r#"value_json[\"values\"][\"temp\"]"#),
        "{temp}"
    );
    let live = home.wait_message("live values", |it| temp["state_topic"] == it.topic.as_str())?;
    assert_eq!(Live::from_json(&live.payload)?.values.get("temp"), Some(&21.5.into()));
    let status = temp["availability"][0]["topic"].as_str().unwrap_or_default().to_owned();
    let status = home.wait_message("the status", |it| it.topic == status)?;
    assert!(DeviceStatus::from_json(&status.payload)?.online);

    let late = join(&rig, "operator", &[ENTRIES])?;
    let kept = wait_entries(&late, 2)?;
    assert!(kept.iter().all(|it| it.retain) && by_topic(&kept) == by_topic(&first), "{kept:?}");
    drop(late);

    home.publish([("homeassistant/status".to_owned(), b"offline".to_vec())], false)?;
    home.publish([("homeassistant/status".to_owned(), b"online".to_vec())], false)?;
    let again = wait_entries(&home, 4)?;
    assert_eq!(by_topic(&again[2..]), by_topic(&first), "the same once more");

    // Also by a start that comes later, and knows nothing of the metrics.
    rig.world.stop_gateway()?;
    edit(&rig.world.dir().join("gateway.toml"), SECTION, "")?;
    rig.world.start_gateway()?;
    let removed = wait_entries(&home, 6)?;
    assert_eq!(
        by_topic(&removed[4..]),
        expected.iter().map(|topic| (topic.as_str(), &[][..])).collect()
    );
    let mut late = join(&rig, "operator", &[ENTRIES, "devices/+/meta"])?;
    late.wait_message("what is retained", |it| it.topic.ends_with("/meta"))?;
    late.publish([(format!("devices/{DEVICE}/commands"), b"{}".to_vec())], false)?;
    assert_eq!(entries(&late), []);
    send(&rig, "temp=22 stage=fruiting")?;
    wait_until("both readings in storage", SOON, || Ok(stored(&rig)? == 2))?;
    assert_eq!(entries(&home).len(), 6, "announced although it is off");
    Ok(())
}

/// mosquitto pubacks what its rules refuse, and drops it.
#[test]
fn a_broker_that_forbids_it_takes_readings_all_the_same() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut mosquitto = Mosquitto::new(dir.path(), Ipv4Addr::LOCALHOST.into())?;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/mosquitto.acl");
    let rules = std::fs::read_to_string(shipped)?;
    let ours = |line: &&str| !line.starts_with("pattern") || !line.contains(HOME_ASSISTANT);
    let without: Vec<&str> = rules.lines().filter(ours).collect();
    let place = dir.path().join("without.acl");
    std::fs::write(&place, without.join("\n"))?;
    mosquitto.set("acl_file", &place.display().to_string());
    mosquitto.run()?;
    let address = mosquitto.address();
    let external = Some(External { gateway: address, bridge: address });
    let mut rig = Rig::in_dir(dir, Settings { external, ..announcing() })?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let watch = join(&rig, "operator", &[ENTRIES])?;
    for n in 1..=5 {
        send(&rig, &format!("m{n}=1"))?;
        wait_until("a reading in storage", SOON, || Ok(stored(&rig)? == n))?;
    }
    assert_eq!(entries(&watch), []);
    Ok(())
}
