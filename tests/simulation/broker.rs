//! A model of the broker: QoS 1, clean sessions, and every way in which it does not deliver what it
//! has pubacked.

use std::collections::VecDeque;
use std::rc::Rc;

use fieldpost_protocol::{BridgeStatus, Topic};

use crate::world::{About, Conn, ConnId, Packet, Peer, What, World, note};

/// How long a peer takes to notice that a connection is dead: keep-alives, and the client's
/// time-out of 60 s without a puback.
const NOTICED_MS: (i64, i64) = (1_000, 60_000);

impl World {
    fn delay(&self) -> i64 {
        self.dice.between(self.plan.delay_ms.0, self.plan.delay_ms.1.max(self.plan.delay_ms.0))
    }

    /// A gateway or bridge asks for a connection; it tries again until it has one.
    pub fn connect(&mut self, peer: Peer) {
        if !self.is_alive(peer) {
            return;
        }
        if !self.broker_up {
            // Full jitter, at most 30 s, as the session has it.
            return self.after(self.dice.between(0, 30_000), What::Connect(peer));
        }
        if let Peer::Gateway(m, _) = peer {
            self.take_over(m);
        }
        let id = self.new_conn();
        let (queue, now) = (VecDeque::new(), self.now);
        self.conns.insert(
            id,
            Conn { peer, stalled: false, queue, inflight: 0, up_free_at: now, down_free_at: now },
        );
        match peer {
            Peer::Gateway(m, _) => {
                note!(self, "gateway {m} connected");
                for status in self.retained.values().cloned().collect::<Vec<_>>() {
                    self.after(self.delay(), What::Status(id, status));
                }
                self.gateway_connected(m, id);
            }
            Peer::Bridge(b, _) => self.bridge_connected(b, id),
        }
    }

    /// One client id has one connection: a clone of a card throws the other one out.
    fn take_over(&mut self, m: usize) {
        if !self.faulty {
            return;
        }
        let device = self.machines[m].device.clone();
        let others: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| matches!(conn.peer, Peer::Gateway(other, _) if self.machines[other].device == device))
            .map(|(id, _)| *id)
            .collect();
        others.into_iter().for_each(|conn| self.break_conn(conn));
    }

    /// The connection ends; both sides get to know it.
    pub fn break_conn(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else { return };
        self.after(self.dice.between(0, 100), What::Lost(conn.peer, id));
        if let Peer::Bridge(b, _) = conn.peer {
            self.will(b);
        }
    }

    /// Nothing passes any more; after a while it ends.
    pub fn stall(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.stalled = true;
        let peer = conn.peer;
        self.after(self.dice.between(NOTICED_MS.0, NOTICED_MS.1), What::Lost(peer, id));
    }

    pub fn conn_of(&self, wanted: impl Fn(Peer) -> bool) -> Option<ConnId> {
        let conns: Vec<ConnId> =
            self.conns.iter().filter(|(_, conn)| wanted(conn.peer)).map(|(id, _)| *id).collect();
        (!conns.is_empty()).then(|| self.dice.pick(&conns))
    }

    /// A client hands a message to its connection.
    pub fn publish(&mut self, id: ConnId, topic: Topic, payload: Vec<u8>, about: About) {
        let (delay, now, reorder) = (self.delay(), self.now, self.plan.reorder && self.faulty);
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.stalled) else { return };
        let at = if reorder { now + delay } else { conn.up_free_at.max(now + delay) };
        conn.up_free_at = conn.up_free_at.max(at);
        let gateway = matches!(conn.peer, Peer::Gateway(..));
        let packet = Packet { topic, payload: Rc::new(payload), about: Rc::new(about) };
        self.after(at - now, What::AtBroker(packet, false));
        if gateway {
            // It comes whatever becomes of the message.
            self.after(at - now + self.delay(), What::Puback(id));
        }
    }

    pub fn at_broker(&mut self, packet: Packet, again: bool) {
        if !self.broker_up {
            return;
        }
        let denied = self.denied.is_some_and(|(_, denies)| denies(&packet.topic));
        if denied || (self.faulty && self.dice.chance(self.plan.lose)) {
            note!(self, "the broker drops {}", packet.topic.name());
            return;
        }
        if self.faulty && !again && self.dice.chance(self.plan.duplicate) {
            let late = self.dice.between(0, self.plan.duplicate_late_ms);
            self.after(late, What::AtBroker(packet.clone(), true));
        }
        match &packet.topic {
            Topic::State(device) | Topic::SyncAcks(device) | Topic::Commands(device) => {
                let device = device.clone();
                let to: Vec<ConnId> = self
                    .conns
                    .iter()
                    .filter(|(_, conn)| matches!(conn.peer, Peer::Gateway(m, _) if self.machines[m].device == device))
                    .map(|(id, _)| *id)
                    .collect();
                for id in to {
                    let at = self.down_at(id);
                    self.after(at - self.now, What::ToGateway(id, packet.clone()));
                }
            }
            _ => {}
        }
        match &packet.topic {
            Topic::State(_) | Topic::SyncAcks(_) => {}
            _ => {
                let queue_max = self.plan.queue_max;
                let bridges: Vec<ConnId> = self
                    .conns
                    .iter()
                    .filter(|(_, conn)| matches!(conn.peer, Peer::Bridge(..)))
                    .map(|(id, _)| *id)
                    .collect();
                for id in bridges {
                    let conn = self.conns.get_mut(&id).expect("it was just listed");
                    if conn.queue.len() < queue_max {
                        conn.queue.push_back(packet.clone());
                    }
                    self.deliver(id);
                }
            }
        }
    }

    fn down_at(&mut self, id: ConnId) -> i64 {
        let (delay, now, reorder) = (self.delay(), self.now, self.plan.reorder && self.faulty);
        let Some(conn) = self.conns.get_mut(&id) else { return now };
        let at = if reorder { now + delay } else { conn.down_free_at.max(now + delay) };
        conn.down_free_at = conn.down_free_at.max(at);
        at
    }

    /// To a bridge no more than a window at a time.
    fn deliver(&mut self, id: ConnId) {
        let window = self.plan.window;
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            if conn.stalled || conn.inflight >= window {
                return;
            }
            let Some(packet) = conn.queue.pop_front() else { return };
            conn.inflight += 1;
            let at = self.down_at(id);
            self.after(at - self.now, What::ToBridge(id, packet));
        }
    }

    /// A bridge's puback makes room.
    pub fn puback_from_bridge(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.inflight = conn.inflight.saturating_sub(1);
            self.deliver(id);
        }
    }

    /// The bridge's status, retained.
    pub fn publish_status(&mut self, b: usize, status: BridgeStatus) {
        let status = Rc::new(status);
        self.retained.insert(b, status.clone());
        let gateways: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| matches!(conn.peer, Peer::Gateway(..)))
            .map(|(id, _)| *id)
            .collect();
        for id in gateways {
            let delay = self.delay();
            self.after(delay, What::Status(id, status.clone()));
        }
    }

    fn will(&mut self, b: usize) {
        let offline = BridgeStatus { online: false, ..self.bridges[b].status.clone() };
        self.publish_status(b, offline);
    }

    /// Everything that it held is gone, and every connection.
    pub fn restart_broker(&mut self, down_ms: i64) {
        note!(self, "the broker restarts and knows nothing, down for {down_ms} ms");
        let all: Vec<ConnId> = self.conns.keys().copied().collect();
        all.into_iter().for_each(|conn| self.break_conn(conn));
        self.retained.clear();
        self.broker_up = false;
        self.after(down_ms, What::BrokerUp);
    }

    pub fn is_alive(&self, peer: Peer) -> bool {
        match peer {
            Peer::Gateway(m, life) => {
                self.machines[m].life == life && self.machines[m].process.is_some()
            }
            Peer::Bridge(b, life) => self.bridges[b].life == life && self.bridges[b].running,
        }
    }

    pub fn lost(&mut self, peer: Peer, id: ConnId) {
        self.conns.remove(&id);
        if !self.is_alive(peer) {
            return;
        }
        match peer {
            Peer::Gateway(m, _) => self.gateway_lost(m, id),
            Peer::Bridge(b, _) => self.bridge_lost(b, id),
        }
    }
}

/// A topic's last word, for the history.
pub trait Name {
    fn name(&self) -> &'static str;
}

impl Name for Topic {
    fn name(&self) -> &'static str {
        match self {
            Topic::SensorData(_) => "a batch of readings",
            Topic::Alerts(_) | Topic::CommandAcks(_) => "an event",
            Topic::Hello(_) => "a hello",
            Topic::State(_) => "a state",
            Topic::SyncAcks(_) => "sync acks",
            Topic::Commands(_) => "a command",
            _ => "something",
        }
    }
}
