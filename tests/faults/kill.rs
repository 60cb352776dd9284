//! kill -9: at every fail point of gateway and bridge, and at random.
//!
//! A point's kill is `SIGKILL` by the program to itself, at a hit that the seed decides. What the
//! outbox file holds then, read from outside, has to be in storage once the programs run again.

mod bridge;
mod crash;
mod damaged;
mod gateway;
mod letters;
mod random;
mod restored;
mod room;
mod trim;

use std::collections::BTreeSet;

/// How a test gets a program to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It gets there by itself, at one of the first so many hits.
    Runs(u64),
    /// Once, before anything else: the outbox is not there yet.
    New,
    /// When it is asked to end.
    Ends,
    /// When the board is unplugged and plugged in again: an alert.
    Replug,
}

/// A point and its cause.
pub(super) type Step = (&'static str, Cause);

/// The points of a program, each of which has to be in exactly one of the lists.
fn assert_all_listed(points: &[&str], lists: &[Vec<&'static str>]) {
    let mut listed: Vec<&str> = lists.iter().flatten().copied().collect();
    listed.sort_unstable();
    let mut points: Vec<&str> = points.to_vec();
    points.sort_unstable();
    let known: BTreeSet<&&str> = points.iter().collect();
    assert_eq!(known.len(), points.len(), "a point stands twice in the program's list");
    assert_eq!(listed, points, "left: killed at by a test; right: the program's list");
}

fn names(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|(point, _)| *point).collect()
}

#[test]
fn every_fail_point_of_the_programs_has_a_kill() {
    assert_all_listed(
        fieldpost_gateway::fail_points::POINTS,
        &[
            names(gateway::OPENING),
            names(gateway::RUNNING),
            names(gateway::SENDING),
            damaged::POINTS.to_vec(),
            room::POINTS.to_vec(),
            trim::POINTS.to_vec(),
        ],
    );
    assert_all_listed(
        fieldpost_bridge::fail_points::POINTS,
        &[
            names(bridge::STORING),
            names(bridge::ANSWERING),
            names(bridge::SPEAKING),
            letters::POINTS.to_vec(),
            restored::POINTS.to_vec(),
        ],
    );
}
