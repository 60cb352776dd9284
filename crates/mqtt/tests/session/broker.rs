//! Against a real broker.

use std::path::Path;

use fieldpost_embedded_broker::{Config, EmbeddedBroker, TlsPaths};
use fieldpost_mqtt::{
    Ca, CertificateFault, DisconnectReason, Event, Options, PubackError, PublishError, Tls, Token,
};

use crate::{Client, certificate, certificates, message, options, tls};

fn broker(dir: &Path) -> Config {
    let paths = TlsPaths {
        ca: dir.join("ca.pem"),
        cert: dir.join("broker.pem"),
        key: dir.join("broker.key"),
    };
    Config { tls: Some(paths), ..Config::loopback() }
}

#[tokio::test]
async fn each_puback_bears_the_token_of_its_message() {
    let dir = certificates(&["a"]);
    let broker = EmbeddedBroker::start(broker(dir.path())).unwrap();
    let mut client = Client::start(Options {
        tls: tls(dir.path(), "a"),
        subscriptions: vec!["t/+".to_owned(), "u/#".to_owned()],
        ..options(broker.local_addr(), "a")
    });
    let connection = client.connected().await;
    // More than packet ids, so that they wrap, and more than the window.
    let (mut next, mut pubacked, mut arrived) = (0, 0, 0);
    while arrived < 500 || pubacked < 500 {
        while next < 500 {
            let topic = if next % 2 == 0 { "t/x" } else { "u/x/y" };
            match client.session.publish(connection, message(topic, next)) {
                Ok(()) => next += 1,
                Err(PublishError::WindowFull { max: 96 }) => break,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(client.session.inflight() <= 96);
        match client.event().await {
            Event::Puback { connection: on, token } => {
                assert_eq!((on, token), (connection, Token(pubacked)));
                pubacked += 1;
            }
            Event::Message(delivery) => {
                assert_eq!(delivery.connection, connection);
                arrived += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.session.inflight(), 0);
    client.session.close().await;
    broker.stop();
}

#[tokio::test]
async fn it_connects_and_subscribes_again_when_the_broker_is_back() {
    let first = EmbeddedBroker::start(Config::loopback()).unwrap();
    let address = first.local_addr();
    let mut client = Client::start(Options {
        subscriptions: vec!["t/#".to_owned()],
        manual_puback: true,
        ..options(address, "a")
    });
    let old = client.connected().await;
    client.session.publish(old, message("t/1", 1)).unwrap();
    let stale = client.message().await;

    first.stop();
    let (ended, reason) = client.disconnected().await;
    assert_eq!(ended, Some(old), "{reason}");
    let second = EmbeddedBroker::start(Config { listen: address, ..Config::loopback() }).unwrap();
    let connection = client.connected().await;
    assert!(connection > old);

    // What belongs to the old connection is refused.
    let error = client.session.puback(&stale).unwrap_err();
    assert_eq!(error, PubackError::OtherConnection { connection: old });
    let error = client.session.publish(old, message("t/2", 2)).unwrap_err();
    assert_eq!(error, PublishError::Offline { connection: old });

    client.session.publish(connection, message("t/3", 3)).unwrap();
    let delivery = client.message().await;
    assert_eq!((delivery.topic.as_str(), delivery.payload.as_slice()), ("t/3", &b"3"[..]));
    client.session.puback(&delivery).unwrap();
    client.session.close().await;
    second.stop();
}

#[tokio::test]
async fn a_broker_of_another_ca_is_not_believed_and_the_reason_says_so() {
    let (ours, other) = (certificates(&["a"]), certificates(&["a"]));
    let broker = EmbeddedBroker::start(broker(other.path())).unwrap();
    let mut client =
        Client::start(Options { tls: tls(ours.path(), "a"), ..options(broker.local_addr(), "a") });
    let reason = client.refused().await;
    assert_eq!(reason, DisconnectReason::BrokerCertificate(CertificateFault::UnknownIssuer));
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_believed() {
    let dir = certificates(&["a"]);
    let mut config = broker(dir.path());
    config.listen = "127.0.0.2:0".parse().unwrap();
    let broker = EmbeddedBroker::start(config).unwrap();
    let mut client =
        Client::start(Options { tls: tls(dir.path(), "a"), ..options(broker.local_addr(), "a") });
    let reason = client.refused().await;
    let wrong_name = |fault: &CertificateFault| matches!(fault, CertificateFault::WrongName(_));
    assert!(
        matches!(&reason, DisconnectReason::BrokerCertificate(fault) if wrong_name(fault)),
        "{reason:?}"
    );
}

#[tokio::test]
async fn without_a_client_certificate_the_reason_says_so() {
    let dir = certificates(&[]);
    let broker = EmbeddedBroker::start(broker(dir.path())).unwrap();
    let without = Tls::On { ca: Ca::File(dir.path().join("ca.pem")), client: None };
    let mut client = Client::start(Options { tls: without, ..options(broker.local_addr(), "a") });
    let reason = client.refused().await;
    assert!(matches!(reason, DisconnectReason::OurCertificate(_)), "{reason:?}");
}

#[tokio::test]
async fn a_renewed_client_certificate_is_used_at_the_next_connection() {
    let (ours, other, used) = (certificates(&["a"]), certificates(&["a"]), certificates(&[]));
    let install = |from: &Path| {
        for end in ["pem", "key"] {
            let name = format!("a.{end}");
            std::fs::copy(from.join(&name), used.path().join(&name)).unwrap();
        }
    };
    let broker = EmbeddedBroker::start(broker(ours.path())).unwrap();
    install(ours.path());
    let ca = Ca::File(ours.path().join("ca.pem"));
    let mut client = Client::start(Options {
        tls: Tls::On { ca, client: Some(certificate(used.path(), "a")) },
        ..options(broker.local_addr(), "a")
    });
    client.connected().await;

    // A bad one is used, so the files were read again; a good one heals it without a restart.
    install(other.path());
    client.session.reconnect();
    assert_eq!(client.disconnected().await.1, DisconnectReason::Asked);
    match client.event().await {
        Event::Disconnected { connection: None, .. } => {}
        other => panic!("{other:?}"),
    }
    install(ours.path());
    client.connected().await;

    // Half of a pair cannot be used, and is no end of the session either.
    std::fs::remove_file(used.path().join("a.key")).unwrap();
    client.session.reconnect();
    client.disconnected().await;
    let (_, reason) = client.disconnected().await;
    assert!(
        matches!(&reason, DisconnectReason::Certificate(text) if text.contains("a.key")),
        "{reason:?}"
    );
    install(ours.path());
    client.connected().await;
    client.session.close().await;
}
