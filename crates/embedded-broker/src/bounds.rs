//! What the broker holds at most, and what happens beyond.

use std::time::Duration;

/// One packet from a client, in bytes: above the 256 KiB that Fieldpost uses. A bigger one ends
/// that client's connection.
pub const PACKET_BYTES_MAX: usize = 512 * 1024;

/// Each subscription filter has a log of messages in memory, made of segments of this size...
pub const SEGMENT_BYTES_MAX: usize = 1024 * 1024;

/// ...and this many of them: 8 MiB for each filter that was ever subscribed to, which is not given
/// back when the messages are delivered. Beyond, the oldest segment goes: whoever is more than
/// 8 MiB (of all that matches the filter) behind loses messages that the publisher has a PUBACK
/// for, with one WARN in the log.
pub const SEGMENTS_MAX: usize = 8;

/// Clients at a time. A further one is refused with a closed connection.
pub const CONNECTIONS_MAX: usize = 256;

/// QoS 1 messages on their way to a client without its PUBACK are 100 at most (a constant of the
/// library); the rest waits in the log. Of retained messages a new subscriber gets no more than
/// that either: the rest is dropped in silence. At QoS 0 as many are taken from the log at a time.
pub const OUTGOING_PACKETS_MAX: u64 = 200;

/// Messages of one client that are read in one go.
pub const READ_PACKETS_MAX: usize = 100;

/// A client that is connected has to send CONNECT within this time. It does not cover the TLS
/// handshake, for which there is no bound: see the head of the crate.
pub const CONNECT: Duration = Duration::from_secs(10);

/// How long [`crate::EmbeddedBroker::start`] waits for the port to answer.
pub const ANSWER: Duration = Duration::from_secs(5);

/// How often a free port is looked for if somebody else takes it first.
pub const PORT_TRIES_MAX: u32 = 8;
