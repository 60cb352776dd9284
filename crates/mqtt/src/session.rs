//! The handle on a session, and what passes through it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use rumqttc::{AsyncClient, Publish, QoS};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::event::{
    Connection, Delivery, EVENTS_MAX, Event, Message, PubackError, PublishError, Qos, Token,
};
use crate::{Options, OptionsError, task};

/// A received message that has not been pubacked.
struct Unacked {
    pkid: u16,
    done: bool,
}

/// The client of the present connection, with what has to be matched up.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) client: AsyncClient,
    /// Tokens of publishes that were handed to the client, in order, until it has given
    /// them packet ids.
    pub(crate) handed: VecDeque<Token>,
    /// Tokens by packet id.
    pub(crate) in_flight: Vec<(u16, Token)>,
    /// Since when something has been in flight without a pause.
    pub(crate) in_flight_since: Option<Instant>,
    /// Received and not pubacked, in the order of arrival; the first has number `first`.
    unacked: VecDeque<Unacked>,
    first: u64,
}

impl Link {
    pub(crate) fn new(connection: Connection, client: AsyncClient) -> Self {
        Link {
            connection,
            client,
            handed: VecDeque::new(),
            in_flight: Vec::new(),
            in_flight_since: None,
            unacked: VecDeque::new(),
            first: 1,
        }
    }

    pub(crate) fn inflight(&self) -> usize {
        self.handed.len() + self.in_flight.len()
    }

    /// Takes in a message at QoS 1; returns its number.
    pub(crate) fn arrived(&mut self, pkid: u16) -> u64 {
        self.unacked.push_back(Unacked { pkid, done: false });
        self.first + self.unacked.len() as u64 - 1
    }

    /// Messages that arrived and are not pubacked.
    pub(crate) fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Sends the pubacks that are due: in the order of arrival, as MQTT 3.1.1 (4.6) asks.
    /// What the client does not take now is tried again with the next packet.
    pub(crate) fn flush_pubacks(&mut self) {
        while let Some(front) = self.unacked.front().filter(|front| front.done) {
            // The client reads nothing of it but QoS and packet id.
            let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
            publish.pkid = front.pkid;
            if self.client.try_ack(&publish).is_err() {
                return;
            }
            self.unacked.pop_front();
            self.first += 1;
        }
    }
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) link: Mutex<Option<Link>>,
    pub(crate) orders: watch::Sender<Order>,
    /// Ends the wait for the next connection.
    pub(crate) hurry: Arc<Notify>,
}

impl Shared {
    pub(crate) fn link(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().expect("nobody panics while holding it")
    }
}

/// What the task is asked to do beside its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on; the number rises with each wish for a new connection.
    Run(u64),
    /// Say goodbye and end.
    Close,
}

/// A handle on the session; clones are handles on the same one. When all are gone the task
/// ends, without a goodbye: the broker then sends the will.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

impl Session {
    /// Starts a session on the current runtime. It tries until it is closed.
    ///
    /// A certificate or key that cannot be used is no error here: it is told as
    /// [`Event::Disconnected`], and read again at each try. Who wants to know before asks
    /// [`Options::check`].
    ///
    /// # Errors
    /// Values that cannot work, whatever the files hold.
    pub fn start(options: Options) -> Result<(Session, mpsc::Receiver<Event>), OptionsError> {
        options.check_values()?;
        let (orders, received) = watch::channel(Order::Run(0));
        let (end, ended) = watch::channel(false);
        let hurry = Arc::new(Notify::new());
        let shared = Arc::new(Shared { options, link: Mutex::new(None), orders, hurry });
        let (events, received_events) = mpsc::channel(EVENTS_MAX);
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            task::run(weak, events, received).await;
            let _ = end.send(true);
        });
        Ok((Session { shared, ended }, received_events))
    }

    /// Hands a message over. Never waits.
    ///
    /// # Errors
    /// See [`PublishError`]. A message that was taken is in flight until its puback comes or
    /// the connection ends.
    pub fn publish(&self, connection: Connection, message: Message) -> Result<(), PublishError> {
        let Message { topic, payload, qos, retain, token } = message;
        let max = self.shared.options.packet_bytes_max;
        // Fixed header, length of the topic, packet id: at most nine bytes (MQTT 3.1.1, 3.3).
        let bytes = topic.len() + payload.len() + 9;
        if bytes > max {
            return Err(PublishError::TooBig { bytes, max });
        }
        if !is_topic(&topic) {
            return Err(PublishError::BadTopic { topic });
        }
        let mut link = self.shared.link();
        let link = link
            .as_mut()
            .filter(|link| link.connection == connection)
            .ok_or(PublishError::Offline { connection })?;
        let window = usize::from(self.shared.options.inflight_max);
        let full = PublishError::WindowFull { max: window };
        let quality = match qos {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce if link.inflight() >= window => return Err(full),
            Qos::AtLeastOnce => QoS::AtLeastOnce,
        };
        link.client.try_publish(topic, quality, retain, payload).map_err(|_| full)?;
        if qos == Qos::AtLeastOnce {
            if link.inflight() == 0 {
                link.in_flight_since = Some(Instant::now());
            }
            link.handed.push_back(token);
        }
        Ok(())
    }

    /// Subscribes to one more filter on this connection, for what one can do without: that the broker
    /// refuses it is not told.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn subscribe(&self, connection: Connection, filter: &str) -> Result<(), PublishError> {
        let mut link = self.shared.link();
        let link = link
            .as_mut()
            .filter(|link| link.connection == connection)
            .ok_or(PublishError::Offline { connection })?;
        let max = usize::from(self.shared.options.inflight_max);
        let sent = link.client.try_subscribe(filter, QoS::AtLeastOnce);
        sent.map_err(|_| PublishError::WindowFull { max })
    }

    /// Says that a message was dealt with. The pubacks go out in the order of arrival,
    /// whatever the order of the calls.
    ///
    /// # Errors
    /// When its connection is gone. The session was a clean one: the broker has forgotten the
    /// message, and whoever sent it has to send it again.
    pub fn puback(&self, delivery: &Delivery) -> Result<(), PubackError> {
        let connection = delivery.connection;
        let mut link = self.shared.link();
        let link = link
            .as_mut()
            .filter(|link| link.connection == connection)
            .ok_or(PubackError::OtherConnection { connection })?;
        let at = delivery.puback.and_then(|number| number.checked_sub(link.first));
        let at = at.and_then(|at| usize::try_from(at).ok());
        if let Some(unacked) = at.and_then(|at| link.unacked.get_mut(at)) {
            unacked.done = true;
        }
        link.flush_pubacks();
        Ok(())
    }

    /// Drops the connection and makes a new one.
    pub fn reconnect(&self) {
        self.shared.orders.send_modify(|order| {
            if let Order::Run(times) = order {
                *times += 1;
            }
        });
    }

    /// Waits no longer for the next try, if it waits. A try that is under way, or a connection that
    /// holds, goes on.
    pub fn try_now(&self) {
        self.shared.hurry.notify_waiters();
    }

    /// Publishes without a puback on the present connection.
    pub fn inflight(&self) -> usize {
        self.shared.link().as_ref().map_or(0, Link::inflight)
    }

    /// Waits until what is in flight has its pubacks, at most two seconds, and says goodbye:
    /// the broker then sends no will. Events may be left untaken meanwhile; what does not fit
    /// into the channel is dropped.
    pub async fn close(mut self) {
        self.shared.orders.send_replace(Order::Close);
        // The task bounds its own goodbye.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

/// Whether one may publish to it (MQTT 3.1.1, 4.7).
pub(crate) fn is_topic(topic: &str) -> bool {
    (1..=65_535).contains(&topic.len()) && !topic.contains('\0') && rumqttc::valid_topic(topic)
}
