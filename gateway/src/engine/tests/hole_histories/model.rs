//! What an outbox and a storage hold, as far as the engine between them can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use fieldpost_protocol::HelloStream;

use super::*;

/// A stream in the outbox.
#[derive(Default)]
pub(super) struct Held {
    pub(super) rows: BTreeSet<Seq>,
    pub(super) floor: Seq,
    pub(super) last: Seq,
    pub(super) acked: Seq,
    pub(super) confirmed: Seq,
}

impl Held {
    /// What went from the front was let go, as far as can be seen: the floor moves over it.
    pub(super) fn load(&mut self) {
        self.floor = self.rows.first().copied().unwrap_or(self.last + 1);
        self.set_acked(self.acked);
    }

    pub(super) fn set_acked(&mut self, acked: Seq) {
        self.acked = acked.clamp(self.floor - 1, self.last);
    }

    pub(super) fn info(&self, key: StreamKey) -> StreamInfo {
        info(key, self.floor, self.last, self.acked)
    }

    /// Lets go of what storage is known to have, from the front.
    pub(super) fn trim(&mut self, rows_max: usize) -> Vec<Seq> {
        let may_go = self.acked.min(self.confirmed);
        let gone: Vec<Seq> = self.rows.range(..=may_go).take(rows_max).copied().collect();
        self.rows.retain(|seq| !gone.contains(seq));
        gone
    }

    pub(super) fn holes(&self, key: StreamKey) -> Vec<Hole> {
        let mut holes: Vec<Hole> = Vec::new();
        for seq in (self.floor..=self.last).filter(|seq| !self.rows.contains(seq)) {
            match holes.last_mut() {
                Some(hole) if hole.last + 1 == seq => hole.last = seq,
                _ => holes.push(Hole { key, first: seq, last: seq, unacked: true }),
            }
        }
        for hole in &mut holes {
            hole.unacked = self.acked < hole.last;
        }
        holes
    }
}

/// A stream in the storage.
#[derive(Clone, Default)]
pub(super) struct Stored {
    pub(super) rows: BTreeSet<Seq>,
    /// Below it, what is not stored is missing; 0 before anything was heard of the stream.
    pub(super) floor: Seq,
    /// The highest row that was ever given, as far as storage has heard.
    pub(super) claimed: Seq,
}

/// The storage with its bridge.
#[derive(Default)]
pub(super) struct Storage {
    pub(super) streams: BTreeMap<StreamKey, Stored>,
    pub(super) backup: BTreeMap<StreamKey, Stored>,
    /// The number of the present gen.
    pub(super) r#gen: u8,
    /// In whichever gen.
    pub(super) once_stored: BTreeSet<(StreamKey, Seq)>,
}

impl Storage {
    pub(super) fn handle_hello(&mut self, hello: &Hello) -> State {
        let take = |listed: &HelloStream| (listed.key, self.take(*listed, 0..0));
        let hi: BTreeMap<StreamKey, Seq> = hello.streams.iter().map(take).collect();
        state(hello, Gen([self.r#gen; 16]), |key| hi[&key])
    }

    pub(super) fn handle_batch(&mut self, claim: HelloStream, rows: Range<Seq>) -> SyncAcks {
        let hi = self.take(claim, rows);
        acks(STORE, Gen([self.r#gen; 16]), claim.key, claim.floor, hi)
    }

    /// Returns up to where all is stored, from the floor on that is claimed.
    fn take(&mut self, claim: HelloStream, rows: Range<Seq>) -> Seq {
        let HelloStream { key, floor, last } = claim;
        let stored = self.streams.entry(key).or_default();
        stored.floor = stored.floor.max(floor);
        stored.claimed = stored.claimed.max(last);
        stored.rows.extend(rows.clone());
        self.once_stored.extend(rows.map(|seq| (key, seq)));
        run_from(&stored.rows, floor).end.min(last + 1) - 1
    }
}

/// The rows that are there from this one on, without a gap.
pub(super) fn run_from(rows: &BTreeSet<Seq>, first: Seq) -> Range<Seq> {
    let n = (first..).take_while(|seq| rows.contains(seq)).count();
    first..first + n as Seq
}

/// On its way between gateway and bridge.
pub(super) enum Message {
    Hello(Hello),
    State(State),
    Batch { claim: HelloStream, rows: Range<Seq> },
    SyncAcks(SyncAcks),
}

impl Message {
    pub(super) fn is_for_gateway(&self) -> bool {
        matches!(self, Message::State(_) | Message::SyncAcks(_))
    }
}

/// Short, for people.
pub(super) fn name(key: StreamKey) -> String {
    format!("{} {}", key.stream, key.epoch.0[0])
}
