//! What the bridge asks of a storage about commands. Part of a transaction.

use fieldpost_protocol::{CommandId, DeviceId, Epoch, Instance};

use super::{DeviceRef, StoreError};
use crate::engine::CommandRow;

/// Open commands of one device. One more is refused.
pub const OPEN_COMMANDS_MAX: u64 = 1_000;
/// Commands of one device, open and done. At the bound those done the longest ago go, if that was
/// before [`COMMAND_KEPT_MS`]; else one more is refused.
pub const COMMANDS_MAX: u64 = 10_000;
/// For so long a command that is done is kept in any case: as long as gateways know its id.
pub const COMMAND_KEPT_MS: i64 = 31 * 86_400_000;
/// Who publishes what is due does so for this long after each look.
pub const LEASE_MS: i64 = 15_000;

/// A row of the ledger and its key.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerRow {
    /// Whose.
    pub device: DeviceRef,
    /// Its id, with which the key of the row begins.
    pub device_id: DeviceId,
    /// The command's id.
    pub id: CommandId,
    /// What is known about it.
    pub row: CommandRow,
}

/// The ledger's part of a transaction.
pub trait Ledger {
    /// The device's row if there is one; makes none.
    fn find_device(&mut self, device: &DeviceId) -> Result<Option<DeviceRef>, StoreError>;
    /// The command's row, locked until the transaction ends; so is its absence.
    fn command(
        &mut self,
        device: DeviceRef,
        id: &CommandId,
    ) -> Result<Option<CommandRow>, StoreError>;
    /// Whether the device may have one more command. Makes room, where that is possible.
    fn has_room_for_command(&mut self, device: DeviceRef, now: i64) -> Result<bool, StoreError>;
    /// Adds a command that is not there.
    fn insert_command(
        &mut self,
        device: DeviceRef,
        id: &CommandId,
        row: &CommandRow,
    ) -> Result<(), StoreError>;
    /// Its row after the engine's decision. What it asks for, by whom and since when never changes.
    fn save_command(
        &mut self,
        device: DeviceRef,
        id: &CommandId,
        row: &CommandRow,
    ) -> Result<(), StoreError>;
    /// Every open command of the device becomes due now.
    fn wake_commands(&mut self, device: DeviceRef, now: i64) -> Result<(), StoreError>;
    /// Open commands with `next_at <= until`, at most `max`: those of one device in the order in which they
    /// were asked for; those of all, the ones that wait the longest first.
    fn open_commands(
        &mut self,
        device: Option<DeviceRef>,
        until: i64,
        max: u64,
    ) -> Result<Vec<LedgerRow>, StoreError>;
    /// The epoch of the device's last complete hello, if the device is there: heard of within
    /// [`super::STALE_AFTER_MS`], and not offline by its own word.
    fn epoch_there(&mut self, device: DeviceRef, now: i64) -> Result<Option<Epoch>, StoreError>;
    /// Takes the lease until `now + LEASE_MS`, unless another holds it. Returns whether it is taken.
    fn lease(&mut self, holder: Instance, now: i64) -> Result<bool, StoreError>;
}
