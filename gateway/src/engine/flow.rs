//! One stream on its way: what is acked, what is in flight, and when to send again.
//!
//! ```text
//!   floor        acked          sent           last
//!     |  retained  |  in flight   |   waiting    |
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use fieldpost_protocol::{HelloStream, Seq, StreamKey};

use super::Guards;
use crate::outbox::{Hole, StreamInfo};

/// No progress for this long: everything after `acked` is sent again.
const RTO_MIN: Duration = Duration::from_secs(5);
/// ... doubled with each time-out, up to this.
const RTO_MAX: Duration = Duration::from_secs(300);
/// Time-outs after which the stream may have one batch in flight and no longer holds up the
/// epochs after it.
const STALLS_ONE_BATCH: u32 = 2;
/// Time-outs after which the first batch is halved, and again with each further one.
const STALLS_HALVE: u32 = 5;

/// A batch that was sent and not sync-acked.
pub(super) struct InFlight {
    last: Seq,
    bytes: usize,
    at: Duration,
}

pub(super) struct Flow {
    pub(super) key: StreamKey,
    pub(super) floor: Seq,
    /// The lowest row held: below the floor after a step over a hole.
    held: Seq,
    /// In order.
    pub(super) holes: Vec<Hole>,
    /// The floor went over rows that nobody has, and a hello has to say so.
    pub(super) floor_untold: bool,
    pub(super) last: Seq,
    pub(super) acked: Seq,
    pub(super) sent: Seq,
    /// Rows up to here may leave although they fill no batch.
    pub(super) flush_to: Seq,
    pub(super) in_flight: VecDeque<InFlight>,
    /// When everything after `acked` is sent again.
    pub(super) rto_at: Option<Duration>,
    /// Rows to a batch; halved for a stream that makes no progress.
    pub(super) rows_max: usize,
    /// Its first row came after the present connection's hello was built.
    pub(super) new_here: bool,
    rows_max_usual: usize,
    /// A state on this connection has listed the stream.
    pub(super) answered: bool,
    stalls: u32,
    rto: Duration,
    /// Smoothed time from send to sync ack.
    measured: Option<Duration>,
    /// Sent again: the next sync ack measures nothing.
    resent: bool,
}

impl Flow {
    pub(super) fn new(info: StreamInfo, rows_max: usize) -> Self {
        let StreamInfo { key, floor, last, acked } = info;
        Flow {
            key,
            floor,
            held: floor,
            holes: Vec::new(),
            floor_untold: false,
            last,
            acked,
            sent: acked,
            flush_to: acked,
            in_flight: VecDeque::new(),
            rto_at: None,
            rows_max,
            new_here: false,
            rows_max_usual: rows_max,
            answered: false,
            stalls: 0,
            rto: RTO_MIN,
            measured: None,
            resent: false,
        }
    }

    /// Its line in a hello.
    pub(super) fn listed(&self) -> HelloStream {
        HelloStream { key: self.key, floor: self.floor, last: self.last }
    }

    /// No row is held any more: a tombstone, or all was purged.
    pub(super) fn is_empty(&self) -> bool {
        self.floor > self.last
    }

    /// Storage has all of it.
    pub(super) fn is_settled(&self) -> bool {
        self.acked == self.last
    }

    /// A new connection: nothing is in flight, and nobody has listed the stream. What is
    /// known about a row that makes no progress stays known.
    pub(super) fn reset(&mut self) {
        self.answered = false;
        self.new_here = false;
        self.floor_untold = false;
        self.rewind();
        self.rto = self.base_rto();
    }

    /// Nobody is known to have any of it; a state has to list it first.
    pub(super) fn forget(&mut self) {
        self.floor = self.held;
        self.acked = self.floor - 1;
        self.answered = false;
        self.rewind();
    }

    fn rewind(&mut self) {
        self.sent = self.acked;
        self.in_flight.clear();
        self.rto_at = None;
        self.resent = true;
    }

    /// The outbox holds `floor..=last` now. Rows that were dropped take `acked` along.
    pub(super) fn hold(&mut self, floor: Seq, last: Seq, guards: &Guards) {
        let dropped = self.acked + 1 < floor;
        self.held = self.held.max(floor);
        self.floor = self.floor.max(floor);
        self.last = self.last.max(last);
        self.floor_untold |= dropped && self.is_empty() && guards.hello_when_floors_move;
        if guards.acked_follows_floor {
            self.acked = self.acked.max(self.floor - 1);
        }
        self.sent = self.sent.max(self.acked);
        self.land();
    }

    /// A state lists the stream as stored up to `hi`. True if that is progress.
    pub(super) fn handle_state(&mut self, now: Duration, hi: Seq) -> bool {
        let before = self.acked;
        let answered = std::mem::replace(&mut self.answered, true);
        self.acked = hi.clamp(self.floor - 1, self.last);
        self.step_over_holes();
        let progress = self.acked > before;
        if self.acked < before || !answered {
            self.rewind();
        }
        if progress {
            self.land();
            self.progress(now, None);
        }
        progress
    }

    /// Rows up to `hi` are committed. True if that is progress.
    pub(super) fn handle_sync_ack(&mut self, now: Duration, hi: Seq) -> bool {
        if hi <= self.acked {
            return false;
        }
        self.acked = hi;
        self.step_over_holes();
        let newest = self.land();
        self.progress(now, newest);
        true
    }

    /// Takes what is acked out of flight; returns when the newest of it was sent.
    fn land(&mut self) -> Option<Duration> {
        let mut newest = None;
        while self.in_flight.front().is_some_and(|batch| batch.last <= self.acked) {
            newest = self.in_flight.pop_front().map(|batch| batch.at);
        }
        newest
    }

    /// How large batches usually are, from now on.
    pub(super) fn change_rows_max(&mut self, rows_max: usize) {
        let usual = self.rows_max == self.rows_max_usual;
        self.rows_max = if usual { rows_max } else { self.rows_max.min(rows_max) };
        self.rows_max_usual = rows_max;
    }

    fn progress(&mut self, now: Duration, sent_at: Option<Duration>) {
        if let (Some(sent_at), false) = (sent_at, self.resent) {
            let took = now.saturating_sub(sent_at);
            self.measured = Some(self.measured.map_or(took, |measured| (measured * 7 + took) / 8));
        }
        self.resent &= !self.in_flight.is_empty();
        self.stalls = 0;
        self.rows_max = (self.rows_max * 2).min(self.rows_max_usual);
        self.rto = self.base_rto();
        // Not only while something is in flight: rows that could not be read wait for it too.
        self.rto_at = (self.sent > self.acked).then(|| now + self.rto);
    }

    fn base_rto(&self) -> Duration {
        self.measured.map_or(RTO_MIN, |measured| (measured * 4).clamp(RTO_MIN, RTO_MAX))
    }

    /// A bridge is back: the next time-out comes by then.
    pub(super) fn calm(&mut self, at: Duration) {
        self.rto = self.base_rto();
        self.rto_at = self.rto_at.map(|rto_at| rto_at.min(at));
    }

    /// On a time-out everything after `acked` is due again. Returns the row that goes alone
    /// and still gets no sync ack.
    pub(super) fn poll_rto(&mut self, now: Duration, jitter: f64, backoff: bool) -> Option<Seq> {
        if self.rto_at.is_none_or(|at| at > now) {
            return None;
        }
        self.stalls += 1;
        self.rewind();
        if backoff {
            self.rto = (self.rto * 2).min(RTO_MAX).mul_f64(0.9 + 0.2 * jitter);
        }
        if self.stalls < STALLS_HALVE {
            return None;
        }
        let alone = self.rows_max == 1;
        self.rows_max = (self.rows_max / 2).max(1);
        alone.then_some(self.acked + 1)
    }

    /// Whether the stream has something to send, and room in its own window.
    pub(super) fn may_send(&self) -> bool {
        let window_open = self.stalls < STALLS_ONE_BATCH || self.in_flight.is_empty();
        window_open && self.sent < self.last.min(self.flush_to) && !self.is_before_hole()
    }

    pub(super) fn handle_sent(&mut self, now: Duration, last: Seq, bytes: usize, jitter: f64) {
        self.sent = self.sent.max(last);
        self.in_flight.push_back(InFlight { last, bytes, at: now });
        if self.rto_at.is_none() {
            self.rto_at = Some(now + self.rto.mul_f64(1.0 + 0.1 * jitter));
        }
    }

    pub(super) fn handle_unreadable(&mut self, now: Duration) {
        self.sent = self.last;
        self.rto_at = Some(self.rto_at.unwrap_or(now + self.rto));
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stalls >= STALLS_HALVE && self.rows_max == 1
    }

    pub(super) fn bytes_in_flight(&self) -> usize {
        self.in_flight.iter().map(|batch| batch.bytes).sum()
    }
}
