//! A body that can never become rows: it goes to the dead letters as it came.
//!
//! Judged before the transaction, so that one bad row does not take its neighbours with it.

use std::sync::Arc;

use fieldpost_protocol::{Envelope, Event, EventKind, Metrics, Reading, Value, decode_readings};

/// The earliest time of a row: 0001-01-01, what PostgreSQL, Python and spreadsheets take.
pub const TIME_MIN_MS: i64 = -62_135_596_800_000;
/// The latest time of a row: the last millisecond of 9999.
pub const TIME_MAX_MS: i64 = 253_402_300_799_999;

/// What a good body holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// As many readings as the envelope says.
    Readings(Vec<Reading>),
    /// One event.
    Event(Box<Event>),
}

/// Why a body is poison. The text is kept with the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Poison(pub String);

/// The readings of a batch, or why storage could never take them. `base` is the time of
/// offset 0, in Unix ms.
pub fn judge_readings(envelope: &Envelope, base: i64) -> Result<Content, Poison> {
    let readings = decode_readings(&envelope.body, envelope.n)
        .map_err(|error| Poison(clean(error.to_string())))?;
    // One reading's neighbours mostly share the source.
    let mut known: Option<&Arc<str>> = None;
    for (reading, seq) in readings.iter().zip(envelope.first..) {
        let at = |why: String| Poison(clean(format!("row {seq}: {why}")));
        if !known.is_some_and(|source| Arc::ptr_eq(source, &reading.source)) {
            check_text("source", &reading.source).map_err(at)?;
            known = Some(&reading.source);
        }
        check_time(base, reading.offset_ms).map_err(at)?;
        check_metrics(&reading.metrics).map_err(at)?;
    }
    Ok(Content::Readings(readings))
}

/// The event of a batch, or why storage could never take it. `command_ack` says which topic
/// it came by.
pub fn judge_event(envelope: &Envelope, base: i64, command_ack: bool) -> Result<Content, Poison> {
    let event = Event::decode(&envelope.body).map_err(|error| Poison(clean(error.to_string())))?;
    if event.is_command_ack() != command_ack {
        let topic = if command_ack { "command_acks" } else { "alerts" };
        return Err(Poison(format!("an event of this kind does not belong on {topic}")));
    }
    check_event(&event, base).map_err(|why| Poison(clean(why)))?;
    Ok(Content::Event(Box::new(event)))
}

fn check_event(event: &Event, base: i64) -> Result<(), String> {
    check_time(base, event.t)?;
    match &event.kind {
        EventKind::Alert { name, about, message, .. } => {
            check_text("the alert's name", name)?;
            check_text("what the alert is about", about.as_deref().unwrap_or_default())?;
            check_text("the alert's message", message)
        }
        EventKind::CommandAck { detail, result, .. } => {
            check_text("the detail", detail.as_deref().unwrap_or_default())?;
            check_metrics(result)
        }
    }
}

fn check_time(base: i64, offset_ms: i64) -> Result<(), String> {
    match base.checked_add(offset_ms) {
        Some(time) if (TIME_MIN_MS..=TIME_MAX_MS).contains(&time) => Ok(()),
        _ => Err(format!(
            "base {base} ms and offset {offset_ms} ms give no time from year 1 to 9999"
        )),
    }
}

/// Values that every storage takes.
pub(crate) fn check_metrics(metrics: &Metrics) -> Result<(), String> {
    for (name, value) in metrics.iter() {
        match value {
            Value::Float(float) if !float.is_finite() => {
                return Err(format!("metric {name:?} is {float}, which is no finite number"));
            }
            Value::Text(text) => check_text("a text value", text)?,
            _ => {}
        }
    }
    Ok(())
}

/// U+0000 is legal UTF-8, but neither PostgreSQL's text nor its jsonb takes it.
fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.contains('\0') { Err(format!("{what} holds U+0000")) } else { Ok(()) }
}

/// A reason is stored and logged, whatever it quotes: bounded, and without control
/// characters.
pub(crate) fn clean(reason: String) -> String {
    reason.chars().take(500).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::{Clock, Epoch, Stream, VERSION, encode_readings};

    use super::*;

    fn envelope(body: Vec<u8>, n: u64) -> Envelope {
        Envelope {
            v: VERSION,
            dev: "pi-1".parse().unwrap(),
            epoch: Epoch([1; 16]),
            stream: Stream::Readings,
            first: 1,
            n,
            floor: 1,
            last: n,
            base: 0,
            clock: Clock::Ntp,
            body,
        }
    }

    fn reading(value: Value, offset_ms: i64) -> Reading {
        let metrics = Metrics::new(vec![("temp".into(), value)]).unwrap();
        Reading { source: "air".into(), offset_ms, metrics }
    }

    #[test]
    fn rows_that_no_storage_takes_are_poison() {
        let bad = [
            reading(Value::Float(f64::NAN), 0),
            reading(Value::Float(f64::INFINITY), 0),
            reading("a\0b".into(), 0),
            reading(Value::Null, i64::MAX),
        ];
        for reading in bad {
            let rows = [reading.clone(), reading];
            let verdict = judge_readings(&envelope(encode_readings(&rows), 2), 1);
            assert!(verdict.is_err(), "{rows:?} was taken");
        }
        let rows = [reading(Value::Float(1.5), 0)];
        assert!(judge_readings(&envelope(encode_readings(&rows), 1), 1).is_ok());
    }

    #[test]
    fn a_body_of_another_count_or_of_garbage_is_poison() {
        let body = encode_readings(&[reading(Value::Int(1), 0)]);
        assert!(judge_readings(&envelope(body, 2), 0).is_err());
        assert!(judge_readings(&envelope(vec![0xff; 9], 1), 0).is_err());
    }

    #[test]
    fn a_reason_never_holds_what_it_complains_of() {
        assert_eq!(clean("a\0b".into()), "a\u{fffd}b");
    }
}
