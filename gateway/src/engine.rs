//! The gateway's half of the sync protocol: what to send, and when to believe that storage
//! has it.
//!
//! Pure: no IO, no clock. Time comes in as a [`Duration`] of CLOCK_BOOTTIME, randomness as a
//! seed, so that a simulation runs this very code.
//!
//! ```text
//!  handle_connected ----> hello ----> handle_state: pins the store, confirms its gen,
//!                                     sets acked (the only way back), opens the streams
//!  handle_appended  ----> batches --> handle_sync_acks: acked moves forward
//!                          ^  |
//!                          |  no progress for rto: sent = acked, again
//!                          +--+
//! ```
//!
//! Always true here:
//! - `floor - 1 <= acked <= last`, and `acked` moves back only by a state that answers our
//!   own nonce.
//! - Nothing but a sync ack or a state of the pinned store moves `acked`: no puback ever does.
//! - Nothing is sent on a stream before a state of this connection has listed it.

mod commands;
mod flow;
mod guards;
mod hello;
mod holes;
mod interface;
mod requests;
mod time;
mod view;

use std::collections::VecDeque;
use std::time::Duration;

use fieldpost_protocol::{
    BridgeStatus, Epoch, Gen, Instance, Nonce, Seq, State, StoreId, Stream, StreamKey, SyncAcks,
    VERSION,
};

use crate::outbox::{StreamInfo, Trusted};

pub use commands::{Judge, Known, Record, Verdict};
use flow::Flow;
pub use guards::Guards;
use hello::Open;
pub use interface::{Dropped, Notice, Send, Settings};
use time::CloudTime;

/// Batches in flight, on all streams.
pub const WINDOW_BATCHES: usize = 96;
/// ... of which so many places are kept for events.
pub const WINDOW_EVENTS: usize = 4;
/// Bytes in flight.
pub const WINDOW_BYTES: usize = 1024 * 1024;
/// A hello without a trigger: a restore that nobody announced is noticed within it.
pub const HELLO_INTERVAL: Duration = Duration::from_secs(3600);
/// Hellos that sync acks or trims ask for come no more often than this.
pub const HELLO_ON_ACK_MIN: Duration = Duration::from_secs(10);
/// A returning bridge is greeted within this, at random, so that a thousand gateways are not
/// all there in the same second.
pub const HELLO_JITTER_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub struct Engine {
    settings: Settings,
    guards: Guards,
    rng: fastrand::Rng,
    epoch: Epoch,
    /// Oldest epoch first; within an epoch in the order of their first rows.
    flows: Vec<Flow>,
    store: Option<StoreId>,
    r#gen: Option<Gen>,
    instance: Option<Instance>,
    online: bool,
    /// A state on this connection confirmed the gen.
    confirmed: bool,
    /// Every page of the first hello on this connection was answered.
    all_answered: bool,
    /// The bridge reads no version of ours.
    mute: bool,
    open: Option<Open>,
    /// Rows that the open hello names were let go.
    hello_is_stale: bool,
    /// A hello is wanted from this moment on.
    wanted: Option<Duration>,
    hello_no: u64,
    last_hello: Option<Duration>,
    /// Rows that fill no batch may leave from here on.
    flush_at: Duration,
    /// When the streams of a kind got on last: an alert that storage takes, such as the one that
    /// no readings get through, is no progress of readings.
    last_progress: [Duration; 2],
    /// When a sync ack moved the streams of a kind on last.
    last_ack: [Option<Duration>; 2],
    /// The time at the bridge, as it was last told.
    cloud_time: Option<CloudTime>,
    /// Readings stay until then.
    paused_until: Option<Duration>,
    notices: VecDeque<Notice>,
    /// What was dropped since the start.
    pub dropped: Dropped,
}

impl Engine {
    /// `streams` and `trusted` as the outbox has them; `epoch` is the one that will be appended to.
    pub fn new(
        settings: Settings,
        epoch: Epoch,
        streams: Vec<StreamInfo>,
        trusted: Option<Trusted>,
        seed: u64,
    ) -> Self {
        Engine::with_guards(settings, epoch, streams, trusted, seed, Guards::default())
    }

    /// For the simulation alone, which switches guards off to see that each is needed.
    pub fn with_guards(
        settings: Settings,
        epoch: Epoch,
        streams: Vec<StreamInfo>,
        trusted: Option<Trusted>,
        seed: u64,
        guards: Guards,
    ) -> Self {
        let rows_max = settings.batch_readings_max;
        Engine {
            settings,
            guards,
            rng: fastrand::Rng::with_seed(seed),
            epoch,
            flows: streams.into_iter().map(|info| Flow::new(info, rows_max)).collect(),
            store: trusted.map(|trusted| trusted.store),
            r#gen: trusted.and_then(|trusted| trusted.r#gen),
            instance: None,
            online: false,
            confirmed: false,
            all_answered: false,
            mute: false,
            open: None,
            hello_is_stale: false,
            wanted: None,
            hello_no: 0,
            last_hello: None,
            flush_at: Duration::ZERO,
            last_progress: [Duration::ZERO; 2],
            last_ack: [None; 2],
            cloud_time: None,
            paused_until: None,
            notices: VecDeque::new(),
            dropped: Dropped::default(),
        }
    }

    /// Subscribed on a new connection: nothing of the old one counts.
    pub fn handle_connected(&mut self, now: Duration) {
        self.online = true;
        self.confirmed = false;
        self.all_answered = false;
        self.mute = false;
        self.open = None;
        self.last_progress = [now; 2];
        for flow in &mut self.flows {
            flow.reset();
        }
        self.want_hello(now);
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self) {
        self.online = false;
        self.open = None;
    }

    /// What the outbox holds after a trim, or after rows were dropped.
    pub fn handle_streams(&mut self, streams: &[StreamInfo]) {
        self.flows.retain(|flow| streams.iter().any(|info| info.key == flow.key));
        let listed_lower = |open: &Open| {
            let is_lower =
                |info: &StreamInfo| open.floor_of(info.key).is_some_and(|it| it < info.floor);
            streams.iter().any(is_lower)
        };
        if self.guards.hello_when_floors_move && self.open.as_ref().is_some_and(listed_lower) {
            // What it says is held is gone: storage would wait for it.
            self.hello_is_stale = true;
        }
        for info in streams {
            match self.flows.iter_mut().find(|flow| flow.key == info.key) {
                Some(flow) => flow.hold(info.floor, info.last, &self.guards),
                None => {
                    let mut flow = Flow::new(*info, self.settings.batch_readings_max);
                    // Its rows are told of by and by; no hello has to come first.
                    flow.new_here = info.key.epoch == self.epoch;
                    if !flow.new_here && !flow.is_settled() {
                        // Left by a commit in doubt, and durable: it has to be listed once.
                        self.want_hello(Duration::ZERO);
                    }
                    self.flows.push(flow);
                }
            }
        }
    }

    /// Rows were committed; the first of a stream makes it known.
    pub fn handle_appended(&mut self, now: Duration, key: StreamKey, last: Seq) {
        if self.waiting_of(key.stream) == 0 {
            self.last_progress[key.stream as usize] = now;
        }
        match self.flows.iter_mut().find(|flow| flow.key == key) {
            Some(flow) => flow.last = flow.last.max(last),
            None => {
                let info = StreamInfo { key, floor: 1, last, acked: 0 };
                let mut flow = Flow::new(info, self.settings.batch_readings_max);
                flow.new_here = true;
                self.flows.push(flow);
            }
        }
    }

    /// A new epoch began: a clock step, or a commit that failed.
    pub fn handle_epoch(&mut self, now: Duration, epoch: Epoch) {
        self.epoch = epoch;
        self.want_hello(now);
    }

    /// An answer to a hello. The only thing that may move `acked` back.
    pub fn handle_state(&mut self, now: Duration, state: &State) {
        if self.store.is_some_and(|store| store != state.store) && self.guards.store {
            self.dropped.other_store += 1;
            self.notices.push_back(Notice::OtherStore(state.store));
            return;
        }
        let answer = match &mut self.open {
            Some(open) if self.online => open.answer(state, &self.guards),
            _ => None,
        };
        let Some(answer) = answer else {
            self.dropped.states += 1;
            return;
        };
        let store = *self.store.get_or_insert(state.store);
        self.learn_gen(store, state.r#gen);
        self.learn_time(now, &answer, state.time);
        self.mute = !state.versions.contains(&VERSION);
        if self.mute {
            self.notices.push_back(Notice::NoCommonVersion(state.versions.clone()));
        }
        self.learn_streams(now, state);
        if answer.complete {
            self.finish_hello(now);
        }
    }

    fn learn_gen(&mut self, store: StoreId, r#gen: Gen) {
        if self.r#gen != Some(r#gen) {
            self.r#gen = Some(r#gen);
            self.notices.push_back(Notice::Trust(Trusted { store, r#gen: Some(r#gen) }));
            // Pages that another gen answered say nothing of this one.
            if let Some(open) = &mut self.open {
                open.forget_other_gens(r#gen);
            }
            if self.guards.gen_forgets_acked {
                // It may have been restored, and lack any of it, until it lists what it has.
                self.flows.iter_mut().for_each(Flow::forget);
            }
        }
        self.confirmed = true;
    }

    fn learn_streams(&mut self, now: Duration, state: &State) {
        let mut confirmed = Vec::with_capacity(state.streams.len());
        for listed in &state.streams {
            if !self.is_told_of_floor(now, listed.key) {
                continue;
            }
            if let Some(flow) = self.flows.iter_mut().find(|flow| flow.key == listed.key) {
                if flow.handle_state(now, listed.hi) {
                    self.last_progress[flow.key.stream as usize] = now;
                }
                confirmed.push((flow.key, flow.acked));
            }
        }
        self.notices.push_back(Notice::Confirmed(confirmed));
    }

    fn finish_hello(&mut self, now: Duration) {
        self.open = None;
        self.all_answered = true;
        self.last_hello = Some(now);
        if std::mem::take(&mut self.hello_is_stale) {
            // A full outbox may drop rows with every commit.
            self.want_hello(now + HELLO_ON_ACK_MIN);
        }
        if self.wanted.is_none() && self.guards.hourly_hello {
            let jitter = self.jitter(HELLO_INTERVAL / 10);
            self.wanted = Some(now + HELLO_INTERVAL - HELLO_INTERVAL / 20 + jitter);
        }
    }

    /// What was committed. Only ever moves `acked` forward.
    pub fn handle_sync_acks(&mut self, now: Duration, acks: &SyncAcks) {
        if self.guards.store && self.store != Some(acks.store) {
            self.dropped.other_store += 1;
            if self.store.is_some() {
                self.notices.push_back(Notice::OtherStore(acks.store));
            }
            return;
        }
        if self.guards.r#gen && (!self.confirmed || !self.online) {
            self.dropped.unconfirmed += 1;
            return;
        }
        if self.guards.r#gen && self.r#gen != Some(acks.r#gen) {
            self.dropped.unconfirmed += 1;
            self.want_hello_for_ack(now);
            return;
        }
        for ack in &acks.acks {
            let Some(flow) = self.flows.iter_mut().find(|flow| flow.key == ack.key) else {
                self.dropped.impossible += 1;
                continue;
            };
            let beyond = self.guards.hi_within_last && ack.hi > flow.last;
            let apart = self.guards.lo_joins_acked && ack.lo > flow.acked + 1;
            if beyond || apart {
                self.dropped.impossible += 1;
            } else if ack.hi < flow.acked {
                if self.guards.hello_when_hi_is_low {
                    self.want_hello_for_ack(now);
                }
            } else if flow.handle_sync_ack(now, ack.hi) {
                self.last_progress[flow.key.stream as usize] = now;
                self.last_ack[flow.key.stream as usize] = Some(now);
            }
        }
    }

    /// A bridge came, went, or is another instance or gen than we knew.
    pub fn handle_bridge_status(&mut self, now: Duration, status: &BridgeStatus) {
        if self.store.is_some_and(|store| store != status.store) || !status.online {
            return;
        }
        let other_instance = self.instance.is_some_and(|instance| instance != status.instance);
        let other_gen = self.r#gen.is_some_and(|known| known != status.r#gen);
        self.instance = Some(status.instance);
        let at = now + self.jitter(HELLO_JITTER_MAX);
        if let Some(open) = &mut self.open {
            open.retry_by(at);
        }
        for flow in &mut self.flows {
            flow.calm(at);
        }
        if other_instance || other_gen {
            self.want_hello(at);
        }
    }

    /// What to send next, if anything. Call until it returns `None`.
    pub fn poll_send(&mut self, now: Duration, nonce: impl FnOnce() -> Nonce) -> Option<Send> {
        if !self.online {
            return None;
        }
        self.end_pause(now);
        self.tell_of_floors(now);
        if self.open.is_none() && self.wanted.is_some_and(|at| at <= now) {
            self.wanted = None;
            self.hello_no += 1;
            self.hello_is_stale = false;
            let streams = hello::listed(&self.flows, &self.guards);
            let page_max = self.settings.hello_streams_max;
            let open = Open::new(now, nonce(), self.hello_no, self.epoch, streams, page_max);
            self.open = Some(open);
        }
        let jitter = self.rng.f64();
        if let Some(page) = self.open.as_mut().and_then(|open| open.poll_page(now, jitter)) {
            return Some(Send::Hello(page));
        }
        self.poll_batch(now)
    }

    fn poll_batch(&mut self, now: Duration) -> Option<Send> {
        if self.mute {
            return None;
        }
        let jitter = self.rng.f64();
        for at in 0..self.flows.len() {
            if let Some(seq) = self.flows[at].poll_rto(now, jitter, self.guards.backoff) {
                self.notices.push_back(Notice::Stuck { key: self.flows[at].key, seq });
            }
        }
        self.flush(now);
        let batches: usize = self.flows.iter().map(|flow| flow.in_flight.len()).sum();
        let bytes: usize = self.flows.iter().map(Flow::bytes_in_flight).sum();
        let paused = self.paused_until.is_some();
        let room = |stream| match stream {
            Stream::Events => batches < WINDOW_BATCHES,
            Stream::Readings if paused => false,
            Stream::Readings => batches < WINDOW_BATCHES - WINDOW_EVENTS && bytes < WINDOW_BYTES,
        };
        let first_of = |stream| {
            let mut flows = self.flows.iter().filter(move |flow| flow.key.stream == stream);
            room(stream)
                .then(|| flows.find(|flow| flow.may_send() && self.is_listed(flow)))
                .flatten()
        };
        let flow = first_of(Stream::Events).or_else(|| first_of(Stream::Readings))?;
        Some(Send::Batch { key: flow.key, from: flow.sent + 1, rows_max: flow.rows_max })
    }

    /// Whether the stream may send as far as hellos go: it was listed on this connection, or begun
    /// on it; and none is under way that does not know all of its rows. Should those come before
    /// it, storage would take them for lost.
    fn is_listed(&self, flow: &Flow) -> bool {
        let known = |open: &Open| match open.last_of(flow.key) {
            Some(last) => last >= flow.last || flow.key.epoch == open.epoch(),
            None => false,
        };
        let waits =
            self.guards.waits_for_hello && self.open.as_ref().is_some_and(|open| !known(open));
        (flow.answered || (flow.new_here && self.all_answered)) && !waits
    }

    /// Lets rows go that fill no batch, once per publish interval; events and full batches
    /// go at once.
    fn flush(&mut self, now: Duration) {
        let due = now >= self.flush_at;
        let mut flushed = false;
        for flow in &mut self.flows {
            let unsent = flow.last - flow.sent.min(flow.last);
            let full = unsent >= self.settings.batch_readings_max as u64;
            if unsent > 0
                && flow.flush_to < flow.last
                && (due || full || flow.key.stream == Stream::Events)
            {
                flow.flush_to = flow.last;
                flushed |= flow.key.stream == Stream::Readings;
            }
        }
        if flushed && due {
            self.flush_at = now + self.settings.publish_interval;
        }
    }

    /// The batch that [`Send::Batch`] asked for was handed to the connection.
    pub fn handle_sent(&mut self, now: Duration, key: StreamKey, first: Seq, n: u64, bytes: usize) {
        let jitter = self.rng.f64();
        if let Some(flow) = self.flows.iter_mut().find(|flow| flow.key == key) {
            flow.handle_sent(now, first + n - 1, bytes, jitter);
        }
    }

    /// The batch could not be read: rows were dropped, or the disk does not answer. The stream
    /// asks again after its resend time; [`handle_streams`](Self::handle_streams) may tell before.
    pub fn handle_unreadable(&mut self, now: Duration, key: StreamKey) {
        if let Some(flow) = self.flows.iter_mut().find(|flow| flow.key == key) {
            flow.handle_unreadable(now);
        }
    }

    /// When [`poll_send`](Self::poll_send) will have something new, at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.online {
            return None;
        }
        let hello = match &self.open {
            Some(open) => Some(open.retry_at()),
            None => self.wanted,
        };
        if self.mute {
            return hello;
        }
        let rto = self.flows.iter().filter_map(|flow| flow.rto_at).min();
        let unflushed =
            self.flows.iter().any(|flow| flow.flush_to < flow.last && flow.sent < flow.last);
        let flush = unflushed.then_some(self.flush_at);
        [hello, rto, flush, self.paused_until].into_iter().flatten().min()
    }

    /// What the driver has to do or to tell.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn want_hello(&mut self, at: Duration) {
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
    }

    fn want_hello_for_ack(&mut self, now: Duration) {
        let earliest = self.last_hello.map_or(now, |last| now.max(last + HELLO_ON_ACK_MIN));
        self.want_hello(earliest);
    }

    fn jitter(&mut self, max: Duration) -> Duration {
        max.mul_f64(self.rng.f64())
    }
}

#[cfg(test)]
mod tests;
