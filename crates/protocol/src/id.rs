//! Identities: epochs, stores, nonces, streams, sequence numbers.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An id that has not its length, or is not made of hexadecimal digits where people write it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an id; it has to be {digits} hexadecimal digits")]
pub struct IdError {
    found: String,
    digits: usize,
}

/// Bytes that only stand for something: in CBOR a byte string, in JSON and to people hexadecimal digits.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map($name).ok_or_else(|| IdError {
                    found: text.chars().take(80).collect(),
                    digits: 2 * $bytes,
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(IdVisitor::<$bytes>).map($name)
            }
        }
    };
}

id!(
    /// One run of appending by one gateway process. Only the process that made it appends to it.
    Epoch,
    16
);
id!(
    /// The service's storage, for life.
    StoreId,
    16
);
id!(
    /// One incarnation of a storage: written by init, restore and migrate.
    Gen,
    16
);
id!(
    /// What ties a `state` to the `hello` that it answers.
    Nonce,
    16
);
id!(
    /// One start of a bridge process.
    Instance,
    16
);

id!(
    /// What a command asks for, name and arguments: the first bytes of a SHA-256.
    Content,
    8
);

struct IdVisitor<const N: usize>;

impl<const N: usize> Visitor<'_> for IdVisitor<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes, or {} hexadecimal digits", 2 * N)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<[u8; N], E> {
        parse_hex(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut id = [0u8; N];
    for (i, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(id)
}

/// A sequence number: 1, 2, 3... in one (epoch, stream), given inside the insert
/// transaction, contiguous, below 2^53. As a cursor (`acked`, `sent`, `hi`) 0 means none.
pub type Seq = u64;

/// Which of a gateway's two sequences. Events never wait behind a backlog of readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Command acks and alerts, one to a batch.
    Events,
    /// Measurements, up to 1,000 to a batch.
    Readings,
}

impl Stream {
    /// The name on the wire and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Events => "events",
            Stream::Readings => "readings",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no stream; they are events and readings")]
pub struct StreamError(String);

impl FromStr for Stream {
    type Err = StreamError;

    fn from_str(text: &str) -> Result<Self, StreamError> {
        match text {
            "events" => Ok(Stream::Events),
            "readings" => Ok(Stream::Readings),
            other => Err(StreamError(other.chars().take(80).collect())),
        }
    }
}

/// What owns a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// The epoch.
    pub epoch: Epoch,
    /// The stream within it.
    pub stream: Stream,
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.stream)
    }
}
