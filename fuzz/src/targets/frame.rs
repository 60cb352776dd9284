//! Bytes of a serial port.

use std::sync::Arc;

use fieldpost_gateway::serial::{Checksum, Counters, Decoded, Decoder, Format, PortConfig, crc16};
use fieldpost_protocol::{
    BODY_BYTES_DECODED_MAX, FRAME_BYTES_MAX, Reading, Value, check_metric, check_source,
};

use super::{through_json, travel};

pub(crate) fn line(bytes: &[u8]) {
    frames(bytes, Format::Native);
}

pub(crate) fn json(bytes: &[u8]) {
    frames(bytes, Format::Json);
}

fn frames(bytes: &[u8], format: Format) {
    let whole = decoded(format, Checksum::Optional, &[bytes]);
    let readings: Vec<Reading> = whole.iter().filter_map(measured).collect();
    readings.iter().for_each(obeys_the_rules);
    travel(&readings);
    let (front, back) = bytes.split_at(bytes.len() / 2);
    let halves = decoded(format, Checksum::Optional, &[front, back]);
    assert_eq!(format!("{whole:?}"), format!("{halves:?}"), "it matters how the bytes come");
    // A guess never hits the checksum: so each line is given a right one.
    let mut sealed = b"\n".to_vec();
    for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
        sealed.extend_from_slice(line);
        sealed.extend_from_slice(format!("*{:04X}\n", crc16(line)).as_bytes());
    }
    decoded(format, Checksum::Required, &[&sealed]);
}

/// Feeds a port with the pieces, and holds what it has counted against what comes of them.
fn decoded(format: Format, checksum: Checksum, pieces: &[&[u8]]) -> Vec<Decoded> {
    let counters = Arc::new(Counters::default());
    let port = PortConfig {
        name: "port".into(),
        path: "/dev/null".into(),
        baud: 115_200,
        format,
        checksum,
        reset_on_open: true,
    };
    let mut decoder = Decoder::new(port, counters.clone());
    let mut all = Vec::new();
    for piece in pieces {
        decoder.push(piece, |decoded| all.push(decoded));
    }
    assert!(decoder.bytes_held() <= FRAME_BYTES_MAX);
    let now = counters.snapshot();
    let taken = all.iter().filter(|decoded| !matches!(decoded, Decoded::Hint(_))).count();
    assert_eq!(now.frames, taken as u64, "taken and counted are not the same");
    assert!(checksum == Checksum::Optional || now.unverified == 0);
    all
}

fn measured(decoded: &Decoded) -> Option<Reading> {
    let Decoded::Reading { source, metrics } = decoded else { return None };
    Some(Reading { source: source.clone(), offset_ms: 0, metrics: metrics.clone() })
}

fn obeys_the_rules(reading: &Reading) {
    check_source(&reading.source).expect("a source that a topic can carry");
    assert!(!reading.metrics.is_empty(), "a reading of nothing");
    for (name, value) in reading.metrics.iter() {
        check_metric(name).expect("a metric that a row can carry");
        match value {
            Value::Float(float) => assert!(float.is_finite(), "{name} is {float}"),
            Value::Text(text) => assert!(!text.contains('\0'), "{name} holds U+0000"),
            _ => {}
        }
    }
    assert!(reading.cost() <= BODY_BYTES_DECODED_MAX, "it fits no batch");
    through_json(&reading.metrics);
}
