//! What a process sends, and how often it may.

use std::collections::VecDeque;

use fieldpost_protocol::{
    AlertState, Envelope, Event, EventKind, Hello, Metrics, Reading, Seq, Severity, Stream,
    StreamKey, Topic, VERSION, Value, encode_runs,
};

use super::{HELLOS_MAX, Process, RESEND_WINDOW_MS, RESENDS_MAX, short, told};
use crate::outbox::Batch;
use crate::world::{About, World, note};

impl Process {
    pub(super) fn send(
        &mut self,
        world: &mut World,
        m: usize,
        key: StreamKey,
        from: Seq,
        rows_max: usize,
    ) {
        let now = world.boottime(m);
        let read = self.outbox.read(&world.machines[m].image, key, from, rows_max);
        let Some((batch, (base, clock))) =
            read.and_then(|batch| batch.base.map(|base| (batch, base)))
        else {
            return self.engine.handle_unreadable(now, key);
        };
        let ack = match key.stream {
            Stream::Events => world.truth.borrow().acks.get(&batch.rows[0].id).cloned(),
            Stream::Readings => None,
        };
        let command_ack = ack.is_some();
        let (n, body) = match ack {
            Some(kind) => (1, Event { t: batch.rows[0].offset_ms, kind }.encode()),
            None => self.body(key, &batch),
        };
        let floor = if world.switches.rules.floor_is_stated { batch.floor } else { 1 };
        let envelope = Envelope {
            v: VERSION,
            dev: world.machines[m].device.clone(),
            epoch: key.epoch,
            stream: key.stream,
            first: batch.first,
            n: n as u64,
            floor,
            last: batch.last,
            base,
            clock,
            body,
        };
        let end = envelope.end();
        note!(
            world,
            "gateway {m} sends {} {}-{end}, floor {floor}, last {}",
            told(key),
            batch.first,
            batch.last
        );
        if !world.machines[m].harmed {
            world.truth.borrow_mut().send_base(key.epoch, base, clock);
        }
        self.count_resend(world, key, from);
        world.batches_sent += 1;
        world.first_batch_after.get_or_insert(world.now);
        let payload = envelope.encode();
        let bytes = payload.len();
        let topic = Topic::batch(&world.machines[m].device, key.stream, command_ack);
        let told = match world.is_told() {
            true => format!("{} {from}-{end}", told(key)),
            false => String::new(),
        };
        let about = About { names: vec![(key, batch.last)], hello_of: None, told };
        self.publish(world, topic, payload, Some((key, end)), about);
        self.engine.handle_sent(now, key, batch.first, n as u64, bytes);
    }

    pub(super) fn publish(
        &mut self,
        world: &mut World,
        topic: Topic,
        payload: Vec<u8>,
        of: Option<(StreamKey, Seq)>,
        about: About,
    ) {
        let Some(conn) = self.conn else { return };
        self.inflight += 1;
        self.sent.push_back(of);
        world.publish(conn, topic, payload, about);
    }

    /// How many of its rows a body holds, and the body.
    pub(super) fn body(&mut self, key: StreamKey, batch: &Batch) -> (usize, Vec<u8>) {
        if key.stream == Stream::Events {
            let row = batch.rows[0];
            let kind = EventKind::Alert {
                name: "test".to_owned(),
                about: None,
                state: AlertState::Raised,
                severity: Severity::Info,
                message: row.id.to_string(),
                lasting: false,
            };
            return (1, Event { t: row.offset_ms, kind }.encode());
        }
        let cached = self.bodies.entry((key, batch.first, batch.rows.len()));
        cached
            .or_insert_with(|| {
                let source: std::sync::Arc<str> = "s".into();
                let readings: Vec<Reading> = batch
                    .rows
                    .iter()
                    .map(|row| {
                        let metrics = Metrics::new(vec![("n".into(), Value::Int(row.id as i64))]);
                        let metrics = metrics.expect("one good name");
                        Reading { source: source.clone(), offset_ms: row.offset_ms, metrics }
                    })
                    .collect();
                encode_runs(&readings).into_iter().next().expect("a batch has rows")
            })
            .clone()
    }

    pub(super) fn excuse_progress(&mut self, confirmed: &[(StreamKey, Seq)]) {
        for (key, _) in confirmed {
            self.resends.remove(key);
        }
    }

    pub(super) fn count_resend(&mut self, world: &World, key: StreamKey, from: Seq) {
        let (row, times) = self.resends.entry(key).or_default();
        // Only the row that everything waits for: the others come along.
        if times.is_empty()
            || from < *row
            || times.back().is_some_and(|last| *last + 4_000 < world.now && from > *row)
        {
            (*row, *times) = (from, VecDeque::new());
        }
        if from != *row {
            return;
        }
        times.push_back(world.now);
        while times.front().is_some_and(|at| *at < world.now - RESEND_WINDOW_MS) {
            times.pop_front();
        }
        if times.len() > RESENDS_MAX {
            let n = times.len();
            world.truth.borrow_mut().violate(format!(
                "row {from} of {key} was sent {n} times in ten minutes, and nothing excuses it"
            ));
        }
    }

    /// A hello takes every epoch but its own for ended.
    pub(super) fn judge_hello(&self, world: &World, page: &Hello) {
        let current = self.outbox.current.epoch;
        let names_it = page.streams.iter().any(|listed| listed.key.epoch == current);
        if page.epoch != current && names_it {
            let (of, named) = (short(page.epoch), short(current));
            let what = format!("a hello of {of} names {named}, which is appended to, as ended");
            world.truth.borrow_mut().violate(what);
        }
    }

    pub(super) fn count_hello(&mut self, world: &World, page: u32) {
        if page > 1 {
            return;
        }
        self.hellos.push_back(world.now);
        while self.hellos.front().is_some_and(|at| *at < world.now - 60_000) {
            self.hellos.pop_front();
        }
        if self.hellos.len() > HELLOS_MAX {
            world.truth.borrow_mut().violate(format!("{} hellos in a minute", self.hellos.len()));
        }
    }
}
