//! What the bridge asks of a storage. Blocking: one storage thread calls it.
//!
//! A transaction sees and changes rows; nothing of it is there before [`Txn::commit`]
//! returns. A commit that fails may yet be durable: after any error the caller takes the
//! same messages again from the start, and coverage, changed in the same transaction as the
//! rows, makes that harmless.
//!
//! [`Txn::lock_stream`] comes first for each stream: it makes the row if need be, locks it
//! against other bridges and returns its coverage. Callers go through streams in the order
//! of (device, key), so that two bridges never wait for each other in a circle.

pub mod ledger;
pub mod sqlite;

use fieldpost_protocol::{
    Clock, DeviceId, Epoch, Event, Gen, HelloStream, Instance, Meta, Reading, Seq, StoreId,
    StreamKey,
};

use crate::coverage::Run;
use crate::engine::{HelloRow, StreamRow};
pub use ledger::{Ledger, LedgerRow};

/// Dead letters that one device may leave open: with bodies of at most 96 KiB, 96 MB.
///
/// At the bound its poison is refused, not sync-acked: it stays on the gateway.
pub const DEAD_LETTERS_MAX: u64 = 1_000;
/// Epochs of one device of which nothing is stored, that only its hellos have named. 10 MB at most.
///
/// Twice the streams that a hello can name. One more makes no row and is answered all the same: what
/// a batch brings of it is stored as ever, but what it claims and never brings is not shown as
/// missing. Before that, [`Txn::room_for_epochs`] lets go of those that hold nothing.
pub const NAMED_EPOCHS_MAX: u64 = 32_768;
/// Devices. A message of one more is dropped: a broker that checks names keeps far below.
///
/// Epochs of a device of which something is stored have no bound of their own: each costs about
/// 150 bytes, and rows that cost more.
pub const DEVICES_MAX: u64 = 100_000;
/// Sources of one device. A reading of one more is poison.
pub const SOURCES_MAX: u64 = 1_000;
/// Alarms kept apart by what they are about; further ones are counted together.
pub const ALARMS_MAX: u64 = 1_000;
/// A device that was not heard of for so long is stale: three heartbeats of 60 s.
pub const STALE_AFTER_MS: i64 = 180_000;

/// Why storage did not do as it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It will never take this content: a dead letter.
    #[error("the storage refuses this content: {0}")]
    Refused(String),
    /// Busy, full, read-only, gone: try again later.
    #[error("the storage cannot be used now: {0}")]
    Unavailable(String),
    /// What it holds makes no sense; a person must look.
    #[error("the storage is damaged: {0}; restore a backup and run `fieldpost-bridge restored`")]
    Damaged(String),
}

/// Which storage, and which incarnation of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// For life.
    pub store: StoreId,
    /// New with each init, restore and migration.
    pub r#gen: Gen,
}

/// A device's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceRef(pub i64);
/// An epoch's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EpochRef(pub i64);
/// A stream's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamRef(pub i64);

/// A stream, locked until the transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedStream {
    /// Its row in storage.
    pub stream: StreamRef,
    /// Its epoch's.
    pub epoch: EpochRef,
    /// Which stream.
    pub key: StreamKey,
    /// What is known about it.
    pub row: StreamRow,
}

/// Readings to store: of `readings`, numbered from `first`, those within `runs`.
#[derive(Debug, Clone, Copy)]
pub struct NewReadings<'a> {
    /// Whose.
    pub device: DeviceRef,
    /// Of which epoch.
    pub epoch: EpochRef,
    /// Unix ms of offset 0.
    pub base: i64,
    /// The number of the first.
    pub first: Seq,
    /// All of the batch.
    pub readings: &'a [Reading],
    /// Which of them are new.
    pub runs: &'a [Run],
}

/// A batch that cannot become rows, kept whole.
#[derive(Debug, Clone, Copy)]
pub struct NewDeadLetter<'a> {
    /// Its stream.
    pub stream: StreamRef,
    /// Which of its rows no other message has covered.
    pub runs: &'a [Run],
    /// It came by `command_acks`.
    pub command_ack: bool,
    /// The message as it came.
    pub message: &'a [u8],
    /// Why.
    pub reason: &'a str,
    /// When, in Unix ms.
    pub received: i64,
}

/// Something that a person should know, counted by kind and by what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Stable name.
    pub kind: &'static str,
    /// Mostly a device's id.
    pub about: String,
    /// What happened and what to do.
    pub message: String,
}

/// What a device says about itself by status.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWord<'a> {
    /// Online, by its own word or its last will.
    pub online: bool,
    /// The whole status, JSON.
    pub status: &'a str,
    /// When it came, in Unix ms.
    pub received: i64,
}

/// A storage.
pub trait Store {
    /// Its transaction; dropped without a commit it leaves nothing.
    type Txn<'s>: Txn
    where
        Self: 's;

    /// Begins a transaction that will write. Waits for another writer, within bounds.
    fn begin(&mut self) -> Result<Self::Txn<'_>, StoreError>;

    /// Whether this bridge has to look at commands in a transaction: one is due and the lease is its
    /// own or free, or its lease is about to end. Asked once a second: it locks nobody out.
    fn is_look_due(&mut self, holder: Instance, now: i64) -> Result<bool, StoreError>;
}

/// One transaction of a [`Store`].
pub trait Txn: Ledger {
    /// Which storage this transaction writes to.
    fn identity(&mut self) -> Result<Identity, StoreError>;

    /// The device's row; made if need be.
    fn device(&mut self, device: &DeviceId, now: i64) -> Result<DeviceRef, StoreError>;
    /// It was heard of at `now` (Unix ms).
    fn seen(&mut self, device: DeviceRef, now: i64) -> Result<(), StoreError>;
    /// Its status, or its last will's.
    fn word(&mut self, device: DeviceRef, word: DeviceWord<'_>) -> Result<(), StoreError>;
    /// Its names, place and units.
    fn meta(&mut self, device: DeviceRef, meta: &Meta) -> Result<(), StoreError>;
    /// The configuration that it reports, JSON.
    fn reported(&mut self, device: DeviceRef, config: &str) -> Result<(), StoreError>;

    /// The stream's row, made if need be, locked against other bridges.
    fn lock_stream(
        &mut self,
        device: DeviceRef,
        key: StreamKey,
    ) -> Result<LockedStream, StoreError>;
    /// Its row after the engine's decisions.
    fn save_stream(&mut self, stream: StreamRef, row: &StreamRow) -> Result<(), StoreError>;
    /// The stream's row if there is one; makes none.
    fn find_stream(
        &mut self,
        device: DeviceRef,
        key: StreamKey,
    ) -> Result<Option<StreamRow>, StoreError>;
    /// The device's streams with `floor <= claimed`, locked, in key order.
    fn held_streams(&mut self, device: DeviceRef) -> Result<Vec<LockedStream>, StoreError>;

    /// Base and clock of the epoch: the first ones given are kept and returned.
    fn fix_time(
        &mut self,
        epoch: EpochRef,
        base: i64,
        clock: Clock,
    ) -> Result<(i64, String), StoreError>;
    /// Stores readings.
    fn insert_readings(&mut self, new: NewReadings<'_>) -> Result<(), StoreError>;
    /// Stores an event; `time` in Unix ms.
    fn insert_event(
        &mut self,
        epoch: EpochRef,
        seq: Seq,
        time: i64,
        event: &Event,
    ) -> Result<(), StoreError>;
    /// How many dead letters of the device are open.
    fn dead_letters(&mut self, device: DeviceRef) -> Result<u64, StoreError>;
    /// Keeps a dead letter.
    fn insert_dead_letter(&mut self, new: NewDeadLetter<'_>) -> Result<(), StoreError>;

    /// The epoch's row; made if need be.
    fn epoch(&mut self, device: DeviceRef, epoch: Epoch) -> Result<EpochRef, StoreError>;
    /// The epoch's row if there is one; makes none.
    fn find_epoch(
        &mut self,
        device: DeviceRef,
        epoch: Epoch,
    ) -> Result<Option<EpochRef>, StoreError>;
    /// How many more epochs of the device, up to [`NAMED_EPOCHS_MAX`], may be made that have no base.
    ///
    /// At the bound it first lets go of those of which nothing is known but that they were: without
    /// a base, superseded at `until` (Unix ms) or before, nothing claimed and nothing covered. What
    /// is heard of one later is taken as of an epoch that was never heard of, which it may as well
    /// be: nothing of it was ever promised. A storage that locks row by row locks them first.
    fn room_for_epochs(&mut self, device: DeviceRef, until: i64) -> Result<u64, StoreError>;
    /// What is known of the epoch's hellos, locked until the transaction ends.
    ///
    /// A hello locks its epoch before streams, a batch its stream before the epoch's time: a storage
    /// that locks row by row has to break a deadlock, by failing one of them as unavailable.
    fn hello(&mut self, epoch: EpochRef) -> Result<HelloRow, StoreError>;
    /// Its row after the engine's decisions; the pages are kept apart.
    fn save_hello(&mut self, epoch: EpochRef, row: &HelloRow) -> Result<(), StoreError>;
    /// Stages a page, in place of an equal one.
    fn stage_page(
        &mut self,
        epoch: EpochRef,
        page: u32,
        streams: &[HelloStream],
    ) -> Result<(), StoreError>;
    /// The streams of all staged pages.
    fn staged(&mut self, epoch: EpochRef) -> Result<Vec<HelloStream>, StoreError>;
    /// Forgets the staged pages.
    fn unstage(&mut self, epoch: EpochRef) -> Result<(), StoreError>;
    /// Every other epoch of the device is one of the past, from `now` (Unix ms) on if it was not
    /// before; their staged pages are forgotten.
    fn supersede_others(
        &mut self,
        device: DeviceRef,
        epoch: EpochRef,
        now: i64,
    ) -> Result<(), StoreError>;

    /// Counts an alarm.
    fn alarm(&mut self, alarm: &Alarm, now: i64) -> Result<(), StoreError>;

    /// Makes all of it durable. On an error it may be durable or not.
    fn commit(self) -> Result<(), StoreError>;
}
