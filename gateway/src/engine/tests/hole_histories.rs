//! Random histories of an outbox that loses rows anywhere in its streams, and of a storage that
//! goes back to a backup, with the engine between them.
//!
//! Modelled: what outbox and storage hold ([`model`]), what driver and bridge do between them and
//! the engine, and a connection that loses, delays and repeats messages. Rows are appended, trimmed,
//! dropped as the oldest ones, and lost; the gateway is restarted, its clock steps, its connection
//! breaks; storage goes back, under another gen or in silence.
//! Not modelled: tombstones, commits in doubt, poison, other stores. The simulation has those.
//!
//! Asserted three hours after the last fault:
//! - Every row held is stored, and the engine waits for none.
//! - Storage waits for none either: it has all from its floor to the last row given, so that what
//!   nobody can send any more is below the floor, where it shows as missing.
//! - Hellos did not come in a storm.
//!
//! And at every moment: a row that is trimmed was stored once; no batch begins below the floor that
//! it states; polls come to an end.

use std::collections::BTreeMap;

use fieldpost_protocol::HelloStream;

use super::*;
use crate::outbox::Hole;

mod model;

use model::{Held, Message, Storage, name, run_from};

const SEEDS: u64 = 30_000;
/// Polls at one moment, and moments in three hours, that only an endless loop needs.
const POLLS_MAX: usize = 1_000;
const MOMENTS_MAX: usize = 20_000;

#[test]
fn what_is_held_is_stored_and_nobody_waits_for_what_is_gone() {
    for seed in 0..SEEDS {
        if std::panic::catch_unwind(|| History::run(seed, false)).is_err() {
            println!("Seed {seed} again, with all that happens:");
            let _ = std::panic::catch_unwind(|| History::run(seed, true));
            panic!("seed {seed}: what and why stands above");
        }
    }
}

struct History {
    rng: fastrand::Rng,
    printed: bool,
    now: Duration,
    engine: Engine,
    epochs: u8,
    nonces: u128,
    hellos: usize,
    outbox: BTreeMap<StreamKey, Held>,
    trusted: Option<Trusted>,
    /// Committed, and the engine has not been told.
    untold: Vec<(StreamKey, Seq)>,
    wire: Vec<Message>,
    storage: Storage,
    /// Storage went back in silence since this process began.
    went_back: bool,
}

impl History {
    fn run(seed: u64, printed: bool) {
        let mut history = History {
            rng: fastrand::Rng::with_seed(seed),
            printed,
            now: secs(0),
            engine: Engine::new(Settings::default(), epoch(0), Vec::new(), None, seed),
            epochs: 0,
            nonces: 0,
            hellos: 0,
            outbox: BTreeMap::new(),
            trusted: None,
            untold: Vec::new(),
            wire: Vec::new(),
            storage: Storage::default(),
            went_back: false,
        };
        history.start();
        for _ in 0..history.rng.usize(10..80) {
            history.step();
        }
        history.settle();
        history.check();
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.printed {
            println!("{:>9.3} {}", (self.now - secs(0)).as_secs_f64(), what());
        }
    }

    fn step(&mut self) {
        match self.rng.u8(0..48) {
            0..6 => self.append(),
            6..18 => self.deliver(true),
            18 => self.now += Duration::from_millis(10),
            19 => self.now += Duration::from_secs(4),
            20 => self.now += Duration::from_secs(40),
            21..25 => self.lose_rows(),
            25 => self.start(),
            26 => {
                self.tell_acked();
                self.start();
            }
            27 => self.connect(),
            28 => self.engine.handle_disconnected(),
            29 | 30 => self.storage.backup = self.storage.streams.clone(),
            31..35 => self.restore(),
            35 | 36 => self.trim(),
            37 => self.drop_oldest(),
            38 => self.tell_acked(),
            39 => {
                self.note(|| "the clock steps".into());
                self.tell_appended();
                self.epochs += 1;
                self.engine.handle_epoch(self.now, epoch(self.epochs));
            }
            40 | 41 => {
                self.note(|| "storage goes back in silence".into());
                self.storage.streams = self.storage.backup.clone();
                self.went_back = true;
            }
            _ => drop(self.send(20)),
        }
        self.handle_notices();
        if self.rng.bool() {
            self.send_all();
        }
    }

    /// Three hours without a fault.
    fn settle(&mut self) {
        self.tell_appended();
        if self.went_back {
            // Below a floor that stepped over a hole nobody looks again before the next start.
            self.tell_acked();
            self.start();
        }
        if self.rng.bool() || !self.engine.online {
            self.connect();
        }
        let (end, before) = (self.now + Duration::from_secs(3 * 3_600), self.hellos);
        let mut moments = 0;
        while self.now < end {
            moments += 1;
            assert!(moments < MOMENTS_MAX, "it does not come to rest");
            self.send_all();
            if self.wire.is_empty() {
                let at = self.engine.poll_timeout().unwrap_or(end);
                self.now = at.max(self.now + Duration::from_millis(1));
            } else {
                self.now += Duration::from_millis(5);
                self.deliver(false);
            }
        }
        let (hellos, pages_max) = (self.hellos - before, self.outbox.len() + 1);
        assert!(hellos <= 12 * pages_max, "{hellos} hellos in three hours");
    }

    fn check(&self) {
        for (key, held) in &self.outbox {
            let (key, stored) = (*key, self.storage.streams.get(key).cloned().unwrap_or_default());
            let lacking: Vec<_> = held.rows.difference(&stored.rows).collect();
            assert!(lacking.is_empty(), "{}: {lacking:?} held and not stored", name(key));
            assert!(stored.claimed >= held.last, "{}: {} was not told", name(key), held.last);
            let given = stored.floor..=stored.claimed;
            let awaited: Vec<_> = given.filter(|seq| !stored.rows.contains(seq)).collect();
            assert!(awaited.is_empty(), "{}: storage waits for {awaited:?}", name(key));
        }
        assert_eq!(self.engine.waiting(), 0, "the engine waits for sync acks");
    }

    // What happens to the outbox.

    /// A process begins.
    fn start(&mut self) {
        self.note(|| "start".into());
        (self.untold, self.went_back) = (Vec::new(), false);
        for held in self.outbox.values_mut() {
            held.load();
            held.confirmed = 0;
        }
        self.epochs += 1;
        let hello_streams_max = self.rng.usize(1..4);
        let settings = Settings { batch_readings_max: 4, hello_streams_max, ..Settings::default() };
        let (epoch, seed) = (epoch(self.epochs), self.rng.u64(..));
        self.engine = Engine::new(settings, epoch, self.infos(), self.trusted, seed);
        self.engine.handle_holes(&self.holes());
        self.connect();
    }

    fn append(&mut self) {
        let stream = if self.rng.u8(0..4) == 0 { Stream::Events } else { Stream::Readings };
        let key = StreamKey { epoch: epoch(self.epochs), stream };
        let held = self.outbox.entry(key).or_insert(Held { floor: 1, ..Held::default() });
        let (first, last) = (held.last + 1, held.last + self.rng.u64(1..12));
        held.last = last;
        held.rows.extend(first..=last);
        self.untold.push((key, last));
        self.note(|| format!("{}: {first}..={last} appended", name(key)));
        if self.rng.u8(0..3) > 0 {
            self.tell_appended();
        }
    }

    fn lose_rows(&mut self) {
        let Some(key) = self.any_stream() else { return };
        let held = self.outbox.get_mut(&key).unwrap();
        let first = self.rng.u64(1..=held.last);
        let end = first + self.rng.u64(1..8);
        held.rows.retain(|seq| !(first..end).contains(seq));
        self.note(|| format!("{}: {first}..{end} are gone", name(key)));
    }

    fn trim(&mut self) {
        self.tell_acked();
        for (key, held) in &mut self.outbox {
            for seq in held.trim(self.rng.usize(0..6)) {
                let was_stored = self.storage.once_stored.contains(&(*key, seq));
                assert!(was_stored, "{}: {seq} trimmed and never stored", name(*key));
            }
        }
        self.tell_held();
    }

    fn drop_oldest(&mut self) {
        self.tell_acked();
        if let Some(key) = self.any_stream() {
            let held = self.outbox.get_mut(&key).unwrap();
            let gone: Vec<_> =
                (0..self.rng.u8(1..6)).map_while(|_| held.rows.pop_first()).collect();
            self.note(|| format!("{}: {gone:?} dropped", name(key)));
        }
        self.tell_held();
    }

    fn any_stream(&mut self) -> Option<StreamKey> {
        let at = self.rng.usize(0..self.outbox.len().max(1));
        self.outbox.keys().nth(at).copied()
    }

    fn infos(&self) -> Vec<StreamInfo> {
        self.outbox.iter().map(|(key, held)| held.info(*key)).collect()
    }

    fn holes(&self) -> Vec<Hole> {
        self.outbox.iter().flat_map(|(key, held)| held.holes(*key)).collect()
    }

    // What the driver does.

    fn connect(&mut self) {
        self.wire.retain(|message| !message.is_for_gateway());
        self.engine.handle_connected(self.now);
    }

    fn tell_appended(&mut self) {
        for (key, last) in std::mem::take(&mut self.untold) {
            self.engine.handle_appended(self.now, key, last);
        }
    }

    fn tell_acked(&mut self) {
        for (key, acked) in self.engine.acked_streams() {
            self.outbox.get_mut(&key).unwrap().set_acked(acked);
        }
    }

    fn tell_held(&mut self) {
        self.outbox.values_mut().for_each(Held::load);
        self.engine.handle_streams(&self.infos());
    }

    fn handle_notices(&mut self) {
        while let Some(notice) = self.engine.poll_notice() {
            match notice {
                Notice::Trust(trusted) if self.trusted != Some(trusted) => {
                    self.trusted = Some(trusted);
                    for held in self.outbox.values_mut() {
                        (held.acked, held.confirmed) = (held.floor - 1, 0);
                    }
                }
                Notice::Confirmed(confirmed) => {
                    for (key, hi) in confirmed {
                        let held = self.outbox.get_mut(&key).unwrap();
                        held.confirmed = hi;
                        held.set_acked(hi);
                    }
                }
                _ => {}
            }
        }
    }

    fn send_all(&mut self) {
        assert!(self.send(POLLS_MAX), "the engine sends without an end");
    }

    /// True when there is nothing more to send.
    fn send(&mut self, polls_max: usize) -> bool {
        self.handle_notices();
        for _ in 0..polls_max {
            self.nonces += 1;
            let nonce = Nonce(self.nonces.to_le_bytes());
            match self.engine.poll_send(self.now, || nonce) {
                None => return true,
                Some(Send::Hello(hello)) => {
                    self.hellos += 1;
                    self.note(|| format!("hello {} {}/{}", hello.no, hello.page, hello.pages));
                    self.wire.push(Message::Hello(hello));
                }
                Some(Send::Batch { key, from, rows_max }) => self.send_batch(key, from, rows_max),
            }
        }
        false
    }

    fn send_batch(&mut self, key: StreamKey, from: Seq, rows_max: usize) {
        let held = &self.outbox[&key];
        let rows_max = if key.stream == Stream::Events { 1 } else { rows_max as u64 };
        let end = run_from(&held.rows, from).end.min(from + rows_max);
        if from < end {
            let floor = self.engine.floor_of(key).unwrap().max(held.floor);
            assert!(floor <= from, "{}: {from} below the floor {floor}", name(key));
            self.note(|| format!("batch {} {from}..{end}, floor {floor}", name(key)));
            let claim = HelloStream { key, floor, last: held.last };
            self.wire.push(Message::Batch { claim, rows: from..end });
            self.engine.handle_sent(self.now, key, from, end - from, 100);
        } else if (held.floor..=held.last).contains(&from) {
            self.note(|| format!("{}: {from} is not there", name(key)));
            self.engine.handle_holes(&self.holes());
        } else {
            self.engine.handle_unreadable(self.now, key);
        }
    }

    // What happens to connection and storage.

    fn deliver(&mut self, faults: bool) {
        for message in std::mem::take(&mut self.wire) {
            let luck = if faults { self.rng.u8(0..16) } else { 15 };
            let (is_lost, is_late, is_repeated) = (luck < 2, (2..5).contains(&luck), luck == 5);
            if !is_lost && !is_late {
                self.arrive(&message);
            }
            if is_late || is_repeated {
                self.wire.push(message);
            }
        }
        self.handle_notices();
    }

    fn arrive(&mut self, message: &Message) {
        match message {
            Message::Hello(hello) => {
                self.note(|| format!("hello {} {}/{} arrives", hello.no, hello.page, hello.pages));
                self.wire.push(Message::State(self.storage.handle_hello(hello)));
            }
            Message::Batch { claim, rows } => {
                self.note(|| format!("batch {} {rows:?} arrives", name(claim.key)));
                let acks = self.storage.handle_batch(*claim, rows.clone());
                self.wire.push(Message::SyncAcks(acks));
            }
            Message::State(state) => {
                self.engine.handle_state(self.now, state);
                let hi = |it: &StateStream| format!(" {} up to {}", name(it.key), it.hi);
                let all = || state.streams.iter().map(hi).collect::<String>();
                self.note(|| format!("gen {}:{}{}", state.r#gen.0[0], all(), self.flows()));
            }
            Message::SyncAcks(acks) => {
                self.engine.handle_sync_acks(self.now, acks);
                let Ack { key, lo, hi } = acks.acks[0];
                let r#gen = acks.r#gen.0[0];
                self.note(|| format!("gen {gen}: {} {lo}..={hi}{}", name(key), self.flows()));
            }
        }
    }

    fn restore(&mut self) {
        self.note(|| "storage is restored".into());
        self.storage.streams = self.storage.backup.clone();
        self.storage.r#gen += 1;
        match self.rng.u8(0..3) {
            0 => self.connect(),
            1 => self.engine.want_hello(self.now),
            _ => {}
        }
    }

    /// Floor, acked and last of each, in the engine.
    fn flows(&self) -> String {
        let flow = |flow: &Flow| {
            format!("; {} {}, {}, {}", name(flow.key), flow.floor, flow.acked, flow.last)
        };
        self.engine.flows.iter().map(flow).collect()
    }
}
