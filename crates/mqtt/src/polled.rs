//! One connection, from its client's birth to its end.
//!
//! The client is polled here and nowhere else. Its `poll` is not cancel-safe: where it stands in
//! a `select!` it stands there by reference and is looked at again, until it is done or thrown
//! away together with the client.

use std::pin::pin;
use std::sync::Weak;
use std::time::Duration;

use rumqttc::{
    AsyncClient, Event as ClientEvent, EventLoop, Outgoing, Packet, Publish, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use crate::client::{Fresh, explain};
use crate::session::{Link, Order, Shared};
use crate::task::End;
use crate::{Connection, Delivery, DisconnectReason, Event, Options, Token};

/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the puback time-out is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that may overtake the SUBACK, and how many packets of full size they may amount to.
/// With more the connection is dropped: one without a puback would hold up all the others.
const EARLY_MAX: usize = 1_024;
const EARLY_PACKETS_MAX: usize = 32;
/// Received and not pubacked: packet ids have 16 bits, so no honest broker has more.
const UNACKED_MAX: usize = 65_535;

pub(crate) async fn run(
    shared: Weak<Shared>,
    events: mpsc::Sender<Event>,
    mut orders: watch::Receiver<Order>,
    options: Options,
    connection: Connection,
) -> End {
    let seen = *orders.borrow_and_update();
    if seen == Order::Close {
        return End::Closed;
    }
    let Fresh { client, eventloop, lacks_certificate } = match Fresh::new(&options) {
        Ok(fresh) => fresh,
        Err(reason) => return End::Lost(reason),
    };
    let mut watch = interval(WATCH_INTERVAL.min(options.puback_timeout));
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut polled = Polled {
        eventloop,
        client,
        shared,
        events,
        orders,
        seen,
        options,
        connection,
        last_puback: Instant::now(),
        watch,
        early: Vec::new(),
        closing: None,
        kept_waiting: None,
    };
    let mut orders = polled.orders.clone();
    let handshake = tokio::select! {
        result = timeout(polled.options.answer_timeout, polled.handshake()) => result,
        // The client is thrown away.
        end = ordered(&mut orders, seen) => return end,
    };
    let end = match handshake {
        Ok(Ok(())) => polled.connected().await,
        Ok(Err(reason)) => Err(End::Lost(explain(reason, &lacks_certificate))),
        Err(_) => Err(End::Lost(DisconnectReason::TimedOut)),
    };
    match end {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// Resolves when the caller wants something else than to go on.
async fn ordered(orders: &mut watch::Receiver<Order>, seen: Order) -> End {
    match orders.wait_for(|order| *order != seen).await.map(|order| *order) {
        Ok(Order::Close) => End::Closed,
        Ok(Order::Run(_)) => End::Lost(DisconnectReason::Asked),
        Err(_) => End::Abandoned,
    }
}

enum Never {}

struct Polled {
    eventloop: EventLoop,
    client: AsyncClient,
    shared: Weak<Shared>,
    events: mpsc::Sender<Event>,
    orders: watch::Receiver<Order>,
    /// The order under which this connection was made.
    seen: Order,
    options: Options,
    connection: Connection,
    /// When a puback came last, or could have come.
    last_puback: Instant,
    /// When to look at the puback time-out.
    watch: Interval,
    /// Messages that overtook the SUBACK: retained ones may.
    early: Vec<Publish>,
    closing: Option<Closing>,
    /// The last time that the caller left its events for longer than a keep-alive: how long, and
    /// until when.
    kept_waiting: Option<(Duration, Instant)>,
}

struct Closing {
    deadline: Instant,
    said: bool,
}

impl Polled {
    /// Until CONNACK and every SUBACK.
    async fn handshake(&mut self) -> Result<(), DisconnectReason> {
        loop {
            match self.eventloop.poll().await? {
                ClientEvent::Incoming(Packet::ConnAck(_)) => {
                    if self.options.subscriptions.is_empty() {
                        return Ok(());
                    }
                    let filter =
                        |path: &String| SubscribeFilter::new(path.clone(), QoS::AtLeastOnce);
                    let filters = self.options.subscriptions.iter().map(filter);
                    self.client
                        .try_subscribe_many(filters)
                        .map_err(|error| DisconnectReason::Protocol(error.to_string()))?;
                }
                ClientEvent::Incoming(Packet::SubAck(suback)) => {
                    return self.granted(&suback.return_codes);
                }
                ClientEvent::Incoming(Packet::Publish(publish)) => self.keep_early(publish)?,
                _ => {}
            }
        }
    }

    fn keep_early(&mut self, publish: Publish) -> Result<(), DisconnectReason> {
        self.early.push(publish);
        let bytes: usize = self.early.iter().map(|publish| publish.payload.len()).sum();
        if self.early.len() > EARLY_MAX || bytes > EARLY_PACKETS_MAX * self.options.packet_bytes_max
        {
            return Err(protocol("a flood of messages and no SUBACK"));
        }
        Ok(())
    }

    fn granted(&self, codes: &[SubscribeReasonCode]) -> Result<(), DisconnectReason> {
        let filters = &self.options.subscriptions;
        if codes.len() != filters.len() {
            return Err(protocol("the SUBACK does not answer each subscription"));
        }
        let refused = codes.iter().position(|code| *code == SubscribeReasonCode::Failure);
        match refused {
            None => Ok(()),
            Some(at) => Err(DisconnectReason::Subscription(filters[at].clone())),
        }
    }

    /// From the SUBACK to the end.
    async fn connected(&mut self) -> Result<Never, End> {
        let shared = self.shared.upgrade().ok_or(End::Abandoned)?;
        *shared.link() = Some(Link::new(self.connection, self.client.clone()));
        drop(shared);
        self.tell(Event::Connected { connection: self.connection }).await?;
        for publish in std::mem::take(&mut self.early) {
            self.handle_publish(publish).await?;
        }
        loop {
            let event = self.next().await?;
            self.handle(event).await?;
        }
    }

    /// The next event of the client. An error is the end.
    async fn next(&mut self) -> Result<ClientEvent, End> {
        let polled = {
            let mut poll = pin!(timeout(3 * self.options.keep_alive, self.eventloop.poll()));
            loop {
                if let Some(closing) = &mut self.closing {
                    closing.say_goodbye(&self.client, &self.shared);
                }
                let deadline = self.closing.as_ref().map(|closing| closing.deadline);
                tokio::select! {
                    polled = &mut poll => break polled,
                    end = ordered(&mut self.orders, self.seen), if deadline.is_none() => match end {
                        End::Closed => self.closing = Some(Closing::begin()),
                        end => return Err(end),
                    },
                    () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                        return Err(End::Closed);
                    }
                    () = self.events.closed(), if deadline.is_none() => return Err(End::Abandoned),
                    _ = self.watch.tick() => {
                        if stalled(&self.shared, self.last_puback, &self.options) {
                            let reason = DisconnectReason::PubackStalled(self.options.puback_timeout);
                            return Err(End::Lost(reason));
                        }
                    }
                }
            }
        };
        match polled {
            Ok(Ok(event)) => Ok(event),
            _ if self.closing.is_some() => Err(End::Closed),
            Ok(Err(error)) => Err(End::Lost(self.blame(error.into()))),
            Err(_) => Err(End::Lost(self.blame(DisconnectReason::TimedOut))),
        }
    }

    /// A connection that ends soon after its events were left untaken ends because of that: no
    /// pings were sent meanwhile.
    fn blame(&self, reason: DisconnectReason) -> DisconnectReason {
        match self.kept_waiting {
            Some((waited, until)) if until.elapsed() < 3 * self.options.keep_alive => {
                DisconnectReason::EventsNotTaken(waited)
            }
            _ => reason,
        }
    }

    async fn handle(&mut self, event: ClientEvent) -> Result<(), End> {
        match event {
            ClientEvent::Outgoing(Outgoing::Publish(pkid)) if pkid != 0 => {
                self.with_link(|link| {
                    if let Some(token) = link.handed.pop_front() {
                        link.in_flight.push((pkid, token));
                    }
                });
            }
            ClientEvent::Outgoing(Outgoing::Disconnect) => return Err(End::Closed),
            ClientEvent::Incoming(Packet::PubAck(puback)) => {
                self.last_puback = Instant::now();
                let token = self.with_link(|link| take_token(link, puback.pkid)).flatten();
                if let Some(token) = token {
                    self.tell(Event::Puback { connection: self.connection, token }).await?;
                }
            }
            ClientEvent::Incoming(Packet::Publish(publish)) => self.handle_publish(publish).await?,
            _ => {}
        }
        self.with_link(Link::flush_pubacks);
        Ok(())
    }

    async fn handle_publish(&mut self, publish: Publish) -> Result<(), End> {
        let Publish { pkid, qos, topic, payload, retain, dup } = publish;
        let puback = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce if self.options.manual_puback => {
                self.with_link(|link| link.arrived(pkid))
            }
            QoS::AtLeastOnce => None,
            QoS::ExactlyOnce => {
                return Err(End::Lost(protocol("a message at QoS 2, which nobody asked for")));
            }
        };
        if self.with_link(|link| link.unacked()).is_some_and(|unacked| unacked > UNACKED_MAX) {
            return Err(End::Lost(protocol("more messages without a puback than packet ids")));
        }
        // A copy, so that a message that is held does not hold the whole read buffer.
        let payload = payload.to_vec();
        let connection = self.connection;
        self.tell(Event::Message(Delivery { connection, topic, payload, retain, dup, puback }))
            .await
    }

    /// Gives an event to the caller; waits if it leaves its events untaken. When it closes the
    /// session meanwhile the event is dropped.
    async fn tell(&mut self, event: Event) -> Result<(), End> {
        let event = match self.events.try_send(event) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(End::Abandoned),
            Err(TrySendError::Full(_)) if self.closing.is_some() => return Ok(()),
            Err(TrySendError::Full(event)) => event,
        };
        let since = Instant::now();
        tokio::select! {
            sent = self.events.send(event) => sent.map_err(|_| End::Abandoned)?,
            end = ordered(&mut self.orders, self.seen) => match end {
                End::Closed => self.closing = Some(Closing::begin()),
                end => return Err(end),
            },
        }
        let waited = since.elapsed();
        if waited > self.options.keep_alive {
            self.kept_waiting = Some((waited, Instant::now()));
        }
        // Nobody read the socket: the broker's pubacks may well be there.
        self.last_puback = Instant::now();
        Ok(())
    }

    fn with_link<T>(&self, work: impl FnOnce(&mut Link) -> T) -> Option<T> {
        let shared = self.shared.upgrade()?;
        let mut link = shared.link();
        link.as_mut().map(work)
    }
}

impl Closing {
    fn begin() -> Self {
        Closing { deadline: Instant::now() + CLOSE_TIMEOUT, said: false }
    }

    /// DISCONNECT, once everything in flight has its puback.
    fn say_goodbye(&mut self, client: &AsyncClient, shared: &Weak<Shared>) {
        let inflight =
            shared.upgrade().and_then(|shared| shared.link().as_ref().map(Link::inflight));
        if !self.said && inflight.unwrap_or(0) == 0 {
            self.said = client.try_disconnect().is_ok();
        }
    }
}

fn protocol(what: &str) -> DisconnectReason {
    DisconnectReason::Protocol(what.to_owned())
}

fn take_token(link: &mut Link, pkid: u16) -> Option<Token> {
    let at = link.in_flight.iter().position(|(known, _)| *known == pkid)?;
    let (_, token) = link.in_flight.swap_remove(at);
    if link.inflight() == 0 {
        link.in_flight_since = None;
    }
    Some(token)
}

/// Whether publishes are in flight and no puback came for too long.
fn stalled(shared: &Weak<Shared>, last_puback: Instant, options: &Options) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let since = shared.link().as_ref().and_then(|link| link.in_flight_since);
    since.is_some_and(|since| since.max(last_puback).elapsed() >= options.puback_timeout)
}
