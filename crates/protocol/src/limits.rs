//! Every bound of the wire, with its reason.

/// The envelope version that this code writes.
pub const VERSION: u64 = 1;
/// The envelope versions that this code reads.
pub const VERSIONS_READ: &[u64] = &[1];
/// Readings in one batch: large enough that columns and zstd reach their floor.
pub const BATCH_READINGS_MAX: usize = 1_000;
/// One encoded body. With its envelope it stays far below the smallest packet limit
/// that hosted brokers have (128 KiB).
pub const BODY_BYTES_MAX: usize = 96 * 1024;
/// One body once decompressed, and the cells it unfolds to (see [`crate::Reading::cost`]).
pub const BODY_BYTES_DECODED_MAX: usize = 1024 * 1024;
/// One MQTT packet, either way.
pub const PACKET_BYTES_MAX: usize = 256 * 1024;
/// Streams on one page of a hello: a page stays below 4 KiB.
pub const HELLO_STREAMS_MAX: usize = 64;
/// Pages of one hello: 4,096 tombstones and as many live epochs fit.
pub const HELLO_PAGES_MAX: u32 = 256;
/// Sync acks in one message.
pub const SYNC_ACKS_MAX: usize = 64;
/// One line or packet from a port.
pub const FRAME_BYTES_MAX: usize = 4 * 1024;
/// A device id, a source, a metric.
pub const NAME_BYTES_MAX: usize = 64;
/// A text value, an alert's message.
pub const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Nesting of CBOR in any payload. Ours need five.
pub const DEPTH_MAX: usize = 8;
/// A sequence number: what JSON and JavaScript still read exactly.
pub const SEQ_MAX: u64 = (1 << 53) - 1;
/// A command, in bytes of its payload.
pub const COMMAND_BYTES_MAX: usize = 8 * 1024;
/// Arguments of one command.
pub const COMMAND_ARGS_MAX: usize = 32;
