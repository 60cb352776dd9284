//! What is on the card. Each change of an [`Image`] is one transaction.

use std::collections::{BTreeMap, VecDeque};

use fieldpost_gateway::outbox::Trusted;
use fieldpost_protocol::{Clock, CommandId, Epoch, Gen, Seq, StoreId, Stream, StreamKey};

use crate::gateway::InboxRow;

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number in [`crate::truth::Truth`].
    pub id: usize,
    pub offset_ms: i64,
}

/// One stream of an epoch on the card.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The lowest row held; rows follow it without a hole.
    pub floor: Seq,
    pub rows: VecDeque<Row>,
    /// Last rows of sealed segments, in order.
    pub seals: VecDeque<Seq>,
    pub saved_acked: Seq,
}

impl Held {
    pub fn last(&self) -> Seq {
        self.floor + self.rows.len() as Seq - 1
    }

    pub fn tail_from(&self) -> Seq {
        self.seals.back().map_or(self.floor, |last| last + 1)
    }
}

/// An epoch on the card.
#[derive(Debug, Clone)]
pub struct EpochRow {
    pub epoch: Epoch,
    pub boot: u64,
    pub start_ms: i64,
    pub wall_ms: i64,
    pub base: Option<(i64, Clock)>,
    /// Events, readings.
    pub streams: [Option<Held>; 2],
}

impl EpochRow {
    pub fn held(&self, stream: Stream) -> Option<&Held> {
        self.streams[at(stream)].as_ref()
    }

    pub fn held_mut(&mut self, stream: Stream) -> &mut Held {
        self.streams[at(stream)].get_or_insert_with(|| Held { floor: 1, ..Held::default() })
    }

    pub fn is_empty(&self) -> bool {
        self.streams.iter().flatten().all(|held| held.rows.is_empty())
    }
}

fn at(stream: Stream) -> usize {
    usize::from(stream == Stream::Readings)
}

/// What the card holds.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub trusted: Option<Trusted>,
    /// The same, as the judge knows it, whatever a mutant writes.
    pub trusts: Option<StoreId>,
    pub heard_gen: Option<Gen>,
    /// Oldest first.
    pub epochs: Vec<EpochRow>,
    pub tombstones: VecDeque<(StreamKey, Seq)>,
    pub inbox: BTreeMap<CommandId, InboxRow>,
    pub stale: BTreeMap<(CommandId, Epoch), (Epoch, Seq)>,
}

impl Image {
    pub fn epoch(&self, epoch: Epoch) -> Option<&EpochRow> {
        self.epochs.iter().find(|row| row.epoch == epoch)
    }

    /// As `trust-store` does: what another storage has acknowledged counts for nothing.
    pub fn trust(&mut self, store: StoreId) {
        self.trusted = Some(Trusted { store, r#gen: None });
        (self.trusts, self.heard_gen) = (Some(store), None);
        for held in self.epochs.iter_mut().flat_map(|row| row.streams.iter_mut().flatten()) {
            held.saved_acked = held.floor - 1;
        }
    }

    pub fn held(&self, key: StreamKey) -> Option<&Held> {
        self.epoch(key.epoch)?.held(key.stream)
    }

    /// Every row, with its key.
    pub fn rows(&self) -> impl Iterator<Item = (StreamKey, Seq, Row)> + '_ {
        self.streams().flat_map(|(key, held)| {
            (held.floor..).zip(&held.rows).map(move |(seq, row)| (key, seq, *row))
        })
    }

    pub fn streams(&self) -> impl Iterator<Item = (StreamKey, &Held)> + '_ {
        self.epochs.iter().flat_map(|row| {
            [Stream::Events, Stream::Readings].into_iter().filter_map(move |stream| {
                let key = StreamKey { epoch: row.epoch, stream };
                row.held(stream).map(|held| (key, held))
            })
        })
    }

    /// Whether a hello of this card says that the row was given.
    pub fn names(&self, key: StreamKey, seq: Seq) -> bool {
        self.held(key).is_some_and(|held| held.last() >= seq)
            || self.tombstones.iter().any(|(buried, last)| *buried == key && *last >= seq)
    }

    /// For a mutant: the newest rows of an epoch, as if they had never been.
    pub fn forget_newest(&mut self, epoch: Epoch, counts: [usize; 2]) {
        let Some(row) = self.epochs.iter_mut().find(|row| row.epoch == epoch) else { return };
        for (held, count) in row.streams.iter_mut().zip(counts) {
            if let Some(held) = held {
                held.rows.truncate(held.rows.len().saturating_sub(count));
                let last = held.last();
                held.seals.retain(|seal| *seal <= last);
            }
        }
    }

    pub fn count(&self) -> usize {
        self.streams().map(|(_, held)| held.rows.len()).sum()
    }
}
