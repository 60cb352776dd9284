//! Alert rules of the configuration: in storage, in the status file and live, once each.

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{DEVICE, Settings};
use fieldpost_mqtt::Options;
use fieldpost_protocol::LiveAlert;
use fieldpost_tests::broker::Broker;
use fieldpost_tests::client::{self, Client};
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::settings;

on_each_broker! {
    a_rule_is_told_once_each_way_over_kills_and_restarts_until_it_is_changed,
    a_silent_source_and_a_lost_port_are_alerts_and_so_is_their_end,
}

const SCRIPT: &str = r#"
[[port]]
name = "script"
socket = "{dir}/script.sock"
"#;

fn with_rules(rules: &str) -> Settings {
    Settings { ports: format!("{SCRIPT}{rules}"), ..settings() }
}

/// Waits for the socket, and sends a line as a script does.
fn send(rig: &Rig, line: &str) -> anyhow::Result<()> {
    wait_until("a line to be taken", SOON, || {
        Ok(rig.world.run_gateway(&["send", "--port", "script", line]).is_ok())
    })
}

/// What storage has of an alert, in the order in which it came.
fn states(rig: &Rig, name: &str) -> anyhow::Result<Vec<(String, String)>> {
    let conn = read_only(&rig.world.storage())?;
    let mut query =
        conn.prepare("SELECT state, message FROM alerts WHERE name = ?1 ORDER BY time")?;
    let rows = query.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn wait_states(rig: &Rig, name: &str, count: usize) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    wait_until(&format!("{count} events of {name} in storage"), SOON, || {
        found = states(rig, name)?;
        Ok(found.len() >= count)
    })?;
    assert_eq!(found.len(), count, "{found:?}");
    for (at, (state, _)) in found.iter().enumerate() {
        assert_eq!(state, if at % 2 == 0 { "raised" } else { "cleared" }, "{found:?}");
    }
    Ok(found)
}

/// Waits until the status file of a gateway that runs shows it so.
fn wait_status(rig: &Rig, name: &str, raised: bool) -> anyhow::Result<()> {
    let id = rig.world.gateway.as_ref().map(|gateway| gateway.id());
    wait_until("the status file", SOON, || {
        let status = rig.status()?;
        let alerts = status["alerts"].as_array().map_or(&[][..], Vec::as_slice);
        let shown = alerts.iter().any(|alert| alert["name"] == name);
        Ok(status["pid"].as_u64() == id.map(u64::from) && shown == raised)
    })
}

fn a_rule_is_told_once_each_way_over_kills_and_restarts_until_it_is_changed(
    broker: Broker,
) -> anyhow::Result<()> {
    let rule = "[[alert]]\nname = \"too_warm\"\nsource = \"script\"\nmetric = \"temp\"\nabove = 28\n\
                hysteresis = 1\nseverity = \"critical\"\nmessage = \"{source} has {value} °C\"\n";
    let mut rig = Rig::on(broker, with_rules(rule))?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    let certs = rig.world.dir().join("certs");
    let operator = Client::connect(Options {
        subscriptions: vec![format!("devices/{DEVICE}/live/alerts")],
        ..client::options(&certs, "operator", rig.world.broker_address().port())
    })?;
    send(&rig, "temp=20")?;
    // What is shown live is shown to whoever is connected.
    wait_until("a reading in storage", SOON, || {
        let conn = read_only(&rig.world.storage())?;
        let sql = "SELECT count(*) FROM readings WHERE source = 'script'";
        Ok(conn.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0)
    })?;
    send(&rig, "temp=30.5")?;
    let found = wait_states(&rig, "too_warm", 1)?;
    assert_eq!(found[0].1, "script has 30.5 °C");
    wait_status(&rig, "too_warm", true)?;
    let live = operator.wait_message("a live alert", |it| it.topic.ends_with("/live/alerts"))?;
    let live = LiveAlert::from_json(&live.payload)?;
    assert_eq!((live.name.as_str(), live.about.as_deref()), ("too_warm", Some("script")));

    rig.world.gateway.take().expect("it runs").kill()?;
    rig.world.start_gateway()?;
    // Still so; and between both bounds.
    send(&rig, "temp=29")?;
    send(&rig, "temp=27.5")?;
    wait_status(&rig, "too_warm", true)?;
    rig.world.stop_gateway()?;
    rig.world.start_gateway()?;
    send(&rig, "temp=31")?;
    wait_status(&rig, "too_warm", true)?;
    send(&rig, "temp=27")?;
    let found = wait_states(&rig, "too_warm", 2)?;
    assert_eq!(found[1].1, "temp of script is 27");
    rig.world.gateway.take().expect("it runs").kill()?;
    rig.world.start_gateway()?;
    send(&rig, "temp=27.9")?;
    wait_status(&rig, "too_warm", false)?;
    send(&rig, "temp=33")?;
    wait_states(&rig, "too_warm", 3)?;

    rig.world.stop_gateway()?;
    let path = rig.world.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, text.replace("above = 28", "above = 40"))?;
    rig.world.start_gateway()?;
    let found = wait_states(&rig, "too_warm", 4)?;
    assert!(found[3].1.contains("changed in the configuration"), "{found:?}");
    send(&rig, "temp=41")?;
    wait_states(&rig, "too_warm", 5)?;
    rig.world.stop_gateway()?;
    std::fs::write(&path, text.replace(rule, ""))?;
    rig.world.start_gateway()?;
    let found = wait_states(&rig, "too_warm", 6)?;
    assert!(found[5].1.contains("removed from the configuration"), "{found:?}");
    wait_status(&rig, "too_warm", false)
}

fn a_silent_source_and_a_lost_port_are_alerts_and_so_is_their_end(
    broker: Broker,
) -> anyhow::Result<()> {
    let rules = "[[alert]]\nname = \"silent\"\nsource = \"script\"\nno_data_for = \"2s\"\n\
                 [[alert]]\nname = \"board_gone\"\nport_lost = \"arduino\"\n\
                 [[alert]]\nname = \"outbox_grows\"\noutbox_above = \"20kB\"\n";
    let mut rig = Rig::on(broker, with_rules(rules))?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    wait_states(&rig, "silent", 1)?;
    wait_states(&rig, "board_gone", 1)?;
    // What waits for no sync ack is kept, too.
    rig.plug(50.0)?;
    wait_states(&rig, "board_gone", 2)?;
    wait_states(&rig, "outbox_grows", 1)?;
    send(&rig, "temp=1")?;
    wait_until("the end of the silence", SOON, || Ok(states(&rig, "silent")?.len() >= 2))?;
    // A port that is not open yet is not lost.
    rig.world.stop_gateway()?;
    rig.world.start_gateway()?;
    rig.wait_accepting()?;
    rig.board = None;
    wait_states(&rig, "board_gone", 3)?;
    assert_eq!(states(&rig, "board_gone")?.len(), 3, "nothing was told at the start");
    wait_until("silence again", SOON, || Ok(states(&rig, "silent")?.len() >= 3))?;
    Ok(())
}
