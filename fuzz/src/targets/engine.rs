//! The gateway's engine against a bridge that says anything: numbers of any size, in any order.

use std::time::Duration;

use fieldpost_gateway::engine::{Engine, Send, Settings};
use fieldpost_gateway::outbox::StreamInfo;
use fieldpost_protocol::{
    Ack, BridgeStatus, Epoch, Gen, Hello, Instance, Nonce, SEQ_MAX, Seq, State, StateStream,
    StoreId, Stream, StreamKey, SyncAcks, VERSION,
};

/// The input is a list of steps: a byte that says which, then what it needs.
pub(crate) fn engine(bytes: &[u8]) {
    let now = Duration::from_secs(100);
    let streams = [info(0, 11, 10, 10), info(1, 1, 2_000, 500), info(2, 5, 40, 4)];
    let mut engine = Engine::new(Settings::default(), Epoch([1; 16]), streams.to_vec(), None, 7);
    engine.handle_connected(now);
    let mut bench = Bench { engine, streams: streams.to_vec(), now, hello: None, rest: bytes };
    while let Some(step) = bench.byte() {
        bench.step(step);
        bench.check();
    }
}

struct Bench<'b> {
    engine: Engine,
    streams: Vec<StreamInfo>,
    now: Duration,
    hello: Option<Hello>,
    rest: &'b [u8],
}

impl Bench<'_> {
    fn step(&mut self, step: u8) {
        match step % 9 {
            0 => self.engine.handle_connected(self.now),
            1 => self.engine.handle_disconnected(),
            2 => {
                let passed = Duration::from_millis(self.number() % 600_000);
                self.now += passed;
            }
            3 => self.append(),
            4 => self.state(),
            5 => self.sync_acks(),
            6 => self.bridge_status(),
            7 => self.hold(),
            _ => {}
        }
        self.send();
        while self.engine.poll_notice().is_some() {}
    }

    /// Rows are committed: what the engine hears from our own side is always right.
    fn append(&mut self) {
        let at = usize::from(self.byte().unwrap_or(0)) % 2 + 1;
        let more = self.number() % 3_000 + 1;
        self.streams[at].last = (self.streams[at].last + more).min(SEQ_MAX);
        let StreamInfo { key, last, .. } = self.streams[at];
        self.engine.handle_appended(self.now, key, last);
    }

    /// Rows are dropped.
    fn hold(&mut self) {
        let at = usize::from(self.byte().unwrap_or(0)) % 3;
        let StreamInfo { floor, last, .. } = self.streams[at];
        self.streams[at].floor = floor + self.number() % (last + 2 - floor);
        self.engine.handle_streams(&self.streams);
    }

    fn state(&mut self) {
        let flags = self.byte().unwrap_or(0);
        let Some(hello) = self.hello.clone() else { return };
        let honest = flags & 1 == 0;
        let mut streams: Vec<StateStream> = Vec::new();
        for stream in &hello.streams {
            streams.push(StateStream { key: stream.key, hi: self.number() });
        }
        let state = State {
            v: VERSION,
            nonce: if honest { hello.nonce } else { Nonce([9; 16]) },
            attempt: if flags & 2 == 0 { hello.attempt } else { self.number() as u32 },
            page: if flags & 4 == 0 { hello.page } else { self.number() as u32 },
            versions: vec![if flags & 8 == 0 { VERSION } else { self.number() }],
            store: StoreId([flags >> 7; 16]),
            r#gen: Gen([flags >> 6 & 1; 16]),
            time: if flags & 16 == 0 { 1_795_245_000_000 } else { self.number() as i64 },
            streams,
        };
        self.engine.handle_state(self.now, &state);
    }

    fn sync_acks(&mut self) {
        let flags = self.byte().unwrap_or(0);
        let mut acks = Vec::new();
        for _ in 0..flags % 4 {
            let key = key(self.byte().unwrap_or(0) % 4);
            acks.push(Ack { key, lo: self.number(), hi: self.number() });
        }
        let (store, r#gen) = (StoreId([flags >> 7; 16]), Gen([flags >> 6 & 1; 16]));
        self.engine.handle_sync_acks(self.now, &SyncAcks { v: VERSION, store, r#gen, acks });
    }

    fn bridge_status(&mut self) {
        let flags = self.byte().unwrap_or(0);
        let status = BridgeStatus {
            online: flags & 1 == 0,
            instance: Instance([flags >> 1 & 3; 16]),
            store: StoreId([flags >> 7; 16]),
            r#gen: Gen([flags >> 6 & 1; 16]),
            version: None,
            time: None,
        };
        self.engine.handle_bridge_status(self.now, &status);
    }

    /// What the driver does: everything that may leave.
    fn send(&mut self) {
        for _ in 0..8 {
            match self.engine.poll_send(self.now, || Nonce([4; 16])) {
                Some(Send::Hello(hello)) => self.hello = Some(hello),
                Some(Send::Batch { key, from, rows_max }) => {
                    let info = self.streams.iter().find(|info| info.key == key);
                    let info = info.expect("a batch of a stream that exists");
                    assert!(info.floor <= from && from <= info.last, "row {from} of {info:?}");
                    let n = (info.last - from + 1).min(rows_max as u64);
                    self.engine.handle_sent(self.now, key, from, n, 3_000);
                }
                None => return,
            }
        }
    }

    /// Whatever was said: nothing counts as acked that was never given.
    fn check(&self) {
        for (key, acked) in self.engine.acked_streams() {
            let info = self.streams.iter().find(|info| info.key == key);
            let StreamInfo { floor, last, .. } = info.expect("a stream that exists");
            assert!(floor - 1 <= acked && acked <= *last, "{key}: {floor} {acked} {last}");
        }
        self.engine.waiting();
        self.engine.acked();
        self.engine.poll_timeout();
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Small ones, and those at the ends of their range.
    fn number(&mut self) -> Seq {
        match self.byte().unwrap_or(0) {
            small @ 0..=127 => u64::from(small),
            hundreds @ 128..=191 => u64::from(hundreds - 127) * 100,
            near @ 192..=223 => u64::MAX - u64::from(near - 192),
            near @ 224..=239 => SEQ_MAX + 8 - u64::from(near - 224),
            _ => (0..8).fold(0, |sum, _| sum << 8 | u64::from(self.byte().unwrap_or(0))),
        }
    }
}

/// Stream 0 is a tombstone, 1 has readings, 2 events; of 3 nobody knows.
fn key(at: u8) -> StreamKey {
    let stream = if at == 2 { Stream::Events } else { Stream::Readings };
    StreamKey { epoch: Epoch([at; 16]), stream }
}

fn info(at: u8, floor: Seq, last: Seq, acked: Seq) -> StreamInfo {
    StreamInfo { key: key(at), floor, last, acked }
}
