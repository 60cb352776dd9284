//! An alert overtakes a backlog: a million readings of its own gateway, and those of a hundred others.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{DEVICE, Settings};
use fieldpost_mqtt::Options;
use fieldpost_protocol::{
    Clock, Envelope, Epoch, Seq, Stream, SyncAcks, Topic, Topics, VERSION, encode_readings,
};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::client::{self, Client};
use fieldpost_tests::fill;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use fieldpost_tests::series::series;

use crate::settings;

on_each_broker! {
    an_alert_is_in_storage_within_two_seconds_behind_a_million_readings_and_beside_a_hundred_gateways,
}

const BACKLOG: u64 = 1_000_000;
const OTHERS: usize = 100;
/// Batches of another gateway that are on their way at a time.
const WINDOW: Seq = 8;
const WITHIN: Duration = Duration::from_secs(2);
/// The machine may be busy with other tests; one in so many has to be in time.
const TRIES: usize = 3;

fn other(n: usize) -> String {
    format!("other-{n}")
}

/// Without a further sync ack for so long it sends again: a broker may drop what it has pubacked, and what
/// comes before the bridge has subscribed goes to nobody.
const RESEND_AFTER: Duration = Duration::from_secs(5);

/// Sends batches of a thousand readings as a gateway with a long backlog, until it is told to end:
/// as many as storage confirms, and a few more.
fn drain_for_ever(options: Options, body: &[u8], stop: &AtomicBool) -> anyhow::Result<()> {
    let device: fieldpost_protocol::DeviceId = options.client_id.parse()?;
    let topic = Topics::default().name(&Topic::SensorData(device.clone()));
    let mut client = Client::connect_again(&options)?;
    let (mut sent, mut confirmed): (Seq, Seq) = (0, 0);
    let mut progress = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let acks = client.received();
        let acks = acks.iter().filter_map(|it| SyncAcks::decode(&it.payload).ok());
        let stored = acks.flat_map(|acks| acks.acks).map(|ack| ack.hi).max().unwrap_or(0);
        if stored > confirmed {
            (confirmed, progress) = (stored, Instant::now());
        } else if progress.elapsed() >= RESEND_AFTER {
            (sent, progress) = (stored, Instant::now());
        }
        if sent - stored >= WINDOW * 1_000 {
            std::thread::park_timeout(Duration::from_millis(20)); // poll
            continue;
        }
        let envelope = Envelope {
            v: VERSION,
            dev: device.clone(),
            epoch: Epoch([7; 16]),
            stream: Stream::Readings,
            first: sent + 1,
            n: 1_000,
            floor: 1,
            last: 1_000_000_000,
            base: 1_795_000_000_000,
            clock: Clock::Ntp,
            body: body.to_vec(),
        };
        sent += 1_000;
        client.publish([(topic.clone(), envelope.encode())], false)?;
    }
    Ok(())
}

fn count(path: &Path, sql: &str) -> anyhow::Result<u64> {
    let conn = read_only(path)?;
    Ok(conn.query_row(sql, [], |row| row.get::<_, i64>(0))? as u64)
}

fn an_alert_is_in_storage_within_two_seconds_behind_a_million_readings_and_beside_a_hundred_gateways(
    broker: Broker,
) -> anyhow::Result<()> {
    let ports = "[[port]]\nname = \"script\"\nsocket = \"{dir}/script.sock\"\n\
                 [[alert]]\nname = \"too_warm\"\nsource = \"script\"\nmetric = \"temp\"\nabove = 28\n";
    let mut rig = Rig::on(broker, Settings { ports: ports.to_owned(), ..settings() })?;
    fill::backlog(&rig.world.outbox(), BACKLOG)?;
    let certs = rig.world.dir().join("certs");
    let request = fieldpost_certs::Request {
        bridge: fieldpost_demo::world::BRIDGE.to_owned(),
        devices: (0..OTHERS).map(other).collect(),
        ..fieldpost_certs::Request::default()
    };
    fieldpost_certs::issue(&certs, &request)?;
    // Else most of the others would begin with a wait of RESEND_AFTER.
    rig.world.start_bridge()?;
    rig.world.wait_bridge_online(0)?;
    let body = encode_readings(&series("room", 1_000));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let port = rig.world.broker_address().port();
        let others: Vec<_> = (0..OTHERS)
            .map(|n| {
                let options = Options {
                    subscriptions: vec![format!("devices/{}/sync/acks", other(n))],
                    ..client::options(&certs, &other(n), port)
                };
                let (body, stop) = (&body, &stop);
                scope.spawn(move || drain_for_ever(options, body, stop))
            })
            .collect();
        let measured = measure(&mut rig);
        stop.store(true, Ordering::Relaxed);
        for other in others {
            other.join().expect("no panic").context("another gateway")?;
        }
        measured
    })
}

fn measure(rig: &mut Rig) -> anyhow::Result<()> {
    let storage = rig.world.storage();
    let devices = "SELECT count(*) FROM device WHERE id LIKE 'other-%'";
    wait_until("the others in storage", 2 * SOON, || {
        Ok(count(&storage, devices)? >= OTHERS as u64)
    })?;
    let key = rig.world.dir().join("certs").join(format!("{DEVICE}.key"));
    let right = std::fs::read(&key)?;
    let mut took = Vec::new();
    for attempt in 0..TRIES {
        // The key of another: nobody takes it, and it goes on recording.
        std::fs::copy(rig.world.dir().join("certs/operator.key"), &key)?;
        rig.world.start_gateway()?;
        // Raised by the first, cleared by the second, raised by the third.
        let (line, state) =
            if attempt % 2 == 0 { ("temp=30", "raised") } else { ("temp=20", "cleared") };
        wait_until("a line to be taken", SOON, || {
            Ok(rig.world.run_gateway(&["send", "--port", "script", line]).is_ok())
        })?;
        let told = "SELECT count(*) FROM event";
        wait_until("the alert", SOON, || Ok(count(&rig.world.outbox(), told)? > attempt as u64))?;
        let connected = rig.world.log("gateway");
        let times = || {
            anyhow::Ok(std::fs::read_to_string(&connected)?.matches(" connected broker=").count())
        };
        let before = times()?;
        std::fs::write(&key, &right)?;
        wait_until("the connection", 2 * SOON, || Ok(times()? > before))?;
        let begun = Instant::now();
        let sql =
            format!("SELECT count(*) FROM alerts WHERE name = 'too_warm' AND state = '{state}'");
        let wanted = 1 + attempt as u64 / 2;
        wait_until("the alert in storage", SOON, || Ok(count(&storage, &sql)? >= wanted))?;
        took.push(begun.elapsed());
        let own = format!("SELECT coalesce(sum(n), 0) FROM waiting WHERE device = '{DEVICE}'");
        let waiting = count(&storage, &own)?;
        println!(
            "{state} in storage {:?} after the connection, {waiting} readings wait",
            begun.elapsed()
        );
        assert!(waiting > BACKLOG / 2, "only {waiting} readings wait: nothing to overtake");
        if took.iter().any(|took| *took <= WITHIN) {
            return Ok(());
        }
        rig.world.stop_gateway()?;
    }
    anyhow::bail!("in storage after {took:?}, not within {WITHIN:?}")
}
