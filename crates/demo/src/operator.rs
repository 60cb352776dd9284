//! A person with MQTT Explorer: publishes a command now and then, and sees what becomes of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fieldpost_mqtt::{
    Ca, ClientCertificate, Connection, Event, Message, Options, Qos, Session, Tls, Token,
};
use fieldpost_protocol::{CommandOutcome, LiveCommandAck, Metrics};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use crate::world::{DEVICE, World};

/// The first command waits for the first readings.
const FIRST_AFTER: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(15);

/// A command, and what was heard of it.
struct Asked {
    text: String,
    at: Instant,
    outcomes: Vec<CommandOutcome>,
}

/// See the module.
pub struct Operator {
    session: Session,
    events: Receiver<Event>,
    connection: Option<Connection>,
    asked: BTreeMap<String, Asked>,
    next: Instant,
    /// A board whose commands nobody knows can only be asked through its gateway.
    has_led: bool,
    // The last field: the session's task ends with it.
    _runtime: Runtime,
}

impl Operator {
    /// Connects with the operator's certificate.
    ///
    /// # Errors
    /// A certificate that cannot be read.
    pub fn connect(world: &World, has_led: bool) -> anyhow::Result<Operator> {
        let certs = world.dir().join("certs");
        let client =
            ClientCertificate { cert: certs.join("operator.pem"), key: certs.join("operator.key") };
        let address = world.broker_address();
        let options = Options {
            host: address.ip().to_string(),
            port: address.port(),
            tls: Tls::On { ca: Ca::File(certs.join("ca.pem")), client: Some(client) },
            client_id: "demo-operator".to_owned(),
            subscriptions: vec![format!("devices/{DEVICE}/live/command_acks")],
            ..Options::default()
        };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let (session, events) = runtime.block_on(async { Session::start(options) })?;
        let (connection, asked) = (None, BTreeMap::new());
        let next = Instant::now() + FIRST_AFTER;
        Ok(Operator { session, events, connection, asked, next, has_led, _runtime: runtime })
    }

    /// Sends the next command when its time has come.
    ///
    /// # Errors
    /// A broker that takes none.
    pub fn send(&mut self) -> anyhow::Result<()> {
        let Some(connection) = self.connection.filter(|_| Instant::now() >= self.next) else {
            return Ok(());
        };
        self.next = Instant::now() + EVERY;
        let no = self.asked.len() + 1;
        let id = format!("demo-{no}");
        let (name, args) = if self.has_led {
            ("led", vec![("on".into(), i64::from(no % 2 == 1).into())])
        } else {
            ("ping", Vec::new())
        };
        let args = Metrics::new(args).map_err(anyhow::Error::msg)?;
        let json = serde_json::json!({ "id": id, "name": name, "args": args });
        let (topic, payload) = (format!("devices/{DEVICE}/commands"), json.to_string());
        let (at, outcomes) = (Instant::now(), Vec::new());
        self.asked.insert(id, Asked { text: format!("{name}{}", words(&args)), at, outcomes });
        let message = Message {
            topic,
            payload: payload.into_bytes(),
            qos: Qos::AtLeastOnce,
            retain: false,
            token: Token(no as u64),
        };
        self.session.publish(connection, message).context("publishing a command")
    }

    /// What has come since: a line for each command that has ended.
    ///
    /// # Errors
    /// An answer that is none.
    pub fn look(&mut self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.events.try_recv() {
                Ok(Event::Connected { connection }) => self.connection = Some(connection),
                // It connects again by itself.
                Ok(Event::Disconnected { .. }) => self.connection = None,
                Ok(Event::Message(message)) => {
                    lines.extend(self.heard(&LiveCommandAck::from_json(&message.payload)?));
                }
                Ok(_) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(lines),
            }
        }
    }

    fn heard(&mut self, ack: &LiveCommandAck) -> Option<String> {
        let (id, outcome) = (ack.id.as_ref()?, ack.outcome?);
        let asked = self.asked.get_mut(id.as_str())?;
        asked.outcomes.push(outcome);
        if outcome == CommandOutcome::Accepted {
            return None;
        }
        let outcomes: Vec<&str> = asked.outcomes.iter().map(|it| it.as_str()).collect();
        let (ms, why) = (asked.at.elapsed().as_millis(), ack.detail.as_deref());
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        let (outcomes, result) = (outcomes.join(", "), words(&ack.result));
        Some(format!("command    {id} {}: {outcomes}{result}{why}, after {ms} ms", asked.text))
    }

    /// How many commands were sent.
    pub fn sent(&self) -> u64 {
        self.asked.len() as u64
    }
}

fn words(metrics: &Metrics) -> String {
    metrics.iter().map(|(name, value)| format!(" {name}={}", serde_json::json!(value))).collect()
}
