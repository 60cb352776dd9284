//! The bridge's decisions: what of a batch is stored, what a sync ack may say, what a hello
//! changes, what is poison. Pure: no IO, no clock; rows come in, new rows go out, and the
//! caller makes them durable in one transaction.
//!
//! ```text
//!                      floor             claimed
//!    1 .............. floor-1 | floor ........ claimed
//!    not covered: missing     | not covered: waiting        covered: stored, or a dead letter
//! ```

mod batch;
mod hello;
mod poison;

pub use batch::{Claim, SyncAckDraft};
pub use hello::{HelloPlan, HelloRow, SUPERSEDED_MS, Staged};
pub(crate) use poison::clean;
pub use poison::{Content, Poison, TIME_MAX_MS, TIME_MIN_MS, judge_event, judge_readings};

use fieldpost_protocol::Seq;

use crate::coverage::Coverage;

/// What storage knows about one (device, epoch, stream).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRow {
    /// What is stored or lies in a dead letter.
    pub coverage: Coverage,
    /// The lowest row that the gateway still holds. Below it, what is not covered is missing.
    pub floor: Seq,
    /// The floor was not stated but follows from a hello that did not name the stream. A
    /// batch that comes after all takes it back.
    pub floor_by_absence: bool,
    /// The highest row that the gateway has given, as far as it has said so.
    pub claimed: Seq,
}

impl Default for StreamRow {
    /// Of a stream that nobody has spoken of yet.
    fn default() -> Self {
        StreamRow { coverage: Coverage::default(), floor: 1, floor_by_absence: false, claimed: 0 }
    }
}

/// Rules that the simulation switches off one at a time, to see that it would notice.
/// A driver has only [`Guards::default`]: all on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// Only what coverage lacks is stored.
    pub dedup: bool,
    /// A sync ack ends before the first hole.
    pub hi_stops_at_hole: bool,
    /// A sync ack says nothing past what its batch claimed.
    pub hi_stops_at_last: bool,
    /// `last` of a batch or hello is remembered, so that what never arrived is known.
    pub last_is_claimed: bool,
    /// A floor moves back only if it was set by absence.
    pub floor_moves_forward: bool,
    /// A floor set by absence yields to a stated one.
    pub absence_yields: bool,
    /// A stream that a complete hello does not name has lost what is not covered.
    pub absent_is_missing: bool,
    /// What a card has lost beyond the `last` that it names is missing, too.
    pub rolled_back_is_missing: bool,
    /// A hello whose number is not higher than one already applied moves no floor.
    pub lower_no_ignored: bool,
    /// A hello of an epoch that another has just replaced moves no floor.
    pub superseded_ignored: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Guards {
            dedup: true,
            hi_stops_at_hole: true,
            hi_stops_at_last: true,
            last_is_claimed: true,
            floor_moves_forward: true,
            absence_yields: true,
            absent_is_missing: true,
            rolled_back_is_missing: true,
            lower_no_ignored: true,
            superseded_ignored: true,
        }
    }
}

/// The rules, and nothing else: it keeps no state between calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Engine {
    guards: Guards,
}

impl Engine {
    /// With some guards off: for the simulation only.
    pub fn with_guards(guards: Guards) -> Self {
        Engine { guards }
    }
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::{Clock, Envelope, Epoch, Hello, Nonce, Stream, VERSION};

    use super::*;

    /// One history that every rule has a say in.
    fn history(engine: &Engine) -> String {
        let mut told = String::new();
        let mut row = StreamRow::default();
        let batch = |first, n, floor, last| Envelope {
            v: VERSION,
            dev: "pi-1".parse().unwrap(),
            epoch: Epoch([1; 16]),
            stream: Stream::Readings,
            first,
            n,
            floor,
            last,
            base: 0,
            clock: Clock::Ntp,
            body: Vec::new(),
        };
        // In order, twice, past a hole, late, after an absence.
        for (step, envelope) in [
            batch(1, 5, 1, 9),
            batch(1, 5, 1, 9),
            batch(8, 2, 3, 12),
            batch(1, 2, 1, 2),
            batch(3, 2, 2, 12),
        ]
        .iter()
        .enumerate()
        {
            if step == 4 {
                engine.absent(&mut row);
            }
            let runs = engine.plan_batch(&mut row, envelope);
            let claim = Claim { floor: envelope.floor, last: envelope.last };
            let hi = engine.stored_up_to(&row, claim);
            told += &format!("{runs:?} {hi} {} {} | ", row.floor, row.claimed);
        }
        engine.claim_named(&mut row, Claim { floor: 5, last: 4 }, true);
        told += &format!("{} | ", row.floor);
        let mut hello = HelloRow::default();
        for (no, superseded) in [(2, false), (1, false), (3, true)] {
            hello.superseded = hello.superseded.or(superseded.then_some(1_000));
            let (nonce, epoch) = (Nonce([1; 16]), Epoch([2; 16]));
            let (v, attempt, page, pages, streams) = (VERSION, 1, 1, 1, Vec::new());
            let page = Hello { v, nonce, attempt, no, page, pages, epoch, streams };
            let plan = engine.plan_hello(&hello, &page, 2_000);
            told += &format!("{} ", plan != HelloPlan::Nothing);
            if let HelloPlan::Stage { row, .. } = plan {
                hello = row;
            }
        }
        told
    }

    #[test]
    fn every_guard_makes_a_difference() {
        let all_on = history(&Engine::default());
        type Switch = (&'static str, fn(&mut Guards));
        let off: [Switch; 10] = [
            ("dedup", |guards| guards.dedup = false),
            ("hi_stops_at_hole", |guards| guards.hi_stops_at_hole = false),
            ("hi_stops_at_last", |guards| guards.hi_stops_at_last = false),
            ("last_is_claimed", |guards| guards.last_is_claimed = false),
            ("floor_moves_forward", |guards| guards.floor_moves_forward = false),
            ("absence_yields", |guards| guards.absence_yields = false),
            ("absent_is_missing", |guards| guards.absent_is_missing = false),
            ("rolled_back_is_missing", |guards| guards.rolled_back_is_missing = false),
            ("lower_no_ignored", |guards| guards.lower_no_ignored = false),
            ("superseded_ignored", |guards| guards.superseded_ignored = false),
        ];
        for (name, switch_off) in off {
            let mut guards = Guards::default();
            switch_off(&mut guards);
            assert_ne!(history(&Engine::with_guards(guards)), all_on, "{name} does nothing");
        }
    }
}
