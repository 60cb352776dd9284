//! The three payloads of the sync protocol: hello, state and sync acks.
//!
//! ```text
//! gateway  hello     what I hold: per stream [floor..last]          -> bridge
//! bridge   state     what I have: per stream the end of the run     -> gateway   (answers one hello)
//! bridge   sync acks what I have just committed                     -> gateway   (never moves back)
//! ```
//!
//! The keys `v`, `nonce`, `attempt`, `page` and `store` mean the same in every version.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError};
use crate::{
    Epoch, Gen, HELLO_PAGES_MAX, HELLO_STREAMS_MAX, Nonce, SEQ_MAX, SYNC_ACKS_MAX, Seq, StoreId,
    Stream, StreamKey,
};

/// What a gateway holds, page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of this payload and of the envelopes that the gateway sends.
    pub v: u64,
    /// Ties the answer to this hello. Repeated attempts keep it.
    pub nonce: Nonce,
    /// 1, 2, 3...: which repetition this is, so that the time of day in the answer can be
    /// held against the moment when this very attempt was sent.
    pub attempt: u32,
    /// Rises with each new hello of the epoch; a late one of lower number moves no floor.
    pub no: u64,
    /// This page, 1 to `pages`.
    pub page: u32,
    /// How many pages.
    pub pages: u32,
    /// The current epoch: the one that is appended to.
    pub epoch: Epoch,
    /// The streams of this page, at most [`HELLO_STREAMS_MAX`].
    pub streams: Vec<HelloStream>,
}

/// One stream of a hello: `[epoch, stream, floor, last]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(Epoch, Stream, Seq, Seq)", from = "(Epoch, Stream, Seq, Seq)")]
pub struct HelloStream {
    /// Which stream.
    pub key: StreamKey,
    /// The lowest row still held; `last + 1` for a tombstone.
    pub floor: Seq,
    /// The highest row given.
    pub last: Seq,
}

/// What a storage has of the streams on one page of a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of this payload.
    pub v: u64,
    /// The hello's.
    pub nonce: Nonce,
    /// The attempt that is answered.
    pub attempt: u32,
    /// The page that is answered.
    pub page: u32,
    /// The envelope versions that the bridge reads.
    pub versions: Vec<u64>,
    /// Which storage.
    pub store: StoreId,
    /// Which incarnation of it, read in the transaction that the answer comes from.
    pub r#gen: Gen,
    /// Unix milliseconds at the bridge.
    pub time: i64,
    /// The page's streams, in the hello's order.
    pub streams: Vec<StateStream>,
}

/// One stream of a state: `[epoch, stream, hi]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(Epoch, Stream, Seq)", from = "(Epoch, Stream, Seq)")]
pub struct StateStream {
    /// Which stream.
    pub key: StreamKey,
    /// The end of the stored run that starts at the hello's floor; `floor - 1`: none.
    pub hi: Seq,
}

/// What was just committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncAcks {
    /// The version of this payload.
    pub v: u64,
    /// Which storage.
    pub store: StoreId,
    /// Which incarnation of it, read in the transaction that committed.
    pub r#gen: Gen,
    /// One per stream, at most [`SYNC_ACKS_MAX`].
    pub acks: Vec<Ack>,
}

/// One sync ack: `[epoch, stream, lo, hi]`: rows lo..hi are committed; `hi = lo - 1`: none
/// of what the gateway still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(Epoch, Stream, Seq, Seq)", from = "(Epoch, Stream, Seq, Seq)")]
pub struct Ack {
    /// Which stream.
    pub key: StreamKey,
    /// The floor that the batch stated.
    pub lo: Seq,
    /// The end of the stored run from there.
    pub hi: Seq,
}

impl Hello {
    /// As CBOR.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// From CBOR, bounds and order of the numbers checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::check_version("hello", bytes)?;
        let hello: Hello = cbor::decode("hello", bytes)?;
        cbor::read_version("hello", hello.v)?;
        bounded("hello", "streams", hello.streams.len(), HELLO_STREAMS_MAX)?;
        let pages_fit = hello.pages >= 1 && hello.pages <= HELLO_PAGES_MAX;
        if !pages_fit || hello.page < 1 || hello.page > hello.pages {
            return Err(malformed("hello", format!("page {} of {}", hello.page, hello.pages)));
        }
        for stream in &hello.streams {
            if stream.last > SEQ_MAX || stream.floor < 1 || stream.floor > stream.last + 1 {
                let HelloStream { key, floor, last } = stream;
                return Err(malformed("hello", format!("{key} has floor {floor} and last {last}")));
            }
        }
        Ok(hello)
    }
}

impl State {
    /// As CBOR.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// From CBOR, bounds checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::check_version("state", bytes)?;
        let state: State = cbor::decode("state", bytes)?;
        cbor::read_version("state", state.v)?;
        bounded("state", "streams", state.streams.len(), HELLO_STREAMS_MAX)?;
        bounded("state", "versions", state.versions.len(), 16)?;
        Ok(state)
    }
}

impl SyncAcks {
    /// As CBOR.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// From CBOR, bounds checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::check_version("sync acks", bytes)?;
        let acks: SyncAcks = cbor::decode("sync acks", bytes)?;
        cbor::read_version("sync acks", acks.v)?;
        bounded("sync acks", "entries", acks.acks.len(), SYNC_ACKS_MAX)?;
        Ok(acks)
    }
}

fn bounded(
    what: &'static str,
    unit: &'static str,
    found: usize,
    max: usize,
) -> Result<(), DecodeError> {
    if found > max { Err(DecodeError::TooBig { what, found, unit, max }) } else { Ok(()) }
}

fn malformed(what: &'static str, why: String) -> DecodeError {
    DecodeError::Malformed { what, why }
}

impl From<HelloStream> for (Epoch, Stream, Seq, Seq) {
    fn from(s: HelloStream) -> Self {
        (s.key.epoch, s.key.stream, s.floor, s.last)
    }
}

impl From<(Epoch, Stream, Seq, Seq)> for HelloStream {
    fn from((epoch, stream, floor, last): (Epoch, Stream, Seq, Seq)) -> Self {
        HelloStream { key: StreamKey { epoch, stream }, floor, last }
    }
}

impl From<StateStream> for (Epoch, Stream, Seq) {
    fn from(s: StateStream) -> Self {
        (s.key.epoch, s.key.stream, s.hi)
    }
}

impl From<(Epoch, Stream, Seq)> for StateStream {
    fn from((epoch, stream, hi): (Epoch, Stream, Seq)) -> Self {
        StateStream { key: StreamKey { epoch, stream }, hi }
    }
}

impl From<Ack> for (Epoch, Stream, Seq, Seq) {
    fn from(a: Ack) -> Self {
        (a.key.epoch, a.key.stream, a.lo, a.hi)
    }
}

impl From<(Epoch, Stream, Seq, Seq)> for Ack {
    fn from((epoch, stream, lo, hi): (Epoch, Stream, Seq, Seq)) -> Self {
        Ack { key: StreamKey { epoch, stream }, lo, hi }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> StreamKey {
        StreamKey { epoch: Epoch([1; 16]), stream: Stream::Readings }
    }

    fn hello() -> Hello {
        let streams = vec![HelloStream { key: key(), floor: 1, last: 4 }];
        let (epoch, nonce) = (Epoch([1; 16]), Nonce([2; 16]));
        Hello { v: 1, nonce, attempt: 1, no: 1, page: 1, pages: 1, epoch, streams }
    }

    #[test]
    fn the_payloads_are_read_back_as_they_were() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
        let state = State {
            v: 1,
            nonce: Nonce([2; 16]),
            attempt: 1,
            page: 1,
            versions: vec![1],
            store: StoreId([3; 16]),
            r#gen: Gen([4; 16]),
            time: 1_795_245_000_000,
            streams: vec![StateStream { key: key(), hi: 3 }],
        };
        assert_eq!(State::decode(&state.encode()), Ok(state));
        let acks = SyncAcks {
            v: 1,
            store: StoreId([3; 16]),
            r#gen: Gen([4; 16]),
            acks: vec![Ack { key: key(), lo: 1, hi: 3 }],
        };
        assert_eq!(SyncAcks::decode(&acks.encode()), Ok(acks));
    }

    #[test]
    fn a_hello_of_too_many_streams_or_pages_is_refused() {
        let mut many = hello();
        many.streams = vec![many.streams[0]; HELLO_STREAMS_MAX + 1];
        assert!(matches!(Hello::decode(&many.encode()), Err(DecodeError::TooBig { .. })));
        for (page, pages) in [(0, 1), (2, 1), (1, 0), (1, HELLO_PAGES_MAX + 1)] {
            let wrong = Hello { page, pages, ..hello() };
            assert!(Hello::decode(&wrong.encode()).is_err(), "page {page} of {pages}");
        }
    }

    #[test]
    fn a_hello_whose_floor_is_past_its_end_is_refused() {
        let mut wrong = hello();
        wrong.streams[0].floor = 6;
        assert!(Hello::decode(&wrong.encode()).is_err());
        wrong.streams[0].floor = 5;
        assert!(Hello::decode(&wrong.encode()).is_ok(), "a tombstone");
    }
}
