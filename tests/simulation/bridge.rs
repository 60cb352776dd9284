//! A bridge: ingest and engine that ship, on the model of a storage, and the loop around them. It
//! does what the product's driver and storage thread do, and may die between any two effects.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use fieldpost_bridge::engine::Engine;
use fieldpost_bridge::ingest::{Answer, Incoming, Ingested, Receipt, ingest, issue_due};
use fieldpost_bridge::outbound::Outbound;
use fieldpost_bridge::store::StoreError;
use fieldpost_protocol::{BridgeStatus, Instance, Topic};

use crate::store::{MemStore, TRUSTED};
use crate::world::{About, BEGIN_UNIX_MS, ConnId, Killed, Packet, Peer, What, World, note};

/// As the driver has it.
const COMMIT_WITHIN_MS: i64 = 10_000;
const TICK_MS: i64 = 500;
/// By then the gateway that lives has said hello again, and is heard.
pub const CONFUSED_MS: i64 = 75 * 60_000;
const PAUSE_MS: i64 = 500;

/// What a transaction reads and leaves behind; apart from the rest, so that it can run between
/// two steps of another bridge's.
pub struct Core {
    pub store: MemStore,
    engine: Engine,
    queue: VecDeque<Job>,
    done: Vec<(Vec<u64>, Ingested, String)>,
    /// The storage was not available: it is asked again after a pause.
    pauses: bool,
}

struct Job {
    id: u64,
    message: Incoming,
    about: Rc<About>,
}

struct Held {
    conn: ConnId,
    received: i64,
    settled: bool,
}

/// See the module.
pub struct Bridge {
    pub core: Rc<RefCell<Core>>,
    pub running: bool,
    pub life: u64,
    pub status: BridgeStatus,
    conn: Option<ConnId>,
    online: bool,
    held: BTreeMap<u64, Held>,
    owed: BTreeSet<u64>,
    outbound: Outbound,
    next_job: u64,
    planned: bool,
}

impl Bridge {
    pub fn new(world: &World) -> Bridge {
        let identity = world.store.borrow().db.identity;
        let store = MemStore {
            shared: world.store.clone(),
            truth: world.truth.clone(),
            dice: world.dice.clone(),
            moods: world.moods,
            rules: world.switches.rules,
            gap: None,
            live: world.live.clone(),
            known: identity,
        };
        let engine = Engine::with_guards(world.switches.bridge);
        let (queue, done) = (VecDeque::new(), Vec::new());
        let status = BridgeStatus {
            online: false,
            instance: Instance([0; 16]),
            store: identity.store,
            r#gen: identity.r#gen,
            version: None,
            time: None,
        };
        Bridge {
            core: Rc::new(RefCell::new(Core { store, engine, queue, done, pauses: false })),
            running: false,
            life: 0,
            status,
            conn: None,
            online: false,
            held: BTreeMap::new(),
            owed: BTreeSet::new(),
            outbound: Outbound::default(),
            next_job: 0,
            planned: false,
        }
    }
}

impl Core {
    /// One transaction over what is queued.
    fn transact(&mut self, messages_max: usize, now: i64, gap: Option<Rc<dyn Fn()>>) {
        let count = self.queue.len().min(messages_max);
        if count == 0 {
            return;
        }
        let taken: Vec<Job> = self.queue.drain(..count).collect();
        let messages: Vec<Incoming> = taken.iter().map(|job| job.message.clone()).collect();
        let shared = self.store.shared.clone();
        // Of a process that has ended, and nothing here says so.
        let is_late = |job: &Job| {
            job.about.hello_of.is_some_and(|epoch| {
                let db = &shared.borrow().db;
                let obeyed = !db.knows(epoch) || (db.went_back && !db.is_superseded(epoch));
                obeyed && !self.store.live.borrow().contains(&epoch)
            })
        };
        let confusing = taken.iter().any(is_late);
        self.store.gap = gap;
        let ingested = ingest(&mut self.store, &self.engine, &messages, now);
        self.store.gap = None;
        let again = matches!(ingested.error, Some(StoreError::Unavailable(_)));
        self.pauses = again;
        let (mut settled, mut told) = (Vec::new(), String::new());
        let db = &mut shared.borrow_mut().db;
        for answer in &ingested.answers {
            let of = match answer {
                Answer::State(_, state) => state.r#gen,
                Answer::SyncAcks(_, acks) => acks.r#gen,
                Answer::Command(..) => continue,
            };
            let is = db.identity.r#gen;
            if of != is {
                let what = format!("an answer names gen {of}; what was committed is of gen {is}");
                self.store.truth.borrow_mut().violate(what);
            }
        }
        if confusing {
            db.confused_until = db.confused_until.max(now + CONFUSED_MS);
        }
        for (job, committed) in taken.into_iter().zip(&ingested.committed).rev() {
            if *committed {
                for &(key, last) in &job.about.names {
                    let known = db.heard.entry(key).or_default();
                    *known = last.max(*known);
                }
                if !job.about.told.is_empty() {
                    told = format!("{}; {told}", job.about.told);
                }
            }
            if *committed || !again {
                settled.push(job.id);
            } else {
                self.queue.push_front(job);
            }
        }
        self.done.push((settled, ingested, told));
    }
}

impl World {
    /// Lets other bridges' transactions run between the steps of this one's.
    fn gap_of(&self, b: usize) -> Option<Rc<dyn Fn()>> {
        let others: Vec<Rc<RefCell<Core>>> = (0..self.bridges.len())
            .filter(|o| *o != b)
            .map(|o| self.bridges[o].core.clone())
            .collect();
        if others.is_empty() || !self.faulty {
            return None;
        }
        let (dice, clock, skew, max) = (
            self.dice.clone(),
            self.clock.clone(),
            self.bridge_skew_ms,
            self.plan.txn_messages_max,
        );
        Some(Rc::new(move || {
            if let Ok(mut other) = others[dice.below(others.len())].try_borrow_mut() {
                other.transact(max, BEGIN_UNIX_MS + clock.get() + skew, None);
            }
        }))
    }

    pub fn start_bridge(&mut self, b: usize) {
        if self.bridges[b].running {
            return;
        }
        let instance = Instance(self.dice.id());
        let moods = self.moods;
        let bridge = &mut self.bridges[b];
        bridge.life += 1;
        bridge.running = true;
        let life = bridge.life;
        let identity = {
            let mut core = bridge.core.borrow_mut();
            core.queue.clear();
            core.done.clear();
            core.store.moods = moods;
            let identity = core.store.shared.borrow().db.identity;
            core.store.known = identity;
            identity
        };
        bridge.status.instance = instance;
        (bridge.status.store, bridge.status.r#gen) = (identity.store, identity.r#gen);
        note!(self, "bridge {b} starts on gen {:.4}", identity.r#gen.to_string());
        self.after(self.dice.between(0, 1_000), What::Connect(Peer::Bridge(b, life)));
        self.after(TICK_MS, What::Tick(b, life));
    }

    pub fn kill_bridge(&mut self, b: usize) {
        self.kill_bridge_for(b, self.dice.between(100, 10_000));
    }

    pub fn kill_bridge_for(&mut self, b: usize, ms: i64) {
        if !self.bridges[b].running {
            return;
        }
        note!(self, "bridge {b} is killed");
        let bridge = &mut self.bridges[b];
        bridge.running = false;
        bridge.planned = false;
        bridge.core.borrow_mut().queue.clear();
        bridge.core.borrow_mut().done.clear();
        let conn = bridge.conn;
        self.forget(b);
        if let Some(conn) = conn {
            self.break_conn(conn);
        }
        self.after(ms, What::StartBridge(b));
    }

    /// A connection is gone: nothing of it counts. What is queued for storage is stored.
    fn forget(&mut self, b: usize) {
        let bridge = &mut self.bridges[b];
        bridge.conn = None;
        bridge.online = false;
        bridge.held.clear();
        bridge.owed.clear();
        bridge.outbound.clear();
    }

    pub fn bridge_connected(&mut self, b: usize, conn: ConnId) {
        self.bridges[b].conn = Some(conn);
        self.announce(b);
    }

    pub fn bridge_lost(&mut self, b: usize, conn: ConnId) {
        if self.bridges[b].conn == Some(conn) {
            note!(self, "bridge {b} has lost its connection");
            self.forget(b);
            let life = self.bridges[b].life;
            self.after(self.dice.between(0, 5_000), What::Connect(Peer::Bridge(b, life)));
        }
    }

    fn announce(&mut self, b: usize) {
        let bridge = &mut self.bridges[b];
        if bridge.online
            || bridge.conn.is_none_or(|conn| self.conns.get(&conn).is_none_or(|conn| conn.stalled))
        {
            return;
        }
        bridge.online = true;
        let status = BridgeStatus { online: true, ..bridge.status.clone() };
        self.publish_status(b, status);
    }

    pub fn bridge_receives(&mut self, conn: ConnId, packet: Packet) {
        let Some(known) = self.conns.get(&conn).filter(|known| !known.stalled) else { return };
        let Peer::Bridge(b, life) = known.peer else { return };
        if self.bridges[b].life != life || self.bridges[b].conn != Some(conn) {
            return;
        }
        let received = self.now;
        let bridge = &mut self.bridges[b];
        bridge.next_job += 1;
        let job = bridge.next_job;
        let receipt = Receipt { by: bridge.status.instance, id: self.dice.id() };
        let (topic, payload) = (packet.topic, packet.payload.to_vec());
        let message = Incoming { topic, payload, retained: false, receipt };
        bridge.core.borrow_mut().queue.push_back(Job { id: job, message, about: packet.about });
        bridge.held.insert(job, Held { conn, received, settled: false });
        self.plan_transaction(b, self.plan.txn_ms);
    }

    fn plan_transaction(&mut self, b: usize, mean_ms: i64) {
        if !self.bridges[b].planned && !self.bridges[b].core.borrow().queue.is_empty() {
            self.bridges[b].planned = true;
            let life = self.bridges[b].life;
            self.after(self.dice.around(mean_ms), What::Transact(b, life));
        }
    }

    pub fn transact(&mut self, b: usize, life: u64) {
        if self.bridges[b].life != life || !self.bridges[b].running {
            return;
        }
        self.bridges[b].planned = false;
        for bridge in &self.bridges {
            bridge.core.borrow_mut().store.moods = self.moods;
        }
        self.count_living();
        let gap = self.gap_of(b);
        let core = self.bridges[b].core.clone();
        let now = self.unix_ms() + self.bridge_skew_ms;
        core.borrow_mut().transact(self.plan.txn_messages_max, now, gap);
        for other in 0..self.bridges.len() {
            let done = std::mem::take(&mut self.bridges[other].core.borrow_mut().done);
            for (settled, ingested, told) in done {
                if !told.is_empty() {
                    note!(self, "bridge {other} commits {told}");
                }
                if self.finish(other, &settled, ingested).is_err() {
                    self.kill_bridge(other);
                }
            }
        }
        self.judge_storage();
        let pauses = self.bridges[b].core.borrow().pauses;
        let mean_ms = if pauses { PAUSE_MS } else { self.plan.txn_ms };
        self.plan_transaction(b, mean_ms);
    }

    /// COMMIT, then the answers, then the pubacks.
    fn finish(&mut self, b: usize, settled: &[u64], ingested: Ingested) -> Result<(), Killed> {
        if !self.bridges[b].running {
            return Ok(());
        }
        if let Some(error) = &ingested.error {
            note!(self, "bridge {b}: {error}");
        }
        self.effect()?;
        let bridge = &mut self.bridges[b];
        if let Some(identity) = ingested.identity.filter(|new| new.r#gen != bridge.status.r#gen) {
            (bridge.status.store, bridge.status.r#gen) = (identity.store, identity.r#gen);
            bridge.online = false;
            self.announce(b);
        }
        let bridge = &mut self.bridges[b];
        ingested.answers.into_iter().for_each(|answer| bridge.outbound.push(answer));
        for job in settled {
            if let Some(held) = bridge.held.get_mut(job) {
                held.settled = true;
                bridge.owed.insert(*job);
            }
        }
        self.flush(b)
    }

    fn flush(&mut self, b: usize) -> Result<(), Killed> {
        let Some(conn) = self.bridges[b].conn else { return Ok(()) };
        while let Some(mut answer) = self.bridges[b].outbound.next() {
            self.effect()?;
            let (topic, payload) = match &mut answer {
                Answer::State(device, state) => {
                    state.time = BEGIN_UNIX_MS + self.now + self.bridge_skew_ms;
                    (Topic::State(device.clone()), state.encode())
                }
                Answer::SyncAcks(device, acks) => (Topic::SyncAcks(device.clone()), acks.encode()),
                Answer::Command(device, command) => {
                    (Topic::Commands(device.clone()), command.encode())
                }
            };
            self.publish(conn, topic, payload, About::default());
            self.bridges[b].outbound.taken(&answer);
        }
        for job in std::mem::take(&mut self.bridges[b].owed) {
            self.effect()?;
            if let Some(held) = self.bridges[b].held.remove(&job) {
                self.puback_from_bridge(held.conn);
            }
        }
        Ok(())
    }

    /// What is not committed in time is pubacked without a sync ack, and forgotten.
    pub fn tick(&mut self, b: usize, life: u64) {
        if self.bridges[b].life != life || !self.bridges[b].running {
            return;
        }
        self.after(TICK_MS, What::Tick(b, life));
        self.announce(b);
        self.issue_due(b);
        let late = self.now - COMMIT_WITHIN_MS;
        while let Some((&job, held)) = self.bridges[b].held.first_key_value() {
            if held.received > late {
                break;
            }
            let held = self.bridges[b].held.remove(&job).expect("it is the first");
            self.bridges[b].owed.remove(&job);
            if !held.settled {
                note!(self, "bridge {b} forgets a message that was not committed in time");
                self.bridges[b].core.borrow_mut().queue.retain(|queued| queued.id != job);
            }
            self.puback_from_bridge(held.conn);
        }
    }

    /// Commands that are due, once in so many ticks.
    fn issue_due(&mut self, b: usize) {
        if self.plan.ask_every_ms == 0 || self.bridges[b].conn.is_none() {
            return;
        }
        let holder = self.bridges[b].status.instance;
        let now = self.unix_ms() + self.bridge_skew_ms;
        let core = self.bridges[b].core.clone();
        let ingested = {
            let core = &mut *core.borrow_mut();
            core.store.moods = self.moods;
            issue_due(&mut core.store, &core.engine, holder, now)
        };
        if self.finish(b, &[], ingested).is_err() {
            self.kill_bridge(b);
        }
    }

    /// Puts a bridge on another storage, as a wrong configuration does; it starts anew.
    pub fn put_on(&mut self, b: usize, trusted: bool) {
        self.kill_bridge(b);
        let shared = if trusted { &self.store } else { &self.other_store };
        let mut core = self.bridges[b].core.borrow_mut();
        core.store.shared = shared.clone();
        debug_assert_eq!(trusted, shared.borrow().db.identity.store == TRUSTED);
    }
}
