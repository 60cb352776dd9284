//! What the vectors hold: every kind of column, compressed and not, sources in turn,
//! special values, every kind of event, the sync protocol, commands.
//!
//! Add at the end; a sample that vectors were made of is never changed.

use fieldpost_protocol::{
    Ack, AlertState, Clock, Command, CommandOutcome, Content, Envelope, Epoch, Event, EventKind,
    Gen, Hello, HelloStream, Metrics, Nonce, Reading, Severity, State, StateStream, StoreId,
    Stream, StreamKey, SyncAcks, Value, encode_readings,
};
use fieldpost_tests::series::series;
use serde_json::{Value as Json, json};

use crate::payload::{Payload, content_json, event_json, readings_json};

/// One vector.
pub struct Sample {
    /// The file's name, without its ending.
    pub name: String,
    /// What it is.
    pub payload: Payload,
    /// What the encoder of today makes of it.
    pub bytes: Vec<u8>,
    /// What every decoder has to make of it.
    pub json: Json,
}

/// 2026-11-21 08:00:00 UTC.
const BASE: i64 = 1_795_248_000_000;
const EPOCH: Epoch = Epoch([0x5e, 0x0d, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
const OLDER_EPOCH: Epoch = Epoch([0x4c, 0xa1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
const STORE: StoreId = StoreId([0x57, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
const GEN: Gen = Gen([0x6e, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
const NONCE: Nonce = Nonce([0x90, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]);

/// All of them.
pub fn all() -> Vec<Sample> {
    let mut samples = columns();
    samples.extend(batches());
    samples.extend(events());
    samples.extend(sync());
    samples.extend(commands());
    samples
}

fn reading(source: &str, offset_ms: i64, metrics: Vec<(&str, Value)>) -> Reading {
    let pairs = metrics.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Reading {
        source: source.into(),
        offset_ms,
        metrics: Metrics::new(pairs).expect("different names"),
    }
}

fn envelope(stream: Stream, n: u64, body: Vec<u8>) -> Envelope {
    let dev = "greenhouse-1".parse().expect("a device id");
    let (first, floor) = if stream == Stream::Events { (7, 5) } else { (1_001, 1) };
    let last = first + n + 3;
    Envelope {
        v: 1,
        dev,
        epoch: EPOCH,
        stream,
        first,
        n,
        floor,
        last,
        base: BASE,
        clock: Clock::Ntp,
        body,
    }
}

fn batch(name: &str, readings: &[Reading]) -> Sample {
    batch_in(name, readings, |envelope| envelope)
}

fn batch_in(name: &str, readings: &[Reading], change: impl Fn(Envelope) -> Envelope) -> Sample {
    let envelope =
        change(envelope(Stream::Readings, readings.len() as u64, encode_readings(readings)));
    let json = readings_json(&envelope, readings);
    Sample {
        name: format!("sensor_data-{name}"),
        payload: Payload::SensorData,
        bytes: envelope.encode(),
        json,
    }
}

/// One column of these values, a row a second.
fn column(name: &str, values: impl IntoIterator<Item = impl Into<Value>>) -> Sample {
    let rows = values
        .into_iter()
        .zip(0..)
        .map(|(value, i)| reading("probe", i * 1_000, vec![("x", value.into())]));
    batch(name, &rows.collect::<Vec<_>>())
}

fn columns() -> Vec<Sample> {
    let null = || Value::Null;
    vec![
        column("integers", [800, 801, 799, -1, i64::MIN, i64::MAX, 0]),
        column("integers-constant", [7; 5]),
        column("decimals-0-places", [24.0, 25.0, -3.0]),
        column("decimals-1-place", [24.4, 24.5, 24.3, -0.1]),
        column("decimals-9-places", [0.000_000_001, 4.2, -1.5]),
        column("floats", [std::f64::consts::PI, 1e-300, 1e300, -0.0, f64::MIN_POSITIVE, f64::MAX]),
        column("floats-not-finite", [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5]),
        column("bools", [true, true, false, true]),
        column("texts", ["fruiting", "fruiting", "", "Grüße, 北京 🍄", "\"quoted\" \\ line\nend"]),
        column(
            "mixed",
            [
                Value::Int(1),
                1.0.into(),
                true.into(),
                "1".into(),
                null(),
                (-1.5).into(),
                i64::MAX.into(),
            ],
        ),
        column("nulls", [null(), null()]),
        batch(
            "absent-is-not-null",
            &[
                reading("probe", 0, vec![("a", 1.into()), ("b", null())]),
                reading("probe", 1_000, vec![("b", 2.into())]),
                reading("probe", 2_000, vec![("a", null()), ("c", true.into())]),
                reading("probe", 3_000, vec![]),
            ],
        ),
        batch("without-metrics", &[reading("probe", 0, vec![])]),
        batch(
            "times",
            &[0, 999, 2_003, -60_000, 86_400_000, 86_400_000, 40_000_000_000]
                .map(|offset_ms| reading("probe", offset_ms, vec![("x", 1.into())])),
        ),
        batch("names", &[reading(&"s".repeat(64), 0, vec![("temperature.°C/µ[1]", 20.5.into())])]),
    ]
}

fn batches() -> Vec<Sample> {
    let three: Vec<Vec<Reading>> =
        ["air", "room", "meter"].iter().map(|name| series(name, 100)).collect();
    let mixed: Vec<Reading> = (0..300).map(|i| three[i % 3][i / 3].clone()).collect();
    let one = [reading("fruiting", 60_000, vec![("temp", 24.5.into())])];
    let mut samples = vec![
        batch("example", &example()),
        batch_in("clock-bridge", &one, |envelope| Envelope { clock: Clock::Bridge, ..envelope }),
        batch_in("clock-unsynced", &one, |envelope| Envelope {
            clock: Clock::Unsynced,
            base: 946_684_800_000,
            ..envelope
        }),
        batch_in("last-possible-row", &one, |envelope| {
            let last = fieldpost_protocol::SEQ_MAX;
            Envelope { first: last, floor: last, last, ..envelope }
        }),
        batch("three-sources", &mixed),
    ];
    for (name, readings) in ["air", "room", "meter"].iter().zip(&three) {
        samples.push(batch(name, readings));
    }
    samples
}

/// The batch that topics.md shows.
fn example() -> Vec<Reading> {
    let room = |offset_ms, temp: f64, co2: i64, fan: bool| {
        let metrics = vec![
            ("temp", temp.into()),
            ("co2", co2.into()),
            ("fan", fan.into()),
            ("stage", "fruiting".into()),
        ];
        reading("room", offset_ms, metrics)
    };
    vec![
        room(60_000, 18.4, 812, false),
        reading("door", 60_250, vec![("open", true.into()), ("battery", Value::Null)]),
        room(61_003, 18.5, 809, false),
        room(61_998, 18.5, 815, true),
    ]
}

fn event(name: &str, t: i64, kind: EventKind) -> Sample {
    let event = Event { t, kind };
    let payload = if event.is_command_ack() { Payload::CommandAcks } else { Payload::Alerts };
    let envelope = envelope(Stream::Events, 1, event.encode());
    let json = event_json(payload, &envelope, &event);
    Sample { name: format!("{}-{name}", payload.name()), payload, bytes: envelope.encode(), json }
}

fn events() -> Vec<Sample> {
    let alert =
        |name: &str, about: Option<&str>, state, severity, message: &str| EventKind::Alert {
            name: name.to_owned(),
            about: about.map(str::to_owned),
            state,
            severity,
            message: message.to_owned(),
            lasting: false,
        };
    let (raised, cleared) = (AlertState::Raised, AlertState::Cleared);
    let mut samples = vec![
        event(
            "port-lost",
            61_000,
            alert("port_lost", Some("room"), raised, Severity::Warning, "the port is gone"),
        ),
        event(
            "port-back",
            75_000,
            alert("port_lost", Some("room"), cleared, Severity::Warning, "the port is open again"),
        ),
        event(
            "outbox-full",
            90_000,
            alert("outbox_full", None, raised, Severity::Critical, "readings are refused"),
        ),
        event("information", 0, alert("started", None, raised, Severity::Info, "")),
    ];
    let ack = |outcome, detail: Option<&str>, result: &str| EventKind::CommandAck {
        id: "a1b2".parse().expect("a command's id"),
        target: EPOCH,
        content: None,
        outcome,
        detail: detail.map(str::to_owned),
        result: Metrics::from_json(result).expect("a JSON object"),
    };
    for outcome in crate::contract::outcomes() {
        let (detail, result) = match outcome {
            CommandOutcome::Succeeded => (None, r#"{"on": 1, "level": 0.5, "took": 0.1}"#),
            CommandOutcome::Failed => (Some("no such pin"), "{}"),
            _ => (None, "{}"),
        };
        let name = content_json(&outcome);
        let name = name.as_str().expect("an outcome is a word").replace('_', "-");
        samples.push(event(&name, 62_000, ack(outcome, detail, result)));
    }
    let EventKind::CommandAck { id, target, outcome, detail, result, .. } =
        ack(CommandOutcome::Succeeded, None, r#"{"on": 1}"#)
    else {
        unreachable!("an ack is one")
    };
    let content = Some(Content([0x3f, 0x86, 0x09, 0x63, 0x07, 0x42, 0xec, 0x9f]));
    let ack = EventKind::CommandAck { id, target, content, outcome, detail, result };
    samples.push(event("of-content", 62_000, ack));
    let name = "temp_high".to_owned();
    let about = Some("fruiting".to_owned());
    let (severity, message) = (Severity::Warning, "temp of fruiting is 29.5".to_owned());
    let rule = EventKind::Alert { name, about, state: raised, severity, message, lasting: true };
    samples.push(event("lasting", 61_000, rule));
    samples
}

fn key(epoch: Epoch, stream: Stream) -> StreamKey {
    StreamKey { epoch, stream }
}

fn sync() -> Vec<Sample> {
    let (readings, events) = (key(EPOCH, Stream::Readings), key(EPOCH, Stream::Events));
    let tombstone =
        HelloStream { key: key(OLDER_EPOCH, Stream::Readings), floor: 52_001, last: 52_000 };
    let streams = vec![
        tombstone,
        HelloStream { key: readings, floor: 1, last: 1_007 },
        HelloStream { key: events, floor: 5, last: 7 },
    ];
    let hello =
        Hello { v: 1, nonce: NONCE, attempt: 1, no: 3, page: 1, pages: 1, epoch: EPOCH, streams };
    let many = (1..=64).map(|i| HelloStream {
        key: key(Epoch([i; 16]), Stream::Readings),
        floor: 1,
        last: 1 << 40,
    });
    let full =
        Hello { attempt: 17, no: 4, page: 2, pages: 3, streams: many.collect(), ..hello.clone() };
    let empty = Hello { streams: Vec::new(), ..hello.clone() };
    let listed = [(tombstone.key, 52_000), (readings, 1_000), (events, 7)];
    let state = State {
        v: 1,
        nonce: NONCE,
        attempt: 1,
        page: 1,
        versions: vec![1],
        store: STORE,
        r#gen: GEN,
        time: BASE + 62_500,
        streams: listed.map(|(key, hi)| StateStream { key, hi }).to_vec(),
    };
    let newer = State { versions: vec![1, 2, 3], streams: Vec::new(), ..state.clone() };
    let acks = vec![Ack { key: readings, lo: 1, hi: 1_004 }, Ack { key: events, lo: 5, hi: 4 }];
    let acks = SyncAcks { v: 1, store: STORE, r#gen: GEN, acks };
    vec![
        content(Payload::Hello, "example", &hello, hello.encode()),
        content(Payload::Hello, "full-page", &full, full.encode()),
        content(Payload::Hello, "nothing-yet", &empty, empty.encode()),
        content(Payload::State, "example", &state, state.encode()),
        content(Payload::State, "newer-bridge", &newer, newer.encode()),
        content(Payload::SyncAcks, "example", &acks, acks.encode()),
    ]
}

fn commands() -> Vec<Sample> {
    let args = Metrics::from_json(
        r#"{"pin": 13, "on": true, "level": 0.5, "mode": "slow", "until": null}"#,
    );
    let full = Command {
        v: 1,
        id: "a1b2".parse().ok(),
        name: "led".to_owned(),
        args: args.expect("a JSON object"),
        expires: Some(BASE + 3_600_000),
        target: Some(EPOCH),
        strict: true,
    };
    let short = Command {
        args: Metrics::default(),
        expires: None,
        target: None,
        strict: false,
        ..full.clone()
    };
    vec![
        content(Payload::Commands, "example", &full, full.encode()),
        content(Payload::Commands, "short", &short, short.encode()),
    ]
}

fn content(
    payload: Payload,
    name: &str,
    content: &impl serde::Serialize,
    bytes: Vec<u8>,
) -> Sample {
    let json = json!({ "payload": payload.name(), "content": content_json(content) });
    Sample { name: format!("{}-{name}", payload.name()), payload, bytes, json }
}
