//! An MQTT client in a test: one of the world's certificates, and everything that came, in order.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use fieldpost_mqtt::{
    Ca, ClientCertificate, Connection, Delivery, Event, Message, Options, PublishError, Qos,
    Session, Tls, Token,
};
use tokio::runtime::Runtime;

use crate::rig::{SOON, wait_until};

/// A client that is connected, or was. Dropping it breaks the connection: the broker then sends
/// its will.
pub struct Client {
    session: Session,
    events: Arc<Mutex<Vec<Event>>>,
    last_token: u64,
    // The last field: the session's task ends with it.
    _runtime: Runtime,
}

/// How a client with a certificate of `certs` connects to a broker on this machine, with the name
/// on the certificate as its client id.
pub fn options(certs: &Path, name: &str, port: u16) -> Options {
    let client = ClientCertificate {
        cert: certs.join(format!("{name}.pem")),
        key: certs.join(format!("{name}.key")),
    };
    Options {
        host: "127.0.0.1".to_owned(),
        port,
        tls: Tls::On { ca: Ca::File(certs.join("ca.pem")), client: Some(client) },
        client_id: name.to_owned(),
        ..Options::default()
    }
}

impl Client {
    /// Connects, and waits until the broker has granted every subscription.
    ///
    /// # Errors
    /// Why the first attempt failed, if it did.
    pub fn connect(options: Options) -> anyhow::Result<Client> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let (session, mut received) = runtime.block_on(async { Session::start(options) })?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = events.clone();
        runtime.spawn(async move {
            while let Some(event) = received.recv().await {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        let client = Client { session, events, last_token: 0, _runtime: runtime };
        wait_until("a connection", SOON, || match client.events().first() {
            None => Ok(false),
            Some(Event::Disconnected { reason, .. }) => bail!("{reason}"),
            Some(_) => Ok(true),
        })?;
        Ok(client)
    }

    /// The same, again and again: a broker may need a moment to forget who had this client id.
    ///
    /// # Errors
    /// After [`SOON`], with the last reason.
    pub fn connect_again(options: &Options) -> anyhow::Result<Client> {
        let mut last = Client::connect(options.clone());
        let waited = wait_until("a connection at last", SOON, || {
            if last.is_err() {
                last = Client::connect(options.clone());
            }
            Ok(last.is_ok())
        });
        waited.and(last)
    }

    /// Publishes at QoS 1, one after the other, and waits for every puback. Which means: the broker
    /// has them, and whatever it sent to this client before is here, too.
    ///
    /// # Errors
    /// When the connection ends instead.
    pub fn publish(
        &mut self,
        messages: impl IntoIterator<Item = (String, Vec<u8>)>,
        retain: bool,
    ) -> anyhow::Result<()> {
        let connection = self.connection().context("there is no connection")?;
        let first = self.last_token + 1;
        for (topic, payload) in messages {
            self.last_token += 1;
            let token = Token(self.last_token);
            wait_until("a place in the window", SOON, || {
                let (topic, payload) = (topic.clone(), payload.clone());
                let message = Message { topic, payload, qos: Qos::AtLeastOnce, retain, token };
                match self.session.publish(connection, message) {
                    Ok(()) => Ok(true),
                    Err(PublishError::WindowFull { .. }) => Ok(false),
                    Err(error) => bail!(error),
                }
            })?;
        }
        let mut open: BTreeSet<u64> = (first..=self.last_token).collect();
        wait_until("the pubacks", SOON, || {
            for event in &*self.events() {
                match event {
                    Event::Puback { token, .. } => drop(open.remove(&token.0)),
                    Event::Disconnected { connection: Some(ended), reason, .. }
                        if *ended == connection =>
                    {
                        bail!("{reason}")
                    }
                    _ => {}
                }
            }
            Ok(open.is_empty())
        })
    }

    /// Every message that came so far.
    pub fn received(&self) -> Vec<Delivery> {
        let deliveries = self.events();
        let deliveries = deliveries.iter().filter_map(|event| match event {
            Event::Message(delivery) => Some(delivery.clone()),
            _ => None,
        });
        deliveries.collect()
    }

    /// Waits until a message has come on a topic, and returns the first.
    ///
    /// # Errors
    /// After [`SOON`].
    pub fn wait_message(
        &self,
        what: &str,
        is_it: impl Fn(&Delivery) -> bool,
    ) -> anyhow::Result<Delivery> {
        let mut found = None;
        wait_until(what, SOON, || {
            found = self.received().into_iter().find(&is_it);
            Ok(found.is_some())
        })?;
        found.context("it was found just now")
    }

    /// How often a connection of this client has ended so far.
    pub fn times_disconnected(&self) -> usize {
        let ended =
            |event: &&Event| matches!(event, Event::Disconnected { connection: Some(_), .. });
        self.events().iter().filter(ended).count()
    }

    /// Drops the connection as an outage does, and makes a new one.
    ///
    /// # Errors
    /// When there is none after [`SOON`].
    pub fn break_connection(&self) -> anyhow::Result<()> {
        let before = self.connection();
        self.session.reconnect();
        wait_until("another connection", SOON, || {
            Ok(self.connection().is_some_and(|now| Some(now) != before))
        })
    }

    /// Pubacks a message that came with [`Options::manual_puback`].
    ///
    /// # Errors
    /// When its connection is over.
    pub fn puback(&self, delivery: &Delivery) -> anyhow::Result<()> {
        Ok(self.session.puback(delivery)?)
    }

    fn connection(&self) -> Option<Connection> {
        self.events().iter().rev().find_map(|event| match event {
            Event::Connected { connection } => Some(*connection),
            _ => None,
        })
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is published to a topic goes to who has subscribed to a filter.
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    let mut names = topic.split('/');
    for level in filter.split('/') {
        match (level, names.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}
