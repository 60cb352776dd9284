//! What passes between the engine and its driver, beside the payloads of the protocol.

use std::time::Duration;

use fieldpost_protocol::{BATCH_READINGS_MAX, HELLO_STREAMS_MAX, Hello, Seq, StoreId, StreamKey};

use crate::outbox::Trusted;

/// What the driver shall send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Send {
    /// One page of a hello.
    Hello(Hello),
    /// The batch that begins at `from`; then tell [`Engine::handle_sent`](super::Engine::handle_sent) what it was.
    Batch {
        /// Which stream.
        key: StreamKey,
        /// Its first row.
        from: Seq,
        /// At most so many rows.
        rows_max: usize,
    },
}

/// What the driver has to do or to tell, beside sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Write this down: from now on only this storage is believed, and what another one, or
    /// another gen, has listed and acknowledged is to be forgotten.
    Trust(Trusted),
    /// Somebody answers for another storage than ours: an alert.
    OtherStore(StoreId),
    /// The bridge reads none of our versions: nothing is sent, an alert.
    NoCommonVersion(Vec<u64>),
    /// A state of the present gen lists these rows as stored.
    Confirmed(Vec<(StreamKey, Seq)>),
    /// Unix milliseconds minus CLOCK_BOOTTIME milliseconds at the bridge, and how exact.
    CloudTime {
        /// Unix time minus boot time.
        skew_ms: i64,
        /// The round trip that it was measured over.
        rtt: Duration,
    },
    /// One row alone gets no sync ack, again and again: an alert.
    Stuck {
        /// Which stream.
        key: StreamKey,
        /// Which row.
        seq: Seq,
    },
}

/// What was dropped, by reason: each is a peer's fault or an old message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Dropped {
    /// States with another nonce, page, or unknown streams.
    pub states: u64,
    /// States and sync acks of another store.
    pub other_store: u64,
    /// Sync acks before their gen was confirmed on this connection, or of another gen.
    pub unconfirmed: u64,
    /// Sync acks of rows that we never gave, or past what is acked.
    pub impossible: u64,
}

/// Settings of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Rows that did not fill a batch leave at most this often.
    pub publish_interval: Duration,
    /// Rows to a batch.
    pub batch_readings_max: usize,
    /// Streams to a page of a hello.
    pub hello_streams_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            publish_interval: Duration::from_secs(1),
            batch_readings_max: BATCH_READINGS_MAX,
            hello_streams_max: HELLO_STREAMS_MAX,
        }
    }
}
