//! Where a test kills the bridge: around each write and each send.
//!
//! The tests package reaches every one of them; a name that the code does not have fails there.

/// All of them, in the order in which a batch meets them.
pub const POINTS: &[&str] = &[
    "store.init.before_commit",
    "store.init.after_commit",
    "store.init.before_rename",
    "store.init.after_rename",
    "store.open.before_wal",
    "store.open.after_wal",
    "store.restored.before_commit",
    "store.restored.after_commit",
    "ingest.readings_inserted",
    "ingest.event_inserted",
    "ingest.dead_letter_inserted",
    "ingest.stream_saved",
    "ingest.hello_saved",
    "ingest.before_commit",
    "ingest.after_commit",
    "letter.retry.before_commit",
    "letter.retry.after_commit",
    "letter.drop.before_commit",
    "letter.drop.after_commit",
    "send.state.before",
    "send.state.after",
    "send.sync_acks.before",
    "send.sync_acks.after",
    "send.puback.before",
    "send.puback.after",
    "send.online.before",
    "send.online.after",
    "send.withdraw.before",
    "send.withdraw.after",
    "send.offline.before",
    "send.offline.after",
];
