//! Stepping over a hole in a stream: rows that the outbox should hold and does not.
//!
//! ```text
//!   held         acked  hole          last     what stands before it is sent first, and
//!   floor          |  [......]          |      nothing goes on until storage has that
//!
//!   held              acked             last   then floor and acked step over it at once: below
//!     |            [......]|floor       |      the floor, what storage lacks is missing
//! ```
//!
//! The floor is one number, so it may pass only what this gen of the storage has. In another gen
//! it goes back to what is held: that is sent again, and the step is taken anew. So it is after a
//! start, where no state has told yet what storage has.

use std::time::Duration;

use fieldpost_protocol::{Seq, StreamKey};

use super::Engine;
use super::flow::Flow;
use crate::outbox::Hole;

impl Engine {
    /// Every hole in the outbox; those of one stream in order.
    pub fn handle_holes(&mut self, holes: &[Hole]) {
        for flow in &mut self.flows {
            flow.holes = holes.iter().filter(|hole| hole.key == flow.key).copied().collect();
            // The word of the commit that gave them may be on its way.
            let last = flow.holes.last().map_or(0, |hole| hole.last);
            flow.last = flow.last.max(last);
            flow.step_over_holes();
        }
    }

    /// Whether a state that answers the open hello tells what storage has from the floor on. Another
    /// gen that was asked from behind a hole on does not, and is asked again.
    pub(super) fn is_told_of_floor(&mut self, now: Duration, key: StreamKey) -> bool {
        let asked = self.open.as_ref().and_then(|open| open.floor_of(key));
        let is_told = asked.zip(self.floor_of(key)).is_none_or(|(asked, floor)| asked <= floor);
        if !is_told {
            self.want_hello(now);
        }
        is_told
    }

    /// What a batch of the stream says is the lowest row held.
    pub fn floor_of(&self, key: StreamKey) -> Option<Seq> {
        self.flows.iter().find(|flow| flow.key == key).map(|flow| flow.floor)
    }

    /// Storage hears with a batch of rows that are gone, but not of the last ones of a stream; and
    /// only a hello tells of one that has ended that it is whole up to there.
    pub(super) fn tell_of_floors(&mut self, now: Duration) {
        let mut untold = false;
        for flow in &mut self.flows {
            untold |= std::mem::take(&mut flow.floor_untold);
        }
        if untold {
            self.want_hello_for_ack(now);
        }
    }
}

impl Flow {
    /// Once storage has all that stands before a hole.
    pub(super) fn step_over_holes(&mut self) {
        // Until a state has listed the stream, what is acked may be another process's word of a
        // storage that has gone back since.
        if self.answered || self.new_here {
            for hole in &self.holes {
                if hole.first <= self.acked + 1 && self.acked < hole.last {
                    self.floor = hole.last + 1;
                    self.acked = hole.last;
                    self.floor_untold = true;
                }
            }
        }
        self.sent = self.sent.max(self.acked);
    }

    /// The next row to send is gone; what stands before it has to be acked first.
    pub(super) fn is_before_hole(&self) -> bool {
        self.holes.iter().any(|hole| hole.contains(self.key, self.sent + 1))
    }
}
