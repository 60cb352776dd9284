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
mod commands;
mod hello;
mod poison;

pub use batch::{Claim, SyncAckDraft};
pub use commands::{
    CancelError, CommandAck, CommandRow, EXPIRES_AFTER_MS, Ending, IssuePlan, LOOK_AGAIN_MS,
    Origin, REPEAT_FIRST_MS, REPEAT_MAX_MS,
};
pub use hello::{HelloPlan, HelloRow, SUPERSEDED_MS, Staged};
pub use poison::{Content, Poison, TIME_MAX_MS, TIME_MIN_MS, judge_event, judge_readings};
pub(crate) use poison::{check_metrics, clean};

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
    /// What the target of a command is stands in the ledger before it is published.
    pub target_is_written: bool,
    /// A command stays with its target until that is stale.
    pub target_stays: bool,
    /// A strict command is issued for one epoch.
    pub strict_is_issued_once: bool,
    /// Of what was issued only the gateway says that it is too late.
    pub issued_is_not_expired: bool,
    /// A command ack of other content is another command's.
    pub content_is_compared: bool,
    /// The first final outcome of a command is its outcome.
    pub first_outcome_stays: bool,
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
            target_is_written: true,
            target_stays: true,
            strict_is_issued_once: true,
            issued_is_not_expired: true,
            content_is_compared: true,
            first_outcome_stays: true,
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
    use fieldpost_protocol::{
        Clock, Command, CommandOutcome, Content, Envelope, Epoch, Hello, Metrics, Nonce, Stream,
        VERSION,
    };

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
        for strict in [false, true] {
            told += &a_command(engine, strict);
        }
        told
    }

    /// Issued twice, stale, answered for another, too late, answered twice.
    fn a_command(engine: &Engine, strict: bool) -> String {
        let command = Command::decode(br#"{"name":"led","expires":9}"#).unwrap();
        let mut row = CommandRow::new(&Command { strict, ..command }, Origin::Cli, 1);
        let (id, mut told) = ("a1".parse().unwrap(), String::new());
        let (mine, other) = (Some(row.content), Some(Content([0; 8])));
        let take = |row: &mut CommandRow, epoch, content, outcome| {
            let (target, detail, result) = (Epoch([epoch; 16]), None, &Metrics::default());
            let ack = CommandAck { target, content, outcome, detail, result };
            engine.take_ack(row, ack, 8)
        };
        let mut issue = |row: &mut CommandRow, epoch, now| {
            let plan = engine.plan_issue(&id, row, Some(Epoch([epoch; 16])), now);
            told += &format!("{plan:?} | ");
            if let IssuePlan::Send(after, _) | IssuePlan::Save(after) = plan {
                *row = after;
            }
        };
        issue(&mut row, 1, 2);
        issue(&mut row, 2, 3);
        take(&mut row, 1, mine, CommandOutcome::Stale);
        issue(&mut row, 2, 4);
        take(&mut row, 2, other, CommandOutcome::Rejected);
        issue(&mut row, 2, 10);
        take(&mut row, 2, mine, CommandOutcome::Succeeded);
        take(&mut row, 2, mine, CommandOutcome::Failed);
        told + &format!("{:?} | ", row.ending)
    }

    #[test]
    fn every_guard_makes_a_difference() {
        let all_on = history(&Engine::default());
        type Switch = (&'static str, fn(&mut Guards));
        let off: [Switch; 16] = [
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
            ("target_is_written", |guards| guards.target_is_written = false),
            ("target_stays", |guards| guards.target_stays = false),
            ("strict_is_issued_once", |guards| guards.strict_is_issued_once = false),
            ("issued_is_not_expired", |guards| guards.issued_is_not_expired = false),
            ("content_is_compared", |guards| guards.content_is_compared = false),
            ("first_outcome_stays", |guards| guards.first_outcome_stays = false),
        ];
        for (name, switch_off) in off {
            let mut guards = Guards::default();
            switch_off(&mut guards);
            assert_ne!(history(&Engine::with_guards(guards)), all_on, "{name} does nothing");
        }
    }
}
