//! A transaction, step by step. Between any two of them others may run.

use fieldpost_bridge::engine::{HelloRow, StreamRow};
use fieldpost_bridge::store::{
    Alarm, DeviceRef, DeviceWord, EpochRef, Identity, LockedStream, NAMED_EPOCHS_MAX,
    NewDeadLetter, NewReadings, StoreError, StreamRef, Txn,
};
use fieldpost_protocol::{
    Clock, DeviceId, Epoch, Event, EventKind, HelloStream, Meta, Seq, Stream, StreamKey, Value,
};
use std::collections::BTreeMap;

use super::{EpochData, Lock, MemTxn, Moods, Result, unavailable};

impl Txn for MemTxn<'_> {
    fn identity(&mut self) -> Result<Identity> {
        match self.store.rules.gen_in_transaction {
            true => Ok(self.store.shared.borrow().db.identity),
            false => Ok(self.store.known),
        }
    }

    fn device(&mut self, device: &DeviceId, _now: i64) -> Result<DeviceRef> {
        self.gap();
        let known = self.devices.get(device).copied();
        let known = known.or_else(|| self.store.shared.borrow().db.devices.get(device).copied());
        if let Some(at) = known {
            return Ok(DeviceRef(at));
        }
        self.lock(Lock::Device(device.clone()))?;
        let at = self.new_ref();
        self.devices.insert(device.clone(), at);
        Ok(DeviceRef(at))
    }

    fn seen(&mut self, _device: DeviceRef, _now: i64) -> Result<()> {
        Ok(())
    }

    fn word(&mut self, _device: DeviceRef, _word: DeviceWord<'_>) -> Result<()> {
        Ok(())
    }

    fn meta(&mut self, _device: DeviceRef, _meta: &Meta) -> Result<()> {
        Ok(())
    }

    fn reported(&mut self, _device: DeviceRef, _config: &str) -> Result<()> {
        Ok(())
    }

    fn lock_stream(&mut self, device: DeviceRef, key: StreamKey) -> Result<LockedStream> {
        let epoch = self.epoch(device, key.epoch)?;
        let early = self.stream_at(epoch.0, key.stream);
        self.gap();
        self.lock(Lock::Stream(epoch.0, key.stream as u8))?;
        let late = self.stream_at(epoch.0, key.stream);
        let found = if self.store.rules.lock_before_read { late } else { early.or(late) };
        let (at, row) = match found {
            Some(found) => found,
            None => {
                let at = self.new_ref();
                self.streams.insert(at, (epoch.0, key.stream, StreamRow::default()));
                (at, StreamRow::default())
            }
        };
        Ok(LockedStream { stream: StreamRef(at), epoch, key, row })
    }

    fn save_stream(&mut self, stream: StreamRef, row: &StreamRow) -> Result<()> {
        self.gap();
        let known = self.streams.get(&stream.0).map(|at| (at.0, at.1));
        let known = known.or_else(|| {
            let shared = self.store.shared.borrow();
            shared.db.streams.get(&stream.0).map(|at| (at.0, at.1))
        });
        let Some((epoch, kind)) = known else {
            return Err(StoreError::Damaged("no such stream".to_owned()));
        };
        self.streams.insert(stream.0, (epoch, kind, row.clone()));
        if row.floor_by_absence {
            self.absent.insert(stream.0);
        }
        Ok(())
    }

    fn find_stream(&mut self, device: DeviceRef, key: StreamKey) -> Result<Option<StreamRow>> {
        self.gap();
        Ok(self
            .epoch_at(device, key.epoch)
            .and_then(|epoch| self.stream_at(epoch, key.stream))
            .map(|(_, row)| row))
    }

    fn held_streams(&mut self, device: DeviceRef) -> Result<Vec<LockedStream>> {
        self.gap();
        let mut found: Vec<(StreamKey, i64)> = Vec::new();
        {
            let shared = self.store.shared.borrow();
            let known = shared.db.streams.values().chain(self.streams.values());
            for (epoch, stream, _) in known.filter(|data| !self.forgotten.contains(&data.0)) {
                let data = self.epochs.get(epoch).or_else(|| shared.db.epochs.get(epoch));
                let Some(data) = data.filter(|data| data.device == device.0) else { continue };
                found.push((StreamKey { epoch: data.epoch, stream: *stream }, *epoch));
            }
        }
        found.sort();
        found.dedup();
        let mut held = Vec::new();
        for (key, _) in found {
            let locked = self.lock_stream(device, key)?;
            if locked.row.floor <= locked.row.claimed {
                held.push(locked);
            }
        }
        Ok(held)
    }

    fn fix_time(&mut self, epoch: EpochRef, base: i64, clock: Clock) -> Result<(i64, String)> {
        self.gap();
        let mut data = self.epoch_data(epoch);
        self.lock(Lock::Epoch(data.device, data.epoch))?;
        if let Some(base) = &self.epoch_data(epoch).base {
            return Ok(base.clone());
        }
        let fixed = (base, clock.as_str().to_owned());
        data.base = Some(fixed.clone());
        self.epochs.insert(epoch.0, data);
        Ok(fixed)
    }

    fn insert_readings(&mut self, new: NewReadings<'_>) -> Result<()> {
        self.gap();
        for &(lo, hi) in new.runs {
            for seq in lo..=hi {
                let reading = &new.readings[(seq - new.first) as usize];
                let Some(Value::Int(id)) = reading.metrics.get("n") else {
                    return Err(StoreError::Damaged("a reading without its number".to_owned()));
                };
                let time_ms = new.base + reading.offset_ms;
                self.insert(new.epoch, Stream::Readings, seq, *id as usize, time_ms)?;
            }
        }
        Ok(())
    }

    fn insert_event(&mut self, epoch: EpochRef, seq: Seq, time: i64, event: &Event) -> Result<()> {
        self.gap();
        let message = match &event.kind {
            EventKind::Alert { message, .. } => message,
            EventKind::CommandAck { detail, .. } => detail.as_ref().expect("its number"),
        };
        let id = message
            .parse()
            .map_err(|_| StoreError::Damaged("an event without its number".to_owned()))?;
        self.insert(epoch, Stream::Events, seq, id, time)
    }

    fn dead_letters(&mut self, _device: DeviceRef) -> Result<u64> {
        Ok(0)
    }

    fn insert_dead_letter(&mut self, new: NewDeadLetter<'_>) -> Result<()> {
        self.gap();
        self.dead.push((new.stream.0, new.runs.to_vec()));
        Ok(())
    }

    fn epoch(&mut self, device: DeviceRef, epoch: Epoch) -> Result<EpochRef> {
        self.gap();
        if let Some(at) = self.epoch_at(device, epoch) {
            return Ok(EpochRef(at));
        }
        self.lock(Lock::Epoch(device.0, epoch))?;
        let at = self.new_ref();
        let (hello, staged) = (HelloRow::default(), BTreeMap::new());
        self.epochs.insert(at, EpochData { device: device.0, epoch, base: None, hello, staged });
        Ok(EpochRef(at))
    }

    fn find_epoch(&mut self, device: DeviceRef, epoch: Epoch) -> Result<Option<EpochRef>> {
        self.gap();
        Ok(self.epoch_at(device, epoch).map(EpochRef))
    }

    /// As if the bound were reached each time, and made room: no history is as long as that.
    fn room_for_epochs(&mut self, device: DeviceRef, until: i64) -> Result<u64> {
        self.gap();
        // The others would lock what they let go of, one by one.
        if self.store.moods.one_writer {
            self.forget(device, until);
        }
        Ok(NAMED_EPOCHS_MAX)
    }

    fn hello(&mut self, epoch: EpochRef) -> Result<HelloRow> {
        self.gap();
        let data = self.epoch_data(epoch);
        self.lock(Lock::Epoch(data.device, data.epoch))?;
        Ok(self.epoch_data(epoch).hello)
    }

    fn save_hello(&mut self, epoch: EpochRef, row: &HelloRow) -> Result<()> {
        let mut data = self.epoch_data(epoch);
        data.hello = row.clone();
        self.epochs.insert(epoch.0, data);
        Ok(())
    }

    fn stage_page(&mut self, epoch: EpochRef, page: u32, streams: &[HelloStream]) -> Result<()> {
        let mut data = self.epoch_data(epoch);
        data.staged.insert(page, streams.to_vec());
        self.epochs.insert(epoch.0, data);
        Ok(())
    }

    fn staged(&mut self, epoch: EpochRef) -> Result<Vec<HelloStream>> {
        Ok(self.epoch_data(epoch).staged.into_values().flatten().collect())
    }

    fn unstage(&mut self, epoch: EpochRef) -> Result<()> {
        let mut data = self.epoch_data(epoch);
        data.staged.clear();
        self.epochs.insert(epoch.0, data);
        Ok(())
    }

    fn supersede_others(&mut self, device: DeviceRef, epoch: EpochRef, now: i64) -> Result<()> {
        self.gap();
        let others: Vec<i64> = {
            let shared = self.store.shared.borrow();
            let known = shared.db.epochs.iter().chain(&self.epochs);
            let others = known.filter(|(at, data)| data.device == device.0 && **at != epoch.0);
            let others = others.map(|(at, _)| *at);
            others.filter(|at| !self.forgotten.contains(at)).collect()
        };
        for at in others {
            let data = self.epoch_data(EpochRef(at));
            if data.hello.superseded.is_some() {
                continue;
            }
            self.lock(Lock::Epoch(data.device, data.epoch))?;
            let mut data = self.epoch_data(EpochRef(at));
            data.hello.superseded = Some(now);
            data.hello.staged = None;
            data.staged.clear();
            self.epochs.insert(at, data);
        }
        Ok(())
    }

    fn alarm(&mut self, _alarm: &Alarm, _now: i64) -> Result<()> {
        Ok(())
    }

    fn commit(mut self) -> Result<()> {
        self.gap();
        let Moods { fails, ambiguous, .. } = self.store.moods;
        if self.store.dice.chance(fails) {
            // Said before it is done, and then not done.
            return match self.store.rules.answers_after_commit {
                true => Err(unavailable("the commit failed")),
                false => Ok(()),
            };
        }
        self.apply();
        if self.store.dice.chance(ambiguous) {
            return Err(unavailable("the commit timed out"));
        }
        Ok(())
    }
}
