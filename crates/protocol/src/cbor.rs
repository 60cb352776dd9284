//! CBOR of the small payloads: bounded in depth, nothing after the end.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::DEPTH_MAX;

/// Why a payload could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not CBOR, nested too deep, a field missing or of the wrong type.
    #[error("not a valid {what}: {why}")]
    Malformed {
        /// Which payload was expected.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
    /// A version that this program does not read.
    #[error(
        "{what} has version {found}; this program reads {:?}. Update the program that is older",
        crate::VERSIONS_READ
    )]
    Version {
        /// Which payload.
        what: &'static str,
        /// The version found.
        found: u64,
    },
    /// Larger than its bound.
    #[error("{what} has {found} {unit}; at most {max} are allowed")]
    TooBig {
        /// Which payload, or part of one.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// Of what.
        unit: &'static str,
        /// The bound.
        max: usize,
    },
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes)
        .expect("a Vec takes every byte, and our types have no map without keys");
    bytes
}

pub(crate) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    if bytes.len() > crate::PACKET_BYTES_MAX {
        let (found, max) = (bytes.len(), crate::PACKET_BYTES_MAX);
        return Err(DecodeError::TooBig { what, found, unit: "bytes", max });
    }
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
        .map_err(|error| DecodeError::Malformed { what, why: plain(error) })?;
    if !rest.is_empty() {
        let why = format!("{} bytes follow after its end", rest.len());
        return Err(DecodeError::Malformed { what, why });
    }
    Ok(value)
}

/// What people read in an alarm; the library's own words are for programmers.
fn plain<E>(error: ciborium::de::Error<E>) -> String {
    use ciborium::de::Error;
    match error {
        // The bytes are in memory: reading them can only come to their end.
        Error::Io(_) => "it ends too early".to_owned(),
        Error::Syntax(at) => format!("at byte {at} it is not CBOR"),
        Error::Semantic(_, why) => why,
        Error::RecursionLimitExceeded => format!("it is nested deeper than {DEPTH_MAX}"),
    }
}

/// The version of an envelope, hello, state, sync acks or command, whatever else is in it:
/// key `v` never changes, so that a newer peer is recognised instead of guessed at.
pub fn version_of(bytes: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        v: u64,
    }
    decode::<Versioned>("payload", bytes).ok().map(|versioned| versioned.v)
}

/// Refuses a version that we do not read, before anything else of the payload is looked at.
pub(crate) fn check_version(what: &'static str, bytes: &[u8]) -> Result<(), DecodeError> {
    version_of(bytes).map_or(Ok(()), |found| read_version(what, found))
}

/// Refuses it again once the payload is decoded: what [`version_of`] could not read for another
/// key's sake, such as one nested too deep, must not pass as ours.
pub(crate) fn read_version(what: &'static str, found: u64) -> Result<(), DecodeError> {
    let known = crate::VERSIONS_READ.contains(&found);
    if known { Ok(()) } else { Err(DecodeError::Version { what, found }) }
}

/// Bytes as a CBOR byte string, where serde would make an array of a `Vec<u8>`.
pub(crate) mod byte_string {
    use std::fmt;

    use serde::de::{self, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Payload {
        #[serde(rename = "v")]
        _v: u64,
    }

    fn why(bytes: &[u8]) -> String {
        decode::<Payload>("hello", bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        assert_eq!(why(b""), "not a valid hello: it ends too early");
        assert_eq!(why(b"\xa1\x61v\x19\x01"), "not a valid hello: it ends too early");
        assert_eq!(why(b"\xa0"), "not a valid hello: missing field `v`");
        let number = "not a valid hello: invalid type: string, expected integer";
        assert_eq!(why(b"\xa1\x61v\x61x"), number);
        assert_eq!(why(b"\x1c"), "not a valid hello: at byte 0 it is not CBOR");
        assert_eq!(why(b"\xa1\x61v\x01\x00"), "not a valid hello: 1 bytes follow after its end");
        let deep = [&b"\xa1\x61x"[..], &[0x81; 20], b"\x00"].concat();
        assert_eq!(why(&deep), "not a valid hello: it is nested deeper than 8");
    }
}
