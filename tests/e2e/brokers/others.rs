//! RabbitMQ and NATS with `config/rabbitmq.conf` and `config/nats.conf`: the path, their rules by
//! delivery, and what they cannot do, which docs/brokers.md says.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context as _, ensure};
use fieldpost_demo::world::{DEVICE, External};
use fieldpost_mqtt::{Options, Will};
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::others::{Kind, OtherBroker};
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use super::path::Path;
use crate::settings;

const OPERATOR: &str = "operator";
const OUT: &str = "bridge-out";

/// A world on one of them.
struct World {
    // First: it writes to the folder that goes with the rig.
    broker: OtherBroker,
    rig: Rig,
}

impl World {
    fn start(kind: Kind) -> anyhow::Result<World> {
        let dir = tempfile::tempdir()?;
        let broker = OtherBroker::start(kind, dir.path())?;
        let mut other = settings();
        let address = broker.address();
        other.external = Some(External { gateway: address, bridge: address });
        Ok(World { rig: Rig::in_dir(dir, other)?, broker })
    }

    fn options(&self, user: &str, subscriptions: &[&str]) -> Options {
        let subscriptions = subscriptions.iter().map(|filter| (*filter).to_owned()).collect();
        let certs = self.rig.world.dir().join("certs");
        Options { subscriptions, ..options(&certs, user, self.broker.address().port()) }
    }

    /// RabbitMQ refuses a client that comes back at once under its id now and then.
    fn connect(&self, options: Options) -> anyhow::Result<Client> {
        Client::connect_again(&options)
    }

    fn walk(&mut self, retained_by_wildcard: bool) -> anyhow::Result<()> {
        let operator = self.options(OPERATOR, &[]);
        let watch =
            |subscriptions| Client::connect_again(&Options { subscriptions, ..operator.clone() });
        // RabbitMQ on a busy machine takes seconds for a round trip.
        self.rig.ledger.allow_ms(8_000);
        let broker = &mut self.broker;
        let restart = &mut || {
            broker.kill()?;
            broker.run()
        };
        Path { prefix: "", retained_by_wildcard, watch: &watch, restart }.walk(&mut self.rig)
    }

    /// A device says and reads nothing that is not its own, by delivery; the programs are stopped.
    fn obeys_the_rules(&mut self) -> anyhow::Result<()> {
        self.rig.world.stop_gateway()?;
        self.rig.world.stop_bridge()?;
        let own = |leaf: &str| format!("devices/{DEVICE}/{leaf}");
        let watch = self.connect(self.options(OPERATOR, &["devices/#", "bridge/#"]))?;
        let mut forbidden: Vec<String> =
            ["sync/state", "sync/acks", "commands", "config/desired"].map(own).to_vec();
        forbidden.extend(["sensor_data", "status"].map(|leaf| format!("devices/somebody/{leaf}")));
        forbidden.push("bridge/bridge/status".to_owned());
        for topic in &forbidden {
            let mut device = self.connect(self.options(DEVICE, &[]))?;
            // Taken or refused, it is not to arrive.
            let taken = device.publish([(topic.clone(), b"forbidden".to_vec())], false);
            println!("{DEVICE} to {topic}: {taken:?}");
        }
        for topic in ["devices/somebody/status", "bridge/bridge/status"] {
            let payload = b"forbidden".to_vec();
            let will = Some(Will { topic: topic.to_owned(), payload, retain: false });
            self.connect(Options { will, ..self.options(DEVICE, &[]) })?.break_connection()?;
        }
        let mut out = self.connect(self.options(OUT, &[]))?;
        let mut device = self.connect(self.options(DEVICE, &[]))?;
        for topic in &forbidden[..4] {
            out.publish([(topic.clone(), b"allowed".to_vec())], false)?;
        }
        device.publish([(own("sensor_data"), b"allowed".to_vec())], false)?;
        for topic in forbidden[..4].iter().chain([&own("sensor_data")]) {
            watch.wait_message(topic, |it| it.topic == *topic && it.payload == b"allowed")?;
        }
        let arrived = watch.received();
        let refused = arrived.iter().find(|it| it.payload == b"forbidden");
        assert!(refused.is_none(), "{refused:?} was delivered");
        drop(device);

        for filter in
            ["devices/somebody/commands", "devices/+/commands", "devices/+/sensor_data", "#"]
        {
            let filters = self.options(DEVICE, &[filter]);
            // Not once only: that may have another reason.
            let refused = (0..3).all(|_| Client::connect(filters.clone()).is_err());
            assert!(refused, "{DEVICE} may read {filter}");
        }
        let commands = own("commands");
        let device = self.connect(self.options(DEVICE, &[&commands]))?;
        out.publish([(commands.clone(), b"yours".to_vec())], false)?;
        device.wait_message("a command", |it| it.topic == commands)?;
        Ok(())
    }
}

/// What docs/brokers.md says that a broker does not do; the programs are stopped.
impl World {
    /// A certificate is not bound to a client id: whoever has one can end another's connection.
    fn lets_a_session_be_taken_over(&self) -> anyhow::Result<()> {
        let bridge = self.connect(self.options(OUT, &[]))?;
        let intruder = Options { client_id: OUT.to_owned(), ..self.options(DEVICE, &[]) };
        let _intruder = self.connect(intruder)?;
        wait_until("the takeover", SOON, || Ok(bridge.times_disconnected() > 0))
    }

    /// What a message with a dot in its topic becomes; `None`: the end of the connection.
    fn dotted(&self, topic: &str) -> anyhow::Result<Option<String>> {
        let watch = self.connect(self.options(OPERATOR, &["devices/#"]))?;
        let mut device = self.connect(self.options(DEVICE, &[]))?;
        if device.publish([(topic.to_owned(), b"dotted".to_vec())], false).is_err() {
            return Ok(None);
        }
        Ok(Some(watch.wait_message("a dotted topic", |it| it.payload == b"dotted")?.topic))
    }

    /// What is retained does not come to a filter with a wildcard, and does to the topic itself.
    fn keeps_what_is_retained_from_wildcards(&self) -> anyhow::Result<()> {
        let (topic, live) = (format!("devices/{DEVICE}/meta"), format!("devices/{DEVICE}/live/x"));
        let mut device = self.connect(self.options(DEVICE, &[]))?;
        device.publish([(topic.clone(), b"kept".to_vec())], true)?;
        let watch = self.connect(self.options(OPERATOR, &["devices/+/meta", &live]))?;
        device.publish([(live.clone(), b"later".to_vec())], false)?;
        watch.wait_message("what came later", |it| it.topic == live)?;
        assert!(watch.received().iter().all(|it| it.topic != topic), "it came to a wildcard");
        drop(watch);
        let watch = self.connect(self.options(OPERATOR, &[&topic]))?;
        watch.wait_message("what is retained", |it| it.topic == topic && it.retain)?;
        Ok(())
    }
}

/// Programs that speak NATS itself need a certificate, too: a name alone is nobody.
fn asks_for_a_certificate_on_its_other_port(broker: &OtherBroker) -> anyhow::Result<()> {
    let log = std::fs::read_to_string(broker.log())?;
    let listening = log.split("Listening for client connections on ").nth(1);
    let address = listening.and_then(|rest| rest.lines().next()).context("no such port")?;
    let mut stream = TcpStream::connect(address.trim())?;
    stream.set_read_timeout(Some(SOON))?;
    // After its greeting in the clear.
    stream
        .write_all(b"CONNECT {\"user\":\"CN=bridge-out,O=Fieldpost\",\"pass\":\"\"}\r\nPING\r\n")?;
    let mut said = Vec::new();
    let mut bytes = [0; 4_096];
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        said.extend_from_slice(&bytes[..read]);
        ensure!(!said.ends_with(b"PONG\r\n"), "whoever says a name is let in");
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(said.contains("\"tls_required\":true"), "it said {said}");
    Ok(())
}

#[test]
fn nats_carries_the_whole_path_and_keeps_a_device_to_its_own_topics() -> anyhow::Result<()> {
    let mut world = World::start(Kind::Nats)?;
    asks_for_a_certificate_on_its_other_port(&world.broker)?;
    world.walk(true)?;
    world.obeys_the_rules()?;
    world.lets_a_session_be_taken_over()?;
    assert_eq!(world.dotted(&format!("devices/{DEVICE}/live/a.b"))?, None);
    Ok(())
}

#[test]
fn rabbitmq_carries_the_whole_path_and_keeps_a_device_to_its_own_topics() -> anyhow::Result<()> {
    let mut world = World::start(Kind::Rabbitmq)?;
    world.walk(false)?;
    world.obeys_the_rules()?;
    world.lets_a_session_be_taken_over()?;
    world.keeps_what_is_retained_from_wildcards()?;
    let became = world.dotted(&format!("devices/{DEVICE}/config.reported"))?;
    assert_eq!(became, Some(format!("devices/{DEVICE}/config/reported")));
    Ok(())
}
