//! Events as rows: alerts and command acks.

use fieldpost_protocol::{AlertState, Event, EventKind, Seq};

use super::super::{EpochRef, StoreError};
use super::txn::SqliteTxn;

/// See [`Txn::insert_event`](super::super::Txn::insert_event).
pub(super) fn insert(
    txn: &SqliteTxn<'_>,
    epoch: EpochRef,
    seq: Seq,
    time: i64,
    event: &Event,
) -> Result<(), StoreError> {
    match &event.kind {
        EventKind::Alert { name, about, state, severity, message, lasting } => {
            let (state_name, severity) = (state.as_str(), severity.as_str());
            txn.execute(
                "INSERT INTO alert VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                (epoch.0, seq as i64, time, name, about, state_name, severity, message),
            )?;
            if *lasting && *state == AlertState::Raised {
                txn.execute("INSERT INTO alert_lasting VALUES (?1, ?2)", (epoch.0, seq as i64))?;
            }
        }
        EventKind::CommandAck { id, target, content: _, outcome, detail, result } => {
            let (target, outcome, result) = (&target.0[..], outcome.as_str(), result.to_json());
            txn.execute(
                "INSERT INTO command_ack VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                (epoch.0, seq as i64, time, id.as_str(), target, outcome, detail, result),
            )?;
        }
    }
    Ok(())
}
