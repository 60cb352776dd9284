//! What the driver and its alerts ask the engine about, without changing anything.

use std::time::Duration;

use fieldpost_protocol::{Seq, StoreId, Stream, StreamKey};

use super::Engine;

impl Engine {
    /// Rows held and not acked.
    pub fn waiting(&self) -> u64 {
        self.flows.iter().map(|flow| flow.last - flow.acked).sum()
    }

    /// Rows held and acked.
    pub fn acked(&self) -> u64 {
        self.flows.iter().map(|flow| flow.acked + 1 - flow.floor.min(flow.acked + 1)).sum()
    }

    /// `acked` of every stream, for the outbox to write down.
    pub fn acked_streams(&self) -> Vec<(StreamKey, Seq)> {
        self.flows.iter().map(|flow| (flow.key, flow.acked)).collect()
    }

    /// Rows that storage was ever heard to have, of what is known here: readings, and events.
    pub fn acked_rows(&self) -> (u64, u64) {
        let of = |stream| {
            let flows = self.flows.iter().filter(move |flow| flow.key.stream == stream);
            flows.map(|flow| flow.acked).sum()
        };
        (of(Stream::Readings), of(Stream::Events))
    }

    pub(super) fn waiting_of(&self, stream: Stream) -> u64 {
        let flows = self.flows.iter().filter(|flow| flow.key.stream == stream);
        flows.map(|flow| flow.last - flow.acked).sum()
    }

    /// Whether storage has acknowledged something since then of each kind that waits.
    pub fn is_acked_since(&self, then: Duration) -> bool {
        let is_acked = |stream: Stream| self.last_ack[stream as usize].is_some_and(|at| at >= then);
        [Stream::Events, Stream::Readings].into_iter().all(|it| !self.waits(it) || is_acked(it))
    }

    /// Whether somebody has asked for readings to stay.
    pub fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    fn waits(&self, stream: Stream) -> bool {
        let by_request = stream == Stream::Readings && self.is_paused();
        !by_request && self.waiting_of(stream) > 0
    }

    /// Since when readings, or events, wait without any progress.
    pub fn no_progress_since(&self) -> Option<Duration> {
        let waiting = [Stream::Events, Stream::Readings].into_iter();
        let waiting = waiting.filter(|stream| self.waits(*stream));
        waiting.map(|stream| self.last_progress[stream as usize]).min()
    }

    /// Streams whose first row goes alone and still gets no sync ack.
    pub fn stuck(&self) -> impl Iterator<Item = StreamKey> {
        self.flows.iter().filter(|flow| flow.is_stuck()).map(|flow| flow.key)
    }

    /// The bridge reads no version of ours: nothing is sent.
    pub fn is_mute(&self) -> bool {
        self.mute
    }

    /// The storage that is believed.
    pub fn store(&self) -> Option<StoreId> {
        self.store
    }

    /// Whether a state on this connection has confirmed the storage.
    pub fn is_confirmed(&self) -> bool {
        self.online && self.confirmed
    }
}
