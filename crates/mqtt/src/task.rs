//! The one task that polls the client: connect, subscribe, poll, and all over again.

use std::sync::Weak;
use std::time::Duration;

use rumqttc::{
    AsyncClient, Event as ClientEvent, EventLoop, LastWill, MqttOptions, Outgoing, Packet, Publish,
    QoS, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::backoff::Backoff;
use crate::session::{Link, Order, Shared};
use crate::{Connection, Delivery, DisconnectReason, Event, Options, Token, tls};

/// Requests that the client queues: publishes and pubacks that it has not looked at yet.
const REQUESTS_MAX: usize = 128;
/// What the client itself allows in flight; ours stays below, so that its handling of
/// collisions is never needed.
const CLIENT_INFLIGHT: u16 = 100;
/// TCP, TLS, CONNACK and SUBACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the puback time-out is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Messages that may overtake the SUBACK; with more the connection is dropped, since one
/// that got no puback would hold up all the others.
const EARLY_MAX: usize = 1_024;

/// How a connection ended.
enum End {
    Lost(DisconnectReason),
    Closed,
}

pub(crate) async fn run(
    shared: Weak<Shared>,
    events: mpsc::Sender<Event>,
    mut orders: watch::Receiver<Order>,
) {
    let mut backoff = Backoff::new();
    loop {
        let Some(options) = shared.upgrade().map(|shared| shared.options.clone()) else { return };
        let connection = Connection::next();
        let started = Instant::now();
        let mut connected = false;
        let end =
            connect(&shared, &events, &mut orders, &options, connection, &mut connected).await;
        if let Some(shared) = shared.upgrade() {
            *shared.link() = None;
        }
        let End::Lost(reason) = end else { return };
        let lived = if connected { started.elapsed() } else { Duration::ZERO };
        let retry_in = backoff.next(lived);
        let connection = connected.then_some(connection);
        if events.send(Event::Disconnected { connection, reason, retry_in }).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(retry_in) => {}
            () = closed(&mut orders) => {
                return;
            }
        }
    }
}

async fn connect(
    shared: &Weak<Shared>,
    events: &mpsc::Sender<Event>,
    orders: &mut watch::Receiver<Order>,
    options: &Options,
    connection: Connection,
    connected: &mut bool,
) -> End {
    let (client, eventloop) = match client(options) {
        Ok(client) => client,
        Err(reason) => return End::Lost(reason),
    };
    orders.mark_unchanged();
    let mut polled = Polled {
        eventloop,
        shared: shared.clone(),
        events,
        options,
        connection,
        last_puback: Instant::now(),
        early: Vec::new(),
    };
    let handshake = timeout(CONNECT_TIMEOUT, polled.handshake(&client));
    let handshake = tokio::select! {
        result = handshake => result.unwrap_or(Err(DisconnectReason::TimedOut)),
        end = ordered(orders) => return end,
    };
    if let Err(reason) = handshake {
        return End::Lost(reason);
    }
    let Some(shared) = shared.upgrade() else { return End::Closed };
    *shared.link() = Some(Link::new(connection, client.clone()));
    drop(shared);
    *connected = true;
    if events.send(Event::Connected { connection }).await.is_err() {
        return End::Closed;
    }
    let end = tokio::select! {
        // Whatever wins, the client is thrown away: cancelling a poll is harmless then.
        reason = polled.poll() => End::Lost(reason),
        end = ordered(orders) => end,
    };
    if matches!(end, End::Closed) {
        let _ = timeout(CLOSE_TIMEOUT, polled.goodbye(&client)).await;
    }
    end
}

/// Resolves when the session is closed, or every handle is gone.
async fn closed(orders: &mut watch::Receiver<Order>) {
    let _ = orders.wait_for(|order| *order == Order::Close).await;
}

/// Resolves when the caller wants something else than to go on.
async fn ordered(orders: &mut watch::Receiver<Order>) -> End {
    match orders.changed().await {
        Ok(()) if *orders.borrow() != Order::Close => End::Lost(DisconnectReason::Asked),
        // Closed, or every handle is gone.
        _ => End::Closed,
    }
}

fn client(options: &Options) -> Result<(AsyncClient, EventLoop), DisconnectReason> {
    let mut client = MqttOptions::new(&options.client_id, &options.host, options.port);
    client
        .set_clean_session(true)
        .set_keep_alive(options.keep_alive)
        .set_inflight(CLIENT_INFLIGHT)
        .set_max_packet_size(options.packet_bytes_max, options.packet_bytes_max)
        .set_manual_acks(options.manual_puback);
    if let Some(config) = tls::client_config(&options.tls)? {
        client.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    if let Some(login) = &options.login {
        client.set_credentials(&login.username, &login.password);
    }
    if let Some(will) = &options.will {
        client.set_last_will(LastWill::new(
            &will.topic,
            will.payload.clone(),
            QoS::AtLeastOnce,
            will.retain,
        ));
    }
    let (client, mut eventloop) = AsyncClient::new(client, REQUESTS_MAX);
    let mut network = eventloop.network_options();
    network.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
    network.set_tcp_nodelay(true);
    eventloop.set_network_options(network);
    Ok((client, eventloop))
}

/// One connection being polled.
struct Polled<'a> {
    eventloop: EventLoop,
    shared: Weak<Shared>,
    events: &'a mpsc::Sender<Event>,
    options: &'a Options,
    connection: Connection,
    /// When a puback came last, or when the first publish went in flight.
    last_puback: Instant,
    /// Messages that overtook the SUBACK: retained ones may.
    early: Vec<Publish>,
}

impl Polled<'_> {
    async fn next(&mut self) -> Result<ClientEvent, DisconnectReason> {
        match timeout(3 * self.options.keep_alive, self.eventloop.poll()).await {
            Ok(Ok(event)) => Ok(event),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(DisconnectReason::TimedOut),
        }
    }

    /// Until CONNACK and every SUBACK.
    async fn handshake(&mut self, client: &AsyncClient) -> Result<(), DisconnectReason> {
        loop {
            match self.next().await? {
                ClientEvent::Incoming(Packet::ConnAck(_)) => {
                    if self.options.subscriptions.is_empty() {
                        return Ok(());
                    }
                    let filter =
                        |path: &String| SubscribeFilter::new(path.clone(), QoS::AtLeastOnce);
                    let filters = self.options.subscriptions.iter().map(filter);
                    client
                        .try_subscribe_many(filters)
                        .map_err(|error| DisconnectReason::Protocol(error.to_string()))?;
                }
                ClientEvent::Incoming(Packet::SubAck(suback)) => {
                    return self.granted(&suback.return_codes);
                }
                ClientEvent::Incoming(Packet::Publish(publish)) => {
                    if self.early.len() >= EARLY_MAX {
                        return Err(DisconnectReason::Protocol(
                            "a flood of messages and no SUBACK".to_owned(),
                        ));
                    }
                    self.early.push(publish);
                }
                _ => {}
            }
        }
    }

    fn granted(&self, codes: &[SubscribeReasonCode]) -> Result<(), DisconnectReason> {
        let refused = codes.iter().position(|code| *code == SubscribeReasonCode::Failure);
        match refused.and_then(|at| self.options.subscriptions.get(at)) {
            None => Ok(()),
            Some(filter) => Err(DisconnectReason::Subscription(filter.clone())),
        }
    }

    /// Until the connection ends, for the reason returned.
    async fn poll(&mut self) -> DisconnectReason {
        for publish in std::mem::take(&mut self.early) {
            if self.handle_publish(publish).await.is_err() {
                return DisconnectReason::Asked;
            }
        }
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // `next` is never cancelled here but to end the connection: the other branch
            // looks at the same future again.
            let event = {
                let mut next =
                    std::pin::pin!(timeout(3 * self.options.keep_alive, self.eventloop.poll()));
                loop {
                    tokio::select! {
                        event = &mut next => break event,
                        _ = watch.tick() => {
                            if self.shared.upgrade().is_none_or(|shared| stalled(&shared, self.last_puback, self.options)) {
                                return DisconnectReason::PubackStalled(self.options.puback_timeout);
                            }
                        }
                    }
                }
            };
            let handled = match event {
                Ok(Ok(event)) => self.handle(event).await,
                Ok(Err(error)) => return error.into(),
                Err(_) => return DisconnectReason::TimedOut,
            };
            if handled.is_err() {
                return DisconnectReason::Asked;
            }
        }
    }

    async fn handle(&mut self, event: ClientEvent) -> Result<(), CallerGone> {
        match event {
            ClientEvent::Outgoing(Outgoing::Publish(pkid)) if pkid != 0 => {
                self.with_link(|link| {
                    if let Some(token) = link.handed.pop_front() {
                        link.in_flight.push((pkid, token));
                    }
                });
            }
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

    async fn handle_publish(&mut self, publish: Publish) -> Result<(), CallerGone> {
        let delivery = Delivery {
            connection: self.connection,
            topic: publish.topic.clone(),
            payload: publish.payload.to_vec(),
            retain: publish.retain,
            dup: publish.dup,
            puback: match publish.qos {
                QoS::AtMostOnce => None,
                _ if self.options.manual_puback => self.with_link(|link| link.arrived(publish)),
                _ => None,
            },
        };
        self.tell(Event::Message(delivery)).await
    }

    async fn tell(&mut self, event: Event) -> Result<(), CallerGone> {
        self.events.send(event).await.map_err(|_| CallerGone)
    }

    fn with_link<T>(&self, work: impl FnOnce(&mut Link) -> T) -> Option<T> {
        let shared = self.shared.upgrade()?;
        let mut link = shared.link();
        link.as_mut().map(work)
    }

    /// Waits for the pubacks of what is in flight, then sends DISCONNECT.
    async fn goodbye(&mut self, client: &AsyncClient) {
        while self.with_link(|link| link.inflight()).is_some_and(|inflight| inflight > 0) {
            match self.next().await {
                Ok(ClientEvent::Incoming(Packet::Publish(_))) => {}
                Ok(event) => {
                    if self.handle(event).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        if client.try_disconnect().is_ok() {
            // Until the DISCONNECT is out; the error that follows is the end that we want.
            while self.next().await.is_ok() {}
        }
    }
}

/// Nobody receives our events any more.
struct CallerGone;

fn take_token(link: &mut Link, pkid: u16) -> Option<Token> {
    let at = link.in_flight.iter().position(|(known, _)| *known == pkid)?;
    let (_, token) = link.in_flight.swap_remove(at);
    if link.inflight() == 0 {
        link.in_flight_since = None;
    }
    Some(token)
}

/// Whether publishes are in flight and no puback came for too long.
fn stalled(shared: &Shared, last_puback: Instant, options: &Options) -> bool {
    let link = shared.link();
    let oldest = link.as_ref().and_then(|link| link.in_flight_since);
    oldest.is_some_and(|since| since.max(last_puback).elapsed() >= options.puback_timeout)
}
