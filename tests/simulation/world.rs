//! One history: machines with their cards and gateways, a broker, bridges on a storage, and one
//! queue of what happens next, in virtual time.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;

use fieldpost_bridge::store::Identity;
use fieldpost_protocol::{
    BridgeStatus, CommandId, CommandOutcome, Content, DeviceId, Epoch, Gen, Seq, StoreId,
    StreamKey, Topic,
};

use crate::bridge::Bridge;
use crate::dice::Dice;
use crate::gateway::Process;
use crate::mutants::Switches;
use crate::outbox::Image;
use crate::plan::{Plan, Scenario};
use crate::store::{Db, Moods, Shared, TRUSTED};
use crate::truth::Truth;

/// Unix milliseconds of the history's begin.
pub const BEGIN_UNIX_MS: i64 = 1_795_000_000_000;

/// A connection, as the broker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Something died at this very place; nothing after it happens.
pub struct Killed;

/// Whether a broker's rules keep a message back.
pub type Denies = fn(&Topic) -> bool;

/// A published message.
#[derive(Debug, Clone)]
pub struct Packet {
    pub topic: Topic,
    pub payload: Rc<Vec<u8>>,
    pub about: Rc<About>,
}

/// What the judge knows of a message without reading it.
#[derive(Debug, Default)]
pub struct About {
    /// Rows that it says were given.
    pub names: Vec<(StreamKey, Seq)>,
    /// The epoch that a hello comes from.
    pub hello_of: Option<Epoch>,
    /// For the history.
    pub told: String,
}

/// Who holds the other end of a connection, and in which of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Gateway(usize, u64),
    Bridge(usize, u64),
}

/// What happens.
#[derive(Debug)]
pub enum What {
    Measure(usize),
    StartGateway(usize),
    Connect(Peer),
    Commit(usize, u64),
    Wake(usize, u64),
    Trim(usize, u64),
    /// A published message reaches the broker; `true`: it is a duplicate.
    AtBroker(Packet, bool),
    /// The broker's puback, and what of a batch it is for.
    Puback(ConnId),
    ToGateway(ConnId, Packet),
    Status(ConnId, Rc<BridgeStatus>),
    ToBridge(ConnId, Packet),
    Lost(Peer, ConnId),
    StartBridge(usize),
    Transact(usize, u64),
    Tick(usize, u64),
    BrokerUp,
    Undo(Undo),
    Act,
    Ask,
    Board(usize, u64, CommandId, CommandOutcome),
    Doubt(usize, u64),
}

/// The end of a fault that lasts.
#[derive(Debug, Clone, Copy)]
pub enum Undo {
    Deny(u64),
    Disk(usize),
    Storage,
    Store(usize),
}

/// A Pi: its card survives the process.
pub struct Machine {
    pub device: DeviceId,
    pub image: Image,
    /// What a card that lies has really written.
    pub durable: Option<Image>,
    pub saved: Option<Image>,
    pub lies: f64,
    pub boot: u64,
    pub booted_at: i64,
    pub wall_skew_ms: i64,
    pub synchronised: bool,
    pub disk_fails: bool,
    pub process: Option<Process>,
    /// What its board has done: of one that remembers, or not.
    pub board: BTreeSet<(CommandId, Content)>,
    /// Raised with each start of a process.
    pub life: u64,
    /// Its card was rolled back or replaced at some time.
    pub harmed: bool,
}

/// A connection at the broker.
pub struct Conn {
    pub peer: Peer,
    /// Nothing passes any more, and nobody was told.
    pub stalled: bool,
    pub queue: VecDeque<Packet>,
    pub inflight: usize,
    pub up_free_at: i64,
    pub down_free_at: i64,
}

/// See the module.
pub struct World {
    pub now: i64,
    /// The same, for bridges in the middle of a transaction.
    pub clock: Rc<Cell<i64>>,
    pub dice: Dice,
    pub plan: Plan,
    pub switches: Switches,
    pub truth: Rc<RefCell<Truth>>,
    pub machines: Vec<Machine>,
    pub live: Rc<RefCell<BTreeSet<Epoch>>>,
    pub bridges: Vec<Bridge>,
    pub store: Rc<RefCell<Shared>>,
    pub other_store: Rc<RefCell<Shared>>,
    pub backups: Vec<Db>,
    pub moods: Moods,
    pub conns: BTreeMap<ConnId, Conn>,
    pub retained: BTreeMap<usize, Rc<BridgeStatus>>,
    pub broker_up: bool,
    /// Which messages the broker drops now, and the number of the fault.
    pub denied: Option<(u64, Denies)>,
    pub faulty: bool,
    pub measuring: bool,
    pub bridge_skew_ms: i64,
    /// The storage went back at some time, and did not always say so.
    pub restored: bool,
    pub restored_silently: bool,
    pub batches_sent: u64,
    pub first_batch_after: Option<i64>,
    queue: BinaryHeap<Reverse<(i64, u64, usize)>>,
    waiting: Vec<Option<What>>,
    free: Vec<usize>,
    next_no: u64,
    next_conn: u64,
    history: Option<Vec<String>>,
}

/// Adds a line to the history, if anybody wants to read it.
macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if $world.is_told() { $world.tell(format!($($text)*)) }
    };
}
pub(crate) use note;

impl World {
    /// `scenario` changes what the seed has planned.
    pub fn new(seed: u64, scenario: Option<Scenario>, switches: Switches, told: bool) -> World {
        let dice = Dice::new(seed);
        let mut plan = Plan::swarm(&dice);
        if let Some(scenario) = scenario {
            scenario(&mut plan);
        }
        let truth = Rc::new(RefCell::new(Truth::default()));
        let lies = plan.may(crate::plan::Action::SetBridgeClock);
        truth.borrow_mut().clock_lies = lies;
        let identity = Identity { store: TRUSTED, r#gen: Gen(dice.id()) };
        let other = Identity { store: StoreId([0x0F; 16]), r#gen: Gen(dice.id()) };
        let mut world = World {
            now: 0,
            clock: Rc::new(Cell::new(0)),
            dice,
            switches,
            truth,
            machines: Vec::new(),
            live: Rc::default(),
            bridges: Vec::new(),
            store: Shared::new(Db::new(identity)),
            other_store: Shared::new(Db::new(other)),
            backups: Vec::new(),
            moods: Moods {
                one_writer: plan.one_writer,
                fails: plan.txn_fails,
                ambiguous: plan.txn_ambiguous,
                gap: plan.gap,
                gone: false,
            },
            conns: BTreeMap::new(),
            retained: BTreeMap::new(),
            broker_up: true,
            denied: None,
            faulty: true,
            measuring: true,
            bridge_skew_ms: 0,
            restored: false,
            restored_silently: false,
            batches_sent: 0,
            first_batch_after: None,
            queue: BinaryHeap::new(),
            waiting: Vec::new(),
            free: Vec::new(),
            next_no: 0,
            next_conn: 0,
            history: told.then(Vec::new),
            plan,
        };
        world.settle();
        world
    }

    fn settle(&mut self) {
        for device in 0..self.plan.devices {
            let name = format!("pi-{}", device + 1).parse().expect("a device's name");
            self.add_machine(name, Image::default());
        }
        for _ in 0..self.plan.bridges {
            let bridge = Bridge::new(self);
            self.bridges.push(bridge);
        }
        for bridge in 0..self.bridges.len() {
            self.after(self.dice.between(0, 2_000), What::StartBridge(bridge));
        }
        if self.plan.ask_every_ms > 0 {
            self.after(self.dice.around(self.plan.ask_every_ms), What::Ask);
        }
        if !self.plan.actions.is_empty() {
            self.after(self.dice.around(self.plan.action_every_ms), What::Act);
        }
    }

    /// A machine that starts by and by, and measures.
    pub fn add_machine(&mut self, device: DeviceId, image: Image) -> usize {
        let at = self.machines.len();
        let skew = if self.plan.synchronised { 0 } else { -BEGIN_UNIX_MS + 1_000_000 * at as i64 };
        self.machines.push(Machine {
            device,
            image,
            durable: None,
            saved: None,
            lies: self.plan.lying_card,
            boot: self.dice.seed(),
            booted_at: self.now - self.dice.between(1_000, 60_000),
            wall_skew_ms: skew,
            synchronised: self.plan.synchronised,
            disk_fails: false,
            process: None,
            board: BTreeSet::new(),
            life: 0,
            harmed: false,
        });
        self.after(self.dice.between(0, 3_000), What::StartGateway(at));
        self.after(self.dice.between(0, self.plan.measure_every_ms), What::Measure(at));
        at
    }

    pub fn unix_ms(&self) -> i64 {
        BEGIN_UNIX_MS + self.now
    }

    pub fn after(&mut self, ms: i64, what: What) {
        let at = self.now + ms.max(0);
        self.next_no += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.waiting[place] = Some(what);
                place
            }
            None => {
                self.waiting.push(Some(what));
                self.waiting.len() - 1
            }
        };
        self.queue.push(Reverse((at, self.next_no, place)));
    }

    /// Lets everything happen until `until`, or until an invariant is broken.
    pub fn run_until(&mut self, until: i64) {
        while let Some(&Reverse((at, _, place))) = self.queue.peek() {
            if at > until || self.is_broken() {
                break;
            }
            self.queue.pop();
            self.now = at;
            self.clock.set(at);
            let what = self.waiting[place].take().expect("each place is used once");
            self.free.push(place);
            self.happen(what);
        }
        if !self.is_broken() {
            self.now = until;
            self.clock.set(until);
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Measure(m) => self.measure(m),
            What::StartGateway(m) => self.start_gateway(m),
            What::Connect(peer) => self.connect(peer),
            What::Commit(m, life) => self.commit(m, life),
            What::Wake(m, life) => self.wake(m, life),
            What::Trim(m, life) => self.trim(m, life),
            What::AtBroker(packet, again) => self.at_broker(packet, again),
            What::Puback(conn) => self.puback_gateway(conn),
            What::ToGateway(conn, packet) => self.gateway_receives(conn, &packet),
            What::Status(conn, status) => self.status_to_gateway(conn, &status),
            What::ToBridge(conn, packet) => self.bridge_receives(conn, packet),
            What::Lost(peer, conn) => self.lost(peer, conn),
            What::StartBridge(b) => self.start_bridge(b),
            What::Transact(b, life) => self.transact(b, life),
            What::Tick(b, life) => self.tick(b, life),
            What::BrokerUp => self.broker_up = true,
            What::Undo(undo) => self.undo(undo),
            What::Act => self.act(),
            What::Ask => self.ask(),
            What::Doubt(m, life) => self.doubt(m, life),
            What::Board(m, life, id, outcome) => self.board_answers(m, life, &id, outcome),
        }
    }

    pub fn new_conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    /// The moment between two effects; here a process may die.
    pub fn effect(&self) -> Result<(), Killed> {
        if self.faulty && self.dice.chance(self.plan.kill_effect) { Err(Killed) } else { Ok(()) }
    }

    /// Which epochs are appended to.
    pub fn count_living(&mut self) {
        let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        *self.live.borrow_mut() = processes.map(|process| process.outbox.current.epoch).collect();
    }

    pub fn is_broken(&self) -> bool {
        self.truth.borrow().violation.is_some()
    }

    pub fn is_told(&self) -> bool {
        self.history.is_some()
    }

    pub fn tell(&mut self, line: String) {
        let now = self.now;
        if let Some(history) = &mut self.history {
            history.push(format!("{:>10.3} s  {line}", now as f64 / 1_000.0));
        }
    }

    pub fn history(&mut self) -> Vec<String> {
        self.history.take().unwrap_or_default()
    }
}
