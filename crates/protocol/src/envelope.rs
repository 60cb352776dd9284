//! The envelope around every batch: who, which rows, and what the gateway still holds.
//!
//! ```text
//! {"v": 1, "dev": "pi-1", "epoch": h'..16 bytes..', "stream": "readings",
//!  "first": 1001, "n": 1000,        rows first .. first+n-1 are in the body
//!  "floor": 1, "last": 4711,        what the gateway holds and has given, of this stream
//!  "base": 1795245000000,           Unix ms of offset 0 of the epoch
//!  "clock": "ntp", "body": h'...'}
//! ```

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError, byte_string};
use crate::{
    BATCH_READINGS_MAX, BODY_BYTES_MAX, DeviceId, Epoch, SEQ_MAX, Seq, Stream, StreamKey, VERSION,
};

/// Where an epoch's `base` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The kernel said that its clock is synchronised.
    Ntp,
    /// From the bridge's time in a `state`.
    Bridge,
    /// Nobody knew the time: the wall clock as it stood.
    Unsynced,
}

impl Clock {
    /// The name on the wire and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Clock::Ntp => "ntp",
            Clock::Bridge => "bridge",
            Clock::Unsynced => "unsynced",
        }
    }
}

/// One batch. What [`Envelope::decode`] returns has passed every rule of a valid envelope;
/// the body is looked at later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The version, [`VERSION`].
    pub v: u64,
    /// The device, the same as in the topic.
    pub dev: DeviceId,
    /// The epoch.
    pub epoch: Epoch,
    /// The stream.
    pub stream: Stream,
    /// The first row's sequence number.
    pub first: Seq,
    /// How many rows, 1 to 1,000; 1 for an event.
    pub n: u64,
    /// The lowest row that the gateway still holds (`last + 1`: none).
    pub floor: Seq,
    /// The highest row that the gateway has given.
    pub last: Seq,
    /// Unix milliseconds of offset 0 of the epoch.
    pub base: i64,
    /// Where `base` comes from.
    pub clock: Clock,
    /// Readings in columns, or one event.
    #[serde(with = "byte_string")]
    pub body: Vec<u8>,
}

/// Why an envelope is refused. Such a batch is dropped, counted and reported, never stored:
/// nobody can say which rows it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not an envelope at all, or of another version.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The numbers contradict each other.
    #[error(
        "the envelope's rows make no sense: first {first}, n {n}, floor {floor}, last {last}; {rule}"
    )]
    Rows {
        /// As received.
        first: Seq,
        /// As received.
        n: u64,
        /// As received.
        floor: Seq,
        /// As received.
        last: Seq,
        /// The rule that is broken.
        rule: &'static str,
    },
}

impl Envelope {
    /// The stream that the batch belongs to.
    pub fn key(&self) -> StreamKey {
        StreamKey { epoch: self.epoch, stream: self.stream }
    }

    /// The last row in the body.
    pub fn end(&self) -> Seq {
        self.first + (self.n - 1)
    }

    /// As CBOR.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.v, VERSION);
        cbor::encode(self)
    }

    /// From CBOR, with every rule checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        cbor::check_version("batch", bytes)?;
        let envelope: Envelope = cbor::decode("batch", bytes)?;
        cbor::read_version("batch", envelope.v)?;
        envelope.check()?;
        Ok(envelope)
    }

    fn check(&self) -> Result<(), EnvelopeError> {
        if self.body.len() > BODY_BYTES_MAX {
            let (what, found, max) = ("body", self.body.len(), BODY_BYTES_MAX);
            return Err(DecodeError::TooBig { what, found, unit: "bytes", max }.into());
        }
        let rule = if self.n < 1 || self.n > BATCH_READINGS_MAX as u64 {
            "n has to be 1 to 1000"
        } else if self.stream == Stream::Events && self.n != 1 {
            "a batch of events holds one"
        } else if self.first < 1 || self.last > SEQ_MAX {
            "sequence numbers start at 1 and stay below 2^53"
        } else if self.floor < 1 || self.floor > self.last + 1 {
            "floor has to be 1 to last + 1"
        } else if self.first > SEQ_MAX || self.end() > self.last {
            "the rows must not go past last"
        } else {
            return Ok(());
        };
        let Envelope { first, n, floor, last, .. } = *self;
        Err(EnvelopeError::Rows { first, n, floor, last, rule })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            v: VERSION,
            dev: "pi-1".parse().unwrap(),
            epoch: Epoch([7; 16]),
            stream: Stream::Readings,
            first: 3,
            n: 2,
            floor: 1,
            last: 9,
            base: 1_795_245_000_000,
            clock: Clock::Bridge,
            body: vec![1, 2, 3],
        }
    }

    #[test]
    fn an_envelope_is_read_back_as_it_was() {
        assert_eq!(Envelope::decode(&envelope().encode()), Ok(envelope()));
    }

    #[test]
    fn rows_that_make_no_sense_are_refused() {
        let broken: [fn(&mut Envelope); 8] = [
            |e| e.n = 0,
            |e| e.n = 1001,
            |e| e.first = 0,
            |e| e.first = 9,
            |e| e.first = u64::MAX,
            |e| e.last = u64::MAX,
            |e| e.floor = 11,
            |e| e.stream = Stream::Events,
        ];
        for (i, break_it) in broken.iter().enumerate() {
            let mut broken = envelope();
            break_it(&mut broken);
            let result = Envelope::decode(&broken.encode());
            assert!(matches!(result, Err(EnvelopeError::Rows { .. })), "case {i}: {result:?}");
        }
    }

    #[test]
    fn an_unknown_version_is_named_and_not_guessed_at() {
        let mut newer = envelope();
        newer.v = 2;
        let bytes = cbor::encode(&newer);
        let error = Envelope::decode(&bytes).unwrap_err();
        assert!(
            matches!(error, EnvelopeError::Decode(DecodeError::Version { found: 2, .. })),
            "{error}"
        );
        assert!(error.to_string().contains("Update the program that is older"));
    }

    #[test]
    fn a_version_is_not_hidden_by_a_number_in_a_dozen_tags() {
        let mut newer = envelope();
        newer.v = 2;
        let mut bytes = cbor::encode(&newer);
        let first = bytes.windows(6).position(|six| six == b"\x65first").unwrap() + 6;
        // RFC 8949, 3.4.3: a tag; typed decoding skips any number of them.
        bytes.splice(first..first, [0xC6; 12]);
        let error = Envelope::decode(&bytes).unwrap_err();
        let version = DecodeError::Version { what: "batch", found: 2 };
        assert_eq!(error, EnvelopeError::Decode(version));
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut bytes = envelope().encode();
        bytes.push(0);
        assert!(Envelope::decode(&bytes).is_err());
    }
}
