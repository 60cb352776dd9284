//! Start, stop, start again on the same port; who is let in; what is said when it cannot start.

#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use fieldpost_embedded_broker::{Config, EmbeddedBroker, Error, TlsPaths, bounds};
use fieldpost_mqtt::{
    Ca, ClientCertificate, Connection, DisconnectReason, Event, Message, Options, Qos, Session,
    Tls, Token,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let request = fieldpost_certs::Request {
        devices: vec!["greenhouse-1".to_owned()],
        ..fieldpost_certs::Request::default()
    };
    fieldpost_certs::issue(dir.path(), &request).unwrap();
    dir
}

fn with_tls(dir: &Path) -> Config {
    let tls = TlsPaths {
        ca: dir.join("ca.pem"),
        cert: dir.join("broker.pem"),
        key: dir.join("broker.key"),
    };
    Config { tls: Some(tls), ..Config::loopback() }
}

fn client_tls(dir: &Path, name: Option<&str>) -> Tls {
    let client = name.map(|name| ClientCertificate {
        cert: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    });
    Tls::On { ca: Ca::File(dir.join("ca.pem")), client }
}

fn connect(address: SocketAddr, id: &str, tls: Tls) -> (Session, Receiver<Event>) {
    let options = Options {
        host: address.ip().to_string(),
        port: address.port(),
        client_id: id.to_owned(),
        subscriptions: vec!["t/#".to_owned()],
        packet_bytes_max: bounds::PACKET_BYTES_MAX,
        tls,
        ..Options::default()
    };
    Session::start(options).unwrap()
}

async fn next<T>(events: &mut Receiver<Event>, want: impl Fn(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = events.recv().await.expect("the session runs");
            if let Some(found) = want(event) {
                return found;
            }
        }
    };
    timeout(DEADLINE, found).await.expect("the event comes in time")
}

async fn connected(events: &mut Receiver<Event>) -> Connection {
    next(events, |event| match event {
        Event::Connected { connection } => Some(connection),
        _ => None,
    })
    .await
}

async fn refused(events: &mut Receiver<Event>) -> DisconnectReason {
    next(events, |event| match event {
        Event::Connected { .. } => panic!("it was let in"),
        Event::Disconnected { reason, .. } => Some(reason),
        _ => None,
    })
    .await
}

fn message(topic: &str, payload: Vec<u8>) -> Message {
    Message {
        topic: topic.to_owned(),
        payload,
        qos: Qos::AtLeastOnce,
        retain: false,
        token: Token(1),
    }
}

/// The library keeps a handle of whom it has turned away; the second time it panics over that, and
/// would then take no connection ever again. A client that is killed while it connects is such a
/// one, too.
#[tokio::test]
async fn a_client_that_is_turned_away_twice_does_not_keep_the_others_out() {
    let broker = EmbeddedBroker::start(Config::loopback()).unwrap();
    for _ in 0..5 {
        let stream = tokio::net::TcpStream::connect(broker.local_addr()).await;
        // It may be about to begin anew.
        let Ok(mut stream) = stream else { continue };
        // CONNECT of MQTT 3.1.1, clean session, keep-alive 60 s, client id "a+b".
        let _ = stream.write_all(b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03a+b").await;
        let mut answer = Vec::new();
        // Cut off, in whatever way.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    let (_session, mut events) = connect(broker.local_addr(), "greenhouse-1", Tls::Off);
    connected(&mut events).await;
}

#[tokio::test]
async fn a_client_comes_back_when_the_broker_starts_again_on_the_same_port() {
    let dir = certificates();
    let broker = EmbeddedBroker::start(with_tls(dir.path())).unwrap();
    let address = broker.local_addr();
    let tls = client_tls(dir.path(), Some("greenhouse-1"));
    let (session, mut events) = connect(address, "greenhouse-1", tls);
    let mut last = connected(&mut events).await;
    let mut config = with_tls(dir.path());
    config.listen = address;
    let mut broker = broker;
    for _ in 0..3 {
        broker.stop();
        assert!(TcpStream::connect(address).is_err(), "nobody listens after stop");
        broker = EmbeddedBroker::start(config.clone()).unwrap();
        assert_eq!(broker.local_addr(), address);
        let connection = connected(&mut events).await;
        assert!(connection > last);
        last = connection;
        session.publish(connection, message("t/a", vec![7; 10])).unwrap();
        next(&mut events, |event| matches!(event, Event::Message(_)).then_some(())).await;
    }
    session.close().await;
    broker.stop();
}

#[tokio::test]
async fn over_tls_only_certificates_of_its_ca_are_let_in() {
    let (ours, other) = (certificates(), certificates());
    let broker = EmbeddedBroker::start(with_tls(ours.path())).unwrap();
    let address = broker.local_addr();

    let (_session, mut events) = connect(address, "none", client_tls(ours.path(), None));
    let reason = refused(&mut events).await;
    assert!(matches!(reason, DisconnectReason::OurCertificate(_)), "{reason:?}");

    // Believes our broker, but shows a certificate of another CA.
    let tls = Tls::On {
        ca: Ca::File(ours.path().join("ca.pem")),
        client: Some(ClientCertificate {
            cert: other.path().join("greenhouse-1.pem"),
            key: other.path().join("greenhouse-1.key"),
        }),
    };
    let (_session, mut events) = connect(address, "foreign", tls);
    refused(&mut events).await;

    let (_session, mut events) = connect(address, "clear", Tls::Off);
    refused(&mut events).await;

    let tls = client_tls(ours.path(), Some("greenhouse-1"));
    let (_session, mut events) = connect(address, "greenhouse-1", tls);
    connected(&mut events).await;
    broker.stop();
}

#[tokio::test]
async fn a_packet_of_256_kib_passes() {
    let broker = EmbeddedBroker::start(Config::loopback()).unwrap();
    let (session, mut events) = connect(broker.local_addr(), "big", Tls::Off);
    let connection = connected(&mut events).await;
    session.publish(connection, message("t/big", vec![1; 256 * 1024])).unwrap();
    let bytes = next(&mut events, |event| match event {
        Event::Message(delivery) => Some(delivery.payload.len()),
        _ => None,
    })
    .await;
    assert_eq!(bytes, 256 * 1024);
    session.close().await;
}

#[test]
fn an_address_that_others_reach_has_to_be_meant() {
    let listen: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let config = Config { listen, ..Config::loopback() };
    assert!(matches!(EmbeddedBroker::start(config.clone()), Err(Error::NotLoopback(_))));
    let broker = EmbeddedBroker::start(Config { expose: true, ..config }).unwrap();
    assert_ne!(broker.local_addr().port(), 0);
}

#[test]
fn a_port_in_use_is_said_to_be_in_use() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = other.local_addr().unwrap();
    let error = EmbeddedBroker::start(Config { listen, ..Config::loopback() }).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    assert!(error.to_string().contains("Another process has the port"), "{error}");
}

#[test]
fn tls_files_that_cannot_be_used_are_named_before_it_starts() {
    let dir = certificates();
    let mut config = with_tls(dir.path());
    config.tls.as_mut().unwrap().key = dir.path().join("operator.key");
    let error = EmbeddedBroker::start(config).unwrap_err().to_string();
    assert!(error.contains("operator.key") && error.contains("does not fit"), "{error}");
    let mut config = with_tls(dir.path());
    config.tls.as_mut().unwrap().ca = dir.path().join("none.pem");
    let error = EmbeddedBroker::start(config).unwrap_err().to_string();
    assert!(error.contains("none.pem"), "{error}");
}
