//! A storage in memory that behaves as the trait asks and no better: other bridges' transactions
//! run between any two steps of one, a commit may fail and be durable all the same, and all
//! of it may be swapped for a backup at any moment.
//!
//! A transaction keeps its changes to itself until its commit. Rows that it has locked keep
//! others out: theirs fail, as after a lock time-out.

mod ledger;
mod txn;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fieldpost_bridge::coverage::{Coverage, Run};
use fieldpost_bridge::engine::{CommandRow, HelloRow, StreamRow};
use fieldpost_bridge::store::{DeviceRef, EpochRef, Identity, Store, StoreError};
use fieldpost_protocol::{
    CommandId, DeviceId, Epoch, HelloStream, Instance, Seq, StoreId, Stream, StreamKey,
};
use ledger::Commands;

use crate::dice::Dice;
use crate::mutants::Rules;
use crate::truth::Truth;

/// The storage that gateways trust; whatever else calls itself one is not.
pub const TRUSTED: StoreId = StoreId([0x57; 16]);

/// An epoch in storage.
#[derive(Debug, Clone)]
struct EpochData {
    device: i64,
    epoch: Epoch,
    base: Option<(i64, String)>,
    hello: HelloRow,
    staged: BTreeMap<u32, Vec<HelloStream>>,
}

/// Everything that a backup holds.
#[derive(Debug, Clone)]
pub struct Db {
    pub identity: Identity,
    devices: BTreeMap<DeviceId, i64>,
    epochs: BTreeMap<i64, EpochData>,
    streams: BTreeMap<i64, (i64, Stream, StreamRow)>,
    stored: BTreeMap<(StreamKey, Seq), usize>,
    ids: BTreeSet<usize>,
    commands: Commands,
    lease: Option<(Instance, i64)>,
    pub dead: u64,
    /// The highest row that any committed message has named: what somebody here has heard of.
    pub heard: BTreeMap<StreamKey, Seq>,
    /// Until when a hello of an epoch that nobody knew may have confused it: nothing tells a late
    /// one from that of a new card.
    pub confused_until: i64,
    /// It is a backup, or begins anew: of who has ended it may know nothing.
    pub went_back: bool,
}

impl Db {
    pub fn new(identity: Identity) -> Db {
        Db {
            identity,
            devices: BTreeMap::new(),
            epochs: BTreeMap::new(),
            streams: BTreeMap::new(),
            stored: BTreeMap::new(),
            ids: BTreeSet::new(),
            commands: Commands::new(),
            lease: None,
            dead: 0,
            heard: BTreeMap::new(),
            confused_until: 0,
            went_back: false,
        }
    }

    fn key(&self, at: &(i64, Stream, StreamRow)) -> StreamKey {
        StreamKey { epoch: self.epochs[&at.0].epoch, stream: at.1 }
    }

    /// Whether anything was ever heard of the epoch.
    pub fn is_superseded(&self, epoch: Epoch) -> bool {
        let mut known = self.epochs.values().filter(|data| data.epoch == epoch);
        known.any(|data| data.hello.superseded.is_some())
    }

    pub fn knows(&self, epoch: Epoch) -> bool {
        self.epochs.values().any(|data| data.epoch == epoch)
    }

    /// Somebody asks for this at the bridge's shell; of a device that nobody has heard of, nobody does.
    pub fn ask(&mut self, device: &DeviceId, id: CommandId, row: CommandRow) {
        if let Some(at) = self.devices.get(device) {
            self.commands.insert((*at, id), row);
        }
    }

    /// Every command that is known.
    pub fn ledger(&self) -> impl Iterator<Item = (&CommandId, &CommandRow)> + '_ {
        self.commands.iter().map(|((_, id), row)| (id, row))
    }

    /// Every stream with its row.
    pub fn streams(&self) -> impl Iterator<Item = (StreamKey, &StreamRow)> + '_ {
        self.streams.values().map(|at| (self.key(at), &at.2))
    }

    /// Rows that are gone and not covered: what is shown as missing.
    pub fn missing(&self) -> u64 {
        let gaps = |row: &StreamRow| row.coverage.missing_within(1, row.floor - 1);
        let gaps = self.streams().flat_map(|(_, row)| gaps(row));
        gaps.map(|(lo, hi)| hi + 1 - lo).sum()
    }

    /// Rows that are claimed, held by a gateway, and not covered.
    pub fn waiting(&self) -> Option<(StreamKey, Run)> {
        self.streams().filter(|(_, row)| row.floor <= row.claimed).find_map(|(key, row)| {
            Some((key, *row.coverage.missing_within(row.floor, row.claimed).first()?))
        })
    }
}

/// What all bridges on one storage share.
pub struct Shared {
    pub db: Db,
    locks: BTreeMap<Lock, u64>,
    next_txn: u64,
    next_ref: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Lock {
    Whole,
    Device(DeviceId),
    Epoch(i64, Epoch),
    Stream(i64, u8),
    Commands(i64),
    Lease,
}

impl Shared {
    pub fn new(db: Db) -> Rc<RefCell<Shared>> {
        Rc::new(RefCell::new(Shared { db, locks: BTreeMap::new(), next_txn: 0, next_ref: 0 }))
    }
}

/// How the storage misbehaves now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moods {
    /// One writer at a time, as SQLite has it; else rows are locked one by one.
    pub one_writer: bool,
    /// A commit fails.
    pub fails: f64,
    /// ... and is durable all the same.
    pub ambiguous: f64,
    /// Another bridge's transaction runs between two steps.
    pub gap: f64,
    /// Nothing can be opened.
    pub gone: bool,
}

/// One bridge's way to the storage.
#[derive(Clone)]
pub struct MemStore {
    pub shared: Rc<RefCell<Shared>>,
    pub truth: Rc<RefCell<Truth>>,
    pub dice: Dice,
    pub moods: Moods,
    pub rules: Rules,
    /// Runs another bridge's transaction; not within one that already runs so.
    pub gap: Option<Rc<dyn Fn()>>,
    /// Epochs of processes that run.
    pub live: Rc<RefCell<BTreeSet<Epoch>>>,
    /// The gen that was current when the process last looked.
    pub known: Identity,
}

/// See [`MemStore`].
pub struct MemTxn<'s> {
    store: &'s MemStore,
    id: u64,
    devices: BTreeMap<DeviceId, i64>,
    epochs: BTreeMap<i64, EpochData>,
    streams: BTreeMap<i64, (i64, Stream, StreamRow)>,
    /// Streams that a hello of it did not name; another one may have, in the same transaction.
    absent: BTreeSet<i64>,
    forgotten: BTreeSet<i64>,
    stored: Vec<(i64, Stream, Seq, usize, i64)>,
    dead: Vec<(i64, Vec<Run>)>,
    commands: Commands,
    lease: Option<(Instance, i64)>,
}

type Result<T> = std::result::Result<T, StoreError>;

impl Store for MemStore {
    type Txn<'s> = MemTxn<'s>;

    fn begin(&mut self) -> Result<MemTxn<'_>> {
        if self.moods.gone {
            return Err(unavailable("gone"));
        }
        let id = {
            let mut shared = self.shared.borrow_mut();
            shared.next_txn += 1;
            shared.next_txn
        };
        let txn = MemTxn {
            store: self,
            id,
            devices: BTreeMap::new(),
            epochs: BTreeMap::new(),
            streams: BTreeMap::new(),
            absent: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            stored: Vec::new(),
            dead: Vec::new(),
            commands: Commands::new(),
            lease: None,
        };
        if self.moods.one_writer {
            txn.lock(Lock::Whole)?;
        }
        Ok(txn)
    }

    fn is_look_due(&mut self, _holder: Instance, _now: i64) -> Result<bool> {
        Ok(!self.moods.gone)
    }
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}

impl MemTxn<'_> {
    /// Time for others.
    fn gap(&self) {
        if let Some(gap) = &self.store.gap
            && self.store.dice.chance(self.store.moods.gap)
        {
            gap();
        }
    }

    fn lock(&self, lock: Lock) -> Result<()> {
        let mut shared = self.store.shared.borrow_mut();
        match shared.locks.get(&lock) {
            Some(&holder) if holder != self.id => Err(unavailable("locked by another bridge")),
            _ => {
                shared.locks.insert(lock, self.id);
                Ok(())
            }
        }
    }

    fn new_ref(&self) -> i64 {
        let mut shared = self.store.shared.borrow_mut();
        shared.next_ref += 1;
        shared.next_ref
    }

    fn epoch_data(&self, epoch: EpochRef) -> EpochData {
        match self.epochs.get(&epoch.0) {
            Some(data) => data.clone(),
            None => self.store.shared.borrow().db.epochs[&epoch.0].clone(),
        }
    }

    fn epoch_at(&self, device: DeviceRef, epoch: Epoch) -> Option<i64> {
        let same = |data: &EpochData| data.device == device.0 && data.epoch == epoch;
        let own = self.epochs.iter().find(|(_, data)| same(data)).map(|(at, _)| *at);
        own.or_else(|| {
            let shared = self.store.shared.borrow();
            let is_there = |at: &&i64| !self.forgotten.contains(*at);
            let mut found = shared.db.epochs.iter().filter(|(_, data)| same(data));
            found.find(|(at, _)| is_there(at)).map(|(at, _)| *at)
        })
    }

    /// Lets go of epochs of the past of which nothing is known but that they were.
    fn forget(&mut self, device: DeviceRef, until: i64) {
        let shared = self.store.shared.borrow();
        let db = &shared.db;
        let is_empty = |row: &StreamRow| row.claimed == 0 && row.coverage == Coverage::default();
        let holds = |epoch: i64| {
            let own = self.streams.values();
            let known = db.streams.iter().filter(|(at, _)| !self.streams.contains_key(at));
            let mut streams = own.chain(known.map(|(_, data)| data));
            streams.any(|data| data.0 == epoch && !is_empty(&data.2))
        };
        let all = self.epochs.iter().chain(&db.epochs);
        let past = all.filter(|(at, data)| {
            let data = self.epochs.get(at).unwrap_or(data);
            let is_past = data.hello.superseded.is_some_and(|at| at <= until);
            data.device == device.0 && data.base.is_none() && is_past
        });
        let claims_stay = self.store.rules.claims_are_never_forgotten;
        let gone: Vec<i64> =
            past.map(|(at, _)| *at).filter(|&at| !(claims_stay && holds(at))).collect();
        drop(shared);
        for at in gone {
            self.epochs.remove(&at);
            self.streams.retain(|_, data| data.0 != at);
            self.forgotten.insert(at);
        }
    }

    fn stream_at(&self, epoch: i64, stream: Stream) -> Option<(i64, StreamRow)> {
        let same = |at: &(i64, Stream, StreamRow)| at.0 == epoch && at.1 == stream;
        let own = self.streams.iter().find(|(_, at)| same(at));
        own.map(|(at, data)| (*at, data.2.clone())).or_else(|| {
            let shared = self.store.shared.borrow();
            let found = shared.db.streams.iter().find(|(_, at)| same(at));
            found.map(|(at, data)| (*at, data.2.clone()))
        })
    }

    fn insert(
        &mut self,
        epoch: EpochRef,
        stream: Stream,
        seq: Seq,
        id: usize,
        time_ms: i64,
    ) -> Result<()> {
        let facts = self.store.truth.borrow();
        let poison = facts.facts.get(id).is_some_and(|fact| fact.poison);
        drop(facts);
        if poison {
            return Err(match self.store.rules.poison_is_kept {
                true => StoreError::Refused("poison".to_owned()),
                false => unavailable("poison"),
            });
        }
        if self.store.rules.rows_are_inserted || !self.store.dice.chance(0.05) {
            self.stored.push((epoch.0, stream, seq, id, time_ms));
        }
        Ok(())
    }

    fn apply(&mut self) {
        let mut guard = self.store.shared.borrow_mut();
        let shared = &mut *guard;
        let db = &mut shared.db;
        let trusted = db.identity.store == TRUSTED;
        let mut truth = self.store.truth.borrow_mut();
        db.devices.append(&mut self.devices);
        for (key, row) in std::mem::take(&mut self.commands) {
            let ending = row.ending.clone();
            let before = db.commands.insert(key.clone(), row).and_then(|before| before.ending);
            // What follows from the ledger alone may be put right; what a gateway has said stays.
            if before.as_ref().is_some_and(|before| !before.concluded) && before != ending {
                let told = [before, ending].map(|ending| ending.and_then(|it| it.detail));
                truth.violate(format!("the outcome of command {} changed: {told:?}", key.1));
            }
        }
        db.lease = self.lease.or(db.lease);
        db.epochs.retain(|at, _| !self.forgotten.contains(at));
        db.streams.retain(|_, data| !self.forgotten.contains(&data.0));
        db.epochs.append(&mut self.epochs);
        for (at, data) in std::mem::take(&mut self.streams) {
            let key = db.key(&data);
            let none = Coverage::default();
            let before = db.streams.get(&at).map_or(&none, |(_, _, row)| &row.coverage);
            let runs = data.2.coverage.runs().iter();
            let new = runs.flat_map(|&(lo, hi)| before.missing_within(lo, hi));
            for seq in new.flat_map(|(lo, hi)| lo..=hi) {
                let same = |row: &(i64, Stream, Seq, usize, i64)| {
                    (row.0, row.1, row.2) == (data.0, data.1, seq)
                };
                let within = |run: &Run| run.0 <= seq && seq <= run.1;
                let dead = |letter: &(i64, Vec<Run>)| letter.0 == at && letter.1.iter().any(within);
                if !self.stored.iter().any(same) && !self.dead.iter().any(dead) {
                    let what = "neither stored nor in a dead letter";
                    truth.violate(format!("row {seq} of {key} is covered, and {what}"));
                }
            }
            for &(lo, hi) in data.2.coverage.runs().iter().filter(|_| trusted) {
                truth.cover(key, lo, hi);
            }
            let row = data.2.clone();
            let before = db.streams.insert(at, data);
            let stated =
                |before: &StreamRow| !(before.floor_by_absence || self.absent.contains(&at));
            let before = before.filter(|(_, _, before)| stated(before));
            if let Some((_, _, before)) = before.filter(|(_, _, before)| row.floor < before.floor) {
                let (from, to) = (before.floor, row.floor);
                truth.violate(format!(
                    "the floor of {key} went back from {from} to {to}: what is gone waits again"
                ));
            }
        }
        for (epoch, stream, seq, id, time_ms) in self.stored.drain(..) {
            let data = &db.epochs[&epoch];
            let key = StreamKey { epoch: data.epoch, stream };
            let clock = data.base.as_ref().map_or("", |(_, clock)| clock);
            if let Some(other) = db.stored.insert((key, seq), id) {
                truth.violate(format!("row {seq} of {key} is stored twice: {other}, {id}"));
            }
            if !db.ids.insert(id) {
                truth.violate(format!("reading {id} is stored twice, now as row {seq} of {key}"));
            }
            truth.store(key, seq, id, time_ms, clock);
        }
        db.dead += self.dead.drain(..).count() as u64;
    }
}

impl Drop for MemTxn<'_> {
    fn drop(&mut self) {
        self.store.shared.borrow_mut().locks.retain(|_, holder| *holder != self.id);
    }
}
