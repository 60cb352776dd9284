//! A batch meets its stream's row: the new row, what to store, what to sync-ack.

use fieldpost_protocol::{Ack, Envelope, Seq, StreamKey};

use super::{Engine, StreamRow};
use crate::coverage::{CoverageError, Run};

/// What every batch and every entry of a hello says about its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The lowest row still held; `last + 1`: none.
    pub floor: Seq,
    /// The highest row given.
    pub last: Seq,
}

/// The sync ack of one stream while a transaction takes in its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncAckDraft {
    lo: Seq,
    last: Seq,
}

impl Engine {
    /// Takes note of the highest row that a gateway has given.
    pub fn claim_last(&self, row: &mut StreamRow, last: Seq) {
        if self.guards.last_is_claimed {
            row.claimed = row.claimed.max(last);
        }
    }

    /// Takes note of what a gateway says it holds.
    pub fn claim(&self, row: &mut StreamRow, claim: Claim) {
        self.claim_last(row, claim.last);
        let yields = row.floor_by_absence && self.guards.absence_yields;
        if yields || !self.guards.floor_moves_forward {
            row.floor = claim.floor;
        } else {
            row.floor = row.floor.max(claim.floor);
        }
        row.floor_by_absence = false;
    }

    /// Takes note of what a complete hello says is held. `ended`: of an epoch that nobody appends
    /// to any more; what was given beyond its `last` was lost with a card that was rolled back.
    ///
    /// It can be shown as missing once all that is still held is covered, since the floor is one
    /// number; until then it waits with the rest.
    pub fn claim_named(&self, row: &mut StreamRow, claim: Claim, ended: bool) {
        self.claim(row, claim);
        let rolled_back = ended && claim.last < row.claimed;
        if rolled_back
            && self.guards.rolled_back_is_missing
            && row.coverage.missing_within(claim.floor, claim.last).is_empty()
        {
            row.floor = row.claimed + 1;
            row.floor_by_absence = true;
        }
    }

    /// Takes a batch of a valid envelope into its stream's row. Returns which of its rows
    /// are new and have to be stored, in order; none: it is a duplicate.
    ///
    /// Where coverage is at its bound, the claim is in `row` all the same and nothing else
    /// has changed.
    pub fn plan_batch(
        &self,
        row: &mut StreamRow,
        envelope: &Envelope,
    ) -> Result<Vec<Run>, CoverageError> {
        self.claim(row, Claim { floor: envelope.floor, last: envelope.last });
        let (first, end) = (envelope.first, envelope.end());
        let store = if self.guards.dedup {
            row.coverage.missing_within(first, end)
        } else {
            vec![(first, end)]
        };
        row.coverage.insert(first, end)?;
        Ok(store)
    }

    /// The highest row that may be called stored to a gateway that stated this claim.
    pub fn stored_up_to(&self, row: &StreamRow, claim: Claim) -> Seq {
        let end = if self.guards.hi_stops_at_hole {
            row.coverage.end_of_run_from(claim.floor)
        } else {
            row.coverage.runs().last().map_or(0, |run| run.1)
        };
        let end = if self.guards.hi_stops_at_last { end.min(claim.last) } else { end };
        end.max(claim.floor - 1)
    }

    /// The sync ack of a stream whose batches have all been planned into `row`.
    pub fn sync_ack(&self, key: StreamKey, row: &StreamRow, draft: SyncAckDraft) -> Ack {
        let SyncAckDraft { lo, last } = draft;
        Ack { key, lo, hi: self.stored_up_to(row, Claim { floor: lo, last }) }
    }
}

impl SyncAckDraft {
    /// Of the first batch.
    pub fn new(claim: Claim) -> Self {
        SyncAckDraft { lo: claim.floor, last: claim.last }
    }

    /// And one more of the same stream: the highest floor, and the highest last.
    pub fn join(&mut self, claim: Claim) {
        self.lo = self.lo.max(claim.floor);
        self.last = self.last.max(claim.last);
    }
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::{Clock, Epoch, Stream, VERSION};

    use super::*;

    fn batch(first: Seq, n: u64, floor: Seq, last: Seq) -> Envelope {
        Envelope {
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
        }
    }

    /// Plans a batch into the row; returns what is new and the sync ack's lo and hi.
    fn take(row: &mut StreamRow, envelope: Envelope) -> (Vec<Run>, (Seq, Seq)) {
        let engine = Engine::default();
        let store = engine.plan_batch(row, &envelope).unwrap();
        let claim = Claim { floor: envelope.floor, last: envelope.last };
        let ack = engine.sync_ack(envelope.key(), row, SyncAckDraft::new(claim));
        (store, (ack.lo, ack.hi))
    }

    #[test]
    fn a_repeated_batch_is_sync_acked_again_but_not_stored_again() {
        let mut row = StreamRow::default();
        assert_eq!(take(&mut row, batch(1, 5, 1, 9)), (vec![(1, 5)], (1, 5)));
        assert_eq!(take(&mut row, batch(1, 5, 1, 9)), (vec![], (1, 5)));
    }

    #[test]
    fn of_an_overlapping_batch_only_the_difference_is_stored() {
        let mut row = StreamRow::default();
        take(&mut row, batch(1, 5, 1, 9));
        assert_eq!(take(&mut row, batch(3, 7, 1, 9)), (vec![(6, 9)], (1, 9)));
    }

    #[test]
    fn a_batch_past_a_hole_is_stored_but_hi_stays_before_the_hole() {
        let mut row = StreamRow::default();
        take(&mut row, batch(1, 2, 1, 9));
        assert_eq!(take(&mut row, batch(5, 2, 1, 9)), (vec![(5, 6)], (1, 2)));
        assert_eq!(take(&mut row, batch(3, 2, 1, 9)), (vec![(3, 4)], (1, 6)));
    }

    #[test]
    fn a_hole_at_the_floor_gives_a_sync_ack_of_nothing() {
        let mut row = StreamRow::default();
        assert_eq!(take(&mut row, batch(5, 2, 3, 9)).1, (3, 2));
    }

    #[test]
    fn a_late_batch_does_not_move_the_floor_back() {
        let mut row = StreamRow::default();
        take(&mut row, batch(5, 2, 5, 9));
        take(&mut row, batch(1, 2, 1, 2));
        assert_eq!((row.floor, row.claimed), (5, 9));
    }

    #[test]
    fn a_floor_set_by_absence_yields_to_a_batch_that_comes_after_all() {
        let mut row = StreamRow { claimed: 9, ..StreamRow::default() };
        assert!(Engine::default().absent(&mut row));
        assert_eq!((row.floor, row.floor_by_absence), (10, true));
        take(&mut row, batch(5, 2, 5, 9));
        assert_eq!((row.floor, row.floor_by_absence), (5, false));
    }

    #[test]
    fn sync_acks_coalesce_to_the_highest_floor_and_the_highest_last() {
        let mut row = StreamRow::default();
        take(&mut row, batch(1, 9, 1, 9));
        let mut draft = SyncAckDraft::new(Claim { floor: 4, last: 9 });
        draft.join(Claim { floor: 1, last: 5 });
        let ack = Engine::default().sync_ack(batch(1, 1, 1, 1).key(), &row, draft);
        assert_eq!((ack.lo, ack.hi), (4, 9));
    }

    #[test]
    fn nothing_is_acked_past_what_the_gateway_claims() {
        let mut row = StreamRow::default();
        take(&mut row, batch(1, 9, 1, 9));
        assert_eq!(take(&mut row, batch(1, 2, 1, 3)).1, (1, 3));
    }
}
