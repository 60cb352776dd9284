//! What the bridge makes of a message, down to the rows in SQLite.

use std::cell::RefCell;

use fieldpost_bridge::coverage::Coverage;
use fieldpost_bridge::engine::{CommandRow, Engine, HelloRow, StreamRow};
use fieldpost_bridge::ingest::{Answer, Incoming, Receipt, ingest as take};
use fieldpost_bridge::store::sqlite::{SqliteStore, SqliteTxn};
use fieldpost_bridge::store::{
    Alarm, DeviceRef, DeviceWord, EpochRef, Identity, Ledger, LedgerRow, LockedStream,
    NewDeadLetter, NewReadings, Store, StoreError, StreamRef, Txn,
};
use fieldpost_protocol::{
    Clock, Command, CommandId, DeviceId, Envelope, Epoch, Event, Hello, HelloStream, Instance,
    Meta, Nonce, SEQ_MAX, Seq, State, Stream, StreamKey, SyncAcks, Topic, VERSION,
};
use tempfile::TempDir;

use super::payload::rows_declared;

pub(crate) fn coverage(bytes: &[u8]) {
    let Some(text) = std::str::from_utf8(bytes).ok() else { return };
    let Ok(coverage) = Coverage::from_json(text) else { return };
    assert_eq!(Coverage::from_json(&coverage.to_json()), Ok(coverage.clone()));
    assert!(coverage.missing_within(1, SEQ_MAX).len() <= coverage.runs().len() + 1);
    for &(lo, hi) in coverage.runs() {
        assert!(coverage.contains(lo) && coverage.contains(hi));
        assert_eq!(coverage.end_of_run_from(lo), hi);
        let mut more = coverage.clone();
        more.insert(lo, hi).expect("nothing new is no new run");
        assert_eq!(more, coverage);
    }
}

/// The first byte says by which topic the rest comes, and whether it was retained.
///
/// ```text
/// 0 sensor_data  1 alerts  2 command_acks  3 sync/hello  4 status  5 meta  6 config/reported
/// 8 9 10         the rest is the body of a batch of 0, 1 or 2, whose envelope is good
/// 128            retained
/// ```
pub(crate) fn ingest(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let mut payload = rest.to_vec();
    if kind & 8 != 0 {
        let stream = if kind & 7 == 0 { Stream::Readings } else { Stream::Events };
        payload = enveloped(payload, stream);
    }
    let device = Envelope::decode(&payload).map(|envelope| envelope.dev);
    let device = device.unwrap_or_else(|_| "pi-1".parse().expect("a device id"));
    let topic = match kind & 7 {
        0 => Topic::SensorData(device),
        1 => Topic::Alerts(device),
        2 => Topic::CommandAcks(device),
        3 => Topic::Hello(device),
        4 => Topic::Status(device),
        5 => Topic::Meta(device),
        6 => Topic::ConfigReported(device),
        _ => Topic::Commands(device),
    };
    let message =
        Incoming { topic, payload, retained: kind & 128 != 0, receipt: Receipt::default() };
    with_storage(|store| {
        if let Topic::Commands(device) = &message.topic {
            return commanded(store, device, &message);
        }
        // Twice in one transaction: the second is a duplicate, or as bad as the first.
        let done = take(store, &Engine::default(), &[message.clone(), message.clone()], NOW);
        assert_eq!((done.error, done.committed), (None, vec![true, true]));
        assert!(done.readings <= 1_000, "stored twice");
        for answer in &done.answers {
            answer_is_one(answer);
        }
    });
}

const NOW: i64 = 1_795_245_000_000;

/// A command for a device that has said hello: adopted once, and perhaps issued.
fn commanded(store: &mut RolledBack, device: &DeviceId, message: &Incoming) {
    let (v, nonce, epoch, streams) = (VERSION, Nonce([1; 16]), Epoch([7; 16]), Vec::new());
    let hello = Hello { v, nonce, attempt: 1, no: 1, page: 1, pages: 1, epoch, streams };
    let hello = Incoming {
        topic: Topic::Hello(device.clone()),
        payload: hello.encode(),
        retained: false,
        receipt: Receipt::default(),
    };
    // Commands are looked at first, and a transaction here leaves nothing behind.
    store.heard_of = Some(device.clone());
    let done = take(store, &Engine::default(), &[hello, message.clone(), message.clone()], NOW);
    store.heard_of = None;
    assert_eq!((done.error, done.committed), (None, vec![true; 3]));
    done.answers.iter().for_each(answer_is_one);
    let issued = |answer: &&Answer| matches!(answer, Answer::Command(..));
    assert!(done.answers.iter().filter(issued).count() <= 1, "issued twice");
}

fn answer_is_one(answer: &Answer) {
    match answer {
        Answer::SyncAcks(_, acks) => {
            assert_eq!(SyncAcks::decode(&acks.encode()).as_ref(), Ok(acks));
            for ack in &acks.acks {
                assert!(1 <= ack.lo && ack.lo - 1 <= ack.hi && ack.hi <= SEQ_MAX, "{ack:?}");
            }
        }
        Answer::State(_, state) => {
            assert_eq!(State::decode(&state.encode()).as_ref(), Ok(state));
        }
        Answer::Command(_, command) => {
            assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(command));
        }
    }
}

fn enveloped(body: Vec<u8>, stream: Stream) -> Vec<u8> {
    let n = if stream == Stream::Events { 1 } else { rows_declared(&body).unwrap_or(1) };
    let envelope = Envelope {
        v: VERSION,
        dev: "pi-1".parse().expect("a device id"),
        epoch: Epoch([7; 16]),
        stream,
        first: 1,
        n,
        floor: 1,
        last: n.max(1),
        base: NOW,
        clock: Clock::Ntp,
        body,
    };
    envelope.encode()
}

/// One storage for all inputs of a thread; each finds it empty.
fn with_storage(work: impl FnOnce(&mut RolledBack)) {
    thread_local! {
        static STORE: RefCell<RolledBack> = RefCell::new(RolledBack::new());
    }
    STORE.with_borrow_mut(work);
}

/// A storage that keeps nothing, so that an input alone decides what happens. What SQLite
/// refuses is a bug: the bridge has called it good.
struct RolledBack {
    store: SqliteStore,
    /// Each transaction begins by hearing of it.
    heard_of: Option<DeviceId>,
    _dir: TempDir,
}

impl RolledBack {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the storage");
        let path = dir.path().join("bridge.db");
        SqliteStore::init(&path, None, NOW).expect("a new storage");
        let store = SqliteStore::open(&path).expect("the storage");
        RolledBack { store, heard_of: None, _dir: dir }
    }
}

impl Store for RolledBack {
    type Txn<'s> = Uncommitted<'s>;

    fn begin(&mut self) -> Result<Uncommitted<'_>, StoreError> {
        let mut txn = self.store.begin()?;
        if let Some(device) = &self.heard_of {
            txn.device(device, NOW)?;
        }
        Ok(Uncommitted(txn))
    }

    fn is_look_due(&mut self, holder: Instance, now: i64) -> Result<bool, StoreError> {
        self.store.is_look_due(holder, now)
    }
}

/// All that a transaction of SQLite does, but the commit.
struct Uncommitted<'s>(SqliteTxn<'s>);

/// The same call, and no refusal.
macro_rules! hands_on {
    ($part:ident { $($name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)* } $($commit:item)?) => {
        impl $part for Uncommitted<'_> {
            $(fn $name(&mut self, $($arg: $kind),*) -> Result<$out, StoreError> {
                let result = self.0.$name($($arg),*);
                assert!(result.is_ok(), "{}: {:?}", stringify!($name), result.err());
                result
            })*

            $($commit)?
        }
    };
}

hands_on! {
    Ledger {
        find_device(device: &DeviceId) -> Option<DeviceRef>;
        command(device: DeviceRef, id: &CommandId) -> Option<CommandRow>;
        has_room_for_command(device: DeviceRef, now: i64) -> bool;
        insert_command(device: DeviceRef, id: &CommandId, row: &CommandRow) -> ();
        save_command(device: DeviceRef, id: &CommandId, row: &CommandRow) -> ();
        wake_commands(device: DeviceRef, now: i64) -> ();
        open_commands(device: Option<DeviceRef>, until: i64, max: u64) -> Vec<LedgerRow>;
        epoch_there(device: DeviceRef, now: i64) -> Option<Epoch>;
        lease(holder: Instance, now: i64) -> bool;
    }
}

hands_on! {
    Txn {
        identity() -> Identity;
        device(device: &DeviceId, now: i64) -> DeviceRef;
        seen(device: DeviceRef, now: i64) -> ();
        word(device: DeviceRef, word: DeviceWord<'_>) -> ();
        meta(device: DeviceRef, meta: &Meta) -> ();
        reported(device: DeviceRef, config: &str) -> ();
        lock_stream(device: DeviceRef, key: StreamKey) -> LockedStream;
        save_stream(stream: StreamRef, row: &StreamRow) -> ();
        find_stream(device: DeviceRef, key: StreamKey) -> Option<StreamRow>;
        held_streams(device: DeviceRef) -> Vec<LockedStream>;
        fix_time(epoch: EpochRef, base: i64, clock: Clock) -> (i64, String);
        insert_readings(new: NewReadings<'_>) -> ();
        insert_event(epoch: EpochRef, seq: Seq, time: i64, event: &Event) -> ();
        dead_letters(device: DeviceRef) -> u64;
        insert_dead_letter(new: NewDeadLetter<'_>) -> ();
        epoch(device: DeviceRef, epoch: Epoch) -> EpochRef;
        find_epoch(device: DeviceRef, epoch: Epoch) -> Option<EpochRef>;
        room_for_epochs(device: DeviceRef, until: i64) -> u64;
        hello(epoch: EpochRef) -> HelloRow;
        save_hello(epoch: EpochRef, row: &HelloRow) -> ();
        stage_page(epoch: EpochRef, page: u32, streams: &[HelloStream]) -> ();
        staged(epoch: EpochRef) -> Vec<HelloStream>;
        unstage(epoch: EpochRef) -> ();
        supersede_others(device: DeviceRef, epoch: EpochRef, now: i64) -> ();
        alarm(alarm: &Alarm, now: i64) -> ();
    }

    fn commit(self) -> Result<(), StoreError> {
        Ok(())
    }
}
