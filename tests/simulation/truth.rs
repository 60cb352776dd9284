//! What really happened, known to nobody in the history: every reading with its moment, every
//! number that was given, every row that any storage ever committed. It judges each step.

use std::collections::{BTreeMap, HashMap};

use fieldpost_bridge::coverage::Coverage;
use fieldpost_protocol::{Clock, Epoch, EventKind, Seq, StreamKey};

use crate::commands::Commands;

/// A base that NTP gave is right; the rest is rounding.
const OFF_MS_MAX: i64 = 10;

/// A reading or event, by its number in the history.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Unix milliseconds, true.
    pub time_ms: i64,
    /// Its row, once a transaction holds it.
    pub row: Option<(StreamKey, Seq)>,
    /// The commit that holds it has returned.
    pub accepted: bool,
    /// The last card that held it was destroyed, rolled back, or had lied.
    pub harmed: bool,
    /// When it was, as storage has it.
    pub stored_ms: Option<i64>,
    /// The gateway let it go by itself.
    pub let_go: bool,
    /// Storage refuses it for good.
    pub poison: bool,
}

/// See the module.
#[derive(Default)]
pub struct Truth {
    pub facts: Vec<Fact>,
    /// Those that are command acks.
    pub acks: HashMap<usize, EventKind>,
    pub commands: Commands,
    rows: HashMap<(StreamKey, Seq), usize>,
    /// What any storage has ever committed.
    ever: BTreeMap<StreamKey, Coverage>,
    bases: BTreeMap<Epoch, (i64, Clock)>,
    /// Rows that `drop_oldest` let go, and the like: `acked` may pass them.
    dropped: BTreeMap<StreamKey, Coverage>,
    /// A bridge's clock is wrong at times: then stored times are not judged.
    pub clock_lies: bool,
    /// So is the time that a kernel calls synchronised.
    pub ntp_lies: bool,
    /// How far a base may be off: half the round trip that it was learned over.
    off_ms_max: HashMap<Epoch, i64>,
    pub violation: Option<String>,
    pub stored: u64,
    pub purged: u64,
}

impl Truth {
    /// The first one counts.
    pub fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn measure(&mut self, time_ms: i64, poison: bool) -> usize {
        self.facts.push(Fact {
            time_ms,
            row: None,
            accepted: false,
            harmed: false,
            stored_ms: None,
            let_go: false,
            poison,
        });
        self.facts.len() - 1
    }

    /// A card now holds this fact under this number.
    pub fn give(&mut self, key: StreamKey, seq: Seq, id: usize) {
        match self.rows.insert((key, seq), id) {
            Some(other) if other != id => {
                self.violate(format!("number {seq} of {key} was given to {other} and to {id}"));
            }
            _ => {}
        }
        self.facts[id].row = Some((key, seq));
    }

    /// A transaction of a storage has committed this row.
    pub fn store(&mut self, key: StreamKey, seq: Seq, id: usize, time_ms: i64, clock: &str) {
        self.stored += 1;
        if self.rows.get(&(key, seq)) != Some(&id) {
            self.violate(format!("row {seq} of {key} is stored as {id}, which it never was"));
            return;
        }
        self.facts[id].stored_ms = Some(time_ms);
        let off = time_ms - self.facts[id].time_ms;
        let lies = match clock {
            "bridge" => self.clock_lies,
            "ntp" => self.ntp_lies,
            _ => true,
        };
        let tolerance = OFF_MS_MAX + self.off_ms_max.get(&key.epoch).copied().unwrap_or(0);
        if !lies && off.abs() > tolerance {
            self.violate(format!("row {seq} of {key} is stored {off} ms off, by clock {clock}"));
        }
    }

    /// The epoch's base is learned now, if it was not before, and may be off by so much.
    pub fn may_be_off(&mut self, epoch: Epoch, off_ms: i64) {
        let known = self.off_ms_max.entry(epoch).or_default();
        *known = off_ms.max(*known);
    }

    /// These rows are in some storage's coverage.
    pub fn cover(&mut self, key: StreamKey, lo: Seq, hi: Seq) {
        let _ = self.ever.entry(key).or_default().insert(lo, hi);
    }

    /// A gateway sends batches of this epoch with this base.
    pub fn send_base(&mut self, epoch: Epoch, base: i64, clock: Clock) {
        match self.bases.insert(epoch, (base, clock)) {
            Some(before) if before != (base, clock) => {
                self.violate(format!(
                    "epoch {epoch} was sent with base {before:?}, now {base} {clock:?}"
                ));
            }
            _ => {}
        }
    }

    /// A gateway lets rows go. `lost`: it may do so without anybody having them.
    pub fn purge(&mut self, key: StreamKey, lo: Seq, hi: Seq, lost: bool) {
        self.purged += hi + 1 - lo;
        for seq in lo..=hi {
            if let Some(&id) = self.rows.get(&(key, seq)) {
                self.facts[id].let_go = true;
            }
        }
        if lost {
            let _ = self.dropped.entry(key).or_default().insert(lo, hi);
        } else if let Some((lo, hi)) = self.never_stored(key, lo, hi) {
            self.violate(format!(
                "rows {lo}-{hi} of {key} were let go and no storage ever had them"
            ));
        }
    }

    /// A gateway takes rows up to `acked` for stored.
    pub fn believe(&mut self, key: StreamKey, floor: Seq, last: Seq, acked: Seq) {
        if acked > last {
            self.violate(format!("{key}: acked {acked} is past the last row {last}"));
        } else if acked >= floor
            && let Some((lo, hi)) = self.never_stored(key, floor, acked)
        {
            self.violate(format!("{key}: rows {lo}-{hi} are taken for stored and never were"));
        }
    }

    /// `drop_oldest` has let rows go that nobody has.
    pub fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    fn never_stored(&self, key: StreamKey, lo: Seq, hi: Seq) -> Option<(Seq, Seq)> {
        let none = Coverage::default();
        let ever = self.ever.get(&key).unwrap_or(&none);
        let dropped = self.dropped.get(&key).unwrap_or(&none);
        ever.missing_within(lo, hi)
            .into_iter()
            .flat_map(|(lo, hi)| dropped.missing_within(lo, hi))
            .next()
    }
}
