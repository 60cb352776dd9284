//! One transaction's work: the engine decides over the rows, the rows are written back, the
//! answers wait for the commit.

use std::collections::{BTreeMap, BTreeSet};

use fieldpost_fail_point::point;
use fieldpost_protocol::{
    Ack, DeviceId, Epoch, Hello, SYNC_ACKS_MAX, State, StateStream, StreamKey, SyncAcks, VERSION,
    VERSIONS_READ,
};

use super::Answer;
use super::parse::{Batch, Work};
use crate::coverage::Run;
use crate::engine::{
    Claim, Content, Engine, HelloPlan, Poison, SUPERSEDED_MS, StreamRow, SyncAckDraft, judge_event,
    judge_readings,
};
use crate::store::{
    Alarm, DEAD_LETTERS_MAX, DeviceRef, DeviceWord, EpochRef, Identity, LockedStream,
    NAMED_EPOCHS_MAX, NewDeadLetter, NewReadings, StoreError, Txn,
};

/// The alarm of a device at [`NAMED_EPOCHS_MAX`].
const TOO_MANY: &str = "too_many_epochs";

/// What a committed transaction has to say.
pub(super) struct Outcome {
    pub(super) identity: Identity,
    pub(super) answers: Vec<Answer>,
    pub(super) alarms: Vec<Alarm>,
    pub(super) readings: u64,
}

/// The work on one transaction.
pub(super) struct Round<'a, T> {
    pub(super) txn: &'a mut T,
    pub(super) engine: &'a Engine,
    /// Storage has refused this content before, for this reason.
    refused: Option<&'a str>,
    pub(super) now: i64,
    devices: BTreeMap<DeviceId, DeviceRef>,
    seen: BTreeSet<DeviceRef>,
    /// How many more epochs a device's hellos may name.
    room: BTreeMap<DeviceRef, u64>,
    acks: BTreeMap<DeviceId, Vec<Ack>>,
    /// Devices with a command that may have become due.
    pub(super) wake: BTreeSet<DeviceRef>,
    pub(super) outcome: Outcome,
}

impl<'a, T: Txn> Round<'a, T> {
    pub(super) fn new(
        txn: &'a mut T,
        engine: &'a Engine,
        refused: Option<&'a str>,
        now: i64,
    ) -> Result<Self, StoreError> {
        let identity = txn.identity()?;
        let (answers, alarms) = (Vec::new(), Vec::new());
        Ok(Round {
            txn,
            engine,
            refused,
            now,
            devices: BTreeMap::new(),
            seen: BTreeSet::new(),
            room: BTreeMap::new(),
            acks: BTreeMap::new(),
            wake: BTreeSet::new(),
            outcome: Outcome { identity, answers, alarms, readings: 0 },
        })
    }

    /// Commands first, so that an answer that came right after finds its command. Then batches, stream
    /// by stream in key order, so that each row is read and written once and two bridges lock in the
    /// same order; then everything else as it came.
    pub(super) fn run<'w>(
        &mut self,
        work: impl Iterator<Item = &'w Work<'w>>,
    ) -> Result<(), StoreError> {
        let mut streams: BTreeMap<(&DeviceId, StreamKey), Vec<&Batch<'_>>> = BTreeMap::new();
        let mut rest = Vec::new();
        for item in work {
            match item {
                Work::Batch(batch) => {
                    let key = (&batch.envelope.dev, batch.envelope.key());
                    streams.entry(key).or_default().push(batch);
                }
                Work::Command(device, command, receipt) => {
                    self.command(device, command, *receipt)?;
                }
                other => rest.push(other),
            }
        }
        for ((device, key), batches) in streams {
            self.stream(device, key, &batches)?;
        }
        rest.into_iter().try_for_each(|item| self.other(item))
    }

    /// Writes down who was heard of, and hands over what waits for the commit.
    pub(super) fn finish(mut self) -> Result<Outcome, StoreError> {
        for alarm in &self.outcome.alarms {
            self.txn.alarm(alarm, self.now)?;
        }
        for &device in &self.seen {
            self.txn.seen(device, self.now)?;
        }
        self.issue_woken()?;
        let Identity { store, r#gen } = self.outcome.identity;
        for (device, acks) in self.acks {
            for acks in acks.chunks(SYNC_ACKS_MAX) {
                let acks = SyncAcks { v: VERSION, store, r#gen, acks: acks.to_vec() };
                self.outcome.answers.push(Answer::SyncAcks(device.clone(), acks));
            }
        }
        Ok(self.outcome)
    }

    fn other(&mut self, work: &Work<'_>) -> Result<(), StoreError> {
        match work {
            Work::Hello(device, hello) => self.hello(device, hello),
            Work::Status { device, online, json, retained } => {
                // A last will or a goodbye proves no life, and a retained status nothing at all.
                let at = self.heard(device, *online && !retained)?;
                let word = DeviceWord { online: *online, status: json, received: self.now };
                self.txn.word(at, word)
            }
            Work::Meta(device, meta, retained) => {
                let at = self.heard(device, !retained)?;
                self.txn.meta(at, meta)
            }
            Work::Reported(device, json, retained) => {
                let at = self.heard(device, !retained)?;
                self.txn.reported(at, json)
            }
            Work::Bad(device, alarm) => {
                self.heard(device, true)?;
                self.outcome.alarms.push(alarm.clone());
                Ok(())
            }
            Work::BadCommand(alarm) => {
                self.outcome.alarms.push(alarm.clone());
                Ok(())
            }
            Work::Batch(_) | Work::Command(..) | Work::Nothing => Ok(()),
        }
    }

    fn heard(&mut self, device: &DeviceId, alive: bool) -> Result<DeviceRef, StoreError> {
        let at = match self.devices.get(device) {
            Some(&at) => at,
            None => {
                let at = self.txn.device(device, self.now)?;
                self.devices.insert(device.clone(), at);
                at
            }
        };
        if alive {
            self.seen.insert(at);
        }
        Ok(at)
    }

    pub(super) fn alarm(&mut self, kind: &'static str, device: &DeviceId, message: String) {
        self.outcome.alarms.push(Alarm { kind, about: device.to_string(), message });
    }

    fn stream(
        &mut self,
        device: &DeviceId,
        key: StreamKey,
        batches: &[&Batch<'_>],
    ) -> Result<(), StoreError> {
        let at = self.heard(device, true)?;
        if self.leaves_no_row(device, at, key, batches)? {
            return Ok(());
        }
        let mut locked = self.txn.lock_stream(at, key)?;
        let before = locked.row.clone();
        let mut draft: Option<SyncAckDraft> = None;
        for batch in batches {
            if !self.batch(at, &mut locked, batch)? {
                continue;
            }
            let claim = Claim { floor: batch.envelope.floor, last: batch.envelope.last };
            match &mut draft {
                Some(draft) => draft.join(claim),
                None => draft = Some(SyncAckDraft::new(claim)),
            }
        }
        if locked.row != before {
            self.txn.save_stream(locked.stream, &locked.row)?;
            point!("ingest.stream_saved");
        }
        if let Some(draft) = draft {
            let ack = self.engine.sync_ack(key, &locked.row, draft);
            self.acks.entry(device.clone()).or_default().push(ack);
        }
        Ok(())
    }

    /// Poison that would be refused, of an epoch that would be one too many: not even its claim is
    /// remembered. Any other batch brings something that is kept, and so makes its epoch known.
    fn leaves_no_row(
        &mut self,
        device: &DeviceId,
        at: DeviceRef,
        key: StreamKey,
        batches: &[&Batch<'_>],
    ) -> Result<bool, StoreError> {
        let is_poison = |batch: &&Batch<'_>| self.refused.is_some() || batch.content.is_err();
        if !batches.iter().all(is_poison)
            || self.txn.dead_letters(at)? < DEAD_LETTERS_MAX
            || self.may_name(at, key.epoch)?
        {
            return Ok(false);
        }
        self.dead_letters_full(device);
        Ok(true)
    }

    fn dead_letters_full(&mut self, device: &DeviceId) {
        let message = format!(
            "{DEAD_LETTERS_MAX} dead letters are open; its next one is refused and stays on the gateway: \
             look at them with `fieldpost-bridge deadletter list`, then retry or drop them"
        );
        self.alarm("dead_letters_full", device, message);
    }

    /// Whether an epoch may have a row without a base: it has one, or there is room for one more.
    fn may_name(&mut self, at: DeviceRef, epoch: Epoch) -> Result<bool, StoreError> {
        if self.txn.find_epoch(at, epoch)?.is_some() {
            return Ok(true);
        }
        let room = match self.room.get(&at) {
            Some(&room) => room,
            None => self.txn.room_for_epochs(at, self.now.saturating_sub(SUPERSEDED_MS))?,
        };
        self.room.insert(at, room.saturating_sub(1));
        if room == 0 {
            self.too_many_epochs(at);
        }
        Ok(room > 0)
    }

    fn too_many_epochs(&mut self, at: DeviceRef) {
        let is_its = |(_, known): &(&DeviceId, &DeviceRef)| **known == at;
        let Some((device, _)) = self.devices.iter().find(is_its) else { return };
        let device = device.clone();
        let is_said = |alarm: &Alarm| alarm.kind == TOO_MANY && alarm.about == device.as_str();
        if !self.outcome.alarms.iter().any(is_said) {
            let message = format!(
                "it has named {NAMED_EPOCHS_MAX} epochs of which nothing is stored; further ones are passed over \
                 until their first batch: what comes is stored as ever, but what is lost of them before is not \
                 shown as missing. Look at what uses its certificate or password, and renew that"
            );
            self.alarm(TOO_MANY, &device, message);
        }
    }

    /// Returns whether the batch is taken: stored, a duplicate, or a dead letter.
    fn batch(
        &mut self,
        device: DeviceRef,
        locked: &mut LockedStream,
        batch: &Batch<'_>,
    ) -> Result<bool, StoreError> {
        let envelope = &batch.envelope;
        let before = locked.row.coverage.clone();
        let runs = match self.engine.plan_batch(&mut locked.row, envelope) {
            Ok(runs) => runs,
            Err(error) => {
                self.alarm("stream_fragmented", &envelope.dev, error.to_string());
                return Ok(false);
            }
        };
        if runs.is_empty() {
            return Ok(true);
        }
        let verdict = match self.refused {
            Some(reason) => Err(Poison(reason.to_owned())),
            None => match &batch.content {
                Ok(content) => self.store(device, locked, batch, content, &runs)?,
                Err(poison) => Err(poison.clone()),
            },
        };
        let Err(poison) = verdict else { return Ok(true) };
        if self.txn.dead_letters(device)? >= DEAD_LETTERS_MAX {
            locked.row.coverage = before;
            self.dead_letters_full(&envelope.dev);
            return Ok(false);
        }
        self.txn.insert_dead_letter(NewDeadLetter {
            stream: locked.stream,
            runs: &runs,
            command_ack: batch.command_ack,
            message: batch.message,
            reason: &poison.0,
            received: self.now,
        })?;
        point!("ingest.dead_letter_inserted");
        self.alarm("poison", &envelope.dev, format!("a batch became a dead letter: {poison}"));
        Ok(true)
    }

    /// Stores what is new of a good body, unless it turns out not to be one after all.
    fn store(
        &mut self,
        device: DeviceRef,
        locked: &LockedStream,
        batch: &Batch<'_>,
        content: &Content,
        runs: &[Run],
    ) -> Result<Result<(), Poison>, StoreError> {
        let envelope = &batch.envelope;
        let epoch = locked.epoch;
        let (base, clock) = self.txn.fix_time(epoch, envelope.base, envelope.clock)?;
        if base != envelope.base || clock != envelope.clock.as_str() {
            let message = format!(
                "epoch {} came with base {} ({}) and now says {} ({}); the first is kept",
                envelope.epoch,
                base,
                clock,
                envelope.base,
                envelope.clock.as_str()
            );
            self.alarm("epoch_time_changed", &envelope.dev, message);
            let again = match content {
                Content::Readings(_) => judge_readings(envelope, base),
                Content::Event(_) => judge_event(envelope, base, batch.command_ack),
            };
            if let Err(poison) = again {
                return Ok(Err(poison));
            }
        }
        match content {
            Content::Readings(readings) => {
                let first = envelope.first;
                self.txn.insert_readings(NewReadings {
                    device,
                    epoch,
                    base,
                    first,
                    readings,
                    runs,
                })?;
                point!("ingest.readings_inserted");
                self.outcome.readings += runs.iter().map(|(lo, hi)| hi - lo + 1).sum::<u64>();
            }
            Content::Event(event) => {
                self.txn.insert_event(epoch, envelope.first, base + event.t, event)?;
                point!("ingest.event_inserted");
                self.stored_event(device, event)?;
            }
        }
        Ok(Ok(()))
    }

    fn hello(&mut self, device: &DeviceId, hello: &Hello) -> Result<(), StoreError> {
        let at = self.heard(device, true)?;
        if !self.may_name(at, hello.epoch)? {
            // It supersedes nobody, and its floors count with the first hello after its first batch.
            self.claim(at, hello)?;
            return self.answer(device, at, hello);
        }
        let epoch = self.txn.epoch(at, hello.epoch)?;
        let before = self.txn.hello(epoch)?;
        let mut is_complete = false;
        match self.engine.plan_hello(&before, hello, self.now) {
            HelloPlan::Nothing => self.claim(at, hello)?,
            HelloPlan::Stage { row, afresh, complete } => {
                if afresh {
                    self.txn.unstage(epoch)?;
                }
                self.txn.stage_page(epoch, hello.page, &hello.streams)?;
                self.txn.save_hello(epoch, &row)?;
                point!("ingest.hello_saved");
                is_complete = complete;
                if complete {
                    self.apply_staged(at, epoch, hello)?;
                } else {
                    self.claim(at, hello)?;
                }
                // Last: of what the hello names, epochs that were not known have a row by now.
                self.txn.supersede_others(at, epoch, self.now)?;
            }
        }
        self.answer(device, at, hello)?;
        if is_complete { self.issue_to(at, hello.epoch) } else { Ok(()) }
    }

    fn apply_staged(
        &mut self,
        at: DeviceRef,
        epoch: EpochRef,
        hello: &Hello,
    ) -> Result<(), StoreError> {
        let all = self.txn.staged(epoch)?;
        let named: BTreeMap<StreamKey, Claim> = all
            .iter()
            .map(|stream| (stream.key, Claim { floor: stream.floor, last: stream.last }))
            .collect();
        self.apply(at, hello.epoch, &named)?;
        self.txn.unstage(epoch)
    }

    /// A page that is not the last, or comes late: only what its streams have given.
    fn claim(&mut self, at: DeviceRef, hello: &Hello) -> Result<(), StoreError> {
        let claims: BTreeMap<StreamKey, u64> =
            hello.streams.iter().map(|stream| (stream.key, stream.last)).collect();
        for (key, last) in claims {
            self.change(at, key, |engine, row| engine.claim_last(row, last))?;
        }
        Ok(())
    }

    /// A whole hello: floors of the named streams; the others are no longer held.
    fn apply(
        &mut self,
        at: DeviceRef,
        current: Epoch,
        named: &BTreeMap<StreamKey, Claim>,
    ) -> Result<(), StoreError> {
        for (&key, &claim) in named {
            let ended = key.epoch != current;
            self.change(at, key, |engine, row| engine.claim_named(row, claim, ended))?;
        }
        for mut locked in self.txn.held_streams(at)? {
            if !named.contains_key(&locked.key) && self.engine.absent(&mut locked.row) {
                self.txn.save_stream(locked.stream, &locked.row)?;
            }
        }
        Ok(())
    }

    /// Nothing, where the stream's epoch is one too many.
    fn change(
        &mut self,
        at: DeviceRef,
        key: StreamKey,
        decide: impl FnOnce(&Engine, &mut StreamRow),
    ) -> Result<(), StoreError> {
        if !self.may_name(at, key.epoch)? {
            return Ok(());
        }
        let LockedStream { stream, mut row, .. } = self.txn.lock_stream(at, key)?;
        let before = row.clone();
        decide(self.engine, &mut row);
        if row != before { self.txn.save_stream(stream, &row) } else { Ok(()) }
    }

    fn answer(
        &mut self,
        device: &DeviceId,
        at: DeviceRef,
        hello: &Hello,
    ) -> Result<(), StoreError> {
        let mut streams = Vec::with_capacity(hello.streams.len());
        for stream in &hello.streams {
            let row = self.txn.find_stream(at, stream.key)?.unwrap_or_default();
            let claim = Claim { floor: stream.floor, last: stream.last };
            let hi = self.engine.stored_up_to(&row, claim);
            streams.push(StateStream { key: stream.key, hi });
        }
        let Identity { store, r#gen } = self.outcome.identity;
        let state = State {
            v: VERSION,
            nonce: hello.nonce,
            attempt: hello.attempt,
            page: hello.page,
            versions: VERSIONS_READ.to_vec(),
            store,
            r#gen,
            time: self.now,
            streams,
        };
        self.outcome.answers.push(Answer::State(device.clone(), state));
        Ok(())
    }
}
