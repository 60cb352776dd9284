//! The one place where ingest meets the broker and the clock.
//!
//! ```text
//! <name>-readings --+                                  +--> answers --> <name>-out
//! <name>-events ----+--> queue --> storage thread -----+
//!        ^                                             +--> pubacks --+
//!        +-----------------------------------------------------------+
//! ```
//!
//! Three connections, so that alerts never queue behind a backlog of readings, and answers
//! behind neither. Losing one drops them all: the last will on `-out` says so to every
//! gateway, and `online` is said again only when all three are subscribed. While storage takes
//! nothing it is not said either: the gateways then send again as soon as it is.
#![allow(clippy::disallowed_methods, reason = "a driver: it reads the clock for the engine")]

mod alarms;
mod alive;
mod commands;
mod desired;
mod queue;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_mqtt::{Connection, Delivery, Event, Message, PublishError, Qos, Session, Token};
use fieldpost_protocol::{BridgeStatus, Topic, Topics};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock;
use crate::ingest::{Answer, Incoming, Receipt};
use crate::outbound::Outbound;
use crate::store::StoreError;
use alarms::AlarmLog;
pub(crate) use alive::Alive;
pub(crate) use desired::DesiredThread;
use queue::{Job, JobId};
use storage::Report;
pub(crate) use storage::StorageThread;

/// A batch that is not committed by then is pubacked without a sync ack and forgotten: its
/// gateway sends it again, and one stream in trouble cannot fill the broker's window.
pub(crate) const COMMIT_WITHIN: Duration = Duration::from_secs(10);
/// Messages that are not pubacked. At the bound the oldest is, as if its time were over. Brokers
/// have windows far below; what is published at QoS 0 has none.
const HELD_MAX: usize = 16_384;
/// How often it is looked whether messages have waited too long.
const TICK: Duration = Duration::from_millis(500);
/// How often storage is asked for commands that are due, in ticks.
const LOOK_TICKS: u32 = 2;

/// Which of the connections; as a number, its place in [`Driver::links`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Batches of readings come in.
    Readings,
    /// Events, hellos and what devices say about themselves come in.
    Events,
    /// Everything goes out.
    Out,
}

impl Role {
    /// The last part of the connection's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Role::Readings => "readings",
            Role::Events => "events",
            Role::Out => "out",
        }
    }
}

/// A session and the connection that it has now.
pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) connection: Option<Connection>,
}

/// The sessions' events.
pub(crate) struct Inputs {
    pub(crate) readings: mpsc::Receiver<Event>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) out: mpsc::Receiver<Event>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Why the driver cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The storage thread has ended by itself.
    #[error("the storage thread has ended; the log says why. Start the bridge again")]
    Storage,
    /// A session has ended by itself.
    #[error("a session with the broker has ended; start the bridge again")]
    Session,
}

/// Whether the connection took a message.
enum Sent {
    Taken,
    /// The window is full, or the connection is gone.
    NotNow,
    Never(PublishError),
}

/// A message that is not pubacked yet.
struct Held {
    role: Role,
    /// Without its payload.
    delivery: Delivery,
    received: Instant,
    /// Committed, or never to be; only its answers are not handed over yet.
    settled: bool,
}

/// See the module.
pub(crate) struct Driver {
    topics: Topics,
    name: String,
    links: [Link; 3],
    storage: StorageThread,
    /// What the retained status says while the bridge is online.
    status: BridgeStatus,
    online: bool,
    /// Since when storage has taken nothing of what it was given.
    failing_since: Option<Instant>,
    /// Since when storage has said nothing, with messages before it.
    silent_since: Option<Instant>,
    held: BTreeMap<JobId, Held>,
    /// [`COMMIT_WITHIN`], but for tests.
    commit_within: Duration,
    last_job: u64,
    /// Settled; pubacked once no answer waits.
    owed: BTreeSet<JobId>,
    outbound: Outbound,
    alarms: AlarmLog,
    alive: Alive,
    ticks: u32,
    desired: Option<DesiredThread>,
}

impl Driver {
    /// With sessions that have been started and a status that says offline.
    pub(crate) fn new(
        topics: Topics,
        name: String,
        sessions: [Session; 3],
        storage: StorageThread,
        status: BridgeStatus,
        commit_within: Duration,
        alive: Alive,
    ) -> Self {
        Driver {
            topics,
            name,
            links: sessions.map(|session| Link { session, connection: None }),
            storage,
            status,
            online: false,
            failing_since: None,
            silent_since: None,
            held: BTreeMap::new(),
            commit_within,
            last_job: 0,
            owed: BTreeSet::new(),
            outbound: Outbound::default(),
            alarms: AlarmLog::default(),
            alive,
            ticks: 0,
            desired: None,
        }
    }

    /// Runs until it is asked to end, or cannot go on.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> Result<(), Failed> {
        // The storage is open. No network is waited for.
        self.alive.service.ready();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                // A sender that is gone cannot ask any more: then it is time to end, too.
                _ = inputs.shutdown.wait_for(|down| *down) => break Ok(()),
                event = inputs.readings.recv() => match event {
                    Some(event) => self.handle_session(Role::Readings, event),
                    None => break Err(Failed::Session),
                },
                event = inputs.events.recv() => match event {
                    Some(event) => self.handle_session(Role::Events, event),
                    None => break Err(Failed::Session),
                },
                event = inputs.out.recv() => match event {
                    Some(event) => self.handle_session(Role::Out, event),
                    None => break Err(Failed::Session),
                },
                report = self.storage.reports.recv() => match report {
                    Some(report) => self.handle_report(report),
                    None => break Err(Failed::Storage),
                },
                _ = ticks.tick() => {
                    self.forget_late();
                    self.withdraw();
                    self.announce();
                    self.look();
                    self.tell_alive();
                }
            }
            self.flush();
            self.flush_desired();
        };
        self.alive.service.stopping();
        self.end().await;
        result
    }

    fn handle_session(&mut self, role: Role, event: Event) {
        match event {
            Event::Connected { connection } => {
                tracing::info!(connection = role.as_str(), "connected to the broker");
                self.link(role).connection = Some(connection);
                if role == Role::Out {
                    self.desire_again();
                }
                self.announce();
            }
            Event::Disconnected { connection, reason, retry_in } => {
                let seconds = retry_in.as_secs_f64();
                tracing::info!(
                    connection = role.as_str(),
                    "not connected: {reason}; next try in {seconds:.1} s"
                );
                // Not a try that failed, nor the end of one that we have dropped ourselves.
                if connection.is_some() && connection == self.link(role).connection {
                    self.handle_lost(role);
                }
            }
            Event::Message(delivery) => self.handle_message(role, delivery),
            // Room in the window: `flush` follows each event.
            Event::Puback { .. } => {}
        }
    }

    /// One is lost: the others go too, so that nobody is told `online` by half a bridge.
    fn handle_lost(&mut self, role: Role) {
        self.link(role).connection = None;
        self.online = false;
        self.outbound.clear();
        // The broker sends them again, and what is on its way to storage is stored.
        self.held.clear();
        self.owed.clear();
        for link in &mut self.links {
            // Forgotten at once: what it reports of its end must not end the others again.
            if link.connection.take().is_some() {
                link.session.reconnect();
            }
        }
    }

    fn handle_message(&mut self, role: Role, mut delivery: Delivery) {
        let payload = std::mem::take(&mut delivery.payload);
        self.last_job += 1;
        let id = JobId(self.last_job);
        let topic = self.topics.parse(&delivery.topic);
        if let Some(topic) = topic {
            let receipt = self.receipt(&topic);
            let message = Incoming { topic, payload, retained: delivery.retain, receipt };
            if !self.storage.queue.push(Job { id, message }) {
                // Not taken, and pubacked only when its time is over: that slows the broker.
                self.alarms.say(
                    "queue_full",
                    "",
                    "storage is too slow; messages are not taken, and will come again",
                );
            }
            self.silent_since.get_or_insert_with(Instant::now);
            self.held.insert(id, Held { role, delivery, received: Instant::now(), settled: false });
            if self.held.len() > HELD_MAX {
                self.forget_late();
            }
        } else {
            self.alarms.say(
                "topic_unknown",
                &delivery.topic,
                "a message on a topic that is not ours was dropped",
            );
            self.puback(role, &delivery);
        }
    }

    /// COMMIT, then the answers, then the pubacks.
    fn handle_report(&mut self, report: Report) {
        let Report { settled, ingested } = report;
        for alarm in &ingested.alarms {
            self.alarms.say(alarm.kind, &alarm.about, &alarm.message);
        }
        if let Some(error) = &ingested.error {
            match error {
                StoreError::Damaged(_) => {
                    self.alarms.error("storage_damaged", &error.to_string());
                }
                _ => self.alarms.say("storage", "", &error.to_string()),
            }
            // What storage refuses for good says nothing about storage.
            if !matches!(error, StoreError::Refused(_)) {
                self.failing_since.get_or_insert_with(Instant::now);
            }
        }
        // It comes with each commit.
        if ingested.identity.is_some() {
            self.failing_since = None;
        }
        if let Some(identity) = ingested.identity.filter(|new| new.r#gen != self.status.r#gen) {
            tracing::info!(r#gen = %identity.r#gen, "the storage was restored");
            (self.status.store, self.status.r#gen) = (identity.store, identity.r#gen);
            self.online = false;
            self.announce();
        }
        if ingested.readings > 0 {
            tracing::debug!(readings = ingested.readings, "stored");
        }
        ingested.answers.into_iter().for_each(|answer| self.outbound.push(answer));
        for id in settled {
            if let Some(held) = self.held.get_mut(&id) {
                held.settled = true;
                self.owed.insert(id);
            }
        }
        let waits = self.held.len() > self.owed.len();
        self.silent_since = waits.then(Instant::now);
        self.flush();
    }

    /// What was not committed in time is pubacked without a sync ack.
    fn forget_late(&mut self) {
        loop {
            let crowded = self.held.len() > HELD_MAX;
            let Some(oldest) = self.held.first_entry() else { return };
            if !crowded && oldest.get().received.elapsed() < self.commit_within {
                return;
            }
            let (id, held) = oldest.remove_entry();
            if held.settled {
                self.owed.remove(&id);
                // The broker takes no answers; this one's gateway sends again.
                self.alarms.say(
                    "answers_late",
                    "",
                    "the broker is slow to take answers; messages are pubacked before theirs",
                );
            } else {
                self.give_up(id, &held);
            }
            self.puback(held.role, &held.delivery);
        }
    }

    /// Sends answers until none is left or the window is full. Pubacks only once none is left.
    fn flush(&mut self) {
        while let Some(mut answer) = self.outbound.next() {
            let (topic, payload) = match &mut answer {
                Answer::State(device, state) => {
                    // The gateway learns the time from it: as late as can be.
                    state.time = clock::now_ms();
                    (Topic::State(device.clone()), state.encode())
                }
                Answer::SyncAcks(device, acks) => (Topic::SyncAcks(device.clone()), acks.encode()),
                Answer::Command(device, command) => {
                    (Topic::Commands(device.clone()), command.encode())
                }
            };
            match &answer {
                Answer::State(..) => point!("send.state.before"),
                Answer::SyncAcks(..) => point!("send.sync_acks.before"),
                Answer::Command(..) => point!("send.command.before"),
            }
            let sent = self.publish(&topic, payload, false);
            match &answer {
                Answer::State(..) => point!("send.state.after"),
                Answer::SyncAcks(..) => point!("send.sync_acks.after"),
                Answer::Command(..) => point!("send.command.after"),
            }
            match sent {
                Sent::Taken => self.outbound.taken(&answer),
                Sent::NotNow => return,
                Sent::Never(error) => {
                    tracing::error!("an answer cannot be sent: {error}");
                    self.outbound.taken(&answer);
                }
            }
        }
        for id in std::mem::take(&mut self.owed) {
            if let Some(held) = self.held.remove(&id) {
                self.puback(held.role, &held.delivery);
            }
        }
    }

    fn is_storage_failing(&self) -> bool {
        // One transaction that does not end is as bad as many that fail.
        let mut since = self.failing_since.iter().chain(&self.silent_since);
        since.any(|since| since.elapsed() >= self.commit_within)
    }

    /// Says `offline` while storage takes nothing. Whatever is committed next brings `online` back,
    /// and with it the gateways, however long they meant to wait.
    fn withdraw(&mut self) {
        if !self.online || !self.is_storage_failing() {
            return;
        }
        let topic = Topic::BridgeStatus(self.name.clone());
        point!("send.withdraw.before");
        match self.publish(&topic, self.status.to_json(), true) {
            Sent::Taken => {
                point!("send.withdraw.after");
                tracing::warn!("offline: storage takes nothing");
                self.online = false;
            }
            Sent::NotNow => {}
            Sent::Never(error) => tracing::error!("the status cannot be published: {error}"),
        }
    }

    /// Says `online`, once every connection is subscribed and storage takes what it is given.
    fn announce(&mut self) {
        if self.online
            || self.is_storage_failing()
            || self.links.iter().any(|link| link.connection.is_none())
        {
            return;
        }
        let status =
            BridgeStatus { online: true, time: Some(clock::now_ms()), ..self.status.clone() };
        let topic = Topic::BridgeStatus(self.name.clone());
        point!("send.online.before");
        match self.publish(&topic, status.to_json(), true) {
            Sent::Taken => {
                point!("send.online.after");
                tracing::info!(store = %status.store, r#gen = %status.r#gen, "online");
                self.online = true;
            }
            // Full: tried again with the next tick. Gone again: it says so next.
            Sent::NotNow => {}
            Sent::Never(error) => tracing::error!("the status cannot be published: {error}"),
        }
    }

    fn publish(&self, topic: &Topic, payload: Vec<u8>, retain: bool) -> Sent {
        let out = &self.links[Role::Out as usize];
        let Some(connection) = out.connection else { return Sent::NotNow };
        let topic = self.topics.name(topic);
        let message = Message { topic, payload, qos: Qos::AtLeastOnce, retain, token: Token(0) };
        match out.session.publish(connection, message) {
            Ok(()) => Sent::Taken,
            Err(PublishError::WindowFull { .. } | PublishError::Offline { .. }) => Sent::NotNow,
            Err(error) => Sent::Never(error),
        }
    }

    fn puback(&mut self, role: Role, delivery: &Delivery) {
        // One of an older connection is refused there: the broker sends the message again.
        point!("send.puback.before");
        let _ = self.link(role).session.puback(delivery);
        point!("send.puback.after");
    }

    fn link(&mut self, role: Role) -> &mut Link {
        &mut self.links[role as usize]
    }

    /// An orderly end: nothing more comes in, the status says offline, the transaction that
    /// runs is brought to its end.
    async fn end(self) {
        let topic = Topic::BridgeStatus(self.name.clone());
        // Without a connection the last will has said it.
        point!("send.offline.before");
        let _ = self.publish(&topic, self.status.to_json(), true);
        point!("send.offline.after");
        let Driver { links: [readings, events, out], storage, desired, .. } = self;
        drop((readings, events));
        out.session.close().await;
        match tokio::task::spawn_blocking(|| {
            DesiredThread::end(desired);
            storage.end()
        })
        .await
        {
            Ok(true) => tracing::info!("ended"),
            _ => tracing::error!("the storage thread has panicked"),
        }
    }
}
