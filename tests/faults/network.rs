//! The network between gateway and broker: slow, stalled, half-open, cut, partitioned.

use std::time::{Duration, Instant};

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{DEVICE, External};
use fieldpost_gateway::clock::Now;
use fieldpost_gateway::outbox::{Outbox, Settings as OutboxSettings, WhenFull};
use fieldpost_gateway::serial::Measured;
use fieldpost_protocol::{Metrics, Value};
use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::netns::{Cable, FAR};
use fieldpost_tests::proxy::{End, Proxy, Way};
use fieldpost_tests::rig::{Rig, SOON, chance, pass, wait_until};
use fieldpost_tests::wired::{Wired, impatient};

use crate::settings;

/// In the log, when a connection has ended or did not come about.
const LOST: &str = "not connected";

fn behind_a_latency_of(each_way: Duration) -> anyhow::Result<()> {
    let mut wired = Wired::new(impatient(settings()))?;
    for proxy in [&wired.near, &wired.far] {
        proxy.change(|network| network.latency = [each_way; 2]);
    }
    wired.run(50.0)?;
    let connections = wired.near.connections();
    let sent = wired.rig.ledger.len();
    wired.rig.wait_stored(sent + 100)?;
    assert_eq!(wired.near.connections(), connections, "slow is not lost");
    // Still slow.
    wired.rig.settle()?;
    Ok(())
}

#[test]
fn a_latency_of_40_ms_loses_nothing() -> anyhow::Result<()> {
    behind_a_latency_of(Duration::from_millis(40))
}

#[test]
fn a_latency_of_two_seconds_loses_nothing() -> anyhow::Result<()> {
    behind_a_latency_of(Duration::from_secs(2))
}

/// Rows that no compression makes smaller, sealed in segments of a thousand each, in an outbox
/// that the gateway then takes over. Returns the bytes of their bodies.
fn fill_with_noise(rig: &Rig, segments: u64) -> anyhow::Result<u64> {
    let now = Now::read();
    let settings = OutboxSettings {
        path: rig.world.outbox(),
        device: DEVICE.parse()?,
        retention_age_ms: 7 * 86_400_000,
        retention_bytes: 64_000_000,
        size_bytes_max: 1_000_000_000,
        when_full: WhenFull::Refuse,
        recorder: false,
    };
    let mut outbox = Outbox::open(settings, now)?.0;
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..segments {
        let row = |_| Measured {
            source: "noise".into(),
            boot_ms: now.boot_ms,
            metrics: Metrics::new(
                ["x", "y", "z"].map(|name| (name.into(), Value::Float(rng.f64()))).into(),
            )
            .expect("different names"),
        };
        let rows: Vec<Measured> = (0..1_000).map(row).collect();
        outbox.append(&rows, &[], now)?;
    }
    outbox.close()?;
    let conn = read_only(&rig.world.outbox())?;
    let sql = "SELECT coalesce(sum(length(body)), 0) FROM segment";
    Ok(conn.query_row(sql, [], |row| row.get::<_, i64>(0))? as u64)
}

#[test]
fn four_kilobytes_a_second_drain_a_backlog_without_a_storm_of_resends() -> anyhow::Result<()> {
    const SEGMENTS: u64 = 5;
    let mut wired = Wired::new(settings())?;
    let needed = fill_with_noise(&wired.rig, SEGMENTS)?;
    wired.near.change(|network| network.rate = [Some(4_096); 2]);
    wired.rig.start(10.0)?;
    let begun = Instant::now();
    let count = |sql: &str| {
        let conn = read_only(&wired.rig.world.storage())?;
        anyhow::Ok(conn.query_row(sql, [], |row| row.get::<_, i64>(0))? as u64)
    };
    wait_until("the backlog", 3 * SOON, || {
        Ok(count("SELECT count(*) FROM readings WHERE source = 'noise'")? == SEGMENTS * 1_000)
    })?;
    let (took, up) = (begun.elapsed(), wired.near.bytes(Way::Up));
    println!(
        "{needed} bytes of segments: {up} bytes sent at 4,096 a second in {:.1} s, {} connections",
        took.as_secs_f64(),
        wired.near.connections()
    );
    wired.rig.settle()?;
    // Handshake, hellos, heartbeats, the board's own lines, and what a second try costs.
    assert!(up < needed * 3 / 2 + 10_000, "{up} bytes for {needed}");
    assert!(up >= needed, "the way was not through the proxy: {up} bytes for {needed}");
    Ok(())
}

#[test]
fn a_stall_keeps_the_connection_while_it_is_short_and_costs_one_when_it_is_long()
-> anyhow::Result<()> {
    let mut wired = Wired::new(impatient(settings()))?;
    wired.run(100.0)?;
    let connections = wired.near.connections();
    wired.near.change(|network| network.stalled = [true; 2]);
    pass(Duration::from_secs(3));
    wired.near.heal();
    let sent = wired.rig.ledger.len();
    wired.rig.wait_stored(sent)?;
    assert_eq!(wired.near.connections(), connections, "a short stall needs no new connection");

    let lost = ["gateway", "bridge"].map(|name| wired.rig.times_said(name, LOST));
    for network in [&wired.near, &wired.far] {
        network.change(|network| network.stalled = [true; 2]);
    }
    for (name, before) in ["gateway", "bridge"].into_iter().zip(lost) {
        wired.rig.wait_said(name, LOST, before?)?;
    }
    // What the dead connections had on its way arrives now, late.
    wired.settle()?;
    assert!(wired.near.connections() > connections);
    Ok(())
}

fn half_open(way: Way) -> anyhow::Result<()> {
    let mut wired = Wired::new(impatient(settings()))?;
    wired.run(100.0)?;
    let connections = wired.near.connections();
    wired.near.kill_way(way);
    wait_until("a new connection of the gateway", SOON, || {
        Ok(wired.near.connections() > connections)
    })?;
    let sent = wired.rig.ledger.len();
    wired.rig.wait_stored(sent)?;

    let connections = wired.far.connections();
    wired.far.kill_way(way);
    wait_until("new connections of the bridge", SOON, || {
        Ok(wired.far.connections() >= connections + 3)
    })?;
    wired.settle()?;
    Ok(())
}

#[test]
fn a_connection_whose_way_up_is_dead_is_noticed_and_made_anew() -> anyhow::Result<()> {
    half_open(Way::Up)
}

#[test]
fn a_connection_whose_way_down_is_dead_is_noticed_and_made_anew() -> anyhow::Result<()> {
    half_open(Way::Down)
}

/// Cuts in a row: the pause before the next connection doubles with each, until the program is
/// started anew.
const CUTS: u64 = 4;
const ROUNDS: u64 = 3;

/// Cuts in a row, each at a random byte up to `bytes_max`: small ones are the likelier, they fall
/// into the TLS handshake. Returns once the last was made.
fn cut(proxy: &Proxy, rng: &mut fastrand::Rng, bytes_max: u64) -> anyhow::Result<()> {
    let before = proxy.cut();
    for _ in 0..CUTS {
        let bytes = (bytes_max as f64).powf(rng.f64()) as u64;
        proxy.cut_after(bytes.max(1), if rng.bool() { End::Rst } else { End::Fin });
    }
    proxy.cut_now(End::Rst);
    wait_until("the cuts", 2 * SOON, || Ok(proxy.cut() >= before + CUTS))
}

#[test]
fn a_gateway_whose_connection_is_cut_at_random_bytes_loses_nothing() -> anyhow::Result<()> {
    let mut rng = chance();
    let mut wired = Wired::new(impatient(settings()))?;
    wired.run(1_000.0)?;
    for round in 1..=ROUNDS {
        // Handshake, hello, and two batches.
        cut(&wired.near, &mut rng, 8_192)?;
        if round < ROUNDS {
            wired.rig.world.stop_gateway()?;
            wired.rig.world.start_gateway()?;
        }
    }
    wired.near.heal();
    wired.rig.settle_accepted()?;
    Ok(())
}

#[test]
fn a_bridge_whose_connections_are_cut_at_random_bytes_loses_nothing() -> anyhow::Result<()> {
    let mut rng = chance();
    let mut wired = Wired::new(impatient(settings()))?;
    wired.run(1_000.0)?;
    for round in 1..=ROUNDS {
        // Three handshakes, and answers; one connection that is cut takes the two others along.
        cut(&wired.far, &mut rng, 8_192)?;
        if round < ROUNDS {
            wired.rig.world.stop_bridge()?;
            wired.rig.world.start_bridge()?;
        }
    }
    wired.settle()?;
    Ok(())
}

#[test]
fn a_partition_of_the_network_is_waited_out_whether_tcp_survives_it_or_not() -> anyhow::Result<()> {
    let cable = Cable::lay()?;
    let dir = tempfile::tempdir()?;
    let request = fieldpost_certs::Request {
        hosts: vec![FAR.to_string()],
        devices: vec![DEVICE.to_owned()],
        ..fieldpost_certs::Request::default()
    };
    fieldpost_certs::issue(&dir.path().join("certs"), &request)?;
    let mosquitto = Mosquitto::start(dir.path())?;
    let proxy = Proxy::behind(cable.listen()?, mosquitto.address())?;
    let mut in_namespace = impatient(settings());
    in_namespace.external =
        Some(External { gateway: proxy.address(), bridge: mosquitto.address() });
    in_namespace.gateway_wrapper = cable.wrapper();
    let mut rig = Rig::in_dir(dir, in_namespace)?;
    rig.run(100.0)?;

    let connections = proxy.connections();
    cable.cut()?;
    pass(Duration::from_secs(3));
    cable.mend()?;
    let sent = rig.ledger.len();
    rig.wait_stored(sent)?;
    assert_eq!(proxy.connections(), connections, "TCP survives a few seconds");

    cable.cut()?;
    let (bytes, lost) = (proxy.bytes(Way::Up), rig.times_said("gateway", LOST)?);
    rig.wait_said("gateway", LOST, lost)?;
    assert_eq!(proxy.bytes(Way::Up), bytes, "nothing came through");
    pass(Duration::from_secs(3));
    cable.mend()?;
    rig.settle()?;
    assert!(proxy.connections() > connections);
    Ok(())
}
