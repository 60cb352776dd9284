//! A gateway: the engine that ships, on a card, and the loop around it. It does what the
//! product's driver and intake do, and may die between any two effects.

mod card;
mod commands;
mod hear;
mod send;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use fieldpost_gateway::engine::{Engine, Send, Settings};
use fieldpost_protocol::{Clock, Epoch, Gen, Nonce, Seq, StoreId, StreamKey, Topic};

use commands::Desk;
pub use commands::InboxRow;

use crate::outbox::{Current, Image, Now, Outbox};
use crate::plan::Plan;
use crate::world::{About, ConnId, Killed, Peer, What, World, note};

/// Messages without a puback: the driver's window.
const INFLIGHT_MAX: usize = 92;
/// Sends of one row within [`RESEND_WINDOW_MS`], without progress, connection or bridge that
/// would excuse them. Backoff makes five of them.
const RESENDS_MAX: usize = 12;
const RESEND_WINDOW_MS: i64 = 600_000;
/// Hellos in a minute, likewise.
const HELLOS_MAX: usize = 20;

/// A process.
pub struct Process {
    pub engine: Engine,
    pub outbox: Outbox,
    pub conn: Option<ConnId>,
    inflight: usize,
    /// What each puback will be for.
    sent: VecDeque<Option<(StreamKey, Seq)>>,
    readings: Vec<(usize, i64)>,
    events: Vec<(usize, i64)>,
    commit_at: i64,
    commit_planned: bool,
    wake_at: Option<i64>,
    old_tails: bool,
    streams_changed: bool,
    /// The epoch that the engine was told of.
    told_epoch: Epoch,
    /// The time that a bridge told and the card refused.
    time_owed: Option<(i64, Duration)>,
    /// Events and readings whose numbers a mutant gives again.
    doubtful: [usize; 2],
    bodies: HashMap<(StreamKey, Seq, usize), (usize, Vec<u8>)>,
    /// When the first row of a stream was sent since anything excused it.
    resends: HashMap<StreamKey, (Seq, VecDeque<i64>)>,
    hellos: VecDeque<i64>,
    /// What the last state said, for a mutant that forges.
    heard: Option<(StoreId, Gen)>,
    desk: Desk,
}

/// How a commit went, if the process is still there to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    Done,
    Failed,
    /// It failed, and may be durable.
    InDoubt,
}

impl World {
    pub fn clock_of(&self, m: usize) -> Now {
        let machine = &self.machines[m];
        Now {
            boot_ms: self.now - machine.booted_at,
            wall_ms: self.unix_ms() + machine.wall_skew_ms,
            synchronised: machine.synchronised,
        }
    }

    fn boottime(&self, m: usize) -> Duration {
        Duration::from_millis((self.now - self.machines[m].booted_at) as u64)
    }

    pub fn start_gateway(&mut self, m: usize) {
        if self.machines[m].process.is_some() {
            return;
        }
        self.machines[m].life += 1;
        let life = self.machines[m].life;
        match self.open(m) {
            Ok(process) => {
                note!(
                    self,
                    "gateway {m} starts with epoch {}",
                    short(process.outbox.current.epoch)
                );
                self.machines[m].process = Some(process);
                self.with(m, |process, world| process.recall(world, m));
                self.after(self.dice.between(0, 1_000), What::Connect(Peer::Gateway(m, life)));
                self.after(self.plan.trim_every_ms, What::Trim(m, life));
            }
            Err(Killed) => {
                note!(self, "gateway {m} is killed while it starts");
                self.after(self.dice.between(100, 10_000), What::StartGateway(m));
            }
        }
    }

    fn open(&mut self, m: usize) -> Result<Process, Killed> {
        let now = self.clock_of(m);
        let rules = self.switches.rules;
        let mut epoch = Epoch(self.dice.id());
        let mut base = None;
        if !rules.epoch_per_start
            && let Some(last) = self.machines[m].image.epochs.last()
        {
            (epoch, base) = (last.epoch, last.base);
        }
        let current = Current { epoch, boot: self.machines[m].boot, start: now, base };
        let outbox = Outbox::new(current, &self.machines[m].image, self.plan.limits, rules);
        let recovered = self.write(m, |image| {
            if !rules.base_is_persisted {
                image.epochs.iter_mut().for_each(|row| row.base = None);
            }
            outbox.recover(image, now);
        })?;
        if recovered != Commit::Done {
            // It exits, and whoever supervises it starts it again.
            return Err(Killed);
        }
        let mut outbox = outbox;
        if now.synchronised {
            outbox.learn_base(now.skew_ms(), Clock::Ntp);
        }
        let streams = outbox.streams(&self.machines[m].image);
        let Plan { publish_interval_ms, batch_max, hello_streams_max, .. } = self.plan;
        let publish_interval = Duration::from_millis(publish_interval_ms);
        let settings =
            Settings { publish_interval, batch_readings_max: batch_max, hello_streams_max };
        let trusted = self.machines[m].image.trusted;
        let (seed, mut guards) = (self.dice.seed(), self.switches.gateway);
        // It stands in both places.
        guards.gen_forgets_acked = rules.gen_change_forgets;
        let engine = Engine::with_guards(settings, epoch, streams, trusted, seed, guards);
        Ok(Process {
            engine,
            outbox,
            conn: None,
            inflight: 0,
            sent: VecDeque::new(),
            readings: Vec::new(),
            events: Vec::new(),
            commit_at: self.now,
            commit_planned: false,
            wake_at: None,
            old_tails: false,
            streams_changed: false,
            told_epoch: epoch,
            time_owed: None,
            doubtful: [0; 2],
            bodies: HashMap::new(),
            resends: HashMap::new(),
            hellos: VecDeque::new(),
            heard: None,
            desk: Desk::default(),
        })
    }

    /// One transaction on the card.
    fn write(&mut self, m: usize, change: impl FnOnce(&mut Image)) -> Result<Commit, Killed> {
        self.effect()?;
        let probability = if self.faulty { self.plan.disk_fails } else { 0.0 };
        let mut outcome = Commit::Done;
        if self.machines[m].disk_fails || self.dice.chance(probability) {
            if !self.dice.chance(0.3) {
                return Ok(Commit::Failed);
            }
            outcome = Commit::InDoubt;
            if self.dice.chance(0.5) {
                return Ok(outcome);
            }
        }
        let lied = self.machines[m].durable.is_some();
        let before = (self.machines[m].lies > 0.0 && !lied).then(|| self.machines[m].image.clone());
        change(&mut self.machines[m].image);
        if let Some(before) = before {
            let machine = &mut self.machines[m];
            if self.faulty && self.dice.chance(machine.lies) {
                machine.durable = Some(before);
            }
        } else if lied && (!self.faulty || !self.dice.chance(self.machines[m].lies)) {
            self.machines[m].durable = None;
        }
        self.effect()?;
        Ok(outcome)
    }

    /// Lets a process act; if it dies, so be it.
    pub fn with(
        &mut self,
        m: usize,
        act: impl FnOnce(&mut Process, &mut World) -> Result<(), Killed>,
    ) {
        let Some(mut process) = self.machines[m].process.take() else { return };
        let acted = act(&mut process, self).and_then(|()| process.pump(self, m));
        match acted {
            Ok(()) => {
                process.plan_wake(self, m);
                self.machines[m].process = Some(process);
            }
            Err(Killed) => {
                note!(self, "gateway {m} is killed");
                self.bury_gateway(m, process.conn, self.dice.between(100, 10_000));
            }
        }
    }

    /// SIGKILL from outside.
    pub fn kill_gateway(&mut self, m: usize) {
        self.kill_gateway_for(m, self.dice.between(100, 10_000));
    }

    pub fn kill_gateway_for(&mut self, m: usize, ms: i64) {
        if let Some(process) = self.machines[m].process.take() {
            self.bury_gateway(m, process.conn, ms);
        }
    }

    fn bury_gateway(&mut self, m: usize, conn: Option<ConnId>, ms: i64) {
        if let Some(conn) = conn {
            self.break_conn(conn);
        }
        self.after(ms, What::StartGateway(m));
    }

    pub fn measure(&mut self, m: usize) {
        if self.measuring {
            self.after(self.dice.around(self.plan.measure_every_ms), What::Measure(m));
        }
        let boot_ms = self.now - self.machines[m].booted_at;
        let unix_ms = self.unix_ms();
        let (now, interval) = (self.now, self.plan.commit_interval_ms);
        let event = self.dice.chance(0.1);
        let poison = self.faulty && self.dice.chance(self.plan.poison);
        let Some(process) = &mut self.machines[m].process else { return };
        let id = self.truth.borrow_mut().measure(unix_ms, poison);
        let list = if event { &mut process.events } else { &mut process.readings };
        list.push((id, boot_ms));
        if !process.commit_planned {
            process.commit_planned = true;
            let at = if event { now } else { process.commit_at.max(now) };
            process.commit_at = at + interval;
            let life = self.machines[m].life;
            self.after(at - now, What::Commit(m, life));
        }
    }

    pub fn commit(&mut self, m: usize, life: u64) {
        if self.machines[m].life == life {
            self.with(m, |process, world| process.append(world, m));
        }
    }

    pub fn wake(&mut self, m: usize, life: u64) {
        if self.machines[m].life == life {
            let now = self.now;
            self.with(m, |process, _| {
                if process.wake_at.is_some_and(|at| at <= now) {
                    process.wake_at = None;
                }
                Ok(())
            });
        }
    }

    pub fn trim(&mut self, m: usize, life: u64) {
        if self.machines[m].life == life {
            self.after(self.plan.trim_every_ms, What::Trim(m, life));
            self.with(m, |process, world| process.trim(world, m));
        }
    }

    /// A trim out of its turn.
    pub fn trim_gateway(&mut self, m: usize) {
        self.with(m, |process, world| process.trim(world, m));
    }
}

impl Process {
    /// Connections, bridges that come and progress excuse sending again.
    fn excuse(&mut self) {
        self.resends.clear();
        self.hellos.clear();
    }

    /// For the history.
    pub fn told(&self) -> String {
        let Process { conn, inflight, readings, events, commit_planned, wake_at, engine, .. } =
            self;
        let (readings, events, at) = (readings.len(), events.len(), engine.poll_timeout());
        format!(
            "connection {conn:?}, {inflight} without puback, {readings} readings and {events} events to commit \
             (planned: {commit_planned}), wakes at {wake_at:?}, engine wants {at:?}"
        )
    }

    pub(super) fn pump(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        while let Some(notice) = self.engine.poll_notice() {
            self.notice(world, m, notice)?;
        }
        self.serve(world, m)?;
        while self.conn.is_some() && self.inflight < INFLIGHT_MAX {
            let nonce = world.dice.id();
            let Some(send) = self.engine.poll_send(world.boottime(m), || Nonce(nonce)) else {
                break;
            };
            world.effect()?;
            match send {
                Send::Hello(mut page) => {
                    if !world.switches.rules.floor_is_stated {
                        page.streams.iter_mut().for_each(|listed| listed.floor = 1);
                    }
                    note!(
                        world,
                        "gateway {m} says hello {} page {}/{}",
                        page.no,
                        page.page,
                        page.pages
                    );
                    self.judge_hello(world, &page);
                    self.count_hello(world, page.page);
                    let topic = Topic::Hello(world.machines[m].device.clone());
                    let told = match world.is_told() {
                        true => {
                            format!("hello {} page {} of {}", page.no, page.page, short(page.epoch))
                        }
                        false => String::new(),
                    };
                    let names =
                        page.streams.iter().map(|listed| (listed.key, listed.last)).collect();
                    let about = About { names, hello_of: Some(page.epoch), told };
                    self.publish(world, topic, page.encode(), None, about);
                }
                Send::Batch { key, from, rows_max } => self.send(world, m, key, from, rows_max),
            }
        }
        Ok(())
    }

    /// Asks to be woken when the engine wants to act.
    fn plan_wake(&mut self, world: &mut World, m: usize) {
        if self.conn.is_none() || self.inflight >= INFLIGHT_MAX {
            return;
        }
        let Some(at) = self.engine.poll_timeout() else { return };
        // Rounded up: a wake-up before the moment would come again and again.
        let at = at.as_micros().div_ceil(1_000) as i64 + world.machines[m].booted_at;
        let at = at.max(world.now + 1);
        if self.wake_at.is_none_or(|planned| at < planned) {
            self.wake_at = Some(at);
            let life = world.machines[m].life;
            world.after(at - world.now, What::Wake(m, life));
        }
    }
}

pub fn short(epoch: Epoch) -> String {
    epoch.to_string()[..4].to_owned()
}

pub fn told(key: StreamKey) -> String {
    format!("{}/{}", short(key.epoch), key.stream)
}
