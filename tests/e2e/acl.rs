//! `config/mosquitto.conf` and `config/mosquitto.acl`: who may say what and read what, by delivery.
//!
//! mosquitto grants every subscription and pubacks what its rules refuse, so only what arrives
//! counts. Each refusal stands beside a control: the same topic, by whom it is for, over the same
//! subscription.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use fieldpost_demo::world::{BRIDGE, DEVICE};
use fieldpost_mqtt::{ClientCertificate, Login, Password, Tls, Will};
use fieldpost_protocol::{DeviceId, PACKET_BYTES_MAX, Topic, Topics};
use fieldpost_tests::client::{Client, filter_matches, options};
use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::rig::{SOON, wait_until};

/// Another device, as valid as [`DEVICE`].
const OTHER: &str = "greenhouse-2";
const OPERATOR: &str = "operator";
/// The bridge's connections.
const READINGS: &str = "bridge-readings";
const EVENTS: &str = "bridge-events";
const OUT: &str = "bridge-out";
const USERS: [&str; 6] = [DEVICE, OTHER, READINGS, EVENTS, OUT, OPERATOR];

/// The shipped broker, with certificates for [`USERS`].
struct Shipped {
    mosquitto: Mosquitto,
    dir: tempfile::TempDir,
}

impl Shipped {
    fn start() -> anyhow::Result<Shipped> {
        let dir = tempfile::tempdir()?;
        let mosquitto = Mosquitto::start(dir.path())?;
        let devices = vec![OTHER.to_owned()];
        let request = fieldpost_certs::Request { devices, ..Default::default() };
        fieldpost_certs::issue(&dir.path().join("certs"), &request)?;
        Ok(Shipped { mosquitto, dir })
    }

    fn certs(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    fn options(&self, user: &str, filters: &[&str]) -> fieldpost_mqtt::Options {
        let subscriptions = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let port = self.mosquitto.address().port();
        fieldpost_mqtt::Options { subscriptions, ..options(&self.certs(), user, port) }
    }

    /// Connects every user with these subscriptions.
    fn connect_all(&self, filters: &[&str]) -> anyhow::Result<BTreeMap<&'static str, Client>> {
        let client = |user: &'static str| -> anyhow::Result<(&'static str, Client)> {
            Ok((user, Client::connect(self.options(user, filters))?))
        };
        USERS.iter().map(|user| client(user)).collect()
    }
}

/// Every topic of two devices and a bridge.
fn topics() -> Vec<Topic> {
    let mut all = vec![Topic::BridgeStatus(BRIDGE.to_owned())];
    for device in [DEVICE, OTHER] {
        let id: DeviceId = device.parse().expect("a device id");
        all.extend([
            Topic::SensorData(id.clone()),
            Topic::Alerts(id.clone()),
            Topic::CommandAcks(id.clone()),
            Topic::Hello(id.clone()),
            Topic::State(id.clone()),
            Topic::SyncAcks(id.clone()),
            Topic::Commands(id.clone()),
            Topic::Status(id.clone()),
            Topic::Meta(id.clone()),
            Topic::Live(id.clone(), "fruiting".to_owned()),
            Topic::ConfigReported(id.clone()),
            Topic::ConfigDesired(id),
        ]);
    }
    all
}

/// Who publishes to a topic: by topics.md, not by the rules that are tested here.
fn writers(topic: &Topic) -> Vec<&str> {
    match topic {
        Topic::SensorData(id)
        | Topic::Alerts(id)
        | Topic::CommandAcks(id)
        | Topic::Hello(id)
        | Topic::Status(id)
        | Topic::Meta(id)
        | Topic::Live(id, _)
        | Topic::ConfigReported(id) => vec![id.as_str()],
        Topic::State(_) | Topic::SyncAcks(_) | Topic::ConfigDesired(_) => vec![OUT],
        Topic::Commands(_) => vec![OUT, OPERATOR],
        Topic::BridgeStatus(_) => vec![OUT],
    }
}

/// Whether a program with this certificate subscribes to a topic; the operator sees everything, and
/// everybody which bridges are there: a pattern holds for all.
fn reads(user: &str, name: &str) -> bool {
    let tree = Topics::default();
    if filter_matches("bridge/+/status", name) {
        return true;
    }
    let filters = match user {
        READINGS => tree.bridge_reading_filters(),
        EVENTS => tree.bridge_event_filters(),
        OUT => Vec::new(),
        OPERATOR => vec!["#".to_owned()],
        device => tree.gateway_filters(&device.parse().expect("a device id")),
    };
    filters.iter().any(|filter| filter_matches(filter, name))
}

type Said = BTreeSet<(String, String)>;

/// Topic and payload of everything that has come to a client.
fn said(client: &Client) -> Said {
    let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
    client.received().into_iter().map(|message| (message.topic, text(message.payload))).collect()
}

#[test]
fn each_certificate_writes_what_its_owner_has_to_say_and_nothing_else() -> anyhow::Result<()> {
    let (shipped, tree) = (Shipped::start()?, Topics::default());
    let mut users = shipped.connect_all(&[])?;
    // One at a time: the second would end the first, which would come back and end the second.
    users.remove(OPERATOR);
    let watch = shipped.options(OPERATOR, &["devices/#", "bridge/#"]);
    users.insert(OPERATOR, Client::connect(watch)?);
    let mut expected = Said::new();
    for user in USERS {
        for topic in topics().iter().filter(|topic| writers(topic).contains(&user)) {
            expected.insert((tree.name(topic), user.to_owned()));
        }
        // Retained, so that what was refused would also come to those who subscribe later.
        let all = topics().into_iter().map(|topic| (tree.name(&topic), user.as_bytes().to_vec()));
        // All of them are pubacked, the refused ones too.
        users.get_mut(user).expect("connected above").publish(all, true)?;
    }
    let operator = users.get_mut(OPERATOR).expect("connected above");
    operator.publish([], false)?;
    let delivered = said(operator);
    assert_eq!(delivered, expected, "left: delivered, right: what there is a reason for");
    println!("{} messages of {} were delivered", delivered.len(), USERS.len() * topics().len());

    drop(users);
    let later = Client::connect(shipped.options(OPERATOR, &["devices/#", "bridge/#"]))?;
    let kept = topics().len();
    wait_until("the retained messages", SOON, || Ok(later.received().len() >= kept))?;
    assert!(said(&later).is_subset(&expected), "{:?}", said(&later));
    Ok(())
}

#[test]
fn each_certificate_reads_what_is_for_its_owner_and_nothing_else() -> anyhow::Result<()> {
    let (shipped, tree) = (Shipped::start()?, Topics::default());
    // By wildcard and by name: the rules hold for both.
    let names: Vec<String> = topics().iter().map(|topic| tree.name(topic)).collect();
    let filters: Vec<&str> = ["#"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut users = shipped.connect_all(&filters)?;
    let of = |topic: &Topic| -> Said {
        let by = writers(topic).into_iter();
        by.map(|writer| (tree.name(topic), writer.to_owned())).collect()
    };
    let all: Said = topics().iter().flat_map(of).collect();
    for user in USERS {
        let mine = all.iter().filter(|(_, writer)| writer == user);
        let mine = mine.map(|(topic, writer)| (topic.clone(), writer.as_bytes().to_vec()));
        users.get_mut(user).expect("connected above").publish(mine, false)?;
    }
    for (user, client) in &mut users {
        // Its puback comes after everything that was sent to this client before.
        client.publish([("devices/nobody/status".to_owned(), b"end".to_vec())], false)?;
        let expected: Said = all.iter().filter(|(topic, _)| reads(user, topic)).cloned().collect();
        let delivered = said(client);
        println!("{user} was given {} of {} messages", delivered.len(), all.len());
        assert_eq!(delivered, expected, "to {user}; left: delivered, right: what it needs");
    }
    Ok(())
}

#[test]
fn a_device_announces_itself_to_home_assistant_and_nobody_else() -> anyhow::Result<()> {
    let shipped = Shipped::start()?;
    let devices = vec!["homeassistant".to_owned()];
    let request = fieldpost_certs::Request { devices, ..Default::default() };
    fieldpost_certs::issue(&shipped.certs(), &request)?;
    let mut home = Client::connect(shipped.options("homeassistant", &["#"]))?;
    let mut device = Client::connect(shipped.options(DEVICE, &["#"]))?;
    let of = |user: &str| format!("homeassistant/sensor/{user}/room--temp/config");
    let said = |topic: &str, by: &str| (topic.to_owned(), by.to_owned());
    let by = |user: &str, topics: &[&str]| -> Vec<(String, Vec<u8>)> {
        topics.iter().map(|topic| ((*topic).to_owned(), user.as_bytes().to_vec())).collect()
    };
    let (own, other, status) = (of(DEVICE), of(OTHER), "homeassistant/status");
    let short = format!("homeassistant/sensor/{DEVICE}/config");
    let whole = format!("homeassistant/device/{OTHER}/config");
    // Retained, so that what was refused would also come to those who subscribe later.
    device.publish(by(DEVICE, &[&own, &other, &short, &whole, status]), true)?;
    home.publish(
        by("homeassistant", &[status, &own, &format!("devices/{DEVICE}/commands")]),
        true,
    )?;
    let mut operator =
        Client::connect(shipped.options(OPERATOR, &["homeassistant/#", "devices/#"]))?;
    operator.publish(by(OPERATOR, &[&own, &other, status]), true)?;
    let expected = Said::from([said(&own, DEVICE), said(status, "homeassistant")]);
    for client in [&mut operator, &mut home] {
        // Its puback comes after everything that was sent to this client before.
        client.publish([("devices/nobody/status".to_owned(), b"end".to_vec())], false)?;
        assert_eq!(self::said(client), expected, "left: delivered");
    }
    device.publish([("devices/nobody/status".to_owned(), b"end".to_vec())], false)?;
    assert_eq!(self::said(&device), Said::from([said(status, "homeassistant")]), "to the device");
    Ok(())
}

#[test]
fn nobody_takes_over_another_ones_session_by_client_id_or_user_name() -> anyhow::Result<()> {
    let shipped = Shipped::start()?;
    let watch = Client::connect(shipped.options(OPERATOR, &["devices/#", "bridge/#"]))?;
    for (victim, topic) in [
        (DEVICE, format!("devices/{DEVICE}/sensor_data")),
        (OUT, format!("devices/{DEVICE}/sync/acks")),
        (OUT, format!("bridge/{BRIDGE}/status")),
    ] {
        let mut rightful = Client::connect(shipped.options(victim, &[]))?;
        let mut pretending = shipped.options(OTHER, &[]);
        pretending.client_id = victim.to_owned();
        let password = Password::Text("anything".to_owned());
        pretending.login = Some(Login { username: victim.to_owned(), password });
        let mut intruder = Client::connect(pretending)?;
        intruder.publish([(topic.clone(), b"by the intruder".to_vec())], false)?;
        rightful.publish([(topic.clone(), b"by its owner".to_vec())], false)?;
        assert_eq!(rightful.times_disconnected(), 0, "{victim} was thrown out");
        watch
            .wait_message("its owner's", |it| it.topic == topic && it.payload == b"by its owner")?;
        let foreign = said(&watch).iter().any(|(_, by)| by == "by the intruder");
        assert!(!foreign, "{OTHER} spoke as {victim}");
        // The control: with the certificate itself it is a takeover, and it is seen.
        let _again = Client::connect(shipped.options(victim, &[]))?;
        wait_until("the takeover", SOON, || Ok(rightful.times_disconnected() > 0))?;
    }
    Ok(())
}

#[test]
fn a_last_will_obeys_the_same_rules() -> anyhow::Result<()> {
    let shipped = Shipped::start()?;
    let watch = Client::connect(shipped.options(OPERATOR, &["devices/#", "bridge/#"]))?;
    let status = format!("devices/{DEVICE}/status");
    for (user, topic) in [
        (OTHER, status.clone()),
        (OTHER, format!("devices/{OTHER}/sync/acks")),
        (OTHER, format!("bridge/{BRIDGE}/status")),
        (DEVICE, status.clone()),
    ] {
        let payload = user.as_bytes().to_vec();
        let will = Some(Will { topic, payload, retain: true });
        let client =
            Client::connect(fieldpost_mqtt::Options { will, ..shipped.options(user, &[]) })?;
        client.break_connection()?;
    }
    watch.wait_message("the device's own will", |it| it.payload == DEVICE.as_bytes())?;
    assert_eq!(said(&watch), Said::from([(status, DEVICE.to_owned())]));
    Ok(())
}

#[test]
fn without_a_certificate_of_this_ca_nobody_connects() -> anyhow::Result<()> {
    let shipped = Shipped::start()?;
    let own = shipped.options(DEVICE, &[]);
    let Tls::On { ca, .. } = own.tls.clone() else { unreachable!("it is TLS") };
    let none = fieldpost_mqtt::Options { tls: Tls::On { ca: ca.clone(), client: None }, ..own };
    let said = Client::connect(none).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(said.contains("certificate"), "{said:?}");

    // The right name, signed by somebody else.
    let foreign = tempfile::tempdir()?;
    let devices = vec![DEVICE.to_owned()];
    let request = fieldpost_certs::Request { devices, ..Default::default() };
    fieldpost_certs::issue(foreign.path(), &request)?;
    let cert = foreign.path().join(format!("{DEVICE}.pem"));
    let key = foreign.path().join(format!("{DEVICE}.key"));
    let mut forged = shipped.options(DEVICE, &[]);
    forged.tls = Tls::On { ca, client: Some(ClientCertificate { cert, key }) };
    let said = Client::connect(forged).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(said.contains("refuses our certificate"), "{said:?}");
    Client::connect(shipped.options(DEVICE, &[]))?;
    Ok(())
}

#[test]
fn the_shipped_limits_let_a_backlog_through_and_end_who_sends_too_much() -> anyhow::Result<()> {
    let shipped = Shipped::start()?;
    let topic = format!("devices/{DEVICE}/sensor_data");
    let mut holding = shipped.options(READINGS, &["devices/+/sensor_data"]);
    holding.manual_puback = true;
    let bridge = Client::connect(holding)?;
    let mut device = Client::connect(shipped.options(DEVICE, &[]))?;
    // Three times what mosquitto queues by default.
    let backlog = 3_000;
    device.publish((0..backlog).map(|n: u32| (topic.clone(), n.to_be_bytes().to_vec())), false)?;
    // A bridge's transaction takes 64 messages: the next one is there before the first is done.
    wait_until("128 without a puback", SOON, || Ok(bridge.received().len() >= 128))?;
    let mut done = 0;
    wait_until("the backlog", SOON, || {
        let received = bridge.received();
        for message in &received[done..] {
            bridge.puback(message)?;
        }
        done = received.len();
        Ok(done == backlog as usize)
    })?;

    // As large as a packet may be; one more, and it is the end of the connection.
    let room = PACKET_BYTES_MAX - topic.len() - 9;
    device.publish([(topic.clone(), vec![b'x'; room])], false)?;
    bridge.wait_message("the largest", |it| it.payload.len() == room)?;
    let mut careless = shipped.options(OTHER, &[]);
    careless.packet_bytes_max = 2 * PACKET_BYTES_MAX;
    let mut careless = Client::connect(careless)?;
    let large = (format!("devices/{OTHER}/sensor_data"), vec![b'x'; PACKET_BYTES_MAX + 1]);
    assert!(careless.publish([large], false).is_err(), "too large, and taken");
    Ok(())
}
