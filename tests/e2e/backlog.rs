//! Behind a backlog of a million readings.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use fieldpost_demo::judge::{OutboxWatch, read_only};
use fieldpost_demo::world::DEVICE;
use fieldpost_mqtt::{Ca, ClientCertificate, Event, Options, Session, Tls};
use fieldpost_protocol::{DeviceStatus, Live};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::fill;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::settings;

on_each_broker! {
    a_million_waiting_readings_drain_while_the_lag_is_shown_and_live_stays_current,
    a_full_outbox_takes_readings_again_as_soon_as_storage_has_what_it_holds,
}

const BACKLOG: u64 = 1_000_000;
/// A live value is published every five seconds; twice that is not current any more.
const LIVE_AGE_MAX_MS: i64 = 10_000;

fn a_million_waiting_readings_drain_while_the_lag_is_shown_and_live_stays_current(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    fill::backlog(&rig.world.outbox(), BACKLOG)?;
    let bytes = std::fs::metadata(rig.world.outbox())?.len();
    println!("outbox: {:.2} bytes a reading on disk", bytes as f64 / BACKLOG as f64);
    // First without a bridge, so that the backlog surely stands while we look.
    rig.world.start_gateway()?;
    rig.plug(10.0)?;
    let age_ms = watch_live(&rig).context("while the backlog stands")?;
    println!("live: {age_ms} ms old behind a backlog of a million");
    assert!(age_ms <= LIVE_AGE_MAX_MS, "{age_ms} ms");

    let started = Instant::now();
    rig.world.start_bridge()?;
    let stored = || {
        let conn = read_only(&rig.world.storage())?;
        anyhow::Ok(
            conn.query_row("SELECT count(*) FROM reading", [], |row| row.get::<_, i64>(0))? as u64
        )
    };
    wait_until("half of the backlog", 2 * SOON, || Ok(stored()? >= BACKLOG / 2))?;
    wait_until("the backlog", 2 * SOON, || Ok(stored()? >= BACKLOG))?;
    let took = started.elapsed();
    println!("drained {BACKLOG} readings in {:.1} s", took.as_secs_f64());
    rig.board.as_ref().expect("plugged in above").pause();
    let mut outbox = OutboxWatch::new(&rig.world.outbox());
    let sent = rig.ledger.len();
    wait_until("accepting", SOON, || Ok(outbox.look()? >= sent))?;
    wait_until("everything", 2 * SOON, || {
        let conn = read_only(&rig.world.storage())?;
        let fresh: i64 =
            conn.query_row("SELECT count(*) FROM readings WHERE source = 'fruiting'", [], |row| {
                row.get(0)
            })?;
        let waiting: i64 =
            conn.query_row("SELECT coalesce(sum(n), 0) FROM waiting", [], |row| row.get(0))?;
        Ok(fresh as u64 == sent && waiting == 0)
    })?;
    let conn = read_only(&rig.world.storage())?;
    let missing: i64 =
        conn.query_row("SELECT coalesce(sum(n), 0) FROM missing", [], |row| row.get(0))?;
    let rows: i64 =
        conn.query_row("SELECT count(*) FROM readings WHERE source = 'room'", [], |row| {
            row.get(0)
        })?;
    assert_eq!((missing, rows as u64), (0, BACKLOG));
    Ok(())
}

fn a_full_outbox_takes_readings_again_as_soon_as_storage_has_what_it_holds(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut small = settings();
    small.gateway.push(("outbox", "size_max = \"4MiB\"".to_owned()));
    let mut rig = Rig::on(broker, small)?;
    let filled = fill::until_full(&rig.world.outbox(), 4 << 20)?;
    rig.world.start_gateway()?;
    rig.plug(20.0)?;
    let status = rig.world.dir().join("status.json");
    wait_until("a refusal", SOON, || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        Ok(text.contains("\"outbox_full\""))
    })?;
    rig.world.start_bridge()?;
    // Well before the next trim, which is a minute away.
    let mut outbox = OutboxWatch::new(&rig.world.outbox());
    wait_until("acceptance", Duration::from_secs(40), || Ok(outbox.look()? > 20))?;
    println!("filled with {filled} readings, then drained and accepting again");
    Ok(())
}

/// Subscribes as the operator; returns how old a live value of the board is, once a status
/// has shown the backlog as waiting.
fn watch_live(rig: &Rig) -> anyhow::Result<i64> {
    let certs = rig.world.dir().join("certs");
    let client =
        ClientCertificate { cert: certs.join("operator.pem"), key: certs.join("operator.key") };
    let options = Options {
        host: "127.0.0.1".to_owned(),
        port: rig.world.broker_address().port(),
        tls: Tls::On { ca: Ca::File(certs.join("ca.pem")), client: Some(client) },
        client_id: "operator".to_owned(),
        subscriptions: vec![format!("devices/{DEVICE}/status"), format!("devices/{DEVICE}/live/#")],
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_session, mut events) = Session::start(options)?;
        let work = async {
            let mut lag_shown = false;
            while let Some(event) = events.recv().await {
                let Event::Message(message) = event else { continue };
                if message.topic.ends_with("/status") {
                    let status = DeviceStatus::from_json(&message.payload)?;
                    lag_shown |= status.waiting.is_some_and(|waiting| waiting >= BACKLOG);
                } else if message.topic.ends_with("/live/fruiting") && lag_shown {
                    let live = Live::from_json(&message.payload)?;
                    // Without a bridge nobody may have told the time: then the line's own
                    // number says how old it is.
                    let line = match live.values.get("n") {
                        Some(fieldpost_protocol::Value::Int(n)) => *n as u64,
                        other => anyhow::bail!("n is {other:?}"),
                    };
                    let sent = rig.ledger.line(line).context("a line that was sent")?;
                    return Ok(fieldpost_demo::board::unix_ms() - sent.time_ms);
                }
            }
            anyhow::bail!("the session has ended")
        };
        tokio::time::timeout(Duration::from_secs(60), work).await.context("no live value")?
    })
}
