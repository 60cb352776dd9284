//! Which sequence numbers of one stream storage has taken care of: a set of intervals.
//!
//! Always true here: the runs are sorted, none touches or overlaps another, all lie within
//! 1 and [`SEQ_MAX`], and there are at most [`COVERAGE_RUNS_MAX`] of them. An honest stream
//! has one run nearly all of the time; each hole that is still open costs one more.
//!
//! ```text
//! [[1,4000],[5001,6000]]     the text in the database's column: JSON, so that the views
//!                            `missing` and `waiting` read it with json_each
//! ```

use fieldpost_protocol::{SEQ_MAX, Seq};

/// Runs in one stream's coverage. A gateway fills its oldest hole first, so an honest one
/// stays far below it; a hostile one gets no further than its own stream.
///
/// At the bound a batch that would begin one more run is refused: not stored, not
/// sync-acked, an alarm raised. One that joins existing runs is taken as ever.
pub const COVERAGE_RUNS_MAX: usize = 10_000;

/// An inclusive interval of sequence numbers, `lo <= hi`.
pub type Run = (Seq, Seq);

/// A set of sequence numbers, kept as runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage {
    runs: Vec<Run>,
}

/// Why a coverage was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoverageError {
    /// One more run than the bound allows.
    #[error("the stream has {COVERAGE_RUNS_MAX} separate runs already; no further hole is opened")]
    TooFragmented,
    /// The text in the database is not one that this program wrote.
    #[error("the stored coverage is damaged: {0}")]
    Damaged(String),
}

impl Coverage {
    /// The runs, in order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many sequence numbers are in it.
    pub fn total(&self) -> u64 {
        self.runs.iter().map(|(lo, hi)| hi - lo + 1).sum()
    }

    /// Every sequence number in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = Seq> + '_ {
        self.runs.iter().flat_map(|&(lo, hi)| lo..=hi)
    }

    /// Whether it holds `seq`.
    pub fn contains(&self, seq: Seq) -> bool {
        self.run_of(seq).is_some()
    }

    /// Adds `lo..=hi`. Past the bound nothing is changed.
    pub fn insert(&mut self, lo: Seq, hi: Seq) -> Result<(), CoverageError> {
        assert!(1 <= lo && lo <= hi && hi <= SEQ_MAX, "an interval of sequence numbers");
        // Those that overlap or touch lo..=hi, and so melt into one with it.
        let from = self.runs.partition_point(|run| run.1 + 1 < lo);
        let to = self.runs.partition_point(|run| run.0 <= hi + 1);
        if from == to {
            if self.runs.len() >= COVERAGE_RUNS_MAX {
                return Err(CoverageError::TooFragmented);
            }
            self.runs.insert(from, (lo, hi));
        } else {
            let melted = (lo.min(self.runs[from].0), hi.max(self.runs[to - 1].1));
            self.runs[from] = melted;
            self.runs.drain(from + 1..to);
        }
        Ok(())
    }

    /// What of `lo..=hi` it lacks, in order.
    pub fn missing_within(&self, lo: Seq, hi: Seq) -> Vec<Run> {
        let mut missing = Vec::new();
        let mut next = lo;
        let from = self.runs.partition_point(|run| run.1 < lo);
        for &(run_lo, run_hi) in self.runs[from..].iter().take_while(|run| run.0 <= hi) {
            if run_lo > next {
                missing.push((next, run_lo - 1));
            }
            next = run_hi + 1;
        }
        if next <= hi {
            missing.push((next, hi));
        }
        missing
    }

    /// The end of the run that holds `floor`; `floor - 1` where none does.
    pub fn end_of_run_from(&self, floor: Seq) -> Seq {
        self.run_of(floor).map_or(floor.saturating_sub(1), |run| run.1)
    }

    /// What is in `self` and not in `other`.
    pub fn difference(&self, other: &Coverage) -> Coverage {
        let runs = self.runs.iter().flat_map(|&(lo, hi)| other.missing_within(lo, hi)).collect();
        Coverage { runs }
    }

    /// As the text of the database's column.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.runs).expect("pairs of integers are JSON")
    }

    /// From the text of the database's column; every rule of this module is checked.
    pub fn from_json(text: &str) -> Result<Self, CoverageError> {
        let damaged = |why: String| CoverageError::Damaged(why);
        let runs: Vec<Run> =
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if runs.len() > COVERAGE_RUNS_MAX {
            return Err(damaged(format!("{} runs", runs.len())));
        }
        let mut free_from = 1;
        for &(lo, hi) in &runs {
            if lo < free_from || hi < lo || hi > SEQ_MAX {
                return Err(damaged(format!("run {lo}-{hi} out of place")));
            }
            free_from = hi + 2;
        }
        Ok(Coverage { runs })
    }

    fn run_of(&self, seq: Seq) -> Option<Run> {
        let at = self.runs.partition_point(|run| run.1 < seq);
        self.runs.get(at).copied().filter(|run| run.0 <= seq)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(runs: &[Run]) -> Coverage {
        let mut coverage = Coverage::default();
        runs.iter().for_each(|&(lo, hi)| coverage.insert(lo, hi).unwrap());
        coverage
    }

    #[test]
    fn runs_that_touch_become_one() {
        assert_eq!(of(&[(1, 3), (7, 9), (4, 6)]).runs(), [(1, 9)]);
        assert_eq!(of(&[(5, 6), (1, 3)]).runs(), [(1, 3), (5, 6)]);
    }

    #[test]
    fn the_run_from_a_floor_ends_before_the_hole() {
        let coverage = of(&[(1, 4), (6, 9)]);
        assert_eq!(coverage.end_of_run_from(1), 4);
        assert_eq!(coverage.end_of_run_from(5), 4);
        assert_eq!(coverage.end_of_run_from(7), 9);
        assert_eq!(coverage.end_of_run_from(10), 9);
        assert_eq!(Coverage::default().end_of_run_from(1), 0);
    }

    #[test]
    fn one_run_too_many_is_refused_and_one_that_joins_is_not() {
        let mut coverage = Coverage::default();
        for i in 0..COVERAGE_RUNS_MAX as u64 {
            coverage.insert(2 * i + 1, 2 * i + 1).unwrap();
        }
        let far = 1_000_000;
        assert_eq!(coverage.insert(far, far), Err(CoverageError::TooFragmented));
        assert!(!coverage.contains(far));
        coverage.insert(2, 2).unwrap();
        assert_eq!(coverage.runs().len(), COVERAGE_RUNS_MAX - 1);
        coverage.insert(far, far).unwrap();
    }

    #[test]
    fn a_damaged_text_is_an_error() {
        for bad in ["", "{}", "[[0,3]]", "[[3,1]]", "[[1,2],[3,4]]", "[[5,6],[1,2]]", "[[1,-1]]"] {
            assert!(Coverage::from_json(bad).is_err(), "{bad} was taken");
        }
        let coverage = of(&[(1, 4), (6, SEQ_MAX)]);
        assert_eq!(Coverage::from_json(&coverage.to_json()), Ok(coverage));
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            inserts in prop::collection::vec((1u64..200, 0u64..20), 0..40),
            others in prop::collection::vec((1u64..200, 0u64..20), 0..10),
            lo in 1u64..220,
            len in 0u64..60,
        ) {
            let build = |pairs: &[(u64, u64)]| {
                let runs: Vec<Run> = pairs.iter().map(|&(lo, len)| (lo, lo + len)).collect();
                let model: BTreeSet<Seq> = runs.iter().flat_map(|&(lo, hi)| lo..=hi).collect();
                (of(&runs), model)
            };
            let (coverage, model) = build(&inserts);
            let (other, other_model) = build(&others);
            prop_assert_eq!(coverage.iter().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(coverage.total(), model.len() as u64);
            let lacks: Vec<Seq> = coverage
                .missing_within(lo, lo + len).iter().flat_map(|&(lo, hi)| lo..=hi).collect();
            let expected: Vec<Seq> = (lo..=lo + len).filter(|seq| !model.contains(seq)).collect();
            prop_assert_eq!(lacks, expected);
            let end = (lo..).take_while(|seq| model.contains(seq)).last().unwrap_or(lo - 1);
            prop_assert_eq!(coverage.end_of_run_from(lo), end);
            let difference: BTreeSet<Seq> = coverage.difference(&other).iter().collect();
            prop_assert_eq!(difference, &model - &other_model);
            prop_assert_eq!(Coverage::from_json(&coverage.to_json()).unwrap(), coverage);
        }
    }
}
