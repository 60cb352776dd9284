//! The session against a real broker in the process, and against scripted peers that do what a
//! real one does only on a bad day.

#![allow(clippy::unwrap_used)]

mod broker;
mod options;
mod peer;
mod scripted;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fieldpost_mqtt::{
    Ca, ClientCertificate, Connection, Delivery, DisconnectReason, Event, Message, Options, Qos,
    Session, Tls, Token,
};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// For anything that has to happen at all.
const DEADLINE: Duration = Duration::from_secs(30);

/// A session and its events, with the waits that the tests need.
struct Client {
    session: Session,
    events: Receiver<Event>,
}

impl Client {
    fn start(options: Options) -> Self {
        let (session, events) = Session::start(options).unwrap();
        Client { session, events }
    }

    async fn event(&mut self) -> Event {
        let event = timeout(DEADLINE, self.events.recv()).await.expect("an event comes in time");
        event.expect("the session runs")
    }

    /// The next event of a kind; others are passed over.
    async fn until<T>(&mut self, want: impl Fn(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = want(self.event().await) {
                return found;
            }
        }
    }

    async fn connected(&mut self) -> Connection {
        self.until(|event| match event {
            Event::Connected { connection } => Some(connection),
            _ => None,
        })
        .await
    }

    async fn disconnected(&mut self) -> (Option<Connection>, DisconnectReason) {
        self.until(|event| match event {
            Event::Disconnected { connection, reason, retry_in } => {
                assert!(retry_in <= Duration::from_secs(30));
                Some((connection, reason))
            }
            _ => None,
        })
        .await
    }

    /// The reason why the first attempt fails.
    async fn refused(&mut self) -> DisconnectReason {
        match self.event().await {
            Event::Disconnected { connection: None, reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn message(&mut self) -> Delivery {
        self.until(|event| match event {
            Event::Message(delivery) => Some(delivery),
            _ => None,
        })
        .await
    }

    async fn puback(&mut self) -> Token {
        self.until(|event| match event {
            Event::Puback { token, .. } => Some(token),
            _ => None,
        })
        .await
    }
}

fn options(address: SocketAddr, id: &str) -> Options {
    Options {
        host: address.ip().to_string(),
        port: address.port(),
        tls: Tls::Off,
        client_id: id.to_owned(),
        ..Options::default()
    }
}

fn message(topic: &str, token: u64) -> Message {
    Message {
        topic: topic.to_owned(),
        payload: token.to_string().into_bytes(),
        qos: Qos::AtLeastOnce,
        retain: false,
        token: Token(token),
    }
}

fn certificates(devices: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let request = fieldpost_certs::Request {
        devices: devices.iter().map(ToString::to_string).collect(),
        ..fieldpost_certs::Request::default()
    };
    fieldpost_certs::issue(dir.path(), &request).unwrap();
    dir
}

fn certificate(dir: &Path, name: &str) -> ClientCertificate {
    ClientCertificate {
        cert: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    }
}

fn tls(dir: &Path, name: &str) -> Tls {
    Tls::On { ca: Ca::File(dir.join("ca.pem")), client: Some(certificate(dir, name)) }
}
