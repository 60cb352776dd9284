//! Bytes of a serial port.

use std::sync::Arc;

use fieldpost_gateway::serial::{
    Checksum, Counters, Decoded, Decoder, Field, Format, Pattern, PortConfig, crc16,
};
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

/// The formats of others, chosen by the first byte.
pub(crate) fn foreign(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    match choice % 6 {
        0 => frames(bytes, Format::Plotter),
        1 => frames(bytes, Format::Influx),
        2 => frames(bytes, Format::Regex(patterns())),
        3 => unverified(bytes, Format::Regex(patterns()), Checksum::Nmea),
        4 => unverified(bytes, Format::Cobs(Vec::new()), Checksum::None),
        _ => unverified(bytes, Format::Cobs(fields()), Checksum::None),
    }
}

fn patterns() -> Vec<Pattern> {
    let texts = ["^T=(?<temp>[^ ]+)( (?<hum>.*))?$", r"^\$(?<source>[A-Z]+),(?<a>[^,]*),(?<b>.*)$"];
    texts.map(|text| Pattern::of_metrics(text).expect("a good pattern")).into()
}

fn fields() -> Vec<Field> {
    let texts = ["a:u8", "b:i16", "_:u8", "c:f32", "d:bool"];
    texts.map(|text| text.parse().expect("a good field")).into()
}

fn frames(bytes: &[u8], format: Format) {
    unverified(bytes, format.clone(), Checksum::Optional);
    // A guess never hits the checksum: so each line is given a right one.
    let mut sealed = b"\n".to_vec();
    for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
        sealed.extend_from_slice(line);
        sealed.extend_from_slice(format!("*{:04X}\n", crc16(line)).as_bytes());
    }
    decoded(&format, Checksum::Required, &[&sealed]);
}

fn unverified(bytes: &[u8], format: Format, checksum: Checksum) {
    let whole = decoded(&format, checksum, &[bytes]);
    let readings: Vec<Reading> = whole.iter().filter_map(measured).collect();
    readings.iter().for_each(obeys_the_rules);
    travel(&readings);
    let (front, back) = bytes.split_at(bytes.len() / 2);
    let halves = decoded(&format, checksum, &[front, back]);
    assert_eq!(format!("{whole:?}"), format!("{halves:?}"), "it matters how the bytes come");
}

/// Feeds a port with the pieces, and holds what it has counted against what comes of them.
fn decoded(format: &Format, checksum: Checksum, pieces: &[&[u8]]) -> Vec<Decoded> {
    let counters = Arc::new(Counters::default());
    let port =
        PortConfig { format: format.clone(), checksum, ..PortConfig::new("port", "/dev/null") };
    let mut decoder = Decoder::new(port, counters.clone());
    let mut all = Vec::new();
    for piece in pieces {
        decoder.push(piece, |decoded| all.push(decoded));
    }
    assert!(decoder.bytes_held() <= FRAME_BYTES_MAX);
    let now = counters.snapshot();
    let count = |is: fn(&Decoded) -> bool| all.iter().filter(|decoded| is(decoded)).count() as u64;
    let taken = |decoded: &Decoded| {
        matches!(decoded, Decoded::Reading { .. } | Decoded::Boot(_) | Decoded::Answer(_))
    };
    assert_eq!(now.frames, count(taken), "taken and counted are not the same");
    assert_eq!(now.refused(), count(|decoded| matches!(decoded, Decoded::Refused(_))));
    assert_eq!(now.ignored, count(|decoded| matches!(decoded, Decoded::Ignored)));
    let verifies = matches!(checksum, Checksum::Required | Checksum::Nmea);
    assert!(!verifies || now.unverified == 0);
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
