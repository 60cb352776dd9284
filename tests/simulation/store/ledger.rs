//! The ledger of commands in a transaction. A device's commands are locked together.

use fieldpost_bridge::engine::CommandRow;
use fieldpost_bridge::store::ledger::{LEASE_MS, OPEN_COMMANDS_MAX};
use fieldpost_bridge::store::{DeviceRef, Ledger, LedgerRow, StoreError};
use fieldpost_protocol::{CommandId, DeviceId, Epoch, Instance};
use std::collections::{BTreeMap, BTreeSet};

use super::{EpochData, Lock, MemTxn, Result};

pub(super) type Commands = BTreeMap<(i64, CommandId), CommandRow>;

impl MemTxn<'_> {
    /// As this transaction sees them: `look` at each.
    fn each_command(&self, mut look: impl FnMut(&(i64, CommandId), &CommandRow)) {
        let shared = self.store.shared.borrow();
        let before = shared.db.commands.iter().filter(|(key, _)| !self.commands.contains_key(*key));
        before.chain(&self.commands).for_each(|(key, row)| look(key, row));
    }
}

impl Ledger for MemTxn<'_> {
    fn find_device(&mut self, device: &DeviceId) -> Result<Option<DeviceRef>> {
        self.gap();
        let own = self.devices.get(device).copied();
        let known = own.or_else(|| self.store.shared.borrow().db.devices.get(device).copied());
        Ok(known.map(DeviceRef))
    }

    fn command(&mut self, device: DeviceRef, id: &CommandId) -> Result<Option<CommandRow>> {
        self.gap();
        self.lock(Lock::Commands(device.0))?;
        let key = (device.0, id.clone());
        let own = self.commands.get(&key).cloned();
        Ok(own.or_else(|| self.store.shared.borrow().db.commands.get(&key).cloned()))
    }

    fn has_room_for_command(&mut self, device: DeviceRef, _now: i64) -> Result<bool> {
        self.lock(Lock::Commands(device.0))?;
        let mut open = 0;
        self.each_command(|key, row| {
            open += u64::from(key.0 == device.0 && row.ending.is_none());
        });
        Ok(open < OPEN_COMMANDS_MAX)
    }

    fn insert_command(
        &mut self,
        device: DeviceRef,
        id: &CommandId,
        row: &CommandRow,
    ) -> Result<()> {
        self.save_command(device, id, row)
    }

    fn save_command(&mut self, device: DeviceRef, id: &CommandId, row: &CommandRow) -> Result<()> {
        self.gap();
        self.lock(Lock::Commands(device.0))?;
        self.commands.insert((device.0, id.clone()), row.clone());
        Ok(())
    }

    fn wake_commands(&mut self, device: DeviceRef, now: i64) -> Result<()> {
        self.gap();
        self.lock(Lock::Commands(device.0))?;
        let mut open = Vec::new();
        self.each_command(|key, row| {
            if key.0 == device.0 && row.ending.is_none() {
                open.push((key.clone(), CommandRow { next_at: now, ..row.clone() }));
            }
        });
        self.commands.extend(open);
        Ok(())
    }

    fn open_commands(
        &mut self,
        device: Option<DeviceRef>,
        until: i64,
        max: u64,
    ) -> Result<Vec<LedgerRow>> {
        self.gap();
        let is_due = |key: &(i64, CommandId), row: &CommandRow| {
            device.is_none_or(|device| device.0 == key.0)
                && row.ending.is_none()
                && row.next_at <= until
        };
        let mut locked: BTreeSet<i64> = BTreeSet::new();
        self.each_command(|key, _| {
            locked.insert(key.0);
        });
        for device in locked {
            self.lock(Lock::Commands(device))?;
        }
        let mut due: Vec<((i64, CommandId), CommandRow)> = Vec::new();
        self.each_command(|key, row| {
            if is_due(key, row) {
                due.push((key.clone(), row.clone()));
            }
        });
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let names: BTreeMap<i64, DeviceId> = {
            let shared = self.store.shared.borrow();
            let known = shared.db.devices.iter().chain(&self.devices);
            known.map(|(id, at)| (*at, id.clone())).collect()
        };
        let mut open: Vec<LedgerRow> = Vec::new();
        for ((at, id), row) in due {
            let device_id = names.get(&at).cloned();
            let device_id =
                device_id.ok_or_else(|| StoreError::Damaged("no such device".to_owned()))?;
            open.push(LedgerRow { device: DeviceRef(at), device_id, id, row });
        }
        open.sort_by_key(|open| {
            let next_at = device.map_or(open.row.next_at, |_| 0);
            (next_at, open.row.created, open.id.clone())
        });
        open.truncate(max as usize);
        Ok(open)
    }

    /// Every device that has said hello is there: what was published to one that is not is lost.
    fn epoch_there(&mut self, device: DeviceRef, _now: i64) -> Result<Option<Epoch>> {
        self.gap();
        let shared = self.store.shared.borrow();
        let known = shared.db.epochs.keys().chain(self.epochs.keys());
        let there = known.filter(|at| !self.forgotten.contains(*at)).filter_map(|at| {
            let data: &EpochData = self.epochs.get(at).or_else(|| shared.db.epochs.get(at))?;
            let is_it = data.device == device.0
                && data.hello.superseded.is_none()
                && data.hello.applied.is_some();
            is_it.then_some((*at, data.epoch))
        });
        Ok(there.max().map(|(_, epoch)| epoch))
    }

    fn lease(&mut self, holder: Instance, now: i64) -> Result<bool> {
        self.gap();
        self.lock(Lock::Lease)?;
        let known = self.lease.or(self.store.shared.borrow().db.lease);
        let is_held = known.is_some_and(|(other, until)| {
            other != holder && (now + 1..=now + LEASE_MS).contains(&until)
        });
        if !is_held {
            self.lease = Some((holder, now + LEASE_MS));
        }
        Ok(!is_held)
    }
}
