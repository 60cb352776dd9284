//! Identities: epochs, stores, nonces, streams, sequence numbers.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An id that is not 16 bytes, or not 32 hexadecimal digits where people write it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id; it has to be 32 hexadecimal digits")]
pub struct IdError(String);

/// 16 random bytes: in CBOR a byte string, in JSON and to people 32 hexadecimal digits.
macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

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
                parse_hex(text).map($name).ok_or_else(|| IdError(text.chars().take(80).collect()))
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
                deserializer.deserialize_any(IdVisitor).map($name)
            }
        }
    };
}

id128!(
    /// One run of appending by one gateway process. Only the process that made it appends to it.
    Epoch
);
id128!(
    /// The service's storage, for life.
    StoreId
);
id128!(
    /// One incarnation of a storage: written by init, restore and migrate.
    Gen
);
id128!(
    /// What ties a `state` to the `hello` that it answers.
    Nonce
);
id128!(
    /// One start of a bridge process.
    Instance
);

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = [u8; 16];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("16 bytes, or 32 hexadecimal digits")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; 16], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<[u8; 16], E> {
        parse_hex(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut id = [0u8; 16];
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

impl FromStr for Stream {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "events" => Ok(Stream::Events),
            "readings" => Ok(Stream::Readings),
            other => Err(IdError(other.to_owned())),
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
