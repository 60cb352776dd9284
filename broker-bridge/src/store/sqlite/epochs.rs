//! Epochs of which nothing is stored: counted, and let go of where they are too many.

use std::collections::HashMap;

use super::super::{DeviceRef, NAMED_EPOCHS_MAX, StoreError};
use super::txn::SqliteTxn;

/// For so long it is not looked again for epochs to let go of, where there was none: each look goes
/// through all of them.
const LOOK_MS: i64 = 60_000;

/// Devices at their bound, and the moment up to which there was nothing to let go of.
pub(super) type InVain = HashMap<DeviceRef, i64>;

/// The epochs without a base that were superseded at ?2 or before.
const PAST: &str = "SELECT e.ref FROM epoch e INDEXED BY epoch_named \
                    WHERE e.device = ?1 AND e.base IS NULL AND e.superseded BETWEEN 1 AND ?2";

/// See [`Txn::room_for_epochs`](super::super::Txn::room_for_epochs).
pub(super) fn room(
    txn: &mut SqliteTxn<'_>,
    device: DeviceRef,
    until: i64,
) -> Result<u64, StoreError> {
    let count = count(txn, device)?;
    if count < NAMED_EPOCHS_MAX {
        return Ok(NAMED_EPOCHS_MAX - count);
    }
    let looked = txn.in_vain.get(&device);
    if looked.is_some_and(|&looked| until.abs_diff(looked) < LOOK_MS as u64) {
        return Ok(0);
    }
    forget(txn, device, until)?;
    let room = NAMED_EPOCHS_MAX - self::count(txn, device)?;
    if room == 0 {
        txn.in_vain.insert(device, until);
    } else {
        txn.in_vain.remove(&device);
    }
    Ok(room)
}

/// Not more than the bound: an earlier program has let them grow.
fn count(txn: &SqliteTxn<'_>, device: DeviceRef) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM epoch INDEXED BY epoch_named \
               WHERE device = ?1 AND base IS NULL LIMIT ?2)";
    txn.count(sql, (device.0, NAMED_EPOCHS_MAX as i64))
}

/// A dead letter's rows are covered, open or dropped; so its epoch stays, as one that has claims.
fn forget(txn: &SqliteTxn<'_>, device: DeviceRef, until: i64) -> Result<(), StoreError> {
    let empty = format!(
        "{PAST} AND NOT EXISTS (SELECT 1 FROM stream s WHERE s.epoch = e.ref \
                                AND (s.claimed > 0 OR s.coverage <> '[]'))"
    );
    let of_these = (device.0, until);
    // None of them has any: a hello that supersedes an epoch drops its pages.
    txn.execute(&format!("DELETE FROM hello_page WHERE epoch IN ({empty})"), of_these)?;
    txn.execute(&format!("DELETE FROM stream WHERE epoch IN ({empty})"), of_these)?;
    let bare = format!("{PAST} AND NOT EXISTS (SELECT 1 FROM stream s WHERE s.epoch = e.ref)");
    txn.execute(&format!("DELETE FROM epoch WHERE ref IN ({bare})"), of_these)?;
    Ok(())
}
