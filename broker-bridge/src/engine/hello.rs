//! A hello, page by page: staged until all pages of one number are there, then applied.
//!
//! ```text
//! page        claimed of its streams rises at once; the page is staged under (epoch, no)
//! last page   every named stream gets its floor; every other stream of the device that was
//!             thought to be held is not: its floor goes past what it claimed
//! ```
//!
//! Whatever a page changes or not, it is answered: a state only says what is covered. And what its
//! streams have given is remembered, however late it comes: that stays true.

use std::collections::BTreeSet;

use fieldpost_protocol::Hello;

use super::{Engine, StreamRow};

/// A hello of an epoch that was superseded less than this ago comes late, from a process that has
/// ended. After that its process lives: on a copy of the card, or it was superseded by mistake,
/// since nothing tells the late hello of an unknown epoch from one of a new card.
pub const SUPERSEDED_MS: i64 = 600_000;

/// What storage knows about the hellos of one (device, epoch).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HelloRow {
    /// The highest number that was applied as a whole.
    pub applied: Option<u64>,
    /// The one that is being collected.
    pub staged: Option<Staged>,
    /// When another epoch of this device said hello, in Unix ms.
    pub superseded: Option<i64>,
}

/// A hello of which some pages are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Its number.
    pub no: u64,
    /// How many pages it has.
    pub pages: u32,
    /// Those that are there.
    pub seen: BTreeSet<u32>,
}

/// What a page of a hello changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloPlan {
    /// Late or repeated: no floor. It is answered from what is stored.
    Nothing,
    /// It is taken in.
    Stage {
        /// The row after it.
        row: HelloRow,
        /// Pages staged before belong to another number: drop them first.
        afresh: bool,
        /// With this page the hello is complete: apply it.
        complete: bool,
    },
}

impl Engine {
    /// What to do with a page. Where it is taken in, every other epoch of the device is
    /// superseded by the caller, in the same transaction.
    ///
    /// `now` in Unix ms.
    pub fn plan_hello(&self, row: &HelloRow, hello: &Hello, now: i64) -> HelloPlan {
        // A moment to come is one of a clock that was wrong: it may not keep a process out for long.
        let is_recent = |at| now.abs_diff(at) < SUPERSEDED_MS as u64;
        let superseded = row.superseded.is_some_and(is_recent);
        if superseded && self.guards.superseded_ignored {
            return HelloPlan::Nothing;
        }
        let applied = row.applied.is_some_and(|applied| hello.no <= applied);
        let late = row.staged.as_ref().is_some_and(|staged| hello.no < staged.no);
        if (applied || late) && self.guards.lower_no_ignored {
            return HelloPlan::Nothing;
        }
        let same = |staged: &&Staged| staged.no == hello.no && staged.pages == hello.pages;
        let known = row.staged.as_ref().filter(same);
        let afresh = known.is_none();
        let mut seen = known.map(|staged| staged.seen.clone()).unwrap_or_default();
        seen.insert(hello.page);
        let complete = seen.len() == hello.pages as usize;
        let row = if complete {
            HelloRow { applied: Some(hello.no), staged: None, superseded: None }
        } else {
            let staged = Some(Staged { no: hello.no, pages: hello.pages, seen });
            HelloRow { applied: row.applied, staged, superseded: None }
        };
        HelloPlan::Stage { row, afresh, complete }
    }

    /// A stream that a complete hello does not name: what it claimed and is not covered is
    /// lost there. Returns whether the row changed.
    pub fn absent(&self, row: &mut StreamRow) -> bool {
        if !self.guards.absent_is_missing || row.floor > row.claimed {
            return false;
        }
        row.floor = row.claimed + 1;
        row.floor_by_absence = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::{Epoch, Nonce};

    use super::*;

    const NOW: i64 = 1_795_000_000_000;

    fn page(no: u64, page: u32, pages: u32) -> Hello {
        let (nonce, epoch) = (Nonce([1; 16]), Epoch([2; 16]));
        Hello { v: 1, nonce, attempt: 1, no, page, pages, epoch, streams: Vec::new() }
    }

    /// Applies a page; `None` where it changes nothing, else whether the hello is complete.
    fn take(row: &mut HelloRow, hello: Hello) -> Option<bool> {
        match Engine::default().plan_hello(row, &hello, NOW) {
            HelloPlan::Nothing => None,
            HelloPlan::Stage { row: after, complete, .. } => {
                *row = after;
                Some(complete)
            }
        }
    }

    #[test]
    fn a_hello_is_complete_when_every_page_is_there_in_any_order() {
        let mut row = HelloRow::default();
        assert_eq!(take(&mut row, page(1, 3, 3)), Some(false));
        assert_eq!(take(&mut row, page(1, 1, 3)), Some(false));
        assert_eq!(take(&mut row, page(1, 1, 3)), Some(false), "a page that comes twice");
        assert_eq!(take(&mut row, page(1, 2, 3)), Some(true));
    }

    #[test]
    fn a_late_hello_of_lower_number_changes_nothing() {
        let mut row = HelloRow::default();
        assert_eq!(take(&mut row, page(2, 1, 2)), Some(false));
        assert_eq!(take(&mut row, page(1, 1, 1)), None);
        assert_eq!(take(&mut row, page(2, 2, 2)), Some(true));
        assert_eq!(take(&mut row, page(2, 1, 2)), None, "it was applied");
        assert_eq!(take(&mut row, page(3, 1, 1)), Some(true));
    }

    #[test]
    fn pages_of_two_numbers_are_never_mixed() {
        let mut row = HelloRow::default();
        assert_eq!(take(&mut row, page(1, 1, 2)), Some(false));
        assert_eq!(take(&mut row, page(2, 2, 2)), Some(false));
        assert_eq!(take(&mut row, page(2, 1, 2)), Some(true));
    }

    #[test]
    fn a_hello_of_an_epoch_that_was_just_superseded_changes_nothing_and_a_later_one_does() {
        let superseded = |at| HelloRow { superseded: Some(at), ..HelloRow::default() };
        assert_eq!(take(&mut superseded(NOW - 1), page(9, 1, 1)), None);
        let mut row = superseded(NOW - SUPERSEDED_MS);
        assert_eq!(take(&mut row, page(9, 1, 1)), Some(true));
        assert_eq!(row.superseded, None, "its process lives");
        let by_a_wrong_clock = &mut superseded(NOW + 3_600_000);
        assert_eq!(take(by_a_wrong_clock, page(9, 1, 1)), Some(true));
    }
}
