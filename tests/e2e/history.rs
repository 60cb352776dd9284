//! Connectivity: what the gateway remembers of it, and a check that a person asks for.

use std::process::Output;

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge::read_only;
use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::proxy::{End, Proxy};
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use serde_json::Value;

use crate::{assert_clean, settings};

on_each_broker! {
    an_outage_is_remembered_with_its_reason_over_a_restart_and_a_kill,
    a_check_ends_the_wait_for_the_next_try_and_says_what_it_found,
    a_broker_without_a_bridge_is_connected_and_not_online,
}

/// So long a wait tells a check that ended it from one that did not.
const LONG_S: f64 = 2.0;

fn connectivity(rig: &Rig) -> anyhow::Result<Value> {
    Ok(rig.status()?["connectivity"].clone())
}

/// Waits for what the status file shall say of connectivity, and returns it.
fn wait_for(rig: &Rig, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    wait_until(what, SOON, || {
        last = connectivity(rig)?;
        Ok(is(&last))
    })
    .map_err(|error| error.context(last.to_string()))?;
    Ok(last)
}

fn wait_state(rig: &Rig, state: &str) -> anyhow::Result<Value> {
    wait_for(rig, state, |told| told["state"] == state)
}

/// The same with 30 days.
fn everything(rig: &Rig) -> anyhow::Result<Value> {
    let status: Value = serde_json::from_str(&rig.world.run_gateway(&["status", "--json"])?)?;
    Ok(status["connectivity"].clone())
}

/// Of all hours that are listed.
fn sum(told: &Value, key: &str) -> u64 {
    let hours = told["hours"].as_array().map_or(&[][..], Vec::as_slice);
    hours.iter().filter_map(|hour| hour[key].as_u64()).sum()
}

fn states(told: &Value) -> Vec<String> {
    let all = told["transitions"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter_map(|it| it["state"].as_str().map(str::to_owned)).collect()
}

/// A gateway whose way to the broker can be cut, while the bridge's cannot.
fn behind_a_proxy(broker: Broker) -> anyhow::Result<(Rig, Proxy)> {
    let rig = Rig::on(broker, settings())?;
    let proxy = Proxy::start(rig.world.broker_address())?;
    let file = rig.world.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&file)?;
    let way = text.lines().find(|line| line.starts_with("port = ")).context("[broker] port")?;
    let port = format!("port = {}", proxy.address().port());
    std::fs::write(&file, text.replacen(way, &port, 1))?;
    Ok((rig, proxy))
}

fn cut(proxy: &Proxy) {
    proxy.change(|network| network.refusing = true);
    proxy.cut_now(End::Rst);
}

fn check(rig: &Rig) -> anyhow::Result<(bool, String)> {
    let Output { status, stdout, stderr } =
        rig.world.command("gateway").args(["check", "--now"]).output()?;
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(status.success() || status.code() == Some(1), "{status}: {said}");
    println!("check --now: {status}\n{said}");
    Ok((status.success(), said))
}

/// The number that follows these words.
fn number_after(said: &str, words: &str) -> Option<f64> {
    let (_, rest) = said.split_once(words)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Waits until the gateway has begun to wait for longer than this.
fn wait_backing_off(rig: &Rig, longer_s: f64) -> anyhow::Result<()> {
    let tries = || -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(rig.world.log("gateway"))?;
        Ok(log.lines().filter(|line| line.contains("next try in")).map(str::to_owned).collect())
    };
    let before = tries()?.len();
    wait_until("a long wait", SOON, || {
        let tries = tries()?;
        let last = tries.last().filter(|_| tries.len() > before);
        Ok(last.and_then(|line| number_after(line, "next try in ")).is_some_and(|s| s > longer_s))
    })
}

fn an_outage_is_remembered_with_its_reason_over_a_restart_and_a_kill(
    broker: Broker,
) -> anyhow::Result<()> {
    let (mut rig, proxy) = behind_a_proxy(broker)?;
    rig.start(20.0)?;
    rig.wait_stored(20)?;
    let told = wait_state(&rig, "online")?;
    assert_eq!(told["consecutive_failures"], 0);
    assert!(told["next_retry"].is_null(), "{told}");

    cut(&proxy);
    let told = wait_for(&rig, "failures", |told| {
        told["state"] == "offline" && told["consecutive_failures"].as_u64() >= Some(2)
    })?;
    assert!(told["last_error"].as_str().is_some_and(|it| it.contains("refused")), "{told}");
    assert!(told["why"].as_str().is_some_and(|it| it.starts_with("127.0.0.1:")), "{told}");
    wait_for(&rig, "the next try", |told| told["next_retry"].as_i64() > told["since"].as_i64())?;
    let text = rig.world.run_gateway(&["status"])?;
    assert!(text.contains("link      offline for") && text.contains("failures in a row"), "{text}");

    proxy.heal();
    let told = wait_state(&rig, "online")?;
    let hour = told["hours"].as_array().and_then(|hours| hours.last()).context("an hour")?;
    assert!(hour["success_rate"].as_f64().is_some_and(|rate| rate > 0.0 && rate < 1.0), "{hour}");
    assert_eq!(states(&told).iter().filter(|state| *state == "online").count(), 2, "{told}");
    wait_for(&rig, "readings", |told| sum(told, "readings") >= 20)?;

    rig.world.stop_gateway()?;
    let stopped = connectivity(&rig)?;
    assert_eq!(
        (&stopped["state"], &stopped["why"]),
        (&"stopped".into(), &"the gateway was stopped".into())
    );
    // What the status file does not list is in the outbox.
    let sql =
        "INSERT INTO link_transition SELECT 0, unix_ms - 86400000, clock, link, 'a day before' FROM
               link_transition WHERE no = 1";
    rusqlite::Connection::open(rig.world.outbox())?.execute(sql, [])?;
    let all = everything(&rig)?;
    assert_eq!(all["transitions"][0]["why"], "a day before");
    assert_eq!(states(&all)[1..], states(&stopped));
    rig.world.start_gateway()?;
    let told = wait_state(&rig, "online")?;
    for key in ["failures", "successes", "readings", "online_s", "transitions"] {
        assert!(
            sum(&told, key) >= sum(&stopped, key),
            "{key}: {told}, before the restart {stopped}"
        );
    }
    let kept = states(&all);
    assert_eq!(states(&told)[..kept.len()], kept);

    // A kill takes nothing that is on the disk, and the next start says that it was one.
    rig.world.gateway.take().context("it runs")?.kill()?;
    let on_disk: i64 = read_only(&rig.world.outbox())?.query_row(
        "SELECT count(*) FROM link_transition",
        [],
        |row| row.get(0),
    )?;
    rig.world.start_gateway()?;
    wait_for(&rig, "the run after the kill", |now| {
        now["state"] == "online" && now["since"] != told["since"]
    })?;
    let all = everything(&rig)?;
    assert!(states(&all).starts_with(&kept), "{all}");
    let start = &all["transitions"][usize::try_from(on_disk)?]["why"];
    assert!(start.as_str().is_some_and(|why| why.contains("a kill or a crash")), "{all}");
    assert_clean(&rig.drain()?);
    Ok(())
}

fn a_check_ends_the_wait_for_the_next_try_and_says_what_it_found(
    broker: Broker,
) -> anyhow::Result<()> {
    let (mut rig, proxy) = behind_a_proxy(broker)?;
    let (good, said) = check(&rig)?;
    assert!(!good && said.contains("gateway.toml: good"), "{said}");
    assert!(said.contains("systemctl start fieldpost-gateway"), "{said}");

    rig.start(20.0)?;
    rig.wait_stored(20)?;
    let (good, said) = check(&rig)?;
    assert!(good && said.contains("connected; the storage is asked"), "{said}");
    assert!(said.contains("the storage answered after") && said.contains("online; "), "{said}");

    cut(&proxy);
    wait_backing_off(&rig, 0.5)?;
    let (good, said) = check(&rig)?;
    assert!(!good && said.contains("it is tried now, and not in"), "{said}");
    assert!(said.contains("Does the broker run there"), "{said}");

    wait_backing_off(&rig, LONG_S)?;
    proxy.heal();
    let (good, said) = check(&rig)?;
    assert!(good, "{said}");
    let wait_s = number_after(&said, "it is tried now, and not in ").context("a wait")?;
    let took_ms = number_after(&said, "the broker took this gateway after ").context("a time")?;
    // The wait is told in tenths.
    assert!(took_ms < wait_s * 1_000.0 - 100.0, "{said}");
    wait_state(&rig, "online")?;
    assert_clean(&rig.drain()?);
    Ok(())
}

fn a_broker_without_a_bridge_is_connected_and_not_online(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.world.start_gateway()?;
    rig.plug(20.0)?;
    wait_state(&rig, "connected")?;
    let (good, said) = check(&rig)?;
    assert!(!good && said.contains("Does the bridge run"), "{said}");
    let told =
        wait_for(&rig, "a failure", |told| told["consecutive_failures"].as_u64() >= Some(1))?;
    assert!(
        told["last_error"].as_str().is_some_and(|it| it.contains("Does the bridge run")),
        "{told}"
    );
    assert_eq!(
        (&told["state"], sum(&told, "online_s"), sum(&told, "successes")),
        (&"connected".into(), 0, 0)
    );
    rig.world.start_bridge()?;
    let told = wait_state(&rig, "online")?;
    assert_eq!(told["consecutive_failures"], 0);
    assert_clean(&rig.drain()?);
    Ok(())
}
