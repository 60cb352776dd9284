//! The contract between gateway and bridge: topics, payloads, codecs.
//!
//! Pure: bytes and values in, bytes and values out. No IO, no clock, no global state, so
//! that the simulation, the gateway and the bridge run the very same code. `topics.md` in
//! the repository's root is the same contract for people; a test holds the two together.
//!
//! ```text
//!            Reading --> body (columns, zstd) --+
//! gateway               Event --> body ---------+--> Envelope --> sensor_data, alerts, command_acks
//!            Hello ------------------------------------------> sync/hello
//! bridge     State, SyncAcks, Command ----------------------> sync/state, sync/acks, commands
//! ```
//!
//! Whatever is decoded here is untrusted: bytes, depth and counts are bounded before
//! anything is allocated, and every refusal is an error, never a panic.

mod body;
mod cbor;
mod command;
mod envelope;
mod event;
mod id;
mod limits;
mod name;
mod people;
mod sync;
mod topic;
mod value;

pub use body::{BodyError, decode_readings, encode_readings, encode_runs};
pub use cbor::{DecodeError, version_of};
pub use command::{Command, id_of, unknown_keys};
pub use envelope::{Clock, Envelope, EnvelopeError};
pub use event::{
    AlertState, CommandOutcome, Event, EventKind, OutcomeError, Severity, SeverityError,
};
pub use id::{
    Content, Epoch, Gen, IdError, Instance, Nonce, Seq, StoreId, Stream, StreamError, StreamKey,
};
pub use limits::*;
pub use name::{CommandId, DeviceId, NameError, check_command, check_metric, check_source};
pub use people::{
    BridgeStatus, DeviceStatus, Live, LiveAlert, LiveCommandAck, Meta, MetaMetric, MetaSource,
};
pub use sync::{Ack, Hello, HelloStream, State, StateStream, SyncAcks};
pub use topic::{Topic, Topics};
pub use value::{Metrics, Reading, Value};
