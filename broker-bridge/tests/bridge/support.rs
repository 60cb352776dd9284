//! A storage in a directory of its own, and messages as gateways send them.

use std::path::PathBuf;

use fieldpost_bridge::engine::Engine;
use fieldpost_bridge::ingest::{Answer, Incoming, Ingested, Receipt, ingest};
use fieldpost_bridge::store::sqlite::{Query, SqliteStore};
use fieldpost_protocol::{
    Ack, AlertState, Clock, DeviceId, Envelope, Epoch, Event, EventKind, Hello, HelloStream,
    Metrics, Nonce, Reading, Seq, Severity, StateStream, Stream, StreamKey, Topic, VERSION, Value,
    encode_readings,
};
use tempfile::TempDir;

pub const NOW: i64 = 1_795_245_000_000;
pub const BASE: i64 = 1_795_000_000_000;

pub struct Bench {
    pub dir: TempDir,
    pub store: SqliteStore,
    pub now: i64,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge.db");
        SqliteStore::init(&path, None, NOW).unwrap();
        let store = SqliteStore::open(&path).unwrap();
        Bench { dir, store, now: NOW }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("bridge.db")
    }

    pub fn query(&self) -> Query {
        Query::open(&self.path()).unwrap()
    }

    pub fn take(&mut self, messages: &[Incoming]) -> Ingested {
        self.now += 1;
        ingest(&mut self.store, &Engine::default(), messages, self.now)
    }

    /// Takes messages that must all become durable; returns the sync acks.
    pub fn acks(&mut self, messages: &[Incoming]) -> Vec<Ack> {
        let done = self.take(messages);
        assert_eq!(done.error, None);
        assert!(done.committed.iter().all(|&committed| committed));
        sync_acks(&done)
    }

    /// Says hello with one page; returns the state's streams.
    pub fn hello(&mut self, epoch: u8, no: u64, streams: &[HelloStream]) -> Vec<StateStream> {
        let done = self.take(&[hello(epoch, no, 1, 1, streams)]);
        states(&done).remove(0)
    }

    pub fn db(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }

    /// Every seq of a view with `first` and `last`, of one stream.
    pub fn seqs(&self, view: &str, epoch: u8, stream: Stream) -> Vec<Seq> {
        let sql = format!(
            "SELECT first, last FROM {view} WHERE epoch = ?1 AND stream = ?2 ORDER BY first"
        );
        let db = self.db();
        let mut query = db.prepare(&sql).unwrap();
        let runs = query
            .query_map((id(epoch).to_string(), stream.as_str()), |row| {
                Ok((row.get::<_, i64>(0)? as Seq, row.get::<_, i64>(1)? as Seq))
            })
            .unwrap();
        runs.flat_map(|run| run.map(|(lo, hi)| lo..=hi).unwrap()).collect()
    }

    pub fn stored(&self, epoch: u8) -> Vec<Seq> {
        let db = self.db();
        let mut query =
            db.prepare("SELECT seq FROM readings WHERE epoch = ?1 ORDER BY seq").unwrap();
        let rows = query.query_map([id(epoch).to_string()], |row| row.get::<_, i64>(0)).unwrap();
        rows.map(|seq| seq.unwrap() as Seq).collect()
    }
}

pub fn device() -> DeviceId {
    "pi-1".parse().unwrap()
}

pub fn id(epoch: u8) -> Epoch {
    Epoch([epoch; 16])
}

pub fn key(epoch: u8) -> StreamKey {
    StreamKey { epoch: id(epoch), stream: Stream::Readings }
}

pub fn held(epoch: u8, floor: Seq, last: Seq) -> HelloStream {
    HelloStream { key: key(epoch), floor, last }
}

/// What seq `seq` says: the tests compare rows with it.
pub fn reading(seq: Seq) -> Reading {
    let pairs = vec![
        ("co2".into(), Value::Int(400 + (seq % 50) as i64)),
        ("humidity".into(), Value::Float(40.0 + (seq % 300) as f64 / 10.0)),
        ("temp".into(), Value::Float(20.0 + (seq % 70) as f64 / 10.0)),
    ];
    let metrics = Metrics::new(pairs).unwrap();
    Reading { source: "air".into(), offset_ms: seq as i64 * 1000, metrics }
}

pub fn envelope(epoch: u8, first: Seq, n: u64, floor: Seq, last: Seq) -> Envelope {
    let readings: Vec<Reading> = (first..first + n).map(reading).collect();
    Envelope {
        v: VERSION,
        dev: device(),
        epoch: id(epoch),
        stream: Stream::Readings,
        first,
        n,
        floor,
        last,
        base: BASE,
        clock: Clock::Ntp,
        body: encode_readings(&readings),
    }
}

pub fn batch(epoch: u8, first: Seq, n: u64, floor: Seq, last: Seq) -> Incoming {
    message(&envelope(epoch, first, n, floor, last))
}

pub fn message(envelope: &Envelope) -> Incoming {
    let topic = Topic::SensorData(envelope.dev.clone());
    Incoming { topic, payload: envelope.encode(), retained: false, receipt: Receipt::default() }
}

/// A batch whose body is garbage.
pub fn poison(epoch: u8, first: Seq, n: u64, floor: Seq, last: Seq) -> Incoming {
    let body = vec![0xff; 40];
    message(&Envelope { body, ..envelope(epoch, first, n, floor, last) })
}

pub fn alert(epoch: u8, seq: Seq, name: &str, state: AlertState) -> Incoming {
    let kind = EventKind::Alert {
        name: name.into(),
        about: None,
        state,
        severity: Severity::Warning,
        message: "look at it".into(),
        lasting: false,
    };
    event(epoch, seq, &Event { t: seq as i64, kind })
}

pub fn event(epoch: u8, seq: Seq, event: &Event) -> Incoming {
    let stream = Stream::Events;
    let envelope = Envelope { stream, body: event.encode(), ..envelope(epoch, seq, 1, 1, seq) };
    let topic = Topic::batch(&device(), stream, event.is_command_ack());
    Incoming { topic, payload: envelope.encode(), retained: false, receipt: Receipt::default() }
}

pub fn hello(epoch: u8, no: u64, page: u32, pages: u32, streams: &[HelloStream]) -> Incoming {
    let hello = Hello {
        v: VERSION,
        nonce: Nonce([no as u8; 16]),
        attempt: 1,
        no,
        page,
        pages,
        epoch: id(epoch),
        streams: streams.to_vec(),
    };
    Incoming {
        topic: Topic::Hello(device()),
        payload: hello.encode(),
        retained: false,
        receipt: Receipt::default(),
    }
}

pub fn sync_acks(done: &Ingested) -> Vec<Ack> {
    let acks = done.answers.iter().filter_map(|answer| match answer {
        Answer::SyncAcks(_, acks) => Some(acks.acks.clone()),
        Answer::State(..) | Answer::Command(..) => None,
    });
    acks.flatten().collect()
}

pub fn states(done: &Ingested) -> Vec<Vec<StateStream>> {
    let states = done.answers.iter().filter_map(|answer| match answer {
        Answer::State(_, state) => Some(state.streams.clone()),
        Answer::SyncAcks(..) | Answer::Command(..) => None,
    });
    states.collect()
}
