//! Payloads of the contract, one decoder each: what is accepted obeys its rules, and is the
//! same after it was written and read again.

use std::fmt::Debug;

use fieldpost_protocol::{
    BATCH_READINGS_MAX, BODY_BYTES_DECODED_MAX, BODY_BYTES_MAX, BridgeStatus, Command,
    DeviceStatus, Envelope, Event, HELLO_STREAMS_MAX, Hello, Live, Meta, Metrics, SEQ_MAX,
    SYNC_ACKS_MAX, State, SyncAcks, Topics, VERSIONS_READ, decode_readings, version_of,
};

use super::{through_json, travel};

pub(crate) fn envelope(bytes: &[u8]) {
    version_of(bytes);
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    let Envelope { first, n, floor, last, .. } = envelope;
    assert!(VERSIONS_READ.contains(&envelope.v));
    assert!(1 <= n && n <= BATCH_READINGS_MAX as u64 && envelope.body.len() <= BODY_BYTES_MAX);
    assert!(1 <= first && first <= envelope.end() && envelope.end() <= last && last <= SEQ_MAX);
    assert!(1 <= floor && floor <= last + 1);
    again(&envelope, Envelope::decode(&envelope.encode()));
}

pub(crate) fn readings(body: &[u8]) {
    let n = rows_declared(body).unwrap_or(1);
    let Ok(readings) = decode_readings(body, n) else { return };
    assert_eq!(readings.len() as u64, n, "rows are not what the envelope says");
    let cost: usize = readings.iter().map(|reading| reading.cost()).sum();
    assert!(cost <= BODY_BYTES_DECODED_MAX, "{cost} bytes unfolded");
    assert!(decode_readings(body, n + 1).is_err(), "one row more would do as well");
    travel(&readings);
}

/// The count that stands at the front of a body, so that not every guess fails at it.
pub(crate) fn rows_declared(body: &[u8]) -> Option<u64> {
    let unpacked;
    let plain = if body.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        unpacked = zstd::bulk::decompress(body, BODY_BYTES_DECODED_MAX).ok()?;
        &unpacked[..]
    } else {
        body
    };
    // RFC 8949, 3.1: an unsigned integer in itself, or in one or two bytes more.
    match *plain.get(1..)? {
        [small @ 0..=23, ..] => Some(u64::from(small)),
        [24, one, ..] => Some(u64::from(one)),
        [25, high, low, ..] => Some(u64::from(high) << 8 | u64::from(low)),
        _ => None,
    }
}

pub(crate) fn event(body: &[u8]) {
    let Ok(event) = Event::decode(body) else { return };
    again(&event, Event::decode(&event.encode()));
}

pub(crate) fn hello(bytes: &[u8]) {
    let Ok(hello) = Hello::decode(bytes) else { return };
    assert!(VERSIONS_READ.contains(&hello.v));
    assert!(hello.streams.len() <= HELLO_STREAMS_MAX && hello.page <= hello.pages);
    again(&hello, Hello::decode(&hello.encode()));
}

pub(crate) fn state(bytes: &[u8]) {
    let Ok(state) = State::decode(bytes) else { return };
    assert!(VERSIONS_READ.contains(&state.v));
    assert!(state.streams.len() <= HELLO_STREAMS_MAX);
    again(&state, State::decode(&state.encode()));
}

pub(crate) fn sync_acks(bytes: &[u8]) {
    let Ok(acks) = SyncAcks::decode(bytes) else { return };
    assert!(VERSIONS_READ.contains(&acks.v));
    assert!(acks.acks.len() <= SYNC_ACKS_MAX);
    again(&acks, SyncAcks::decode(&acks.encode()));
}

pub(crate) fn command(bytes: &[u8]) {
    let Ok(command) = Command::decode(bytes) else { return };
    // In CBOR a number may take more bytes than in the JSON of a person.
    if let Ok(back) = Command::decode(&command.encode()) {
        assert_eq!(format!("{command:?}"), format!("{back:?}"));
    }
}

/// All that is JSON.
pub(crate) fn people(bytes: &[u8]) {
    if let Ok(status) = DeviceStatus::from_json(bytes) {
        again(&status, DeviceStatus::from_json(&status.to_json()));
    }
    if let Ok(meta) = Meta::from_json(bytes) {
        // Written anew it may be longer than what may be read: of that only one is at fault.
        let json = meta.to_json();
        if json.len() <= 64 * 1024 {
            again(&meta, Meta::from_json(&json));
        }
    }
    if let Ok(status) = BridgeStatus::from_json(bytes) {
        again(&status, BridgeStatus::from_json(&status.to_json()));
    }
    if let Ok(live) = Live::from_json(bytes) {
        through_json(&live.values);
    }
    if let Some(metrics) = std::str::from_utf8(bytes).ok().and_then(|t| Metrics::from_json(t).ok())
    {
        through_json(&metrics);
    }
}

/// A topic; the first line may be a prefix.
pub(crate) fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (prefix, name) = text.split_once('\n').unwrap_or(("", text));
    let Ok(topics) = Topics::new(prefix) else { return };
    if let Some(topic) = topics.parse(name) {
        assert_eq!(topics.name(&topic), name);
    }
}

/// By what `Debug` says: a NaN is not equal to itself.
fn again<T: Debug, E: Debug>(first: &T, second: Result<T, E>) {
    let second = second.expect("what we write we can read");
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}
