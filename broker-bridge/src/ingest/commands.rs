//! Commands in a transaction: adopted, issued, ended.

use std::collections::BTreeMap;

use fieldpost_fail_point::point;
use fieldpost_protocol::{Command, CommandId, DeviceId, Epoch, Event, EventKind, Instance};

use super::work::Round;
use super::{Answer, Ingested, Receipt};
use crate::engine::{CommandAck, Engine, IssuePlan};
use crate::store::ledger::{COMMANDS_MAX, Ledger, LedgerRow, OPEN_COMMANDS_MAX};
use crate::store::{DeviceRef, Store, StoreError, Txn};

/// Commands that one look or one hello issues at most; the next look takes the rest.
pub const ISSUED_AT_ONCE_MAX: u64 = 64;

impl<T: Txn> Round<'_, T> {
    /// What somebody has published on `commands`, this bridge perhaps: what is known changes nothing.
    pub(super) fn command(
        &mut self,
        device: &DeviceId,
        command: &Command,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let Some(at) = self.txn.find_device(device)? else {
            let message = "a command was published for it, and it was never heard of: passed over; \
                           look at the spelling";
            self.alarm("command_for_nobody", device, message.into());
            return Ok(());
        };
        // Every bridge receives it; one of them may give it an id.
        if command.id.is_none() && !self.txn.lease(receipt.by, self.now)? {
            return Ok(());
        }
        let (id, row) = self.engine.adopt(command, made_id(receipt.id), self.now);
        if let Some(known) = self.txn.command(at, &id)? {
            if known.content != row.content {
                let message = format!(
                    "command {id} was published once more and asks for something else: the first one counts; \
                     give each command an id of its own"
                );
                self.alarm("command_id_reused", device, message);
            }
            return Ok(());
        }
        if !self.txn.has_room_for_command(at, self.now)? {
            let message = format!(
                "command {id} was not taken: {OPEN_COMMANDS_MAX} commands of it are open, or {COMMANDS_MAX} of \
                 the last 31 days are kept; look at them with `fieldpost-bridge command list {device}`"
            );
            self.alarm("commands_full", device, message);
            return Ok(());
        }
        self.txn.insert_command(at, &id, &row)?;
        point!("ingest.command_inserted");
        self.wake.insert(at);
        Ok(())
    }

    /// An event was newly stored.
    pub(super) fn stored_event(
        &mut self,
        device: DeviceRef,
        event: &Event,
    ) -> Result<(), StoreError> {
        if take_ack(self.txn, self.engine, device, event, self.now)? {
            self.wake.insert(device);
        }
        Ok(())
    }

    /// A device has said hello: all that is open for it goes out, in the order in which it was asked for.
    pub(super) fn issue_to(&mut self, device: DeviceRef, epoch: Epoch) -> Result<(), StoreError> {
        self.txn.wake_commands(device, self.now)?;
        let open = self.txn.open_commands(Some(device), self.now, ISSUED_AT_ONCE_MAX)?;
        self.issue(open, Some(epoch))
    }

    /// What has become due within this transaction.
    pub(super) fn issue_woken(&mut self) -> Result<(), StoreError> {
        for device in std::mem::take(&mut self.wake) {
            let open = self.txn.open_commands(Some(device), self.now, ISSUED_AT_ONCE_MAX)?;
            let epoch = self.txn.epoch_there(device, self.now)?;
            self.issue(open, epoch)?;
        }
        Ok(())
    }

    fn issue(&mut self, open: Vec<LedgerRow>, epoch: Option<Epoch>) -> Result<(), StoreError> {
        for open in open {
            let answer = issue_one(self.txn, self.engine, open, epoch, self.now)?;
            self.outcome.answers.extend(answer);
        }
        Ok(())
    }
}

/// What a newly stored event changes in the ledger. Returns whether it has.
pub(crate) fn take_ack<T: Ledger>(
    txn: &mut T,
    engine: &Engine,
    device: DeviceRef,
    event: &Event,
    now: i64,
) -> Result<bool, StoreError> {
    let EventKind::CommandAck { id, target, content, outcome, detail, result } = &event.kind else {
        return Ok(false);
    };
    // Of a command that a person has published while no bridge was there, for example.
    let Some(mut row) = txn.command(device, id)? else { return Ok(false) };
    let (target, content, outcome, detail) = (*target, *content, *outcome, detail.as_deref());
    let ack = CommandAck { target, content, outcome, detail, result };
    if !engine.take_ack(&mut row, ack, now) {
        return Ok(false);
    }
    txn.save_command(device, id, &row)?;
    point!("ingest.command_saved");
    Ok(true)
}

/// Publishes again what is due, of all devices, if this bridge has the lease. One transaction; where
/// nothing of it is to be written it is dropped.
pub fn issue_due<S: Store>(store: &mut S, engine: &Engine, holder: Instance, now: i64) -> Ingested {
    let mut done = Ingested::default();
    if let Err(error) = issue_in_one(store, engine, holder, now, &mut done) {
        done = Ingested { error: Some(error), ..Ingested::default() };
    }
    done
}

fn issue_in_one<S: Store>(
    store: &mut S,
    engine: &Engine,
    holder: Instance,
    now: i64,
    done: &mut Ingested,
) -> Result<(), StoreError> {
    let mut txn = store.begin()?;
    if !txn.lease(holder, now)? {
        return Ok(());
    }
    let identity = txn.identity()?;
    let mut there: BTreeMap<DeviceRef, Option<Epoch>> = BTreeMap::new();
    for open in txn.open_commands(None, now, ISSUED_AT_ONCE_MAX)? {
        let device = open.device;
        let epoch = match there.get(&device) {
            Some(&epoch) => epoch,
            None => txn.epoch_there(device, now)?,
        };
        there.insert(device, epoch);
        done.answers.extend(issue_one(&mut txn, engine, open, epoch, now)?);
    }
    point!("issue.before_commit");
    txn.commit()?;
    point!("issue.after_commit");
    done.identity = Some(identity);
    Ok(())
}

fn issue_one<T: Ledger>(
    txn: &mut T,
    engine: &Engine,
    open: LedgerRow,
    epoch: Option<Epoch>,
    now: i64,
) -> Result<Option<Answer>, StoreError> {
    let LedgerRow { device, device_id, id, row } = open;
    match engine.plan_issue(&id, &row, epoch, now) {
        IssuePlan::Nothing => Ok(None),
        IssuePlan::Save(row) => txn.save_command(device, &id, &row).map(|()| None),
        IssuePlan::Send(row, command) => {
            txn.save_command(device, &id, &row)?;
            Ok(Some(Answer::Command(device_id, command)))
        }
    }
}

/// Sixteen digits: short enough to be typed, and never given twice.
pub(crate) fn made_id(random: [u8; 16]) -> CommandId {
    let digits: String = random[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    digits.parse().expect("hexadecimal digits are an id")
}
