//! What a session reports, and what it takes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::reason::DisconnectReason;

/// Events that wait for the caller. What happens beyond stands at the head of the crate.
pub const EVENTS_MAX: usize = 32;

/// One connection, from CONNACK to its end. Unique in the process, and rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(u64);

impl Connection {
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Connection(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The caller's own name for a message, echoed in [`Event::Puback`]. The session does not care
/// whether it is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What a session reports, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// CONNACK, and a granted SUBACK for each subscription. Publishing is possible from here.
    Connected {
        /// To be given to [`crate::Session::publish`].
        connection: Connection,
    },
    /// The connection ended, or could not be made. What was published on it without a PUBACK is
    /// void. The session connects again by itself.
    Disconnected {
        /// None if it never came to [`Event::Connected`].
        connection: Option<Connection>,
        /// Why.
        reason: DisconnectReason,
        /// How long it waits before the next attempt.
        retry_in: Duration,
    },
    /// A message arrived.
    Message(Delivery),
    /// The broker has taken a message of QoS 1. That is no proof of durability.
    Puback {
        /// The connection on which it had been published.
        connection: Connection,
        /// The token of that message.
        token: Token,
    },
}

/// A message that arrived. With [`crate::Options::manual_puback`] it has to be given to
/// [`crate::Session::puback`] once it is dealt with.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The connection on which it arrived.
    pub connection: Connection,
    /// Its topic.
    pub topic: String,
    /// Its payload, at most [`crate::Options::packet_bytes_max`].
    pub payload: Vec<u8>,
    /// The broker had it in store when we subscribed.
    pub retain: bool,
    /// The broker says that it may have sent it before.
    pub dup: bool,
    /// Its place among the messages of this connection that want a PUBACK.
    pub(crate) puback: Option<u64>,
}

impl fmt::Debug for Delivery {
    /// Without the payload: it does not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("connection", &self.connection.0)
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("retain", &self.retain)
            .field("dup", &self.dup)
            .finish_non_exhaustive()
    }
}

/// The two qualities of service that Fieldpost uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// QoS 0: sent once, never confirmed.
    AtMostOnce,
    /// QoS 1: the broker answers with a PUBACK.
    AtLeastOnce,
}

/// A message to be published.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Its topic: not empty, no `+`, `#` or NUL.
    pub topic: String,
    /// Its payload; with the topic at most [`crate::Options::packet_bytes_max`].
    pub payload: Vec<u8>,
    /// Whether the broker is to confirm it.
    pub qos: Qos,
    /// Whether the broker is to keep it for later subscribers.
    pub retain: bool,
    /// Echoed in [`Event::Puback`]; unused at QoS 0.
    pub token: Token,
}

impl fmt::Debug for Message {
    /// Without the payload: it does not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("token", &self.token.0)
            .finish()
    }
}

/// Why a message was not taken. It was not sent, not even in part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// As many messages as allowed wait for a PUBACK, or (QoS 0) for the socket.
    #[error("the window of {max} messages is full; wait for a PUBACK")]
    WindowFull {
        /// The bound that was met.
        max: usize,
    },
    /// The connection is not, or no longer, the current one.
    #[error("connection {connection} is not the current one; wait for Connected")]
    Offline {
        /// The connection that was asked for.
        connection: Connection,
    },
    /// It would exceed the packet limit.
    #[error("a packet of {bytes} bytes exceeds the limit of {max}")]
    TooBig {
        /// Size of the packet that it would make.
        bytes: usize,
        /// [`crate::Options::packet_bytes_max`].
        max: usize,
    },
    /// A topic that MQTT does not allow for publishing.
    #[error("topic {topic:?} cannot be published to: 1 to 65535 bytes, without + # and NUL")]
    BadTopic {
        /// The topic.
        topic: String,
    },
}

/// Why a PUBACK was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PubackError {
    /// The message came on another connection: the broker has forgotten that it sent it there,
    /// and its packet id may by now belong to another message.
    #[error("the message came on connection {connection}, which is over")]
    OtherConnection {
        /// The connection of the message.
        connection: Connection,
    },
}
