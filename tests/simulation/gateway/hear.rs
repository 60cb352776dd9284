//! What a process hears: connections, pubacks, bridges that come and go, and their answers.

use fieldpost_protocol::{Ack, BridgeStatus, State, SyncAcks, Topic, VERSION};

use super::{Process, told};
use crate::world::{ConnId, Packet, Peer, What, World, note};

impl World {
    pub fn gateway_connected(&mut self, m: usize, conn: ConnId) {
        let now = self.boottime(m);
        self.with(m, |process, _| {
            process.conn = Some(conn);
            process.inflight = 0;
            process.sent.clear();
            process.excuse();
            process.engine.handle_connected(now);
            Ok(())
        });
    }

    pub fn gateway_lost(&mut self, m: usize, conn: ConnId) {
        let life = self.machines[m].life;
        let mut mine = false;
        self.with(m, |process, _| {
            mine = process.conn == Some(conn);
            if mine {
                process.conn = None;
                process.engine.handle_disconnected();
            }
            Ok(())
        });
        if mine {
            note!(self, "gateway {m} has lost its connection");
            self.after(self.dice.between(0, 5_000), What::Connect(Peer::Gateway(m, life)));
        }
    }

    fn gateway_at(&self, conn: ConnId) -> Option<usize> {
        match self.conns.get(&conn)?.peer {
            Peer::Gateway(m, life)
                if !self.conns[&conn].stalled && self.machines[m].life == life =>
            {
                Some(m)
            }
            _ => None,
        }
    }

    pub fn puback_gateway(&mut self, conn: ConnId) {
        let Some(m) = self.gateway_at(conn) else { return };
        self.with(m, |process, world| {
            process.inflight = process.inflight.saturating_sub(1);
            if let Some(Some((key, last))) = process.sent.pop_front()
                && !world.switches.rules.puback_means_nothing
                && let Some((store, r#gen)) = process.heard
            {
                let lo = world.machines[m].image.held(key).map_or(1, |held| held.floor);
                let acks = vec![Ack { key, lo, hi: last }];
                let acks = SyncAcks { v: VERSION, store, r#gen, acks };
                let now = world.boottime(m);
                process.engine.handle_sync_acks(now, &acks);
                process.check_beliefs(world, m);
            }
            Ok(())
        });
    }

    pub fn status_to_gateway(&mut self, conn: ConnId, status: &BridgeStatus) {
        let Some(m) = self.gateway_at(conn) else { return };
        let now = self.boottime(m);
        self.with(m, |process, _| {
            process.excuse();
            process.engine.handle_bridge_status(now, status);
            Ok(())
        });
    }

    pub fn gateway_receives(&mut self, conn: ConnId, packet: &Packet) {
        let Some(m) = self.gateway_at(conn) else { return };
        let now = self.boottime(m);
        self.with(m, |process, world| {
            match &packet.topic {
                Topic::State(_) => {
                    let state =
                        State::decode(&packet.payload).expect("a bridge sends what can be read");
                    note!(world, "gateway {m} hears {}", told_state(&state));
                    process.heard = Some((state.store, state.r#gen));
                    process.engine.handle_state(now, &state);
                }
                Topic::Commands(_) => process.receive_command(&packet.payload),
                _ => {
                    let acks =
                        SyncAcks::decode(&packet.payload).expect("a bridge sends what can be read");
                    note!(world, "gateway {m} hears {}", told_acks(&acks));
                    process.engine.handle_sync_acks(now, &acks);
                }
            }
            process.check_beliefs(world, m);
            Ok(())
        });
    }
}

impl Process {
    fn check_beliefs(&mut self, world: &World, m: usize) {
        let machine = &world.machines[m];
        if self.engine.store().is_some()
            && machine
                .image
                .trusts
                .or(self.engine.store())
                .is_some_and(|store| store != crate::store::TRUSTED)
        {
            // It trusts another storage by right: it met that one first.
            return;
        }
        let mut truth = world.truth.borrow_mut();
        for (key, acked) in self.engine.acked_streams() {
            if let Some(held) = machine.image.held(key) {
                truth.believe(key, held.floor, held.last(), acked);
            }
        }
    }
}

fn told_state(state: &State) -> String {
    let streams: Vec<String> = state
        .streams
        .iter()
        .map(|listed| format!("{} to {}", told(listed.key), listed.hi))
        .collect();
    format!("a state of gen {:.4}: {}", state.r#gen.to_string(), streams.join(", "))
}

fn told_acks(acks: &SyncAcks) -> String {
    let each: Vec<String> =
        acks.acks.iter().map(|ack| format!("{} {}-{}", told(ack.key), ack.lo, ack.hi)).collect();
    format!("sync acks of gen {:.4}: {}", acks.r#gen.to_string(), each.join(", "))
}
