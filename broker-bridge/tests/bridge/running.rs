//! A whole bridge on a real broker, with a session that plays the gateway.

use std::time::Duration;

use fieldpost_bridge::config::Config;
use fieldpost_embedded_broker::{Config as BrokerConfig, EmbeddedBroker};
use fieldpost_mqtt::{Connection, Delivery, Event, Message, Options, Qos, Session, Tls, Token};
use fieldpost_protocol::{BridgeStatus, State, SyncAcks, Topic, Topics};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct House {
    bench: Bench,
    broker: EmbeddedBroker,
    stop: watch::Sender<bool>,
    bridge: JoinHandle<anyhow::Result<()>>,
    gateway: Gateway,
}

struct Gateway {
    session: Session,
    events: mpsc::Receiver<Event>,
    connection: Connection,
}

impl Gateway {
    async fn start(port: u16) -> Self {
        let options = Options {
            host: "127.0.0.1".into(),
            port,
            tls: Tls::Off,
            client_id: "pi-1".into(),
            subscriptions: Topics::default().gateway_filters(&device()),
            ..Options::default()
        };
        let (session, mut events) = Session::start(options).unwrap();
        let connection = loop {
            match timeout(DEADLINE, events.recv()).await.unwrap().unwrap() {
                Event::Connected { connection } => break connection,
                other => println!("{other:?}"),
            }
        };
        Gateway { session, events, connection }
    }

    fn send(&self, message: &fieldpost_bridge::ingest::Incoming) {
        let message = Message {
            topic: Topics::default().name(&message.topic),
            payload: message.payload.clone(),
            qos: Qos::AtLeastOnce,
            retain: false,
            token: Token(0),
        };
        self.session.publish(self.connection, message).unwrap();
    }

    async fn next(&mut self) -> (Topic, Delivery) {
        loop {
            match timeout(DEADLINE, self.events.recv()).await.unwrap().unwrap() {
                Event::Message(delivery) => {
                    return (Topics::default().parse(&delivery.topic).unwrap(), delivery);
                }
                Event::Disconnected { reason, .. } => {
                    panic!("the gateway was thrown out: {reason}")
                }
                _ => {}
            }
        }
    }

    async fn status(&mut self, online: bool) -> BridgeStatus {
        loop {
            let (topic, delivery) = self.next().await;
            let status = BridgeStatus::from_json(&delivery.payload);
            match (topic, status) {
                (Topic::BridgeStatus(_), Ok(status)) if status.online == online => return status,
                _ => {}
            }
        }
    }

    async fn sync_acks(&mut self) -> SyncAcks {
        loop {
            let (topic, delivery) = self.next().await;
            if matches!(topic, Topic::SyncAcks(_)) {
                return SyncAcks::decode(&delivery.payload).unwrap();
            }
        }
    }

    async fn state(&mut self) -> State {
        loop {
            let (topic, delivery) = self.next().await;
            if matches!(topic, Topic::State(_)) {
                return State::decode(&delivery.payload).unwrap();
            }
        }
    }
}

impl House {
    async fn start() -> Self {
        let bench = Bench::new();
        let broker =
            tokio::task::spawn_blocking(|| EmbeddedBroker::start(BrokerConfig::loopback()));
        let broker = broker.await.unwrap().unwrap();
        let port = broker.local_addr().port();
        let text = format!(
            "[storage]\npath = {:?}\n[broker]\ntls = false\nport = {port}\n",
            bench.path().display().to_string()
        );
        let config = Config::parse(&text, &Default::default()).unwrap();
        let (stop, shutdown) = watch::channel(false);
        let bridge = tokio::spawn(fieldpost_bridge::run(config, shutdown));
        let gateway = Gateway::start(port).await;
        House { bench, broker, stop, bridge, gateway }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        timeout(DEADLINE, self.bridge).await.unwrap().unwrap().unwrap();
        self.gateway.session.close().await;
        tokio::task::spawn_blocking(|| self.broker.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn a_hello_is_answered_and_each_batch_is_sync_acked_after_its_commit() {
    let mut house = House::start().await;
    let status = house.gateway.status(true).await;
    assert_eq!(status.store, house.bench.store.identity().unwrap().store);

    house.gateway.send(&hello(1, 1, 1, 1, &[held(1, 1, 2000)]));
    let state = house.gateway.state().await;
    assert_eq!((state.store, state.r#gen), (status.store, status.r#gen));
    assert_eq!(state.streams[0].hi, 0);
    assert!((state.time - fieldpost_bridge::clock::now_ms()).abs() < 60_000);

    for (first, hi) in [(1, 1000), (1001, 2000), (1001, 2000)] {
        house.gateway.send(&batch(1, first, 1000, 1, 2000));
        let acks = house.gateway.sync_acks().await;
        assert_eq!((acks.r#gen, acks.acks[0].lo, acks.acks[0].hi), (status.r#gen, 1, hi));
        // What is sync-acked is there for everyone.
        assert_eq!(house.bench.stored(1).len() as u64, hi);
    }
    house.stop.send(true).unwrap();
    house.gateway.status(false).await;
    house.end().await;
}

#[tokio::test]
async fn nothing_is_sync_acked_while_the_storage_is_locked() {
    let mut house = House::start().await;
    house.gateway.status(true).await;
    let locker = house.bench.db();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    house.gateway.send(&batch(1, 1, 3, 1, 3));
    let early = timeout(Duration::from_millis(500), house.gateway.sync_acks()).await;
    assert!(early.is_err(), "{early:?}");
    locker.execute_batch("COMMIT").unwrap();
    assert_eq!(house.gateway.sync_acks().await.acks[0].hi, 3);
    house.end().await;
}

#[tokio::test]
async fn a_restore_that_is_announced_is_heard_by_every_gateway() {
    let mut house = House::start().await;
    let before = house.gateway.status(true).await;
    house.bench.store.restored(NOW).unwrap();
    house.gateway.send(&batch(1, 1, 1, 1, 1));
    let after = house.gateway.status(true).await;
    assert_ne!(after.r#gen, before.r#gen);
    assert_eq!((after.store, after.instance), (before.store, before.instance));
    house.end().await;
}

#[tokio::test]
async fn a_broken_connection_takes_the_other_two_along_and_online_comes_back() {
    let mut house = House::start().await;
    house.gateway.status(true).await;
    // A client of the same name throws the bridge's one out.
    let thief = Options {
        host: "127.0.0.1".into(),
        port: house.broker.local_addr().port(),
        tls: Tls::Off,
        client_id: "bridge-readings".into(),
        ..Options::default()
    };
    let (thief, mut events) = Session::start(thief).unwrap();
    timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    drop((thief, events));
    house.gateway.status(false).await;
    house.gateway.status(true).await;
    house.gateway.send(&batch(1, 1, 3, 1, 3));
    assert_eq!(house.gateway.sync_acks().await.acks[0].hi, 3);
    house.end().await;
}
