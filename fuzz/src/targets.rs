//! What is tried, by where its bytes come from.

pub(crate) mod bridge;
pub(crate) mod config;
pub(crate) mod engine;
pub(crate) mod frame;
pub(crate) mod payload;

use fieldpost_protocol::{BODY_BYTES_MAX, Metrics, Reading, Value, decode_readings, encode_runs};

/// Equal to the last bit.
pub(crate) fn same(a: &Metrics, b: &Metrics) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b.iter())
            .all(|((name, value), (other, found))| name == other && value.same(found))
}

/// Readings go over the wire and come back as they were.
pub(crate) fn travel(readings: &[Reading]) {
    let mut rest = readings;
    for (count, body) in encode_runs(readings) {
        assert!(body.len() <= BODY_BYTES_MAX || count == 1, "a run that fits no batch");
        let back = decode_readings(&body, count as u64).expect("what we encode we can read");
        for (sent, found) in rest.iter().zip(&back) {
            assert_eq!((&sent.source, sent.offset_ms), (&found.source, found.offset_ms));
            assert!(same(&sent.metrics, &found.metrics), "{sent:?} came back as {found:?}");
        }
        rest = &rest[count..];
    }
    assert!(rest.is_empty(), "{} readings stayed behind", rest.len());
}

/// What JSON carries comes back from it to the last bit.
pub(crate) fn through_json(metrics: &Metrics) {
    let finite =
        metrics.iter().all(|(_, value)| !matches!(value, Value::Float(f) if !f.is_finite()));
    let json = metrics.to_json();
    assert_eq!(json.is_some(), finite);
    if let Some(json) = json {
        let back = Metrics::from_json(&json).expect("what we write we can read");
        assert!(same(metrics, &back), "{metrics:?} came back as {back:?}");
    }
}
