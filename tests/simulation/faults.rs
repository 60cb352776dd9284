//! What happens to the world from outside, and how it is healed.

use std::rc::Rc;

use fieldpost_bridge::store::Identity;
use fieldpost_protocol::{Ack, Gen, SyncAcks, Topic, VERSION};

use crate::bridge::CONFUSED_MS;
use crate::outbox::Image;
use crate::plan::Action;
use crate::store::{Db, TRUSTED};
use crate::world::{Denies, Peer, Undo, What, World, note};

/// Cards with one device id that run at the same time.
const CLONES_MAX: usize = 2;

impl World {
    pub fn act(&mut self) {
        if !self.faulty {
            return;
        }
        self.after(self.dice.around(self.plan.action_every_ms), What::Act);
        let total: i64 = self.plan.actions.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.dice.between(1, total);
        let chosen = self.plan.actions.iter().find(|(_, weight)| {
            drawn -= weight;
            drawn <= 0
        });
        let action = chosen.expect("the weights add up").0;
        let m = self.dice.below(self.machines.len());
        let b = self.dice.below(self.bridges.len());
        self.do_action(action, m, b);
    }

    /// One fault, on this machine or this bridge.
    pub fn do_action(&mut self, action: Action, m: usize, b: usize) {
        note!(self, "*** {action:?} (machine {m}, bridge {b})");
        match action {
            Action::KillGateway => self.kill_gateway(m),
            Action::StopGateway => self.stop_gateway(m),
            Action::PowerCut => self.power_cut(m),
            Action::WipeCard => self.replace_card(m, Image::default()),
            Action::SaveImage => self.machines[m].saved = Some(self.machines[m].image.clone()),
            Action::RestoreImage => {
                if let Some(image) = self.machines[m].saved.clone() {
                    self.replace_card(m, image);
                }
            }
            Action::CloneCard => self.clone_card(m),
            Action::DiskFails => {
                self.machines[m].disk_fails = true;
                self.after(self.dice.between(1_000, 60_000), What::Undo(Undo::Disk(m)));
            }
            Action::KillBridge => self.kill_bridge(b),
            Action::StorageFails => {
                self.moods.gone = true;
                self.after(self.dice.between(1_000, 60_000), What::Undo(Undo::Storage));
            }
            Action::Backup => self.backups.push(self.store.borrow().db.clone()),
            Action::RestoreAnnounced => self.restore(true),
            Action::RestoreSilently => self.restore(false),
            Action::OtherStore => {
                // A gateway that meets it first would trust it, by right.
                if self.machines.iter().all(|machine| machine.image.trusts.is_some()) {
                    self.put_on(b, false);
                    self.after(self.dice.between(5_000, 60_000), What::Undo(Undo::Store(b)));
                }
            }
            Action::EmptyStore => {
                let identity = Identity { store: TRUSTED, r#gen: Gen(self.dice.id()) };
                self.put_content(Db::new(identity), true);
            }
            Action::Migrate => {
                let mut db = self.store.borrow().db.clone();
                db.identity.r#gen = Gen(self.dice.id());
                self.put_content(db, true);
            }
            Action::RestartBroker => self.restart_broker(self.dice.between(0, 2_000)),
            Action::StopBroker => self.restart_broker(self.dice.between(10_000, 120_000)),
            Action::LoseGateway | Action::StallGateway => {
                let conn = self.conn_of(|peer| matches!(peer, Peer::Gateway(at, _) if at == m));
                if let Some(conn) = conn {
                    if action == Action::StallGateway {
                        self.stall(conn)
                    } else {
                        self.break_conn(conn)
                    }
                }
            }
            Action::StallBridge => {
                if let Some(conn) =
                    self.conn_of(|peer| matches!(peer, Peer::Bridge(at, _) if at == b))
                {
                    self.stall(conn);
                }
            }
            Action::DenyBatches => {
                self.deny(|topic| matches!(topic, Topic::SensorData(_) | Topic::Alerts(_)))
            }
            Action::DenyHellos => self.deny(|topic| matches!(topic, Topic::Hello(_))),
            Action::DenyAcks => {
                self.deny(|topic| matches!(topic, Topic::SyncAcks(_) | Topic::State(_)))
            }
            Action::SetClock => {
                self.machines[m].synchronised = false;
                self.machines[m].wall_skew_ms +=
                    self.dice.pick(&[-86_400_000, -7_200_000, 7_200_000, 40_000_000]);
            }
            Action::SyncClock => {
                self.machines[m].synchronised = true;
                self.machines[m].wall_skew_ms = 0;
            }
            Action::SetBridgeClock => {
                self.bridge_skew_ms = self.dice.pick(&[0, -3_600_000, 5_000, 3_600_000]);
                // When an epoch was superseded is told by this clock.
                self.store.borrow_mut().db.confused_until = self.unix_ms() + CONFUSED_MS;
            }
            Action::ForgeAck => self.forge_ack(m),
        }
    }

    fn stop_gateway(&mut self, m: usize) {
        self.stop_gateway_for(m, self.dice.between(100, 10_000));
    }

    pub fn stop_gateway_for(&mut self, m: usize, ms: i64) {
        // An orderly end writes down what is acked.
        self.with(m, |process, world| {
            process.outbox.set_acked(&process.engine.acked_streams());
            process.outbox.save_acked(&mut world.machines[m].image);
            Ok(())
        });
        self.kill_gateway_for(m, ms);
    }

    /// Everything that was not really written is gone, and the machine boots anew.
    fn power_cut(&mut self, m: usize) {
        self.kill_gateway(m);
        let boot = self.dice.seed();
        let now = self.now;
        let machine = &mut self.machines[m];
        if let Some(durable) = machine.durable.take() {
            machine.image = durable;
            machine.harmed = true;
        }
        machine.boot = boot;
        machine.booted_at = now;
        if !machine.synchronised {
            // Without a clock battery it is some time ago.
            machine.wall_skew_ms -= 3_600_000;
        }
        self.note_harm();
    }

    fn replace_card(&mut self, m: usize, image: Image) {
        self.power_cut(m);
        let machine = &mut self.machines[m];
        machine.image = image;
        machine.harmed = true;
        self.note_harm();
    }

    fn clone_card(&mut self, m: usize) {
        let device = self.machines[m].device.clone();
        let same = self.machines.iter().filter(|machine| machine.device == device).count();
        if same >= CLONES_MAX {
            return;
        }
        let image = self.machines[m].image.clone();
        let clone = self.add_machine(device, image);
        self.machines[clone].harmed = true;
    }

    /// Puts a backup in place; announced, it is a new incarnation.
    fn restore(&mut self, announced: bool) {
        if self.backups.is_empty() {
            return;
        }
        let mut db = self.backups[self.dice.below(self.backups.len())].clone();
        if announced {
            db.identity.r#gen = Gen(self.dice.id());
        }
        self.put_content(db, announced);
    }

    fn put_content(&mut self, db: Db, announced: bool) {
        if announced && self.dice.chance(0.7) {
            (0..self.bridges.len()).for_each(|b| self.kill_bridge(b));
        }
        self.restored = true;
        self.restored_silently |= !announced;
        let mut shared = self.store.borrow_mut();
        shared.db = db;
        shared.db.went_back = true;
    }

    pub fn deny(&mut self, denies: Denies) {
        let no = self.dice.seed();
        self.denied = Some((no, denies));
        self.after(self.dice.between(5_000, 120_000), What::Undo(Undo::Deny(no)));
    }

    /// Somebody who may write to a device's topics says what no bridge would.
    fn forge_ack(&mut self, m: usize) {
        let conn = self.conn_of(|peer| matches!(peer, Peer::Gateway(at, _) if at == m));
        let streams: Vec<_> = self.machines[m]
            .image
            .streams()
            .map(|(key, held)| (key, held.floor, held.last()))
            .collect();
        let Some(conn) = conn.filter(|_| !streams.is_empty()) else { return };
        let (key, floor, last) = self.dice.pick(&streams);
        let (lo, hi) = if self.dice.chance(0.5) {
            (floor, last + self.dice.between(1, 5) as u64)
        } else {
            let acked = self.machines[m]
                .process
                .as_ref()
                .map_or(Vec::new(), |process| process.engine.acked_streams());
            let acked =
                acked.iter().find(|(known, _)| *known == key).map_or(last, |(_, acked)| *acked);
            if acked + 2 > last {
                return;
            }
            (acked + 2, last)
        };
        let Identity { store, r#gen } = self.store.borrow().db.identity;
        let acks = SyncAcks { v: VERSION, store, r#gen, acks: vec![Ack { key, lo, hi }] };
        let topic = Topic::SyncAcks(self.machines[m].device.clone());
        let about = Rc::default();
        let packet = crate::world::Packet { topic, payload: Rc::new(acks.encode()), about };
        // At once: another sync ack before it could make it join.
        self.gateway_receives(conn, &packet);
    }

    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Deny(no) => self.denied = self.denied.filter(|(denied, _)| *denied != no),
            Undo::Disk(m) => self.machines[m].disk_fails = false,
            Undo::Storage => self.moods.gone = false,
            Undo::Store(b) => self.put_on(b, true),
        }
    }

    /// A gateway that met the other one first, by right: a person reads its alert, runs
    /// `trust-store`, and starts it again.
    pub fn trust_the_right_store(&mut self) {
        for m in 0..self.machines.len() {
            let machine = &self.machines[m];
            let believed = machine.process.as_ref().and_then(|process| process.engine.store());
            if [machine.image.trusts, believed].iter().flatten().any(|store| *store != TRUSTED) {
                self.kill_gateway(m);
                self.machines[m].image.trust(TRUSTED);
            }
        }
    }

    /// From here on nothing fails any more. What a fault has left behind stays.
    pub fn heal(&mut self) {
        note!(self, "*** healed");
        for m in 0..self.machines.len() {
            let told = self.machines[m].process.as_ref().map(|process| process.told());
            note!(self, "gateway {m}: {}", told.unwrap_or_else(|| "not running".to_owned()));
        }
        self.faulty = false;
        self.denied = None;
        self.bridge_skew_ms = 0;
        self.moods =
            crate::store::Moods { one_writer: self.moods.one_writer, ..Default::default() };
        for m in 0..self.machines.len() {
            self.machines[m].disk_fails = false;
            self.machines[m].durable = None;
            self.machines[m].saved = None;
        }
        self.trust_the_right_store();
        self.note_harm();
        for b in 0..self.bridges.len() {
            let on_other = {
                let core = self.bridges[b].core.borrow();
                !Rc::ptr_eq(&core.store.shared, &self.store)
            };
            if on_other {
                self.put_on(b, true);
            }
        }
        let stalled: Vec<_> =
            self.conns.iter().filter(|(_, conn)| conn.stalled).map(|(id, _)| *id).collect();
        stalled.into_iter().for_each(|conn| self.break_conn(conn));
        self.plan.delay_ms = (5, 50);
        // Longer than any hello of these histories, as those of real brokers are.
        self.plan.queue_max = self.plan.queue_max.max(1_000);
        self.plan.txn_ms = self.plan.txn_ms.min(100);
        self.plan.txn_messages_max = 64;
    }
}
